//! Step 4 of the protocol: read what lies ready, and take it in.

use std::collections::BTreeMap;

use millrace_common::record::CommittedRecord;
use millrace_common::types::{HaltKind, NextOffset, StopReason};
use tokio::time::Instant;
use tracing::warn;

use super::{BATCH, Leftover, TOPIC_BYTES, Work};
use crate::compute::blocking;
use crate::kafka::Fetched;
use crate::slot::intake::NotTaken;
use crate::slot::trial::try_batch;
use crate::slot::{Exit, KAFKA_DEADLINE, Slot};

impl Work<'_> {
    pub(super) fn may_read(&mut self) -> bool {
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

    /// Takes in what lies ready.
    pub(super) async fn read(&mut self) -> Result<(), Exit> {
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
        self.slot.status.add_read(batch.len() as u64, batch.bytes());
        self.take_in(Leftover { batch, first: 0 }, end).await?;
        if out_of_range {
            return Err(offsets_lost(self.slot, self.position, &self.record).await);
        }
        Ok(())
    }

    /// Takes read records in, on the compute pool. `end`: the partition ends behind them.
    pub(super) async fn take_in(&mut self, read: Leftover, end: Option<i64>) -> Result<(), Exit> {
        let Leftover { batch, first } = read;
        let read_records = batch.len() > first;
        if read_records {
            let timestamp_ms = batch.records(first, false).next().map_or(-1, |record| record.timestamp_ms);
            self.times.batch_from.get_or_insert_with(Instant::now);
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
            let (next, position) = taken.map_err(|not_taken| match not_taken {
                NotTaken::VerdictChanged { .. } => {
                    Exit::halt(HaltKind::TransformChanged, not_taken.to_string())
                }
                NotTaken::TransformAtFault { .. } => {
                    Exit::Stop(StopReason::Failed { detail: not_taken.to_string() })
                }
            })?;
            self.position = position;
            self.times.topic.read(position.0, timestamp_ms);
            self.times.lake.read(position.0, timestamp_ms);
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
