//! Why a request as a whole was not taken, as its client is told.

use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_common::units::format_bytes;

use super::answer::{ErrorBody, ErrorDetail, RETRY_AFTER, json};
use super::body::Unreadable;
use super::media::{ENCODINGS, Unsupported};
use super::read::{Limits, ReadError};

/// A request of which no event was taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Refused {
    pub(super) status: StatusCode,
    pub(super) code: &'static str,
    pub(super) message: String,
    /// Seconds until the client may come again.
    retry_after: Option<u64>,
}

/// Goes with the answer of a refused request, for the metrics.
#[derive(Debug, Clone, Copy)]
pub(super) struct RefusalCode(pub(super) &'static str);

impl Refused {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let retry_after = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(RETRY_AFTER);
        Self { status, code, message: message.into(), retry_after }
    }

    pub(super) fn busy() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many requests at a time, send it again later")
    }

    #[expect(clippy::needless_pass_by_value, reason = "it is made for this")]
    pub(super) fn kafka_away(waiting_for: String) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "kafka_away",
            format!("waiting for {waiting_for}, send it again later"),
        )
    }

    /// A client that came too often, and has to wait for `wait`.
    pub(super) fn too_often(wait: Duration) -> Self {
        let seconds = wait.as_secs() + 1;
        Self {
            status: StatusCode::TOO_MANY_REQUESTS,
            code: "too_often",
            message: format!("too many requests of this client, send it again in {seconds} s"),
            retry_after: Some(seconds),
        }
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let error = ErrorDetail { code: self.code.into(), message: self.message };
        let mut response = json(self.status, &ErrorBody { error }, Body::from);
        response.extensions_mut().insert(RefusalCode(self.code));
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        match self.status {
            StatusCode::UNAUTHORIZED => {
                headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::UNSUPPORTED_MEDIA_TYPE => {
                headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static(ENCODINGS));
            }
            _ => {}
        }
        response
    }
}

impl From<Unsupported> for Refused {
    fn from(error: Unsupported) -> Self {
        let code = match error {
            Unsupported::MediaType(_) => "unsupported_media_type",
            Unsupported::Encoding(_) => "unsupported_encoding",
        };
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, code, error.to_string())
    }
}

impl From<Unreadable> for Refused {
    fn from(error: Unreadable) -> Self {
        let (status, code) = match error {
            Unreadable::NotJson(_) => (StatusCode::BAD_REQUEST, "not_json"),
            Unreadable::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "event_too_large"),
            Unreadable::TooMany { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_many_events"),
        };
        Self::new(status, code, error.to_string())
    }
}

/// A body that did not come in, by which of the `limits`.
pub(super) fn unread(error: ReadError, limits: &Limits) -> Refused {
    let too_large = |code, found: &str, most: usize| {
        let message =
            format!("the body has more than {} {found}: send fewer events", format_bytes(most as u64));
        Refused::new(StatusCode::PAYLOAD_TOO_LARGE, code, message)
    };
    let too_late = |code, message| Refused::new(StatusCode::REQUEST_TIMEOUT, code, message);
    let bad = |code, message| Refused::new(StatusCode::BAD_REQUEST, code, message);
    match error {
        ReadError::TooLarge => too_large("body_too_large", "as it is sent", limits.wire),
        ReadError::DecodedTooLarge => too_large("decoded_too_large", "decoded", limits.decoded),
        ReadError::TooLate => {
            too_late("body_timeout", format!("the body did not arrive within {:?}", limits.time))
        }
        ReadError::TooSlow(received) => too_late(
            "body_too_slow",
            format!(
                "{received} bytes of the body came, then too few: expected at least {} each second",
                format_bytes(limits.least_rate)
            ),
        ),
        ReadError::CutOff(error) => bad("cut_off", format!("the body was cut off: {error}")),
        ReadError::Broken(error) => bad("not_decodable", error),
        ReadError::NoRoom => Refused::busy(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_comes_too_often_is_told_when_to_come_again() {
        for (wait, expected) in [(1, "1"), (999, "1"), (1001, "2")] {
            let response = Refused::too_often(Duration::from_millis(wait)).into_response();
            assert_eq!(
                (response.status().as_u16(), &response.headers()["retry-after"]),
                (429, &HeaderValue::from_static(expected))
            );
        }
    }
}
