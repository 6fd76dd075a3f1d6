//! The body of a request to events, each judged. Pure: nothing here knows of HTTP or Kafka.
//!
//! An event is kept exactly as the client wrote it: it is a slice of the body, never written anew.

use millrace_common::event::{self, RejectionCode};
use serde_json::value::RawValue;

use super::LARGEST_KEPT_EVENT;

/// What is wrong with an event that is JSON.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) code: &'static str,
    /// JSON pointer (RFC 6901) into the event.
    pub(super) pointer: String,
    pub(super) message: String,
}

/// An event of a request.
#[derive(Debug)]
pub(super) struct Judged<'a> {
    pub(super) bytes: &'a [u8],
    /// The record's key, the event's `package_id`; or why the event is invalid.
    pub(super) key: Result<String, Refusal>,
}

/// A body of which nothing can be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("the body is not JSON ({0}), expected one event object or an array of them")]
    NotJson(String),
    #[error(
        "event {index} has {bytes} bytes, expected at most {LARGEST_KEPT_EVENT}: too large to be set aside"
    )]
    TooLarge { index: usize, bytes: usize },
}

/// Splits `body`, one event or an array of events, and judges each. An event of more than `max_event` bytes is
/// invalid.
///
/// Errors: the body as a whole is not JSON, or holds an event that not even the invalid topic takes.
pub(super) fn judge(body: &[u8], max_event: usize) -> Result<Vec<Judged<'_>>, Unreadable> {
    let is_array = body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[');
    if !is_array {
        return Ok(vec![judge_event(0, body, max_event)?]);
    }
    let events: Vec<&RawValue> =
        serde_json::from_slice(body).map_err(|error| Unreadable::NotJson(error.to_string()))?;
    let events = events.iter().enumerate();
    events.map(|(index, event)| judge_event(index, event.get().as_bytes(), max_event)).collect()
}

fn judge_event(index: usize, bytes: &[u8], max_event: usize) -> Result<Judged<'_>, Unreadable> {
    if bytes.len() > LARGEST_KEPT_EVENT {
        return Err(Unreadable::TooLarge { index, bytes: bytes.len() });
    }
    let checked = event::check(bytes);
    // What isn't JSON at all has no events; no matter how large.
    if let Err(rejection) = &checked
        && matches!(rejection.code, RejectionCode::NotJson | RejectionCode::NotUtf8)
    {
        return Err(Unreadable::NotJson(rejection.message.clone()));
    }
    let key = if bytes.len() > max_event {
        Err(Refusal {
            code: "too_large",
            pointer: String::new(),
            message: format!("found {} bytes, expected at most {max_event}", bytes.len()),
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

    const EVENT: &str = r#"{"id": 1, "type": "click", "package_id": "test-123", "event": {"user_agent": "Mozilla/5.0", "ip": "192.168.1.1", "customer_id": 12345, "timestamp": "2024-01-01T00:00:00Z", "page": "/home"}}"#;

    fn code<'a>(judged: &'a Judged<'_>) -> &'a str {
        judged.key.as_ref().expect_err("invalid").code
    }

    #[test]
    fn each_event_of_an_array_keeps_its_bytes_and_its_place() {
        let odd = "{\"type\" :\t\"a\\u0062\",\"package_id\":\"\\u0061\", \"event\":{\"timestamp\":\"2024-01-01T00:00:00+02:00\", \"x\":1.0e2}}";
        let body = format!(" [ {EVENT} ,\n{odd},{{}} , 7,null]\n");
        let judged = judge(body.as_bytes(), 4096).expect("readable");
        let texts: Vec<_> =
            judged.iter().map(|judged| std::str::from_utf8(judged.bytes).expect("text")).collect();
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
}
