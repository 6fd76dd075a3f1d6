//! Where events come from, and in which requests they travel. The events of a run are made in the order of their
//! numbers, whatever the number of connections that take them: the seed and the flags decide each of them.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tokio::time::Instant;

use super::facts::{Facts, Names};
use super::invalid;
use super::replay::Replay;
use super::schedule::Schedule;
use super::shop::Shop;

/// The most bytes of a body: half of what a collector takes by default.
const LARGEST_BODY: usize = 512 << 10;

/// A source that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    #[error("--file {} can't be read: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: std::io::Error,
    },
    #[error("--file {} is not JSON ({source}), expected an array of events", path.display())]
    NotJson {
        path: PathBuf,
        #[source]
        source: serde_json::Error,
    },
    #[error("--file {} holds no event, expected an array of at least one", path.display())]
    Empty { path: PathBuf },
}

#[derive(Debug)]
pub(super) enum Origin {
    Replay(Replay),
    Shop(Box<Shop>),
}

/// An event in a body.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Sent {
    /// Where in the body it stands.
    pub(super) place: Range<usize>,
    pub(super) package_id: Option<String>,
    /// What the ground truth counts of it; `None` if it is invalid.
    pub(super) facts: Option<Facts>,
    /// It is to be sent a second time once it is acknowledged.
    pub(super) is_doubled: bool,
    /// How often it was sent without the collector saying what became of it.
    pub(super) doubts: u32,
}

/// How events stand in a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Format {
    /// An array; one object goes without an array around it.
    #[default]
    Document,
    /// One a line. Only for events without line feeds.
    Lines,
}

/// A request's body.
#[derive(Debug, Clone, Default)]
pub(super) struct Batch {
    pub(super) format: Format,
    pub(super) body: Bytes,
    pub(super) events: Vec<Sent>,
}

/// The next events to send.
#[derive(Debug)]
pub(super) struct Turn {
    pub(super) due: Instant,
    pub(super) batches: Vec<Batch>,
}

/// How events are spoiled.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Shares {
    /// How many of the events are deliberately invalid, from 0 to 1.
    pub(super) invalid: f64,
    /// How many of the valid ones are sent twice.
    pub(super) duplicates: f64,
}

#[derive(Debug)]
pub(super) struct Source(Mutex<Maker>);

#[derive(Debug)]
struct Maker {
    schedule: Schedule,
    origin: Origin,
    run: String,
    shares: Shares,
    /// Decides which events are invalid, and which are sent twice.
    random: StdRng,
    /// How many invalid ones were made: they take turns in what is wrong with them.
    invalid: u64,
}

impl Source {
    /// `run` is part of every id that is made: two runs share none.
    pub(super) fn new(schedule: Schedule, origin: Origin, seed: u64, run: &str, shares: Shares) -> Self {
        // Not the shop's stream, which has the seed itself.
        let random = StdRng::seed_from_u64(seed ^ 0x5eed_0f5a_9e5e_ed00);
        Self(Mutex::new(Maker { schedule, origin, run: run.to_owned(), shares, random, invalid: 0 }))
    }

    /// What the numbers in the events' facts stand for.
    pub(super) fn names(&self) -> Names {
        let maker = self.maker();
        let names = match &maker.origin {
            Origin::Replay(replay) => replay.names(),
            Origin::Shop(shop) => shop.names(),
        };
        Names { run: maker.run.clone(), ..names }
    }

    /// The next events, made for the time when they are due; `None` when there are no more. `now` and `clock` are the
    /// same moment.
    pub(super) fn take(&self, now: Instant, clock: DateTime<Utc>) -> Option<Turn> {
        self.maker().take(now, clock)
    }

    fn maker(&self) -> std::sync::MutexGuard<'_, Maker> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maker {
    fn take(&mut self, now: Instant, clock: DateTime<Utc>) -> Option<Turn> {
        let turn = self.schedule.take(now)?;
        let millis = |span: std::time::Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        let due_ms = clock.timestamp_millis() + millis(turn.due.saturating_duration_since(now))
            - millis(now.saturating_duration_since(turn.due));
        let mut batches = Vec::with_capacity(1);
        let mut builders = [Format::Document, Format::Lines].map(Builder::new);
        let mut event = Vec::with_capacity(1024);
        for number in turn.first..turn.first + turn.events {
            // They happened one after the other, the last one just now.
            let before =
                (turn.first + turn.events - 1 - number) * 1000 / self.schedule.rate().unwrap_or(u64::MAX);
            event.clear();
            let (sent, format) = self.write(number, due_ms - i64::try_from(before).unwrap_or(0), &mut event);
            let builder = &mut builders[usize::from(format == Format::Lines)];
            if builder.is_full_for(&event) {
                batches.push(std::mem::replace(builder, Builder::new(format)).finish());
            }
            builder.push(&event, sent);
        }
        batches.extend(builders.into_iter().filter(|builder| !builder.is_empty()).map(Builder::finish));
        Some(Turn { due: turn.due, batches })
    }

    /// Writes event `number`, which happens at `time_ms`.
    fn write(&mut self, number: u64, time_ms: i64, out: &mut Vec<u8>) -> (Sent, Format) {
        let is_invalid = self.random.random_bool(self.shares.invalid);
        let is_doubled = self.random.random_bool(self.shares.duplicates);
        if is_invalid {
            let time = DateTime::from_timestamp_millis(time_ms).unwrap_or_default();
            let time = time.to_rfc3339_opts(SecondsFormat::Millis, true);
            self.invalid += 1;
            let invalid::Written { package_id, is_json } =
                invalid::write(self.invalid, &self.run, number, &time, out);
            let format = if is_json { Format::Document } else { Format::Lines };
            return (Sent { package_id, ..Sent::default() }, format);
        }
        let (package_id, facts) = match &mut self.origin {
            Origin::Replay(replay) => replay.write(&self.run, number, out),
            Origin::Shop(shop) => {
                let facts = shop.write(number, time_ms, out);
                (Some(format!("{}-{number}", self.run)), Some(facts))
            }
        };
        let is_doubled = is_doubled && facts.is_some();
        (Sent { package_id, facts, is_doubled, ..Sent::default() }, Format::Document)
    }
}

impl Batch {
    /// The events whose `settled` is `None`, in a body of their own; `None` if there are none.
    pub(super) fn without_settled<T>(self, settled: &[Option<T>]) -> Option<Self> {
        if settled.iter().all(Option::is_none) {
            return Some(self);
        }
        let mut builder = Builder::new(self.format);
        for (sent, _) in self.events.into_iter().zip(settled).filter(|(_, settled)| settled.is_none()) {
            builder.push(&self.body[sent.place.clone()], sent);
        }
        (!builder.is_empty()).then(|| builder.finish())
    }
}

/// A body that grows.
#[derive(Debug, Default)]
pub(super) struct Builder {
    format: Format,
    /// Without the array's end.
    body: Vec<u8>,
    events: Vec<Sent>,
}

impl Builder {
    fn new(format: Format) -> Self {
        Self { format, ..Self::default() }
    }

    pub(super) fn push(&mut self, event: &[u8], sent: Sent) {
        match (self.format, self.events.is_empty()) {
            (Format::Document, true) => self.body.push(b'['),
            (Format::Document, false) => self.body.push(b','),
            (Format::Lines, true) => {}
            (Format::Lines, false) => self.body.push(b'\n'),
        }
        let start = self.body.len();
        self.body.extend_from_slice(event);
        self.events.push(Sent { place: start..self.body.len(), ..sent });
    }

    pub(super) fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Whether `event` would make the body larger than bodies are.
    pub(super) fn is_full_for(&self, event: &[u8]) -> bool {
        !self.is_empty() && self.body.len() + event.len() > LARGEST_BODY
    }

    pub(super) fn finish(mut self) -> Batch {
        match (self.format, self.events.as_mut_slice()) {
            (Format::Document, [only]) if self.body.get(1) == Some(&b'{') => {
                self.body.remove(0);
                only.place = 0..self.body.len();
            }
            (Format::Document, _) => self.body.push(b']'),
            (Format::Lines, _) => self.body.push(b'\n'),
        }
        Batch { format: self.format, body: self.body.into(), events: self.events }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_common::event;

    const RATE: u64 = 1000;

    fn source(rate: u64, batch: u64, count: u64, run: &str, seed: u64, shares: Shares) -> Source {
        let schedule = Schedule::new(rate, batch, Some(count));
        let shop = Shop::new(seed, run, Some(RATE), 0.0);
        Source::new(schedule, Origin::Shop(Box::new(shop)), seed, run, shares)
    }

    fn clock() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_250).expect("in range")
    }

    fn batches(source: &Source) -> Vec<Batch> {
        let now = Instant::now();
        std::iter::from_fn(|| source.take(now, clock())).flat_map(|turn| turn.batches).collect()
    }

    fn events(batches: &[Batch]) -> Vec<(Bytes, Sent)> {
        let of = |batch: &Batch| {
            let events = batch.events.iter();
            events.map(|sent| (batch.body.slice(sent.place.clone()), sent.clone())).collect::<Vec<_>>()
        };
        batches.iter().flat_map(of).collect()
    }

    fn texts(source: &Source) -> Vec<Bytes> {
        events(&batches(source)).into_iter().map(|(text, _)| text).collect()
    }

    const SPOILED: Shares = Shares { invalid: 0.2, duplicates: 0.1 };

    #[test]
    fn the_same_seed_makes_the_same_events_however_they_are_taken() {
        let make = |batch, seed| source(0, batch, 3_000, "run", seed, SPOILED);
        // Those that are not JSON travel apart.
        let sorted = |source: &Source| {
            let mut texts = texts(source);
            texts.sort_unstable();
            texts
        };
        let one = sorted(&make(100, 7));
        assert_eq!(one.len(), 3_000);
        assert!(one == sorted(&make(7, 7)));
        assert!(one != sorted(&make(100, 8)));
    }

    #[test]
    fn events_happen_at_the_rate_up_to_when_they_are_due() {
        let source = source(RATE, 50, 200, "run", 7, Shares::default());
        let now = Instant::now();
        let mut last = i64::MIN;
        for number in 1..=4_u64 {
            let turn = source.take(now, clock()).expect("a turn");
            let due = i64::try_from((turn.due - now).as_millis()).expect("soon");
            let times: Vec<i64> = events(&turn.batches)
                .iter()
                .map(|(text, _)| event::check(text).expect("valid").time_ms() - clock().timestamp_millis())
                .collect();
            assert_eq!(due, i64::try_from((number - 1) * 50).expect("few"));
            assert!(times.iter().all(|time| *time <= due && *time > due - 3_000), "{times:?}");
            assert!(times.iter().max() > Some(&last), "{times:?}");
            last = due - 50;
        }
        assert!(source.take(now, clock()).is_none());
    }

    #[test]
    fn ids_differ_between_events_and_runs() {
        let mut ids = std::collections::BTreeSet::new();
        for run in ["run-a", "run-b"] {
            for (text, sent) in events(&batches(&source(0, 100, 500, run, 7, Shares::default()))) {
                let event = event::check(&text).expect("valid");
                assert_eq!(Some(event.package_id()), sent.package_id.as_deref());
                assert!(ids.insert(event.package_id().to_owned()), "{}", event.package_id());
            }
        }
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn about_the_shares_asked_for_are_invalid_and_doubled() {
        let all =
            events(&batches(&source(0, 100, 4_000, "run", 7, Shares { invalid: 0.25, duplicates: 0.1 })));
        for (text, sent) in &all {
            assert_eq!(event::check(text).is_ok(), sent.facts.is_some());
        }
        let invalid = all.iter().filter(|(_, sent)| sent.facts.is_none()).count();
        let doubled: Vec<_> = all.iter().filter(|(_, sent)| sent.is_doubled).collect();
        assert!((800..1200).contains(&invalid), "{invalid}");
        assert!((200..400).contains(&doubled.len()), "{}", doubled.len());
        assert!(doubled.iter().all(|(_, sent)| sent.facts.is_some()));
    }

    #[test]
    fn bodies_stay_below_the_limit_and_what_is_not_json_goes_as_lines() {
        let batches = batches(&source(0, 3_000, 3_000, "run", 7, SPOILED));
        let of = |wanted| batches.iter().filter(move |batch| batch.format == wanted);
        assert!(of(Format::Document).count() > 1, "3000 events of some 500 bytes need more than one body");
        let slices = |batch: &Batch| -> Vec<Bytes> {
            batch.events.iter().map(|sent| batch.body.slice(sent.place.clone())).collect()
        };
        for batch in of(Format::Document) {
            assert!(batch.body.len() <= LARGEST_BODY + 2, "{}", batch.body.len());
            let array: Vec<&serde_json::value::RawValue> =
                serde_json::from_slice(&batch.body).expect("an array");
            assert_eq!(array.iter().map(|raw| raw.get().as_bytes()).collect::<Vec<_>>(), slices(batch));
        }
        let mut lines = 0;
        for batch in of(Format::Lines) {
            let body = batch.body.strip_suffix(b"\n").expect("a line feed");
            assert_eq!(body.split(|byte| *byte == b'\n').collect::<Vec<_>>(), slices(batch));
            lines += batch.events.len();
            assert!(batch.events.iter().all(|sent| sent.facts.is_none()));
        }
        assert!((30..120).contains(&lines), "{lines} of 600 invalid ones are not JSON");
    }

    #[test]
    fn what_is_not_settled_goes_into_a_body_of_its_own() {
        let batch = batches(&source(0, 10, 10, "run", 7, Shares::default())).remove(0);
        let all = events(std::slice::from_ref(&batch));
        let settled: Vec<Option<()>> = (0..10).map(|index| (index % 3 != 1).then_some(())).collect();
        let rest = batch.clone().without_settled(&settled).expect("three");
        serde_json::from_slice::<serde::de::IgnoredAny>(&rest.body).expect("JSON");
        let texts: Vec<Bytes> = events(&[rest]).into_iter().map(|(text, _)| text).collect();
        assert_eq!(texts, [1, 4, 7].map(|index: usize| all[index].0.clone()));
        assert!(batch.clone().without_settled(&[Some(()); 10]).is_none());
        assert_eq!(batch.clone().without_settled(&[None::<()>; 10]).expect("all").body, batch.body);
    }

    #[test]
    fn one_event_goes_without_an_array_unless_it_is_no_object() {
        let one = &batches(&source(0, 1, 1, "run", 7, Shares::default()))[0];
        assert_eq!(one.body[0], b'{');
        assert_eq!(one.events[0].place, 0..one.body.len());
        let invalid = batches(&source(0, 1, 200, "run", 7, Shares { invalid: 1.0, duplicates: 0.0 }));
        for batch in invalid.iter().filter(|batch| batch.format == Format::Document) {
            let event = &batch.body[batch.events[0].place.clone()];
            assert_eq!(batch.body[0] == b'{', event[0] == b'{');
            serde_json::from_slice::<&serde_json::value::RawValue>(&batch.body).expect("JSON");
        }
    }
}
