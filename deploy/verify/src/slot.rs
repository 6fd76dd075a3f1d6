//! Collects the facts of one slot, in bounded memory, and has them accounted: its two sinks from one reading of the raw
//! records.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use millrace_common::event::canonical_hash;
use millrace_common::event::day::Day;
use millrace_common::lake::Lake;
use millrace_common::record::WindowBounds;
use millrace_common::types::{DEFAULT_DUPLICATE_WINDOW, NextOffset, PipelineDefinition};
use millrace_common::window::{self, Window};
use tokio::sync::{Semaphore, mpsc};

use crate::account::{Account, Accountant, Duplicate, QuarantineFact, RawFact, RowFact, Sink, SlotFacts};
use crate::chain::{self, Key, SlotFile};
use crate::enriched::{self, Wanted};
use crate::finding::{FindingKind, Findings};
use crate::judge::Judges;
use crate::kafka::{self, Committed, End, Part, Read, Record};
use crate::lake::{self, Expected, FileRows, LakeObject, LedgerFact, OpenFile};
use crate::ledger::Tally;
use crate::pool::{BATCHES_AHEAD, BUDGET_KIB, batches, blocking, compute, compute_or_panicked, cores};
use crate::report::PartitionAccount;
use crate::{Error, Progress, quarantine};

/// Between two lists of the lake while a publication is awaited: a store can't be subscribed to.
const LIST_EVERY: Duration = Duration::from_millis(500);

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
}

/// The ledger's events, as each sink has them.
#[derive(Debug, Default)]
pub(crate) struct Tallies {
    pub(crate) lake: Option<Tally>,
    pub(crate) topic: Option<Tally>,
}

impl Tallies {
    pub(crate) fn each(&mut self) -> impl Iterator<Item = &mut Tally> {
        self.lake.iter_mut().chain(&mut self.topic)
    }
}

/// The accountants of the sinks that the pipeline has.
#[derive(Debug, Default)]
struct Accountants {
    lake: Option<Accountant>,
    topic: Option<Accountant>,
}

impl Accountants {
    fn each(&mut self) -> impl Iterator<Item = &mut Accountant> {
        self.lake.iter_mut().chain(&mut self.topic)
    }
}

/// Accounts for every offset of the slot.
pub(crate) async fn account(
    scope: &Scope<'_>,
    task: SlotTask,
    tallies: &mut Tallies,
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
        lake.read(scope, &task, task.objects.clone(), tallies.lake.as_mut(), &mut findings).await?;
    }
    let mut accountants = Accountants::default();
    let facts = |sink, rows, files| SlotFacts {
        sink,
        tells_of_quarantine: sink == Sink::Lake || scope.lake.is_none(),
        place: place.clone(),
        rows,
        quarantined: task.quarantined.clone(),
        cursor: task.cursor_of(sink).unwrap_or_default(),
        end: NextOffset(task.end),
        files,
    };
    if let Some(topic) = scope.enriched_topic {
        scope.progress.stage(&format!("{place}: enriched records"));
        let records =
            read_enriched(scope, &task, topic, tallies.topic.as_mut(), &mut findings, notes).await?;
        accountants.topic = Some(Accountant::new(facts(Sink::Topic, records, Vec::new())));
    }
    if scope.lake.is_some() {
        let (rows, names) = (std::mem::take(&mut lake.rows), std::mem::take(&mut lake.names));
        accountants.lake = Some(Accountant::new(facts(Sink::Lake, rows, names)));
    }

    scope.progress.stage(&format!("{place}: raw records"));
    accountants.each().for_each(|accountant| accountant.gone_until(task.low));
    read_raw(scope, &task, &mut accountants, tallies).await?;
    if let (Some(store), Some(accountant)) = (scope.lake, &mut accountants.lake) {
        await_publication(scope, &task, store, &mut known, &mut lake, accountant, tallies, &mut findings)
            .await?;
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
    let mut account = Account::default();
    if let Some(accountant) = accountants.lake {
        // A record of a pipeline without topic sink has one cursor for both.
        let (of_lake, found) = accountant.finish(
            judged_by(|committed| committed.lake_cursor),
            judged_by(|committed| committed.topic_cursor),
        );
        account.add(&of_lake);
        account.unplaced = lake.unplaced;
        findings.merge(found);
    }
    if let Some(accountant) = accountants.topic {
        let cursor = judged_by(|committed| committed.topic_cursor);
        let (of_topic, found) = accountant.finish(cursor, cursor);
        account.add_topic(&of_topic, scope.lake.is_none());
        findings.merge(found);
    }
    let ranges =
        chain::check(&place, &lake.files, judged_by(|committed| committed.lake_cursor), &mut findings);
    if let Some(slower) = task.slower_cursor(scope) {
        if slower.0 < task.low {
            findings.add(FindingKind::Lost, || format!("{place} {slower} to {}", task.low));
        }
        if slower.0 > task.end {
            findings
                .add(FindingKind::CursorBeyondEnd, || format!("{place}: cursor {slower}, end {}", task.end));
        }
    }
    note_gaps(&task, &place, &ranges, &mut account, notes);
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
        let slower = if scope.lake.is_some() { Sink::Lake } else { Sink::Topic };
        self.cursor_of(slower)
    }
}

/// What is committed may not be published yet. Only the last flush can be in that state, so whatever lies below the
/// newest one that is visible is missing for good.
#[expect(clippy::too_many_arguments, reason = "the parts of one slot's check, each borrowed on its own")]
async fn await_publication(
    scope: &Scope<'_>,
    task: &SlotTask,
    store: &Lake,
    known: &mut BTreeSet<String>,
    lake: &mut Contents,
    accountant: &mut Accountant,
    tallies: &mut Tallies,
    findings: &mut Findings,
) -> Result<(), Error> {
    let deadline = tokio::time::Instant::now() + scope.settle;
    while accountant.pending().next().is_some() {
        let objects = lake::list(store).await?;
        let is_new = |object: &LakeObject| {
            let ours = |key: Key| {
                (key.pipeline.as_str(), key.topic, key.partition)
                    == (task.pipeline.as_str(), task.number, task.partition)
                    && task.cursor_of(Sink::Lake).is_some_and(|cursor| key.start < cursor.0)
            };
            !known.contains(&object.key) && Key::parse(&object.key).is_some_and(ours)
        };
        let new: Vec<LakeObject> = objects.into_values().filter(is_new).collect();
        known.extend(new.iter().map(|object| object.key.clone()));
        lake.read(scope, task, new, tallies.lake.as_mut(), findings).await?;
        accountant.late_rows(std::mem::take(&mut lake.names), std::mem::take(&mut lake.rows));
        let newest = lake.files.iter().map(|file| file.footer.range.start).max();
        let published_soon =
            accountant.pending().next_back().is_some_and(|last| newest.is_none_or(|newest| last >= newest));
        if !published_soon || tokio::time::Instant::now() > deadline {
            break;
        }
        let (topic, partition) = (&task.topic, task.partition);
        scope.progress.stage(&format!("{topic}/{partition}: waiting for committed files to be published"));
        tokio::time::sleep(LIST_EVERY).await;
    }
    Ok(())
}

/// What is gone from the raw topic and lies between the files' ranges is proven by nothing.
fn note_gaps(
    task: &SlotTask,
    place: &str,
    ranges: &[std::ops::Range<i64>],
    account: &mut Account,
    notes: &mut Vec<String>,
) {
    let quarantined: BTreeSet<i64> =
        task.quarantined.iter().map(|record| record.offset).filter(|offset| *offset < task.low).collect();
    let gone_until = task.low.min(task.cursor_of(Sink::Lake).unwrap_or_default().0);
    for gap in chain::gaps_below(ranges, gone_until) {
        let unproven = gap.end.abs_diff(gap.start) - quarantined.range(gap.clone()).count() as u64;
        account.unproven += unproven;
        if unproven > 0 {
            notes.push(format!(
                "{place} {} to {}: gone from the raw topic, in no file's range; {unproven} offsets that nothing proves",
                gap.start, gap.end
            ));
        }
    }
}

/// What the slot's files hold. `names` and `rows` are handed on; the rest stays.
#[derive(Debug, Default)]
struct Contents {
    names: Vec<String>,
    rows: Vec<RowFact>,
    files: Vec<SlotFile>,
    unplaced: u64,
    /// How many files were read: the index of the next one.
    count: u32,
}

impl Contents {
    async fn read(
        &mut self,
        scope: &Scope<'_>,
        task: &SlotTask,
        objects: Vec<LakeObject>,
        mut tally: Option<&mut Tally>,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let numbered = objects.into_iter().zip(self.count..);
        let mut read = futures::stream::iter(numbered)
            .map(|(object, number)| read_file(scope, task, object, number))
            .buffered(cores());
        while let Some((key, outcome)) = read.try_next().await? {
            self.names.push(key.clone());
            self.count += 1;
            match outcome {
                Ok((file, rows)) => {
                    scope.progress.advance(rows.rows.len() as u64);
                    self.unplaced += rows.unplaced;
                    self.rows.extend(rows.rows);
                    self.files.push(file);
                    findings.merge(rows.findings);
                    if let Some(tally) = &mut tally {
                        rows.ledger.iter().for_each(|fact| tally.row(fact));
                    }
                }
                Err((kind, detail)) => findings.add(kind, || format!("{key}: {detail}")),
            }
        }
        Ok(())
    }
}

type Outcome = Result<(SlotFile, FileRows), (FindingKind, String)>;

async fn read_file(
    scope: &Scope<'_>,
    task: &SlotTask,
    object: LakeObject,
    number: u32,
) -> Result<(String, Outcome), Error> {
    let weight = u32::try_from(object.bytes / 1024 + 1).unwrap_or(u32::MAX).min(BUDGET_KIB);
    // Held until the file is digested. The semaphore is never closed.
    let _permit = scope.budget.acquire_many(weight).await.ok();
    let Some(store) = scope.lake else {
        return Ok((object.key, Err((FindingKind::Unreadable, "the pipeline has no lake".to_owned()))));
    };
    let Some(bytes) = lake::get(store, &object.location).await? else {
        let gone = (FindingKind::Unreadable, "it was listed, but is gone".to_owned());
        return Ok((object.key, Err(gone)));
    };
    let folder = object.key.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    let expected = Expected {
        topic: task.topic.clone(),
        partition: task.partition,
        folder,
        file: number,
        for_ledger: scope.for_ledger,
        columns: (!scope.judges.is_plain()).then(|| scope.judges.columns.clone()),
    };
    let (key, pipeline, slot) = (object.key.clone(), task.pipeline.clone(), (task.number, task.partition));
    let digested = compute_or_panicked(move || {
        let file = OpenFile::open(bytes).map_err(|error| error.to_string())?;
        let footer = match file.footer() {
            Ok(footer) => footer,
            Err(reason) => return Ok(Err((FindingKind::FooterDisagrees, reason))),
        };
        if (footer.pipeline.as_str(), footer.topic, footer.partition) != (pipeline.as_str(), slot.0, slot.1) {
            let owner = format!("{}/{}-{}", footer.pipeline, footer.topic, footer.partition);
            return Ok(Err((FindingKind::FooterDisagrees, format!("its footer says slot {owner}"))));
        }
        let mut rows = file.rows(&key, &footer, &expected).map_err(|error| error.to_string())?;
        if let Some(start) =
            Key::parse(&key).map(|key| key.start).filter(|start| *start != footer.range.start)
        {
            rows.findings.add(FindingKind::FooterDisagrees, || {
                format!("{key}: its key says start {start}, its footer {}", footer.range.start)
            });
        }
        let file = SlotFile {
            unplaced: expected.folder == Day::Unplaced.to_string(),
            name: key,
            footer,
            last_offset: rows.rows.iter().map(|row| row.offset).max(),
            needlessly_unplaced: rows.needlessly_unplaced,
        };
        Ok(Ok((file, rows)))
    })
    .await;
    let outcome = digested.unwrap_or_else(|reason| Err((FindingKind::Unreadable, reason)));
    Ok((object.key, outcome))
}

/// What a batch of raw records comes to.
enum Digested {
    /// The facts with their keys' hashes, and what the ledger needs of the records at or beyond a cursor.
    Records(Vec<(RawFact, Option<u128>)>, Vec<(i64, LedgerFact)>),
    GoneUntil(i64),
}

async fn read_raw(
    scope: &Scope<'_>,
    task: &SlotTask,
    accountants: &mut Accountants,
    tallies: &mut Tallies,
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
    let mut duplicates = Duplicates::new(scope.definition, task);
    let digest = async {
        let digested = batches(records)
            .map(|read| {
                let undecided = if scope.for_ledger { undecided.clone() } else { 0..0 };
                let judges = Arc::clone(scope.judges);
                async move {
                    match read {
                        Read::GoneUntil(offset) => Ok(Digested::GoneUntil(offset)),
                        Read::Records(records) => {
                            compute(move || digest_raw(&judges, &records, &undecided)).await
                        }
                    }
                }
            })
            .buffered(cores());
        let mut digested = std::pin::pin!(digested);
        while let Some(digested) = digested.next().await {
            match digested? {
                Digested::GoneUntil(offset) => {
                    accountants.each().for_each(|accountant| accountant.gone_until(offset));
                }
                Digested::Records(facts, undecided) => {
                    scope.progress.advance(facts.len() as u64);
                    for (mut fact, key) in facts {
                        fact.duplicate = duplicates.judge(fact.offset, key);
                        if let (Some(lake), Some(topic)) = (&mut accountants.lake, &mut accountants.topic) {
                            topic.raw(fact.clone());
                            lake.raw(fact);
                        } else {
                            accountants.each().for_each(|accountant| accountant.raw(fact.clone()));
                        }
                    }
                    for (_, fact) in &undecided {
                        tallies.each().for_each(|tally| tally.in_flight(fact));
                    }
                }
            }
        }
        Ok::<(), Error>(())
    };
    tokio::try_join!(reader, digest)?;
    accountants.each().for_each(Accountant::raw_done);
    Ok(())
}

/// Recomputes which records are client duplicates.
struct Duplicates {
    window: Window,
    /// By the widest rule that may have held below the floor, whose bounds nobody remembers.
    widest: Window,
    floor: NextOffset,
}

impl Duplicates {
    fn new(definition: &PipelineDefinition, task: &SlotTask) -> Self {
        let unused = WindowBounds { size: 0, floor: NextOffset(0) };
        let bounds = task.committed.map_or(unused, |committed| committed.window);
        let size = bounds.size.max(definition.duplicate_window).max(DEFAULT_DUPLICATE_WINDOW);
        Self {
            window: Window::new(bounds),
            widest: Window::new(WindowBounds { size, floor: NextOffset(0) }),
            floor: bounds.floor,
        }
    }

    fn judge(&mut self, offset: i64, key: Option<u128>) -> Duplicate {
        let is_duplicate = self.window.is_duplicate_hash(offset, key);
        if is_duplicate {
            return Duplicate::Yes;
        }
        let may_be = offset < self.floor.0 && self.widest.is_duplicate_hash(offset, key);
        if may_be { Duplicate::Perhaps } else { Duplicate::No }
    }
}

fn digest_raw(
    judges: &Judges,
    records: &[Record],
    undecided: &std::ops::Range<i64>,
) -> Result<Digested, Error> {
    let judgements = judges.judge(records).map_err(|reason| Error::Transform { reason })?;
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

/// The records of the enriched topic that came from this slot.
async fn read_enriched(
    scope: &Scope<'_>,
    task: &SlotTask,
    topic: &str,
    mut tally: Option<&mut Tally>,
    findings: &mut Findings,
    notes: &mut Vec<String>,
) -> Result<Vec<RowFact>, Error> {
    let place = [(topic.to_owned(), task.partition)];
    let servers = scope.servers.to_owned();
    let range = blocking(move || kafka::ranges(&servers, &place, End::Open)).await?.pop();
    let (start, end) = range.unwrap_or_default();
    if start > 0 {
        notes.push(format!(
            "{topic}/{} holds nothing below {start} any more: what was there may show as missing",
            task.partition
        ));
    }
    let part = Part { topic: topic.to_owned(), partition: task.partition, start, end, with_headers: true };
    let wanted = Wanted::new(scope.definition, &task.topic, task.partition, scope.for_ledger);
    let (out, records) = mpsc::channel(BATCHES_AHEAD);
    let servers = scope.servers.to_owned();
    let reader = blocking(move || kafka::read(&servers, &part, &out));
    let mut facts = Vec::new();
    let digest = async {
        let batches = batches(records)
            .map(|read| {
                let wanted = wanted.clone();
                async move {
                    let Read::Records(mut records) = read else { return enriched::Enriched::default() };
                    records.retain(|record| record.offset < end);
                    compute(move || enriched::digest(&wanted, &records)).await
                }
            })
            .buffered(cores());
        let mut batches = std::pin::pin!(batches);
        while let Some(found) = batches.next().await {
            scope.progress.advance(found.records.len() as u64);
            facts.extend(found.records);
            findings.merge(found.findings);
            if let Some(tally) = &mut tally {
                found.ledger.iter().for_each(|fact| tally.row(fact));
            }
        }
        Ok::<(), Error>(())
    };
    tokio::try_join!(reader, digest)?;
    Ok(facts)
}
