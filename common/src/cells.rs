//! Values of Arrow columns as JSON, as a lake's rows are told to people. Pure.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float64Type, Int32Type, Int64Type, TimestampMillisecondType};
use arrow_schema::{DataType, TimeUnit};
use chrono::{DateTime, SecondsFormat};
use serde_json::Value;

/// A value of a column as JSON: times as RFC 3339 in UTC, bytes as text where they are UTF-8 and else as
/// `{"hex":"…"}`.
pub fn value(column: &dyn Array, index: usize) -> Value {
    match column.data_type() {
        DataType::Utf8 => column.as_string::<i32>().value(index).into(),
        DataType::Boolean => column.as_boolean().value(index).into(),
        DataType::Int32 => column.as_primitive::<Int32Type>().value(index).into(),
        DataType::Int64 => column.as_primitive::<Int64Type>().value(index).into(),
        DataType::Float64 => column.as_primitive::<Float64Type>().value(index).into(),
        DataType::Timestamp(TimeUnit::Millisecond, _) => {
            let ms = column.as_primitive::<TimestampMillisecondType>().value(index);
            match DateTime::from_timestamp_millis(ms) {
                Some(time) => time.to_rfc3339_opts(SecondsFormat::Millis, true).into(),
                None => ms.into(),
            }
        }
        DataType::Binary => {
            let bytes = column.as_binary::<i32>().value(index);
            match std::str::from_utf8(bytes) {
                Ok(text) => text.into(),
                Err(_) => {
                    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                    serde_json::json!({ "hex": hex })
                }
            }
        }
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(index);
            let item = |index| if items.is_null(index) { Value::Null } else { value(&items, index) };
            (0..items.len()).map(item).collect()
        }
        DataType::Struct(fields) => {
            let columns = column.as_struct().columns();
            let members = fields.iter().zip(columns).filter(|(_, column)| !column.is_null(index));
            members.map(|(field, column)| (field.name().clone(), value(column, index))).collect()
        }
        // A newer worker's: shown as what it is, rather than hidden.
        other => format!("<{other}>").into(),
    }
}
