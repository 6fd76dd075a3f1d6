//! A row of a slot as text or JSON. Pure.

use arrow_array::{Array, RecordBatch};
use millrace_common::cells::value;
use serde_json::{Map, Value};

/// Columns that say where a row comes from: shown before the others.
const SOURCE: [&str; 3] = ["kafka_topic", "kafka_partition", "kafka_offset"];

/// What a worker says of all rows of an answer.
#[derive(Debug, Clone, Default)]
pub(super) struct Labels {
    /// `<pipeline id>/<topic number>-<partition>`.
    pub(super) slot: String,
    /// Rows of offsets from here on are not committed; `None` if the worker didn't say.
    pub(super) committed_to: Option<i64>,
}

/// A row, taken out of its columns.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Row {
    pub(super) offset: i64,
    /// `None`: the worker did not say.
    pub(super) committed: Option<bool>,
    topic: String,
    partition: i64,
    /// Columns that hold a value, in their order.
    columns: Vec<(String, Value)>,
}

/// The rows of `batch`; none if it has no column of offsets.
pub(super) fn rows(batch: &RecordBatch, labels: &Labels) -> Vec<Row> {
    let schema = batch.schema();
    let take = |index: usize| {
        let mut source = SOURCE.map(|_| Value::Null);
        let mut columns = Vec::new();
        for (field, column) in schema.fields().iter().zip(batch.columns()) {
            if column.is_null(index) {
                continue;
            }
            match SOURCE.iter().position(|name| name == field.name()) {
                Some(place) => source[place] = value(column, index),
                None => columns.push((field.name().clone(), value(column, index))),
            }
        }
        let [topic, partition, offset] = source;
        let offset = offset.as_i64()?;
        Some(Row {
            offset,
            committed: labels.committed_to.map(|cursor| offset < cursor),
            topic: topic.as_str().unwrap_or_default().to_owned(),
            partition: partition.as_i64().unwrap_or(-1),
            columns,
        })
    };
    (0..batch.num_rows()).filter_map(take).collect()
}

impl Row {
    /// `events/3@97 uncommitted event_type=view …`: one line, without the columns that are null.
    pub(super) fn text(&self) -> String {
        let state = match self.committed {
            Some(true) => "committed  ",
            Some(false) => "uncommitted",
            None => "unknown    ",
        };
        let mut line = format!("{}/{}@{} {state}", self.topic, self.partition, self.offset);
        for (name, value) in &self.columns {
            let shown = match value {
                // A client's text must not move the cursor of somebody's terminal, nor look like two columns.
                Value::String(text) if text.chars().any(|c| c.is_control() || c == ' ' || c == '"') => {
                    format!("{text:?}")
                }
                Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            line.push_str(&format!(" {name}={shown}"));
        }
        line
    }

    /// One object: where it comes from, whether it is committed, and the columns that hold a value.
    pub(super) fn json(&self, labels: &Labels) -> Value {
        serde_json::json!({
            "slot": labels.slot,
            "topic": self.topic,
            "partition": self.partition,
            "offset": self.offset,
            "committed": self.committed,
            "row": self.columns.iter().cloned().collect::<Map<_, _>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow_array::{
        ArrayRef, BinaryArray, Int32Array, Int64Array, StringArray, TimestampMillisecondArray,
    };

    use super::*;

    fn batch() -> RecordBatch {
        let columns: [(&str, ArrayRef); 6] = [
            ("kafka_topic", Arc::new(StringArray::from(vec!["events", "events"]))),
            ("kafka_partition", Arc::new(Int32Array::from(vec![3, 3]))),
            ("kafka_offset", Arc::new(Int64Array::from(vec![97, 98]))),
            ("event_time", Arc::new(TimestampMillisecondArray::from(vec![1_705_314_600_123, 0]))),
            ("page", Arc::new(StringArray::from(vec![Some("a b\u{1b}[2J"), None]))),
            ("key", Arc::new(BinaryArray::from(vec![b"k-1".as_slice(), b"\xff\x00"]))),
        ];
        RecordBatch::try_from_iter(columns).expect("batch")
    }

    #[test]
    fn a_row_says_where_it_is_from_and_whether_it_is_committed() {
        let labels = Labels { slot: "clicks-1/0-3".into(), committed_to: Some(98) };
        let [first, second] = &rows(&batch(), &labels)[..] else { panic!("two rows") };
        assert_eq!(
            first.text(),
            "events/3@97 committed   event_time=2024-01-15T10:30:00.123Z page=\"a b\\u{1b}[2J\" key=k-1"
        );
        assert!(second.text().starts_with("events/3@98 uncommitted event_time=1970"), "{}", second.text());
        assert!(!second.text().contains("page="), "nulls are left out");
        let json = second.json(&labels);
        assert_eq!(json["committed"], false);
        assert_eq!(json["row"]["key"]["hex"], "ff00");
        assert_eq!((&json["slot"], &json["offset"]), (&"clicks-1/0-3".into(), &98.into()));
    }

    #[test]
    fn without_the_workers_word_nothing_is_called_committed() {
        let rows = rows(&batch(), &Labels::default());
        assert!(rows.iter().all(|row| row.committed.is_none() && row.text().contains("unknown")));
    }
}
