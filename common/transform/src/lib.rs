//! Transforms: what becomes of a source's records. A [`Transform`] takes a batch of records and gives a verdict on
//! each: rows for the lake, records for the enriched topic, rejections for the quarantine. A [`Registry`] knows the
//! kinds that a pipeline may name: [`clicks`], [`raw`], and those that a program adds.
//!
//! Nothing here does IO beyond what building a transform asks for, reads a clock or draws a number: the same records
//! always get the same verdicts, or a redone stretch would differ from the one that was done.

pub mod clicks;
pub mod enrich;
mod options;
mod output;
pub mod raw;
mod record;
mod registry;

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_schema::{ArrowError, DataType, Field};

pub use options::Options;
pub use output::{Kept, Output, RowPlace, Verdict};
pub use record::SourceRecord;
pub use registry::{BuildError, Kind, Registry};

/// The largest value of an enriched record, in bytes: with key and headers it fits a topic that Millrace makes.
pub const LARGEST_VALUE: usize = 1_200_000;

/// Which of its products a call of [`Transform::apply`] must make.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wants {
    /// Rows for the lake.
    pub rows: bool,
    /// Values for the enriched topic.
    pub values: bool,
}

/// Judges records and makes of those that it keeps what the sinks take. Each slot has one of its own.
pub trait Transform: Send {
    /// The columns of a row, but for [`SOURCE_COLUMNS`] that come before them in every lake. Always the same ones.
    fn columns(&self) -> &[Column];

    /// Whether [`SourceRecord::headers`] must be filled.
    fn reads_headers(&self) -> bool {
        false
    }

    /// Judges `records` in their order: calls one of [`Output::keep`], [`Output::filter`] and [`Output::reject`] for
    /// each. Of a kept one it adds a row to its own builders if `wants.rows`, and gives the value of the enriched
    /// record if `wants.values`: at most [`LARGEST_VALUE`] bytes, or it rejects the record.
    fn apply(&mut self, records: &[SourceRecord<'_>], wants: Wants, output: &mut Output);

    /// Hands over all rows that were added since the last call, as one array for each of [`Transform::columns`].
    ///
    /// # Errors
    /// When the arrays can't be made; the slot opens anew then.
    fn take_rows(&mut self) -> Result<Vec<ArrayRef>, ArrowError>;

    /// Bytes of memory that builders and caches hold.
    fn memory(&self) -> usize;
}

/// Columns that every lake has, in this order, before those of the transform: topic, partition and offset of the
/// record that the row came from.
pub const SOURCE_COLUMNS: [&str; 3] = [
    millrace_common::event::column::KAFKA_TOPIC,
    millrace_common::event::column::KAFKA_PARTITION,
    millrace_common::event::column::KAFKA_OFFSET,
];

/// A column of the lake and how its values usually lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub field: Arc<Field>,
    pub values: Values,
    /// Readers prune by it: keep the least and the greatest value of each file.
    pub statistics: bool,
}

/// How a column's values usually lie, which decides its encoding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Values {
    /// Nearly all different.
    Distinct,
    /// Few different ones.
    Repeated,
    /// Integers or times that rise, or lie close together.
    Close,
}

impl Column {
    pub fn new(name: &str, kind: DataType, nullable: bool) -> Self {
        Self {
            field: Arc::new(Field::new(name, kind, nullable)),
            values: Values::Distinct,
            statistics: false,
        }
    }

    #[must_use]
    pub fn values(self, values: Values) -> Self {
        Self { values, ..self }
    }

    #[must_use]
    pub fn with_statistics(self) -> Self {
        Self { statistics: true, ..self }
    }

    pub fn name(&self) -> &str {
        self.field.name()
    }
}
