//! What the enriched topic holds of one slot.

use millrace_common::event::canonical_hash;
use millrace_common::event::check;
use millrace_common::headers;
use millrace_common::types::PipelineDefinition;

use crate::account::{Fingerprint, RowFact};
use crate::finding::{FindingKind, Findings};
use crate::judge::{client_hash, client_part};
use crate::kafka::Record;
use crate::lake::LedgerFact;

/// Whose enriched records are wanted.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// Names of all source topics: records of another source are nobody's.
    pub(crate) sources: Vec<String>,
    pub(crate) for_ledger: bool,
}

impl Wanted {
    pub(crate) fn new(
        definition: &PipelineDefinition,
        topic: &str,
        partition: i32,
        for_ledger: bool,
    ) -> Self {
        Self { topic: topic.to_owned(), partition, sources: definition.source.topics.clone(), for_ledger }
    }

    /// Records of nobody are told of by the first source's slots.
    fn tells_of_strangers(&self) -> bool {
        self.sources.first() == Some(&self.topic)
    }
}

/// What some records of the enriched topic say.
#[derive(Debug, Default)]
pub(crate) struct Enriched {
    pub(crate) records: Vec<RowFact>,
    pub(crate) ledger: Vec<LedgerFact>,
    pub(crate) findings: Findings,
}

/// Reads a batch of the partition that `wanted` names. CPU bound.
pub(crate) fn digest(wanted: &Wanted, records: &[Record]) -> Enriched {
    let mut found = Enriched::default();
    for record in records {
        let header = |name: &str| {
            let value = record.headers.iter().find(|(key, _)| key == name)?.1.as_deref()?;
            std::str::from_utf8(value).ok()
        };
        let source = || {
            let topic = header(headers::SOURCE_TOPIC)?;
            let partition: i32 = header(headers::SOURCE_PARTITION)?.parse().ok()?;
            let offset: i64 = header(headers::SOURCE_OFFSET)?.parse().ok()?;
            (offset >= 0 && wanted.sources.iter().any(|source| source == topic))
                .then_some((topic, partition, offset))
        };
        match source() {
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
                found.records.push(RowFact {
                    offset,
                    content: Fingerprint::of_record(key, value),
                    file: client_hash(key, value),
                });
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

fn ledger_fact(value: &[u8]) -> Option<LedgerFact> {
    let part = client_part(value)?;
    let event = check(&part).ok()?;
    let package_id = crate::ledger::id_key(event.package_id());
    Some(LedgerFact { hash: canonical_hash(&part).ok()?, package_id })
}
