//! What the enriched topic holds of one slot, as its records' headers tell.

use std::ops::Range;

use millrace_common::event::{canonical_hash, check};
use millrace_common::types::PipelineDefinition;
use millrace_common::{headers, window};

use crate::account::RowFact;
use crate::finding::{FindingKind, Findings};
use crate::kafka::Record;
use crate::ledger::{LedgerFact, id_key};
use crate::value::{Values, client_event};

/// Whose enriched records are wanted, in the partition that has the slot's number.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// Names of all source topics: records of another source are nobody's.
    pub(crate) sources: Vec<String>,
    pub(crate) values: Values,
    pub(crate) for_ledger: bool,
    /// Offsets of the records whose keys are wanted, as evidence of records that are gone.
    pub(crate) keys_of: Range<i64>,
}

impl Wanted {
    pub(crate) fn new(
        definition: &PipelineDefinition,
        topic: &str,
        partition: i32,
        values: Values,
        for_ledger: bool,
    ) -> Self {
        Self {
            topic: topic.to_owned(),
            partition,
            sources: definition.source.topics.clone(),
            values,
            for_ledger,
            keys_of: 0..0,
        }
    }

    /// Records of nobody are told of where the first source's are wanted.
    fn tells_of_strangers(&self) -> bool {
        self.sources.first() == Some(&self.topic)
    }
}

/// What some records of the enriched topic say.
#[derive(Debug, Default)]
pub(crate) struct Enriched {
    pub(crate) records: Vec<RowFact>,
    pub(crate) ledger: Vec<LedgerFact>,
    /// Offset and [`window::hash_of`] of the keys that were wanted.
    pub(crate) keys: Vec<(i64, u128)>,
    pub(crate) findings: Findings,
}

/// Reads a batch of the partition that `wanted` names. CPU bound.
pub(crate) fn digest(wanted: &Wanted, records: &[Record]) -> Enriched {
    let mut found = Enriched::default();
    for record in records {
        match source(wanted, record) {
            Some((topic, ..)) if topic != wanted.topic => {}
            Some((_, partition, offset)) if partition != wanted.partition => {
                found.findings.add(FindingKind::Misrouted, || {
                    format!(
                        "{}/{partition} {offset}, as record {} of the enriched topic's partition {}",
                        wanted.topic, record.offset, wanted.partition
                    )
                });
            }
            Some((_, _, offset)) => {
                let (key, value) = (record.key.as_deref(), record.value.as_deref());
                found.records.push(RowFact::new(offset, wanted.values.of(key, value), 0));
                if let Some(key) = key.filter(|_| wanted.keys_of.contains(&offset)) {
                    found.keys.push((offset, window::hash_of(key)));
                }
                if wanted.for_ledger {
                    found.ledger.extend(value.and_then(ledger_fact));
                }
            }
            None if wanted.tells_of_strangers() => found.findings.add(FindingKind::UnexplainedOnTopic, || {
                format!(
                    "record {} of the enriched topic's partition {}: its headers name no source of the pipeline",
                    record.offset, wanted.partition
                )
            }),
            None => {}
        }
    }
    found
}

/// Where the record came from; `None` if its headers don't say so, or name no source of the pipeline.
fn source<'a>(wanted: &Wanted, record: &'a Record) -> Option<(&'a str, i32, i64)> {
    let header = |name: &str| {
        let value = record.headers.iter().find(|(key, _)| key == name)?.1.as_deref()?;
        std::str::from_utf8(value).ok()
    };
    let topic = header(headers::SOURCE_TOPIC)?;
    let partition = header(headers::SOURCE_PARTITION)?.parse().ok()?;
    let offset: i64 = header(headers::SOURCE_OFFSET)?.parse().ok()?;
    let is_source = offset >= 0 && wanted.sources.iter().any(|source| source == topic);
    is_source.then_some((topic, partition, offset))
}

fn ledger_fact(value: &[u8]) -> Option<LedgerFact> {
    let event = client_event(value)?;
    let package_id = id_key(check(&event).ok()?.package_id());
    Some(LedgerFact { hash: canonical_hash(&event).ok()?, package_id })
}
