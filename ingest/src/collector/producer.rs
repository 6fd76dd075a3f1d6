//! The way into Kafka: records of one request go out together, and each is known to be acknowledged or not.
//!
//! Refuses to block: a record that the bounded queue has no room for is not acknowledged, and neither is one whose
//! time-out has passed. Refuses to wait for what will not come: while Kafka is known to be away nothing is sent.

use std::sync::atomic::{AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_common::headers;
use millrace_common::kafka::client_config;
use millrace_common::telemetry::TRACEPARENT;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;
use tracing::{debug, warn};

use super::Config;
use super::body::{Judged, Refusal};
use super::health::Health;

/// How much longer than Kafka's own time-out a request waits for the reports of its records.
const REPORT_MARGIN: Duration = Duration::from_secs(2);
/// The most records in the queue: librdkafka counts only their bytes against its memory limit, but each costs some
/// hundred bytes more.
const MOST_QUEUED_RECORDS: u32 = 100_000;

/// What became of a record; the discriminants are what [`Pending::states`] holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
enum RecordState {
    Waiting,
    Acknowledged,
    Failed,
}

/// Why a record is not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub(super) enum Trouble {
    #[error("kafka is away")]
    Away,
    #[error("the queue to kafka is full")]
    QueueFull,
    #[error("kafka did not acknowledge it ({0})")]
    Failed(KafkaError),
    #[error("kafka did not acknowledge it in time")]
    NoAnswer,
}

impl Trouble {
    /// Stable, for metrics.
    pub(super) fn code(&self) -> &'static str {
        match self {
            Self::Away => "kafka_away",
            Self::QueueFull => "queue_full",
            Self::Failed(_) => "failed",
            Self::NoAnswer => "no_answer",
        }
    }
}

impl From<KafkaError> for Trouble {
    fn from(error: KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Self::QueueFull,
            _ => Self::Failed(error),
        }
    }
}

/// The records of one request.
#[derive(Debug)]
struct Pending {
    states: Box<[AtomicU8]>,
    waiting: AtomicUsize,
    /// Why the first of those failed that did.
    reason: Mutex<Option<Trouble>>,
    all_reported: Notify,
}

impl Pending {
    fn new(records: usize) -> Arc<Self> {
        Arc::new(Self {
            states: (0..records).map(|_| AtomicU8::new(RecordState::Waiting as u8)).collect(),
            waiting: AtomicUsize::new(records),
            reason: Mutex::new(None),
            all_reported: Notify::new(),
        })
    }

    fn report(&self, index: usize, outcome: Result<(), Trouble>) {
        let state = match outcome {
            Ok(()) => RecordState::Acknowledged,
            Err(error) => {
                let mut reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner);
                reason.get_or_insert(error);
                RecordState::Failed
            }
        };
        self.states[index].store(state as u8, Ordering::Release);
        if self.waiting.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.all_reported.notify_one();
        }
    }

    fn delivered(&self) -> Delivered {
        let acknowledged = self
            .states
            .iter()
            .map(|state| state.load(Ordering::Acquire) == RecordState::Acknowledged as u8)
            .collect();
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Delivered { acknowledged, trouble: reason.unwrap_or(Trouble::NoAnswer) }
    }
}

/// What Kafka said of a request's records.
#[derive(Debug)]
pub(super) struct Delivered {
    /// In the order of the records; false for one that may be there once or not at all.
    pub(super) acknowledged: Vec<bool>,
    /// Why the first of those failed that did.
    pub(super) trouble: Trouble,
}

/// The topics that are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    Raw,
    Invalid,
}

impl Target {
    pub(super) const ALL: [Self; 2] = [Self::Raw, Self::Invalid];

    fn of(event: &Judged<'_>) -> Self {
        if event.key.is_ok() { Self::Raw } else { Self::Invalid }
    }
}

/// Which record a delivery report is about.
#[derive(Debug)]
pub(super) struct Report {
    request: Arc<Pending>,
    index: usize,
    target: Target,
}

/// Takes the reports, and notes what they say of Kafka.
#[derive(Debug)]
pub(super) struct Context {
    servers: String,
    /// By [`Target`].
    healths: [Health; 2],
    signals: Arc<Signals>,
}

/// What whoever keeps the producer is told.
#[derive(Debug, Default)]
pub(super) struct Signals {
    /// This producer can't work any more and another one must be made.
    pub(super) broken: Notify,
    /// No connection to any broker is left.
    pub(super) cut_off: Notify,
}

impl Context {
    fn note(&self, target: Target, outcome: Result<(), &KafkaError>) {
        let health = &self.healths[target as usize];
        match outcome {
            Ok(()) => health.note_acknowledged(),
            Err(error) => {
                health.note_failed();
                if let Some(
                    RDKafkaErrorCode::Fatal
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownTopicOrPartition,
                ) = error.rdkafka_error_code()
                {
                    warn!(kafka = self.servers.as_str(), %error, "kafka does not take records any more");
                    self.signals.broken.notify_one();
                }
            }
        }
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::Fatal) => {
                warn!(
                    kafka = self.servers.as_str(),
                    reason, "kafka refuses this producer for good, making another one"
                );
                self.signals.broken.notify_one();
            }
            Some(RDKafkaErrorCode::AllBrokersDown) => self.signals.cut_off.notify_one(),
            // Connections come and go; what matters to clients shows in the reports.
            _ => debug!(kafka = self.servers.as_str(), %error, reason, "kafka client"),
        }
    }
}

impl ProducerContext for Context {
    type DeliveryOpaque = Box<Report>;

    fn delivery(&self, result: &DeliveryResult<'_>, report: Self::DeliveryOpaque) {
        let outcome = match result {
            Ok(_) => Ok(()),
            Err((error, _)) => Err(error),
        };
        self.note(report.target, outcome);
        report.request.report(report.index, outcome.map_err(|error| error.clone().into()));
    }
}

/// An idempotent producer for the raw and the invalid topic. Dropping it joins its thread.
pub(super) struct Producer {
    inner: ThreadedProducer<Context>,
    /// By [`Target`].
    topics: [String; 2],
    deadline: Duration,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("topics", &self.topics).finish_non_exhaustive()
    }
}

impl Producer {
    /// Connects in the background. Tells of itself by `signals`.
    pub(super) fn new(config: &Config, signals: Arc<Signals>) -> Result<Self, KafkaError> {
        let context =
            Context { servers: config.kafka.clone(), healths: [Health::new(), Health::new()], signals };
        let inner = client_config(&config.kafka, "collector")
            .set("enable.idempotence", "true")
            .set("acks", "all")
            // As Java's clients: a key lies in the same partition whoever writes it.
            .set("partitioner", "murmur2_random")
            .set("linger.ms", "5")
            .set("compression.type", config.compression.as_str())
            .set("message.max.bytes", super::LARGEST_RECORD.to_string())
            .set("message.timeout.ms", config.delivery_timeout.as_millis().to_string())
            .set("queue.buffering.max.kbytes", (config.queue_bytes() >> 10).to_string())
            .set("queue.buffering.max.messages", MOST_QUEUED_RECORDS.to_string())
            .create_with_context(context)?;
        Ok(Self {
            inner,
            topics: [config.raw_topic.clone(), config.invalid_topic.clone()],
            deadline: config.delivery_timeout + REPORT_MARGIN,
        })
    }

    /// Sends the events' records and waits until each is acknowledged, has failed, or the deadline has passed.
    /// When the future is dropped the records go on to Kafka all the same. With a `traceparent` the records carry on
    /// that trace.
    pub(super) async fn produce(&self, events: &[Judged<'_>], traceparent: Option<&str>) -> Delivered {
        let request = Pending::new(events.len());
        let mut may_send: [Option<bool>; 2] = [None; 2];
        for (index, event) in events.iter().enumerate() {
            let target = Target::of(event);
            if !*may_send[target as usize].get_or_insert_with(|| self.health(target).may_send()) {
                request.report(index, Err(Trouble::Away));
                continue;
            }
            let report = Box::new(Report { request: Arc::clone(&request), index, target });
            if let Err(error) = self.send(event, target, traceparent, report) {
                let trouble = Trouble::from(error);
                // A full queue says that clients are faster than Kafka, not that Kafka is away.
                if let Trouble::Failed(error) = &trouble {
                    self.inner.client().context().note(target, Err(error));
                }
                request.report(index, Err(trouble));
            }
        }
        if !events.is_empty() {
            // What has no report by then counts as not acknowledged.
            let _ = tokio::time::timeout(self.deadline, request.all_reported.notified()).await;
        }
        request.delivered()
    }

    fn send(
        &self,
        event: &Judged<'_>,
        target: Target,
        traceparent: Option<&str>,
        report: Box<Report>,
    ) -> Result<(), KafkaError> {
        let mut record =
            BaseRecord::<str, [u8], _>::with_opaque_to(self.topic(target), report).payload(&event.bytes);
        record.key = event.key.as_deref().ok();
        record.headers = record_headers(event.key.as_ref().err(), traceparent);
        self.inner.send(record).map_err(|(error, _)| error)
    }

    pub(super) fn health(&self, target: Target) -> &Health {
        &self.inner.client().context().healths[target as usize]
    }

    pub(super) fn topic(&self, target: Target) -> &str {
        &self.topics[target as usize]
    }

    /// Whether each topic has a partition with a leader, by what a broker says within `patience`. Blocks.
    pub(super) fn ask(&self, patience: Duration) -> [Result<bool, KafkaError>; 2] {
        Target::ALL.map(|target| {
            let topic = self.topic(target);
            let metadata = self.inner.client().fetch_metadata(Some(topic), patience)?;
            let mut partitions = metadata.topics().iter().flat_map(|topic| topic.partitions());
            Ok(partitions.any(|partition| partition.leader() >= 0))
        })
    }

    /// Records that are not acknowledged yet.
    pub(super) fn queued(&self) -> u64 {
        u64::try_from(self.inner.in_flight_count()).unwrap_or(0)
    }

    /// Waits until every record is acknowledged or has failed. Blocks.
    pub(super) fn flush(&self) -> Result<(), KafkaError> {
        self.inner.flush(self.deadline)
    }
}

/// The headers of an event's record: why it was refused, and whose trace it carries on. Most have none.
fn record_headers(refusal: Option<&Refusal>, traceparent: Option<&str>) -> Option<OwnedHeaders> {
    if refusal.is_none() && traceparent.is_none() {
        return None;
    }
    let header = |key, value| Header { key, value: Some(value) };
    let mut all = OwnedHeaders::new_with_capacity(5);
    if let Some(refusal) = refusal {
        all = all
            .insert(header(headers::REASON, refusal.code))
            .insert(header(headers::POINTER, refusal.pointer.as_str()))
            .insert(header(headers::MESSAGE, refusal.message.as_str()))
            .insert(header(headers::ORIGIN, headers::ORIGIN_COLLECTOR));
    }
    if let Some(traceparent) = traceparent {
        all = all.insert(header(TRACEPARENT, traceparent));
    }
    Some(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_told_when_its_last_record_is_reported() {
        let request = Pending::new(3);
        request.report(2, Ok(()));
        request.report(0, Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut).into()));
        assert_eq!(request.delivered().acknowledged, [false, false, true]);
        request.report(1, Ok(()));
        request.all_reported.notified().await;
        let delivered = request.delivered();
        assert_eq!(delivered.acknowledged, [false, true, true]);
        assert!(delivered.trouble.to_string().contains("timed out"));
    }
}
