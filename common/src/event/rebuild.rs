//! From a row back to the event that the client sent.

use std::borrow::Cow;

use arrow_array::TimestampMillisecondArray;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int64Type, TimestampMillisecondType};
use arrow_array::{Array, Float64Array, Int64Array, RecordBatch, StringArray};

use super::canonical::write_text;
use super::columns::{ClientColumns, ColumnValue, column};
use super::field::{FIELDS, FieldKind};
use super::rejection::Rejection;
use super::scan::{Raw, Scanner};
use super::{number, time};

/// A row from which no event can be rebuilt: Millrace didn't write it, or it was altered.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error("extra is not what Millrace writes: {0}; expected a JSON object whose event is an object")]
    Extra(#[from] Rejection),
    #[error("event_time {0} is no time of the years 0 to 9999, expected milliseconds since 1970")]
    EventTime(i64),
    #[error("column {name:?} {found}, expected {expected}")]
    Column { name: &'static str, found: String, expected: &'static str },
}

/// The JSON of the event that the client sent, with the same [`super::canonical_hash`] as what it sent.
pub fn rebuild(columns: &ClientColumns<'_>) -> Result<String, RebuildError> {
    let extra = match columns.extra {
        Some(extra) => ExtraMembers::read(extra)?,
        None => ExtraMembers::default(),
    };
    let mut json = String::from("{\"type\":");
    write_text(&columns.kind, &mut json);
    json.push_str(",\"package_id\":");
    write_text(&columns.package_id, &mut json);
    if let (Some(id), false) = (columns.id, has(&extra.members, "id")) {
        json.push_str(&format!(",\"id\":{id}"));
    }
    for (key, value) in &extra.members {
        json.push(',');
        write_member(key, value, &mut json);
    }
    json.push_str(",\"event\":{");
    let mut first = true;
    let mut comma = |json: &mut String| {
        if !std::mem::take(&mut first) {
            json.push(',');
        }
    };
    if !has(&extra.in_event, "timestamp") {
        let sent =
            time::write(columns.event_time_ms).ok_or(RebuildError::EventTime(columns.event_time_ms))?;
        comma(&mut json);
        json.push_str("\"timestamp\":");
        write_text(&sent, &mut json);
    }
    for (field, value) in FIELDS.iter().zip(&columns.fields) {
        let Some(value) = value else { continue };
        if has(&extra.in_event, field.name) {
            continue;
        }
        comma(&mut json);
        write_text(field.name, &mut json);
        json.push(':');
        match value {
            ColumnValue::Integer(integer) => json.push_str(&integer.to_string()),
            ColumnValue::Number(float) => number::write_float(*float, &mut json),
            ColumnValue::Text(text) => write_text(text, &mut json),
        }
    }
    for (key, value) in &extra.in_event {
        comma(&mut json);
        write_member(key, value, &mut json);
    }
    json.push_str("}}");
    Ok(json)
}

fn write_member(key: &Raw<'_>, value: &Raw<'_>, json: &mut String) {
    json.push_str(key.text);
    json.push(':');
    json.push_str(value.text);
}

fn has(members: &[(Raw<'_>, Raw<'_>)], name: &str) -> bool {
    members.iter().any(|(key, _)| key.content() == name)
}

#[derive(Default)]
struct ExtraMembers<'a> {
    members: Vec<(Raw<'a>, Raw<'a>)>,
    in_event: Vec<(Raw<'a>, Raw<'a>)>,
}

impl<'a> ExtraMembers<'a> {
    fn read(json: &'a str) -> Result<Self, Rejection> {
        let mut extra = Self::default();
        let mut scanner = Scanner::new(json.as_bytes())?;
        scanner.expect_object()?;
        scanner.object(|scanner, key| {
            if key.content() == "event" {
                scanner.expect_object()?;
                return scanner.object(|scanner, key| {
                    extra.in_event.push((key, scanner.value()?));
                    Ok(())
                });
            }
            extra.members.push((key, scanner.value()?));
            Ok(())
        })?;
        scanner.end()?;
        Ok(extra)
    }
}

/// The client columns of a batch of rows, found by name; other columns don't matter.
#[derive(Debug)]
pub struct ClientColumnReader<'a> {
    package_id: &'a StringArray,
    kind: &'a StringArray,
    id: &'a Int64Array,
    event_time: &'a TimestampMillisecondArray,
    fields: Vec<FieldColumn<'a>>,
    extra: &'a StringArray,
}

#[derive(Debug)]
enum FieldColumn<'a> {
    Integer(&'a Int64Array),
    Number(&'a Float64Array),
    Text(&'a StringArray),
}

impl<'a> ClientColumnReader<'a> {
    /// Errors: a column is missing, has another type than in [`super::schema`], or is null where it must not be.
    pub fn new(batch: &'a RecordBatch) -> Result<Self, RebuildError> {
        let reader = Self {
            package_id: text(batch, column::PACKAGE_ID)?,
            kind: text(batch, column::TYPE)?,
            id: integer(batch, column::ID)?,
            event_time: typed(batch, column::EVENT_TIME, "milliseconds in UTC", |array| {
                array.as_primitive_opt::<TimestampMillisecondType>()
            })?,
            fields: FIELDS
                .iter()
                .map(|field| {
                    Ok(match field.kind {
                        FieldKind::Integer => FieldColumn::Integer(integer(batch, field.name)?),
                        FieldKind::Number => {
                            FieldColumn::Number(typed(batch, field.name, "64-bit floats", |array| {
                                array.as_primitive_opt::<Float64Type>()
                            })?)
                        }
                        FieldKind::Text => FieldColumn::Text(text(batch, field.name)?),
                    })
                })
                .collect::<Result<_, RebuildError>>()?,
            extra: text(batch, column::EXTRA)?,
        };
        let required: [(&'static str, &dyn Array); 3] = [
            (column::PACKAGE_ID, reader.package_id),
            (column::TYPE, reader.kind),
            (column::EVENT_TIME, reader.event_time),
        ];
        for (name, array) in required {
            if array.null_count() > 0 {
                return Err(RebuildError::Column {
                    name,
                    found: format!("has {} nulls", array.null_count()),
                    expected: "a value in every row",
                });
            }
        }
        Ok(reader)
    }

    /// The client columns of row `index`. Panics if the batch has no such row.
    pub fn row(&self, index: usize) -> ClientColumns<'a> {
        let mut fields = [const { None }; FIELDS.len()];
        for (value, column) in fields.iter_mut().zip(&self.fields) {
            *value = match column {
                FieldColumn::Integer(array) => {
                    array.is_valid(index).then(|| ColumnValue::Integer(array.value(index)))
                }
                FieldColumn::Number(array) => {
                    array.is_valid(index).then(|| ColumnValue::Number(array.value(index)))
                }
                FieldColumn::Text(array) => {
                    array.is_valid(index).then(|| ColumnValue::Text(Cow::Borrowed(array.value(index))))
                }
            };
        }
        ClientColumns {
            package_id: Cow::Borrowed(self.package_id.value(index)),
            kind: Cow::Borrowed(self.kind.value(index)),
            id: self.id.is_valid(index).then(|| self.id.value(index)),
            event_time_ms: self.event_time.value(index),
            fields,
            extra: self.extra.is_valid(index).then(|| self.extra.value(index)),
        }
    }
}

fn text<'a>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a StringArray, RebuildError> {
    typed(batch, name, "text", |array| array.as_string_opt::<i32>())
}

fn integer<'a>(batch: &'a RecordBatch, name: &'static str) -> Result<&'a Int64Array, RebuildError> {
    typed(batch, name, "64-bit integers", |array| array.as_primitive_opt::<Int64Type>())
}

fn typed<'a, A>(
    batch: &'a RecordBatch,
    name: &'static str,
    expected: &'static str,
    cast: impl FnOnce(&'a dyn Array) -> Option<&'a A>,
) -> Result<&'a A, RebuildError> {
    let array = batch.column_by_name(name).ok_or_else(|| RebuildError::Column {
        name,
        found: "is missing".to_owned(),
        expected,
    })?;
    cast(array.as_ref()).ok_or_else(|| RebuildError::Column {
        name,
        found: format!("is {}", array.data_type()),
        expected,
    })
}
