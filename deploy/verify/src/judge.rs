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
    /// When a transform can't be built any more, panics, or its rows can't be read.
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
            let waiting = self.idle(number).pop();
            let mut transform = match waiting {
                Some(transform) => transform,
                None => self.registry.build(&self.definitions[number]).map_err(|error| error.to_string())?,
            };
            // A transform that panics is not used again.
            let judged = catch_unwind(AssertUnwindSafe(|| self.judge_by(&mut *transform, &sources)));
            let judged = judged.map_err(|_| panicked(&sources))?.map_err(|error| error.to_string())?;
            if judged.len() != sources.len() {
                return Err(format!(
                    "{} gives {} verdicts on {} records, expected one for each",
                    self.definitions[number].kind,
                    judged.len(),
                    sources.len()
                ));
            }
            for (index, judgement) in sound.iter().zip(judged) {
                judgements[*index].push(judgement);
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

fn panicked(records: &[SourceRecord<'_>]) -> String {
    let offset = |record: Option<&SourceRecord<'_>>| record.map_or(-1, |record| record.offset);
    format!(
        "it panics on a record that is not quarantined for it, at one of the offsets {} to {}",
        offset(records.first()),
        offset(records.last())
    )
}

fn event_fingerprint(record: &SourceRecord<'_>) -> Fingerprint {
    let hash = record.value.and_then(|json| canonical_hash(json).ok());
    hash.map_or(Fingerprint::NO_EVENT, |hash| Fingerprint::of_event(&hash, record.timestamp_ms))
}
