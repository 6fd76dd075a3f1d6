//! A slot's transactional producer.
//!
//! librdkafka resends EndTxn and its kin by itself after a time-out or a disconnect, and a late duplicate can hit
//! a *later* transaction. So interceptors watch what is sent and answered between begin and the commit's answer:
//! a request sent while its like is unanswered, or a lost connection, puts the producer in doubt, and a producer
//! in doubt is retired. A request that the broker *answered* with "not now" is done with: repeating it is safe.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use millrace_common::kafka::client_config;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaType;
use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t as Code;
use tracing::debug;

use super::consumer::{PartitionList, c_name, millis};
use super::error::{KafkaFailure, NativeError, text};

/// The broker aborts a transaction that is open for longer.
const TRANSACTION_TIMEOUT: Duration = Duration::from_secs(15);

/// Kafka protocol: API keys of the requests that a transaction consists of, besides Produce.
const STEPS: [(i16, &str); 4] =
    [(24, "AddPartitionsToTxn"), (25, "AddOffsetsToTxn"), (28, "TxnOffsetCommit"), (26, "EndTxn")];

/// Watches one producer's requests while a transaction runs.
#[derive(Debug, Default)]
struct DoubtWatch {
    transaction_open: AtomicBool,
    connection_lost: AtomicBool,
    resent_unanswered: AtomicBool,
    /// A request of the kind was sent and not answered yet; in the order of [`STEPS`].
    unanswered: [AtomicBool; STEPS.len()],
}

impl DoubtWatch {
    fn begin(&self) {
        self.connection_lost.store(false, Ordering::SeqCst);
        self.resent_unanswered.store(false, Ordering::SeqCst);
        for unanswered in &self.unanswered {
            unanswered.store(false, Ordering::SeqCst);
        }
        self.transaction_open.store(true, Ordering::SeqCst);
    }

    fn request(&self, api_key: i16) -> Option<&AtomicBool> {
        let step = STEPS.iter().position(|(key, _)| *key == api_key)?;
        self.transaction_open.load(Ordering::SeqCst).then_some(&self.unanswered[step])
    }

    fn sent(&self, api_key: i16) {
        if let Some(unanswered) = self.request(api_key)
            && unanswered.swap(true, Ordering::SeqCst)
        {
            self.resent_unanswered.store(true, Ordering::SeqCst);
        }
    }

    fn answered(&self, api_key: i16) {
        if let Some(unanswered) = self.request(api_key) {
            unanswered.store(false, Ordering::SeqCst);
        }
    }

    fn connection_lost(&self) {
        if self.transaction_open.load(Ordering::SeqCst) {
            self.connection_lost.store(true, Ordering::SeqCst);
        }
    }

    /// Ends the watch and says what was doubtful.
    fn finish(&self) -> Option<String> {
        self.transaction_open.store(false, Ordering::SeqCst);
        if self.connection_lost.load(Ordering::SeqCst) {
            return Some("a broker's connection was lost during the transaction".into());
        }
        if self.resent_unanswered.load(Ordering::SeqCst) {
            return Some("a request of the transaction was sent again without an answer to the first".into());
        }
        let open = self.unanswered.iter().position(|unanswered| unanswered.load(Ordering::SeqCst))?;
        Some(format!("{} was never answered", STEPS[open].1))
    }
}

/// A record for the invalid topic.
#[derive(Debug, Clone)]
pub(crate) struct InvalidRecord {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

/// Why a transaction did not end with a certain commit. Either way the producer is spent.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TransactionError {
    /// Another owner took over (or the broker timed us out).
    #[error("fenced: {0}")]
    Fenced(#[source] KafkaFailure),
    /// It may or may not be committed: only the record tells, read after a new fence.
    #[error("in doubt: {0}")]
    Doubt(String),
}

impl From<KafkaFailure> for TransactionError {
    fn from(failure: KafkaFailure) -> Self {
        if failure.source.is_fence() { Self::Fenced(failure) } else { Self::Doubt(failure.to_string()) }
    }
}

/// The producer of one slot and one epoch. All calls block.
pub(crate) struct SlotProducer {
    // Dropped before the watch that its interceptors point to.
    client: Client<DefaultClientContext>,
    watch: Arc<DoubtWatch>,
    group: GroupMetadata,
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
            // What a slot quarantines between two commits is bounded by its roll policy; this is the hard stop.
            .set("queue.buffering.max.kbytes", "65536")
            .set("message.max.bytes", "2000000");
        let native = config.create_native_config()?;
        let watch = Arc::new(DoubtWatch::default());
        let name = c"millrace-doubt";
        // SAFETY: the configuration is valid until `Client::new` takes it; the watch outlives the client.
        let installed = unsafe {
            sys::rd_kafka_conf_set_log_cb(native.ptr(), Some(log));
            sys::rd_kafka_conf_interceptor_add_on_new(
                native.ptr(),
                name.as_ptr(),
                Some(on_new),
                Arc::as_ptr(&watch).cast_mut().cast(),
            )
        };
        if installed != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(KafkaError::ClientCreation(format!(
                "the interceptor can't be installed: {installed:?}"
            )));
        }
        let client = Client::new(&config, native, RDKafkaType::RD_KAFKA_PRODUCER, DefaultClientContext)?;
        let group = CString::new(group_id).unwrap_or_default();
        // SAFETY: the name is copied.
        let group = GroupMetadata(unsafe { sys::rd_kafka_consumer_group_metadata_new(group.as_ptr()) });
        Ok(Self { client, watch, group })
    }

    /// `init_transactions`: from its success on, every predecessor with this transactional id is fenced and its
    /// open transaction aborted.
    pub(crate) fn fence(&self, deadline: Duration) -> Result<(), KafkaFailure> {
        // SAFETY: the client is valid; the error is ours.
        unsafe {
            NativeError::take(sys::rd_kafka_init_transactions(self.client.native_ptr(), millis(deadline)))
        }
        .map_err(|error| KafkaFailure::new("fencing the predecessor (init_transactions)", error))
    }

    /// One transaction: `invalid` records to one partition of the invalid topic, and the slot's record as the
    /// group's committed offset. `Ok` means certainly committed, by requests that were each sent once.
    pub(crate) fn commit(
        &self,
        source: (&str, i32),
        offset: i64,
        metadata: &str,
        invalid: Option<(&str, i32, &[InvalidRecord])>,
    ) -> Result<(), TransactionError> {
        self.watch.begin();
        let done = self.run_transaction(source, offset, metadata, invalid);
        let doubt = self.watch.finish();
        self.log_events();
        done?;
        match doubt {
            Some(reason) => Err(TransactionError::Doubt(reason)),
            None => Ok(()),
        }
    }

    fn run_transaction(
        &self,
        (topic, partition): (&str, i32),
        offset: i64,
        metadata: &str,
        invalid: Option<(&str, i32, &[InvalidRecord])>,
    ) -> Result<(), TransactionError> {
        let native = self.client.native_ptr();
        // SAFETY: the client is valid; the error is ours.
        unsafe { NativeError::take(sys::rd_kafka_begin_transaction(native)) }
            .map_err(|error| KafkaFailure::new("beginning a transaction", error))?;
        if let Some((invalid_topic, invalid_partition, records)) = invalid {
            for record in records {
                self.produce(invalid_topic, invalid_partition, record)?;
            }
        }
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

    fn produce(&self, topic: &str, partition: i32, record: &InvalidRecord) -> Result<(), TransactionError> {
        let topic = c_name(topic);
        let names: Vec<(CString, &[u8])> = record
            .headers
            .iter()
            .map(|(name, value)| (CString::new(*name).unwrap_or_default(), value.as_bytes()))
            .collect();
        let mut arguments: Vec<sys::rd_kafka_vu_t> = vec![
            argument(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_TOPIC, |u| u.cstr = topic.as_ptr()),
            argument(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_PARTITION, |u| u.i32_ = partition),
            argument(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_MSGFLAGS, |u| {
                u.i = sys::RD_KAFKA_MSG_F_COPY as c_int | sys::RD_KAFKA_MSG_F_BLOCK as c_int;
            }),
        ];
        for (kind, bytes) in [
            (sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_KEY, &record.key),
            (sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_VALUE, &record.value),
        ] {
            if let Some(bytes) = bytes {
                arguments.push(argument(kind, |u| {
                    u.mem.ptr = bytes.as_ptr().cast_mut().cast();
                    u.mem.size = bytes.len();
                }));
            }
        }
        for (name, value) in &names {
            arguments.push(argument(sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_HEADER, |u| {
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
        .map_err(|error| KafkaFailure::new("quarantining a record", error))?;
        Ok(())
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

unsafe extern "C" fn on_new(
    native: *mut sys::rd_kafka_t,
    _: *const sys::rd_kafka_conf_t,
    watch: *mut c_void,
    _: *mut c_char,
    _: usize,
) -> Code {
    let name = c"millrace-doubt";
    // SAFETY: called by librdkafka while it makes the client; the watch outlives the client.
    unsafe {
        let added = sys::rd_kafka_interceptor_add_on_request_sent(
            native,
            name.as_ptr(),
            Some(on_request_sent),
            watch,
        );
        if added != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return added;
        }
        let added = sys::rd_kafka_interceptor_add_on_response_received(
            native,
            name.as_ptr(),
            Some(on_response_received),
            watch,
        );
        if added != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return added;
        }
        sys::rd_kafka_interceptor_add_on_broker_state_change(
            native,
            name.as_ptr(),
            Some(on_broker_state),
            watch,
        )
    }
}

unsafe extern "C" fn on_request_sent(
    _: *mut sys::rd_kafka_t,
    _: c_int,
    _: *const c_char,
    _: i32,
    api_key: i16,
    _: i16,
    _: i32,
    _: usize,
    watch: *mut c_void,
) -> Code {
    // SAFETY: the watch outlives the client that calls us.
    unsafe { &*watch.cast::<DoubtWatch>() }.sent(api_key);
    Code::RD_KAFKA_RESP_ERR_NO_ERROR
}

unsafe extern "C" fn on_response_received(
    _: *mut sys::rd_kafka_t,
    _: c_int,
    _: *const c_char,
    _: i32,
    api_key: i16,
    _: i16,
    _: i32,
    size: usize,
    _: i64,
    error: Code,
    watch: *mut c_void,
) -> Code {
    // Also called for requests that ended without a response, and twice for one that is handed to another thread;
    // always before librdkafka sends the like again.
    if size > 0 && error == Code::RD_KAFKA_RESP_ERR_NO_ERROR {
        // SAFETY: the watch outlives the client that calls us.
        unsafe { &*watch.cast::<DoubtWatch>() }.answered(api_key);
    }
    Code::RD_KAFKA_RESP_ERR_NO_ERROR
}

unsafe extern "C" fn on_broker_state(
    _: *mut sys::rd_kafka_t,
    broker: i32,
    _: *const c_char,
    _: *const c_char,
    _: c_int,
    state: *const c_char,
    watch: *mut c_void,
) -> Code {
    // SAFETY: librdkafka passes a static text; the watch outlives the client that calls us.
    unsafe {
        if std::ffi::CStr::from_ptr(state) == c"DOWN" {
            debug!(broker, "connection lost");
            (*watch.cast::<DoubtWatch>()).connection_lost();
        }
    }
    Code::RD_KAFKA_RESP_ERR_NO_ERROR
}

#[cfg(test)]
mod tests {
    use super::*;

    const END_TXN: i16 = 26;

    #[test]
    fn a_transaction_whose_requests_were_all_answered_is_certain() {
        let watch = DoubtWatch::default();
        watch.sent(END_TXN);
        watch.connection_lost();
        watch.begin();
        for (key, _) in STEPS {
            watch.sent(key);
            watch.answered(key);
            // The broker said "not now", and was asked again.
            watch.sent(key);
            watch.answered(key);
            watch.answered(key);
        }
        assert_eq!(watch.finish(), None);
    }

    #[test]
    fn a_request_sent_again_without_an_answer_is_doubt_even_if_answers_come() {
        let watch = DoubtWatch::default();
        for (key, name) in STEPS {
            watch.begin();
            watch.sent(key);
            watch.sent(key);
            watch.answered(key);
            watch.answered(key);
            assert!(watch.finish().is_some(), "{name}");
        }
    }

    #[test]
    fn an_unanswered_request_or_a_lost_connection_is_doubt() {
        let watch = DoubtWatch::default();
        watch.begin();
        watch.sent(END_TXN);
        assert_eq!(watch.finish().as_deref(), Some("EndTxn was never answered"));
        watch.begin();
        watch.connection_lost();
        assert!(watch.finish().is_some());
        watch.begin();
        assert_eq!(watch.finish(), None);
    }
}
