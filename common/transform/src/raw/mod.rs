//! The transform `raw`: any record as it is. Key, value and headers stand in the row as bytes, filed by Kafka's
//! timestamp; on the enriched topic the value goes on unchanged.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{
    ArrayBuilder, BinaryBuilder, ListBuilder, StringBuilder, StructBuilder, TimestampMillisecondBuilder,
};
use arrow_schema::{ArrowError, DataType, Field, Fields};
use millrace_common::event::time_type;
use millrace_common::types::Problem;
use serde_json::{Map, Value};

use crate::{BuildError, Column, Kind, Options, Output, RowPlace, SourceRecord, Transform, Values, Wants};

/// Columns of a row, after the source's.
pub mod column {
    /// The record's Kafka timestamp; null if it has none.
    pub const TIMESTAMP: &str = "timestamp";
    pub const KEY: &str = "key";
    pub const VALUE: &str = "value";
    /// List of structures of `name` and `value`, in their order.
    pub const HEADERS: &str = "headers";
}

/// The kind `raw`.
#[derive(Debug)]
pub struct Raw;

impl Kind for Raw {
    fn name(&self) -> &'static str {
        "raw"
    }

    fn check(&self, options: &Map<String, Value>) -> Vec<Problem> {
        Options::new(options).finish()
    }

    fn build(&self, _: &Map<String, Value>) -> Result<Box<dyn Transform>, BuildError> {
        Ok(Box::new(RawTransform {
            columns: vec![
                Column::new(column::TIMESTAMP, time_type(), true).values(Values::Close).with_statistics(),
                Column::new(column::KEY, DataType::Binary, true),
                Column::new(column::VALUE, DataType::Binary, true),
                Column::new(column::HEADERS, DataType::List(Arc::new(header_item())), false),
            ],
            timestamp: TimestampMillisecondBuilder::with_capacity(0).with_data_type(time_type()),
            key: BinaryBuilder::with_capacity(0, 0),
            value: BinaryBuilder::with_capacity(0, 0),
            headers: headers_builder(),
            bytes: 0,
        }))
    }

    /// Keys of any topic are no ids.
    fn default_duplicate_window(&self) -> u64 {
        0
    }
}

fn header_fields() -> Fields {
    Fields::from(vec![Field::new("name", DataType::Utf8, false), Field::new("value", DataType::Binary, true)])
}

fn header_item() -> Field {
    Field::new("item", DataType::Struct(header_fields()), false)
}

type HeadersBuilder = ListBuilder<StructBuilder>;

fn headers_builder() -> HeadersBuilder {
    let builders: Vec<Box<dyn ArrayBuilder>> =
        vec![Box::new(StringBuilder::with_capacity(0, 0)), Box::new(BinaryBuilder::with_capacity(0, 0))];
    ListBuilder::with_capacity(StructBuilder::new(header_fields(), builders), 0).with_field(header_item())
}

struct RawTransform {
    columns: Vec<Column>,
    timestamp: TimestampMillisecondBuilder,
    key: BinaryBuilder,
    value: BinaryBuilder,
    headers: HeadersBuilder,
    /// Of keys, values and headers in the builders.
    bytes: usize,
}

impl Transform for RawTransform {
    fn columns(&self) -> &[Column] {
        &self.columns
    }

    fn reads_headers(&self) -> bool {
        true
    }

    fn apply(&mut self, records: &[SourceRecord<'_>], wants: Wants, output: &mut Output) {
        for record in records {
            let is_kept = match record.value {
                Some(value) if wants.values => output.keep_with(|bytes| bytes.extend_from_slice(value)),
                _ => {
                    output.keep();
                    true
                }
            };
            if is_kept && wants.rows {
                self.push(record);
                let time_ms = (record.timestamp_ms >= 0).then_some(record.timestamp_ms);
                output.row(RowPlace { offset: record.offset, time_ms, received_ms: record.timestamp_ms });
            }
        }
    }

    fn take_rows(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.bytes = 0;
        Ok(vec![
            Arc::new(self.timestamp.finish()),
            Arc::new(self.key.finish()),
            Arc::new(self.value.finish()),
            Arc::new(self.headers.finish()),
        ])
    }

    fn memory(&self) -> usize {
        // Offsets and lengths beside the bytes themselves.
        2 * self.bytes + self.timestamp.len() * 32
    }
}

impl RawTransform {
    fn push(&mut self, record: &SourceRecord<'_>) {
        self.timestamp.append_option((record.timestamp_ms >= 0).then_some(record.timestamp_ms));
        self.key.append_option(record.key);
        self.value.append_option(record.value);
        self.bytes += record.key.map_or(0, <[u8]>::len) + record.value.map_or(0, <[u8]>::len);
        for (name, value) in &record.headers {
            let structure = self.headers.values();
            // The fields are those of `header_fields`.
            structure.field_builder::<StringBuilder>(0).expect("a text").append_value(name);
            structure.field_builder::<BinaryBuilder>(1).expect("bytes").append_option(*value);
            structure.append(true);
            self.bytes += name.len() + value.map_or(0, <[u8]>::len) + 16;
        }
        self.headers.append(true);
    }
}
