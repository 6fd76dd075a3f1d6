//! What the collector says: a verdict per event, or why a request as a whole was not taken. Pure form.

use std::borrow::Cow;

use axum::body::Bytes;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// Seconds after which a client that was sent away may come again.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// What became of an event. The first two are said only after Kafka acknowledged the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// It is in the raw topic.
    Ok,
    /// It is in the invalid topic.
    Invalid { code: Cow<'static, str>, pointer: String, message: String },
    /// Kafka did not acknowledge it, so that it may be there once or not at all: send it again.
    Retry { message: String },
}

/// The answer to a request whose events were read: one verdict for each, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer {
    pub verdicts: Vec<Verdict>,
    pub ok: u64,
    pub invalid: u64,
    pub retry: u64,
}

impl Answer {
    pub(super) fn new(verdicts: Vec<Verdict>) -> Self {
        let mut answer = Self::default();
        for verdict in &verdicts {
            match verdict {
                Verdict::Ok => answer.ok += 1,
                Verdict::Invalid { .. } => answer.invalid += 1,
                Verdict::Retry { .. } => answer.retry += 1,
            }
        }
        answer.verdicts = verdicts;
        answer
    }

    /// 503 when there were events and none is acknowledged.
    pub(super) fn status(&self) -> StatusCode {
        if self.retry > 0 && self.ok + self.invalid == 0 {
            StatusCode::SERVICE_UNAVAILABLE
        } else {
            StatusCode::OK
        }
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        json(self.status(), &self)
    }
}

/// A request of which no event was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
}

/// The body of a refused request's answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    pub error: ErrorDetail,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Stable: programs match on it.
    pub code: Cow<'static, str>,
    pub message: String,
}

impl Refused {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into() }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let error = ErrorDetail { code: self.code.into(), message: self.message };
        json(self.status, &ErrorBody { error })
    }
}

fn json(status: StatusCode, body: &impl Serialize) -> Response {
    let text = serde_json::to_vec(body).unwrap_or_else(|error| panic!("strings and numbers: {error}"));
    let mut response = (status, Bytes::from(text)).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answer_has_the_verdicts_in_order_and_their_counts() {
        let answer = Answer::new(vec![
            Verdict::Ok,
            Verdict::Invalid { code: "empty".into(), pointer: "/type".into(), message: "found".into() },
            Verdict::Retry { message: "later".into() },
        ]);
        let text = serde_json::to_string(&answer).expect("JSON");
        assert_eq!(
            text,
            r#"{"verdicts":[{"verdict":"ok"},{"verdict":"invalid","code":"empty","pointer":"/type","message":"found"},{"verdict":"retry","message":"later"}],"ok":1,"invalid":1,"retry":1}"#
        );
        assert_eq!(serde_json::from_str::<Answer>(&text).expect("read back"), answer);
    }

    #[test]
    fn only_events_of_which_none_is_acknowledged_are_service_unavailable() {
        let retry = || Verdict::Retry { message: String::new() };
        let invalid =
            || Verdict::Invalid { code: "x".into(), pointer: String::new(), message: String::new() };
        for (verdicts, expected) in [
            (vec![], 200),
            (vec![Verdict::Ok], 200),
            (vec![retry(), Verdict::Ok], 200),
            (vec![retry(), invalid()], 200),
            (vec![retry(), retry()], 503),
        ] {
            let response = Answer::new(verdicts).into_response();
            assert_eq!(response.status().as_u16(), expected);
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), expected == 503);
        }
    }
}
