//! The generator's ledger against each sink and the invalid topic: each acknowledged event exactly once, as it was
//! sent; one without an answer once or not at all.
//!
//! An event of the ledger costs 32 bytes and the table's overhead, 40 to 75 bytes together. The ledger is read again
//! only to name what is wrong.

use std::fmt;
use std::path::Path;

use ahash::{HashMap, HashSet};
use millrace_common::ledger::{Answer, Entry, ReadError, each_entry};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::Error;
use crate::account::Sink;
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
    /// In the lake and on the enriched topic.
    found: [u32; 2],
}

/// What the documentation promises.
const _: () = assert!(size_of::<([u8; 16], Counts)>() == 32);

type Table = HashMap<[u8; 16], Counts>;

/// What one sink told.
#[derive(Debug, Default)]
struct Told {
    /// Canonical hashes of raw records that may not be there yet.
    in_flight: HashSet<[u8; 16]>,
    /// Ids of events whose content no entry has: events of others, or altered ones.
    strangers: HashSet<u128>,
}

/// The ledger's events, and how often each was found in each sink.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// By the hash of the canonical JSON.
    events: Table,
    /// By the hash of the bytes as they were sent. The invalid topic stands for both sinks.
    invalid: Table,
    told: [Told; 2],
    /// The pipeline drops what comes again.
    drops_repeats: bool,
}

fn number(sink: Sink) -> usize {
    match sink {
        Sink::Lake => 0,
        Sink::Topic => 1,
    }
}

/// What is to be said of one event of the ledger.
struct Outcome {
    found: u64,
    repeated: u64,
    absent: u64,
    beyond: u64,
    unknown_found: u64,
    /// What is absent is on its way.
    waits: bool,
}

impl Outcome {
    fn is_wrong(&self) -> bool {
        self.beyond > 0 || (self.absent > 0 && !self.waits)
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

    /// A row of the lake, or an enriched record.
    pub(crate) fn found(&mut self, sink: Sink, fact: &LedgerFact) {
        let sink = number(sink);
        match self.events.get_mut(&truncated(&fact.hash)) {
            Some(counts) => counts.found[sink] = counts.found[sink].saturating_add(1),
            None => {
                self.told[sink].strangers.insert(fact.package_id);
            }
        }
    }

    /// A record of the invalid topic: it stands for both sinks.
    pub(crate) fn invalid(&mut self, fact: &InvalidFact) {
        if let Some(counts) = self.invalid.get_mut(&truncated(&fact.raw)) {
            counts.found = counts.found.map(|found| found.saturating_add(1));
        }
        if let Some(event) = &fact.event {
            self.found(Sink::Lake, event);
            self.found(Sink::Topic, event);
        }
    }

    /// A raw record at or beyond the sink's cursor.
    pub(crate) fn in_flight(&mut self, sink: Sink, fact: &LedgerFact) {
        let key = truncated(&fact.hash);
        if self.events.contains_key(&key) {
            self.told[number(sink)].in_flight.insert(key);
        }
    }

    /// What became of the events in a sink. Reads the ledger at `path` again only if something is wrong.
    pub(crate) fn report(&self, path: &Path, sink: Sink) -> Result<LedgerReport, Error> {
        let mut report = LedgerReport::default();
        let mut wrong = HashSet::default();
        for (table, is_event) in [(&self.events, true), (&self.invalid, false)] {
            for (key, counts) in table {
                let outcome = self.outcome(key, *counts, is_event, sink);
                if is_event {
                    report.acknowledged_ok += u64::from(counts.acknowledged);
                    report.unknown += u64::from(counts.unknown);
                } else {
                    report.acknowledged_invalid += u64::from(counts.acknowledged);
                }
                report.unknown_found += outcome.unknown_found;
                report.found += outcome.found;
                report.repeated += outcome.repeated;
                if outcome.is_wrong() {
                    wrong.insert((*key, is_event));
                } else {
                    report.in_flight += outcome.absent;
                }
            }
        }
        if wrong.is_empty() {
            return Ok(report);
        }
        let name_it = |entry: &Entry| {
            let key = truncated(&entry.sha256);
            let tables: &[bool] = match entry.answer {
                Answer::Ok => &[true],
                Answer::Invalid => &[false],
                Answer::Unknown => &[true, false],
            };
            for is_event in tables {
                // Each is named at its first entry.
                if wrong.remove(&(key, *is_event)) {
                    self.name(&mut report, entry, key, *is_event, sink);
                }
            }
        };
        each_entry(path, name_it).map_err(unreadable(path))?;
        Ok(report)
    }

    fn name(&self, report: &mut LedgerReport, entry: &Entry, key: [u8; 16], is_event: bool, sink: Sink) {
        let table = if is_event { &self.events } else { &self.invalid };
        let Some(counts) = table.get(&key) else { return };
        let outcome = self.outcome(&key, *counts, is_event, sink);
        let name = || entry.package_id.clone().unwrap_or_else(|| hex::encode(entry.sha256));
        if outcome.absent > 0 && !outcome.waits {
            let strangers = &self.told[number(sink)].strangers;
            let is_changed =
                is_event && entry.package_id.as_deref().is_some_and(|id| strangers.contains(&id_key(id)));
            let fault = if is_changed { &mut report.altered } else { &mut report.missing };
            note(fault, outcome.absent, name);
        }
        if outcome.beyond > 0 {
            note(&mut report.doubled, outcome.beyond, name);
        }
    }

    fn outcome(&self, key: &[u8; 16], counts: Counts, is_event: bool, sink: Sink) -> Outcome {
        let (acknowledged, unknown) = (u64::from(counts.acknowledged), u64::from(counts.unknown));
        let found = u64::from(counts.found[number(sink)]);
        let absent = acknowledged.saturating_sub(found);
        // Of what was acknowledged several times one copy is enough.
        let repeated = if is_event && self.drops_repeats && found > 0 { absent } else { 0 };
        Outcome {
            found: found.min(acknowledged),
            repeated,
            absent: absent - repeated,
            beyond: found.saturating_sub(acknowledged + unknown),
            unknown_found: found.saturating_sub(acknowledged).min(unknown),
            waits: is_event && self.told[number(sink)].in_flight.contains(key),
        }
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
