//! The way into Kafka: records of one request go out together, and each is known to be acknowledged or not.
//!
//! Refuses to block: a record that the bounded queue has no room for is not acknowledged, and neither is one whose
//! time-out has passed.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_common::headers;
use millrace_common::http::Readiness;
use millrace_common::kafka::client_config;
use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::Notify;
use tracing::{debug, info, warn};

use super::Config;
use super::body::{Judged, Refusal};

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

/// The records of one request.
#[derive(Debug)]
struct Pending {
    states: Box<[AtomicU8]>,
    waiting: AtomicUsize,
    /// Why the first of those failed that did.
    reason: Mutex<Option<KafkaError>>,
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

    fn report(&self, index: usize, outcome: Result<(), KafkaError>) {
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
        Delivered { acknowledged, reason }
    }
}

/// What Kafka said of a request's records.
#[derive(Debug)]
pub(super) struct Delivered {
    /// In the order of the records; false for one that may be there once or not at all.
    pub(super) acknowledged: Vec<bool>,
    /// Why the first of those failed that did; `None` also if there was no answer in time.
    pub(super) reason: Option<KafkaError>,
}

/// Which record a delivery report is about.
#[derive(Debug)]
pub(super) struct Report {
    request: Arc<Pending>,
    index: usize,
}

/// Takes the reports, and keeps the readiness by them.
#[derive(Debug)]
pub(super) struct Context {
    servers: String,
    readiness: Readiness,
    /// The last report was good.
    healthy: AtomicBool,
    /// Told when this producer can't work any more and another one must be made.
    broken: Arc<Notify>,
}

impl Context {
    fn note(&self, outcome: Result<(), &KafkaError>) {
        match outcome {
            Ok(()) => {
                if !self.healthy.load(Ordering::Relaxed) && !self.healthy.swap(true, Ordering::Relaxed) {
                    info!(kafka = self.servers.as_str(), "kafka acknowledges again");
                    self.readiness.set_ready();
                }
            }
            Err(error) => {
                if self.healthy.swap(false, Ordering::Relaxed) {
                    warn!(kafka = self.servers.as_str(), %error, "kafka did not acknowledge, clients are told to retry");
                    self.readiness.set_waiting(format!("Kafka at {} ({error})", self.servers));
                }
                if let Some(
                    RDKafkaErrorCode::Fatal
                    | RDKafkaErrorCode::UnknownTopic
                    | RDKafkaErrorCode::UnknownTopicOrPartition,
                ) = error.rdkafka_error_code()
                {
                    self.broken.notify_one();
                }
            }
        }
    }
}

impl ClientContext for Context {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal) {
            warn!(
                kafka = self.servers.as_str(),
                reason, "kafka refuses this producer for good, making another one"
            );
            self.broken.notify_one();
        } else {
            // Connections come and go; what matters to clients shows in the reports.
            debug!(kafka = self.servers.as_str(), %error, reason, "kafka client");
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
        self.note(outcome);
        report.request.report(report.index, outcome.map_err(Clone::clone));
    }
}

/// An idempotent producer for the raw and the invalid topic. Dropping it joins its thread.
pub(super) struct Producer {
    inner: ThreadedProducer<Context>,
    raw_topic: String,
    invalid_topic: String,
    deadline: Duration,
}

impl std::fmt::Debug for Producer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Producer").field("raw_topic", &self.raw_topic).finish_non_exhaustive()
    }
}

impl Producer {
    /// Connects in the background. `broken` is told when the producer can't work any more.
    pub(super) fn new(
        config: &Config,
        readiness: Readiness,
        broken: Arc<Notify>,
    ) -> Result<Self, KafkaError> {
        let context =
            Context { servers: config.kafka.clone(), readiness, healthy: AtomicBool::new(true), broken };
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
            raw_topic: config.raw_topic.clone(),
            invalid_topic: config.invalid_topic.clone(),
            deadline: config.delivery_timeout + REPORT_MARGIN,
        })
    }

    /// Sends the events' records and waits until each is acknowledged, has failed, or the deadline has passed.
    /// When the future is dropped the records go on to Kafka all the same.
    pub(super) async fn produce(&self, events: &[Judged<'_>]) -> Delivered {
        let request = Pending::new(events.len());
        for (index, event) in events.iter().enumerate() {
            let report = Box::new(Report { request: Arc::clone(&request), index });
            if let Err(error) = self.send(event, report) {
                // A full queue says that clients are faster than Kafka, not that Kafka is away.
                if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                    self.inner.client().context().note(Err(&error));
                }
                request.report(index, Err(error));
            }
        }
        if !events.is_empty() {
            // What has no report by then counts as not acknowledged.
            let _ = tokio::time::timeout(self.deadline, request.all_reported.notified()).await;
        }
        request.delivered()
    }

    fn send(&self, event: &Judged<'_>, report: Box<Report>) -> Result<(), KafkaError> {
        let sent = match &event.key {
            Ok(package_id) => self.inner.send(
                BaseRecord::with_opaque_to(&self.raw_topic, report)
                    .key(package_id.as_str())
                    .payload(event.bytes),
            ),
            Err(refusal) => self.inner.send(
                BaseRecord::<str, [u8], _>::with_opaque_to(&self.invalid_topic, report)
                    .payload(event.bytes)
                    .headers(invalid_headers(refusal)),
            ),
        };
        sent.map_err(|(error, _)| error)
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

fn invalid_headers(refusal: &Refusal) -> OwnedHeaders {
    let header = |key, value| Header { key, value: Some(value) };
    OwnedHeaders::new_with_capacity(4)
        .insert(header(headers::REASON, refusal.code))
        .insert(header(headers::POINTER, refusal.pointer.as_str()))
        .insert(header(headers::MESSAGE, refusal.message.as_str()))
        .insert(header(headers::ORIGIN, headers::ORIGIN_COLLECTOR))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_request_is_told_when_its_last_record_is_reported() {
        let request = Pending::new(3);
        request.report(2, Ok(()));
        request.report(0, Err(KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut)));
        assert_eq!(request.delivered().acknowledged, [false, false, true]);
        request.report(1, Ok(()));
        request.all_reported.notified().await;
        let delivered = request.delivered();
        assert_eq!(delivered.acknowledged, [false, true, true]);
        assert!(delivered.reason.expect("reason").to_string().contains("timed out"));
    }
}
