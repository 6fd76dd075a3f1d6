//! A batch of fetched records, borrowed from librdkafka's fetch buffers without a copy.

use std::ffi::CStr;
use std::ptr;
use std::sync::Arc;

use millrace_transform::SourceRecord;
use rdkafka_sys as sys;
use sys::rd_kafka_resp_err_t as Code;

use super::consumer::Native;

/// Name of the header that continues a trace.
const TRACEPARENT: &CStr = c"traceparent";

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

    /// Of all keys and values.
    pub(crate) fn bytes(&self) -> u64 {
        let lengths = self.messages.iter().map(|message| {
            // SAFETY: the pointers are valid until our drop.
            let message = unsafe { &**message };
            message.key_len as u64 + message.len as u64
        });
        lengths.sum()
    }

    /// The records from number `first` on; their headers only if `with_headers`.
    pub(crate) fn records(&self, first: usize, with_headers: bool) -> impl Iterator<Item = SourceRecord<'_>> {
        self.messages[first..].iter().map(move |message| {
            // SAFETY: the pointers are valid until our drop, and the borrow of `self` outlives the record's.
            unsafe {
                let pointer = *message;
                let message = &*pointer;
                let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
                SourceRecord {
                    offset: message.offset,
                    timestamp_ms: sys::rd_kafka_message_timestamp(message, &mut kind),
                    key: bytes(message.key, message.key_len),
                    value: bytes(message.payload, message.len),
                    headers: if with_headers { headers(pointer) } else { Vec::new() },
                }
            }
        })
    }
}

impl Batch {
    /// The header `traceparent` of record number `index`: the trace that it belongs to.
    pub(crate) fn traceparent(&self, index: usize) -> Option<&[u8]> {
        let mut list = ptr::null_mut();
        let (mut value, mut length) = (ptr::null(), 0);
        // SAFETY: the message is valid until our drop and the list belongs to it; what the value points to as well.
        unsafe {
            if sys::rd_kafka_message_headers(self.messages[index], &mut list)
                != Code::RD_KAFKA_RESP_ERR_NO_ERROR
            {
                return None;
            }
            let found = sys::rd_kafka_header_get_last(list, TRACEPARENT.as_ptr(), &mut value, &mut length);
            if found == Code::RD_KAFKA_RESP_ERR_NO_ERROR { bytes(value, length) } else { None }
        }
    }
}

/// # Safety
/// `message` is valid, read by nobody else meanwhile (its headers are parsed at the first look), and lives as long as
/// `'a`.
unsafe fn headers<'a>(message: *const sys::rd_kafka_message_t) -> Vec<(&'a str, Option<&'a [u8]>)> {
    let mut found = Vec::new();
    let mut list = ptr::null_mut();
    // SAFETY: by the contract above; the list belongs to the message.
    unsafe {
        if sys::rd_kafka_message_headers(message, &mut list) != Code::RD_KAFKA_RESP_ERR_NO_ERROR {
            return found;
        }
        let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
        while sys::rd_kafka_header_get_all(list, found.len(), &mut name, &mut value, &mut length)
            == Code::RD_KAFKA_RESP_ERR_NO_ERROR
        {
            // A name that is no UTF-8 has no place in a column of text.
            let name = CStr::from_ptr(name).to_str().unwrap_or("\u{fffd}");
            found.push((name, bytes(value, length)));
        }
    }
    found
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
