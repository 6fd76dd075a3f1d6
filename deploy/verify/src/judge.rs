//! What the pipeline's transforms make of raw records, recomputed: the verdicts, and what the sinks must hold.
//!
//! A plain pipeline of clicks (nothing dropped, nothing renamed) is compared event by event: the row must rebuild what
//! the client sent. Of any other one, the row must be the one that the transform makes.

use std::sync::{Arc, Mutex, PoisonError};

use arrow_array::{Array, ArrayRef};
use arrow_row::{RowConverter, SortField};
use arrow_schema::ArrowError;
use bytes::Bytes;
use millrace_common::event::{RESERVED_MEMBER, canonical_hash};
use millrace_common::types::{PipelineDefinition, TransformDefinition};
use millrace_transform::{BuildError, Output, Registry, SourceRecord, Transform, Verdict, Wants};

use crate::account::{Fingerprint, Judgement};
use crate::kafka::Record;

/// Bytes of values that are kept from batch to batch.
const SCRATCH_BYTES: usize = 1 << 20;

/// The transforms of a pipeline. Batches are judged on many threads at once.
pub(crate) struct Judges {
    registry: Registry,
    /// The pipeline's own first, then those that it had before.
    definitions: Vec<TransformDefinition>,
    /// Transforms that nobody uses now, by definition.
    idle: Vec<Mutex<Vec<Box<dyn Transform>>>>,
    is_plain: bool,
    wants: Wants,
    reads_headers: bool,
    /// Names of the columns of a row, for pipelines that are not plain.
    pub(crate) columns: Vec<String>,
}

impl Judges {
    pub(crate) fn new(definition: &PipelineDefinition, registry: &Registry) -> Result<Arc<Self>, BuildError> {
        let definitions: Vec<_> =
            std::iter::once(&definition.transform).chain(&definition.earlier_transforms).cloned().collect();
        let is_plain = definitions.iter().all(is_plain);
        let first = registry.build(&definition.transform)?;
        let columns = first.columns().iter().map(|column| column.name().to_owned()).collect();
        let reads_headers = first.reads_headers();
        let idle = definitions.iter().map(|_| Mutex::default()).collect();
        let wants = Wants {
            rows: !is_plain && definition.lake.is_some(),
            values: definition.enriched_topic.is_some(),
        };
        let judges =
            Self { registry: registry.clone(), definitions, idle, is_plain, wants, reads_headers, columns };
        // What can't be built is told at once, not in the middle of the check.
        for (number, definition) in judges.definitions.iter().enumerate() {
            let transform = judges.registry.build(definition)?;
            judges.idle(number).push(transform);
        }
        Ok(Arc::new(judges))
    }

    /// Rows rebuild the client's events.
    pub(crate) fn is_plain(&self) -> bool {
        self.is_plain
    }

    pub(crate) fn reads_headers(&self) -> bool {
        self.reads_headers
    }

    /// Whether each event that a client sent stands in the sinks unless it was rejected.
    pub(crate) fn keeps_all(&self) -> bool {
        let has_types = |definition: &TransformDefinition| definition.options.contains_key("types");
        self.is_plain && !self.definitions.iter().any(has_types)
    }

    fn idle(&self, number: usize) -> std::sync::MutexGuard<'_, Vec<Box<dyn Transform>>> {
        self.idle[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of each record, by each transform. CPU bound.
    ///
    /// # Errors
    /// When a transform can't be built any more, or its rows can't be read.
    pub(crate) fn judge(&self, records: &[Record]) -> Result<Vec<Vec<Judgement>>, String> {
        let headers: Vec<_> = records.iter().map(headers_of).collect();
        let sources: Vec<SourceRecord<'_>> = records
            .iter()
            .zip(headers)
            .map(|(record, headers)| SourceRecord {
                offset: record.offset,
                timestamp_ms: record.timestamp_ms,
                key: record.key.as_deref(),
                value: record.value.as_deref(),
                headers,
            })
            .collect();
        let mut judgements = vec![Vec::with_capacity(self.definitions.len()); records.len()];
        for number in 0..self.definitions.len() {
            let waiting = self.idle(number).pop();
            let mut transform = match waiting {
                Some(transform) => transform,
                None => self.registry.build(&self.definitions[number]).map_err(|error| error.to_string())?,
            };
            let judged = self.judge_by(&mut *transform, &sources).map_err(|error| error.to_string())?;
            for (all, judgement) in judgements.iter_mut().zip(judged) {
                all.push(judgement);
            }
            self.idle(number).push(transform);
        }
        Ok(judgements)
    }

    fn judge_by(
        &self,
        transform: &mut dyn Transform,
        records: &[SourceRecord<'_>],
    ) -> Result<Vec<Judgement>, ArrowError> {
        let mut output = Output::default();
        transform.apply(records, self.wants, &mut output);
        let mut rows = match self.wants.rows {
            true => row_fingerprints(&transform.take_rows()?)?.into_iter(),
            false => Vec::new().into_iter(),
        };
        let judgements = records.iter().zip(output.verdicts()).map(|(record, verdict)| match verdict {
            Verdict::Filtered => Judgement::Filtered,
            Verdict::Rejected(_) => Judgement::Rejected,
            Verdict::Kept(kept) => {
                let row = match self.is_plain {
                    true => event_fingerprint(record),
                    false => rows.next().unwrap_or(Fingerprint::NO_EVENT),
                };
                let value = output.value(kept);
                Judgement::Kept {
                    row,
                    enriched: Fingerprint::of_record(record.key, value),
                    client: client_hash(record.key, value),
                }
            }
        });
        let judgements = judgements.collect();
        output.clear(SCRATCH_BYTES);
        Ok(judgements)
    }
}

impl std::fmt::Debug for Judges {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Judges").field("definitions", &self.definitions).finish_non_exhaustive()
    }
}

/// Nothing is dropped or renamed, so that the client's event can be rebuilt from its row.
fn is_plain(definition: &TransformDefinition) -> bool {
    let changes = |option: &str| definition.options.contains_key(option);
    definition.kind == "clicks" && !changes("drop") && !changes("rename")
}

fn headers_of(record: &Record) -> Vec<(&str, Option<&[u8]>)> {
    record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect()
}

fn event_fingerprint(record: &SourceRecord<'_>) -> Fingerprint {
    let hash = record.value.and_then(|json| canonical_hash(json).ok());
    hash.map_or(Fingerprint::NO_EVENT, |hash| Fingerprint::new(&hash, record.timestamp_ms))
}

/// What stands for each row of these columns, whatever they are.
pub(crate) fn row_fingerprints(columns: &[ArrayRef]) -> Result<Vec<Fingerprint>, ArrowError> {
    let fields = columns.iter().map(|column| SortField::new(column.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(columns)?;
    Ok(rows.iter().map(|row| Fingerprint::of_bytes(row.as_ref())).collect())
}

/// What stands for the key and the client's part of an enriched value.
pub(crate) fn client_hash(key: Option<&[u8]>, value: Option<&[u8]>) -> u32 {
    let part = value.map(|value| client_part(value).unwrap_or_else(|| Bytes::copy_from_slice(value)));
    Fingerprint::of_record(key, part.as_deref()).short()
}

/// An enriched event without the member that holds what was found out; `None` if it has none.
pub(crate) fn client_part(value: &[u8]) -> Option<Bytes> {
    let mark = format!(",\"{RESERVED_MEMBER}\":{{");
    let start = value.windows(mark.len()).rposition(|window| window == mark.as_bytes())?;
    value.ends_with(b"}}").then(|| Bytes::from([&value[..start], b"}"].concat()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_part_is_what_was_there_before() {
        let part = |value: &str| {
            client_part(value.as_bytes()).map(|part| String::from_utf8(part.to_vec()).expect("text"))
        };
        assert_eq!(part(r#"{"a":1,"millrace":{"os":"x"}}"#).as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(part(r#"{"a":"\",\"millrace\":{","b":2}"#), None);
        assert_eq!(
            part(r#"{"a":{"b":1,"millrace":{}},"millrace":{"os":"x"}}"#).as_deref(),
            Some(r#"{"a":{"b":1,"millrace":{}}}"#)
        );
    }
}
