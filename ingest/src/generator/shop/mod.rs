//! Traffic as a shop has it: people and crawlers whose visits overlap, each going its own way through the pages.
//!
//! Event N of a run is a function of the seed, the rate and the flags; only ids and times are the run's own. Events
//! must be made in the order of their numbers.
//!
//! `catalogue` has pages and products, `visitor` who comes, `arrival` from where, `walk` what they do.

mod arrival;
mod catalogue;
mod stamp;
mod visitor;
mod walk;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::Write;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::facts::{Facts, Names, Visit};
use arrival::Arrival;
use catalogue::{Catalogue, HOST, Page};
use stamp::Stamp;
use visitor::{Visitor, Visitors};
use walk::{Action, Walk};

/// Visits at a time. Each visitor's next event comes after as many events of others on average: at any rate of
/// more than the least number of visits, a visitor does something about once a second.
const VISITS: std::ops::RangeInclusive<u64> = 16..=4096;
/// At no fixed rate.
const USUAL_VISITS: u64 = 1000;
/// Of the events that are not the first of their visit, how many have a time before the one that was sent before.
const OUT_OF_ORDER: f64 = 0.01;
/// How far out of order, in milliseconds.
const DISORDER_MS: std::ops::Range<i64> = 1..2_000;
/// How late late visits are told of, in minutes: three days at most, a few minutes as often as a few hours.
const LATE_MINUTES: std::ops::Range<f64> = 1.0..4_320.0;

const TYPES: [&str; 4] = ["view", "click", "add_to_cart", "purchase"];
const VIEW: usize = 0;
const CLICK: usize = 1;
const ADD_TO_CART: usize = 2;
const PURCHASE: usize = 3;

#[derive(Debug)]
pub(super) struct Shop {
    run: String,
    /// Of the visits, how many are told of late.
    late: f64,
    catalogue: Catalogue,
    visitors: Visitors,
    random: StdRng,
    sessions: Vec<Session>,
    /// When each session's next event is due, counted in events, and its place in `sessions`.
    due: BinaryHeap<Reverse<(u64, usize)>>,
    began: u64,
    stamp: Stamp,
}

#[derive(Debug)]
struct Session {
    number: u64,
    visitor: Visitor,
    walk: Walk,
    /// What comes next: the walk is a step ahead, so that a visit's last event is known as such.
    next: Action,
    /// Of the page that is opened next.
    referrer: Option<String>,
    /// Of the landing page, until it is opened.
    landing_query: Option<String>,
    events: u64,
    /// Milliseconds by which all its events are late.
    late_ms: i64,
    last_ms: i64,
}

impl Shop {
    /// A shop of run `run`, which takes `rate` events a second; `late` of its visits are told of late.
    pub(super) fn new(seed: u64, run: &str, rate: Option<u64>, late: f64) -> Self {
        let visits = rate.unwrap_or(USUAL_VISITS).clamp(*VISITS.start(), *VISITS.end());
        let mut shop = Self {
            run: run.to_owned(),
            late,
            catalogue: Catalogue::new(),
            visitors: Visitors::new(seed),
            random: StdRng::seed_from_u64(seed),
            sessions: Vec::new(),
            due: BinaryHeap::new(),
            began: 0,
            stamp: Stamp::default(),
        };
        for place in 0..usize::try_from(visits).unwrap_or(0) {
            let session = shop.begin();
            shop.sessions.push(session);
            let first = shop.random.random_range(0..visits);
            shop.due.push(Reverse((first, place)));
        }
        shop
    }

    /// What the numbers in the events' [`Facts`] stand for.
    pub(super) fn names(&self) -> Names {
        Names {
            types: TYPES.map(str::to_owned).to_vec(),
            pages: self.catalogue.paths().to_vec(),
            sessions: Vec::new(),
            run: self.run.clone(),
        }
    }

    /// Writes event `number` of the run, which happens at `now_ms` (since 1970 UTC).
    pub(super) fn write(&mut self, number: u64, now_ms: i64, out: &mut Vec<u8>) -> Facts {
        // There are always as many as in the beginning.
        let Some(Reverse((due, place))) = self.due.pop() else { unreachable!("a shop is never empty") };
        let action = self.sessions[place].next;
        let time_ms = self.time(place, now_ms);
        let facts = self.write_action(place, action, number, time_ms, out);
        let session = &mut self.sessions[place];
        let left_from = session.walk.at();
        let next = session.walk.step(&mut self.random);
        let total = next.is_none().then_some(session.events);
        match next {
            Some(next) => {
                if next == Action::View {
                    let path = self.catalogue.path(left_from);
                    session.referrer = (!session.visitor.is_bot).then(|| format!("{HOST}{path}"));
                }
                session.next = next;
            }
            None => self.sessions[place] = self.begin(),
        }
        let wait = self.wait(place, action);
        self.due.push(Reverse((due + wait, place)));
        Facts { visit: facts.visit.map(|visit| Visit { total, ..visit }), ..facts }
    }

    fn begin(&mut self) -> Session {
        let number = self.began;
        self.began += 1;
        let random = &mut self.random;
        let visitor = self.visitors.arrive(random);
        let (walk, arrival) = if visitor.is_bot {
            (Walk::crawl(random), Arrival::default())
        } else {
            (Walk::begin(random), Arrival::draw(random))
        };
        let is_late = !visitor.is_bot && random.random_bool(self.late);
        #[expect(clippy::cast_possible_truncation, reason = "a few days")]
        let late_ms = if is_late {
            let shortest = LATE_MINUTES.start.ln();
            let longest = LATE_MINUTES.end.ln();
            (random.random_range(shortest..longest).exp() * 60_000.0) as i64
        } else {
            0
        };
        Session {
            number,
            visitor,
            walk,
            next: Action::View,
            referrer: arrival.referrer,
            landing_query: arrival.query,
            events: 0,
            late_ms,
            last_ms: i64::MIN,
        }
    }

    /// The time of the next event of the session at `place`.
    fn time(&mut self, place: usize, now_ms: i64) -> i64 {
        let disorder = self.random.random_bool(OUT_OF_ORDER).then(|| self.random.random_range(DISORDER_MS));
        let session = &mut self.sessions[place];
        let usual = now_ms - session.late_ms;
        match disorder {
            Some(earlier) if session.events > 0 => usual.min(session.last_ms) - earlier,
            _ => {
                session.last_ms = session.last_ms.max(usual);
                usual
            }
        }
    }

    /// How many events of others come before a visitor's next one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "a few times the number of visits"
    )]
    fn wait(&mut self, place: usize, after: Action) -> u64 {
        let dwell = match after {
            _ if self.sessions[place].visitor.is_bot => 0.2,
            Action::View => 1.3,
            Action::Click(_) | Action::AddToCart(_) => 0.6,
            // The lines of an order come together.
            Action::Purchase { .. } => 0.01,
        };
        let drawn = -self.random.random_range(f64::MIN_POSITIVE..1.0).ln();
        1 + (self.sessions.len() as f64 * dwell * drawn) as u64
    }

    fn write_action(
        &mut self,
        place: usize,
        action: Action,
        number: u64,
        time_ms: i64,
        out: &mut Vec<u8>,
    ) -> Facts {
        let session = &mut self.sessions[place];
        session.events += 1;
        let page = session.walk.at();
        let kind = match action {
            Action::View => VIEW,
            Action::Click(_) => CLICK,
            Action::AddToCart(_) => ADD_TO_CART,
            Action::Purchase { .. } => PURCHASE,
        };
        let (run, kind_name, members) = (&self.run, TYPES[kind], &session.visitor.members);
        // Writing to memory can't fail.
        let _ = write!(
            out,
            r#"{{"id":{},"type":"{kind_name}","package_id":"{run}-{number}","event":{{{members},"timestamp":""#,
            number + 1,
        );
        self.stamp.write(time_ms, out);
        out.extend_from_slice(br#"","page":""#);
        if session.visitor.sends_addresses || (action == Action::View && session.landing_query.is_some()) {
            out.extend_from_slice(HOST.as_bytes());
        }
        out.extend_from_slice(self.catalogue.path(page).as_bytes());
        if let Some(query) = session.landing_query.take_if(|_| action == Action::View) {
            let _ = write!(out, "?{query}");
        } else if let Some(query) = session.walk.query() {
            let _ = match page {
                Page::Search => write!(out, "?q={query}"),
                _ => write!(out, "?{query}"),
            };
        }
        out.push(b'"');
        if let Some(referrer) = &session.referrer {
            let _ = write!(out, r#","referrer":"{referrer}""#);
        }
        let visit = (!session.visitor.is_bot).then_some(Visit { session: session.number, total: None });
        if visit.is_some() {
            let _ = write!(out, r#","session_id":"{}""#, Names::made_session(run, session.number));
        }
        let (mut quantity, mut revenue_cents) = (0, 0);
        let product = |number| self.catalogue.product(number);
        let _ = match action {
            Action::View => match page {
                Page::Product(number) => {
                    let product = product(number);
                    write!(
                        out,
                        r#","product_id":"{}","price":{},"currency":"EUR""#,
                        product.id, product.price
                    )
                }
                _ => Ok(()),
            },
            Action::Click(element) => match page {
                Page::Product(number) => {
                    write!(out, r#","element":"{element}","product_id":"{}""#, product(number).id)
                }
                _ => write!(out, r#","element":"{element}""#),
            },
            Action::AddToCart(line) => {
                quantity = line.quantity;
                let product = product(line.product);
                write!(
                    out,
                    r#","element":"add-to-cart","product_id":"{}","quantity":{quantity},"price":{},"currency":"EUR""#,
                    product.id, product.price
                )
            }
            Action::Purchase { line, number: order } => {
                quantity = line.quantity;
                let product = product(line.product);
                revenue_cents = i64::from(product.cents) * i64::from(quantity);
                write!(
                    out,
                    r#","order_id":"o-{run}-{}-{order}","product_id":"{}","quantity":{quantity},"price":{},"currency":"EUR""#,
                    session.number, product.id, product.price
                )
            }
        };
        if let Some(language) = session.visitor.language {
            let _ = write!(out, r#","language":"{language}""#);
        }
        out.extend_from_slice(b"}}");
        Facts {
            kind,
            page: Some(Catalogue::index(page)),
            visit,
            time_ms,
            quantity: quantity.into(),
            revenue_cents,
        }
    }
}

/// One of `choices`, each as often as its weight says.
fn weighted<T: Copy>(random: &mut StdRng, choices: &[(u32, T)]) -> T {
    let all: u32 = choices.iter().map(|(weight, _)| weight).sum();
    let mut drawn = random.random_range(0..all);
    for (weight, choice) in choices {
        if drawn < *weight {
            return *choice;
        }
        drawn -= weight;
    }
    unreachable!("less than the sum of the weights")
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_common::event::{Event, FIELDS, PAGE, REFERRER, check};
    use std::collections::{BTreeMap, BTreeSet};

    const NOW: i64 = 1_700_000_000_250;

    fn events(shop: &mut Shop, count: u64) -> Vec<(String, Facts)> {
        (0..count)
            .map(|number| {
                let mut out = Vec::new();
                let facts = shop.write(number, NOW + i64::try_from(number).expect("few"), &mut out);
                (String::from_utf8(out).expect("UTF-8"), facts)
            })
            .collect()
    }

    fn shop(late: f64) -> Shop {
        Shop::new(7, "run", Some(500), late)
    }

    fn field<'a>(event: &'a Event<'_>, name: &str) -> Option<std::borrow::Cow<'a, str>> {
        event.text(FIELDS.iter().position(|field| field.name == name).expect("a field"))
    }

    #[test]
    fn the_facts_are_what_the_events_say() {
        let mut shop = shop(0.1);
        let names = shop.names();
        let mut bytes = 0;
        for (text, facts) in events(&mut shop, 20_000) {
            bytes += text.len();
            let event = check(text.as_bytes()).unwrap_or_else(|error| panic!("{error}: {text}"));
            let json: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            let inner = &json["event"];
            assert_eq!(names.types[facts.kind], event.kind());
            assert_eq!(facts.time_ms, event.time_ms());
            let page = event.text(PAGE).expect("a page");
            let path = page.strip_prefix(HOST).unwrap_or(&page);
            let path = path.split_once('?').map_or(path, |(path, _)| path);
            assert_eq!(names.pages[facts.page.expect("a page")], path);
            let session = facts.visit.map(|visit| names.session(visit.session));
            assert_eq!(session.as_deref(), inner["session_id"].as_str());
            let quantity = inner["quantity"].as_i64();
            assert_eq!(quantity.unwrap_or(0), facts.quantity);
            let revenue = match event.kind() {
                "purchase" => inner["price"].as_f64().expect("a price") * 100.0 * facts.quantity as f64,
                _ => 0.0,
            };
            assert_eq!(revenue.round() as i64, facts.revenue_cents, "{text}");
        }
        assert!((250..700).contains(&(bytes / 20_000)), "{} bytes an event", bytes / 20_000);
    }

    #[test]
    fn visits_are_whole_and_their_last_event_is_known() {
        let mut shop = shop(0.0);
        let mut visits: BTreeMap<u64, (bool, Vec<usize>)> = BTreeMap::new();
        for (_, facts) in events(&mut shop, 50_000) {
            let Some(visit) = facts.visit else { continue };
            let (is_over, kinds) = visits.entry(visit.session).or_default();
            assert!(!*is_over, "visit {} goes on after its last event", visit.session);
            kinds.push(facts.kind);
            *is_over = visit.total.is_some();
            assert!(visit.total.is_none_or(|total| total == kinds.len() as u64));
        }
        let over: Vec<&Vec<usize>> =
            visits.values().filter(|(is_over, _)| *is_over).map(|(_, kinds)| kinds).collect();
        assert!(over.len() > 5_000 && visits.len() - over.len() <= 500, "{} of {}", over.len(), visits.len());
        assert!(over.iter().all(|kinds| kinds[0] == VIEW));
        assert!(over.iter().filter(|kinds| kinds.contains(&PURCHASE)).count() > over.len() / 50);
        for kinds in &over {
            let before = kinds.iter().position(|kind| *kind == PURCHASE).unwrap_or(0);
            assert!(before == 0 || kinds[..before].contains(&ADD_TO_CART));
        }
    }

    #[test]
    fn pages_link_to_each_other_and_landings_tell_their_campaign() {
        let mut shop = shop(0.0);
        let (mut internal, mut campaigns, mut agents) = (0, 0, BTreeSet::new());
        for (text, _) in events(&mut shop, 10_000) {
            let event = check(text.as_bytes()).expect("valid");
            let page = event.text(PAGE).expect("a page");
            internal += u32::from(event.text(REFERRER).is_some_and(|from| from.starts_with(HOST)));
            campaigns += u32::from(page.contains("utm_source="));
            assert_eq!(page.matches('?').count(), usize::from(page.contains('?')), "{page}");
            agents.insert(field(&event, "user_agent").expect("a browser").into_owned());
        }
        assert!(internal > 4_000 && campaigns > 100, "{internal} internal, {campaigns} campaigns");
        assert!(agents.len() > 40, "{}", agents.len());
    }

    #[test]
    fn some_visits_are_late_and_some_events_out_of_order() {
        let mut shop = shop(0.05);
        let mut last: BTreeMap<u64, i64> = BTreeMap::new();
        let (mut late, mut late_by_a_day, mut out_of_order) = (0, 0, 0);
        for (number, (_, facts)) in (0..).zip(events(&mut shop, 50_000)) {
            let lateness = NOW + number - facts.time_ms;
            assert!((0..=4_320 * 60_000 + 60_000).contains(&lateness), "{lateness}");
            late += u32::from(lateness >= 60_000);
            late_by_a_day += u32::from(lateness >= 86_400_000);
            if let Some(visit) = facts.visit {
                let before = last.insert(visit.session, facts.time_ms);
                out_of_order += u32::from(before.is_some_and(|before| facts.time_ms < before));
            }
        }
        assert!((1_000..4_000).contains(&late), "{late} late");
        assert!((50..1_000).contains(&late_by_a_day), "{late_by_a_day} late by a day");
        assert!((200..800).contains(&out_of_order), "{out_of_order} out of order");
    }

    #[test]
    fn the_same_seed_has_the_same_visits() {
        let without_time = |shop: &mut Shop, run: &str, now: i64| -> String {
            let mut texts = String::new();
            for number in 0..5_000 {
                let mut out = Vec::new();
                let facts = shop.write(number, now, &mut out);
                let time = chrono::DateTime::from_timestamp_millis(facts.time_ms).expect("in range");
                let time = time.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
                texts += &String::from_utf8(out).expect("UTF-8").replace(&time, "").replace(run, "");
            }
            texts
        };
        let make = |seed, run: &str| Shop::new(seed, run, Some(500), 0.1);
        let one = without_time(&mut make(3, "0a1b"), "0a1b", NOW);
        assert!(one == without_time(&mut make(3, "9f8e"), "9f8e", NOW + 987_654_321));
        assert!(one != without_time(&mut make(4, "0a1b"), "0a1b", NOW));
    }
}
