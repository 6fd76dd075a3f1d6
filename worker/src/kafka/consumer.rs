//! One consumer per pipeline on a worker: it only ever assigns, and each slot reads from a queue of its own.

use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use millrace_common::kafka::client_config;
use rdkafka::consumer::{BaseConsumer, Consumer, DefaultConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t as Code;
use tokio::sync::Notify;
use tracing::warn;

use super::batch::Batch;
use super::error::{KafkaFailure, NativeError};
use crate::kafka::error::text;

/// How long the events thread waits for an event before it looks whether it should end.
const EVENTS_POLL: Duration = Duration::from_millis(200);

/// The rdkafka consumer; everything that points into it holds an `Arc` of this.
pub(super) struct Native(BaseConsumer<DefaultConsumerContext>);

impl Native {
    fn ptr(&self) -> *mut sys::rd_kafka_t {
        self.0.client().native_ptr()
    }
}

/// What librdkafka may hold for one partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ConsumerLimits {
    /// Bytes fetched ahead per partition.
    pub(crate) queued_bytes_per_partition: u64,
}

/// A committed offset as Kafka keeps it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommittedOffset {
    pub(crate) offset: i64,
    pub(crate) metadata: Vec<u8>,
}

/// The consumer of a pipeline's group.
pub(crate) struct SourceConsumer {
    native: Arc<Native>,
}

impl SourceConsumer {
    /// Connects in the background; a wrong address shows at the first call.
    pub(crate) fn new(servers: &str, group_id: &str, limits: ConsumerLimits) -> Result<Self, KafkaError> {
        let queued_kilobytes = (limits.queued_bytes_per_partition / 1024).max(64);
        let mut config = client_config(servers, "worker");
        config
            .set("group.id", group_id)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Also for the record: only a read that asks for what is stable is answered after all that was committed
            // before. A coordinator that has just started answers others by what it knows to be replicated already.
            .set("isolation.level", "read_committed")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "true")
            .set("queued.min.messages", "1000000")
            .set("queued.max.messages.kbytes", queued_kilobytes.to_string())
            .set(
                "fetch.message.max.bytes",
                (limits.queued_bytes_per_partition / 2).clamp(65_536, 4 << 20).to_string(),
            )
            // A full queue must not make its partition wait for a second after it was emptied.
            .set("fetch.queue.backoff.ms", "20")
            // A slot that joins must not wait long for the answer to the fetch under way.
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "100")
            .set("socket.timeout.ms", "15000");
        let native = Arc::new(Native(config.create()?));
        let watched = Arc::downgrade(&native);
        // Serves errors and logs; ends by itself once nobody holds the consumer.
        std::thread::Builder::new()
            .name("kafka-events".into())
            .spawn(move || {
                while let Some(native) = watched.upgrade() {
                    if let Some(Err(error)) = native.0.poll(EVENTS_POLL) {
                        warn!(%error, "consumer event");
                    }
                }
            })
            .map_err(|error| {
                KafkaError::ClientCreation(format!("no thread for the consumer's events: {error}"))
            })?;
        Ok(Self { native })
    }

    /// The group's committed offset of a partition; `None` when there is none. Waits while a foreign transaction
    /// on it is open (`read_committed` asks for stable offsets). Blocks up to `deadline`.
    pub(crate) fn committed(
        &self,
        topic: &str,
        partition: i32,
        deadline: Duration,
    ) -> Result<Option<CommittedOffset>, KafkaFailure> {
        let action = || format!("reading the committed offset of {topic}/{partition}");
        let list = PartitionList::one(topic, partition, sys::RD_KAFKA_OFFSET_INVALID.into());
        // SAFETY: both pointers are valid through the call.
        let code = unsafe { sys::rd_kafka_committed(self.native.ptr(), list.0, millis(deadline)) };
        NativeError::from_code(code).map_err(|error| KafkaFailure::new(action(), error))?;
        // SAFETY: the list has exactly one element, which the call filled in.
        let found = unsafe { &*(*list.0).elems };
        NativeError::from_code(found.err).map_err(|error| KafkaFailure::new(action(), error))?;
        if found.offset < 0 {
            return Ok(None);
        }
        let metadata = if found.metadata.is_null() {
            Vec::new()
        } else {
            // SAFETY: librdkafka says where and how long the metadata is; the list owns it until its drop.
            unsafe { std::slice::from_raw_parts(found.metadata.cast::<u8>(), found.metadata_size) }.to_vec()
        };
        Ok(Some(CommittedOffset { offset: found.offset, metadata }))
    }

    /// First offset still held and the end of a partition, asked from the broker. Blocks up to `deadline`.
    pub(crate) fn watermarks(
        &self,
        topic: &str,
        partition: i32,
        deadline: Duration,
    ) -> Result<(i64, i64), KafkaFailure> {
        let name = c_name(topic);
        let (mut low, mut high) = (0, 0);
        // SAFETY: all pointers are valid through the call.
        let code = unsafe {
            sys::rd_kafka_query_watermark_offsets(
                self.native.ptr(),
                name.as_ptr(),
                partition,
                &mut low,
                &mut high,
                millis(deadline),
            )
        };
        NativeError::from_code(code).map_err(|error| {
            KafkaFailure::new(format!("asking for the ends of {topic}/{partition}"), error)
        })?;
        Ok((low, high))
    }

    /// The first offset of a partition whose record has `time_ms` (milliseconds since 1970 UTC) or a later one; its
    /// end if there is none. Blocks up to `deadline`.
    pub(crate) fn offset_of_time(
        &self,
        topic: &str,
        partition: i32,
        time_ms: i64,
        deadline: Duration,
    ) -> Result<i64, KafkaFailure> {
        let action = || format!("asking {topic}/{partition} for the offset of the time {time_ms}");
        let list = PartitionList::one(topic, partition, time_ms);
        // SAFETY: both pointers are valid through the call.
        let code = unsafe { sys::rd_kafka_offsets_for_times(self.native.ptr(), list.0, millis(deadline)) };
        NativeError::from_code(code).map_err(|error| KafkaFailure::new(action(), error))?;
        // SAFETY: the list has exactly one element, which the call filled in.
        let found = unsafe { &*(*list.0).elems };
        NativeError::from_code(found.err).map_err(|error| KafkaFailure::new(action(), error))?;
        if found.offset >= 0 {
            return Ok(found.offset);
        }
        self.watermarks(topic, partition, deadline).map(|(_, end)| end)
    }

    /// Begins to read a partition at `start`, into a queue of its own. Blocks shortly.
    pub(crate) fn read_from(
        &self,
        topic: &str,
        partition: i32,
        start: i64,
    ) -> Result<PartitionReader, KafkaFailure> {
        let name = c_name(topic);
        // SAFETY: the name is valid through the call; the queue is owned by us. It is split off before the
        // assignment, or the first records would go to the consumer's common queue.
        let queue = unsafe {
            let queue = sys::rd_kafka_queue_get_partition(self.native.ptr(), name.as_ptr(), partition);
            assert!(!queue.is_null(), "librdkafka makes the queue of a partition that it does not know yet");
            sys::rd_kafka_queue_forward(queue, ptr::null_mut());
            queue
        };
        let nonempty = Box::new(Notify::new());
        // SAFETY: the notification lives in the reader, which switches the callback off before it drops it.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(
                queue,
                Some(wake),
                ptr::from_ref(&*nonempty).cast_mut().cast(),
            );
        }
        let mut reader = PartitionReader {
            native: Arc::clone(&self.native),
            queue,
            nonempty,
            topic: topic.to_owned(),
            partition,
            assigned: false,
        };
        let list = PartitionList::one(topic, partition, start);
        // SAFETY: both pointers are valid through the call, the error is ours.
        unsafe { NativeError::take(sys::rd_kafka_incremental_assign(self.native.ptr(), list.0)) }
            .map_err(|error| KafkaFailure::new(format!("assigning {topic}/{partition} at {start}"), error))?;
        reader.assigned = true;
        Ok(reader)
    }
}

impl std::fmt::Debug for SourceConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SourceConsumer")
    }
}

/// What one poll of a partition's queue gave.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) batch: Batch,
    /// The reader stands at the end of the partition: everything below this offset was delivered.
    pub(crate) end: Option<i64>,
    /// The partition no longer holds the offset that was asked for.
    pub(crate) out_of_range: bool,
    /// Another trouble, which librdkafka goes on trying to get over.
    pub(crate) trouble: Option<String>,
}

/// A slot's own queue. Dropping it gives the partition up.
pub(crate) struct PartitionReader {
    native: Arc<Native>,
    queue: *mut sys::rd_kafka_queue_t,
    nonempty: Box<Notify>,
    topic: String,
    partition: i32,
    assigned: bool,
}

// SAFETY: librdkafka's queues may be used from any thread.
unsafe impl Send for PartitionReader {}
// SAFETY: as above; every method takes locks inside librdkafka.
unsafe impl Sync for PartitionReader {}

impl PartitionReader {
    /// Resolves when something was put into the empty queue since the last call. Poll until nothing comes
    /// before waiting.
    pub(crate) async fn nonempty(&self) {
        self.nonempty.notified().await;
    }

    /// Takes up to `most` records that lie ready, without waiting.
    pub(crate) fn poll(&self, most: usize) -> Fetched {
        let mut messages: Vec<*mut sys::rd_kafka_message_t> = Vec::with_capacity(most);
        // SAFETY: the vector has room for `most` pointers; the call fills in as many as it returns.
        unsafe {
            let count = sys::rd_kafka_consume_batch_queue(self.queue, 0, messages.as_mut_ptr(), most);
            messages.set_len(usize::try_from(count).unwrap_or(0));
        }
        let (mut end, mut out_of_range, mut trouble) = (None, false, None);
        messages.retain(|message| {
            // SAFETY: the call above gave us this message; it is read before it is destroyed.
            unsafe {
                let event = &**message;
                match event.err {
                    Code::RD_KAFKA_RESP_ERR_NO_ERROR => {
                        end = None;
                        return true;
                    }
                    Code::RD_KAFKA_RESP_ERR__PARTITION_EOF => end = Some(event.offset),
                    Code::RD_KAFKA_RESP_ERR__AUTO_OFFSET_RESET
                    | Code::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE => {
                        out_of_range = true;
                    }
                    other => {
                        let code: RDKafkaErrorCode = other.into();
                        trouble =
                            Some(format!("{} ({code:?})", text(sys::rd_kafka_message_errstr(*message))));
                    }
                }
                sys::rd_kafka_message_destroy(*message);
            }
            false
        });
        // SAFETY: what is left are records without an error, owned by us, of this consumer.
        let batch = unsafe { Batch::new(messages, Arc::clone(&self.native)) };
        Fetched { batch, end, out_of_range, trouble }
    }

    /// The partition's end as the last fetch told it; `None` before the first.
    pub(crate) fn known_end(&self) -> Option<i64> {
        self.known_watermarks().map(|(_, high)| high)
    }

    /// The first offset that the partition holds, as the last fetch told it; `None` before the first.
    pub(crate) fn known_first(&self) -> Option<i64> {
        self.known_watermarks().map(|(low, _)| low).filter(|low| *low >= 0)
    }

    fn known_watermarks(&self) -> Option<(i64, i64)> {
        let name = c_name(&self.topic);
        let (mut low, mut high) = (-1, -1);
        // SAFETY: all pointers are valid through the call, which only reads librdkafka's cache.
        let code = unsafe {
            sys::rd_kafka_get_watermark_offsets(
                self.native.ptr(),
                name.as_ptr(),
                self.partition,
                &mut low,
                &mut high,
            )
        };
        (code == Code::RD_KAFKA_RESP_ERR_NO_ERROR && high >= 0).then_some((low, high))
    }
}

impl Drop for PartitionReader {
    fn drop(&mut self) {
        // SAFETY: the callback is off before the notification it points to is freed; the queue reference is
        // ours to give back; records still queued are purged by the unassignment.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.queue, None, ptr::null_mut());
            if self.assigned {
                let list =
                    PartitionList::one(&self.topic, self.partition, sys::RD_KAFKA_OFFSET_INVALID.into());
                if let Err(error) =
                    NativeError::take(sys::rd_kafka_incremental_unassign(self.native.ptr(), list.0))
                {
                    warn!(topic = self.topic, partition = self.partition, %error, "partition not given up");
                }
            }
            sys::rd_kafka_queue_destroy(self.queue);
        }
    }
}

impl std::fmt::Debug for PartitionReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PartitionReader({}/{})", self.topic, self.partition)
    }
}

unsafe extern "C" fn wake(_: *mut sys::rd_kafka_t, nonempty: *mut c_void) {
    // SAFETY: the reader keeps the notification alive while the callback is installed.
    unsafe { &*nonempty.cast::<Notify>() }.notify_one();
}

/// An owned list with one partition.
pub(super) struct PartitionList(pub(super) *mut sys::rd_kafka_topic_partition_list_t);

impl PartitionList {
    pub(super) fn one(topic: &str, partition: i32, offset: i64) -> Self {
        let name = c_name(topic);
        // SAFETY: the list is new and ours; the name is copied by the call.
        unsafe {
            let list = sys::rd_kafka_topic_partition_list_new(1);
            let element = sys::rd_kafka_topic_partition_list_add(list, name.as_ptr(), partition);
            (*element).offset = offset;
            Self(list)
        }
    }
}

impl Drop for PartitionList {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed once.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.0) };
    }
}

/// A topic's name for C.
pub(super) fn c_name(topic: &str) -> CString {
    // Kafka allows no NUL in a topic's name; without it, the name simply is unknown to the broker.
    CString::new(topic.replace('\0', "")).unwrap_or_default()
}

pub(super) fn millis(span: Duration) -> i32 {
    i32::try_from(span.as_millis()).unwrap_or(i32::MAX)
}
