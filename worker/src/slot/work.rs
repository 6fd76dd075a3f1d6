//! Steps 4 to 7 of the protocol, over and over: read, take in, commit, and flush when the roll policy says so.
//!
//! Four things run side by side, one of each at a time: reading and judging; a commit, which has the producer; the
//! staging of a flush; and the publication of the one before it. A flush is committed only when the one before it is
//! published; the topic sink's commits wait for neither.

use std::collections::BTreeMap;
use std::time::Duration;

use futures::future::{BoxFuture, OptionFuture};
use millrace_common::record::CommittedRecord;
use millrace_common::telemetry::TRACES;
use millrace_common::types::{HaltKind, Millis, NextOffset, SlotPhase, StopReason, TransformDefinition};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info_span, warn};

use super::begin::{Log, level_window};
use super::commit::{commit, prove_ownership};
use super::flush::{Flush, Staged, stage};
use super::intake::{Intake, Origin, Products, Tally};
use super::latest::LatestRows;
use super::publish::{Unpublished, publish_flush};
use super::roll::{self, Pending, RollReason};
use super::trial::try_batch;
use super::{Claimed, Exit, Open, Slot};
use crate::compute::blocking;
use crate::kafka::{Batch, Fetched, PartitionReader};
use crate::lake::{LakeBuffer, LakeFormat, Provenance};

/// Records of one batch: enough to amortise a hand-over to the compute pool.
const BATCH: usize = 16_384;
/// The topic sink commits early when this much waits for it.
const TOPIC_BYTES: u64 = 8 << 20;
/// Committed offsets expire after days without a commit: an idle slot commits its record anew this often.
const REFRESH: Duration = Duration::from_secs(3600);
const KAFKA_DEADLINE: Duration = Duration::from_secs(10);
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
}

/// Works on an opened slot until something ends it.
pub(super) async fn work(slot: &Slot, open: Open, tries_records: bool) -> Exit {
    let Open { claimed, transform, only_levels } = open;
    let definition = &slot.definition;
    let record = claimed.record.clone();
    let provenance = Provenance { slot: slot.id.clone(), epoch: slot.epoch, topic: slot.topic.clone() };
    let lake = slot.lake.is_some().then(|| LakeBuffer::new(provenance, LakeFormat::new(transform.columns())));
    let origin = Origin { slot: slot.id.clone(), topic: slot.topic.clone() };
    let has_topic = definition.enriched_topic.is_some();
    let stop_at = only_levels.then_some(record.topic_cursor);
    let intake = Intake::new(origin, transform, lake, has_topic, &record, stop_at);
    let start = intake.read_from();
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

    fn commit_is_due(&self) -> bool {
        if self.staged.is_some() && self.publishing.is_none() {
            return true;
        }
        let now = Instant::now();
        let topic = self.has_topic()
            && self.position > self.record.topic_cursor
            && (self.topic_due.is_some_and(|due| due <= now)
                || self.intake().topic_memory() >= TOPIC_BYTES
                || self.intake().is_full_of_rejections());
        topic || self.refresh_at <= now
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

    fn may_read(&mut self) -> bool {
        if self.rate_free_at.is_some_and(|free_at| free_at <= Instant::now()) {
            self.rate_free_at = None;
        }
        // While a flush is under way, no more than another file's worth is read beside it; the same for a commit.
        let is_flushing = self.staging.is_some() || self.staged.is_some();
        let lake_full = is_flushing && self.pending.bytes >= self.slot.definition.roll.max_bytes;
        let topic_full = self.committing.is_some() && self.intake().topic_memory() >= TOPIC_BYTES;
        let rejections_full = self.intake().is_full_of_rejections();
        !lake_full && !topic_full && !rejections_full && !self.is_at_stop() && self.rate_free_at.is_none()
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

    /// Takes in what lies ready.
    async fn read(&mut self) -> Result<(), Exit> {
        if let Some(leftover) = self.leftover.take() {
            return self.take_in(leftover, None).await;
        }
        let mut most = BATCH;
        if let Some(rate) = &self.slot.rate {
            match rate.take(BATCH, std::time::Instant::now()) {
                Ok(allowed) => most = allowed,
                Err(wait) => {
                    self.rate_free_at = Some(Instant::now() + wait);
                    return Ok(());
                }
            }
        }
        let Fetched { batch, end, out_of_range, trouble } = self.reader.poll(most);
        if let Some(rate) = &self.slot.rate {
            rate.give_back(most - batch.len());
        }
        if let Some(trouble) = trouble {
            warn!(slot = %self.slot.id, epoch = %self.slot.epoch, trouble, "fetching goes on trying");
            self.slot.status.set_waiting_for(Some(format!("fetching: {trouble}")));
        }
        self.may_have_more = batch.len() > 0 && end.is_none();
        self.slot.status.add_records_read(batch.len() as u64);
        self.take_in(Leftover { batch, first: 0 }, end).await?;
        if out_of_range {
            return Err(offsets_lost(self.slot, self.position, &self.record).await);
        }
        Ok(())
    }

    /// Takes read records in, on the compute pool. `end`: the partition ends behind them.
    async fn take_in(&mut self, read: Leftover, end: Option<i64>) -> Result<(), Exit> {
        let Leftover { batch, first } = read;
        let read_records = batch.len() > first;
        if read_records {
            let (batch, failing) = match self.position < self.try_below {
                true => try_batch(self.slot, &self.transform, batch, first).await?,
                false => (batch, BTreeMap::new()),
            };
            let mut intake = self.intake.take().expect("the intake is only away within a call");
            let position = self.position;
            let taken = self
                .slot
                .compute
                .catch(move || {
                    let taken = intake.take_in(&batch, first, position, &failing);
                    (intake, batch, taken)
                })
                .await;
            let (intake, batch, taken) = taken.map_err(Exit::TransformFailed)?;
            self.intake = Some(intake);
            let (next, position) = taken.map_err(|changed| {
                Exit::halt(
                    HaltKind::TransformChanged,
                    format!(
                        "offset {} is on the enriched topic, but this millrace ({}) refuses it: {}; run the version that \
                         took it until the lake has passed it",
                        changed.offset,
                        millrace_common::types::VERSION,
                        changed.rejection
                    ),
                )
            })?;
            self.position = position;
            self.slot.status.set_waiting_for(None);
            if next < batch.len() {
                self.leftover = Some(Leftover { batch, first: next });
                // Behind the leftover the end is seen again: by the next read, which finds nothing more.
                self.may_have_more = true;
            }
        }
        if let Some(end) = end.filter(|_| self.leftover.is_none()) {
            // Behind the last record may be markers and aborted records: the position passes them.
            self.position = self.position.max(NextOffset(end));
        }
        self.note_progress(read_records);
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
        if self.has_topic() && self.topic_due.is_none() && self.position > self.record.topic_cursor {
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

    /// Closes the open files and begins to stage them.
    async fn begin_flush(&mut self, reason: Option<RollReason>) -> Result<(), Exit> {
        let Some(lake) = &self.slot.lake else { return Ok(()) };
        let mut intake = self.intake.take().expect("the intake is only away within a call");
        let (sequence, range) = (self.record.sequence + 1, self.flushed_to..self.position);
        let (closed, has_topic) = (range.clone(), self.has_topic());
        let finished = self
            .slot
            .compute
            .catch(move || {
                let files = intake.finish(sequence, closed);
                let products = if has_topic { Products::default() } else { intake.take_products() };
                let traces = intake.take_lake_traces();
                (intake, files, products, traces)
            })
            .await;
        let (intake, files, products, traces) = finished.map_err(Exit::Doubt)?;
        self.intake = Some(intake);
        let files = files.map_err(|error| {
            Exit::Stop(StopReason::Failed { detail: format!("a Parquet file can't be closed: {error}") })
        })?;
        self.staging_bytes =
            products.memory() + files.iter().map(|file| file.bytes.len() as u64).sum::<u64>();
        self.flushed_to = range.end;
        self.pending = Pending::default();
        let flush = Flush { reason, sequence, range, files, products, traces };
        self.staging = Some(Box::pin(stage(self.slot, lake, flush)));
        self.note_progress(false);
        Ok(())
    }

    fn end_staging(&mut self, staged: Result<Staged, Exit>) -> Result<(), Exit> {
        self.staging = None;
        self.staged = Some(staged?);
        Ok(())
    }

    /// Begins a commit of everything that waits for one. The claim must be here.
    fn begin_commit(&mut self) {
        let Some(claimed) = self.claimed.take() else { return };
        let (slot, has_topic, has_lake) = (self.slot, self.has_topic(), self.slot.lake.is_some());
        // A flush waits until the one before it is published.
        let mut staged = if self.publishing.is_none() { self.staged.take() } else { None };
        let intake = self.intake.as_mut().expect("the intake is only away within a call");
        let products = match &mut staged {
            _ if has_topic => intake.take_products(),
            Some(staged) => std::mem::take(&mut staged.products),
            None => Products::default(),
        };
        let mut record = self.record.clone();
        let previous = record.manifest.as_ref().map(|pointer| pointer.key.clone());
        if let Some(staged) = &staged {
            record.lake_cursor = staged.manifest.next_offset;
            record.sequence = staged.manifest.sequence;
            record.manifest = Some(staged.pointer.clone());
        }
        if has_topic {
            record.topic_cursor = record.topic_cursor.max(self.position);
        } else {
            record.topic_cursor = record.lake_cursor;
        }
        if !has_lake {
            record.lake_cursor = record.topic_cursor;
        }
        assert!(record.lake_cursor <= record.topic_cursor, "the lake never passes the topic: {record:?}");
        record.rejected = intake.rejected_from(record.lake_cursor);
        if record.is_level() && self.position == record.topic_cursor {
            let first = NextOffset(self.reader.known_first().unwrap_or(0));
            record.window = level_window(&record, record.window.size, Log { first });
            // What is judged from here on is judged by the window that the record will hold.
            intake.set_window(record.window);
        }
        self.topic_due = None;
        self.refresh_at = Instant::now() + REFRESH;
        let staged_products = if has_topic { 0 } else { self.staging_bytes };
        self.committing_bytes = products.memory() + staged_products;
        let (enriched, quarantined) = (products.enriched.len() as u64, products.invalid.len() as u64);
        let tally = products.tally;
        let commit_span = |sink: &'static str| {
            let (slot, epoch, cursor) = (&slot.id, &slot.epoch, &record.topic_cursor);
            move || info_span!(target: TRACES, "commit", otel.kind = "producer", sink, %slot, %epoch, %cursor)
        };
        let mut spans = vec![products.traces.begin(commit_span("topic"))];
        if let Some(staged) = &staged {
            spans.push(staged.spans.within(i64::MIN..i64::MAX, commit_span("lake")));
        }
        self.committing = Some(Box::pin(async move {
            let committed = commit(slot, claimed, record, products).await;
            if committed.is_err() {
                spans.iter().for_each(|spans| spans.fail("not committed, or not certainly"));
            }
            let claimed = committed?;
            Ok(Committed { claimed, enriched, quarantined, tally, flushed: staged, previous })
        }));
        self.note_progress(false);
    }

    fn end_commit(&mut self, committed: Result<Committed, Exit>) -> Result<(), Exit> {
        self.committing = None;
        self.committing_bytes = 0;
        let Committed { claimed, enriched, quarantined, tally, flushed, previous } = committed?;
        let moved = claimed.record.topic_cursor > self.record.topic_cursor || flushed.is_some();
        self.record = claimed.record.clone();
        self.claimed = Some(claimed);
        let rows = flushed.as_ref().map_or(0, Staged::rows);
        let (has_lake, has_topic) = (self.slot.lake.is_some(), self.has_topic());
        self.slot.status.committed(&self.record, has_lake, has_topic, moved, |metrics| {
            metrics.rows_committed += rows;
            metrics.records_enriched += enriched;
            metrics.records_quarantined += quarantined;
            metrics.client_duplicates += tally.client_duplicates;
            metrics.records_filtered += tally.filtered;
        });
        if let Some(staged) = flushed {
            self.staging_bytes = 0;
            let intake = self.intake.as_mut().expect("the intake is only away within a call");
            intake.forget_rejected_below(self.record.lake_cursor);
            self.publishing = Some(Box::pin(publish_flush(self.slot, staged, previous)));
        }
        self.note_progress(false);
        Ok(())
    }

    /// A flush is published; or it can't be, and whose fault that is must be proven.
    async fn end_publishing(&mut self, published: Result<Option<Unpublished>, Exit>) -> Result<(), Exit> {
        self.publishing = None;
        let Some(Unpublished { staged, missing }) = published? else {
            self.slot.status.set_waiting_for(None);
            return Ok(());
        };
        if let Some(committing) = self.committing.take() {
            let committed = committing.await;
            self.end_commit(committed)?;
        }
        if let Some(claimed) = self.claimed.take() {
            self.claimed = Some(prove_ownership(self.slot, claimed).await?);
        }
        // Ours. A file that is still not there is lost.
        match publish_flush(self.slot, staged, None).await? {
            None => Ok(()),
            Some(_) => Err(Exit::halt(HaltKind::ManifestMismatch, missing)),
        }
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

async fn offsets_lost(slot: &Slot, position: NextOffset, record: &CommittedRecord) -> Exit {
    if position < record.lake_cursor {
        // Only what the duplicate rule looks back to is gone: opening anew sees that.
        return Exit::Doubt(format!(
            "offset {position} is gone, of those that the duplicate rule looks back to"
        ));
    }
    let (consumer, topic, partition) = (slot.consumer.clone(), slot.topic.clone(), slot.id.partition);
    let asked = blocking(move || consumer.watermarks(&topic, partition, KAFKA_DEADLINE)).await;
    let held = match asked {
        Ok((low, high)) => format!("it holds {low} to {high}"),
        Err(error) => format!("what it holds is unknown ({error})"),
    };
    Exit::halt(
        HaltKind::OffsetsLost,
        format!(
            "{}/{} no longer holds offset {position}, the next one that the slot needs; {held}",
            slot.topic, slot.id.partition
        ),
    )
}
