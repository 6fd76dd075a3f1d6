//! What the pipeline's transforms make of raw records, recomputed: the verdicts, and what the sinks must hold.
//!
//! A plain pipeline of clicks (nothing dropped, nothing renamed) is compared event by event: the row must rebuild what
//! the client sent, and the enriched value must be the client's bytes and one member. Of any other one, row and value
//! must be those that the transform makes. What was found out about an event stands apart from what came from the
//! client, and is compared only if asked for.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arrow_schema::{ArrowError, FieldRef};
use millrace_common::event::{FIELDS, canonical_hash, column, schema};
use millrace_common::types::{PipelineDefinition, TransformDefinition};
use millrace_transform::{
    BuildError, LARGEST_VALUE, Output, Registry, SOURCE_COLUMNS, SourceRecord, Transform, Verdict, Wants,
};

use crate::account::{Fingerprint, Judgement, Made};
use crate::columns::Columns;
use crate::kafka::Record;
use crate::value::Values;

/// Bytes of values that are kept from batch to batch.
const SCRATCH_BYTES: usize = 1 << 20;
/// A value that is shorter is not too long either once it is enriched: what is found out is copied from it, each byte
/// a few times at most.
const SURELY_NOT_TOO_LONG: usize = LARGEST_VALUE / 16;

/// The transforms of a pipeline. Batches are judged on many threads at once.
pub(crate) struct Judges {
    registry: Registry,
    /// The pipeline's own first, then those that it had before.
    definitions: Vec<TransformDefinition>,
    /// Transforms that nobody uses now, by definition.
    idle: Vec<Mutex<Vec<Box<dyn Transform>>>>,
    is_plain: bool,
    wants_rows: bool,
    has_topic: bool,
    reads_headers: bool,
    /// The times that rows are filed by are known: those of the built-in transforms.
    pub(crate) knows_days: bool,
    /// How rows are compared.
    pub(crate) columns: Arc<Columns>,
    /// How enriched values are compared.
    pub(crate) values: Values,
}

impl Judges {
    /// `derived`: what is found out about the events is recomputed as well.
    pub(crate) fn new(
        definition: &PipelineDefinition,
        registry: &Registry,
        derived: bool,
    ) -> Result<Arc<Self>, BuildError> {
        let definitions: Vec<_> =
            std::iter::once(&definition.transform).chain(&definition.earlier_transforms).cloned().collect();
        let is_plain = definitions.iter().all(is_plain);
        let finds_out = definitions.iter().all(|definition| definition.kind == CLICKS);
        // What can't be built is told at once, not in the middle of the check.
        let transforms: Vec<_> =
            definitions.iter().map(|definition| registry.build(definition)).collect::<Result<_, _>>()?;
        let fields = transforms.iter().flat_map(|transform| transform.columns());
        let fields: Vec<FieldRef> = fields.map(|column| column.field.clone()).collect();
        let columns = Columns::new(fields, is_plain, |name| finds_out && is_derived(name), derived);
        Ok(Arc::new(Self {
            registry: registry.clone(),
            is_plain,
            wants_rows: definition.lake.is_some() && (!is_plain || derived),
            has_topic: definition.enriched_topic.is_some(),
            reads_headers: transforms.iter().any(|transform| transform.reads_headers()),
            knows_days: definitions
                .iter()
                .all(|definition| [CLICKS, RAW].contains(&definition.kind.as_str())),
            columns: Arc::new(columns),
            values: Values { finds_out, derived },
            idle: transforms.into_iter().map(|transform| Mutex::new(vec![transform])).collect(),
            definitions,
        }))
    }

    pub(crate) fn reads_headers(&self) -> bool {
        self.reads_headers
    }

    /// Whether each event that a client sent stands in the sinks unless it was rejected.
    pub(crate) fn keeps_all(&self) -> bool {
        let has_types = |definition: &TransformDefinition| definition.options.contains_key("types");
        self.is_plain && !self.definitions.iter().any(has_types)
    }

    fn idle(&self, number: usize) -> MutexGuard<'_, Vec<Box<dyn Transform>>> {
        self.idle[number].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What becomes of each record, by each transform; nothing of those in `failing`, which the transform fails on.
    /// CPU bound.
    ///
    /// # Errors
    /// When a transform can't be built any more, gives verdicts on other records, or its rows can't be read.
    pub(crate) fn judge(
        &self,
        records: &[Record],
        failing: &BTreeSet<i64>,
    ) -> Result<Vec<Vec<Judgement>>, String> {
        let sound: Vec<usize> =
            (0..records.len()).filter(|index| !failing.contains(&records[*index].offset)).collect();
        let sources: Vec<SourceRecord<'_>> = sound.iter().map(|index| source_of(&records[*index])).collect();
        let mut judgements = vec![Vec::new(); records.len()];
        for number in 0..self.definitions.len() {
            let judged = self.judge_by_number(number, &sources)?;
            if judged.len() != sources.len() {
                return Err(format!(
                    "{} gives {} verdicts on {} records, expected one for each",
                    self.definitions[number].kind,
                    judged.len(),
                    sources.len()
                ));
            }
            for (index, judgement) in sound.iter().zip(judged) {
                judgements[*index].extend(judgement);
            }
        }
        Ok(judgements)
    }

    /// By one of the definitions. A record that its transform panics on has no verdict.
    fn judge_by_number(
        &self,
        number: usize,
        sources: &[SourceRecord<'_>],
    ) -> Result<Vec<Option<Judgement>>, String> {
        let waiting = self.idle(number).pop();
        let mut transform = match waiting {
            Some(transform) => transform,
            None => self.registry.build(&self.definitions[number]).map_err(|error| error.to_string())?,
        };
        match catch_unwind(AssertUnwindSafe(|| self.judge_by(&mut *transform, sources))) {
            Ok(judged) => {
                self.idle(number).push(transform);
                Ok(judged.map_err(|error| error.to_string())?.into_iter().map(Some).collect())
            }
            Err(_) if sources.len() <= 1 => Ok(vec![None; sources.len()]),
            // The transform that panicked is not used again.
            Err(_) => {
                let (first, second) = sources.split_at(sources.len() / 2);
                let mut judged = self.judge_by_number(number, first)?;
                judged.append(&mut self.judge_by_number(number, second)?);
                Ok(judged)
            }
        }
    }

    fn judge_by(
        &self,
        transform: &mut dyn Transform,
        records: &[SourceRecord<'_>],
    ) -> Result<Vec<Judgement>, ArrowError> {
        let is_long =
            |record: &SourceRecord<'_>| record.value.is_some_and(|value| value.len() > SURELY_NOT_TOO_LONG);
        // Where the client's bytes are what counts, the rest is made only if its length may decide on the verdict.
        let needs_values = !self.is_plain || self.values.derived || records.iter().any(is_long);
        let wants = Wants { rows: self.wants_rows, values: self.has_topic && needs_values };
        let mut output = Output::default();
        transform.apply(records, wants, &mut output);
        let mut rows = match wants.rows {
            true => {
                let arrays = transform.take_rows()?;
                let fields = transform.columns().iter().map(|column| &column.field);
                self.columns.rows(&fields.zip(&arrays).collect::<Vec<_>>(), output.rows().len())?
            }
            false => Vec::new(),
        }
        .into_iter();
        let judgements = records.iter().zip(output.verdicts()).map(|(record, verdict)| match verdict {
            Verdict::Filtered => Judgement::Filtered,
            Verdict::Rejected(_) => Judgement::Rejected,
            Verdict::Kept(kept) => {
                let none = Made::of(Fingerprint::NO_EVENT);
                let mut row = if wants.rows { rows.next().unwrap_or(none) } else { none };
                if self.is_plain {
                    row.content = event_fingerprint(record);
                }
                let enriched = match output.value(kept) {
                    None if self.is_plain => Values::of_client(record.key, record.value),
                    value => self.values.of(record.key, value),
                };
                Judgement::Kept { row, enriched }
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

const CLICKS: &str = "clicks";
const RAW: &str = "raw";

/// Nothing is dropped or renamed, so that the client's event can be rebuilt from its row.
fn is_plain(definition: &TransformDefinition) -> bool {
    let changes = |option: &str| definition.options.contains_key(option);
    definition.kind == CLICKS && !changes("drop") && !changes("rename")
}

/// Whether the column of this name holds what was found out about an event, and nothing that the client sent.
fn is_derived(name: &str) -> bool {
    let clients = [
        column::RECEIVED_TIME,
        column::PACKAGE_ID,
        column::TYPE,
        column::ID,
        column::EVENT_TIME,
        column::EXTRA,
    ];
    let clients = clients.into_iter().chain(SOURCE_COLUMNS).chain(FIELDS.iter().map(|field| field.name));
    schema().field_with_name(name).is_ok() && !clients.into_iter().any(|client| client == name)
}

fn source_of(record: &Record) -> SourceRecord<'_> {
    SourceRecord {
        offset: record.offset,
        timestamp_ms: record.timestamp_ms,
        key: record.key.as_deref(),
        value: record.value.as_deref(),
        headers: record.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref())).collect(),
    }
}

fn event_fingerprint(record: &SourceRecord<'_>) -> Fingerprint {
    let hash = record.value.and_then(|json| canonical_hash(json).ok());
    hash.map_or(Fingerprint::NO_EVENT, |hash| Fingerprint::of_event(&hash, record.timestamp_ms))
}

#[cfg(test)]
mod tests {
    use arrow_array::ArrayRef;
    use bytes::Bytes;
    use millrace_common::event::{Rejection, RejectionCode};
    use millrace_common::types::Problem;
    use millrace_transform::{Column, Kind};
    use serde_json::{Map, Value};

    use super::*;

    /// Keeps what it can stand, and rejects what is empty.
    struct Fragile;

    impl Transform for Fragile {
        fn columns(&self) -> &[Column] {
            &[]
        }

        fn apply(&mut self, records: &[SourceRecord<'_>], _: Wants, output: &mut Output) {
            for record in records {
                assert_ne!(record.value, Some(&b"bomb"[..]));
                match record.value {
                    Some(value) => drop(output.keep_with(|bytes| bytes.extend_from_slice(value))),
                    None => output.reject(Rejection::new(RejectionCode::NoValue, "", "")),
                }
            }
        }

        fn take_rows(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
            Ok(Vec::new())
        }

        fn memory(&self) -> usize {
            0
        }
    }

    impl Kind for Fragile {
        fn name(&self) -> &'static str {
            "fragile"
        }

        fn check(&self, _: &Map<String, Value>) -> Vec<Problem> {
            Vec::new()
        }

        fn build(&self, _: &Map<String, Value>) -> Result<Box<dyn Transform>, BuildError> {
            Ok(Box::new(Self))
        }
    }

    #[test]
    fn what_the_transform_fails_on_has_no_verdict_and_its_neighbours_have_theirs() {
        let id = "p-1".parse().expect("id");
        let mut definition = PipelineDefinition::new(id, "p", "k:1", vec!["raw".into()], "invalid");
        definition.transform.kind = "fragile".into();
        definition.enriched_topic = Some("enriched".into());
        let registry = Registry::with(vec![Box::new(Fragile)]);
        let judges = Judges::new(&definition, &registry, false).expect("judges");
        let values = [Some("a"), Some("bomb"), None, Some("bomb"), Some("b")];
        let records: Vec<Record> = (0..)
            .zip(values)
            .map(|(offset, value)| Record {
                offset,
                timestamp_ms: 0,
                key: None,
                value: value.map(|value| Bytes::from_static(value.as_bytes())),
                headers: Vec::new(),
            })
            .collect();
        let verdicts = |failing: &[i64]| {
            let judged = judges.judge(&records, &failing.iter().copied().collect()).expect("verdicts");
            judged.into_iter().map(|judgements| judgements.first().copied()).collect::<Vec<_>>()
        };
        let found = verdicts(&[]);
        let kept = |value: &str| {
            let row = Made::of(Fingerprint::NO_EVENT);
            Some(Judgement::Kept { row, enriched: judges.values.of(None, Some(value.as_bytes())) })
        };
        assert_eq!(found, [kept("a"), None, Some(Judgement::Rejected), None, kept("b")]);
        assert_eq!(verdicts(&[1, 3]), found);
        assert_eq!(verdicts(&[0])[0], None, "what is known to fail is not tried");
    }
}
