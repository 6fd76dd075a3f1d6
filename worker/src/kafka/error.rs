//! librdkafka's errors, taken over into plain values.

use std::ffi::{CStr, c_char};

use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t as Code;

/// An error of librdkafka with its flags.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message} ({code:?})")]
pub(crate) struct NativeError {
    pub(crate) code: RDKafkaErrorCode,
    pub(crate) message: String,
    pub(crate) fatal: bool,
    pub(crate) retriable: bool,
}

impl NativeError {
    /// Takes over and frees an error that librdkafka returned; `None` stands for success.
    ///
    /// # Safety
    /// `error` must be null or an error object that the caller owns.
    pub(crate) unsafe fn take(error: *mut sys::rd_kafka_error_t) -> Result<(), Self> {
        if error.is_null() {
            return Ok(());
        }
        // SAFETY: not null, owned by us until the destroy below; the strings are copied before it.
        unsafe {
            let taken = Self {
                code: sys::rd_kafka_error_code(error).into(),
                message: text(sys::rd_kafka_error_string(error)),
                fatal: sys::rd_kafka_error_is_fatal(error) != 0,
                retriable: sys::rd_kafka_error_is_retriable(error) != 0,
            };
            sys::rd_kafka_error_destroy(error);
            Err(taken)
        }
    }

    /// A bare code that a call returned.
    pub(crate) fn from_code(code: Code) -> Result<(), Self> {
        if code == Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Ok(());
        }
        // SAFETY: librdkafka returns a static text for every code.
        let message = unsafe { text(sys::rd_kafka_err2str(code)) };
        Err(Self { code: code.into(), message, fatal: false, retriable: false })
    }

    /// A topic refuses a record for what it is: too large, or against the topic's settings. Repeating it is in vain.
    pub(crate) fn is_refused_record(&self) -> bool {
        matches!(
            self.code,
            RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::MessageBatchTooLarge
                | RDKafkaErrorCode::InvalidTimestamp
                | RDKafkaErrorCode::InvalidRecord
        )
    }

    /// Another producer with the same transactional id took over, or the broker timed the transaction out
    /// (the two look alike from here).
    pub(crate) fn is_fence(&self) -> bool {
        matches!(
            self.code,
            RDKafkaErrorCode::Fenced
                | RDKafkaErrorCode::ProducerFenced
                | RDKafkaErrorCode::InvalidProducerEpoch
                | RDKafkaErrorCode::InvalidProducerIdMapping
        )
    }
}

/// A call to Kafka that failed, and what it was for.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{action}: {source}")]
pub(crate) struct KafkaFailure {
    pub(crate) action: String,
    #[source]
    pub(crate) source: NativeError,
}

impl KafkaFailure {
    pub(crate) fn new(action: impl Into<String>, source: NativeError) -> Self {
        Self { action: action.into(), source }
    }
}

/// A C string as text.
///
/// # Safety
/// `chars` must be null or a NUL-terminated string that lives through the call.
pub(super) unsafe fn text(chars: *const c_char) -> String {
    if chars.is_null() {
        return String::new();
    }
    // SAFETY: by the contract above.
    unsafe { CStr::from_ptr(chars) }.to_string_lossy().into_owned()
}
