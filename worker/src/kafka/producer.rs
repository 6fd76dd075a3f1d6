//! A slot's transactional producer.
//!
//! A producer whose transaction is in doubt (see [`super::doubt`]) is spent: its slot opens anew.

use std::ffi::{CStr, CString, c_char, c_int};
use std::fmt::Write as _;
use std::ops::Range;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use millrace_common::kafka::client_config;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::error::KafkaError;
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
        if let Some((enriched_topic, records)) = transaction.enriched {
            self.produce_enriched(enriched_topic, transaction.source, records)?;
        }
        if let Some((invalid_topic, invalid_partition, records)) = transaction.invalid {
            for record in records {
                self.produce_invalid(invalid_topic, invalid_partition, record)?;
            }
        }
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
        // SAFETY: all pointers are valid through the calls; the errors are ours.
        unsafe {
            NativeError::take(sys::rd_kafka_send_offsets_to_transaction(
                native,
                list.0,
                self.group.0,
                millis(TRANSACTION_TIMEOUT),
            ))
            .map_err(|error| KafkaFailure::new("adding the record to the transaction", error))?;
            NativeError::take(sys::rd_kafka_commit_transaction(native, millis(TRANSACTION_TIMEOUT)))
                .map_err(|error| KafkaFailure::new("committing the transaction", error))?;
        }
        Ok(())
    }

    fn produce_enriched(
        &self,
        topic: &str,
        (source_topic, partition): (&str, i32),
        records: &EnrichedRecords,
    ) -> Result<(), TransactionError> {
        let topic = c_name(topic);
        let partition_text = partition.to_string();
        let mut offset_text = String::new();
        let part = |range: &Option<Range<usize>>| range.clone().map(|range| &records.bytes[range]);
        for record in &records.records {
            offset_text.clear();
            // Writing to text can't fail.
            let _ = write!(offset_text, "{}", record.offset);
            let headers: [(&CStr, Option<&[u8]>); 4] = [
                (SOURCE_TOPIC, Some(source_topic.as_bytes())),
                (SOURCE_PARTITION, Some(partition_text.as_bytes())),
                (SOURCE_OFFSET, Some(offset_text.as_bytes())),
                (TRACEPARENT, part(&record.traceparent)),
            ];
            let message = Message {
                timestamp_ms: (record.timestamp_ms >= 0).then_some(record.timestamp_ms),
                key: part(&record.key),
                value: part(&record.value),
            };
            let headers = headers.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
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
    ) -> Result<(), TransactionError> {
        let topic = c_name(topic);
        let names: Vec<CString> =
            record.headers.iter().map(|(name, _)| CString::new(*name).unwrap_or_default()).collect();
        let message =
            Message { timestamp_ms: None, key: record.key.as_deref(), value: record.value.as_deref() };
        let values = record.headers.iter().map(|(_, value)| value.as_bytes());
        let headers = names.iter().map(CString::as_c_str).zip(values);
        self.produce(&topic, partition, &message, headers)
            .map_err(|error| KafkaFailure::new("quarantining a record", error))?;
        Ok(())
    }

    /// Hands a copy of the message over; waits while the producer's queue is full.
    fn produce<'a>(
        &self,
        topic: &CStr,
        partition: i32,
        message: &Message<'a>,
        headers: impl Iterator<Item = (&'a CStr, &'a [u8])>,
    ) -> Result<(), NativeError> {
        use sys::rd_kafka_vtype_t as Kind;
        const MOST_ARGUMENTS: usize = 16;
        let mut arguments: Vec<sys::rd_kafka_vu_t> = Vec::with_capacity(MOST_ARGUMENTS);
        arguments.extend([
            argument(Kind::RD_KAFKA_VTYPE_TOPIC, |u| u.cstr = topic.as_ptr()),
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
