//! Events of a JSON file, again and again. The first pass through a person's own file sends each event as it
//! stands; each further pass gives it a fresh `package_id` and `id`, and leaves all else alone. The built-in sample
//! gets fresh ids from the first pass on, since two runs of it would send the same events.

mod template;

use std::path::Path;

use millrace_common::event;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::facts::{Facts, Names};
use super::source::SourceError;
use template::{Known, Template};

const SAMPLE: &str = include_str!("../../sample/events.json");

#[derive(Debug)]
pub(super) struct Replay {
    events: Vec<Template>,
    names: Names,
    is_sample: bool,
}

impl Replay {
    /// The events that ship with Millrace.
    pub(super) fn sample() -> Self {
        let texts = read(SAMPLE.as_bytes()).unwrap_or_else(|error| panic!("the sample is JSON: {error}"));
        Self::new(&texts, true)
    }

    /// The events of the file at `path`: an array, or one event. Blocks.
    pub(super) fn file(path: &Path) -> Result<Self, SourceError> {
        let bytes =
            std::fs::read(path).map_err(|source| SourceError::Io { path: path.to_owned(), source })?;
        let texts = read(&bytes).map_err(|source| SourceError::NotJson { path: path.to_owned(), source })?;
        if texts.is_empty() {
            return Err(SourceError::Empty { path: path.to_owned() });
        }
        Ok(Self::new(&texts, false))
    }

    fn new(texts: &[&str], is_sample: bool) -> Self {
        let mut known = Known::default();
        let events = texts.iter().map(|text| Template::new(text, &mut known)).collect();
        Self { events, names: known.names(), is_sample }
    }

    /// What the numbers in the events' [`Facts`] stand for.
    pub(super) fn names(&self) -> Names {
        self.names.clone()
    }

    /// Writes event `number` of the run; its `package_id`, and what is known of it if it is valid.
    pub(super) fn write(&self, run: &str, number: u64, out: &mut Vec<u8>) -> (Option<String>, Option<Facts>) {
        let length = self.events.len() as u64;
        let pass = number / length;
        let template = &self.events[usize::try_from(number % length).unwrap_or(0)];
        let start = out.len();
        if pass == 0 && !self.is_sample {
            out.extend_from_slice(template.text.as_bytes());
        } else {
            template.write_fresh(run, number, pass, out);
        }
        match event::check(&out[start..]) {
            Ok(event) => {
                let facts = Facts { time_ms: event.time_ms(), ..template.facts };
                (Some(event.package_id().to_owned()), Some(facts))
            }
            Err(_) => (package_id(&out[start..]), None),
        }
    }
}

/// The `package_id` of an event that is invalid, as far as it can be told.
fn package_id(event: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Named {
        package_id: String,
    }
    serde_json::from_slice::<Named>(event).ok().map(|named| named.package_id)
}

fn read(json: &[u8]) -> Result<Vec<&str>, serde_json::Error> {
    let is_array = json.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let events: Vec<&RawValue> =
        if is_array { serde_json::from_slice(json)? } else { vec![serde_json::from_slice(json)?] };
    Ok(events.into_iter().map(RawValue::get).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_common::event::check;

    fn text(replay: &Replay, number: u64) -> String {
        let mut out = Vec::new();
        replay.write("run", number, &mut out);
        String::from_utf8(out).expect("UTF-8")
    }

    fn file(json: &str) -> Result<Replay, SourceError> {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("events.json");
        std::fs::write(&path, json).expect("write");
        Replay::file(&path)
    }

    #[test]
    fn further_passes_change_the_ids_and_nothing_else() {
        let event = r#"{ "package_id" : "a\u0062c",  "id": 7, "type":"click","event":{"id": 1, "package_id": "inner", "timestamp":"2024-01-15T10:30:00.0Z"} }"#;
        let replay = file(&format!("[{event}, {event}]")).expect("file");
        assert_eq!(text(&replay, 0), event);
        assert_eq!(text(&replay, 1), event);
        let third = event.replacen(r#""a\u0062c""#, r#""a\u0062c-run-1""#, 1).replacen("7", "4", 1);
        assert_eq!(text(&replay, 3), third);
        assert_eq!(check(third.as_bytes()).expect("valid").package_id(), "abc-run-1");
    }

    #[test]
    fn what_has_no_id_is_sent_as_it_stands() {
        for event in ["7", "null", r#"{"package_id":""}"#, r#"{"package_id":5}"#, r#"{"id":1,"id":2}"#] {
            let replay = file(&format!("[{event}]")).expect("file");
            assert_eq!([text(&replay, 0), text(&replay, 1)], [event, event]);
        }
        let long = format!(r#"{{"package_id":"{}"}}"#, "x".repeat(300));
        assert_eq!(text(&file(&long).expect("file"), 9), r#"{"package_id":"run-9"}"#);
    }

    #[test]
    fn the_sample_is_valid_and_no_two_of_its_events_share_an_id() {
        let sample = Replay::sample();
        let numbers = 0..3 * sample.events.len() as u64;
        let ids: std::collections::BTreeSet<String> = numbers
            .clone()
            .map(|number| check(text(&sample, number).as_bytes()).expect("valid").package_id().to_owned())
            .collect();
        assert_eq!(ids.len() as u64, numbers.end);
        assert!(ids.iter().all(|id| id.contains("-run-")));
    }

    #[test]
    fn a_file_that_holds_no_events_is_named() {
        for (json, expected) in [("[]", "holds no event"), ("[1", "is not JSON"), ("", "is not JSON")] {
            let message = file(json).expect_err(json).to_string();
            assert!(message.contains(expected) && message.contains("events.json"), "{message}");
        }
        assert!(matches!(Replay::file(Path::new("/nowhere/e.json")), Err(SourceError::Io { .. })));
    }
}
