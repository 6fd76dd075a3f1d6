//! The body of a request to events, each judged. Pure: nothing here knows of HTTP or Kafka.
//!
//! An event is kept exactly as the client wrote it: it is a slice of the body, never written anew. Only its addresses
//! are taken out, where that is wished, and before anything else is done with it.

use std::borrow::Cow;
use std::fmt;

use millrace_common::event::{self, RejectionCode};
use serde::de::{Deserializer as _, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::LARGEST_KEPT_EVENT;
use super::anonymize::anonymize;
use super::media::Format;

/// What is wrong with an event that is set aside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    pub code: &'static str,
    /// JSON pointer (RFC 6901) into the event.
    pub pointer: String,
    pub message: String,
}

/// An event of a request.
#[derive(Debug)]
pub struct Judged<'a> {
    pub bytes: Cow<'a, [u8]>,
    /// The record's key, the event's `package_id`; or why the event is invalid.
    pub key: Result<String, Refusal>,
}

/// A body of which nothing can be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    #[error("the body is not JSON ({0}), expected one event object or an array of them")]
    NotJson(String),
    #[error(
        "event {index} has {bytes} bytes, expected at most {LARGEST_KEPT_EVENT}: too large to be set aside"
    )]
    TooLarge { index: usize, bytes: usize },
    #[error("the body has more than {most} events, expected at most that many: send fewer at a time")]
    TooMany { most: usize },
}

/// How events are judged.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Bytes of an event; a larger one is invalid.
    pub max_event: usize,
    /// Take addresses out of every event.
    pub anonymize: bool,
}

/// The events of `body`, unjudged.
///
/// # Errors
/// An array is not JSON, or there are more than `most`.
pub fn split(body: &[u8], format: Format, most: usize) -> Result<Vec<&[u8]>, Unreadable> {
    match format {
        Format::Document if first(body) == Some(b'[') => array(body, most),
        Format::Document => Ok(vec![body]),
        Format::Lines => {
            let lines = body.split(|&byte| byte == b'\n').map(<[u8]>::trim_ascii);
            let events: Vec<_> = lines.filter(|line| !line.is_empty()).take(most.saturating_add(1)).collect();
            if events.len() > most { Err(Unreadable::TooMany { most }) } else { Ok(events) }
        }
    }
}

/// Judges each of `events`, which [`split`] gave.
///
/// # Errors
/// The body is one document and not JSON, or an event is so large that not even the invalid topic takes it.
/// A line that is not JSON is invalid, its neighbours are what they are.
pub fn judge<'a>(events: &[&'a [u8]], format: Format, rules: Rules) -> Result<Vec<Judged<'a>>, Unreadable> {
    events.iter().enumerate().map(|(index, event)| judge_event(index, event, format, rules)).collect()
}

fn first(body: &[u8]) -> Option<u8> {
    body.iter().find(|byte| !byte.is_ascii_whitespace()).copied()
}

fn array(body: &[u8], most: usize) -> Result<Vec<&[u8]>, Unreadable> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let elements = deserializer.deserialize_seq(Elements { most }).and_then(|elements| {
        deserializer.end()?;
        Ok(elements)
    });
    elements.map_err(|error| Unreadable::NotJson(error.to_string()))?.ok_or(Unreadable::TooMany { most })
}

/// The elements of an array as they stand; `None` if there are more than `most`.
struct Elements {
    most: usize,
}

impl<'de> Visitor<'de> for Elements {
    type Value = Option<Vec<&'de [u8]>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = array.next_element::<&RawValue>()? {
            if elements.len() == self.most {
                while array.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(None);
            }
            elements.push(element.get().as_bytes());
        }
        Ok(Some(elements))
    }
}

fn judge_event<'a>(
    index: usize,
    bytes: &'a [u8],
    format: Format,
    rules: Rules,
) -> Result<Judged<'a>, Unreadable> {
    if bytes.len() > LARGEST_KEPT_EVENT {
        return Err(Unreadable::TooLarge { index, bytes: bytes.len() });
    }
    // First of all: what is said of an event may repeat a piece of it.
    let bytes = if rules.anonymize { anonymize(bytes) } else { Cow::Borrowed(bytes) };
    let checked = event::check(&bytes);
    // A document that isn't JSON at all has no events; no matter how large.
    if let Err(rejection) = &checked
        && format == Format::Document
        && matches!(rejection.code, RejectionCode::NotJson | RejectionCode::NotUtf8)
    {
        return Err(Unreadable::NotJson(rejection.message.clone()));
    }
    let key = if bytes.len() > rules.max_event {
        Err(Refusal {
            code: "too_large",
            pointer: String::new(),
            message: format!("found {} bytes, expected at most {}", bytes.len(), rules.max_event),
        })
    } else {
        checked.map(|event| event.package_id().to_owned()).map_err(|rejection| Refusal {
            code: rejection.code.as_str(),
            pointer: rejection.pointer,
            message: rejection.message,
        })
    };
    Ok(Judged { bytes, key })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const EVENT: &str = r#"{"id": 1, "type": "click", "package_id": "test-123", "event": {"user_agent": "Mozilla/5.0", "ip": "192.168.1.1", "customer_id": 12345, "timestamp": "2024-01-01T00:00:00Z", "page": "/home"}}"#;

    /// Split and judged, without any limit on their number.
    fn judge(body: &[u8], max_event: usize) -> Result<Vec<Judged<'_>>, Unreadable> {
        read(body, Format::Document, max_event)
    }

    fn read(body: &[u8], format: Format, max_event: usize) -> Result<Vec<Judged<'_>>, Unreadable> {
        super::judge(&split(body, format, usize::MAX)?, format, Rules { max_event, anonymize: false })
    }

    fn code<'a>(judged: &'a Judged<'_>) -> &'a str {
        judged.key.as_ref().expect_err("invalid").code
    }

    #[test]
    fn each_event_of_an_array_keeps_its_bytes_and_its_place() {
        let odd = "{\"type\" :\t\"a\\u0062\",\"package_id\":\"\\u0061\", \"event\":{\"timestamp\":\"2024-01-01T00:00:00+02:00\", \"x\":1.0e2}}";
        let body = format!(" [ {EVENT} ,\n{odd},{{}} , 7,null]\n");
        let judged = judge(body.as_bytes(), 4096).expect("readable");
        let texts: Vec<_> =
            judged.iter().map(|judged| std::str::from_utf8(&judged.bytes).expect("text")).collect();
        assert_eq!(texts, [EVENT, odd, "{}", "7", "null"]);
        assert_eq!(judged[0].key, Ok("test-123".to_owned()));
        assert_eq!(judged[1].key, Ok("a".to_owned()));
        assert_eq!(
            [2, 3, 4].map(|index| code(&judged[index])),
            ["missing_field", "not_an_object", "not_an_object"]
        );
    }

    #[test]
    fn one_object_is_one_event_and_an_empty_array_none() {
        assert_eq!(judge(EVENT.as_bytes(), 4096).expect("readable").len(), 1);
        assert_eq!(judge(b"[ ]", 4096).expect("readable").len(), 0);
    }

    #[test]
    fn a_body_that_is_not_json_is_refused_as_a_whole() {
        let last_is_cut = format!("[{EVENT},{}", &EVENT[..EVENT.len() - 1]);
        let trailing = format!("[{EVENT}] x");
        let raw_control = EVENT.replace("test", "te\u{1}st");
        let in_array = format!("[{raw_control}]");
        for bad in ["", " ", "nonsense", "{", "[", "[1,]", &last_is_cut, &trailing, &raw_control, &in_array] {
            let error = judge(bad.as_bytes(), 4096).expect_err(bad);
            assert!(matches!(error, Unreadable::NotJson(_)), "{bad}: {error}");
        }
        assert!(matches!(judge(b"[\"\xff\"]", 4096), Err(Unreadable::NotJson(_))));
    }

    #[test]
    fn json_that_the_lake_cannot_hold_is_invalid_and_not_unreadable() {
        let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
        let twice = EVENT.replace("\"id\": 1", "\"type\": \"view\"");
        let half = EVENT.replace("test", "\\ud800");
        let body = format!("[{deep},{twice},{half}]");
        let judged = judge(body.as_bytes(), LARGEST_KEPT_EVENT).expect("readable");
        let codes: Vec<_> = judged.iter().map(code).collect();
        assert_eq!(codes, ["too_deep", "duplicate_key", "invalid_unicode"]);
        let nested = EVENT.replace("\"/home\"", &deep);
        let judged = judge(nested.as_bytes(), LARGEST_KEPT_EVENT).expect("readable");
        assert_eq!(code(&judged[0]), "too_deep");
    }

    #[test]
    fn a_large_event_is_set_aside_and_one_that_no_record_holds_is_refused() {
        let large = EVENT.replace("/home", &"x".repeat(5000));
        let body = format!("[{EVENT},{large}]");
        let judged = judge(body.as_bytes(), 4096).expect("readable");
        assert!(judged[0].key.is_ok());
        assert_eq!(code(&judged[1]), "too_large");
        let monstrous = format!("[{EVENT},\"{}\"]", "x".repeat(LARGEST_KEPT_EVENT));
        let error = judge(monstrous.as_bytes(), 4096).expect_err("too large");
        assert_eq!(error, Unreadable::TooLarge { index: 1, bytes: LARGEST_KEPT_EVENT + 2 });
    }

    #[test]
    fn a_line_is_an_event_and_a_bad_one_spoils_no_other() {
        let body = format!("{EVENT}\r\n\n  \n{{\n[{EVENT}]\n \"\u{1}\"\n{EVENT}");
        let judged = read(body.as_bytes(), Format::Lines, 4096).expect("lines");
        let codes: Vec<_> = judged
            .iter()
            .map(|judged| judged.key.as_ref().map_or_else(|refusal| refusal.code, |_| ""))
            .collect();
        assert_eq!(codes, ["", "not_json", "not_an_object", "not_json", ""]);
        assert_eq!(*judged[0].bytes, *EVENT.as_bytes());
        assert_eq!(code(&read(b"\xff", Format::Lines, 4096).expect("a line")[0]), "not_utf8");
        assert_eq!(read(b" \n", Format::Lines, 4096).expect("none").len(), 0);
    }

    #[test]
    fn more_events_than_are_taken_are_refused_together() {
        for (body, format) in [(&b"[1,2,3]"[..], Format::Document), (b"1\n2\n3", Format::Lines)] {
            assert_eq!(split(body, format, 3).expect("three").len(), 3);
            assert_eq!(split(body, format, 2), Err(Unreadable::TooMany { most: 2 }));
        }
        assert!(matches!(split(b"[1,2,3", Format::Document, 2), Err(Unreadable::NotJson(_))));
    }

    #[test]
    fn nothing_that_is_said_of_an_event_repeats_an_address() {
        let rules = Rules { max_event: 4096, anonymize: true };
        for bad in
            [r#"{"type":{"ip":"198.51.100.9"}}"#, "198.51.100.9", r#""198.51.100.9""#, "[\"198.51.100.9\""]
        {
            let judged = super::judge(&[bad.as_bytes()], Format::Lines, rules).expect("a line");
            let refusal = judged[0].key.as_ref().expect_err("invalid");
            assert!(!refusal.message.contains("100.9"), "{}", refusal.message);
            assert!(!String::from_utf8_lossy(&judged[0].bytes).contains("100.9"));
        }
    }

    fn any_json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        let name = prop_oneof![
            Just("type".to_owned()),
            Just("event".to_owned()),
            Just("timestamp".to_owned()),
            any::<String>()
        ];
        leaf.prop_recursive(5, 40, 6, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
                prop::collection::vec((name.clone(), inner), 0..6)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_json_values_are_judged_one_by_one_and_kept_whole(values in prop::collection::vec(any_json(), 0..6)) {
            let texts: Vec<String> = values.iter().map(ToString::to_string).collect();
            let array = format!("[{}]", texts.join(" ,\n"));
            let judged = judge(array.as_bytes(), usize::MAX).expect("JSON");
            prop_assert_eq!(&kept(&judged), &texts);
            let lines = texts.join("\n");
            let by_line = read(lines.as_bytes(), Format::Lines, usize::MAX).expect("lines");
            prop_assert_eq!(&kept(&by_line), &texts);
            for text in texts.iter().filter(|text| !text.starts_with('[')) {
                prop_assert_eq!(kept(&judge(text.as_bytes(), usize::MAX).expect("JSON")), [text.clone()]);
            }
        }

        #[test]
        fn any_bytes_are_answered(body in prop::collection::vec(any::<u8>(), 0..300)) {
            let _ = judge(&body, 100);
            let lines = body.split(|byte| *byte == b'\n').filter(|line| !line.trim_ascii().is_empty()).count();
            prop_assert_eq!(read(&body, Format::Lines, 100).expect("lines").len(), lines);
        }
    }

    fn kept(judged: &[Judged<'_>]) -> Vec<String> {
        judged.iter().map(|judged| String::from_utf8(judged.bytes.to_vec()).expect("UTF-8")).collect()
    }
}
