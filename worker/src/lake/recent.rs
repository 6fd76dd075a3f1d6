//! The rows that came in last, for those who want to look. Bounded in rows and in bytes, and copies: a row that is kept
//! must not hold the memory of all that came with it.

use std::collections::VecDeque;

use arrow_array::{RecordBatch, UInt64Array};
use arrow_schema::ArrowError;
use arrow_select::concat::concat_batches;
use arrow_select::take::take_record_batch;

/// Rows that are kept at most.
const MOST_ROWS: usize = 1000;
/// Bytes that they take at most; large rows are fewer.
const MOST_BYTES: usize = 2 << 20;

#[derive(Debug, Default)]
pub(super) struct RecentRows {
    /// Each with the bytes that it holds, which a part of it holds too.
    batches: VecDeque<(RecordBatch, usize)>,
    rows: usize,
    bytes: usize,
}

impl RecentRows {
    /// Keeps the last of `rows`, and as many of those before them as still find room.
    pub(super) fn push(&mut self, rows: &RecordBatch) -> Result<(), ArrowError> {
        let mut kept = rows.num_rows().min(MOST_ROWS);
        let mut last = loop {
            let first = rows.num_rows() - kept;
            let numbers = (first as u64..rows.num_rows() as u64).collect::<Vec<_>>();
            let last = take_record_batch(rows, &UInt64Array::from(numbers))?;
            if kept <= 1 || last.get_array_memory_size() <= MOST_BYTES {
                break last;
            }
            kept /= 2;
        };
        self.rows += last.num_rows();
        // Every column of every batch takes some memory of its own: small ones are joined with such before them.
        while let Some((before, held)) = self.batches.back()
            && before.num_rows() <= last.num_rows()
            && held + last.get_array_memory_size() <= MOST_BYTES / 8
        {
            last = concat_batches(&last.schema(), [before, &last])?;
            self.bytes -= held;
            self.batches.pop_back();
        }
        let bytes = last.get_array_memory_size();
        self.bytes += bytes;
        self.batches.push_back((last, bytes));
        // The newest is kept even if it is too large alone.
        while (self.rows > MOST_ROWS || self.bytes > MOST_BYTES) && self.batches.len() > 1 {
            self.forget_oldest();
        }
        Ok(())
    }

    /// Of a batch that is too many only its first rows are forgotten, as long as the bytes find room.
    fn forget_oldest(&mut self) {
        let Some((oldest, bytes)) = self.batches.pop_front() else { return };
        let beyond = self.rows.saturating_sub(MOST_ROWS);
        if self.bytes <= MOST_BYTES && beyond < oldest.num_rows() {
            self.rows -= beyond;
            self.batches.push_front((oldest.slice(beyond, oldest.num_rows() - beyond), bytes));
            return;
        }
        self.rows -= oldest.num_rows();
        self.bytes -= bytes;
    }

    /// All of them, in the order in which they came; `None` before the first row.
    ///
    /// # Errors
    /// When they differ in their columns.
    pub(super) fn all(&self) -> Result<Option<RecordBatch>, ArrowError> {
        let Some((last, _)) = self.batches.back() else { return Ok(None) };
        concat_batches(&last.schema(), self.batches.iter().map(|(batch, _)| batch)).map(Some)
    }

    /// Bytes of memory.
    pub(super) fn memory(&self) -> usize {
        self.bytes
    }
}
