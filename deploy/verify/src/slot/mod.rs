//! Collects the facts of one slot, in bounded memory, and has them accounted: its two sinks and its quarantine from one
//! reading of the raw records.

mod duplicates;
mod enriched_records;
mod lake_rows;
mod raw_records;

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use millrace_common::lake::Lake;
use millrace_common::types::{NextOffset, PipelineDefinition, StartPosition};
use tokio::sync::Semaphore;

pub(crate) use self::enriched_records::read_strays;
use self::lake_rows::Contents;
use crate::account::{
    Account, Accountant, Accountants, CursorsNow, QuarantineAccountant, QuarantineFact, RowFact, Sink,
    SlotFacts,
};
use crate::chain;
use crate::finding::{FindingKind, Findings};
use crate::judge::Judges;
use crate::kafka::{self, Committed};
use crate::lake::LakeObject;
use crate::ledger::Tally;
use crate::pool::blocking;
use crate::report::PartitionAccount;
use crate::{Error, Progress};

/// What the whole check shares.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    /// `None` for a pipeline without lake.
    pub(crate) lake: Option<&'a Lake>,
    /// `None` for a pipeline without topic sink.
    pub(crate) enriched_topic: Option<&'a str>,
    pub(crate) definition: &'a PipelineDefinition,
    pub(crate) judges: &'a Arc<Judges>,
    pub(crate) servers: &'a str,
    pub(crate) group: &'a str,
    pub(crate) settle: Duration,
    pub(crate) for_ledger: bool,
    pub(crate) progress: &'a Progress,
    pub(crate) budget: Arc<Semaphore>,
}

impl Scope<'_> {
    /// The sinks that the pipeline has.
    pub(crate) fn sinks(&self) -> impl Iterator<Item = Sink> + use<> {
        let lake = self.lake.map(|_| Sink::Lake);
        lake.into_iter().chain(self.enriched_topic.map(|_| Sink::Topic))
    }
}

/// A slot to account.
#[derive(Debug)]
pub(crate) struct SlotTask {
    pub(crate) pipeline: String,
    /// Of the topic in the pipeline's source topics.
    pub(crate) number: u16,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// Read before all others.
    pub(crate) committed: Option<Committed>,
    /// First raw offset that is held.
    pub(crate) low: i64,
    /// End of the raw partition.
    pub(crate) end: i64,
    pub(crate) objects: Vec<LakeObject>,
    pub(crate) quarantined: Vec<QuarantineFact>,
    /// Keys of quarantined records in [`keys_of`].
    pub(crate) quarantined_keys: Vec<(i64, u128)>,
}

/// Offsets below the first one that is held whose keys the duplicate rule may still look back to.
pub(crate) fn keys_of(committed: Option<&Committed>, low: i64) -> Range<i64> {
    let size = committed.map_or(0, |committed| committed.window.size);
    low.saturating_sub(i64::try_from(size).unwrap_or(i64::MAX)).max(0)..low
}

/// Accounts for every offset of the slot.
pub(crate) async fn account(
    scope: &Scope<'_>,
    mut task: SlotTask,
    tally: &mut Option<Tally>,
    notes: &mut Vec<String>,
) -> Result<(PartitionAccount, Findings), Error> {
    let place = format!("{}/{}", task.topic, task.partition);
    let mut findings = Findings::default();
    if task.committed.is_some_and(|committed| committed.is_damaged) {
        findings.add(FindingKind::RecordDamaged, || place.clone());
    }
    let mut known: BTreeSet<String> = task.objects.iter().map(|object| object.key.clone()).collect();
    let mut lake = Contents::default();
    if scope.lake.is_some() {
        scope.progress.stage(&format!("{place}: rows"));
        let objects = std::mem::take(&mut task.objects);
        lake.read(scope, &task, objects, tally.as_mut(), &mut findings).await?;
    }
    let mut topic = enriched_records::Contents::default();
    if let Some(name) = scope.enriched_topic {
        scope.progress.stage(&format!("{place}: enriched records"));
        topic.read(scope, &task, name, tally.as_mut(), &mut findings, notes).await?;
    }
    let (quarantine, failing) = task.take_quarantined(&place);
    let quarantined: Arc<[i64]> = quarantine.offsets().into();
    let start = task.start(scope.definition, [&lake.rows, &topic.records], &quarantined);
    let mut gone_keys = std::mem::take(&mut task.quarantined_keys);
    gone_keys.append(&mut lake.keys);
    gone_keys.append(&mut topic.keys);
    let published_until = lake.published_until();
    let facts = |sink, rows, files| SlotFacts {
        sink,
        place: place.clone(),
        rows,
        quarantined: Arc::clone(&quarantined),
        start,
        sink_gone_until: if sink == Sink::Topic { topic.gone_until } else { NextOffset(0) },
        published_until: if sink == Sink::Topic { NextOffset(i64::MAX) } else { published_until },
        cursor: task.cursor_of(sink).unwrap_or_default(),
        end: NextOffset(task.end),
        files,
    };
    let (rows, names) = (std::mem::take(&mut lake.rows), std::mem::take(&mut lake.names));
    let records = std::mem::take(&mut topic.records);
    let mut accountants = Accountants {
        lake: scope.lake.map(|_| Accountant::new(facts(Sink::Lake, rows, names))),
        topic: scope.enriched_topic.map(|_| Accountant::new(facts(Sink::Topic, records, Vec::new()))),
        quarantine,
    };

    scope.progress.stage(&format!("{place}: raw records"));
    accountants.gone_until(task.low);
    raw_records::read(scope, &task, failing, gone_keys, &mut accountants, tally).await?;
    if let (Some(store), Some(accountant)) = (scope.lake, &mut accountants.lake) {
        lake.await_publication(scope, &task, store, &mut known, accountant, tally, &mut findings).await?;
    }

    let committed_now = {
        let (servers, group) = (scope.servers.to_owned(), scope.group.to_owned());
        let slot = [(task.topic.clone(), task.partition)];
        blocking(move || kafka::committed(&servers, &group, &slot)).await?.pop().flatten()
    };
    let unreadable_cursor = committed_now.is_none() && !lake.files.is_empty();
    if unreadable_cursor {
        findings.add(FindingKind::CursorLost, || format!("{place}, {} files", lake.files.len()));
    }
    // Without a cursor nothing says what is committed: that was named once, above.
    let judged_by = |cursor: fn(&Committed) -> NextOffset| match committed_now {
        None if unreadable_cursor => NextOffset(i64::MAX),
        committed => committed.as_ref().map(cursor).unwrap_or_default(),
    };
    let now = CursorsNow {
        lake: judged_by(|committed| committed.lake_cursor),
        topic: judged_by(|committed| committed.topic_cursor),
    };
    let (mut account, found) = accountants.finish(NextOffset(task.end), now);
    account.unplaced = lake.unplaced;
    findings.merge(found);
    let ranges = chain::check(&place, &lake.files, now.lake, &mut findings);
    // The topic may have moved on since the cursors were read first, and the slot with it.
    let slower_now = committed_now.as_ref().map(|committed| slower(committed, scope));
    if let Some(slower) = task.slower_cursor(scope) {
        if slower_now.unwrap_or(slower).0 < task.low {
            findings.add(FindingKind::Lost, || format!("{place} {slower} to {}", task.low));
        }
        if slower.0 > task.end {
            findings
                .add(FindingKind::CursorBeyondEnd, || format!("{place}: cursor {slower}, end {}", task.end));
        }
    }
    note_gaps(&task, &place, &ranges, &quarantined, &mut account, notes);
    let report = PartitionAccount {
        lake_cursor: task.cursor_of(Sink::Lake).filter(|_| scope.lake.is_some()).map(|cursor| cursor.0),
        topic_cursor: task
            .cursor_of(Sink::Topic)
            .filter(|_| scope.enriched_topic.is_some())
            .map(|cursor| cursor.0),
        topic: task.topic,
        partition: task.partition,
        first_offset: task.low,
        end_offset: task.end,
        files: lake.files.len() as u64,
        account,
    };
    Ok((report, findings))
}

impl SlotTask {
    fn cursor_of(&self, sink: Sink) -> Option<NextOffset> {
        let committed = self.committed?;
        Some(match sink {
            Sink::Lake => committed.lake_cursor,
            Sink::Topic => committed.topic_cursor,
        })
    }

    fn slower_cursor(&self, scope: &Scope<'_>) -> Option<NextOffset> {
        self.committed.as_ref().map(|committed| slower(committed, scope))
    }

    fn keys_of(&self) -> Range<i64> {
        keys_of(self.committed.as_ref(), self.low)
    }

    /// The quarantine's accountant, and the offsets of the records that the transform fails on.
    fn take_quarantined(&mut self, place: &str) -> (QuarantineAccountant, BTreeSet<i64>) {
        let quarantined = std::mem::take(&mut self.quarantined);
        let failing = quarantined.iter().filter(|record| record.failed).map(|record| record.offset).collect();
        (QuarantineAccountant::new(place.to_owned(), quarantined), failing)
    }

    /// Where the pipeline began. What begins at the earliest record has all that is held; else the window's floor was
    /// the start and may have risen since, and whatever is in a sink or quarantined came after the start.
    fn start(
        &self,
        definition: &PipelineDefinition,
        sinks: [&[RowFact]; 2],
        quarantined: &[i64],
    ) -> NextOffset {
        let from = definition.source.start_of(usize::from(self.number), self.partition);
        let Some(committed) = self.committed.filter(|_| from != StartPosition::Earliest) else {
            return NextOffset(0);
        };
        let delivered = sinks.into_iter().flatten().map(|row| row.offset).chain(quarantined.iter().copied());
        NextOffset(delivered.min().unwrap_or(i64::MAX).min(committed.window.floor.0))
    }
}

/// The lake's cursor, which never is ahead of the topic's; the topic's without lake.
fn slower(committed: &Committed, scope: &Scope<'_>) -> NextOffset {
    if scope.lake.is_some() { committed.lake_cursor } else { committed.topic_cursor }
}

/// What is gone from the raw topic and lies between the files' ranges is proven by nothing.
fn note_gaps(
    task: &SlotTask,
    place: &str,
    ranges: &[Range<i64>],
    quarantined: &[i64],
    account: &mut Account,
    notes: &mut Vec<String>,
) {
    let below = |offset: i64| quarantined.partition_point(|known| *known < offset.min(task.low));
    let gone_until = task.low.min(task.cursor_of(Sink::Lake).unwrap_or_default().0);
    let flushes = task.committed.map_or(0, |committed| committed.flushes);
    if ranges.is_empty() && flushes > 0 && gone_until > 0 {
        notes.push(format!(
            "{place} up to {gone_until}: gone from the raw topic, and no file is left of {flushes} flushes; nothing proves these offsets"
        ));
    }
    for gap in chain::gaps_below(ranges, gone_until) {
        let set_aside = below(gap.end) - below(gap.start);
        let unproven = gap.end.abs_diff(gap.start) - set_aside as u64;
        account.unproven += unproven;
        if unproven > 0 {
            notes.push(format!(
                "{place} {} to {}: gone from the raw topic, in no file's range; {unproven} offsets that nothing proves",
                gap.start, gap.end
            ));
        }
    }
}
