//! The topics and the committed offsets, as a `read_committed` reader sees them. Reads only: it joins no group and
//! commits nothing.

use std::time::{Duration, Instant};

use bytes::Bytes;
use millrace_common::kafka::client_config;
use millrace_common::record::{CommittedRecord, WindowBounds};
use millrace_common::types::NextOffset;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::mpsc;
use tracing::warn;

use crate::Error;

/// Deadline of one request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
/// How long Kafka may stay silent, or a transaction on a committed offset open, before the check gives up.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(200);
const RECORDS_AT_ONCE: usize = 2000;
const BYTES_AT_ONCE: usize = 4 << 20;

/// A record, copied out of the fetch buffer.
#[derive(Debug)]
pub(crate) struct Record {
    pub(crate) offset: i64,
    /// Negative if there is none.
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    /// Only where they were asked for.
    pub(crate) headers: Vec<(String, Option<Bytes>)>,
}

/// What a partition's reader hands out, in the order of the log.
#[derive(Debug)]
pub(crate) enum Read {
    Records(Vec<Record>),
    /// Kafka dropped what lay below, while it was being read.
    GoneUntil(i64),
}

/// What is read of a partition.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) start: i64,
    /// Records at or beyond it may still come along; the reader ends once it has passed it.
    pub(crate) end: i64,
    pub(crate) with_headers: bool,
}

fn failed(action: impl Into<String>) -> impl FnOnce(KafkaError) -> Error {
    let action = action.into();
    move |source| Error::Kafka { action, source }
}

/// What of an open transaction counts to the end of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Nothing at or behind its first record.
    Stable,
    /// Everything: [`read`] waits until it is decided.
    Open,
}

/// Logs librdkafka's errors, but not the end of a partition: that is what this reader waits for.
struct EndIsNoError;

impl ClientContext for EndIsNoError {
    fn error(&self, error: KafkaError, reason: &str) {
        if !matches!(error.rdkafka_error_code(), Some(RDKafkaErrorCode::PartitionEOF)) {
            warn!(%error, reason, "Kafka");
        }
    }
}

impl ConsumerContext for EndIsNoError {}

type Reader = BaseConsumer<EndIsNoError>;

fn consumer(servers: &str, group: &str, end: End) -> Result<Reader, Error> {
    let isolation = match end {
        End::Stable => "read_committed",
        End::Open => "read_uncommitted",
    };
    client_config(servers, "verify")
        // Names whose committed offsets are asked for; this reader never joins it.
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("isolation.level", isolation)
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        .set("queued.max.messages.kbytes", "16384")
        .set("fetch.queue.backoff.ms", "20")
        // The end of a partition is told by a fetch that found nothing.
        .set("fetch.wait.max.ms", "20")
        .create_with_context(EndIsNoError)
        .map_err(failed("making a consumer"))
}

/// What a slot has committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Committed {
    pub(crate) topic_cursor: NextOffset,
    pub(crate) lake_cursor: NextOffset,
    pub(crate) window: WindowBounds,
    /// How many flushes to the lake were committed.
    pub(crate) flushes: u64,
    /// The record beside the committed offset can't be read.
    pub(crate) is_damaged: bool,
}

impl Committed {
    fn of(offset: i64, metadata: &str) -> Self {
        let bare = Self {
            topic_cursor: NextOffset(offset),
            lake_cursor: NextOffset(offset),
            window: WindowBounds { size: 0, floor: NextOffset(offset) },
            flushes: 0,
            // Also one without any: somebody moved the group.
            is_damaged: true,
        };
        match CommittedRecord::parse(offset, metadata.as_bytes()) {
            Ok(CommittedRecord { topic_cursor, lake_cursor, window, sequence, .. }) => {
                Self { topic_cursor, lake_cursor, window, flushes: sequence, is_damaged: false }
            }
            Err(_) => bare,
        }
    }
}

/// What the group has committed, in the order of `slots`; `None` where nothing was ever committed. Waits while a
/// transaction on one of them is open.
pub(crate) fn committed(
    servers: &str,
    group: &str,
    slots: &[(String, i32)],
) -> Result<Vec<Option<Committed>>, Error> {
    let action = || format!("reading the committed offsets of {group}");
    let consumer = consumer(servers, group, End::Stable)?;
    let deadline = Instant::now() + PATIENCE;
    let mut asked = TopicPartitionList::new();
    for (topic, partition) in slots {
        asked.add_partition(topic, *partition);
    }
    loop {
        // An error of one partition must not look like "nothing was committed".
        let found = consumer.committed_offsets(asked.clone(), REQUEST_DEADLINE).and_then(|found| {
            found.elements().iter().try_for_each(|element| element.error())?;
            Ok(found)
        });
        match found {
            Ok(found) => {
                let committed = |slot: &(String, i32)| {
                    let element = found.find_partition(&slot.0, slot.1)?;
                    match element.offset() {
                        Offset::Offset(offset) => Some(Committed::of(offset, element.metadata())),
                        _ => None,
                    }
                };
                return Ok(slots.iter().map(committed).collect());
            }
            Err(error) if Instant::now() < deadline => {
                tracing::debug!(%error, "committed offsets can't be read yet");
                // A refusal that comes at once must not be asked for again at once.
                std::thread::sleep(POLL);
            }
            Err(error) => return Err(failed(action())(error)),
        }
    }
}

/// The first offset that each partition still holds, and its end.
pub(crate) fn ranges(servers: &str, slots: &[(String, i32)], end: End) -> Result<Vec<(i64, i64)>, Error> {
    let consumer = consumer(servers, "millrace.verify", end)?;
    slots.iter().map(|(topic, partition)| range(&consumer, topic, *partition)).collect()
}

fn range(consumer: &Reader, topic: &str, partition: i32) -> Result<(i64, i64), Error> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match consumer.fetch_watermarks(topic, partition, REQUEST_DEADLINE) {
            Ok(range) => return Ok(range),
            Err(error) if Instant::now() < deadline => {
                tracing::debug!(%error, topic, partition, "the partition's ends can't be read yet");
                std::thread::sleep(POLL);
            }
            Err(error) => return Err(failed(format!("asking for the ends of {topic}/{partition}"))(error)),
        }
    }
}

/// Reads `part` into `out`. Blocks; ends early, without an error, when nobody receives any more.
pub(crate) fn read(servers: &str, part: &Part, out: &mpsc::Sender<Read>) -> Result<(), Error> {
    if part.start >= part.end {
        return Ok(());
    }
    let action = || format!("reading {}/{}", part.topic, part.partition);
    let consumer = consumer(servers, "millrace.verify", End::Stable)?;
    let undecided = Instant::now();
    while range(&consumer, &part.topic, part.partition)?.1 < part.end {
        if out.is_closed() {
            return Ok(());
        }
        if undecided.elapsed() > PATIENCE {
            return Err(Error::Undecided {
                topic: part.topic.clone(),
                partition: part.partition,
                end: part.end,
            });
        }
        std::thread::sleep(POLL);
    }
    assign(&consumer, part, part.start)?;
    let mut position = part.start;
    let mut batch: Vec<Record> = Vec::new();
    let mut bytes = 0;
    let mut heard = Instant::now();
    while position < part.end && !out.is_closed() {
        let polled = consumer.poll(POLL);
        if polled.is_some() {
            heard = Instant::now();
        }
        let mut passed_end = false;
        match polled {
            None if heard.elapsed() > PATIENCE => {
                return Err(failed(action())(KafkaError::MessageConsumption(
                    RDKafkaErrorCode::OperationTimedOut,
                )));
            }
            None => {}
            Some(Ok(message)) => {
                let record = copy(&message, part.with_headers);
                position = record.offset + 1;
                bytes += message.payload_len() + message.key_len();
                batch.push(record);
            }
            // All that is committed up to here was handed out: what is left are markers.
            Some(Err(KafkaError::PartitionEOF(_))) => passed_end = true,
            Some(Err(KafkaError::MessageConsumption(RDKafkaErrorCode::AutoOffsetReset))) => {
                let (low, _) = range(&consumer, &part.topic, part.partition)?;
                if low <= position {
                    return Err(failed(action())(KafkaError::MessageConsumption(
                        RDKafkaErrorCode::AutoOffsetReset,
                    )));
                }
                position = low;
                let _ = out.blocking_send(Read::Records(std::mem::take(&mut batch)));
                let _ = out.blocking_send(Read::GoneUntil(low));
                bytes = 0;
                assign(&consumer, part, low)?;
            }
            Some(Err(KafkaError::MessageConsumption(code))) if is_passing(code) => {
                tracing::debug!(%code, "Kafka can't be read, trying again");
            }
            Some(Err(error)) => return Err(failed(action())(error)),
        }
        if passed_end || position >= part.end || batch.len() >= RECORDS_AT_ONCE || bytes >= BYTES_AT_ONCE {
            let _ = out.blocking_send(Read::Records(std::mem::take(&mut batch)));
            bytes = 0;
        }
        if passed_end {
            break;
        }
    }
    Ok(())
}

fn assign(consumer: &Reader, part: &Part, start: i64) -> Result<(), Error> {
    let action = || format!("reading {}/{}", part.topic, part.partition);
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&part.topic, part.partition, Offset::Offset(start))
        .map_err(failed(action()))?;
    consumer.assign(&list).map_err(failed(action()))
}

/// librdkafka reports these and goes on by itself.
fn is_passing(code: RDKafkaErrorCode) -> bool {
    matches!(
        code,
        RDKafkaErrorCode::AllBrokersDown
            | RDKafkaErrorCode::BrokerTransportFailure
            | RDKafkaErrorCode::Resolve
            | RDKafkaErrorCode::OperationTimedOut
            | RDKafkaErrorCode::NotLeaderForPartition
            | RDKafkaErrorCode::LeaderNotAvailable
            | RDKafkaErrorCode::CoordinatorNotAvailable
    )
}

fn copy(message: &rdkafka::message::BorrowedMessage<'_>, with_headers: bool) -> Record {
    let header = |(key, value): (&str, Option<&[u8]>)| (key.to_owned(), value.map(Bytes::copy_from_slice));
    let headers = message.headers().filter(|_| with_headers);
    let headers = headers.into_iter().flat_map(|headers| headers.iter());
    Record {
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or(-1),
        key: message.key().map(Bytes::copy_from_slice),
        value: message.payload().map(Bytes::copy_from_slice),
        headers: headers.map(|found| header((found.key, found.value))).collect(),
    }
}
