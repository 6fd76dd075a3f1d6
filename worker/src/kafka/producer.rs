//! A slot's transactional producer.
//!
//! A producer whose transaction is in doubt (see [`super::doubt`]) is spent: its slot opens anew.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt::Write as _;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use millrace_common::kafka::client_config;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::types::RDKafkaType;
use rdkafka_sys as sys;
use tracing::debug;

use super::consumer::{PartitionList, c_name, millis};
use super::doubt::DoubtWatch;
use super::error::{KafkaFailure, NativeError, text};
use super::transaction::{EnrichedRecords, InvalidRecord, Transaction};

/// The broker aborts a transaction that is open for longer.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);

/// librdkafka's own upper end.
const MOST_MESSAGE_BYTES: &str = "1000000000";
/// What a producer may hold of a transaction under way.
const PRODUCER_QUEUE_KILOBYTES: usize = 16 << 10;

/// A batch of librdkafka's holds so much by its own settings (`batch.size`, `batch.num.messages`).
const BATCH_BYTES: usize = 1_000_000;
const BATCH_RECORDS: usize = 10_000;
/// More than the headers of a usual record take, and the rest that is written beside key and value.
const MOST_HEADER_BYTES: usize = 256;

const SOURCE_TOPIC: &CStr = c"millrace-source-topic";
const SOURCE_PARTITION: &CStr = c"millrace-source-partition";
const SOURCE_OFFSET: &CStr = c"millrace-source-offset";
const TRACEPARENT: &CStr = c"traceparent";

/// Why a transaction did not end with a certain commit. Either way the producer is spent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransactionError {
    /// Another owner took over (or the broker timed us out).
    #[error("fenced: {0}")]
    Fenced(#[source] KafkaFailure),
    /// Not committed: a sink's topic refuses a record, and will again.
    #[error("refused: {0}")]
    Refused(#[source] KafkaFailure),
    /// It may or may not be committed: only the record tells, read after a new fence.
    #[error("in doubt: {0}")]
    Doubt(String),
}

impl From<KafkaFailure> for TransactionError {
    fn from(failure: KafkaFailure) -> Self {
        match &failure.source {
            source if source.is_fence() => Self::Fenced(failure),
            source if source.is_refused_record() => Self::Refused(failure),
            _ => Self::Doubt(failure.to_string()),
        }
    }
}

/// The producer of one slot and one epoch. All calls block.
pub(crate) struct SlotProducer {
    // Dropped before the watch that its interceptors point to.
    client: Client<DefaultClientContext>,
    watch: Arc<DoubtWatch>,
    group: GroupMetadata,
}

/// A message without its headers, borrowed.
struct Message<'a> {
    timestamp_ms: Option<i64>,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
}

/// What was handed over since the broker had everything.
#[derive(Default)]
struct Batch {
    records: usize,
    bytes: usize,
}

/// librdkafka's handle of a topic. By name it would look the topic up for each record, behind the client's one lock.
struct Topic<'a> {
    native: *mut sys::rd_kafka_topic_t,
    _client: PhantomData<&'a SlotProducer>,
}

impl Drop for Topic<'_> {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed once; records under way hold references of their own.
        unsafe { sys::rd_kafka_topic_destroy(self.native) };
    }
}

struct GroupMetadata(*mut sys::rd_kafka_consumer_group_metadata_t);

// SAFETY: an immutable object after its creation.
unsafe impl Send for GroupMetadata {}
// SAFETY: as above.
unsafe impl Sync for GroupMetadata {}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0) };
    }
}

impl SlotProducer {
    /// Makes the producer; nothing is fenced before [`SlotProducer::fence`].
    pub(crate) fn new(servers: &str, transactional_id: &str, group_id: &str) -> Result<Self, KafkaError> {
        let mut config = client_config(servers, "slot");
        config
            .set("transactional.id", transactional_id)
            .set("transaction.timeout.ms", TRANSACTION_TIMEOUT.as_millis().to_string())
            .set("linger.ms", "5")
            .set("compression.type", "lz4")
            // A full queue makes the transaction's thread wait.
            .set("queue.buffering.max.kbytes", PRODUCER_QUEUE_KILOBYTES.to_string())
            // What is too large, the topic's own setting says: by the compressed size, which only the broker knows.
            .set("message.max.bytes", MOST_MESSAGE_BYTES);
        let native = config.create_native_config()?;
        let watch = Arc::new(DoubtWatch::default());
        // SAFETY: the configuration is valid until `Client::new` takes it; the watch outlives the client.
        unsafe {
            sys::rd_kafka_conf_set_log_cb(native.ptr(), Some(log));
            watch.install(native.ptr())
        }
        .map_err(|code| {
            KafkaError::ClientCreation(format!("the interceptor can't be installed: {code:?}"))
        })?;
        let client = Client::new(&config, native, RDKafkaType::RD_KAFKA_PRODUCER, DefaultClientContext)?;
        let group = CString::new(group_id).unwrap_or_default();
        // SAFETY: the name is copied.
        let group = GroupMetadata(unsafe { sys::rd_kafka_consumer_group_metadata_new(group.as_ptr()) });
        Ok(Self { client, watch, group })
    }

    /// `init_transactions`: from its success on, every predecessor with this transactional id is fenced and its
    /// open transaction aborted.
    pub(crate) fn fence(&self, deadline: Duration) -> Result<(), KafkaFailure> {
        self.connect(deadline)?;
        // SAFETY: the client is valid; the error is ours.
        unsafe {
            NativeError::take(sys::rd_kafka_init_transactions(self.client.native_ptr(), millis(deadline)))
        }
        .map_err(|error| KafkaFailure::new("fencing the predecessor (init_transactions)", error))
    }

    /// Waits for a connection to any broker. Without one librdkafka looks for the transaction's coordinator again only
    /// after half a second, however soon it is connected.
    fn connect(&self, deadline: Duration) -> Result<(), KafkaFailure> {
        let mut metadata = ptr::null();
        // SAFETY: no topic of ours is made by it (a producer has none yet); what it gives is freed.
        let code = unsafe {
            let (native, none) = (self.client.native_ptr(), ptr::null_mut());
            let code = sys::rd_kafka_metadata(native, 0, none, &raw mut metadata, millis(deadline));
            if !metadata.is_null() {
                sys::rd_kafka_metadata_destroy(metadata);
            }
            code
        };
        NativeError::from_code(code).map_err(|error| KafkaFailure::new("connecting to Kafka", error))
    }

    /// Runs the transaction. `Ok` means certainly committed, by requests that were each sent once.
    pub(crate) fn commit(&self, transaction: &Transaction<'_>) -> Result<(), TransactionError> {
        self.watch.begin();
        let done = self.run_transaction(transaction);
        let doubt = self.watch.finish();
        self.log_events();
        done?;
        match doubt {
            Some(reason) => Err(TransactionError::Doubt(reason)),
            None => Ok(()),
        }
    }

    fn run_transaction(&self, transaction: &Transaction<'_>) -> Result<(), TransactionError> {
        let native = self.client.native_ptr();
        // SAFETY: the client is valid; the error is ours.
        unsafe { NativeError::take(sys::rd_kafka_begin_transaction(native)) }
            .map_err(|error| KafkaFailure::new("beginning a transaction", error))?;
        let (topic, partition) = transaction.source;
        let metadata = transaction.metadata;
        let produced = self.produce_all(transaction);
        let offset = transaction.offset;
        let list = PartitionList::one(topic, partition, offset);
        // SAFETY: the element exists; librdkafka frees metadata with the list, so it must be its allocator's.
        unsafe {
            let element = (*list.0).elems;
            let bytes = metadata.as_bytes();
            let copy = sys::rd_kafka_mem_malloc(ptr::null_mut(), bytes.len().max(1));
            ptr::copy_nonoverlapping(bytes.as_ptr(), copy.cast(), bytes.len());
            (*element).metadata = copy;
            (*element).metadata_size = bytes.len();
        }
        // SAFETY: all pointers are valid through the call; the error is ours.
        let add_record = || unsafe {
            NativeError::take(sys::rd_kafka_send_offsets_to_transaction(
                native,
                list.0,
                self.group.0,
                millis(TRANSACTION_TIMEOUT),
            ))
            .map_err(|error| KafkaFailure::new("adding the record to the transaction", error))
        };
        if let Err(failure) = produced {
            // A batch before has failed: the next call that a failed transaction refuses says why.
            if failure.source.code == RDKafkaErrorCode::State {
                add_record()?;
            }
            return Err(failure.into());
        }
        add_record()?;
        // SAFETY: the client is valid; the error is ours.
        unsafe { NativeError::take(sys::rd_kafka_commit_transaction(native, millis(TRANSACTION_TIMEOUT))) }
            .map_err(|error| KafkaFailure::new("committing the transaction", error))?;
        Ok(())
    }

    /// Hands all records over.
    fn produce_all(&self, transaction: &Transaction<'_>) -> Result<(), KafkaFailure> {
        let mut batch = Batch::default();
        if let Some((topic, records)) = transaction.enriched {
            self.produce_enriched(topic, transaction.source, records, &mut batch)?;
        }
        if let Some((topic, partition, records)) = transaction.invalid {
            for record in records {
                self.produce_invalid(topic, partition, record, &mut batch)?;
            }
        }
        Ok(())
    }

    fn produce_enriched(
        &self,
        topic: &str,
        (source_topic, partition): (&str, i32),
        records: &EnrichedRecords,
        batch: &mut Batch,
    ) -> Result<(), KafkaFailure> {
        let topic = self.topic(topic)?;
        let partition_text = partition.to_string();
        let mut offset_text = String::new();
        for record in records.iter() {
            offset_text.clear();
            // Writing to text can't fail.
            let _ = write!(offset_text, "{}", record.offset);
            let headers: [(&CStr, Option<&[u8]>); 4] = [
                (SOURCE_TOPIC, Some(source_topic.as_bytes())),
                (SOURCE_PARTITION, Some(partition_text.as_bytes())),
                (SOURCE_OFFSET, Some(offset_text.as_bytes())),
                (TRACEPARENT, record.traceparent),
            ];
            let message = Message {
                timestamp_ms: (record.timestamp_ms >= 0).then_some(record.timestamp_ms),
                key: record.key,
                value: record.value,
            };
            let headers = headers.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
            self.make_room(batch, &message)?;
            self.produce(&topic, partition, &message, headers)
                .map_err(|error| KafkaFailure::new("producing an enriched record", error))?;
        }
        Ok(())
    }

    fn produce_invalid(
        &self,
        topic: &str,
        partition: i32,
        record: &InvalidRecord,
        batch: &mut Batch,
    ) -> Result<(), KafkaFailure> {
        let topic = self.topic(topic)?;
        let names: Vec<CString> =
            record.headers.iter().map(|(name, _)| CString::new(*name).unwrap_or_default()).collect();
        let message =
            Message { timestamp_ms: None, key: record.key.as_deref(), value: record.value.as_deref() };
        self.make_room(batch, &message)?;
        let values = record.headers.iter().map(|(_, value)| value.as_bytes());
        let headers = names.iter().map(CString::as_c_str).zip(values);
        self.produce(&topic, partition, &message, headers)
            .map_err(|error| KafkaFailure::new("quarantining a record", error))?;
        Ok(())
    }

    /// Counts `message` in; when the batch has no room for it, waits until the broker has all before it.
    ///
    /// A partition of an idempotent producer has one batch under way at a time. While another full one waits behind
    /// it, librdkafka's thread does not sleep: it asks again and again until the answer comes.
    fn make_room(&self, batch: &mut Batch, message: &Message<'_>) -> Result<(), KafkaFailure> {
        let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        let bytes = length(message.key) + length(message.value) + MOST_HEADER_BYTES;
        if batch.records > 0 && (batch.bytes + bytes > BATCH_BYTES || batch.records >= BATCH_RECORDS) {
            // SAFETY: the client is valid.
            let code = unsafe { sys::rd_kafka_flush(self.client.native_ptr(), millis(TRANSACTION_TIMEOUT)) };
            NativeError::from_code(code)
                .map_err(|error| KafkaFailure::new("waiting for the broker to take a batch", error))?;
            *batch = Batch::default();
        }
        batch.records += 1;
        batch.bytes += bytes;
        Ok(())
    }

    /// A topic to write to.
    fn topic(&self, topic: &str) -> Result<Topic<'_>, KafkaFailure> {
        let name = c_name(topic);
        // SAFETY: the client is valid; the name is copied.
        let native =
            unsafe { sys::rd_kafka_topic_new(self.client.native_ptr(), name.as_ptr(), ptr::null_mut()) };
        if native.is_null() {
            // SAFETY: it reads what the call above left for this thread.
            let code = unsafe { sys::rd_kafka_last_error() };
            return Err(KafkaFailure::new(format!("naming the topic {topic:?}"), NativeError::of_code(code)));
        }
        Ok(Topic { native, _client: PhantomData })
    }

    /// Hands a copy of the message over; waits while the producer's queue is full.
    fn produce<'a>(
        &self,
        topic: &Topic<'_>,
        partition: i32,
        message: &Message<'a>,
        headers: impl Iterator<Item = (&'a CStr, &'a [u8])>,
    ) -> Result<(), NativeError> {
        use sys::rd_kafka_vtype_t as Kind;
        const MOST_ARGUMENTS: usize = 16;
        let mut arguments: Vec<sys::rd_kafka_vu_t> = Vec::with_capacity(MOST_ARGUMENTS);
        arguments.extend([
            argument(Kind::RD_KAFKA_VTYPE_RKT, |u| u.rkt = topic.native),
            argument(Kind::RD_KAFKA_VTYPE_PARTITION, |u| u.i32_ = partition),
            argument(Kind::RD_KAFKA_VTYPE_MSGFLAGS, |u| {
                u.i = sys::RD_KAFKA_MSG_F_COPY as c_int | sys::RD_KAFKA_MSG_F_BLOCK as c_int;
            }),
        ]);
        if let Some(timestamp_ms) = message.timestamp_ms {
            arguments.push(argument(Kind::RD_KAFKA_VTYPE_TIMESTAMP, |u| u.i64_ = timestamp_ms));
        }
        for (kind, bytes) in
            [(Kind::RD_KAFKA_VTYPE_KEY, message.key), (Kind::RD_KAFKA_VTYPE_VALUE, message.value)]
        {
            if let Some(bytes) = bytes {
                arguments.push(argument(kind, |u| {
                    u.mem.ptr = bytes.as_ptr().cast_mut().cast();
                    u.mem.size = bytes.len();
                }));
            }
        }
        for (name, value) in headers {
            arguments.push(argument(Kind::RD_KAFKA_VTYPE_HEADER, |u| {
                u.header.name = name.as_ptr();
                u.header.val = value.as_ptr().cast();
                u.header.size = value.len().cast_signed();
            }));
        }
        // SAFETY: every argument points to memory that lives through the call, which copies it.
        unsafe {
            NativeError::take(sys::rd_kafka_produceva(
                self.client.native_ptr(),
                arguments.as_ptr(),
                arguments.len(),
            ))
        }
    }

    /// Serves the client's event queue: librdkafka's log lines wait there.
    fn log_events(&self) {
        // SAFETY: the client is valid.
        while unsafe { sys::rd_kafka_poll(self.client.native_ptr(), 0) } > 0 {}
    }
}

impl std::fmt::Debug for SlotProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SlotProducer").field("watch", &self.watch).finish()
    }
}

fn argument(
    kind: sys::rd_kafka_vtype_t,
    fill: impl FnOnce(&mut sys::rd_kafka_vu_s__bindgen_ty_1),
) -> sys::rd_kafka_vu_t {
    let mut value = sys::rd_kafka_vu_s__bindgen_ty_1 { _pad: [0; 64] };
    fill(&mut value);
    sys::rd_kafka_vu_t { vtype: kind, u: value }
}

unsafe extern "C" fn log(
    _: *const sys::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    line: *const c_char,
) {
    // SAFETY: librdkafka passes texts that live through the call.
    let (facility, line) = unsafe { (text(facility), text(line)) };
    debug!(facility, level, "{line}");
}
