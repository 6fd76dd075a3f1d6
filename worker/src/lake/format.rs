//! How a pipeline's rows are written: the Parquet schema and the settings of each column.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, FieldRef, Schema, SchemaRef};
use millrace_common::types::VERSION;
use millrace_transform::{Column, SOURCE_COLUMNS, Values};
use parquet::arrow::ArrowWriter;
use parquet::arrow::arrow_writer::ArrowWriterOptions;
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;

/// The schema and the writer's settings of a pipeline's files.
#[derive(Debug, Clone)]
pub struct LakeFormat {
    schema: SchemaRef,
    properties: WriterProperties,
}

impl LakeFormat {
    /// The format of rows with the transform's columns.
    pub fn new(columns: &[Column]) -> Self {
        let [topic, partition, offset] = SOURCE_COLUMNS;
        let source = [
            Column::new(topic, DataType::Utf8, false).values(Values::Repeated),
            Column::new(partition, DataType::Int32, false).values(Values::Repeated),
            Column::new(offset, DataType::Int64, false).values(Values::Close).with_statistics(),
        ];
        let mut fields: Vec<FieldRef> = Vec::with_capacity(columns.len() + source.len());
        let mut properties = WriterProperties::builder()
            .set_created_by(format!("millrace {VERSION}"))
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_dictionary_enabled(false)
            .set_statistics_enabled(EnabledStatistics::None)
            .set_write_batch_size(8192);
        for column in source.iter().chain(columns) {
            fields.push(Arc::clone(&column.field));
            properties = column_properties(properties, column);
        }
        Self { schema: Arc::new(Schema::new(fields)), properties: properties.build() }
    }

    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The whole rows: where they come from, and what the transform made of them.
    pub(super) fn rows(
        &self,
        topic: &str,
        partition: i32,
        offsets: Vec<i64>,
        made: Vec<ArrayRef>,
    ) -> Result<RecordBatch, ArrowError> {
        let count = offsets.len();
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(std::iter::repeat_n(topic, count))),
            Arc::new(Int32Array::from_value(partition, count)),
            Arc::new(Int64Array::from(offsets)),
        ];
        columns.extend(made);
        RecordBatch::try_new(Arc::clone(&self.schema), columns)
    }

    pub(super) fn new_writer(&self) -> Result<ArrowWriter<Vec<u8>>, ParquetError> {
        // The Parquet types say everything: Arrow's own copy of the schema would double a small file.
        let options =
            ArrowWriterOptions::new().with_properties(self.properties.clone()).with_skip_arrow_metadata(true);
        ArrowWriter::try_new_with_options(Vec::new(), Arc::clone(&self.schema), options)
    }
}

fn column_properties(properties: WriterPropertiesBuilder, column: &Column) -> WriterPropertiesBuilder {
    let mut properties = properties;
    if let Some(leaf) = leaf(&column.field) {
        properties = match column.values {
            Values::Distinct => properties,
            Values::Repeated => properties.set_column_dictionary_enabled(leaf.clone(), true),
            Values::Close => properties.set_column_encoding(leaf.clone(), Encoding::DELTA_BINARY_PACKED),
        };
        if column.statistics {
            properties = properties.set_column_statistics_enabled(leaf, EnabledStatistics::Chunk);
        }
    }
    properties
}

/// A plain column is its own leaf; settings of nested ones stay at their defaults.
fn leaf(field: &Field) -> Option<ColumnPath> {
    (!field.data_type().is_nested()).then(|| ColumnPath::from(field.name().as_str()))
}
