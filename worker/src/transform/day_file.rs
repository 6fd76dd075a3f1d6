//! The open Parquet file of one day.
//!
//! Rows gather in builders and move to the Parquet writer in chunks. A writer costs about a megabyte before its
//! first row (each dictionary makes its table at once), so a day gets one only with its first full chunk: 64
//! open days of a few late rows each stay small.

use std::ops::Range;
use std::sync::LazyLock;

use millrace_common::event::{column, footer, schema};
use millrace_common::types::{NextOffset, VERSION};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::metadata::KeyValue;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::schema::types::ColumnPath;

use super::Provenance;
use super::rows::{Row, Rows};
use super::user_agent::UserAgents;

/// Rows that move to the writer at once.
const CHUNK_ROWS: usize = 16_384;
/// The same in bytes of JSON, where events are large.
const CHUNK_BYTES: usize = 8 << 20;

/// Readers prune by these.
const STATISTICS: [&str; 4] = [column::KAFKA_OFFSET, column::EVENT_TIME, column::TYPE, "customer_id"];
/// Few distinct values each.
const DICTIONARIES: [&str; 19] = [
    column::KAFKA_TOPIC,
    column::KAFKA_PARTITION,
    column::TYPE,
    "user_agent",
    "referrer",
    "element",
    "product_id",
    "quantity",
    "currency",
    column::PAGE_HOST,
    column::PAGE_PATH,
    column::UTM[0],
    column::UTM[1],
    column::UTM[2],
    column::UTM[3],
    column::UTM[4],
    column::BROWSER,
    column::OS,
    column::DEVICE_CATEGORY,
];
/// Numbers that rise, or lie close together.
const DELTAS: [&str; 4] = [column::KAFKA_OFFSET, column::RECEIVED_TIME, column::EVENT_TIME, column::ID];

#[derive(Debug)]
pub(super) struct DayFile {
    rows: Rows,
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
            rows: Rows::new(),
            writer: None,
            row_count: 0,
            offsets: NextOffset(offset)..NextOffset(offset),
        }
    }

    /// Adds a row that came from `json_bytes` bytes of JSON.
    pub(super) fn push(
        &mut self,
        row: &Row<'_>,
        json_bytes: usize,
        agents: &mut UserAgents,
        provenance: &Provenance,
    ) -> Result<(), ParquetError> {
        self.rows.push(row, json_bytes, agents);
        self.row_count += 1;
        self.offsets.end = NextOffset::after(row.offset);
        if self.rows.count() >= CHUNK_ROWS || self.rows.text_bytes() >= CHUNK_BYTES {
            self.write_rows(provenance)?;
        }
        Ok(())
    }

    fn write_rows(&mut self, provenance: &Provenance) -> Result<(), ParquetError> {
        let batch = self.rows.take(&provenance.topic, provenance.slot.partition)?;
        let writer = match self.writer.take() {
            Some(writer) => writer,
            None => new_writer()?,
        };
        self.writer.insert(writer).write(&batch)
    }

    /// Closes the file, as part of flush `sequence` over the offsets `range`.
    pub(super) fn close(
        mut self,
        provenance: &Provenance,
        sequence: u64,
        range: &Range<NextOffset>,
    ) -> Result<ClosedFile, ParquetError> {
        self.write_rows(provenance)?;
        let mut writer = match self.writer {
            Some(writer) => writer,
            None => new_writer()?,
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

    /// Bytes that builders, writer and finished pages hold.
    pub(super) fn memory(&self) -> usize {
        let written =
            self.writer.as_ref().map_or(0, |writer| writer.memory_size() + writer.inner().capacity());
        self.rows.memory() + written
    }
}

fn new_writer() -> Result<ArrowWriter<Vec<u8>>, ParquetError> {
    static PROPERTIES: LazyLock<WriterProperties> = LazyLock::new(properties);
    // The Parquet types say everything: Arrow's own copy of the schema would double a small file.
    let options =
        ArrowWriterOptions::new().with_properties(PROPERTIES.clone()).with_skip_arrow_metadata(true);
    ArrowWriter::try_new_with_options(Vec::new(), schema(), options)
}

fn properties() -> WriterProperties {
    let path = |name: &str| ColumnPath::from(name);
    let mut properties = WriterProperties::builder()
        .set_created_by(format!("millrace {VERSION}"))
        .set_compression(Compression::ZSTD(ZstdLevel::default()))
        .set_dictionary_enabled(false)
        .set_statistics_enabled(EnabledStatistics::None)
        .set_write_batch_size(8192);
    for name in STATISTICS {
        properties = properties.set_column_statistics_enabled(path(name), EnabledStatistics::Chunk);
    }
    for name in DICTIONARIES {
        properties = properties.set_column_dictionary_enabled(path(name), true);
    }
    for name in DELTAS {
        properties = properties.set_column_encoding(path(name), Encoding::DELTA_BINARY_PACKED);
    }
    properties.build()
}
