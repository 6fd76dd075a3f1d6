//! A slot's latest rows, and which of them are committed.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_schema::{Schema, SchemaRef};
use millrace_common::types::SlotId;
use millrace_transform::SOURCE_COLUMNS;
use tonic::Status;

use super::stream::BATCH_ROWS;
use crate::manager::Shown;
use crate::slot::LatestRows;

/// The most rows of a slot in one answer.
pub(super) const MOST_ROWS: u64 = 100_000;
/// A slot that waits for Kafka answers late.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// Keys of the schema's metadata: which slot the rows are of, …
pub(super) const SLOT: &str = "millrace.slot";
/// …the source topic, …
pub(super) const TOPIC: &str = "millrace.topic";
/// …the epoch of the slot's owner, …
pub(super) const EPOCH: &str = "millrace.epoch";
/// …the cursor of the lake (of the topic sink in a pipeline without lake): rows whose `kafka_offset` is not below it
/// are not committed, and may never be, or not by this owner.
pub(super) const COMMITTED_TO: &str = "millrace.committed_to";

/// The rows that a ticket asks for, in offset order.
pub(super) struct Latest {
    pub(super) schema: SchemaRef,
    pub(super) batches: Vec<RecordBatch>,
    pub(super) rows: usize,
}

/// Asks the slot for its last `rows` rows from offset `from` on.
pub(super) async fn latest(
    slot: &SlotId,
    shown: &Shown,
    rows: u64,
    from: Option<i64>,
) -> Result<Latest, Status> {
    if rows > MOST_ROWS {
        return Err(Status::invalid_argument(format!(
            "latest {rows} is out of range: expected at most {MOST_ROWS}"
        )));
    }
    let answer = tokio::time::timeout(ASK_DEADLINE, shown.latest.ask()).await.map_err(|_| {
        let waits = shown.status.report().metrics.waiting_for;
        let waits = waits.map_or_else(String::new, |waits| format!(" (it waits for {waits})"));
        Status::unavailable(format!("slot {slot} did not answer within {} s{waits}", ASK_DEADLINE.as_secs()))
    })?;
    let answer = answer.ok_or_else(|| {
        Status::unavailable(format!(
            "slot {slot} has just stopped here, or too many ask for it: ask again later"
        ))
    })?;
    let committed_to = if shown.lake.is_some() { answer.lake_cursor } else { answer.topic_cursor };
    let topic = shown.definition.source.topics.get(usize::from(slot.topic)).cloned().unwrap_or_default();
    let labels = HashMap::from([
        (SLOT.to_owned(), slot.to_string()),
        (TOPIC.to_owned(), topic),
        (EPOCH.to_owned(), shown.status.report().epoch.to_string()),
        (COMMITTED_TO.to_owned(), committed_to.to_string()),
    ]);
    chosen(answer, rows, from, labels)
        .map_err(|reason| Status::internal(format!("rows of slot {slot}: {reason}")))
}

fn chosen(
    latest: LatestRows,
    rows: u64,
    from: Option<i64>,
    labels: HashMap<String, String>,
) -> Result<Latest, String> {
    let Some(held) = latest.rows else {
        let schema = Arc::new(Schema::empty().with_metadata(labels));
        return Ok(Latest { schema, batches: Vec::new(), rows: 0 });
    };
    let [_, _, offset] = SOURCE_COLUMNS;
    let offsets = held.column_by_name(offset).and_then(|column| column.as_primitive_opt::<Int64Type>());
    let offsets = offsets.ok_or_else(|| format!("they have no column {offset} of 64-bit integers"))?;
    let first = from.map_or(0, |from| offsets.values().partition_point(|offset| *offset < from));
    let first = first.max(held.num_rows().saturating_sub(usize::try_from(rows).unwrap_or(usize::MAX)));
    let schema = Arc::new(held.schema().as_ref().clone().with_metadata(labels));
    let mut batches = Vec::new();
    let mut start = first;
    while start < held.num_rows() {
        let length = BATCH_ROWS.min(held.num_rows() - start);
        let batch = held.slice(start, length).with_schema(Arc::clone(&schema));
        batches.push(batch.map_err(|error| error.to_string())?);
        start += length;
    }
    Ok(Latest { schema, batches, rows: held.num_rows() - first })
}

#[cfg(test)]
mod tests {
    use arrow_array::{ArrayRef, Int64Array};
    use millrace_common::types::NextOffset;

    use super::*;

    fn held(offsets: std::ops::Range<i64>) -> LatestRows {
        let offsets: ArrayRef = Arc::new(Int64Array::from_iter_values(offsets));
        let rows = RecordBatch::try_from_iter([(SOURCE_COLUMNS[2], offsets)]).expect("batch");
        LatestRows { rows: Some(rows), lake_cursor: NextOffset(5), topic_cursor: NextOffset(7) }
    }

    fn offsets(latest: &Latest) -> Vec<i64> {
        let values = latest.batches.iter().flat_map(|batch| {
            batch.column(0).as_primitive::<Int64Type>().values().iter().copied().collect::<Vec<_>>()
        });
        values.collect()
    }

    #[test]
    fn the_last_rows_are_given_and_no_more() {
        let ask = |rows, from| chosen(held(0..10), rows, from, HashMap::new()).expect("rows");
        assert_eq!(offsets(&ask(3, None)), [7, 8, 9]);
        assert_eq!(offsets(&ask(100, Some(8))), [8, 9]);
        assert_eq!(offsets(&ask(1, Some(8))), [9]);
        assert_eq!(ask(0, None).rows, 0);
        assert!(ask(100, Some(10)).batches.is_empty());
    }

    #[test]
    fn many_rows_travel_in_small_batches() {
        let many = i64::try_from(BATCH_ROWS).expect("small") * 2 + 1;
        let all = chosen(held(0..many), u64::MAX, None, HashMap::new()).expect("rows");
        assert_eq!(offsets(&all), (0..many).collect::<Vec<_>>());
        assert_eq!(all.batches.len(), 3);
    }
}
