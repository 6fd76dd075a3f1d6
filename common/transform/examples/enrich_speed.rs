//! What enrichment costs: processor time of each enricher for a value that is worked out and for one that is
//! remembered, and of all of them on a usual mix of events, on one thread. Measures; asserts nothing.
//!
//! `cargo run --release -p millrace-transform --example enrich_speed [DATABASE.mmdb]`

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use millrace_transform::enrich::{Countries, Enrichers, Page, Said, Settings, UserAgent};

const EVENTS: usize = 1_000_000;
const ROUNDS: usize = 3;

struct Event {
    user_agent: String,
    page: String,
    referrer: Option<String>,
    ip: String,
}

impl Event {
    fn said(&self) -> Said<'_> {
        Said {
            user_agent: Some(&self.user_agent),
            page: Some(&self.page),
            referrer: self.referrer.as_deref(),
            ip: Some(&self.ip),
        }
    }
}

fn main() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let database = std::env::args().nth(1).map_or(tests.join("countries.mmdb"), Into::into);
    let started = Instant::now();
    let countries = Arc::new(Countries::open(&database).expect("a database"));
    let opened = started.elapsed().as_millis();
    println!("{} opened in {opened} ms, {} KiB", database.display(), countries.memory() / 1024);

    let events = mix();
    let distinct = |value: fn(&Event) -> &str| {
        let mut counts = HashMap::new();
        events.iter().for_each(|event| *counts.entry(value(event)).or_insert(0) += 1);
        counts.len()
    };
    println!(
        "{EVENTS} events: {} user agents, {} pages, {} referrers, {} addresses",
        distinct(|event| &event.user_agent),
        distinct(|event| &event.page),
        distinct(|event| event.referrer.as_deref().unwrap_or_default()),
        distinct(|event| &event.ip),
    );
    let settings = |wanted: &str| Settings {
        user_agent: wanted.contains("user agent"),
        page: wanted.contains("page"),
        referrer: wanted.contains("referrer"),
        countries: wanted.contains("country").then(|| countries.clone()),
        own_hosts: vec!["shop.example".to_owned()],
    };
    let pages: HashMap<_, _, ahash::RandomState> =
        events.iter().map(|event| (&event.page, [0_u64; 8])).collect();
    for _ in 0..ROUNDS {
        println!();
        let few = &events[..EVENTS / 20];
        measure("user agent, worked out", few, |event| UserAgent::read(&event.user_agent));
        measure("address, worked out", few, |event| countries.find(&event.ip));
        measure("page, read", &events, |event| Page::read(&event.page));
        measure("page, looked for among all", &events, |event| pages.get(&event.page));
        for wanted in ["user agent", "page", "referrer", "country", "user agent, page, referrer, country"] {
            let mut enrichers = Enrichers::new(settings(wanted));
            measure(&format!("{wanted}: the mix"), &events, |event| enrichers.find(&event.said()));
            println!("    {} KiB", enrichers.memory() / 1024);
            let mut again = || {
                for event in &events[..200] {
                    std::hint::black_box(enrichers.find(&event.said()));
                }
            };
            again();
            let started = Instant::now();
            (0..1000).for_each(|_| again());
            println!("{wanted}: 200 events again and again: {} ns", started.elapsed().as_nanos() / 200_000);
        }
    }
}

fn measure<'a, T>(what: &str, events: &'a [Event], mut work: impl FnMut(&'a Event) -> T) {
    let started = Instant::now();
    for event in events {
        std::hint::black_box(work(event));
    }
    println!("{what}: {} ns", started.elapsed().as_nanos() / events.len() as u128);
}

/// A million events of a shop: few user agents and many addresses, both skewed; half of the pages are paths, an
/// eighth bear a campaign, half of those the click of an advertisement.
fn mix() -> Vec<Event> {
    let data = [include_str!("../tests/data/browsers.txt"), include_str!("../tests/data/bots.txt")];
    let agents: Vec<_> =
        data.iter().flat_map(|list| list.lines()).filter_map(|line| line.split_once('\t')).collect();
    let sites =
        ["https://www.google.com/", "https://l.instagram.com/", "https://www.bing.com/", "https://t.co/x7Kd"];
    let mut random = Random(1);
    (0..EVENTS)
        .map(|_| {
            // Versions make three thousand user agents of these.
            let version = 100 + random.skewed(50);
            let user_agent =
                agents[random.skewed(agents.len())].1.replace("Chrome/1", &format!("Chrome/{version}.1"));
            let path = format!("/products/{}/item-{}", random.skewed(40), random.skewed(100_000));
            let query = match random.below(16) {
                0 => format!(
                    "?utm_source=google&utm_medium=cpc&utm_campaign=autumn%20sale&gclid=Cj0KCQjw{:032x}",
                    random.next()
                ),
                1 => "?utm_source=newsletter&utm_medium=email&utm_campaign=week+47&utm_content=header"
                    .to_owned(),
                _ => String::new(),
            };
            let host = if random.below(2) == 0 { "" } else { "https://www.shop.example" };
            let referrer = match random.below(8) {
                0 | 1 => None,
                2 | 3 => Some(sites[random.skewed(sites.len())].to_owned()),
                4 => Some(format!(
                    "https://site-{}.example/articles/{}",
                    random.skewed(5000),
                    random.below(1000)
                )),
                _ => Some(format!("https://www.shop.example/products/{}/", random.skewed(40))),
            };
            // Over the networks set aside for examples and others, a hundred thousand addresses in all.
            let visitor = random.skewed(100_000) as u32;
            let network = [0xc000_0200, 0xc633_6400, 0xcb00_7100, 0x0100_0000][visitor as usize % 4];
            let ip = std::net::Ipv4Addr::from(network + visitor / 4).to_string();
            Event { user_agent, page: format!("{host}{path}{query}"), referrer, ip }
        })
        .collect()
}

/// Always the same numbers, by splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// Below `end`; small ones come much more often.
    fn skewed(&mut self, end: usize) -> usize {
        let share = (self.next() >> 11) as f64 / (1_u64 << 53) as f64;
        // Each number's share falls about as its inverse.
        (((end as f64 + 1.0).powf(share) - 1.0) as usize).min(end - 1)
    }
}
