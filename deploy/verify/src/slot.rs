//! Collects the facts of one slot, in bounded memory, and has them accounted.

use std::collections::BTreeSet;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;

use futures::{Stream, StreamExt, TryStreamExt};
use millrace_common::event::canonical_hash;
use millrace_common::event::day::Day;
use millrace_common::lake::Lake;
use millrace_common::types::NextOffset;
use tokio::sync::{Semaphore, mpsc};

use crate::account::{Accountant, Fingerprint, QuarantineFact, RawFact, RowFact, SlotFacts};
use crate::chain::{self, Key, SlotFile};
use crate::finding::{FindingKind, Findings};
use crate::kafka::{self, Part, Read, Record};
use crate::lake::{self, Expected, FileRows, LakeObject, LedgerFact, OpenFile};
use crate::ledger::Tally;
use crate::report::PartitionAccount;
use crate::verify::blocking;
use crate::{Error, Progress, quarantine};

/// Batches of records between Kafka's reader and the hashing.
pub(crate) const BATCHES_AHEAD: usize = 4;
/// Bytes of files in memory at once, in KiB. A larger file is read alone.
const BUDGET_KIB: u32 = 256 << 10;
/// Between two lists of the lake while a publication is awaited: a store can't be subscribed to.
const LIST_EVERY: Duration = Duration::from_millis(500);

/// What the whole check shares.
#[derive(Debug)]
pub(crate) struct Scope<'a> {
    pub(crate) lake: &'a Lake,
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
    pub(crate) cursor: Option<NextOffset>,
    /// First raw offset that is held.
    pub(crate) low: i64,
    /// End of the raw partition.
    pub(crate) end: i64,
    pub(crate) objects: Vec<LakeObject>,
    pub(crate) quarantined: Vec<QuarantineFact>,
}

pub(crate) fn read_budget() -> Arc<Semaphore> {
    Arc::new(Semaphore::new(BUDGET_KIB as usize))
}

pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Runs `work` on the blocking pool. A panic goes on here.
pub(crate) async fn compute<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => std::panic::resume_unwind(failed.into_panic()),
    }
}

/// The same for a decoder of foreign bytes, whose panic is a fault of those bytes.
pub(crate) async fn compute_or_panicked<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(failed) => Err(format!("it makes the Parquet reader fail: {failed}")),
    }
}

/// The reader's batches as a stream.
pub(crate) fn batches(records: mpsc::Receiver<Read>) -> impl Stream<Item = Read> {
    futures::stream::unfold(records, |mut records| async move {
        let read = records.recv().await?;
        Some((read, records))
    })
}

/// Accounts for every offset of the slot.
pub(crate) async fn account(
    scope: &Scope<'_>,
    task: SlotTask,
    mut tally: Option<&mut Tally>,
    notes: &mut Vec<String>,
) -> Result<(PartitionAccount, Findings), Error> {
    let place = format!("{}/{}", task.topic, task.partition);
    let mut findings = Findings::default();
    let mut known: BTreeSet<String> = task.objects.iter().map(|object| object.key.clone()).collect();
    scope.progress.stage(&format!("{place}: rows"));
    let mut lake = Contents::default();
    lake.read(scope, &task, task.objects.clone(), tally.as_deref_mut(), &mut findings).await?;

    scope.progress.stage(&format!("{place}: raw records"));
    let quarantined_offsets: BTreeSet<i64> =
        task.quarantined.iter().map(|record| record.offset).filter(|offset| *offset < task.low).collect();
    let mut accountant = Accountant::new(SlotFacts {
        place: place.clone(),
        rows: std::mem::take(&mut lake.rows),
        quarantined: task.quarantined.clone(),
        cursor: task.cursor.unwrap_or_default(),
        end: NextOffset(task.end),
        files: std::mem::take(&mut lake.names),
    });
    accountant.gone_until(task.low);
    read_raw(scope, &task, &mut accountant, tally.as_deref_mut()).await?;

    // What is committed may not be published yet. Only the last flush can be in that state, so whatever lies
    // below the newest one that is visible is missing for good.
    let deadline = tokio::time::Instant::now() + scope.settle;
    while accountant.pending().next().is_some() {
        let objects = lake::list(scope.lake).await?;
        let is_new = |object: &LakeObject| {
            let ours = |key: Key| {
                (key.pipeline.as_str(), key.topic, key.partition)
                    == (task.pipeline.as_str(), task.number, task.partition)
                    && task.cursor.is_some_and(|cursor| key.start < cursor.0)
            };
            !known.contains(&object.key) && Key::parse(&object.key).is_some_and(ours)
        };
        let new: Vec<LakeObject> = objects.into_values().filter(is_new).collect();
        known.extend(new.iter().map(|object| object.key.clone()));
        lake.read(scope, &task, new, tally.as_deref_mut(), &mut findings).await?;
        accountant.late_rows(std::mem::take(&mut lake.names), std::mem::take(&mut lake.rows));
        let newest = lake.files.iter().map(|file| file.footer.range.start).max();
        let published_soon =
            accountant.pending().next_back().is_some_and(|last| newest.is_none_or(|newest| last >= newest));
        if !published_soon || tokio::time::Instant::now() > deadline {
            break;
        }
        scope.progress.stage(&format!("{place}: waiting for committed files to be published"));
        tokio::time::sleep(LIST_EVERY).await;
    }

    let cursor_now = {
        let (servers, group) = (scope.servers.to_owned(), scope.group.to_owned());
        let slot = [(task.topic.clone(), task.partition)];
        blocking(move || kafka::cursors(&servers, &group, &slot)).await?.pop().flatten()
    };
    let unreadable_cursor = cursor_now.is_none() && !lake.files.is_empty();
    if unreadable_cursor {
        findings.add(FindingKind::CursorLost, || format!("{place}, {} files", lake.files.len()));
    }
    // Without a cursor nothing says what is committed: that was named once, above.
    let judged_by = if unreadable_cursor { NextOffset(i64::MAX) } else { cursor_now.unwrap_or_default() };
    let (mut account, found) = accountant.finish(judged_by);
    findings.merge(found);
    account.unplaced = lake.unplaced;
    let ranges = chain::check(&place, &lake.files, judged_by, &mut findings);
    if let Some(cursor) = task.cursor {
        if cursor.0 < task.low {
            findings.add(FindingKind::Lost, || format!("{place} {cursor} to {}", task.low));
        }
        if cursor.0 > task.end {
            findings
                .add(FindingKind::CursorBeyondEnd, || format!("{place}: cursor {cursor}, end {}", task.end));
        }
    }
    let gone_until = task.low.min(task.cursor.unwrap_or_default().0);
    for gap in chain::gaps_below(&ranges, gone_until) {
        let quarantined = quarantined_offsets.range(gap.clone()).count() as u64;
        let unproven = gap.end.abs_diff(gap.start) - quarantined;
        account.unproven += unproven;
        if unproven > 0 {
            notes.push(format!(
                "{place} {} to {}: gone from the raw topic, in no file's range; {unproven} offsets that nothing proves",
                gap.start, gap.end
            ));
        }
    }
    let report = PartitionAccount {
        topic: task.topic,
        partition: task.partition,
        lake_cursor: task.cursor.map(|cursor| cursor.0),
        first_offset: task.low,
        end_offset: task.end,
        files: lake.files.len() as u64,
        account,
    };
    Ok((report, findings))
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
    let Some(bytes) = lake::get(scope.lake, &object.location).await? else {
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
    /// The facts, and what the ledger needs of the records at or beyond the cursor.
    Records(Vec<RawFact>, Vec<LedgerFact>),
    GoneUntil(i64),
}

async fn read_raw(
    scope: &Scope<'_>,
    task: &SlotTask,
    accountant: &mut Accountant,
    mut tally: Option<&mut Tally>,
) -> Result<(), Error> {
    let (out, records) = mpsc::channel(BATCHES_AHEAD);
    let part = Part {
        topic: task.topic.clone(),
        partition: task.partition,
        start: task.low,
        end: task.end,
        with_headers: false,
    };
    let servers = scope.servers.to_owned();
    let reader = blocking(move || kafka::read(&servers, &part, &out));
    let undecided = task.cursor.unwrap_or_default().0..task.end;
    let digest = async {
        let digested = batches(records)
            .map(|read| {
                let undecided = if scope.for_ledger { undecided.clone() } else { 0..0 };
                async move {
                    match read {
                        Read::GoneUntil(offset) => Digested::GoneUntil(offset),
                        Read::Records(records) => compute(move || digest_raw(&records, &undecided)).await,
                    }
                }
            })
            .buffered(cores());
        let mut digested = std::pin::pin!(digested);
        while let Some(digested) = digested.next().await {
            match digested {
                Digested::GoneUntil(offset) => accountant.gone_until(offset),
                Digested::Records(facts, undecided) => {
                    scope.progress.advance(facts.len() as u64);
                    facts.into_iter().for_each(|fact| accountant.raw(fact));
                    if let Some(tally) = &mut tally {
                        undecided.iter().for_each(|fact| tally.in_flight(fact));
                    }
                }
            }
        }
        Ok::<(), Error>(())
    };
    tokio::try_join!(reader, digest)?;
    accountant.raw_done();
    Ok(())
}

fn digest_raw(records: &[Record], undecided: &std::ops::Range<i64>) -> Digested {
    let mut in_flight = Vec::new();
    let facts = records.iter().map(|record| {
        let hash = record.value.as_deref().and_then(|json| canonical_hash(json).ok());
        if let (true, Some(hash)) = (undecided.contains(&record.offset), hash) {
            in_flight.push(LedgerFact { hash, package_id: 0 });
        }
        RawFact {
            offset: record.offset,
            event: hash.map(|hash| Fingerprint::new(&hash, record.timestamp_ms)),
            bytes: quarantine::bytes_hash(record),
        }
    });
    Digested::Records(facts.collect(), in_flight)
}
