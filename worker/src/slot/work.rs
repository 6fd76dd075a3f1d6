//! Steps 4 to 7 of the protocol, over and over: read, fill the open files, flush when the roll policy says so.
//!
//! A flush runs beside the reading of what comes after it; there is one at a time.

use std::time::Duration;

use bytes::Bytes;
use futures::future::{BoxFuture, OptionFuture};
use millrace_common::headers;
use millrace_common::types::{HaltKind, Millis, NextOffset, SlotPhase, StopReason};
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};

use super::flush::{self, Flush};
use super::publish::prove_ownership;
use super::roll::{self, Pending, RollReason};
use super::{Exit, Open, Slot};
use crate::compute::blocking;
use crate::kafka::{Batch, Fetched, InvalidRecord, PartitionReader};
use crate::transform::{LakeBuffer, Provenance};

/// Records of one batch: enough to amortise a hand-over to the compute pool.
const BATCH: usize = 16_384;
/// Committed offsets expire after days without a commit: an idle slot commits its record anew this often.
const REFRESH: Duration = Duration::from_secs(3600);
const KAFKA_DEADLINE: Duration = Duration::from_secs(10);

/// What was read and is not in a flush yet.
struct Taken {
    buffer: LakeBuffer,
    invalid: Vec<InvalidRecord>,
    invalid_bytes: u64,
}

struct Work<'a> {
    slot: &'a Slot,
    reader: PartitionReader,
    /// Moves to the compute pool and back with each batch.
    taken: Option<Taken>,
    pending: Pending,
    /// Next offset to read.
    position: NextOffset,
    /// The lake cursor after the flush under way, or as committed.
    flushed_to: NextOffset,
    /// Absent while a flush has it.
    open: Option<Open>,
    flushing: Option<BoxFuture<'a, Result<Open, Exit>>>,
    flushing_bytes: u64,
    /// Something may lie in the reader's queue.
    may_have_more: bool,
    started: Instant,
    refresh_at: Instant,
}

/// Works on an opened slot until something ends it.
pub(super) async fn work(slot: &Slot, open: Open) -> Exit {
    let cursor = open.record.lake_cursor;
    let reader = match read_from(slot, cursor).await {
        Ok(reader) => reader,
        Err(exit) => return exit,
    };
    slot.status.set_phase(SlotPhase::Running);
    slot.status.set_waiting_for(None);
    let provenance = Provenance { slot: slot.id.clone(), epoch: slot.epoch, topic: slot.topic.clone() };
    let mut work = Work {
        slot,
        reader,
        taken: Some(Taken { buffer: LakeBuffer::new(provenance), invalid: Vec::new(), invalid_bytes: 0 }),
        pending: Pending::default(),
        position: cursor,
        flushed_to: cursor,
        open: Some(open),
        flushing: None,
        flushing_bytes: 0,
        may_have_more: true,
        started: Instant::now(),
        refresh_at: Instant::now() + REFRESH,
    };
    let exit = loop {
        if let Err(exit) = work.step().await {
            break exit;
        }
    };
    // Off the runtime: giving the partition up and closing the producer block.
    let Work { reader, open, flushing, .. } = work;
    drop(flushing);
    blocking(move || {
        drop(reader);
        drop(open);
    })
    .await;
    exit
}

async fn read_from(slot: &Slot, cursor: NextOffset) -> Result<PartitionReader, Exit> {
    let attempt = || {
        let (consumer, topic, partition) = (slot.consumer.clone(), slot.topic.clone(), slot.id.partition);
        async move { blocking(move || consumer.read_from(&topic, partition, cursor.0)).await }
    };
    slot.persist("assigning the partition", attempt).await
}

impl Work<'_> {
    async fn step(&mut self) -> Result<(), Exit> {
        if let Some(reason) = self.due() {
            self.begin_flush(Some(reason)).await?;
        }
        let slot = self.slot;
        // While a flush runs, no more than another file's worth is read beside it.
        let full = self.flushing.is_some() && self.pending.bytes >= slot.definition.roll.max_bytes;
        let freed = slot.account.freed();
        let has_room = slot.account.has_room();
        let reads = has_room && !full;
        if reads && self.may_have_more {
            // Let a flush that can go on do so, and a revoke through, before the next batch.
            tokio::select! {
                biased;
                () = slot.abandoned.cancelled() => return Err(Exit::Stop(StopReason::Revoked)),
                () = slot.revoked.cancelled() => return self.give_up().await,
                Some(flushed) = OptionFuture::from(self.flushing.as_mut()) => return self.end_flush(flushed),
                () = std::future::ready(()) => {}
            }
            let fetched = self.reader.poll(BATCH);
            return self.take_in(fetched).await;
        }
        let check_at = match (self.flushing.is_some(), roll::next_check(&slot.definition.roll, &self.pending))
        {
            (false, Some(at)) => self.started + Duration::from_millis(at.0),
            _ => self.refresh_at,
        };
        tokio::select! {
            biased;
            () = slot.abandoned.cancelled() => Err(Exit::Stop(StopReason::Revoked)),
            () = slot.revoked.cancelled() => self.give_up().await,
            Some(flushed) = OptionFuture::from(self.flushing.as_mut()) => self.end_flush(flushed),
            () = slot.account.must_flush(), if self.flushing.is_none() => {
                debug!(slot = %slot.id, bytes = self.pending.bytes, "memory budget reached");
                if self.pending.oldest_at.is_some() {
                    self.begin_flush(None).await?;
                }
                Ok(())
            }
            () = sleep_until(check_at), if self.flushing.is_none() => self.on_time().await,
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

    fn due(&self) -> Option<RollReason> {
        if self.flushing.is_some() {
            return None;
        }
        roll::due(&self.slot.definition.roll, &self.pending, self.now())
    }

    /// A deadline passed with no flush under way: time to roll is seen at the next step, so only the refresh is
    /// left to do here.
    async fn on_time(&mut self) -> Result<(), Exit> {
        if Instant::now() < self.refresh_at {
            return Ok(());
        }
        self.refresh_at = Instant::now() + REFRESH;
        let Some(Open { producer, record }) = self.open.take() else { return Ok(()) };
        let producer = prove_ownership(self.slot, &record, producer).await?;
        self.open = Some(Open { producer, record });
        Ok(())
    }

    /// Takes a fetched batch into the open files, on the compute pool.
    async fn take_in(&mut self, fetched: Fetched) -> Result<(), Exit> {
        let Fetched { batch, end, out_of_range, trouble } = fetched;
        if let Some(trouble) = trouble {
            warn!(slot = %self.slot.id, epoch = %self.slot.epoch, trouble, "fetching goes on trying");
            self.slot.status.set_waiting_for(Some(format!("fetching: {trouble}")));
        }
        let read = batch.len();
        self.may_have_more = read > 0;
        if read > 0 {
            let from = self.position;
            let mut taken = self.taken.take().expect("taken is only away within this function");
            let slot_headers = SourceHeaders::of(self.slot);
            let (taken, position) = self
                .slot
                .compute
                .run(move || {
                    let position = append(&mut taken, &batch, from, &slot_headers);
                    (taken, position)
                })
                .await;
            self.taken = Some(taken);
            self.position = position;
            self.slot.status.add_records_read(read as u64);
            self.slot.status.set_waiting_for(None);
        }
        if let Some(end) = end {
            // Behind the last record may be markers and aborted records: the position passes them.
            self.position = self.position.max(NextOffset(end));
            self.may_have_more = false;
        }
        self.note_pending(read > 0);
        if out_of_range {
            return Err(offsets_lost(self.slot, self.position).await);
        }
        Ok(())
    }

    /// Brings what is pending, the account and the status up to date.
    fn note_pending(&mut self, read_records: bool) {
        let now = self.now();
        if self.position > self.flushed_to {
            self.pending.oldest_at.get_or_insert(now);
            if read_records || self.pending.newest_at.is_none() {
                self.pending.newest_at = Some(now);
            }
        }
        let (rows, unplaced) = match &self.taken {
            Some(taken) => {
                self.pending.bytes = taken.buffer.buffered_bytes() + taken.invalid_bytes;
                (taken.buffer.rows() + taken.invalid.len() as u64, taken.buffer.rows_unplaced())
            }
            None => (0, 0),
        };
        self.pending.rows = rows;
        self.slot.account.set(self.pending.bytes, self.flushing_bytes);
        let end = self.reader.known_end().map_or(self.position, |end| self.position.max(NextOffset(end)));
        let (position, bytes) = (self.position, self.pending.bytes + self.flushing_bytes);
        self.slot.status.update(|metrics| {
            metrics.position = Some(position);
            metrics.end = Some(end);
            metrics.buffered_rows = rows;
            metrics.buffered_bytes = bytes;
            metrics.rows_unplaced = unplaced;
        });
    }

    /// Closes the open files and begins to make them durable.
    async fn begin_flush(&mut self, reason: Option<RollReason>) -> Result<(), Exit> {
        let Some(open) = self.open.take() else { return Ok(()) };
        let mut taken = self.taken.take().expect("taken is only away within a call");
        let (sequence, range) = (open.record.sequence + 1, self.flushed_to..self.position);
        let finished = self
            .slot
            .compute
            .run(move || {
                let files = taken.buffer.finish(sequence, range);
                let invalid = std::mem::take(&mut taken.invalid);
                let invalid_bytes = std::mem::take(&mut taken.invalid_bytes);
                (taken, files, invalid, invalid_bytes)
            })
            .await;
        let (taken, files, invalid, invalid_bytes) = finished;
        self.taken = Some(taken);
        let files = files.map_err(|error| {
            Exit::Stop(StopReason::Failed { detail: format!("a Parquet file can't be closed: {error}") })
        })?;
        self.flushing_bytes = invalid_bytes + files.iter().map(|file| file.bytes.len() as u64).sum::<u64>();
        self.flushed_to = self.position;
        self.pending = Pending::default();
        let flush = Flush { reason, next: self.position, files, invalid };
        self.flushing = Some(Box::pin(flush::run(self.slot, open, flush)));
        self.note_pending(false);
        Ok(())
    }

    fn end_flush(&mut self, flushed: Result<Open, Exit>) -> Result<(), Exit> {
        self.flushing = None;
        self.flushing_bytes = 0;
        self.open = Some(flushed?);
        self.refresh_at = Instant::now() + REFRESH;
        self.slot.status.set_waiting_for(None);
        self.note_pending(false);
        Ok(())
    }

    /// Revoked: commit what was read, then stop. Giving up for good (`abandoned`) cuts it short.
    async fn give_up(&mut self) -> Result<(), Exit> {
        self.slot.status.set_phase(SlotPhase::Revoking);
        if let Some(flushing) = self.flushing.take() {
            let flushed = flushing.await;
            self.end_flush(flushed)?;
        }
        if self.position > self.flushed_to {
            self.begin_flush(None).await?;
            if let Some(flushing) = self.flushing.take() {
                let flushed = flushing.await;
                self.end_flush(flushed)?;
            }
        }
        Err(Exit::Stop(StopReason::Revoked))
    }
}

async fn offsets_lost(slot: &Slot, position: NextOffset) -> Exit {
    let (consumer, topic, partition) = (slot.consumer.clone(), slot.topic.clone(), slot.id.partition);
    let asked = blocking(move || consumer.watermarks(&topic, partition, KAFKA_DEADLINE)).await;
    let held = match asked {
        Ok((low, high)) => format!("it holds {low} to {high}"),
        Err(error) => format!("what it holds is unknown ({error})"),
    };
    Exit::halt(
        HaltKind::OffsetsLost,
        format!(
            "{}/{} no longer holds offset {position}, the next one that the lake needs; {held}",
            slot.topic, slot.id.partition
        ),
    )
}

/// Headers that say where a quarantined record came from.
struct SourceHeaders {
    pipeline: String,
    topic: String,
    partition: i32,
}

impl SourceHeaders {
    fn of(slot: &Slot) -> Self {
        Self {
            pipeline: slot.id.pipeline.to_string(),
            topic: slot.topic.clone(),
            partition: slot.id.partition,
        }
    }
}

/// Appends a batch's records from `from` on; returns the position behind it.
fn append(taken: &mut Taken, batch: &Batch, from: NextOffset, source: &SourceHeaders) -> NextOffset {
    let mut position = from;
    for record in batch.records() {
        if record.offset < position.0 {
            continue;
        }
        position = NextOffset::after(record.offset);
        let Err(rejection) = taken.buffer.append(&record) else { continue };
        let invalid = InvalidRecord {
            key: record.key.map(Bytes::copy_from_slice),
            value: record.value.map(Bytes::copy_from_slice),
            headers: vec![
                (headers::ORIGIN, headers::ORIGIN_WORKER.to_owned()),
                (headers::REASON, rejection.code.to_string()),
                (headers::POINTER, rejection.pointer),
                (headers::MESSAGE, rejection.message),
                (headers::PIPELINE, source.pipeline.clone()),
                (headers::SOURCE_TOPIC, source.topic.clone()),
                (headers::SOURCE_PARTITION, source.partition.to_string()),
                (headers::SOURCE_OFFSET, record.offset.to_string()),
            ],
        };
        // Twice the bytes: here, and in the producer's queue while the transaction runs.
        let held = record.value.map_or(0, <[u8]>::len) + record.key.map_or(0, <[u8]>::len) + 512;
        taken.invalid_bytes += 2 * held as u64;
        taken.invalid.push(invalid);
    }
    position
}
