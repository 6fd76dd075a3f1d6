//! Steps 6 and 7 of the protocol around their commit: open files are closed and staged, committed ones published.

use millrace_common::types::{HaltKind, StopReason};

use tokio::time::Instant;

use super::{Work, elapsed_ms};
use crate::slot::Exit;
use crate::slot::commit::prove_ownership;
use crate::slot::flush::{Flush, Staged, stage};
use crate::slot::intake::Products;
use crate::slot::publish::{Unpublished, publish_flush};
use crate::slot::roll::{Pending, RollReason};
use crate::slot::status::unix_millis;

impl Work<'_> {
    /// Closes the open files and begins to stage them.
    pub(super) async fn begin_flush(&mut self, reason: Option<RollReason>) -> Result<(), Exit> {
        let Some(lake) = &self.slot.lake else { return Ok(()) };
        let mut intake = self.intake.take().expect("the intake is only away within a call");
        self.times.flush_from = Some(Instant::now());
        let (sequence, range) = (self.next_sequence, self.flushed_to..self.position);
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
        self.next_sequence += 1;
        self.pending = Pending::default();
        let flush = Flush { reason, sequence, range, files, products, traces };
        self.staging = Some(Box::pin(stage(self.slot, lake, flush)));
        self.note_progress(false);
        Ok(())
    }

    pub(super) fn end_staging(&mut self, staged: Result<Staged, Exit>) -> Result<(), Exit> {
        self.staging = None;
        self.staged = Some(staged?);
        Ok(())
    }

    /// A flush is published; or it can't be, and whose fault that is must be proven.
    pub(super) async fn end_publishing(
        &mut self,
        published: Result<Option<Unpublished>, Exit>,
    ) -> Result<(), Exit> {
        self.publishing = None;
        let Some(Unpublished { staged, missing }) = published? else {
            self.slot.status.set_waiting_for(None);
            self.note_published();
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
            None => {
                self.note_published();
                Ok(())
            }
            Some(_) => Err(Exit::halt(HaltKind::ManifestMismatch, missing)),
        }
    }

    /// Everything below the lake cursor can be read in the lake.
    fn note_published(&mut self) {
        self.times.lake.hold(self.record.lake_cursor.0, std::time::Instant::now(), unix_millis());
        let lake_freshness_ms = self.times.lake.p99_ms();
        // The next flush may be under way already: it is measured from its own beginning.
        let flush_ms = elapsed_ms(self.times.published_from.take());
        self.slot.status.update(|metrics| {
            (metrics.lake_freshness_ms, metrics.flush_ms) = (lake_freshness_ms, flush_ms);
        });
    }
}
