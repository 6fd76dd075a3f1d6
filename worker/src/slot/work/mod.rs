//! Steps 4 to 7 of the protocol, over and over: read, take in, commit, and flush when the roll policy says so.
//!
//! Four things run side by side, one of each at a time: reading and judging; a commit, which has the producer; the
//! staging of a flush; and the publication of the one before it. A flush is committed only when the one before it is
//! published; the topic sink's commits wait for neither.

mod commits;
mod flushes;
mod reading;

use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use millrace_common::record::CommittedRecord;
use millrace_common::types::{Millis, NextOffset, SlotPhase, StopReason, TransformDefinition};
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::flush::Staged;
use super::freshness::Freshness;
use super::intake::{Intake, Origin, Tally};
use super::latest::LatestRows;
use super::publish::Unpublished;
use super::roll::{self, Pending};
use super::{Claimed, Exit, Open, Slot};
use crate::compute::blocking;
use crate::kafka::{Batch, PartitionReader};
use crate::lake::{LakeBuffer, LakeFormat, Provenance};

/// Records of one batch: enough to amortise a hand-over to the compute pool.
const BATCH: usize = 16_384;
/// The topic sink commits early when this much waits for it.
const TOPIC_BYTES: u64 = 8 << 20;
/// Committed offsets expire after days without a commit: an idle slot commits its record anew this often.
const REFRESH: Duration = Duration::from_secs(3600);
/// Records are tried before they are taken in up to so many offsets beyond what was committed when the slot opened.
const TRIED_OFFSETS: i64 = 100_000;

/// What a commit carried, once it is certain.
struct Committed {
    claimed: Claimed,
    enriched: u64,
    quarantined: u64,
    tally: Tally,
    /// The flush that it decided, to be published now.
    flushed: Option<Staged>,
    /// Key of the manifest before it.
    previous: Option<String>,
}

/// Records that were read and not taken in yet.
struct Leftover {
    batch: Batch,
    first: usize,
}

pub(super) struct Work<'a> {
    slot: &'a Slot,
    reader: PartitionReader,
    /// Moves to the compute pool and back with each batch.
    intake: Option<Intake>,
    leftover: Option<Leftover>,
    /// Of the lake.
    pending: Pending,
    /// Next offset to take in.
    position: NextOffset,
    /// Everything below is in the lake, or in a flush.
    flushed_to: NextOffset,
    /// Number of the next flush: one may begin to be staged while the one before it is committed.
    next_sequence: u64,
    /// The record as committed last.
    record: CommittedRecord,
    /// Absent while a commit has it.
    claimed: Option<Claimed>,
    committing: Option<BoxFuture<'a, Result<Committed, Exit>>>,
    committing_bytes: u64,
    staging: Option<BoxFuture<'a, Result<Staged, Exit>>>,
    /// Waits for its commit.
    staged: Option<Staged>,
    staging_bytes: u64,
    /// Gives back what is missing, with the manifest, if the lake does not hold what it must.
    publishing: Option<BoxFuture<'a, Result<Option<Unpublished>, Exit>>>,
    /// When the topic sink commits next; `None` when nothing waits for it.
    topic_due: Option<Instant>,
    may_have_more: bool,
    /// No reading before: the pipeline's rate is used up.
    rate_free_at: Option<Instant>,
    started: Instant,
    refresh_at: Instant,
    /// Records below are tried in a process of their own.
    try_below: NextOffset,
    transform: TransformDefinition,
    /// Nothing at or beyond is taken in: the definition changes there.
    stop_at: Option<NextOffset>,
    times: Times,
}

/// What is measured for people.
struct Times {
    topic: Freshness,
    lake: Freshness,
    /// The first record that the next commit takes along came then.
    batch_from: Option<Instant>,
    commit_from: Option<Instant>,
    flush_from: Option<Instant>,
    /// Of the flush that is being committed and published.
    published_from: Option<Instant>,
}

impl Times {
    fn new(record: &CommittedRecord) -> Self {
        Self {
            topic: Freshness::new(record.topic_cursor.0),
            lake: Freshness::new(record.lake_cursor.0),
            batch_from: None,
            commit_from: None,
            flush_from: None,
            published_from: None,
        }
    }
}

/// Milliseconds since a point in time that is known.
fn elapsed_ms(since: Option<Instant>) -> Option<u64> {
    since.map(|since| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX))
}

/// Works on an opened slot until something ends it.
pub(super) async fn work(slot: &Slot, open: Open, tries_records: bool) -> Exit {
    let Open { claimed, transform, only_levels, read_from: start } = open;
    let definition = &slot.definition;
    let record = claimed.record.clone();
    let provenance = Provenance { slot: slot.id.clone(), epoch: slot.epoch, topic: slot.topic.clone() };
    let lake = slot.lake.is_some().then(|| LakeBuffer::new(provenance, LakeFormat::new(transform.columns())));
    let origin = Origin { slot: slot.id.clone(), topic: slot.topic.clone() };
    let has_topic = definition.enriched_topic.is_some();
    let stop_at = only_levels.then_some(record.topic_cursor);
    let intake = Intake::new(origin, transform, lake, has_topic, &record, stop_at);
    let reader = match read_from(slot, start).await {
        Ok(reader) => reader,
        Err(exit) => return exit,
    };
    slot.status.set_phase(SlotPhase::Running);
    slot.status.set_waiting_for(None);
    let earlier = definition.earlier_transforms.iter().rev();
    let transform = std::iter::once(&definition.transform)
        .chain(earlier)
        .find(|transform| super::begin::fingerprint(transform) == record.transform)
        .unwrap_or(&definition.transform);
    let mut work = Work {
        slot,
        reader,
        intake: Some(intake),
        leftover: None,
        pending: Pending::default(),
        position: start,
        flushed_to: record.lake_cursor,
        next_sequence: record.sequence + 1,
        claimed: Some(claimed),
        committing: None,
        committing_bytes: 0,
        staging: None,
        staged: None,
        staging_bytes: 0,
        publishing: None,
        topic_due: None,
        may_have_more: true,
        rate_free_at: None,
        started: Instant::now(),
        refresh_at: Instant::now() + REFRESH,
        try_below: match tries_records {
            true => NextOffset(record.topic_cursor.0.saturating_add(TRIED_OFFSETS)),
            false => NextOffset(0),
        },
        transform: transform.clone(),
        stop_at,
        times: Times::new(&record),
        record,
    };
    let exit = loop {
        if let Err(exit) = work.step().await {
            break exit;
        }
    };
    // Off the runtime: giving the partition up and closing the producer block.
    let Work { reader, leftover, claimed, committing, staging, publishing, .. } = work;
    drop((committing, staging, publishing));
    blocking(move || drop((leftover, reader, claimed))).await;
    exit
}

async fn read_from(slot: &Slot, start: NextOffset) -> Result<PartitionReader, Exit> {
    let attempt = || {
        let (consumer, topic, partition) = (slot.consumer.clone(), slot.topic.clone(), slot.id.partition);
        async move { blocking(move || consumer.read_from(&topic, partition, start.0)).await }
    };
    slot.persist("assigning the partition", attempt).await
}

impl<'a> Work<'a> {
    async fn step(&mut self) -> Result<(), Exit> {
        self.advance().await?;
        let slot = self.slot;
        let freed = slot.account.freed();
        let has_room = slot.account.has_room();
        let reads = has_room && self.may_read();
        if reads && (self.leftover.is_some() || self.may_have_more) {
            // Let what can go on do so, and a revoke through, before the next batch.
            tokio::select! {
                biased;
                () = slot.abandoned.cancelled() => return Err(Exit::Stop(StopReason::Revoked)),
                () = slot.revoked.cancelled() => return self.give_up().await,
                Some(committed) = OptionFuture::from(self.committing.as_mut()) => return self.end_commit(committed),
                Some(staged) = OptionFuture::from(self.staging.as_mut()) => return self.end_staging(staged),
                Some(published) = OptionFuture::from(self.publishing.as_mut()) => {
                    return self.end_publishing(published).await;
                }
                () = slot.latest.asked() => return self.show_latest().await,
                () = std::future::ready(()) => {}
            }
            return self.read().await;
        }
        let check_at = self.next_check();
        tokio::select! {
            biased;
            () = slot.abandoned.cancelled() => Err(Exit::Stop(StopReason::Revoked)),
            () = slot.revoked.cancelled() => self.give_up().await,
            Some(committed) = OptionFuture::from(self.committing.as_mut()) => self.end_commit(committed),
            Some(staged) = OptionFuture::from(self.staging.as_mut()) => self.end_staging(staged),
            Some(published) = OptionFuture::from(self.publishing.as_mut()) => self.end_publishing(published).await,
            () = slot.account.must_flush() => self.free_memory().await,
            () = slot.latest.asked() => self.show_latest().await,
            () = sleep_until(check_at) => Ok(()),
            () = freed, if !has_room => Ok(()),
            () = self.reader.nonempty(), if reads => {
                self.may_have_more = true;
                Ok(())
            }
        }
    }

    fn now(&self) -> Millis {
        Millis(u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    fn intake(&self) -> &Intake {
        self.intake.as_ref().expect("the intake is only away within a call")
    }

    fn has_topic(&self) -> bool {
        self.slot.definition.enriched_topic.is_some()
    }

    /// Begins whatever is due and can begin.
    async fn advance(&mut self) -> Result<(), Exit> {
        if self.can_flush() {
            let due = roll::due(&self.slot.definition.roll, &self.pending, self.now());
            let must = self.intake().is_full_of_rejections() || self.is_at_stop();
            if due.is_some() || (must && self.position > self.flushed_to) {
                self.begin_flush(due).await?;
            }
        }
        if self.claimed.is_some() && self.commit_is_due() {
            self.begin_commit();
        }
        let is_idle = self.claimed.is_some() && self.staging.is_none() && self.staged.is_none();
        if self.stop_at.is_some() && is_idle && self.publishing.is_none() && self.record.is_level() {
            return Err(Exit::Level);
        }
        Ok(())
    }

    fn can_flush(&self) -> bool {
        self.slot.lake.is_some() && self.staging.is_none() && self.staged.is_none()
    }

    fn is_at_stop(&self) -> bool {
        self.stop_at.is_some_and(|stop| self.position >= stop)
    }

    /// When something may be due by time alone.
    fn next_check(&self) -> Instant {
        let mut at = self.refresh_at;
        if self.claimed.is_some() {
            at = self.topic_due.map_or(at, |due| due.min(at));
        }
        if self.can_flush()
            && let Some(check) = roll::next_check(&self.slot.definition.roll, &self.pending)
        {
            at = at.min(self.started + Duration::from_millis(check.0));
        }
        if self.claimed.is_none() {
            // The refresh waits for the producer.
            at = at.max(Instant::now() + Duration::from_millis(1));
        }
        self.rate_free_at.map_or(at, |free_at| free_at.min(at))
    }

    /// The memory budget is reached, and this slot holds most.
    async fn free_memory(&mut self) -> Result<(), Exit> {
        debug!(slot = %self.slot.id, bytes = self.pending.bytes, "memory budget reached");
        if self.can_flush() && self.pending.oldest_at.is_some() {
            self.begin_flush(None).await?;
        }
        if self.has_topic() && self.claimed.is_some() && self.position > self.record.topic_cursor {
            self.begin_commit();
        }
        Ok(())
    }

    /// Brings what is pending, the account and the status up to date.
    fn note_progress(&mut self, read_records: bool) {
        let now = self.now();
        let intake = self.intake.as_ref().expect("the intake is only away within a call");
        if self.slot.lake.is_some() && self.position > self.flushed_to {
            self.pending.oldest_at.get_or_insert(now);
            if read_records || self.pending.newest_at.is_none() {
                self.pending.newest_at = Some(now);
            }
        }
        if !self.has_topic() || self.position <= self.record.topic_cursor {
            // A due commit that has nothing to commit would be due for ever, and nothing would be read any more.
            self.topic_due = None;
        } else if self.topic_due.is_none() {
            let interval = Duration::from_millis(self.slot.definition.commit_interval_ms);
            self.topic_due = Some(Instant::now() + interval);
        }
        // Without a topic sink the flush takes along what is quarantined.
        let with_flush = if self.has_topic() { 0 } else { intake.topic_memory() };
        self.pending.bytes = intake.lake_memory() + with_flush;
        self.pending.rows = intake.rows() + if self.has_topic() { 0 } else { intake.waiting_rejections() };
        let open = intake.lake_memory() + intake.topic_memory();
        let held = self.staging_bytes + self.committing_bytes + intake.standing_memory();
        self.slot.account.set(open, held);
        let end = self.reader.known_end().map_or(self.position, |end| self.position.max(NextOffset(end)));
        let (position, rows, unplaced) = (self.position, intake.rows(), intake.rows_unplaced());
        self.slot.status.update(|metrics| {
            metrics.position = Some(position);
            metrics.end = Some(end);
            metrics.buffered_rows = rows;
            metrics.buffered_bytes = open + held;
            metrics.rows_unplaced = unplaced;
        });
    }

    async fn show_latest(&mut self) -> Result<(), Exit> {
        let mut intake = self.intake.take().expect("the intake is only away within a call");
        let shown = self
            .slot
            .compute
            .catch(move || {
                let rows = intake.latest_rows();
                (intake, rows)
            })
            .await;
        let (intake, rows) = shown.map_err(Exit::Doubt)?;
        self.intake = Some(intake);
        let (lake_cursor, topic_cursor) = (self.record.lake_cursor, self.record.topic_cursor);
        self.slot.latest.answer(&LatestRows { rows, lake_cursor, topic_cursor });
        Ok(())
    }

    /// Revoked: commit what was taken in, then stop. Giving up for good (`abandoned`) cuts it short.
    async fn give_up(&mut self) -> Result<(), Exit> {
        self.slot.status.set_phase(SlotPhase::Revoking);
        loop {
            if let Some(committing) = self.committing.take() {
                let committed = committing.await;
                self.end_commit(committed)?;
            } else if let Some(staging) = self.staging.take() {
                let staged = staging.await;
                self.end_staging(staged)?;
            } else if let Some(publishing) = self.publishing.take() {
                let published = publishing.await;
                self.end_publishing(published).await?;
            } else if self.staged.is_some() {
                self.begin_commit();
            } else if self.slot.lake.is_some() && self.position > self.flushed_to {
                self.begin_flush(None).await?;
            } else if self.has_topic() && self.position > self.record.topic_cursor {
                self.begin_commit();
            } else {
                return Err(Exit::Stop(StopReason::Revoked));
            }
        }
    }
}
