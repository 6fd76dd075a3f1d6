//! The collector's `/metrics`.

use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use super::answer::Answer;
use super::health::Way;
use super::link::Link;
use super::producer::Target;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct VerdictLabel {
    verdict: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StatusLabel {
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CodeLabel {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone)]
pub(super) struct Metrics {
    ok: Counter,
    invalid: Counter,
    retry: Counter,
    not_stored: Counter,
    /// Nearly every answer.
    taken: Counter,
    requests: Family<StatusLabel, Counter>,
    refused: Family<CodeLabel, Counter>,
    retries: Family<ReasonLabel, Counter>,
    ended: Family<ReasonLabel, Counter>,
    pub(super) anonymized: Counter,
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
        let requests = Family::<StatusLabel, Counter>::default();
        let verdict = |verdict| events.get_or_create_owned(&VerdictLabel { verdict });
        let metrics = Self {
            ok: verdict("ok"),
            invalid: verdict("invalid"),
            retry: verdict("retry"),
            not_stored: verdict("not_stored"),
            taken: requests.get_or_create_owned(&StatusLabel { status: 200 }),
            requests,
            refused: Family::default(),
            retries: Family::default(),
            ended: Family::default(),
            anonymized: Counter::default(),
            // 1 ms to 16 s.
            produce_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 15)),
            body_bytes: Gauge::default(),
            connections: Gauge::default(),
        };
        registry.register("events", "Events by verdict", events);
        registry.register("requests", "Requests to /collect by status", metrics.requests.clone());
        registry.register("refused", "Requests of which nothing was taken, by code", metrics.refused.clone());
        registry.register(
            "retry_events",
            "Events that their client was told to send again, by reason",
            metrics.retries.clone(),
        );
        registry.register(
            "connections_ended",
            "Connections that the collector ended or did not take, by reason",
            metrics.ended.clone(),
        );
        registry.register(
            "anonymized_events",
            "Events in which an address was zeroed",
            metrics.anonymized.clone(),
        );
        registry.register(
            "produce_seconds",
            "From the first record's hand-over to the last one's acknowledgement, per request",
            metrics.produce_seconds.clone(),
        );
        registry.register(
            "body_bytes",
            "Budget that is taken by bodies being worked on",
            metrics.body_bytes.clone(),
        );
        registry.register("connections", "Open connections", metrics.connections.clone());
        registry.register_collector(Box::new(Kafka(link)));
        (metrics, registry)
    }

    pub(super) fn count(&self, answer: &Answer, reason: &'static str) {
        self.ok.inc_by(answer.ok);
        self.invalid.inc_by(answer.invalid);
        self.not_stored.inc_by(answer.not_stored);
        if answer.retry > 0 {
            self.retry.inc_by(answer.retry);
            self.retries.get_or_create(&ReasonLabel { reason }).inc_by(answer.retry);
        }
    }

    /// Counts an answer to a request, and why it was refused if it was.
    pub(super) fn count_request(&self, status: u16, refused: Option<&'static str>) {
        if status == 200 {
            self.taken.inc();
        } else {
            self.requests.get_or_create(&StatusLabel { status }).inc();
        }
        if let Some(code) = refused {
            self.refused.get_or_create(&CodeLabel { code }).inc();
        }
    }

    /// Counts a connection that the collector ended, not its client.
    pub(super) fn count_ended(&self, reason: &'static str) {
        self.ended.get_or_create(&ReasonLabel { reason }).inc();
    }
}

/// Asks the producer when somebody asks for the metrics.
#[derive(Debug)]
struct Kafka(Link);

impl prometheus_client::collector::Collector for Kafka {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let producer = self.0.current();
        let queued = producer.as_ref().map_or(0, |producer| producer.queued());
        let open =
            |target| producer.as_ref().is_some_and(|producer| producer.health(target).way() == Way::Open);
        let gauges = [
            (
                "queued_records",
                "Records that Kafka has not acknowledged yet",
                i64::try_from(queued).unwrap_or(i64::MAX),
            ),
            (
                "raw_topic_open",
                "1 while records for the raw topic are taken, 0 while Kafka is away",
                i64::from(open(Target::Raw)),
            ),
            (
                "invalid_topic_open",
                "1 while records for the invalid topic are taken, 0 while Kafka is away",
                i64::from(open(Target::Invalid)),
            ),
        ];
        for (name, help, value) in gauges {
            let gauge = ConstGauge::new(value);
            let descriptor = encoder.encode_descriptor(name, help, None, gauge.metric_type())?;
            gauge.encode(descriptor)?;
        }
        Ok(())
    }
}
