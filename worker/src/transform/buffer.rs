//! The open day files of one slot.

use std::collections::BTreeMap;
use std::ops::Range;

use bytes::Bytes;
use millrace_common::event::day::Day;
use millrace_common::event::{Rejection, RejectionCode, check};
use millrace_common::types::{Epoch, NextOffset, SlotId};
use parquet::errors::ParquetError;
use sha2::{Digest, Sha256};

use super::day_file::DayFile;
use super::rows::Row;
use super::user_agent::UserAgents;

/// The most days that one flush opens, the unplaced ones not counted. Rows of further days are unplaced.
pub const MAX_OPEN_DAYS: usize = 64;

/// A record of the source, borrowed.
#[derive(Debug, Clone, Copy)]
pub struct SourceRecord<'a> {
    pub offset: i64,
    /// Kafka's timestamp in milliseconds since 1970 UTC, taken as the time of receipt; -1 if there is none.
    pub timestamp_ms: i64,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
}

/// Where the rows come from and who writes them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provenance {
    pub slot: SlotId,
    pub epoch: Epoch,
    /// Name of the source topic.
    pub topic: String,
}

/// A closed Parquet file in memory, ready to be staged.
#[derive(Debug, Clone)]
pub struct FinishedFile {
    pub day: Day,
    pub bytes: Bytes,
    /// Of `bytes`.
    pub sha256: [u8; 32],
    pub rows: u64,
    /// Offset of its first row.
    pub first_offset: i64,
    /// Behind the offset of its last row.
    pub next_offset: NextOffset,
}

/// Files that can't be closed.
#[derive(Debug, thiserror::Error)]
pub enum FinishError {
    #[error("the file of {day} can't be written: {source}")]
    Parquet {
        day: Day,
        #[source]
        source: ParquetError,
    },
    #[error(
        "the file of {day} holds offsets {} to {}, expected only such from {} to {}",
        held.start, held.end, range.start, range.end
    )]
    OutsideRange { day: Day, held: Range<NextOffset>, range: Range<NextOffset> },
}

/// All open day files of one slot, and the rows in them.
#[derive(Debug)]
pub struct LakeBuffer {
    provenance: Provenance,
    files: BTreeMap<Day, DayFile>,
    agents: UserAgents,
    /// Reused for each row's `extra`.
    scratch: String,
    rows_unplaced: u64,
    /// A chunk that could not be written: [`LakeBuffer::finish`] reports it, so nothing of it is committed.
    failed: Option<FinishError>,
}

impl LakeBuffer {
    pub fn new(provenance: Provenance) -> Self {
        Self {
            provenance,
            files: BTreeMap::new(),
            agents: UserAgents::default(),
            scratch: String::new(),
            rows_unplaced: 0,
            failed: None,
        }
    }

    /// Takes the record's row into the file of its day, and tells which that is.
    ///
    /// Errors: the record is no event; it belongs in the quarantine, and the buffer is as before.
    pub fn append(&mut self, record: &SourceRecord<'_>) -> Result<Day, Rejection> {
        let json = record.value.ok_or_else(|| {
            Rejection::new(RejectionCode::NoValue, "", "the record has no value, expected an event in JSON")
        })?;
        let event = check(json)?;
        let client = event.columns(&mut self.scratch);
        let row = Row { offset: record.offset, received_ms: record.timestamp_ms, client: &client };
        let day = open_day(&self.files, Day::of(client.event_time_ms, record.timestamp_ms));
        if day == Day::Unplaced {
            self.rows_unplaced += 1;
        }
        let file = self.files.entry(day).or_insert_with(|| DayFile::new(record.offset));
        if let Err(source) = file.push(&row, json.len(), &mut self.agents, &self.provenance) {
            self.failed.get_or_insert(FinishError::Parquet { day, source });
        }
        Ok(day)
    }

    /// Rows in the open files.
    pub fn rows(&self) -> u64 {
        self.files.values().map(DayFile::row_count).sum()
    }

    /// Unplaced rows since the buffer was made.
    pub fn rows_unplaced(&self) -> u64 {
        self.rows_unplaced
    }

    /// Bytes of memory that the open files hold: builders, encoded pages, dictionaries. Zero if no file is open;
    /// the cache of user agents, about 1 MiB at most, is not counted.
    pub fn buffered_bytes(&self) -> u64 {
        self.files.values().map(|file| file.memory() as u64).sum()
    }

    /// Closes all open files as flush `sequence` over the offsets `range`, in the order of their days. The buffer
    /// is empty afterwards, also after an error.
    pub fn finish(
        &mut self,
        sequence: u64,
        range: Range<NextOffset>,
    ) -> Result<Vec<FinishedFile>, FinishError> {
        let files = std::mem::take(&mut self.files);
        if let Some(failed) = self.failed.take() {
            return Err(failed);
        }
        files
            .into_iter()
            .map(|(day, file)| {
                let closed = file
                    .close(&self.provenance, sequence, &range)
                    .map_err(|source| FinishError::Parquet { day, source })?;
                if closed.offsets.start < range.start || closed.offsets.end > range.end {
                    return Err(FinishError::OutsideRange {
                        day,
                        held: closed.offsets,
                        range: range.clone(),
                    });
                }
                Ok(FinishedFile {
                    day,
                    sha256: Sha256::digest(&closed.bytes).into(),
                    bytes: Bytes::from(closed.bytes),
                    rows: closed.row_count,
                    first_offset: closed.offsets.start.0,
                    next_offset: closed.offsets.end,
                })
            })
            .collect()
    }

    /// Drops all rows.
    pub fn clear(&mut self) {
        self.files.clear();
        self.failed = None;
    }
}

/// `day`, unless it would be one too many.
fn open_day(files: &BTreeMap<Day, DayFile>, day: Day) -> Day {
    let open_days = files.len() - usize::from(files.contains_key(&Day::Unplaced));
    if open_days < MAX_OPEN_DAYS || files.contains_key(&day) { day } else { Day::Unplaced }
}
