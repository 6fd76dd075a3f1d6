//! What one transaction of a slot holds.

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

/// Bytes of a piece of [`EnrichedRecords`]: below what the allocator asks the system for each time anew.
const PIECE_BYTES: usize = 64 << 10;

/// Records for the enriched topic, in pieces of memory that never move.
#[derive(Debug, Default)]
pub(crate) struct EnrichedRecords {
    pieces: Vec<Vec<u8>>,
    piece_bytes: usize,
    records: Vec<Place>,
}

/// Where a record lies: key, value and traceparent one after another in one piece.
#[derive(Debug)]
struct Place {
    /// Of the record that it was made of.
    offset: i64,
    timestamp_ms: i64,
    piece: u32,
    start: u32,
    /// `None` where the record has no such part.
    key: Option<u32>,
    value: Option<u32>,
    traceparent: Option<u32>,
}

/// A record for the enriched topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct EnrichedRecord<'a> {
    /// Of the record that it was made of.
    pub(super) offset: i64,
    pub(super) timestamp_ms: i64,
    pub(super) key: Option<&'a [u8]>,
    pub(super) value: Option<&'a [u8]>,
    /// The trace that the record belongs to (W3C Trace Context), if it is followed.
    pub(super) traceparent: Option<&'a [u8]>,
}

impl EnrichedRecords {
    pub(crate) fn push(
        &mut self,
        source: &SourceRecord<'_>,
        value: Option<&[u8]>,
        traceparent: Option<&[u8]>,
    ) {
        let parts = [source.key, value, traceparent];
        let length: usize = parts.iter().flatten().map(|part| part.len()).sum();
        let has_room = |piece: &Vec<u8>| piece.capacity() - piece.len() >= length;
        if !self.pieces.last().is_some_and(has_room) {
            let piece = Vec::with_capacity(length.max(PIECE_BYTES));
            self.piece_bytes += piece.capacity();
            self.pieces.push(piece);
        }
        let number = self.pieces.len() - 1;
        let piece = &mut self.pieces[number];
        let start = small(piece.len());
        parts.iter().flatten().for_each(|part| piece.extend_from_slice(part));
        let [key, value, traceparent] = parts.map(|part| part.map(|part| small(part.len())));
        let (offset, timestamp_ms) = (source.offset, source.timestamp_ms);
        let piece = small(number);
        self.records.push(Place { offset, timestamp_ms, piece, start, key, value, traceparent });
    }

    /// In the order in which they came.
    pub(super) fn iter(&self) -> impl Iterator<Item = EnrichedRecord<'_>> {
        self.records.iter().map(|place| {
            let mut rest = &self.pieces[place.piece as usize][place.start as usize..];
            let mut part = |length: Option<u32>| {
                let (part, after) = rest.split_at(length? as usize);
                rest = after;
                Some(part)
            };
            let (key, value, traceparent) = (part(place.key), part(place.value), part(place.traceparent));
            let Place { offset, timestamp_ms, .. } = *place;
            EnrichedRecord { offset, timestamp_ms, key, value, traceparent }
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }

    /// Source offset and bytes of the largest record.
    pub(crate) fn largest(&self) -> Option<(i64, usize)> {
        let length = |part: Option<&[u8]>| part.map_or(0, <[u8]>::len);
        self.iter()
            .map(|record| (record.offset, length(record.key) + length(record.value)))
            .max_by_key(|(_, bytes)| *bytes)
    }

    /// Bytes of memory that the records hold.
    pub(crate) fn memory(&self) -> usize {
        self.piece_bytes + self.records.capacity() * size_of::<Place>()
    }
}

/// A length or a number within [`EnrichedRecords`]: a part has less than 2 GiB in Kafka's protocol, and a commit far
/// less than 2^32 records.
fn small(length: usize) -> u32 {
    u32::try_from(length).unwrap_or_else(|_| panic!("a part of {length} bytes, expected less than 4 GiB"))
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn records_come_out_as_they_went_in(
            records in prop::collection::vec(
                prop::array::uniform3(prop::option::of(prop_oneof![9 => 0..900_usize, 1 => 60_000..70_000_usize])),
                0..60,
            ),
        ) {
            let bytes: Vec<u8> = (0..70_000_u32).map(|number| number as u8).collect();
            let mut kept = EnrichedRecords::default();
            let expected: Vec<_> = (0..).zip(&records).map(|(offset, lengths)| {
                let [key, value, traceparent] =
                    lengths.map(|length| length.map(|length| &bytes[bytes.len() - length..]));
                EnrichedRecord { offset, timestamp_ms: offset + 7, key, value, traceparent }
            }).collect();
            for record in &expected {
                let EnrichedRecord { offset, timestamp_ms, key, .. } = *record;
                let source = SourceRecord { offset, timestamp_ms, key, ..SourceRecord::default() };
                kept.push(&source, record.value, record.traceparent);
            }
            prop_assert_eq!(kept.len(), expected.len());
            prop_assert_eq!(kept.iter().collect::<Vec<_>>(), expected);
            let held: usize = records.iter().flatten().flatten().sum();
            prop_assert!(kept.memory() >= held, "{} of {held}", kept.memory());
        }
    }
}
