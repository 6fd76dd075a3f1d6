//! The open day files of one slot.

use std::collections::BTreeMap;
use std::ops::Range;

use arrow_array::{ArrayRef, RecordBatch, UInt64Array};
use arrow_schema::ArrowError;
use arrow_select::take::take_record_batch;
use bytes::Bytes;
use millrace_common::event::day::Day;
use millrace_common::types::{Epoch, NextOffset, SlotId};
use millrace_transform::RowPlace;
use parquet::errors::ParquetError;
use sha2::{Digest, Sha256};

use super::LakeFormat;
use super::day_file::DayFile;
use super::recent::RecentRows;

/// The most days that one flush opens, the unplaced ones not counted. Rows of further days are unplaced.
pub const MAX_OPEN_DAYS: usize = 64;

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
    #[error("the transform's rows don't fit its columns: {0}")]
    Rows(#[source] ArrowError),
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
    format: LakeFormat,
    files: BTreeMap<Day, DayFile>,
    rows_unplaced: u64,
    recent: RecentRows,
    /// Rows that could not be written: [`LakeBuffer::finish`] reports it, so nothing of them is committed.
    failed: Option<FinishError>,
}

impl LakeBuffer {
    pub fn new(provenance: Provenance, format: LakeFormat) -> Self {
        Self {
            provenance,
            format,
            files: BTreeMap::new(),
            rows_unplaced: 0,
            recent: RecentRows::default(),
            failed: None,
        }
    }

    /// Takes rows into the files of their days: the arrays that the transform made, and the place of each row, in the
    /// order of their offsets.
    pub fn append(&mut self, made: Result<Vec<ArrayRef>, ArrowError>, places: &[RowPlace]) {
        if places.is_empty() {
            return;
        }
        let appended = made.map_err(FinishError::Rows).and_then(|made| self.try_append(made, places));
        if let Err(failed) = appended {
            self.failed.get_or_insert(failed);
        }
    }

    fn try_append(&mut self, made: Vec<ArrayRef>, places: &[RowPlace]) -> Result<(), FinishError> {
        let offsets = places.iter().map(|place| place.offset).collect();
        let Provenance { topic, slot, .. } = &self.provenance;
        let rows = self.format.rows(topic, slot.partition, offsets, made).map_err(FinishError::Rows)?;
        self.recent.push(&rows).map_err(FinishError::Rows)?;
        let mut days: BTreeMap<Day, Vec<u64>> = BTreeMap::new();
        let mut memory: Option<(Day, Day)> = None;
        for (row, place) in (0u64..).zip(places) {
            let wanted = place.time_ms.map_or(Day::Unplaced, |time_ms| Day::of(time_ms, place.received_ms));
            // Rows of one day come together.
            let day = match memory {
                Some((before, day)) if before == wanted => day,
                _ => {
                    let day = self.open_day(wanted, place.offset);
                    memory = Some((wanted, day));
                    day
                }
            };
            self.rows_unplaced += u64::from(day == Day::Unplaced);
            days.entry(day).or_default().push(row);
        }
        let all = rows.num_rows();
        for (day, numbers) in days {
            let last = numbers.last().map_or(0, |row| usize::try_from(*row).unwrap_or(0));
            let of_day = match numbers.len() == all {
                true => rows.clone(),
                false => take_record_batch(&rows, &UInt64Array::from(numbers)).map_err(FinishError::Rows)?,
            };
            if let Some(file) = self.files.get_mut(&day) {
                file.push(of_day, places[last].offset, &self.format)
                    .map_err(|source| FinishError::Parquet { day, source })?;
            }
        }
        Ok(())
    }

    /// `day`, with its file open, unless it would be one too many.
    fn open_day(&mut self, day: Day, offset: i64) -> Day {
        let open_days = self.files.len() - usize::from(self.files.contains_key(&Day::Unplaced));
        let day = match open_days < MAX_OPEN_DAYS || self.files.contains_key(&day) {
            true => day,
            false => Day::Unplaced,
        };
        self.files.entry(day).or_insert_with(|| DayFile::new(offset));
        day
    }

    #[cfg(test)]
    pub(super) fn rows_by_day(&self) -> BTreeMap<Day, u64> {
        self.files.iter().map(|(day, file)| (*day, file.row_count())).collect()
    }

    /// The last rows that came in, a thousand at most, in a copy.
    pub fn latest(&self) -> Option<RecordBatch> {
        self.recent.all().unwrap_or_else(|error| panic!("rows of one format: {error}"))
    }

    /// Bytes of memory that [`LakeBuffer::latest`]'s rows take, whether or not files are open.
    pub fn latest_bytes(&self) -> u64 {
        self.recent.memory() as u64
    }

    /// Rows in the open files.
    pub fn rows(&self) -> u64 {
        self.files.values().map(DayFile::row_count).sum()
    }

    /// Unplaced rows since the buffer was made.
    pub fn rows_unplaced(&self) -> u64 {
        self.rows_unplaced
    }

    /// Bytes of memory that the open files hold: rows, encoded pages, dictionaries. Zero if no file is open.
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
                    .close(&self.format, &self.provenance, sequence, &range)
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
}
