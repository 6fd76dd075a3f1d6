//! One trace from an HTTP request to the object in the lake: the W3C `traceparent` goes with the record through
//! Kafka, and whoever commits the record goes on with its trace.
//!
//! Spans of traces have the target [`TRACES`]. While nobody asks for traces they are disabled, and nothing here costs
//! more than looking that up.

use std::collections::HashMap;
use std::ops::Range;

use opentelemetry::Context;
use opentelemetry::propagation::TextMapPropagator;
use opentelemetry::trace::{Status, TraceContextExt};
use opentelemetry_sdk::propagation::TraceContextPropagator;
use opentelemetry_sdk::trace::SdkTracer;
use tracing::{Level, Span, Subscriber};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::FilterFn;
use tracing_subscriber::registry::LookupSpan;

/// Target of the spans that become traces: `info_span!(target: TRACES, …)`.
pub const TRACES: &str = "millrace_traces";
/// Name of the header, of HTTP requests and of Kafka records alike (W3C Trace Context, level 1).
pub const TRACEPARENT: &str = "traceparent";
/// Of this many records of one commit the traces are continued; the others end at their request.
pub const MOST_TRACES: usize = 8;
/// `00-<32 hex>-<16 hex>-<2 hex>`; a later version may append to it.
const LONGEST_TRACEPARENT: usize = 256;

/// The layer that makes traces of spans with the target [`TRACES`].
pub(super) fn layer<S>(tracer: SdkTracer) -> impl Layer<S>
where
    S: Subscriber + for<'a> LookupSpan<'a>,
{
    tracing_opentelemetry::layer()
        .with_tracer(tracer)
        .with_location(false)
        .with_threads(false)
        .with_target(false)
        .with_tracked_inactivity(false)
        .with_context_activation(false)
        .with_filter(FilterFn::new(|metadata| metadata.target() == TRACES))
}

/// Makes `span`, which was not entered yet, a part of the trace that `value` names. False, and a trace of its own,
/// if `value` is no `traceparent`.
pub fn continue_trace(span: &Span, value: &str) -> bool {
    if span.is_disabled() {
        return false;
    }
    parse(value).is_some_and(|parent| span.set_parent(parent).is_ok())
}

/// The `traceparent` that continues the current span's trace elsewhere; `None` if it is not sampled.
pub fn inject() -> Option<String> {
    traceparent(&Span::current())
}

/// The `traceparent` that continues `span`'s trace elsewhere; `None` if it is not sampled.
pub fn traceparent(span: &Span) -> Option<String> {
    if span.is_disabled() {
        return None;
    }
    let context = span.context();
    if !context.span().span_context().is_sampled() {
        return None;
    }
    let mut carrier = HashMap::with_capacity(2);
    TraceContextPropagator::new().inject_context(&context, &mut carrier);
    carrier.remove(TRACEPARENT)
}

fn parse(value: &str) -> Option<Context> {
    if value.len() > LONGEST_TRACEPARENT {
        return None;
    }
    let carrier = HashMap::from([(TRACEPARENT.to_owned(), value.to_owned())]);
    let context = TraceContextPropagator::new().extract_with_context(&Context::new(), &carrier);
    context.span().span_context().is_valid().then_some(context)
}

/// The traces of the records that one commit will hold: the first [`MOST_TRACES`] sampled ones.
#[derive(Debug, Clone, Default)]
pub struct RecordTraces(Vec<(i64, Context)>);

impl RecordTraces {
    /// Takes note of the record at `offset`, if its header `traceparent` names a sampled trace.
    pub fn note(&mut self, offset: i64, traceparent: &[u8]) {
        if !self.takes_more() {
            return;
        }
        let context = std::str::from_utf8(traceparent).ok().and_then(parse);
        if let Some(context) = context.filter(|context| context.span().span_context().is_sampled()) {
            self.0.push((offset, context));
        }
    }

    /// Whether [`RecordTraces::note`] does anything: somebody asks for traces, and there is room for another record's.
    pub fn takes_more(&self) -> bool {
        self.has_room() && tracing::enabled!(target: TRACES, Level::INFO)
    }

    /// Whether there is room for another record.
    pub fn has_room(&self) -> bool {
        self.0.len() < MOST_TRACES
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// A span in each record's own trace, made by `span`, which sets no parent. They begin now and end when they are
    /// dropped.
    pub fn begin(&self, span: impl Fn() -> Span) -> CommitSpans {
        let spans = self.0.iter().map(|(offset, parent)| {
            let span = span();
            // A disabled span has no parent, and needs none.
            let _ = span.set_parent(parent.clone());
            span.set_attribute("offset", *offset);
            (*offset, span)
        });
        CommitSpans(spans.collect())
    }
}

/// What one piece of work looks like in the traces of its records: the same span once in each.
#[derive(Debug, Clone, Default)]
pub struct CommitSpans(Vec<(i64, Span)>);

impl CommitSpans {
    /// Spans within these, for the records whose offsets lie in `offsets`.
    pub fn within(&self, offsets: Range<i64>, span: impl Fn() -> Span) -> CommitSpans {
        let chosen = self.0.iter().filter(|(offset, _)| offsets.contains(offset));
        let spans = chosen.map(|(offset, outer)| {
            let inner = span();
            let _ = inner.set_parent(outer.context());
            inner.set_attribute("offset", *offset);
            (*offset, inner)
        });
        CommitSpans(spans.collect())
    }

    /// Marks the work as failed, because of `reason`.
    pub fn fail(&self, reason: &str) {
        for (_, span) in &self.0 {
            span.set_status(Status::error(reason.to_owned()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use opentelemetry::trace::{SpanId, TracerProvider};
    use opentelemetry_sdk::error::OTelSdkResult;
    use opentelemetry_sdk::trace::{Sampler, SdkTracerProvider, SpanData, SpanExporter};
    use tracing::info_span;
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;

    #[derive(Debug, Clone, Default)]
    struct Sent(Arc<Mutex<Vec<SpanData>>>);

    impl SpanExporter for Sent {
        async fn export(&self, batch: Vec<SpanData>) -> OTelSdkResult {
            self.0.lock().expect("lock").extend(batch);
            Ok(())
        }
    }

    impl Sent {
        fn named(&self, name: &str) -> Vec<SpanData> {
            self.0.lock().expect("lock").iter().filter(|span| span.name == name).cloned().collect()
        }
    }

    /// Runs `work` while traces are made with `ratio`; returns the spans that were sent.
    fn traced(ratio: f64, work: impl FnOnce()) -> Sent {
        let sent = Sent::default();
        let provider = SdkTracerProvider::builder()
            .with_simple_exporter(sent.clone())
            .with_sampler(Sampler::ParentBased(Box::new(Sampler::TraceIdRatioBased(ratio))))
            .build();
        let subscriber = tracing_subscriber::registry().with(layer(provider.tracer("test")));
        tracing::subscriber::with_default(subscriber, work);
        sent
    }

    const CLIENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const CLIENT_UNSAMPLED: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    #[test]
    fn one_trace_goes_from_the_client_through_kafka_to_the_file() {
        let sent = traced(0.0, || {
            let request = info_span!(target: TRACES, "request");
            assert!(continue_trace(&request, CLIENT));
            let header = request.in_scope(inject).expect("sampled by its client");
            assert!(header.starts_with("00-0af7651916cd43dd8448eb211c80319c-"), "{header}");

            let mut records = RecordTraces::default();
            records.note(41, header.as_bytes());
            let commit = records.begin(|| info_span!(target: TRACES, "commit", slot = "s"));
            let file = |key: &'static str| move || info_span!(target: TRACES, "publish", key);
            drop(commit.within(40..42, file("year=2024/x.parquet")));
            drop(commit.within(42..50, file("year=2024/y.parquet")));
        });
        let [request] = &sent.named("request")[..] else { panic!("one request") };
        let [commit] = &sent.named("commit")[..] else { panic!("one commit") };
        let [publish] = &sent.named("publish")[..] else { panic!("the file that holds the record, only") };
        assert_eq!(request.parent_span_id, SpanId::from_hex("b7ad6b7169203331").expect("id"));
        assert_eq!(commit.parent_span_id, request.span_context.span_id());
        assert_eq!(publish.parent_span_id, commit.span_context.span_id());
        for span in [request, commit, publish] {
            let trace = span.span_context.trace_id().to_string();
            assert_eq!(trace, "0af7651916cd43dd8448eb211c80319c", "{}", span.name);
        }
        assert!(commit.attributes.iter().any(|a| a.key.as_str() == "offset" && a.value == 41.into()));
    }

    #[test]
    fn untraced_requests_send_no_header() {
        let sent = traced(0.0, || {
            let alone = info_span!(target: TRACES, "alone");
            assert_eq!(traceparent(&alone), None);
            let refused = info_span!(target: TRACES, "refused");
            assert!(continue_trace(&refused, CLIENT_UNSAMPLED));
            assert_eq!(traceparent(&refused), None);
            let mut records = RecordTraces::default();
            records.note(1, CLIENT_UNSAMPLED.as_bytes());
            assert!(records.is_empty());
        });
        assert!(sent.0.lock().expect("lock").is_empty());
    }

    #[test]
    fn without_traces_nothing_is_kept() {
        let request = info_span!(target: TRACES, "request");
        assert!(!continue_trace(&request, CLIENT));
        assert_eq!(request.in_scope(inject), None);
        let mut records = RecordTraces::default();
        records.note(1, CLIENT.as_bytes());
        assert!(records.is_empty());
    }

    #[test]
    fn what_is_no_traceparent_begins_a_trace_of_its_own() {
        traced(1.0, || {
            let long = format!("{CLIENT}-{}", "a".repeat(LONGEST_TRACEPARENT));
            for bad in ["", "00-0-0-01", "é", &CLIENT.to_uppercase(), &CLIENT.replace("0a", "zz"), &long] {
                let request = info_span!(target: TRACES, "request");
                assert!(!continue_trace(&request, bad), "{bad}");
                assert!(traceparent(&request).is_some_and(|own| !own.contains("0af7651916cd43dd")), "{bad}");
            }
        });
    }

    #[test]
    fn a_commit_of_many_records_continues_the_first_traces_only() {
        let sent = traced(1.0, || {
            let mut records = RecordTraces::default();
            for offset in 0..100 {
                records.note(offset, CLIENT.as_bytes());
            }
            assert!(!records.has_room());
            records.begin(|| info_span!(target: TRACES, "commit")).fail("fenced");
        });
        let commits = sent.named("commit");
        assert_eq!(commits.len(), MOST_TRACES);
        assert!(commits.iter().all(|commit| commit.status == Status::error("fenced")));
    }
}
