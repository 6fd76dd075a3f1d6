//! Reads the enriched topic, as any `read_committed` consumer would.

use futures::StreamExt;
use millrace_common::types::NextOffset;
use tokio::sync::mpsc;

use super::{Scope, SlotTask};
use crate::Error;
use crate::account::{RowFact, Sink};
use crate::enriched::{self, Enriched, Wanted};
use crate::finding::{FindingKind, Findings};
use crate::kafka::{self, End, Part, Read};
use crate::ledger::Tally;
use crate::pool::{BATCHES_AHEAD, batches, blocking, compute, cores};

/// What the enriched topic has of the slot.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) records: Vec<RowFact>,
    pub(super) keys: Vec<(i64, u128)>,
    /// What it had of the source records below is gone.
    pub(super) gone_until: NextOffset,
}

impl Contents {
    pub(super) async fn read(
        &mut self,
        scope: &Scope<'_>,
        task: &SlotTask,
        topic: &str,
        mut tally: Option<&mut Tally>,
        findings: &mut Findings,
        notes: &mut Vec<String>,
    ) -> Result<(), Error> {
        let part = part(scope, topic, task.partition).await?;
        let first = part.start;
        let values = scope.judges.values;
        let wanted = Wanted::new(scope.definition, &task.topic, task.partition, values, scope.for_ledger);
        let wanted = Wanted { keys_of: task.keys_of(), ..wanted };
        read(scope, part, wanted, |found| {
            scope.progress.advance(found.records.len() as u64);
            self.records.extend(found.records);
            self.keys.extend(found.keys);
            findings.merge(found.findings);
            if let Some(tally) = &mut tally {
                found.ledger.iter().for_each(|fact| tally.found(Sink::Topic, fact));
            }
        })
        .await?;
        if first > 0 {
            let held = self.records.iter().map(|record| NextOffset(record.offset)).min();
            let cursor = task.committed.map(|committed| committed.topic_cursor).unwrap_or_default();
            self.gone_until = held.unwrap_or(cursor);
            notes.push(format!(
                "{topic}/{} holds nothing below {first} any more: what it had of {}/{} below {} can't be checked",
                task.partition, task.topic, task.partition, self.gone_until
            ));
        }
        Ok(())
    }
}

/// Looks for records in a partition of the enriched topic whose number no partition of the source `topic` has.
pub(crate) async fn read_strays(
    scope: &Scope<'_>,
    enriched_topic: &str,
    topic: &str,
    partition: i32,
    findings: &mut Findings,
) -> Result<(), Error> {
    let part = part(scope, enriched_topic, partition).await?;
    let wanted = Wanted::new(scope.definition, topic, partition, scope.judges.values, false);
    read(scope, part, wanted, |found| {
        findings.merge(found.findings);
        findings.add_many(FindingKind::UnexplainedOnTopic, found.records.len() as u64, || {
            format!(
                "{} records in the enriched topic's partition {partition}, a partition that {topic} does not have",
                found.records.len()
            )
        });
    })
    .await
}

async fn part(scope: &Scope<'_>, topic: &str, partition: i32) -> Result<Part, Error> {
    let place = [(topic.to_owned(), partition)];
    let servers = scope.servers.to_owned();
    let range = blocking(move || kafka::ranges(&servers, &place, End::Open)).await?.pop();
    let (start, end) = range.unwrap_or_default();
    Ok(Part { topic: topic.to_owned(), partition, start, end, with_headers: true })
}

async fn read(
    scope: &Scope<'_>,
    part: Part,
    wanted: Wanted,
    mut take: impl FnMut(Enriched),
) -> Result<(), Error> {
    let end = part.end;
    let (out, records) = mpsc::channel(BATCHES_AHEAD);
    let servers = scope.servers.to_owned();
    let reader = blocking(move || kafka::read(&servers, &part, &out));
    let digest = async {
        let batches = batches(records)
            .map(|read| {
                let wanted = wanted.clone();
                async move {
                    let Read::Records(mut records) = read else { return Enriched::default() };
                    records.retain(|record| record.offset < end);
                    compute(move || enriched::digest(&wanted, &records)).await
                }
            })
            .buffered(cores());
        let mut batches = std::pin::pin!(batches);
        while let Some(found) = batches.next().await {
            take(found);
        }
        Ok::<(), Error>(())
    };
    tokio::try_join!(reader, digest)?;
    Ok(())
}
