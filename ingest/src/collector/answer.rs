//! What the collector says of events: a verdict for each. Pure form; what it says of requests of which nothing was taken
//! is in `refusal`.

use std::borrow::Cow;

use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

/// Seconds after which a client that was sent away may come again, when nothing better is known.
pub(super) const RETRY_AFTER: u64 = 1;

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
    /// Its client wished not to be tracked, so it was thrown away.
    NotStored,
}

/// The answer to a request whose events were read: one verdict for each, in their order.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Answer {
    pub verdicts: Vec<Verdict>,
    pub ok: u64,
    pub invalid: u64,
    pub retry: u64,
    /// Only there when events were thrown away.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub not_stored: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde hands out references")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Answer {
    pub(super) fn new(verdicts: Vec<Verdict>) -> Self {
        let mut answer = Self::default();
        for verdict in &verdicts {
            match verdict {
                Verdict::Ok => answer.ok += 1,
                Verdict::Invalid { .. } => answer.invalid += 1,
                Verdict::Retry { .. } => answer.retry += 1,
                Verdict::NotStored => answer.not_stored += 1,
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

impl Answer {
    /// The response; `body` makes its body of the JSON text.
    pub(super) fn into_response(self, body: impl FnOnce(Bytes) -> Body) -> Response {
        let status = self.status();
        let mut response = json(status, &self, body);
        if status == StatusCode::SERVICE_UNAVAILABLE {
            response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER.into());
        }
        response
    }
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

pub(super) fn json(
    status: StatusCode,
    answer: &impl Serialize,
    body: impl FnOnce(Bytes) -> Body,
) -> Response {
    let text = serde_json::to_vec(answer).unwrap_or_else(|error| panic!("strings and numbers: {error}"));
    let mut response = (status, body(Bytes::from(text))).into_response();
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
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
            (vec![Verdict::NotStored], 200),
        ] {
            let response = Answer::new(verdicts).into_response(Body::from);
            assert_eq!(response.status().as_u16(), expected);
            assert_eq!(response.headers().contains_key(header::RETRY_AFTER), expected == 503);
        }
    }

    #[test]
    fn what_was_thrown_away_is_counted_where_there_is_any() {
        let text = serde_json::to_string(&Answer::new(vec![Verdict::NotStored])).expect("JSON");
        assert_eq!(
            text,
            r#"{"verdicts":[{"verdict":"not_stored"}],"ok":0,"invalid":0,"retry":0,"not_stored":1}"#
        );
        assert_eq!(serde_json::from_str::<Answer>(&text).expect("read back").not_stored, 1);
    }
}
