//! What becomes of a slot's records between reading and committing: the duplicate rule, the transform's verdicts, and
//! the products that wait for the next commit. CPU only; it moves to the compute pool and back with each batch.
//!
//! One read serves both sinks. What lies below the topic cursor is on the enriched topic (or quarantined) already and
//! is only wanted for the lake, which obeys what was decided then.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use bytes::Bytes;
use millrace_common::event::{Rejection, RejectionCode};
use millrace_common::headers;
use millrace_common::record::{CommittedRecord, OffsetRanges, WindowBounds};
use millrace_common::telemetry::RecordTraces;
use millrace_common::types::{NextOffset, SlotId, VERSION};
use millrace_common::window::Window;
use millrace_transform::{Output, RowPlace, SourceRecord, Transform, Verdict, Wants};

use crate::kafka::{Batch, EnrichedRecords, InvalidRecord};
use crate::lake::{FinishError, FinishedFile, LakeBuffer};

/// Rows that the transform gathers before they move to their days' files.
const ROWS_AT_ONCE: usize = 16_384;
/// The same in bytes, where records are large.
const BYTES_AT_ONCE: usize = 8 << 20;
/// Once the rejected ranges take this many bytes of the record, reading waits for the lake. The broker takes 4000
/// bytes, of which everything else in the record takes a few hundred.
const MOST_REJECTED_TEXT: usize = 2500;
/// What a record's rejection may at most add: a distance and a length.
const REJECTED_TEXT_EACH: usize = 8;
/// Records that the transform judges at once: so few that their values are still in the processor's cache when they
/// are copied for the enriched topic.
const JUDGED_AT_ONCE: usize = 1024;
/// Memory of the transform's values that is kept from batch to batch.
const SCRATCH_BYTES: usize = 1 << 20;

/// Where the slot's records come from, for the headers of what is quarantined.
#[derive(Debug, Clone)]
pub(super) struct Origin {
    pub(super) slot: SlotId,
    pub(super) topic: String,
}

/// Counts of what was taken in since the last commit, for people.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Tally {
    pub(super) client_duplicates: u64,
    pub(super) filtered: u64,
}

/// Why records can't be taken in.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotTaken {
    /// The transform judges it otherwise than when the topic sink passed it.
    #[error(
        "offset {offset} is on the enriched topic, but this millrace ({VERSION}) refuses it: {rejection}; run the \
         version that took it until the lake has passed it"
    )]
    VerdictChanged { offset: i64, rejection: Rejection },
    /// What the transform gave contradicts itself: rows or records would be lost or doubled.
    #[error("the transform is at fault, from offset {offset} on: {fault}")]
    TransformAtFault { offset: i64, fault: String },
}

/// What a topic commit takes along.
#[derive(Debug, Default)]
pub(super) struct Products {
    pub(super) enriched: EnrichedRecords,
    pub(super) invalid: Vec<InvalidRecord>,
    pub(super) invalid_bytes: u64,
    pub(super) tally: Tally,
    /// Of records that the topic sink takes.
    pub(super) traces: RecordTraces,
}

impl Products {
    /// Bytes of memory.
    pub(super) fn memory(&self) -> u64 {
        self.enriched.memory() as u64 + self.invalid_bytes
    }
}

pub(super) struct Intake {
    origin: Origin,
    transform: Box<dyn Transform>,
    lake: Option<LakeBuffer>,
    has_topic: bool,
    window: Window,
    /// The cursors when the slot was opened: what lies below has been done.
    topic_from: NextOffset,
    lake_from: NextOffset,
    /// Rows in the transform's builders.
    places: Vec<RowPlace>,
    bytes_in_builders: usize,
    output: Output,
    products: Products,
    /// Of records that the lake takes.
    lake_traces: RecordTraces,
    /// Offsets from the lake cursor on that are or will be quarantined.
    rejected: OffsetRanges,
    /// The lake cursor that the next commit will at least hold, for the length of the ranges' text.
    ranges_from: NextOffset,
    /// Nothing at or beyond is taken in.
    stop_at: Option<NextOffset>,
}

impl Intake {
    pub(super) fn new(
        origin: Origin,
        transform: Box<dyn Transform>,
        lake: Option<LakeBuffer>,
        has_topic: bool,
        record: &CommittedRecord,
        stop_at: Option<NextOffset>,
    ) -> Self {
        Self {
            origin,
            transform,
            lake,
            has_topic,
            window: Window::new(record.window),
            topic_from: record.topic_cursor,
            lake_from: record.lake_cursor,
            places: Vec::new(),
            bytes_in_builders: 0,
            output: Output::default(),
            products: Products::default(),
            lake_traces: RecordTraces::default(),
            rejected: record.rejected.clone(),
            ranges_from: record.lake_cursor,
            stop_at,
        }
    }

    /// Whether nothing more may be taken in before the lake has passed what was rejected.
    pub(super) fn is_full_of_rejections(&self) -> bool {
        self.room_for_rejections() == 0
    }

    fn room_for_rejections(&self) -> usize {
        // Only a record with two cursors holds ranges.
        if !self.has_topic || self.lake.is_none() {
            return usize::MAX;
        }
        let taken = self.rejected.text_length(self.ranges_from);
        MOST_REJECTED_TEXT.saturating_sub(taken) / REJECTED_TEXT_EACH
    }

    /// Takes records of `batch` in, from number `first` and offset `position` on. `failing` are offsets that the
    /// transform can't stand. Returns the number behind the last record taken in, and the new position.
    pub(super) fn take_in(
        &mut self,
        batch: &Batch,
        first: usize,
        position: NextOffset,
        failing: &BTreeMap<i64, Rejection>,
    ) -> Result<(usize, NextOffset), NotTaken> {
        let (mut next, mut position) = (first, position);
        let mut records = batch.records(first, self.transform.reads_headers()).peekable();
        let most = JUDGED_AT_ONCE.min(batch.len() - first);
        let mut judged: Vec<SourceRecord<'_>> = Vec::with_capacity(most);
        let mut traceparents = Vec::with_capacity(most);
        while let Some(record) = records.peek() {
            if let Some(stop) = self.stop_at.filter(|stop| record.offset >= stop.0) {
                position = position.max(stop);
                break;
            }
            let room = self.room_for_rejections();
            if room == 0 {
                break;
            }
            judged.clear();
            traceparents.clear();
            let mut wants = None;
            let lake_follows_traces = self.lake_traces.takes_more();
            for _ in 0..room.min(JUDGED_AT_ONCE) {
                let Some(record) = records.peek() else { break };
                if self.stop_at.is_some_and(|stop| record.offset >= stop.0) {
                    break;
                }
                let wanted = self.wants(record.offset);
                if *wants.get_or_insert(wanted) != wanted {
                    break;
                }
                let Some(record) = records.next() else { break };
                next += 1;
                // What comes twice was taken in before.
                if record.offset < position.0 {
                    continue;
                }
                position = NextOffset::after(record.offset);
                if self.window.is_duplicate(record.offset, record.key) {
                    let is_new = wanted.values || (!self.has_topic && wanted.rows);
                    self.products.tally.client_duplicates += u64::from(is_new);
                } else if !wanted.rows && !wanted.values || self.is_decided(record.offset) {
                    continue;
                } else if let Some(rejection) = failing.get(&record.offset) {
                    // Rejected offsets are noted in their order: what was gathered before is judged first.
                    if !judged.is_empty() {
                        self.judge(&judged, &traceparents, wanted)?;
                        judged.clear();
                        traceparents.clear();
                    }
                    if self.has_topic && !wanted.values {
                        let rejection = rejection.clone();
                        return Err(NotTaken::VerdictChanged { offset: record.offset, rejection });
                    }
                    self.quarantine(&record, rejection.clone());
                } else {
                    judged.push(record);
                    // librdkafka reads all headers for it.
                    let is_followed = wanted.values || lake_follows_traces;
                    traceparents.push(if is_followed { batch.traceparent(next - 1) } else { None });
                }
            }
            if let Some(wants) = wants.filter(|_| !judged.is_empty()) {
                self.judge(&judged, &traceparents, wants)?;
            }
        }
        Ok((next, position))
    }

    /// Which sinks want the record at `offset`.
    fn wants(&self, offset: i64) -> Wants {
        Wants {
            rows: self.lake.is_some() && offset >= self.lake_from.0,
            values: self.has_topic && offset >= self.topic_from.0,
        }
    }

    /// Quarantined before this owner opened the slot, when the topic sink passed it.
    fn is_decided(&self, offset: i64) -> bool {
        offset < self.topic_from.0 && self.rejected.contains(offset)
    }

    /// `traceparents` are the records' own, one for each.
    fn judge(
        &mut self,
        records: &[SourceRecord<'_>],
        traceparents: &[Option<&[u8]>],
        wants: Wants,
    ) -> Result<(), NotTaken> {
        let mut output = std::mem::take(&mut self.output);
        self.transform.apply(records, wants, &mut output);
        if let Some(fault) = fault_of(&output, records, wants) {
            let offset = records.first().map_or(0, |record| record.offset);
            return Err(NotTaken::TransformAtFault { offset, fault });
        }
        for ((record, traceparent), verdict) in records.iter().zip(traceparents).zip(output.verdicts()) {
            if let Some(traceparent) = traceparent {
                if wants.values {
                    self.products.traces.note(record.offset, traceparent);
                }
                if wants.rows {
                    self.lake_traces.note(record.offset, traceparent);
                }
            }
            let is_new = wants.values || !self.has_topic;
            match verdict {
                Verdict::Kept(kept) if wants.values => {
                    self.products.enriched.push(record, output.value(kept), *traceparent);
                }
                Verdict::Kept(_) => {}
                Verdict::Filtered => self.products.tally.filtered += u64::from(is_new),
                Verdict::Rejected(rejection) if is_new => self.quarantine(record, (**rejection).clone()),
                Verdict::Rejected(rejection) => {
                    let rejection = (**rejection).clone();
                    return Err(NotTaken::VerdictChanged { offset: record.offset, rejection });
                }
            }
        }
        if wants.rows {
            self.places.extend_from_slice(output.rows());
            self.bytes_in_builders += records.iter().filter_map(|r| r.value).map(<[u8]>::len).sum::<usize>();
        }
        output.clear(SCRATCH_BYTES);
        self.output = output;
        if self.places.len() >= ROWS_AT_ONCE || self.bytes_in_builders >= BYTES_AT_ONCE {
            self.move_rows();
        }
        Ok(())
    }

    fn quarantine(&mut self, record: &SourceRecord<'_>, rejection: Rejection) {
        if self.has_topic && self.lake.is_some() {
            self.rejected.push(record.offset);
        }
        let Origin { slot, topic } = &self.origin;
        let invalid = InvalidRecord {
            key: record.key.map(Bytes::copy_from_slice),
            value: record.value.map(Bytes::copy_from_slice),
            headers: vec![
                (headers::ORIGIN, headers::ORIGIN_WORKER.to_owned()),
                (headers::REASON, rejection.code.to_string()),
                (headers::POINTER, rejection.pointer),
                (headers::MESSAGE, rejection.message),
                (headers::PIPELINE, slot.pipeline.to_string()),
                (headers::SOURCE_TOPIC, topic.clone()),
                (headers::SOURCE_PARTITION, slot.partition.to_string()),
                (headers::SOURCE_OFFSET, record.offset.to_string()),
            ],
        };
        // Twice the bytes: here, and in the producer's queue while the transaction runs.
        let held = record.value.map_or(0, <[u8]>::len) + record.key.map_or(0, <[u8]>::len) + 512;
        self.products.invalid_bytes += 2 * held as u64;
        self.products.invalid.push(invalid);
    }

    /// Moves the transform's rows to their days' files.
    fn move_rows(&mut self) {
        let Some(lake) = &mut self.lake else { return };
        if self.places.is_empty() {
            return;
        }
        let made = self.transform.take_rows();
        lake.append(made, &self.places);
        self.places.clear();
        self.bytes_in_builders = 0;
    }

    /// Closes the open files as flush `sequence` over the offsets `range`.
    pub(super) fn finish(
        &mut self,
        sequence: u64,
        range: std::ops::Range<NextOffset>,
    ) -> Result<Vec<FinishedFile>, FinishError> {
        self.move_rows();
        self.lake.as_mut().map_or(Ok(Vec::new()), |lake| lake.finish(sequence, range))
    }

    /// The traces of the records in the files that are open.
    pub(super) fn take_lake_traces(&mut self) -> RecordTraces {
        std::mem::take(&mut self.lake_traces)
    }

    /// Everything that waits for the next commit of the topic sink.
    pub(super) fn take_products(&mut self) -> Products {
        std::mem::take(&mut self.products)
    }

    /// The rejected ranges that a record with this lake cursor holds. What lies below is forgotten once `committed`.
    pub(super) fn rejected_from(&self, lake_cursor: NextOffset) -> OffsetRanges {
        let mut rejected = self.rejected.clone();
        rejected.forget_below(lake_cursor);
        rejected
    }

    /// The lake has passed everything below.
    pub(super) fn forget_rejected_below(&mut self, lake_cursor: NextOffset) {
        self.rejected.forget_below(lake_cursor);
        self.ranges_from = lake_cursor;
    }

    /// Rows that no flush has taken yet.
    pub(super) fn rows(&self) -> u64 {
        self.lake.as_ref().map_or(0, LakeBuffer::rows) + self.places.len() as u64
    }

    pub(super) fn rows_unplaced(&self) -> u64 {
        self.lake.as_ref().map_or(0, LakeBuffer::rows_unplaced)
    }

    /// Bytes that a flush frees.
    pub(super) fn lake_memory(&self) -> u64 {
        let rows = if self.places.is_empty() { 0 } else { self.transform.memory() as u64 };
        self.lake.as_ref().map_or(0, LakeBuffer::buffered_bytes) + rows
    }

    /// Bytes that a commit of the topic sink frees.
    pub(super) fn topic_memory(&self) -> u64 {
        self.products.memory()
    }

    /// Bytes that the slot holds as long as it runs.
    pub(super) fn standing_memory(&self) -> u64 {
        self.window.memory() + self.lake.as_ref().map_or(0, LakeBuffer::latest_bytes)
    }

    /// Records that wait to be quarantined.
    pub(super) fn waiting_rejections(&self) -> u64 {
        self.products.invalid.len() as u64
    }

    /// Judges what comes by other bounds.
    pub(super) fn set_window(&mut self, bounds: WindowBounds) {
        self.window.set_bounds(bounds);
    }

    /// The last rows that came in, the very last included.
    pub(super) fn latest_rows(&mut self) -> Option<RecordBatch> {
        self.move_rows();
        self.lake.as_ref()?.latest()
    }
}

/// What is wrong with the transform's answer for `records`, if anything: one verdict for each is expected, and one row
/// for each that is kept, if rows are wanted.
fn fault_of(output: &Output, records: &[SourceRecord<'_>], wants: Wants) -> Option<String> {
    let (verdicts, rows) = (output.verdicts(), output.rows());
    if verdicts.len() != records.len() {
        return Some(format!("it gave {} verdicts for {} records", verdicts.len(), records.len()));
    }
    let kept = records.iter().zip(verdicts).filter(|(_, verdict)| matches!(verdict, Verdict::Kept(_)));
    let mut expected = kept.map(|(record, _)| record.offset).filter(|_| wants.rows);
    let mut found = rows.iter().map(|row| row.offset);
    loop {
        match (expected.next(), found.next()) {
            (None, None) => return None,
            (Some(kept), row) if row != Some(kept) => {
                let row = row.map_or_else(|| "no row".to_owned(), |row| format!("a row of offset {row}"));
                return Some(format!("it kept the record at offset {kept}, but gave {row}"));
            }
            (None, Some(row)) => {
                return Some(format!("it gave a row of offset {row}, which it did not keep"));
            }
            _ => {}
        }
    }
}

/// Why the transform can't stand a record.
pub(super) fn failure(message: impl Into<String>) -> Rejection {
    Rejection::new(RejectionCode::TransformFailed, "", message)
}
