//! The row of the lake: its schema, and which of its columns hold what the client sent.
//!
//! A value stands in its column alone if the column writes back the very JSON that was sent (for a string: the
//! same content). Every other value stands in `extra` as it was sent: a null, a number as `"12345"` or `1.0`, a
//! time with microseconds or an offset, a member without a column. Its column then holds the nearest value of
//! its type, for those who query, or null; [`super::rebuild`] lets `extra` win.

use std::borrow::Cow;
use std::sync::{Arc, LazyLock};

use arrow_schema::{DataType, Schema, SchemaRef, TimeUnit};

use super::Event;
use super::field::{FIELDS, FieldKind};
use super::number;
use super::scan::Raw;

/// Names of the columns that are not in [`FIELDS`].
pub mod column {
    pub const KAFKA_TOPIC: &str = "kafka_topic";
    pub const KAFKA_PARTITION: &str = "kafka_partition";
    pub const KAFKA_OFFSET: &str = "kafka_offset";
    /// The record's Kafka timestamp; null if it has none.
    pub const RECEIVED_TIME: &str = "received_time";
    pub const PACKAGE_ID: &str = "package_id";
    pub const TYPE: &str = "type";
    pub const ID: &str = "id";
    pub const EVENT_TIME: &str = "event_time";
    pub const PAGE_HOST: &str = "page_host";
    pub const PAGE_PATH: &str = "page_path";
    /// The five `utm_*` parameters of the page, as columns.
    pub const UTM: [&str; 5] = ["utm_source", "utm_medium", "utm_campaign", "utm_term", "utm_content"];
    pub const BROWSER: &str = "browser";
    pub const OS: &str = "os";
    /// `pc`, `smartphone`, `tablet`, `mobilephone`, `appliance` or `crawler`.
    pub const DEVICE_CATEGORY: &str = "device_category";
    pub const IS_BOT: &str = "is_bot";
    /// What an advertiser's link carries to know its click again, and the parameter's name.
    pub const CLICK_ID: &str = "click_id";
    pub const CLICK_ID_KIND: &str = "click_id_kind";
    pub const REFERRER_KIND: &str = "referrer_kind";
    /// ISO 3166-1 code of the address's country.
    pub const COUNTRY: &str = "country";
    /// JSON object: what the other columns can't give back exactly, mostly null.
    pub const EXTRA: &str = "extra";
}

/// Milliseconds since 1970 UTC, as a column holds them.
pub fn time_type() -> DataType {
    DataType::Timestamp(TimeUnit::Millisecond, Some("UTC".into()))
}

/// The row's columns: where the record comes from, what the client sent, what was found out about it, `extra`.
pub fn schema() -> SchemaRef {
    static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
        let required = |name: &str, kind| arrow_schema::Field::new(name, kind, false);
        let optional = |name: &str, kind| arrow_schema::Field::new(name, kind, true);
        let mut columns = vec![
            required(column::KAFKA_TOPIC, DataType::Utf8),
            required(column::KAFKA_PARTITION, DataType::Int32),
            required(column::KAFKA_OFFSET, DataType::Int64),
            optional(column::RECEIVED_TIME, time_type()),
            required(column::PACKAGE_ID, DataType::Utf8),
            required(column::TYPE, DataType::Utf8),
            optional(column::ID, DataType::Int64),
            required(column::EVENT_TIME, time_type()),
        ];
        columns.extend(FIELDS.iter().map(|field| {
            let kind = match field.kind {
                FieldKind::Integer => DataType::Int64,
                FieldKind::Number => DataType::Float64,
                FieldKind::Text => DataType::Utf8,
            };
            optional(field.name, kind)
        }));
        let page = [column::PAGE_HOST, column::PAGE_PATH].into_iter().chain(column::UTM);
        let texts = page.chain([
            column::CLICK_ID,
            column::CLICK_ID_KIND,
            column::BROWSER,
            column::OS,
            column::DEVICE_CATEGORY,
            column::REFERRER_KIND,
            column::COUNTRY,
        ]);
        columns.extend(texts.map(|name| optional(name, DataType::Utf8)));
        columns.push(optional(column::IS_BOT, DataType::Boolean));
        columns.push(optional(column::EXTRA, DataType::Utf8));
        Arc::new(Schema::new(columns))
    });
    SCHEMA.clone()
}

/// The value of a column of [`FIELDS`].
#[derive(Debug, Clone, PartialEq)]
pub enum ColumnValue<'a> {
    Integer(i64),
    Number(f64),
    Text(Cow<'a, str>),
}

/// The part of a row that came from the client.
#[derive(Debug, Clone, PartialEq)]
pub struct ClientColumns<'a> {
    pub package_id: Cow<'a, str>,
    /// Column `type`.
    pub kind: Cow<'a, str>,
    pub id: Option<i64>,
    /// Milliseconds since 1970 UTC.
    pub event_time_ms: i64,
    /// In the order of [`FIELDS`], each of its field's kind.
    pub fields: [Option<ColumnValue<'a>>; FIELDS.len()],
    /// JSON object with the shape of the event.
    pub extra: Option<&'a str>,
}

impl<'a> Event<'a> {
    /// The client columns of the event's row. `scratch` is overwritten; it holds the row's `extra`.
    pub fn columns<'b>(&'b self, scratch: &'b mut String) -> ClientColumns<'b> {
        scratch.clear();
        let mut extra = Extra { json: scratch, in_event: false };
        let id = self.id.and_then(|raw| {
            let (value, exact) = to_column(FieldKind::Integer, &raw);
            if !exact {
                extra.push("\"id\"", &raw);
            }
            match value {
                Some(ColumnValue::Integer(id)) => Some(id),
                _ => None,
            }
        });
        for (key, value) in &self.unknown {
            extra.push(key.text, value);
        }
        if !self.time.exact {
            extra.push_in_event("\"timestamp\"", &self.timestamp);
        }
        let mut fields = [const { None }; FIELDS.len()];
        for ((field, raw), column) in FIELDS.iter().zip(&self.fields).zip(&mut fields) {
            let Some(raw) = raw else { continue };
            let (value, exact) = to_column(field.kind, raw);
            *column = value;
            if !exact {
                extra.push_in_event(&format!("\"{}\"", field.name), raw);
            }
        }
        for (key, value) in &self.unknown_in_event {
            extra.push_in_event(key.text, value);
        }
        let extra = extra.end();
        ClientColumns {
            package_id: Cow::Borrowed(&self.package_id),
            kind: Cow::Borrowed(&self.kind),
            id,
            event_time_ms: self.time.ms,
            fields,
            extra,
        }
    }
}

/// What a column of `kind` holds of `raw`, and whether it gives back exactly that.
fn to_column<'a>(kind: FieldKind, raw: &Raw<'a>) -> (Option<ColumnValue<'a>>, bool) {
    if kind == FieldKind::Text {
        return match raw.is_text() {
            true => (Some(ColumnValue::Text(raw.content())), true),
            false => (None, false),
        };
    }
    if !raw.is_text() && !raw.is_number() {
        return (None, false);
    }
    let content = raw.content();
    if kind == FieldKind::Integer {
        let integer = number::exact_integer(&content);
        let exact = raw.is_number() && integer.is_some();
        return (integer.map(ColumnValue::Integer), exact);
    }
    let exact = number::exact_float(&content).filter(|_| raw.is_number());
    let nearest = exact.or_else(|| content.parse().ok().filter(|float: &f64| float.is_finite()));
    (nearest.map(ColumnValue::Number), exact.is_some())
}

/// Writes `extra`: first the members of the event itself, then those of its member `event`.
struct Extra<'a> {
    json: &'a mut String,
    in_event: bool,
}

impl<'a> Extra<'a> {
    /// `key` is a JSON string, quotes included.
    fn push(&mut self, key: &str, value: &Raw<'_>) {
        self.json.push(if self.json.is_empty() { '{' } else { ',' });
        self.member(key, value);
    }

    fn push_in_event(&mut self, key: &str, value: &Raw<'_>) {
        if self.in_event {
            self.json.push(',');
        } else {
            self.json.push(if self.json.is_empty() { '{' } else { ',' });
            self.json.push_str("\"event\":{");
            self.in_event = true;
        }
        self.member(key, value);
    }

    fn member(&mut self, key: &str, value: &Raw<'_>) {
        self.json.push_str(key);
        self.json.push(':');
        self.json.push_str(value.text);
    }

    fn end(self) -> Option<&'a str> {
        if self.json.is_empty() {
            return None;
        }
        self.json.push_str(if self.in_event { "}}" } else { "}" });
        Some(self.json)
    }
}
