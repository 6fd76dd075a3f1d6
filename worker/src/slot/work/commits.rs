//! Steps 5 and 6 of the protocol: when a commit begins, what it takes along, and what follows from it.

use millrace_common::telemetry::TRACES;
use millrace_common::types::NextOffset;
use tokio::time::Instant;
use tracing::info_span;

use super::{Committed, REFRESH, TOPIC_BYTES, Work, elapsed_ms};
use crate::slot::Exit;
use crate::slot::begin::{Log, level_window};
use crate::slot::commit::commit;
use crate::slot::flush::Staged;
use crate::slot::intake::Products;
use crate::slot::publish::publish_flush;
use crate::slot::status::unix_millis;

impl Work<'_> {
    pub(super) fn commit_is_due(&self) -> bool {
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

    /// Begins a commit of everything that waits for one. The claim must be here.
    pub(super) fn begin_commit(&mut self) {
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
            // From here on another one may begin.
            self.times.published_from = self.times.flush_from.take();
            let (expected, manifest) = ((record.sequence + 1, record.lake_cursor), &staged.manifest);
            assert_eq!((manifest.sequence, manifest.first_offset), expected, "flushes follow one another");
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
        self.times.commit_from = Some(Instant::now());
        let batch_ms = elapsed_ms(self.times.batch_from.take());
        slot.status.update(|metrics| metrics.batch_ms = batch_ms.or(metrics.batch_ms));
        self.refresh_at = Instant::now() + REFRESH;
        let staged_products = if has_topic { 0 } else { self.staging_bytes };
        // Twice: the producer's queue has a copy until the broker acknowledges it.
        self.committing_bytes = 2 * products.memory() + staged_products;
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

    pub(super) fn end_commit(&mut self, committed: Result<Committed, Exit>) -> Result<(), Exit> {
        self.committing = None;
        self.committing_bytes = 0;
        let Committed { claimed, enriched, quarantined, tally, flushed, previous } = committed?;
        let moved = claimed.record.topic_cursor > self.record.topic_cursor || flushed.is_some();
        self.record = claimed.record.clone();
        self.claimed = Some(claimed);
        let rows = flushed.as_ref().map_or(0, Staged::rows);
        let (has_lake, has_topic) = (self.slot.lake.is_some(), self.has_topic());
        let commit_ms = elapsed_ms(self.times.commit_from.take());
        self.times.topic.hold(self.record.topic_cursor.0, std::time::Instant::now(), unix_millis());
        let topic_freshness_ms = self.times.topic.p99_ms().filter(|_| has_topic);
        self.slot.status.committed(&self.record, has_lake, has_topic, moved, |metrics| {
            (metrics.commit_ms, metrics.topic_freshness_ms) = (commit_ms, topic_freshness_ms);
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
}
