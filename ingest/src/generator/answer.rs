//! What the collector's answer says. Read by a form of its own, not the collector's: the generator is a client as any
//! other, and a verdict that it does not know must not be taken for one that it does.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;

const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);
const USUAL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What came of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Heard {
    /// Nothing left this process.
    NotSent(String),
    /// It left, and no answer was understood.
    Nothing(String),
    /// The collector took none of it, and will not (`wait` is `None`) or not now.
    Refused { reason: String, wait: Option<Duration> },
    /// A verdict per event, and how long to wait before sending again what needs it.
    Verdicts { verdicts: Vec<Verdict>, wait: Option<Duration> },
}

/// What the collector says of an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Ok,
    Invalid {
        code: String,
    },
    /// Kafka did not acknowledge it: it may be there once or not at all.
    Retry,
    /// It was thrown away, as its sender wished.
    NotStored,
}

#[derive(Deserialize)]
struct Answer {
    verdicts: Vec<Said>,
}

#[derive(Deserialize)]
struct Said {
    verdict: Word,
    code: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Word {
    Ok,
    Invalid,
    Retry,
    NotStored,
}

#[derive(Deserialize)]
struct ErrorBody {
    error: ErrorDetail,
}

#[derive(Deserialize)]
struct ErrorDetail {
    message: String,
}

/// Reads the answer to a request of `events` events.
pub(super) fn read(status: StatusCode, headers: &HeaderMap, body: &[u8], events: usize) -> Heard {
    let wait = retry_after(status, headers);
    if matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE)
        && let Ok(answer) = serde_json::from_slice::<Answer>(body)
    {
        if answer.verdicts.len() != events {
            return Heard::Nothing(format!("{} verdicts for {events} events", answer.verdicts.len()));
        }
        return Heard::Verdicts { verdicts: answer.verdicts.into_iter().map(Verdict::from).collect(), wait };
    }
    // A server's fault may have come at any time; with these the collector has taken nothing.
    let takes_nothing = status == StatusCode::SERVICE_UNAVAILABLE || status.is_client_error();
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { error }) if takes_nothing && status != StatusCode::REQUEST_TIMEOUT => {
            Heard::Refused { reason: format!("{status}: {}", error.message), wait }
        }
        _ => Heard::Nothing(format!("an answer of status {status} without verdicts")),
    }
}

impl From<Said> for Verdict {
    fn from(said: Said) -> Self {
        match said.verdict {
            Word::Ok => Self::Ok,
            Word::Invalid => Self::Invalid { code: said.code.unwrap_or_default() },
            Word::Retry => Self::Retry,
            Word::NotStored => Self::NotStored,
        }
    }
}

/// How long the collector wants to be left alone, if it asks for that.
fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let seconds =
        headers.get(RETRY_AFTER).map(|value| value.to_str().ok().and_then(|text| text.parse().ok()));
    match seconds {
        Some(seconds) => {
            Some(seconds.map_or(USUAL_RETRY_AFTER, Duration::from_secs).min(LONGEST_RETRY_AFTER))
        }
        None => matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS)
            .then_some(USUAL_RETRY_AFTER),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(status: u16, body: &str) -> &'static str {
        let status = StatusCode::from_u16(status).expect("status");
        match read(status, &HeaderMap::new(), body.as_bytes(), 1) {
            Heard::NotSent(_) => "not sent",
            Heard::Nothing(_) => "nothing",
            Heard::Refused { wait: Some(_), .. } => "refused now",
            Heard::Refused { wait: None, .. } => "refused",
            Heard::Verdicts { .. } => "verdicts",
        }
    }

    #[test]
    fn only_what_the_collector_surely_did_not_take_counts_as_refused() {
        let verdicts = r#"{"verdicts":[{"verdict":"ok"}],"ok":1,"invalid":0,"retry":0}"#;
        let two = r#"{"verdicts":[{"verdict":"ok"},{"verdict":"ok"}],"ok":2,"invalid":0,"retry":0}"#;
        let foreign = r#"{"verdicts":[{"verdict":"stored elsewhere"}]}"#;
        let error = r#"{"error":{"code":"x","message":"y"}}"#;
        for (status, body, expected) in [
            (200, verdicts, "verdicts"),
            (503, verdicts, "verdicts"),
            (200, two, "nothing"),
            (200, foreign, "nothing"),
            (200, "", "nothing"),
            (500, verdicts, "nothing"),
            (503, error, "refused now"),
            (429, error, "refused now"),
            (400, error, "refused"),
            (413, error, "refused"),
            (408, error, "nothing"),
            (500, error, "nothing"),
            (502, "bad gateway", "nothing"),
            (503, "proxy", "nothing"),
        ] {
            assert_eq!(heard(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn each_verdict_is_told_apart() {
        let body = br#"{"verdicts":[{"verdict":"ok"},{"verdict":"invalid","code":"empty","pointer":"/type","message":"m"},
            {"verdict":"retry","message":"m"},{"verdict":"not_stored","reason":"r"}],"ok":1}"#;
        let Heard::Verdicts { verdicts, wait } = read(StatusCode::OK, &HeaderMap::new(), body, 4) else {
            panic!("no verdicts")
        };
        let expected =
            [Verdict::Ok, Verdict::Invalid { code: "empty".into() }, Verdict::Retry, Verdict::NotStored];
        assert_eq!((verdicts, wait), (expected.to_vec(), None));
    }

    #[test]
    fn the_wait_that_was_asked_for_is_kept_within_reason() {
        let headers =
            |value: &'static str| HeaderMap::from_iter([(RETRY_AFTER, value.parse().expect("value"))]);
        let busy = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(retry_after(busy, &headers("3")), Some(Duration::from_secs(3)));
        assert_eq!(retry_after(busy, &headers("86400")), Some(LONGEST_RETRY_AFTER));
        assert_eq!(retry_after(busy, &headers("Fri, 31 Dec 1999 23:59:59 GMT")), Some(USUAL_RETRY_AFTER));
        assert_eq!(retry_after(busy, &HeaderMap::new()), Some(USUAL_RETRY_AFTER));
        assert_eq!(retry_after(StatusCode::OK, &headers("3")), Some(Duration::from_secs(3)));
        assert_eq!(retry_after(StatusCode::BAD_REQUEST, &HeaderMap::new()), None);
    }
}
