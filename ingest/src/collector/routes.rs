//! The collector's HTTP surface: `GET /ping` and `POST /collect`, with their limits as tower layers.
//!
//! | answer | when |
//! | --- | --- |
//! | 200 | every event has its verdict and at least one is acknowledged; an empty array has no verdicts |
//! | 400 | the body is no JSON |
//! | 408 | the body did not arrive in time |
//! | 413 | the body, or one event in it, is larger than what is taken |
//! | 415 | the content type is not `application/json` |
//! | 503 | no event is acknowledged: Kafka is away, or the collector is busy; with `Retry-After` |

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::error_handling::HandleErrorLayer;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use millrace_common::units::format_bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use tracing::error;

use super::Config;
use super::answer::{Answer, Refused, Verdict};
use super::body::{Judged, Unreadable, judge};
use super::drain::{Patience, drain};
use super::link::Link;
use super::metrics::Metrics;
use super::producer::Delivered;

/// How long a body may take to arrive.
pub(super) const BODY_DEADLINE: Duration = Duration::from_secs(15);
/// What a request may take beyond its body's and Kafka's deadlines.
pub(super) const MARGIN: Duration = Duration::from_secs(5);
/// The unit of the bodies' budget: a semaphore counts in 32 bits.
const BUDGET_UNIT: u64 = 1 << 10;

#[derive(Debug, Clone)]
struct Collector {
    link: Link,
    metrics: Metrics,
    /// Of the bodies that are being worked on, in [`BUDGET_UNIT`]s.
    budget: Arc<Semaphore>,
    max_body: u64,
    max_event: usize,
}

pub(super) fn routes(config: &Config, link: &Link, metrics: &Metrics) -> Router {
    let collector = Collector {
        link: link.clone(),
        metrics: metrics.clone(),
        budget: Arc::new(Semaphore::new(units(config.body_bytes()) as usize)),
        max_body: config.max_body,
        max_event: usize::try_from(config.max_event).unwrap_or(usize::MAX),
    };
    let counted = metrics.clone();
    let patience = Patience { bytes: config.max_body.saturating_mul(2), time: BODY_DEADLINE };
    let limits = ServiceBuilder::new()
        .map_response(move |response: Response| {
            counted.count_request(response.status().as_u16());
            response
        })
        .layer(axum::middleware::from_fn_with_state(patience, drain))
        .layer(HandleErrorLayer::new(|_: tower::BoxError| async { too_many_requests() }))
        .layer(LoadShedLayer::new())
        .layer(GlobalConcurrencyLimitLayer::new(config.max_requests as usize))
        .layer(CatchPanicLayer::custom(|_: Box<dyn std::any::Any + Send>| {
            // The panic's own words are in the log already.
            error!("a request made the collector panic");
            Refused::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal",
                "the collector failed on this request",
            )
            .into_response()
        }))
        // What the handler's own deadlines leave.
        .layer(TimeoutLayer::with_status_code(
            StatusCode::REQUEST_TIMEOUT,
            BODY_DEADLINE + config.delivery_timeout + MARGIN,
        ));
    Router::new()
        .route("/collect", post(collect).layer(limits).with_state(collector))
        .route("/ping", get(|| async { "pong\n" }))
}

fn units(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(BUDGET_UNIT)).unwrap_or(u32::MAX)
}

fn too_many_requests() -> Refused {
    Refused::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many requests at a time, send it again later")
}

async fn collect(State(collector): State<Collector>, request: Request<Body>) -> Result<Answer, Refused> {
    require_json(request.headers())?;
    let producer = collector.link.producer().map_err(|waiting_for| {
        Refused::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "kafka_away",
            format!("waiting for {waiting_for}, send it again later"),
        )
    })?;
    let announced = announced_length(request.headers());
    if announced.is_some_and(|bytes| bytes > collector.max_body) {
        return Err(collector.too_large(announced));
    }
    let _reserved = collector.reserve(announced.unwrap_or(collector.max_body))?;
    let body = collector.read(request).await?;
    let held = i64::try_from(body.len()).unwrap_or(i64::MAX);
    collector.metrics.body_bytes.inc_by(held);
    let _held = Held { metrics: &collector.metrics, bytes: held };

    let events = judge(&body, collector.max_event).map_err(|unreadable| {
        let (status, code) = match unreadable {
            Unreadable::NotJson(_) => (StatusCode::BAD_REQUEST, "not_json"),
            Unreadable::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "event_too_large"),
        };
        Refused::new(status, code, unreadable.to_string())
    })?;
    let start = Instant::now();
    let delivered = producer.produce(&events).await;
    collector.metrics.produce_seconds.observe(start.elapsed().as_secs_f64());
    let answer = Answer::new(verdicts(events, &delivered));
    collector.metrics.count(&answer);
    Ok(answer)
}

impl Collector {
    /// Room for a body of `bytes`.
    fn reserve(&self, bytes: u64) -> Result<SemaphorePermit<'_>, Refused> {
        self.budget.try_acquire_many(units(bytes)).map_err(|_| too_many_requests())
    }

    async fn read(&self, request: Request<Body>) -> Result<Bytes, Refused> {
        let limit = usize::try_from(self.max_body).unwrap_or(usize::MAX);
        let body = axum::body::to_bytes(request.into_body(), limit);
        match tokio::time::timeout(BODY_DEADLINE, body).await {
            Ok(Ok(bytes)) => Ok(bytes),
            Ok(Err(error)) if is_over_limit(&error) => Err(self.too_large(None)),
            Ok(Err(error)) => Err(Refused::new(
                StatusCode::BAD_REQUEST,
                "cut_off",
                format!("the body was cut off: {error}"),
            )),
            Err(_) => Err(Refused::new(
                StatusCode::REQUEST_TIMEOUT,
                "body_timeout",
                format!("the body did not arrive within {} s", BODY_DEADLINE.as_secs()),
            )),
        }
    }

    fn too_large(&self, announced: Option<u64>) -> Refused {
        let found = announced.map_or_else(|| "more".to_owned(), format_bytes);
        Refused::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "body_too_large",
            format!(
                "the body has {found}, expected at most {}: send fewer events",
                format_bytes(self.max_body)
            ),
        )
    }
}

fn is_over_limit(error: &axum::Error) -> bool {
    std::error::Error::source(error).is_some_and(|source| source.is::<http_body_util::LengthLimitError>())
}

/// Counts a body as long as it is worked on, also when the client leaves.
struct Held<'a> {
    metrics: &'a Metrics,
    bytes: i64,
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.metrics.body_bytes.dec_by(self.bytes);
    }
}

fn require_json(headers: &HeaderMap) -> Result<(), Refused> {
    let found = headers.get(header::CONTENT_TYPE).map(|value| String::from_utf8_lossy(value.as_bytes()));
    let media_type = found.as_deref().and_then(|value| value.split(';').next()).map(str::trim);
    if media_type.is_some_and(|media_type| media_type.eq_ignore_ascii_case("application/json")) {
        return Ok(());
    }
    let found = found.map_or_else(|| "none".to_owned(), |value| format!("{value:?}"));
    Err(Refused::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("found Content-Type {found}, expected \"application/json\""),
    ))
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn verdicts(events: Vec<Judged<'_>>, delivered: &Delivered) -> Vec<Verdict> {
    let why = delivered.reason.as_ref().map_or_else(|| "no answer in time".to_owned(), ToString::to_string);
    events
        .into_iter()
        .zip(&delivered.acknowledged)
        .map(|(event, acknowledged)| match event.key {
            _ if !acknowledged => Verdict::Retry { message: format!("kafka did not acknowledge it ({why})") },
            Ok(_) => Verdict::Ok,
            Err(refusal) => Verdict::Invalid {
                code: refusal.code.into(),
                pointer: refusal.pointer,
                message: refusal.message,
            },
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn json_is_asked_for_by_its_media_type() {
        let headers = |value: &'static str| {
            HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::from_static(value))])
        };
        assert!(require_json(&headers("application/json")).is_ok());
        assert!(require_json(&headers("Application/JSON; charset=utf-8")).is_ok());
        for bad in ["text/plain", "", "application/jsonp", "application/x-www-form-urlencoded"] {
            let refused = require_json(&headers(bad)).expect_err(bad);
            assert_eq!(refused.status, StatusCode::UNSUPPORTED_MEDIA_TYPE);
        }
        assert!(require_json(&HeaderMap::new()).is_err());
    }
}
