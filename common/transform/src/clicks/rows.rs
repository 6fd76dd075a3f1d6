//! The rows that are not handed over yet, column by column.

use std::sync::Arc;

use arrow_array::ArrayRef;
use arrow_array::builder::{
    BooleanBuilder, Float64Builder, Int64Builder, StringBuilder, TimestampMillisecondBuilder,
};
use arrow_schema::DataType;
use millrace_common::event::{ClientColumns, ColumnValue, FIELDS, FieldKind, column, time_type};

use super::derived::{Derived, TEXTS};
use super::options::{ClicksOptions, Enricher};
use crate::{Column, Values};

/// Client columns of few distinct values each.
const REPEATED: [&str; 6] = ["user_agent", "referrer", "element", "product_id", "quantity", "currency"];

/// The columns of a pipeline with these options.
pub(super) fn columns(options: &ClicksOptions) -> Vec<Column> {
    let mut columns = vec![
        Column::new(column::RECEIVED_TIME, time_type(), true).values(Values::Close),
        Column::new(column::PACKAGE_ID, DataType::Utf8, false),
        Column::new(column::TYPE, DataType::Utf8, false).values(Values::Repeated).with_statistics(),
        Column::new(column::ID, DataType::Int64, true).values(Values::Close),
        Column::new(column::EVENT_TIME, time_type(), false).values(Values::Close).with_statistics(),
    ];
    for field in FIELDS.iter().filter(|field| !options.drop.contains(field.name)) {
        let kind = match field.kind {
            FieldKind::Integer => DataType::Int64,
            FieldKind::Number => DataType::Float64,
            FieldKind::Text => DataType::Utf8,
        };
        let name = options.rename.get(field.name).map_or(field.name, String::as_str);
        let mut column = Column::new(name, kind, true);
        if REPEATED.contains(&field.name) {
            column = column.values(Values::Repeated);
        }
        if field.name == "customer_id" {
            column = column.with_statistics();
        }
        columns.push(column);
    }
    for (name, enricher) in TEXTS.iter().filter(|(_, enricher)| options.enrichers.contains(enricher)) {
        let column = Column::new(name, DataType::Utf8, true);
        let is_distinct = *enricher == Enricher::Page && *name == column::CLICK_ID;
        columns.push(if is_distinct { column } else { column.values(Values::Repeated) });
    }
    if options.enrichers.contains(&Enricher::UserAgent) {
        columns.push(Column::new(column::IS_BOT, DataType::Boolean, true));
    }
    columns.push(Column::new(column::EXTRA, DataType::Utf8, true));
    columns
}

/// Builders of all columns, those that the options leave out included: they stay empty then.
#[derive(Debug)]
pub(super) struct Rows {
    received_time: TimestampMillisecondBuilder,
    package_id: StringBuilder,
    kind: StringBuilder,
    id: Int64Builder,
    event_time: TimestampMillisecondBuilder,
    fields: Vec<FieldBuilder>,
    derived: [StringBuilder; TEXTS.len()],
    is_bot: BooleanBuilder,
    extra: StringBuilder,
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
            derived: std::array::from_fn(|_| text()),
            is_bot: BooleanBuilder::with_capacity(0),
            extra: text(),
        }
    }

    /// Adds a row. `received_ms`: the record's Kafka timestamp, -1 if it has none.
    pub(super) fn push(&mut self, received_ms: i64, client: &ClientColumns<'_>, derived: &Derived<'_>) {
        self.received_time.append_option((received_ms >= 0).then_some(received_ms));
        self.package_id.append_value(&client.package_id);
        self.kind.append_value(&client.kind);
        self.id.append_option(client.id);
        self.event_time.append_value(client.event_time_ms);
        for (builder, value) in self.fields.iter_mut().zip(&client.fields) {
            builder.append(value.as_ref());
        }
        for (builder, text) in self.derived.iter_mut().zip(derived.texts()) {
            builder.append_option(text);
        }
        self.is_bot.append_option(derived.is_bot);
        self.extra.append_option(client.extra);
    }

    /// Takes all rows out, as arrays in the order of [`columns`].
    pub(super) fn take(&mut self, options: &ClicksOptions) -> Vec<ArrayRef> {
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(self.received_time.finish()),
            Arc::new(self.package_id.finish()),
            Arc::new(self.kind.finish()),
            Arc::new(self.id.finish()),
            Arc::new(self.event_time.finish()),
        ];
        for (builder, field) in self.fields.iter_mut().zip(&FIELDS) {
            let array = builder.finish();
            if !options.drop.contains(field.name) {
                arrays.push(array);
            }
        }
        for (builder, (_, enricher)) in self.derived.iter_mut().zip(&TEXTS) {
            let array = builder.finish();
            if options.enrichers.contains(enricher) {
                arrays.push(Arc::new(array));
            }
        }
        let is_bot = self.is_bot.finish();
        if options.enrichers.contains(&Enricher::UserAgent) {
            arrays.push(Arc::new(is_bot));
        }
        arrays.push(Arc::new(self.extra.finish()));
        arrays
    }

    /// Bytes that the builders hold.
    pub(super) fn memory(&self) -> usize {
        let times = [&self.received_time, &self.event_time].map(|builder| builder.capacity() * 8);
        let texts = [&self.package_id, &self.kind, &self.extra];
        times.iter().sum::<usize>()
            + self.id.capacity() * 8
            + texts.into_iter().chain(&self.derived).map(text_memory).sum::<usize>()
            + self.fields.iter().map(FieldBuilder::memory).sum::<usize>()
            + self.is_bot.capacity() / 4
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
