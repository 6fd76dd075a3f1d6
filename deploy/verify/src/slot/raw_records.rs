//! Reads the raw records once, judges them, and hands each to the slot's accountants.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use futures::StreamExt;
use millrace_common::event::canonical_hash;
use millrace_common::record::WindowBounds;
use millrace_common::types::NextOffset;
use millrace_common::window;
use tokio::sync::mpsc;

use super::duplicates::Duplicates;
use super::{Scope, SlotTask};
use crate::account::{Accountants, Duplicate, RawFact};
use crate::judge::Judges;
use crate::kafka::{self, Part, Read, Record};
use crate::ledger::{LedgerFact, Tally};
use crate::pool::{BATCHES_AHEAD, batches, blocking, compute, cores};
use crate::{Error, quarantine};

/// What a batch of raw records comes to.
enum Digested {
    /// The facts with their keys' hashes, and what the ledger needs of the records at or beyond a cursor.
    Records(Vec<(RawFact, Option<u128>)>, Vec<(i64, LedgerFact)>),
    GoneUntil(i64),
}

/// `failing`: offsets of the records that the transform fails on; `gone_keys`: what is known of records that are gone.
pub(super) async fn read(
    scope: &Scope<'_>,
    task: &SlotTask,
    failing: BTreeSet<i64>,
    gone_keys: Vec<(i64, u128)>,
    accountants: &mut Accountants,
    tally: &mut Option<Tally>,
) -> Result<(), Error> {
    let (out, records) = mpsc::channel(BATCHES_AHEAD);
    let part = Part {
        topic: task.topic.clone(),
        partition: task.partition,
        start: task.low,
        end: task.end,
        with_headers: scope.judges.reads_headers(),
    };
    let servers = scope.servers.to_owned();
    let reader = blocking(move || kafka::read(&servers, &part, &out));
    let undecided = task.slower_cursor(scope).unwrap_or_default().0..task.end;
    let unused = WindowBounds { size: 0, floor: NextOffset(0) };
    let bounds = task.committed.map_or(unused, |committed| committed.window);
    let mut duplicates = Duplicates::new(bounds, scope.definition.duplicate_window, task.low, gone_keys);
    let failing = Arc::new(failing);
    let digest = async {
        let digested = batches(records)
            .map(|read| {
                let undecided = if scope.for_ledger { undecided.clone() } else { 0..0 };
                let (judges, failing) = (Arc::clone(scope.judges), Arc::clone(&failing));
                async move {
                    match read {
                        Read::GoneUntil(offset) => Ok(Digested::GoneUntil(offset)),
                        Read::Records(records) => {
                            compute(move || digest_raw(&judges, &records, &failing, &undecided)).await
                        }
                    }
                }
            })
            .buffered(cores());
        let mut digested = std::pin::pin!(digested);
        while let Some(digested) = digested.next().await {
            match digested? {
                Digested::GoneUntil(offset) => accountants.gone_until(offset),
                Digested::Records(facts, undecided) => {
                    scope.progress.advance(facts.len() as u64);
                    for (mut fact, key) in facts {
                        fact.duplicate = duplicates.judge(fact.offset, key);
                        accountants.raw(fact);
                    }
                    if let Some(tally) = tally {
                        note_in_flight(scope, task, &undecided, tally);
                    }
                }
            }
        }
        Ok::<(), Error>(())
    };
    tokio::try_join!(reader, digest)?;
    accountants.raw_done();
    Ok(())
}

fn note_in_flight(scope: &Scope<'_>, task: &SlotTask, undecided: &[(i64, LedgerFact)], tally: &mut Tally) {
    for sink in scope.sinks() {
        let cursor = task.cursor_of(sink).unwrap_or_default().0;
        let beyond = undecided.iter().filter(|(offset, _)| *offset >= cursor);
        beyond.for_each(|(_, fact)| tally.in_flight(sink, fact));
    }
}

fn digest_raw(
    judges: &Judges,
    records: &[Record],
    failing: &BTreeSet<i64>,
    undecided: &Range<i64>,
) -> Result<Digested, Error> {
    let judgements = judges.judge(records, failing).map_err(|reason| Error::Transform { reason })?;
    let mut in_flight = Vec::new();
    let facts = records.iter().zip(judgements).map(|(record, judgements)| {
        if undecided.contains(&record.offset)
            && let Some(hash) = record.value.as_deref().and_then(|json| canonical_hash(json).ok())
        {
            in_flight.push((record.offset, LedgerFact { hash, package_id: 0 }));
        }
        let fact = RawFact {
            offset: record.offset,
            bytes: quarantine::bytes_hash(record),
            duplicate: Duplicate::No,
            judgements,
        };
        (fact, record.key.as_deref().map(window::hash_of))
    });
    Ok(Digested::Records(facts.collect(), in_flight))
}
