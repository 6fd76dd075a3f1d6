//! The collector's HTTP surface: `GET /ping` and `POST /collect`, with their limits as tower layers.
//!
//! | answer | when |
//! | --- | --- |
//! | 200 | every event has its verdict and at least one is acknowledged, or none was to be stored; an empty body has no verdicts |
//! | 400 | the body is no JSON, or not what its encoding says |
//! | 401 | there are write keys and the request has none of them |
//! | 403 | it comes from a web page of a site that is not allowed |
//! | 408 | the body did not arrive in time, or too slowly |
//! | 413 | the body, or one event in it, is larger than what is taken |
//! | 415 | the content type or encoding is not known |
//! | 429 | its client came too often; with `Retry-After` |
//! | 503 | no event is acknowledged: Kafka is away, or the collector is busy; with `Retry-After` |

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, Bytes};
use axum::error_handling::HandleErrorLayer;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use millrace_common::telemetry::{TRACEPARENT, TRACES, continue_trace, traceparent};
use tower::ServiceBuilder;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::timeout::TimeoutLayer;
use tracing::{Instrument, Span, error, field, info_span};

use super::Config;
use super::answer::{Answer, Verdict};
use super::body::{Judged, Rules, judge, split};
use super::drain::{Patience, drain};
use super::held::held;
use super::keys::WriteKeys;
use super::link::Link;
use super::media::{encoding, format};
use super::metrics::Metrics;
use super::origin::Origins;
use super::producer::Delivered;
use super::rate::{RateLimit, RateLimitLayer};
use super::read::{Limits, ReadError, decoded, read};
use super::refusal::{RefusalCode, Refused, unread};
use super::room::{Memory, Room};

/// What a request may take beyond its body's and Kafka's deadlines.
pub(super) const MARGIN: Duration = Duration::from_secs(5);
/// What an event costs beside its bytes: what is known of it, its record's report, its verdict.
const EVENT_COST: usize = 512;

/// What every request needs; behind one pointer, since each gets it.
#[derive(Debug)]
struct Collector {
    link: Link,
    metrics: Metrics,
    memory: Memory,
    limits: Limits,
    rules: Rules,
    max_events: usize,
    origins: Origins,
    keys: Option<WriteKeys>,
    respects_dnt: bool,
}

pub(super) fn routes(
    config: &Config,
    link: &Link,
    metrics: &Metrics,
    keys: Option<WriteKeys>,
    rate: Option<Arc<RateLimit>>,
) -> Router {
    let size = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    let origins = Origins::new(config.allow_origin.clone());
    let cors = origins.layer();
    let collector = Arc::new(Collector {
        link: link.clone(),
        metrics: metrics.clone(),
        memory: Memory::new(config.body_bytes(), metrics.body_bytes.clone()),
        limits: Limits {
            wire: size(config.max_body),
            decoded: size(config.max_decoded),
            time: config.body_timeout,
            least_rate: config.min_body_rate,
        },
        rules: Rules { max_event: size(config.max_event), anonymize: config.anonymize_ip },
        max_events: config.max_events as usize,
        origins,
        keys,
        respects_dnt: config.respect_dnt,
    });
    let counted = metrics.clone();
    let patience = Patience { bytes: config.max_body.saturating_mul(2), time: config.body_timeout };
    let limits = ServiceBuilder::new()
        .map_response(move |response: Response| {
            let refused = response.extensions().get().map(|RefusalCode(code)| *code);
            counted.count_request(response.status().as_u16(), refused);
            response
        })
        .layer(option_layer(cors))
        .layer(axum::middleware::from_fn_with_state(patience, drain))
        .layer(option_layer(rate.map(|rate| RateLimitLayer::new(rate, config.trust_forwarded_for))))
        .layer(HandleErrorLayer::new(|_: tower::BoxError| async { Refused::busy() }))
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
            config.body_timeout + config.delivery_timeout + MARGIN,
        ));
    Router::new()
        .route("/collect", post(collect).layer(limits).with_state(collector))
        .route("/ping", get(|| async { "pong\n" }))
}

async fn collect(State(collector): State<Arc<Collector>>, request: Request<Body>) -> Response {
    let span = info_span!(
        target: TRACES,
        "POST /collect",
        otel.kind = "server",
        http.request.method = "POST",
        http.route = "/collect",
        http.response.status_code = field::Empty,
        messaging.batch.message_count = field::Empty,
    );
    if span.is_disabled() {
        return respond(collector.answer(request, &span).await);
    }
    if let Some(parent) = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok()) {
        continue_trace(&span, parent);
    }
    let response = respond(collector.answer(request, &span).instrument(span.clone()).await);
    span.record("http.response.status_code", response.status().as_u16());
    response
}

fn respond(answered: Result<(Answer, Room), Refused>) -> Response {
    match answered {
        Ok((answer, room)) => answer.into_response(|text| held(text, room)),
        Err(refused) => refused.into_response(),
    }
}

impl Collector {
    /// The answer, and the room that it takes until it is written.
    async fn answer(&self, request: Request<Body>, span: &Span) -> Result<(Answer, Room), Refused> {
        self.admit(&request)?;
        let headers = request.headers();
        let format = format(headers)?;
        let encoding = encoding(headers)?;
        let is_stored = !(self.respects_dnt && asks_not_to_be_tracked(headers));
        let producer =
            if is_stored { Some(self.link.producer().map_err(Refused::kafka_away)?) } else { None };
        let announced = announced_length(headers);
        if announced.is_some_and(|bytes| bytes > self.limits.wire as u64) {
            return Err(unread(ReadError::TooLarge, &self.limits));
        }
        let mut room = self.memory.room();
        let wire = read(request.into_body(), self.limits, &mut room).await;
        let mut body = wire.map_err(|error| unread(error, &self.limits))?;
        if let Some(encoding) = encoding {
            (body, room) = decoded(encoding, body, self.limits, room)
                .await
                .map_err(|error| unread(error, &self.limits))?;
        }
        let events = split(&body, format, self.max_events)?;
        self.make_room(&mut room, &body, events.len())?;
        let events = judge(&events, format, self.rules)?;
        self.make_room_for_the_answer(&mut room, &events)?;
        span.record("messaging.batch.message_count", events.len());
        let anonymized = events.iter().filter(|event| matches!(event.bytes, Cow::Owned(_))).count();
        self.metrics.anonymized.inc_by(anonymized as u64);
        let Some(producer) = producer else {
            let answer = Answer::new(vec![Verdict::NotStored; events.len()]);
            self.metrics.count(&answer, "");
            return Ok((answer, room));
        };
        let start = Instant::now();
        let delivered = producer.produce(&events, traceparent(span).as_deref()).await;
        self.metrics.produce_seconds.observe(start.elapsed().as_secs_f64());
        let answer = Answer::new(verdicts(events, &delivered));
        self.metrics.count(&answer, delivered.trouble.code());
        Ok((answer, room))
    }

    /// Whether this client may send anything at all.
    fn admit(&self, request: &Request<Body>) -> Result<(), Refused> {
        self.origins.check(request.headers()).map_err(|origin| {
            Refused::new(
                StatusCode::FORBIDDEN,
                "origin_not_allowed",
                format!("pages of {origin:?} may not send events here: --allow-origin lists those that may"),
            )
        })?;
        match &self.keys {
            Some(keys) if !keys.allow(request.headers(), request.uri()) => Err(Refused::new(
                StatusCode::UNAUTHORIZED,
                "no_write_key",
                "no write key that is known here: expected Authorization: Bearer KEY, a basic user, or ?write_key=KEY",
            )),
            _ => Ok(()),
        }
    }

    /// Room for what a body becomes: its events, and where addresses are taken out, a copy of each.
    fn make_room(&self, room: &mut Room, body: &Bytes, events: usize) -> Result<(), Refused> {
        let copies = if self.rules.anonymize { 2 } else { 1 };
        room.grow_to(body.len() * copies + events * EVENT_COST).map_err(|_| Refused::busy())
    }

    /// Room for what is said of the events, as it is and as JSON, before any of them is sent on.
    fn make_room_for_the_answer(&self, room: &mut Room, events: &[Judged<'_>]) -> Result<(), Refused> {
        let words = |event: &Judged<'_>| match &event.key {
            Ok(_) => 0,
            Err(refusal) => refusal.pointer.len() + refusal.message.len(),
        };
        let words: usize = events.iter().map(words).sum();
        // Each character of it may take six in JSON.
        room.grow_to(room.bytes() + words * 7).map_err(|_| Refused::busy())
    }
}

fn asks_not_to_be_tracked(headers: &HeaderMap) -> bool {
    ["dnt", "sec-gpc"].into_iter().any(|name| headers.get(name).is_some_and(|value| value == "1"))
}

fn announced_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn verdicts(events: Vec<Judged<'_>>, delivered: &Delivered) -> Vec<Verdict> {
    events
        .into_iter()
        .zip(&delivered.acknowledged)
        .map(|(event, acknowledged)| match event.key {
            _ if !acknowledged => Verdict::Retry { message: delivered.trouble.to_string() },
            Ok(_) => Verdict::Ok,
            Err(refusal) => Verdict::Invalid {
                code: refusal.code.into(),
                pointer: refusal.pointer,
                message: refusal.message,
            },
        })
        .collect()
}
