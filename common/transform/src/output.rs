//! What a transform makes of a batch: one verdict for each record, and the values for the enriched topic.

use std::ops::Range;

use millrace_common::event::{Rejection, RejectionCode};

use crate::LARGEST_VALUE;

/// What becomes of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Kept(Kept),
    /// The definition leaves it out.
    Filtered,
    /// It goes to the quarantine with its reason.
    Rejected(Box<Rejection>),
}

/// A kept record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Where its value lies in the output's bytes; `None` if it has none, or none was wanted.
    value: Option<Range<usize>>,
}

/// The place of a row: what decides on its day in the lake.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowPlace {
    pub offset: i64,
    /// The time that the row is filed under, in milliseconds since 1970 UTC; `None` is unplaced.
    pub time_ms: Option<i64>,
    /// The record's Kafka timestamp; -1 if it has none.
    pub received_ms: i64,
}

/// Filled by [`crate::Transform::apply`]; reused from batch to batch.
#[derive(Debug, Default)]
pub struct Output {
    verdicts: Vec<Verdict>,
    rows: Vec<RowPlace>,
    bytes: Vec<u8>,
}

impl Output {
    /// Keeps a record of which `value` writes the enriched value. One of more than [`LARGEST_VALUE`] bytes is rejected
    /// instead; returns whether the record is kept.
    pub fn keep_with(&mut self, value: impl FnOnce(&mut Vec<u8>)) -> bool {
        let start = self.bytes.len();
        value(&mut self.bytes);
        let length = self.bytes.len() - start;
        if length > LARGEST_VALUE {
            self.bytes.truncate(start);
            self.reject(Rejection::new(
                RejectionCode::TooLong,
                "",
                format!("its enriched form has {length} bytes, expected at most {LARGEST_VALUE}"),
            ));
            return false;
        }
        self.verdicts.push(Verdict::Kept(Kept { value: Some(start..self.bytes.len()) }));
        true
    }

    /// Keeps a record that has no enriched value, or of which none is wanted.
    pub fn keep(&mut self) {
        self.verdicts.push(Verdict::Kept(Kept { value: None }));
    }

    /// Says where the row that was just added belongs.
    pub fn row(&mut self, place: RowPlace) {
        self.rows.push(place);
    }

    pub fn filter(&mut self) {
        self.verdicts.push(Verdict::Filtered);
    }

    pub fn reject(&mut self, rejection: Rejection) {
        self.verdicts.push(Verdict::Rejected(Box::new(rejection)));
    }

    /// One for each record that was given, in their order.
    pub fn verdicts(&self) -> &[Verdict] {
        &self.verdicts
    }

    /// One for each row that was added, in their order.
    pub fn rows(&self) -> &[RowPlace] {
        &self.rows
    }

    /// The enriched value of a kept record.
    pub fn value(&self, kept: &Kept) -> Option<&[u8]> {
        kept.value.clone().map(|range| &self.bytes[range])
    }

    /// Bytes of all values.
    pub fn value_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// Empties it for the next batch; memory beyond `keep_bytes` is given back.
    pub fn clear(&mut self, keep_bytes: usize) {
        self.verdicts.clear();
        self.rows.clear();
        self.bytes.clear();
        self.bytes.shrink_to(keep_bytes);
    }
}
