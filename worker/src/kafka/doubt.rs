//! Whether a transaction's outcome is in doubt.
//!
//! librdkafka resends EndTxn and its kin by itself after a time-out or a disconnect, and a late duplicate can hit
//! a *later* transaction. So interceptors watch what is sent and answered between begin and the commit's answer:
//! a request sent while its like is unanswered, or a lost connection, puts the producer in doubt, and a producer
//! in doubt is retired. A request that the broker *answered* with "not now" is done with: repeating it is safe.
//! At most one request of a kind is under way: librdkafka adds all partitions of a transaction by one request at a
//! time.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};

use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t as Code;
use tracing::debug;

const NAME: &std::ffi::CStr = c"millrace-doubt";

/// Kafka protocol: API keys of the requests that a transaction consists of, besides Produce.
const STEPS: [(i16, &str); 4] =
    [(24, "AddPartitionsToTxn"), (25, "AddOffsetsToTxn"), (28, "TxnOffsetCommit"), (26, "EndTxn")];

/// Watches one producer's requests while a transaction runs.
#[derive(Debug, Default)]
pub(super) struct DoubtWatch {
    transaction_open: AtomicBool,
    connection_lost: AtomicBool,
    resent_unanswered: AtomicBool,
    /// A request of the kind was sent and not answered yet; in the order of [`STEPS`].
    unanswered: [AtomicBool; STEPS.len()],
}

impl DoubtWatch {
    /// Installs the interceptors in a client's configuration.
    ///
    /// # Safety
    /// `config` is valid, and the watch outlives every client that is made of it.
    pub(super) unsafe fn install(&self, config: *mut sys::rd_kafka_conf_t) -> Result<(), Code> {
        let watch = ptr::from_ref(self).cast_mut().cast();
        // SAFETY: by the contract above; the name is copied.
        let code =
            unsafe { sys::rd_kafka_conf_interceptor_add_on_new(config, NAME.as_ptr(), Some(on_new), watch) };
        if code == Code::RD_KAFKA_RESP_ERR_NO_ERROR { Ok(()) } else { Err(code) }
    }

    pub(super) fn begin(&self) {
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
    pub(super) fn finish(&self) -> Option<String> {
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

unsafe extern "C" fn on_new(
    native: *mut sys::rd_kafka_t,
    _: *const sys::rd_kafka_conf_t,
    watch: *mut c_void,
    _: *mut c_char,
    _: usize,
) -> Code {
    // SAFETY: called by librdkafka while it makes the client; the watch outlives the client.
    unsafe {
        let added = sys::rd_kafka_interceptor_add_on_request_sent(
            native,
            NAME.as_ptr(),
            Some(on_request_sent),
            watch,
        );
        if added != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return added;
        }
        let added = sys::rd_kafka_interceptor_add_on_response_received(
            native,
            NAME.as_ptr(),
            Some(on_response_received),
            watch,
        );
        if added != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return added;
        }
        sys::rd_kafka_interceptor_add_on_broker_state_change(
            native,
            NAME.as_ptr(),
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
