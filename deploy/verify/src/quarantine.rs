//! What the invalid topic holds: this pipeline's quarantined records, by their source, and what the ledger needs.

use std::collections::BTreeMap;
use std::ops::Range;

use millrace_common::event::{RejectionCode, canonical_hash, check};
use millrace_common::{headers, window};
use sha2::{Digest, Sha256};

use crate::account::QuarantineFact;
use crate::finding::{FindingKind, Findings};
use crate::kafka::Record;
use crate::ledger::{InvalidFact, LedgerFact, id_key};

/// Source topic and partition.
pub(crate) type Source = (String, i32);

/// What some records of the invalid topic say.
#[derive(Debug, Default)]
pub(crate) struct Quarantine {
    pub(crate) records: u64,
    pub(crate) by_source: BTreeMap<Source, Vec<QuarantineFact>>,
    pub(crate) for_ledger: Vec<InvalidFact>,
    /// Offset and [`window::hash_of`] of the keys that were wanted.
    pub(crate) keys: BTreeMap<Source, Vec<(i64, u128)>>,
    pub(crate) findings: Findings,
}

/// Whose quarantined records are wanted, and what of them.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) pipeline: String,
    pub(crate) for_ledger: bool,
    /// Offsets of the records whose keys are wanted, as evidence of records that are gone.
    pub(crate) keys_of: BTreeMap<Source, Range<i64>>,
}

impl Quarantine {
    pub(crate) fn merge(&mut self, other: Self) {
        self.records += other.records;
        self.for_ledger.extend(other.for_ledger);
        self.findings.merge(other.findings);
        for (source, facts) in other.by_source {
            self.by_source.entry(source).or_default().extend(facts);
        }
        for (source, keys) in other.keys {
            self.keys.entry(source).or_default().extend(keys);
        }
    }
}

/// 64 bits that stand for a record's key and value within this process.
pub(crate) fn bytes_hash(record: &Record) -> u64 {
    const STATE: ahash::RandomState = ahash::RandomState::with_seeds(11, 23, 47, 95);
    STATE.hash_one((record.key.as_deref(), record.value.as_deref()))
}

/// Reads a batch of the invalid topic's `partition`. CPU bound.
pub(crate) fn digest(wanted: &Wanted, partition: i32, records: &[Record]) -> Quarantine {
    let mut found = Quarantine { records: records.len() as u64, ..Quarantine::default() };
    for record in records {
        let header = |name: &str| {
            let value = record.headers.iter().find(|(key, _)| key == name)?.1.as_deref()?;
            std::str::from_utf8(value).ok()
        };
        let quarantined = header(headers::PIPELINE) == Some(wanted.pipeline.as_str());
        if quarantined {
            let source = || {
                let topic = header(headers::SOURCE_TOPIC)?.to_owned();
                let partition = header(headers::SOURCE_PARTITION)?.parse().ok()?;
                let offset: i64 = header(headers::SOURCE_OFFSET)?.parse().ok()?;
                (offset >= 0).then_some(((topic, partition), offset))
            };
            match source() {
                Some((source, offset)) => {
                    let failed = header(headers::REASON) == Some(RejectionCode::TransformFailed.as_str());
                    let wants_key =
                        wanted.keys_of.get(&source).is_some_and(|offsets| offsets.contains(&offset));
                    if let Some(key) = record.key.as_deref().filter(|_| wants_key) {
                        let key = (offset, window::hash_of(key));
                        found.keys.entry(source.clone()).or_default().push(key);
                    }
                    let fact = QuarantineFact { offset, bytes: bytes_hash(record), failed };
                    found.by_source.entry(source).or_default().push(fact);
                }
                None => found.findings.add(FindingKind::Unexplained, || {
                    format!(
                        "record {} of the invalid topic's partition {partition}: its headers name no source",
                        record.offset
                    )
                }),
            }
        }
        if wanted.for_ledger {
            let value = record.value.as_deref().unwrap_or_default();
            let event = quarantined.then(|| check(value).ok()).flatten();
            let event = event.and_then(|event| {
                let package_id = id_key(event.package_id());
                Some(LedgerFact { hash: canonical_hash(value).ok()?, package_id })
            });
            found.for_ledger.push(InvalidFact { raw: Sha256::digest(value).into(), event });
        }
    }
    found
}
