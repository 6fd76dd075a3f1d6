//! A batch of fetched records, borrowed from librdkafka's fetch buffers without a copy.

use std::sync::Arc;

use rdkafka_sys as sys;

use super::consumer::Native;
use crate::transform::SourceRecord;

/// Records of one partition in offset order. Keeps the consumer alive, since its buffers hold the bytes.
pub(crate) struct Batch {
    messages: Vec<*mut sys::rd_kafka_message_t>,
    _consumer: Arc<Native>,
}

// SAFETY: a message is an owned object with reference-counted (atomic) payload; librdkafka lets any thread read
// and destroy it.
unsafe impl Send for Batch {}

impl Batch {
    /// # Safety
    /// `messages` are owned by the caller, carry no error, and come from `consumer`.
    pub(super) unsafe fn new(messages: Vec<*mut sys::rd_kafka_message_t>, consumer: Arc<Native>) -> Self {
        Self { messages, _consumer: consumer }
    }

    pub(crate) fn len(&self) -> usize {
        self.messages.len()
    }

    pub(crate) fn records(&self) -> impl Iterator<Item = SourceRecord<'_>> {
        self.messages.iter().map(|message| {
            // SAFETY: the pointers are valid until our drop, and the borrow of `self` outlives the record's.
            unsafe {
                let message = &**message;
                let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
                SourceRecord {
                    offset: message.offset,
                    timestamp_ms: sys::rd_kafka_message_timestamp(message, &mut kind),
                    key: bytes(message.key, message.key_len),
                    value: bytes(message.payload, message.len),
                }
            }
        })
    }
}

/// # Safety
/// `start` is null or points to `length` readable bytes that live as long as `'a`.
unsafe fn bytes<'a>(start: *const std::ffi::c_void, length: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        return None;
    }
    // SAFETY: by the contract above.
    Some(unsafe { std::slice::from_raw_parts(start.cast(), length) })
}

impl Drop for Batch {
    fn drop(&mut self) {
        for message in &self.messages {
            // SAFETY: owned by us, destroyed once.
            unsafe { sys::rd_kafka_message_destroy(*message) };
        }
    }
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("records", &self.messages.len()).finish()
    }
}
