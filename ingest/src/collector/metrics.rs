//! The collector's `/metrics`.

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::answer::Answer;
use super::link::Link;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: u16,
}

#[derive(Debug, Clone)]
pub(super) struct Metrics {
    ok: Counter,
    invalid: Counter,
    retry: Counter,
    requests: Family<StatusLabel, Counter>,
    /// Seconds from the first record's hand-over to the last one's acknowledgement.
    pub(super) produce_seconds: Histogram,
    /// Bytes of the bodies that are being worked on.
    pub(super) body_bytes: Gauge,
    pub(super) connections: Gauge,
}

impl Metrics {
    /// The metrics, and the registry that shows them.
    pub(super) fn new(link: Link) -> (Self, Registry) {
        let mut registry = Registry::with_prefix("millrace_collector");
        let events = Family::<VerdictLabel, Counter>::default();
        let verdict = |verdict| events.get_or_create_owned(&VerdictLabel { verdict });
        let metrics = Self {
            ok: verdict("ok"),
            invalid: verdict("invalid"),
            retry: verdict("retry"),
            requests: Family::default(),
            // 1 ms to 16 s.
            produce_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            body_bytes: Gauge::default(),
            connections: Gauge::default(),
        };
        registry.register("events", "Events by verdict", events);
        registry.register("requests", "Requests to /collect by status", metrics.requests.clone());
        registry.register(
            "produce_seconds",
            "From the first record's hand-over to the last one's acknowledgement, per request",
            metrics.produce_seconds.clone(),
        );
        registry.register("body_bytes", "Bytes of bodies being worked on", metrics.body_bytes.clone());
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register_collector(Box::new(Queue(link)));
        (metrics, registry)
    }

    pub(super) fn count(&self, answer: &Answer) {
        self.ok.inc_by(answer.ok);
        self.invalid.inc_by(answer.invalid);
        self.retry.inc_by(answer.retry);
    }

    pub(super) fn count_request(&self, status: u16) {
        self.requests.get_or_create(&StatusLabel { status }).inc();
    }
}

/// Asks the producer when somebody asks for the metrics.
#[derive(Debug)]
struct Queue(Link);

impl prometheus_client::collector::Collector for Queue {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let queued = self.0.producer().map_or(0, |producer| producer.queued());
        let gauge = ConstGauge::new(i64::try_from(queued).unwrap_or(i64::MAX));
        let descriptor = encoder.encode_descriptor(
            "queued_records",
            "Records that Kafka has not acknowledged yet",
            None,
            gauge.metric_type(),
        )?;
        gauge.encode(descriptor)
    }
}
