//! The generator's ledger against the lake and the invalid topic: each acknowledged event exactly once, as it was
//! sent; one without an answer once or not at all.
//!
//! An event of the ledger costs 28 bytes and the table's overhead, 35 to 70 bytes together. The ledger is read a
//! second time only to name what is wrong.

use std::collections::hash_map::Entry as Slot;
use std::fmt;
use std::path::Path;

use ahash::{HashMap, HashSet};
use millrace_common::ledger::{Answer, Entry, ReadError, each_entry};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::finding::EXAMPLES;

/// One kind of fault of the ledger's events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LedgerFault {
    pub count: u64,
    /// `package_id`s, or hashes of what has none: at most ten.
    pub examples: Vec<String>,
}

/// What became of the ledger's events.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct LedgerReport {
    /// Events that were acknowledged as valid, or as invalid.
    pub acknowledged_ok: u64,
    pub acknowledged_invalid: u64,
    /// Found as promised: once, unaltered.
    pub found: u64,
    /// Acknowledged more than once and there: the pipeline drops repeats.
    pub repeated: u64,
    /// Acknowledged and not in the sink yet, at or beyond its cursor.
    pub in_flight: u64,
    /// Events without an answer, of which `unknown_found` are there.
    pub unknown: u64,
    pub unknown_found: u64,
    pub missing: LedgerFault,
    pub doubled: LedgerFault,
    pub altered: LedgerFault,
}

impl LedgerReport {
    pub fn is_clean(&self) -> bool {
        [&self.missing, &self.doubled, &self.altered].iter().all(|fault| fault.count == 0)
    }
}

impl fmt::Display for LedgerReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "ledger: {} acknowledged ({} ok, {} invalid): {} found once, {} repeated, {} in flight, {} missing, {} doubled, {} altered",
            self.acknowledged_ok + self.acknowledged_invalid,
            self.acknowledged_ok,
            self.acknowledged_invalid,
            self.found,
            self.repeated,
            self.in_flight,
            self.missing.count,
            self.doubled.count,
            self.altered.count
        )?;
        if self.unknown > 0 {
            writeln!(
                f,
                "        {} without an answer, of which {} are there and {} are not",
                self.unknown,
                self.unknown_found,
                self.unknown - self.unknown_found
            )?;
        }
        let faults = [("missing", &self.missing), ("doubled", &self.doubled), ("altered", &self.altered)];
        for (name, fault) in faults.iter().filter(|(_, fault)| fault.count > 0) {
            writeln!(f, "        {name}: {}", fault.examples.join(", "))?;
        }
        Ok(())
    }
}

/// What the ledger needs to know of an event that was found.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LedgerFact {
    /// Of its canonical JSON.
    pub(crate) hash: [u8; 32],
    /// As [`id_key`] gives it.
    pub(crate) package_id: u128,
}

/// What the ledger needs to know of a record of the invalid topic.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InvalidFact {
    /// SHA-256 of the value as it stands.
    pub(crate) raw: [u8; 32],
    /// Set for a quarantined record that is an event nevertheless.
    pub(crate) event: Option<LedgerFact>,
}

/// 128 bits that stand for a `package_id`.
pub(crate) fn id_key(package_id: &str) -> u128 {
    u128::from_be_bytes(truncated(&Sha256::digest(package_id.as_bytes()).into()))
}

fn truncated(hash: &[u8; 32]) -> [u8; 16] {
    *hash.first_chunk().unwrap_or_else(|| unreachable!("32 bytes hold 16"))
}

#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    acknowledged: u32,
    unknown: u32,
    found: u32,
}

type Table = HashMap<[u8; 16], Counts>;

/// The ledger's events, and how often each was found.
#[derive(Debug, Default, Clone)]
pub(crate) struct Tally {
    /// By the hash of the canonical JSON.
    events: Table,
    /// By the hash of the bytes as they were sent.
    invalid: Table,
    /// Canonical hashes of raw records that may not be in the lake yet.
    in_flight: HashSet<[u8; 16]>,
    /// Ids of rows whose content no entry has: events of others, or altered ones.
    strangers: HashSet<u128>,
    /// The pipeline drops what comes again.
    drops_repeats: bool,
}

/// What is to be said of one event of the ledger.
struct Outcome {
    found: u64,
    repeated: u64,
    absent: u64,
    beyond: u64,
    unknown_found: u64,
}

impl Counts {
    /// `may_repeat`: of an event that was acknowledged several times one copy is enough.
    fn outcome(self, may_repeat: bool) -> Outcome {
        let (acknowledged, unknown) = (u64::from(self.acknowledged), u64::from(self.unknown));
        let found = u64::from(self.found);
        let absent = acknowledged.saturating_sub(found);
        let repeated = if may_repeat && found > 0 { absent } else { 0 };
        Outcome {
            found: found.min(acknowledged),
            repeated,
            absent: absent - repeated,
            beyond: found.saturating_sub(acknowledged + unknown),
            unknown_found: found.saturating_sub(acknowledged).min(unknown),
        }
    }
}

impl Tally {
    /// `drops_repeats`: the pipeline has a duplicate rule.
    pub(crate) fn read(path: &Path, drops_repeats: bool) -> Result<Self, Error> {
        let mut tally = Self { drops_repeats, ..Self::default() };
        let add = |entry: &Entry| {
            let key = truncated(&entry.sha256);
            let count = |table: &mut Table, acknowledged| {
                let counts = table.entry(key).or_default();
                let counter = if acknowledged { &mut counts.acknowledged } else { &mut counts.unknown };
                *counter = counter.saturating_add(1);
            };
            match entry.answer {
                Answer::Ok => count(&mut tally.events, true),
                Answer::Invalid => count(&mut tally.invalid, true),
                // Nobody knows as what the collector took it, if it did.
                Answer::Unknown => {
                    count(&mut tally.events, false);
                    count(&mut tally.invalid, false);
                }
            }
        };
        each_entry(path, add).map_err(unreadable(path))?;
        Ok(tally)
    }

    /// A row of the lake.
    pub(crate) fn row(&mut self, fact: &LedgerFact) {
        match self.events.entry(truncated(&fact.hash)) {
            Slot::Occupied(mut entry) => entry.get_mut().found += 1,
            Slot::Vacant(_) => {
                self.strangers.insert(fact.package_id);
            }
        }
    }

    /// A record of the invalid topic.
    pub(crate) fn invalid(&mut self, fact: &InvalidFact) {
        if let Some(counts) = self.invalid.get_mut(&truncated(&fact.raw)) {
            counts.found += 1;
        }
        if let Some(event) = &fact.event {
            self.row(event);
        }
    }

    /// A raw record at or beyond the lake cursor.
    pub(crate) fn in_flight(&mut self, fact: &LedgerFact) {
        let key = truncated(&fact.hash);
        if self.events.contains_key(&key) {
            self.in_flight.insert(key);
        }
    }

    /// Reads the ledger at `path` again only if something is wrong.
    pub(crate) fn report(mut self, path: &Path) -> Result<LedgerReport, Error> {
        let mut report = LedgerReport::default();
        let mut wrong = false;
        let tables = [(&self.events, true), (&self.invalid, false)];
        for (table, events) in tables {
            for (key, counts) in table {
                let outcome = counts.outcome(events && self.drops_repeats);
                if events {
                    report.acknowledged_ok += u64::from(counts.acknowledged);
                    report.unknown += u64::from(counts.unknown);
                } else {
                    report.acknowledged_invalid += u64::from(counts.acknowledged);
                }
                report.unknown_found += outcome.unknown_found;
                report.found += outcome.found;
                report.repeated += outcome.repeated;
                let waits = events && self.in_flight.contains(key);
                if waits {
                    report.in_flight += outcome.absent;
                }
                wrong |= outcome.beyond > 0 || (outcome.absent > 0 && !waits);
            }
        }
        if !wrong {
            return Ok(report);
        }
        let judge = |entry: &Entry| {
            let key = truncated(&entry.sha256);
            let is_event = entry.answer != Answer::Invalid;
            let waits = is_event && self.in_flight.contains(&key);
            let table = if is_event { &mut self.events } else { &mut self.invalid };
            // Each key is judged at its first entry.
            let Some(counts) = table.remove(&key) else { return };
            let name = || entry.package_id.clone().unwrap_or_else(|| hex::encode(entry.sha256));
            let Outcome { absent, beyond, .. } = counts.outcome(is_event && self.drops_repeats);
            if absent > 0 && !waits {
                let changed = is_event
                    && entry.package_id.as_deref().is_some_and(|id| self.strangers.contains(&id_key(id)));
                note(if changed { &mut report.altered } else { &mut report.missing }, absent, name);
            }
            if beyond > 0 {
                note(&mut report.doubled, beyond, name);
            }
        };
        each_entry(path, judge).map_err(unreadable(path))?;
        Ok(report)
    }
}

fn note(fault: &mut LedgerFault, count: u64, name: impl FnOnce() -> String) {
    fault.count += count;
    if fault.examples.len() < EXAMPLES {
        fault.examples.push(name());
    }
}

fn unreadable(path: &Path) -> impl FnOnce(ReadError) -> Error {
    let path = path.display().to_string();
    move |source| Error::Ledger { path, source }
}
