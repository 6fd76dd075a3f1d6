//! Events of a JSON file, again and again. The first pass through a person's own file sends each event as it
//! stands; each further pass gives it a fresh `package_id` and `id`, and leaves all else alone. The built-in sample
//! gets fresh ids from the first pass on, since two runs of it would send the same events.

use std::io::Write;
use std::ops::Range;
use std::path::Path;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::source::SourceError;

const SAMPLE: &str = include_str!("../../sample/events.json");
/// An id longer than this is replaced instead of lengthened, so that it stays within what the check allows.
const LONGEST_KEPT_ID: usize = 200;

#[derive(Debug)]
pub(super) struct Replay {
    events: Vec<Template>,
    is_sample: bool,
}

/// An event's text, and where its ids stand in it.
#[derive(Debug)]
struct Template {
    text: Box<str>,
    /// In the order of the text.
    ids: Vec<Id>,
}

#[derive(Debug)]
enum Id {
    Number(Range<usize>),
    /// With its quotes.
    Text(Range<usize>),
}

impl Replay {
    /// The events that ship with Millrace.
    pub(super) fn sample() -> Self {
        let events = read(SAMPLE.as_bytes()).unwrap_or_else(|error| panic!("the sample is JSON: {error}"));
        Self { events, is_sample: true }
    }

    /// The events of the file at `path`: an array, or one event. Blocks.
    pub(super) fn file(path: &Path) -> Result<Self, SourceError> {
        let bytes =
            std::fs::read(path).map_err(|source| SourceError::Io { path: path.to_owned(), source })?;
        let events = read(&bytes).map_err(|source| SourceError::NotJson { path: path.to_owned(), source })?;
        if events.is_empty() {
            return Err(SourceError::Empty { path: path.to_owned() });
        }
        Ok(Self { events, is_sample: false })
    }

    /// Writes event `number` of the run.
    pub(super) fn write(&self, run: &str, number: u64, out: &mut Vec<u8>) {
        let length = self.events.len() as u64;
        let pass = number / length;
        let template = &self.events[usize::try_from(number % length).unwrap_or(0)];
        if pass == 0 && !self.is_sample {
            out.extend_from_slice(template.text.as_bytes());
        } else {
            template.write_fresh(run, number, pass, out);
        }
    }
}

fn read(json: &[u8]) -> Result<Vec<Template>, serde_json::Error> {
    let is_array = json.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    let events: Vec<&RawValue> =
        if is_array { serde_json::from_slice(json)? } else { vec![serde_json::from_slice(json)?] };
    Ok(events.into_iter().map(|event| Template::new(event.get())).collect())
}

impl Template {
    fn new(text: &str) -> Self {
        #[derive(Deserialize)]
        struct Ids<'a> {
            #[serde(borrow)]
            id: Option<&'a RawValue>,
            #[serde(borrow)]
            package_id: Option<&'a RawValue>,
        }
        // What is no object, or has an id twice, is sent as it stands.
        let found: Option<Ids<'_>> = serde_json::from_str(text).ok();
        let place = |value: &RawValue| {
            let start = value.get().as_ptr().addr() - text.as_ptr().addr();
            start..start + value.get().len()
        };
        let mut ids = Vec::new();
        if let Some(Ids { id, package_id }) = found {
            for value in [id, package_id].into_iter().flatten() {
                match value.get().as_bytes() {
                    // An empty one is invalid, and stays so.
                    [b'"', _, .., b'"'] => ids.push(Id::Text(place(value))),
                    [b'0'..=b'9' | b'-', ..] if id.is_some_and(|id| std::ptr::eq(id, value)) => {
                        ids.push(Id::Number(place(value)));
                    }
                    _ => {}
                }
            }
        }
        ids.sort_by_key(|id| match id {
            Id::Number(place) | Id::Text(place) => place.start,
        });
        Self { text: text.into(), ids }
    }

    fn write_fresh(&self, run: &str, number: u64, pass: u64, out: &mut Vec<u8>) {
        let mut done = 0;
        for id in &self.ids {
            let (Id::Number(place) | Id::Text(place)) = id;
            out.extend_from_slice(&self.text.as_bytes()[done..place.start]);
            done = place.end;
            // Writing to memory can't fail.
            let _ = match id {
                Id::Number(_) => write!(out, "{}", number + 1),
                Id::Text(_) if place.len() > LONGEST_KEPT_ID => write!(out, "\"{run}-{number}\""),
                Id::Text(_) => write!(out, "{}-{run}-{pass}\"", &self.text[place.start..place.end - 1]),
            };
        }
        out.extend_from_slice(&self.text.as_bytes()[done..]);
    }
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
