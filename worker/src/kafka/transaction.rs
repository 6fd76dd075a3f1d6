//! What one transaction of a slot holds.

use std::ops::Range;

use bytes::Bytes;
use millrace_transform::SourceRecord;

/// A record for the invalid topic.
#[derive(Debug, Clone)]
pub(crate) struct InvalidRecord {
    pub(crate) key: Option<Bytes>,
    pub(crate) value: Option<Bytes>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl InvalidRecord {
    /// Bytes of key, value and headers.
    pub(crate) fn bytes(&self) -> usize {
        let part = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        part(&self.key) + part(&self.value) + headers
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| *known == name).map(|(_, value)| value.as_str())
    }
}

/// Records for the enriched topic, in one piece of memory.
#[derive(Debug, Default)]
pub(crate) struct EnrichedRecords {
    pub(super) bytes: Vec<u8>,
    pub(super) records: Vec<EnrichedRecord>,
}

#[derive(Debug)]
pub(super) struct EnrichedRecord {
    /// Of the record that it was made of.
    pub(super) offset: i64,
    pub(super) timestamp_ms: i64,
    pub(super) key: Option<Range<usize>>,
    pub(super) value: Option<Range<usize>>,
    /// The trace that the record belongs to (W3C Trace Context), if it is followed.
    pub(super) traceparent: Option<Range<usize>>,
}

impl EnrichedRecords {
    pub(crate) fn push(
        &mut self,
        source: &SourceRecord<'_>,
        value: Option<&[u8]>,
        traceparent: Option<&[u8]>,
    ) {
        let mut keep = |part: Option<&[u8]>| {
            part.map(|part| {
                let start = self.bytes.len();
                self.bytes.extend_from_slice(part);
                start..self.bytes.len()
            })
        };
        let (key, value, traceparent) = (keep(source.key), keep(value), keep(traceparent));
        let (offset, timestamp_ms) = (source.offset, source.timestamp_ms);
        self.records.push(EnrichedRecord { offset, timestamp_ms, key, value, traceparent });
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Source offset and bytes of the largest record.
    pub(crate) fn largest(&self) -> Option<(i64, usize)> {
        let length = |part: &Option<Range<usize>>| part.as_ref().map_or(0, Range::len);
        self.records
            .iter()
            .map(|record| (record.offset, length(&record.key) + length(&record.value)))
            .max_by_key(|(_, bytes)| *bytes)
    }

    /// Bytes of memory that the records hold.
    pub(crate) fn memory(&self) -> usize {
        self.bytes.capacity() + self.records.capacity() * size_of::<EnrichedRecord>()
    }
}

/// What one transaction of a slot makes visible, all of it or nothing.
#[derive(Debug)]
pub(crate) struct Transaction<'a> {
    /// Topic and partition of the source, whose committed offset it moves.
    pub(crate) source: (&'a str, i32),
    /// The committed offset, and the record beside it.
    pub(crate) offset: i64,
    pub(crate) metadata: &'a str,
    /// To the same partition of this topic.
    pub(crate) enriched: Option<(&'a str, &'a EnrichedRecords)>,
    /// To this partition of this topic.
    pub(crate) invalid: Option<(&'a str, i32, &'a [InvalidRecord])>,
}
