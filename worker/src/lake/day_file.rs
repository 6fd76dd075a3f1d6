//! The open Parquet file of one day.
//!
//! Rows gather in batches and move to the Parquet writer in chunks. A writer costs about a megabyte before its
//! first row (each dictionary makes its table at once), so a day gets one only with its first full chunk: 64
//! open days of a few late rows each stay small.

use std::ops::Range;

use arrow_array::RecordBatch;
use millrace_common::event::footer;
use millrace_common::types::{NextOffset, VERSION};
use parquet::arrow::ArrowWriter;
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;

use super::{LakeFormat, Provenance};

/// Rows that move to the writer at once.
const CHUNK_ROWS: usize = 16_384;
/// The same in bytes, where rows are large.
const CHUNK_BYTES: usize = 8 << 20;

#[derive(Debug)]
pub(super) struct DayFile {
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
    waiting_bytes: usize,
    writer: Option<ArrowWriter<Vec<u8>>>,
    row_count: u64,
    /// From the first row's offset to the last one's.
    offsets: Range<NextOffset>,
}

/// A closed file, not yet hashed.
pub(super) struct ClosedFile {
    pub(super) bytes: Vec<u8>,
    pub(super) row_count: u64,
    pub(super) offsets: Range<NextOffset>,
}

impl DayFile {
    /// A file whose first row will be that of the record at `offset`.
    pub(super) fn new(offset: i64) -> Self {
        Self {
            waiting: Vec::new(),
            waiting_rows: 0,
            waiting_bytes: 0,
            writer: None,
            row_count: 0,
            offsets: NextOffset(offset)..NextOffset(offset),
        }
    }

    /// Adds rows, the last of which is that of the record at `last_offset`.
    pub(super) fn push(
        &mut self,
        rows: RecordBatch,
        last_offset: i64,
        format: &LakeFormat,
    ) -> Result<(), ParquetError> {
        self.row_count += rows.num_rows() as u64;
        self.offsets.end = NextOffset::after(last_offset);
        self.waiting_rows += rows.num_rows();
        self.waiting_bytes += rows.get_array_memory_size();
        self.waiting.push(rows);
        if self.waiting_rows >= CHUNK_ROWS || self.waiting_bytes >= CHUNK_BYTES {
            self.write_waiting(format)?;
        }
        Ok(())
    }

    fn write_waiting(&mut self, format: &LakeFormat) -> Result<(), ParquetError> {
        let mut writer = match self.writer.take() {
            Some(writer) => writer,
            None => format.new_writer()?,
        };
        for rows in self.waiting.drain(..) {
            writer.write(&rows)?;
        }
        (self.waiting_rows, self.waiting_bytes) = (0, 0);
        self.writer = Some(writer);
        Ok(())
    }

    /// Closes the file, as part of flush `sequence` over the offsets `range`.
    pub(super) fn close(
        mut self,
        format: &LakeFormat,
        provenance: &Provenance,
        sequence: u64,
        range: &Range<NextOffset>,
    ) -> Result<ClosedFile, ParquetError> {
        self.write_waiting(format)?;
        let mut writer = match self.writer {
            Some(writer) => writer,
            None => format.new_writer()?,
        };
        for (key, value) in [
            (footer::PIPELINE, provenance.slot.pipeline.to_string()),
            (footer::SLOT, provenance.slot.local()),
            (footer::EPOCH, provenance.epoch.to_string()),
            (footer::SEQUENCE, sequence.to_string()),
            (footer::FIRST_OFFSET, range.start.to_string()),
            (footer::NEXT_OFFSET, range.end.to_string()),
            (footer::VERSION, VERSION.to_owned()),
        ] {
            writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        Ok(ClosedFile { bytes: writer.into_inner()?, row_count: self.row_count, offsets: self.offsets })
    }

    pub(super) fn row_count(&self) -> u64 {
        self.row_count
    }

    /// Bytes that waiting rows, writer and finished pages hold.
    pub(super) fn memory(&self) -> usize {
        let written =
            self.writer.as_ref().map_or(0, |writer| writer.memory_size() + writer.inner().capacity());
        self.waiting_bytes + written
    }
}
