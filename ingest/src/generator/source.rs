//! Where events come from: event number N of a run is a function of the source, the seed, the run's id and the
//! time, so that any connection can make any event.

use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;
use chrono::{DateTime, SecondsFormat, Utc};
use millrace_common::event;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde::Deserialize;

use super::replay::Replay;
use super::{invalid, seeded};

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
    Seeded,
}

#[derive(Debug)]
pub(super) struct Source {
    pub(super) origin: Origin,
    pub(super) seed: u64,
    /// Part of every id that is made: two runs share none.
    pub(super) run: String,
    /// How many of the events are deliberately invalid, from 0 to 1.
    pub(super) invalid: f64,
}

/// An event in a body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    /// Where in the body it stands.
    pub(super) place: Range<usize>,
    pub(super) package_id: Option<String>,
    pub(super) is_valid: bool,
}

/// A request's body.
#[derive(Debug, Clone)]
pub(super) struct Batch {
    pub(super) body: Bytes,
    pub(super) events: Vec<Sent>,
}

impl Source {
    /// Events `numbers` in as many bodies as they need.
    pub(super) fn batches(&self, numbers: Range<u64>, now: DateTime<Utc>) -> Vec<Batch> {
        let timestamp = now.to_rfc3339_opts(SecondsFormat::Millis, true);
        let mut batches = Vec::with_capacity(1);
        let mut builder = Builder::default();
        let mut event = Vec::with_capacity(1024);
        for number in numbers {
            event.clear();
            self.write(number, &timestamp, &mut event);
            if !builder.events.is_empty() && builder.body.len() + event.len() > LARGEST_BODY {
                batches.push(std::mem::take(&mut builder).finish());
            }
            builder.push(&event);
        }
        if !builder.events.is_empty() {
            batches.push(builder.finish());
        }
        batches
    }

    fn write(&self, number: u64, timestamp: &str, out: &mut Vec<u8>) {
        // Neighbouring numbers give unrelated streams.
        let mut random =
            StdRng::seed_from_u64(self.seed.wrapping_add(number.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
        if self.invalid > 0.0 && random.random_bool(self.invalid) {
            return invalid::write(&mut random, &self.run, number, timestamp, out);
        }
        match &self.origin {
            Origin::Replay(replay) => replay.write(&self.run, number, out),
            Origin::Seeded => seeded::write(&mut random, &self.run, number, timestamp, out),
        }
    }
}

#[derive(Debug, Default)]
struct Builder {
    /// The array, without its end.
    body: Vec<u8>,
    events: Vec<Sent>,
}

impl Builder {
    fn push(&mut self, event: &[u8]) {
        self.body.push(if self.events.is_empty() { b'[' } else { b',' });
        let start = self.body.len();
        self.body.extend_from_slice(event);
        let (package_id, is_valid) = match event::check(event) {
            Ok(event) => (Some(event.package_id().to_owned()), true),
            Err(_) => (package_id(event), false),
        };
        self.events.push(Sent { place: start..self.body.len(), package_id, is_valid });
    }

    /// One object goes without an array around it.
    fn finish(mut self) -> Batch {
        if let [only] = self.events.as_mut_slice()
            && self.body.get(1) == Some(&b'{')
        {
            self.body.remove(0);
            only.place = 0..self.body.len();
        } else {
            self.body.push(b']');
        }
        Batch { body: self.body.into(), events: self.events }
    }
}

/// The `package_id` of an event that is invalid for another reason, as far as it can be told.
fn package_id(event: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        package_id: String,
    }
    serde_json::from_slice::<Named>(event).ok().map(|named| named.package_id)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in crate::generator) fn source(origin: Origin, run: &str, invalid: f64) -> Source {
        Source { origin, seed: 7, run: run.to_owned(), invalid }
    }

    fn noon() -> DateTime<Utc> {
        DateTime::from_timestamp_millis(1_700_000_000_250).expect("in range")
    }

    fn bodies(source: &Source, numbers: Range<u64>) -> Vec<Bytes> {
        source.batches(numbers, noon()).into_iter().map(|batch| batch.body).collect()
    }

    #[test]
    fn the_same_seed_makes_the_same_events_however_they_are_taken() {
        let one = source(Origin::Seeded, "run", 0.2);
        let other = source(Origin::Seeded, "run", 0.2);
        let whole = bodies(&one, 0..300).concat();
        assert_eq!(whole, bodies(&other, 0..300).concat());
        let events = |parts: Vec<Batch>| {
            let text = |batch: &Batch| {
                let places: Vec<Bytes> =
                    batch.events.iter().map(|sent| batch.body.slice(sent.place.clone())).collect();
                places
            };
            parts.iter().flat_map(text).collect::<Vec<Bytes>>()
        };
        let mut halves = one.batches(0..1, noon());
        halves.extend(one.batches(1..300, noon()));
        assert_eq!(events(halves), events(one.batches(0..300, noon())));
        let another_seed = Source { seed: 8, ..source(Origin::Seeded, "run", 0.2) };
        assert_ne!(whole, bodies(&another_seed, 0..300).concat());
    }

    #[test]
    fn ids_differ_between_events_and_runs_and_the_time_is_that_of_sending() {
        let mut ids = std::collections::BTreeSet::new();
        for run in ["run-a", "run-b"] {
            for batch in source(Origin::Seeded, run, 0.0).batches(0..500, noon()) {
                for sent in &batch.events {
                    let event = event::check(&batch.body[sent.place.clone()]).expect("valid");
                    assert_eq!(event.time_ms(), 1_700_000_000_250);
                    assert_eq!(Some(event.package_id()), sent.package_id.as_deref());
                    assert!(ids.insert(event.package_id().to_owned()), "{}", event.package_id());
                }
            }
        }
        assert_eq!(ids.len(), 1000);
    }

    #[test]
    fn about_the_share_asked_for_is_invalid() {
        let batches = source(Origin::Seeded, "run", 0.25).batches(0..4000, noon());
        let invalid = batches.iter().flat_map(|batch| &batch.events).filter(|sent| !sent.is_valid).count();
        assert!((800..1200).contains(&invalid), "{invalid}");
    }

    #[test]
    fn bodies_are_json_that_stays_below_the_limit() {
        let batches = source(Origin::Seeded, "run", 0.1).batches(0..3000, noon());
        assert!(batches.len() > 1, "3000 events of some 500 bytes need more than one body");
        for batch in &batches {
            assert!(batch.body.len() <= LARGEST_BODY + 2, "{}", batch.body.len());
            let array: Vec<&serde_json::value::RawValue> =
                serde_json::from_slice(&batch.body).expect("an array");
            let slices: Vec<&[u8]> =
                batch.events.iter().map(|sent| &batch.body[sent.place.clone()]).collect();
            assert_eq!(array.iter().map(|raw| raw.get().as_bytes()).collect::<Vec<_>>(), slices);
        }
    }

    #[test]
    fn one_event_goes_without_an_array_unless_it_is_no_object() {
        let one = &source(Origin::Seeded, "run", 0.0).batches(3..4, noon())[0];
        assert_eq!(one.body[0], b'{');
        assert_eq!(one.events[0].place, 0..one.body.len());
        let invalid = source(Origin::Seeded, "run", 1.0);
        for number in 0..200 {
            let batch = &invalid.batches(number..number + 1, noon())[0];
            let event = &batch.body[batch.events[0].place.clone()];
            assert_eq!(batch.body[0] == b'{', event[0] == b'{');
            serde_json::from_slice::<serde::de::IgnoredAny>(&batch.body).expect("JSON");
        }
    }
}
