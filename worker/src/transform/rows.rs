//! The rows of one day that are not in its Parquet writer yet, column by column.

use std::iter::repeat_n;
use std::sync::Arc;

use arrow_array::builder::{
    BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, TimestampMillisecondBuilder,
};
use arrow_array::{ArrayRef, Int32Array, RecordBatch, StringArray};
use arrow_schema::ArrowError;
use millrace_common::event::{
    ClientColumns, ColumnValue, FIELDS, FieldKind, PAGE, USER_AGENT, column, schema, time_type,
};

use super::page::Page;
use super::user_agent::UserAgents;

/// One row, borrowed.
pub(super) struct Row<'a> {
    pub(super) offset: i64,
    /// The record's Kafka timestamp; -1 if it has none.
    pub(super) received_ms: i64,
    pub(super) client: &'a ClientColumns<'a>,
}

/// Builders in the order of [`schema`], but for the two columns that are the same in all rows. They start
/// without capacity: a late day of a few rows must cost little.
#[derive(Debug)]
pub(super) struct Rows {
    kafka_offset: Int64Builder,
    received_time: TimestampMillisecondBuilder,
    package_id: StringBuilder,
    kind: StringBuilder,
    id: Int64Builder,
    event_time: TimestampMillisecondBuilder,
    fields: Vec<FieldBuilder>,
    page_host: StringBuilder,
    page_path: StringBuilder,
    utm: [StringBuilder; column::UTM.len()],
    browser: StringBuilder,
    os: StringBuilder,
    device_category: StringBuilder,
    is_bot: BooleanBuilder,
    extra: StringBuilder,
    count: usize,
    /// Bytes of the client's text in the builders: bounds their 32-bit offsets.
    text_bytes: usize,
}

#[derive(Debug)]
enum FieldBuilder {
    Integer(Int64Builder),
    Number(Float64Builder),
    Text(StringBuilder),
}

impl Rows {
    pub(super) fn new() -> Self {
        let text = || StringBuilder::with_capacity(0, 0);
        let time = || TimestampMillisecondBuilder::with_capacity(0).with_data_type(time_type());
        Self {
            kafka_offset: Int64Builder::with_capacity(0),
            received_time: time(),
            package_id: text(),
            kind: text(),
            id: Int64Builder::with_capacity(0),
            event_time: time(),
            fields: FIELDS
                .iter()
                .map(|field| match field.kind {
                    FieldKind::Integer => FieldBuilder::Integer(Int64Builder::with_capacity(0)),
                    FieldKind::Number => FieldBuilder::Number(Float64Builder::with_capacity(0)),
                    FieldKind::Text => FieldBuilder::Text(text()),
                })
                .collect(),
            page_host: text(),
            page_path: text(),
            utm: std::array::from_fn(|_| text()),
            browser: text(),
            os: text(),
            device_category: text(),
            is_bot: BooleanBuilder::with_capacity(0),
            extra: text(),
            count: 0,
            text_bytes: 0,
        }
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// Bytes of JSON that the rows came from.
    pub(super) fn text_bytes(&self) -> usize {
        self.text_bytes
    }

    /// Adds a row that came from `json_bytes` bytes of JSON.
    pub(super) fn push(&mut self, row: &Row<'_>, json_bytes: usize, agents: &mut UserAgents) {
        let client = row.client;
        self.kafka_offset.append_value(row.offset);
        self.received_time.append_option((row.received_ms >= 0).then_some(row.received_ms));
        self.package_id.append_value(&client.package_id);
        self.kind.append_value(&client.kind);
        self.id.append_option(client.id);
        self.event_time.append_value(client.event_time_ms);
        for (builder, value) in self.fields.iter_mut().zip(&client.fields) {
            builder.append(value.as_ref());
        }
        self.push_page(text(&client.fields[PAGE]));
        self.push_user_agent(text(&client.fields[USER_AGENT]), agents);
        self.extra.append_option(client.extra);
        self.count += 1;
        self.text_bytes += json_bytes;
    }

    fn push_page(&mut self, page: Option<&str>) {
        let page = page.map(Page::read);
        let (host, path, utm) = match page {
            Some(Page { host, path, utm }) => (host, Some(path), utm),
            None => Default::default(),
        };
        self.page_host.append_option(host);
        self.page_path.append_option(path);
        for (builder, value) in self.utm.iter_mut().zip(utm) {
            builder.append_option(value);
        }
    }

    fn push_user_agent(&mut self, user_agent: Option<&str>, agents: &mut UserAgents) {
        let agent = user_agent.map(|text| agents.read(text));
        self.browser.append_option(agent.and_then(|agent| agent.browser.as_deref()));
        self.os.append_option(agent.and_then(|agent| agent.os.as_deref()));
        self.device_category.append_option(agent.and_then(|agent| agent.device_category.as_deref()));
        self.is_bot.append_option(agent.map(|agent| agent.is_bot));
    }

    /// Takes all rows out, as a batch in the order of [`schema`].
    pub(super) fn take(&mut self, topic: &str, partition: i32) -> Result<RecordBatch, ArrowError> {
        let topics = StringArray::from_iter_values(repeat_n(topic, self.count));
        let partitions = Int32Array::from_value(partition, self.count);
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(topics),
            Arc::new(partitions),
            Arc::new(self.kafka_offset.finish()),
            Arc::new(self.received_time.finish()),
            Arc::new(self.package_id.finish()),
            Arc::new(self.kind.finish()),
            Arc::new(self.id.finish()),
            Arc::new(self.event_time.finish()),
        ];
        columns.extend(self.fields.iter_mut().map(FieldBuilder::finish));
        let texts = [&mut self.page_host, &mut self.page_path].into_iter().chain(&mut self.utm).chain([
            &mut self.browser,
            &mut self.os,
            &mut self.device_category,
        ]);
        columns.extend(texts.map(|builder| Arc::new(builder.finish()) as ArrayRef));
        columns.push(Arc::new(self.is_bot.finish()));
        columns.push(Arc::new(self.extra.finish()));
        self.count = 0;
        self.text_bytes = 0;
        RecordBatch::try_new(schema(), columns)
    }

    /// Bytes that the builders hold.
    pub(super) fn memory(&self) -> usize {
        let integers = [&self.kafka_offset, &self.id].map(|builder| builder.capacity() * 8);
        let times = [&self.received_time, &self.event_time].map(|builder| builder.capacity() * 8);
        let texts = [
            &self.package_id,
            &self.kind,
            &self.page_host,
            &self.page_path,
            &self.browser,
            &self.os,
            &self.device_category,
            &self.extra,
        ];
        let fields: usize = self.fields.iter().map(FieldBuilder::memory).sum();
        integers.iter().chain(&times).sum::<usize>()
            + texts.into_iter().chain(&self.utm).map(text_memory).sum::<usize>()
            + fields
            + self.is_bot.capacity() / 4
    }
}

fn text<'a>(value: &'a Option<ColumnValue<'_>>) -> Option<&'a str> {
    match value {
        Some(ColumnValue::Text(text)) => Some(text),
        _ => None,
    }
}

fn text_memory(builder: &StringBuilder) -> usize {
    builder.values_capacity() + builder.offsets_capacity() * 4 + builder.validity_capacity()
}

impl FieldBuilder {
    fn append(&mut self, value: Option<&ColumnValue<'_>>) {
        match (self, value) {
            (Self::Integer(builder), Some(ColumnValue::Integer(integer))) => builder.append_value(*integer),
            (Self::Number(builder), Some(ColumnValue::Number(float))) => builder.append_value(*float),
            (Self::Text(builder), Some(ColumnValue::Text(text))) => builder.append_value(text),
            (Self::Integer(builder), _) => builder.append_null(),
            (Self::Number(builder), _) => builder.append_null(),
            (Self::Text(builder), _) => builder.append_null(),
        }
    }

    fn finish(&mut self) -> ArrayRef {
        match self {
            Self::Integer(builder) => Arc::new(builder.finish()),
            Self::Number(builder) => Arc::new(builder.finish()),
            Self::Text(builder) => Arc::new(builder.finish()),
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Integer(builder) => builder.capacity() * 8,
            Self::Number(builder) => builder.capacity() * 8,
            Self::Text(builder) => text_memory(builder),
        }
    }
}
