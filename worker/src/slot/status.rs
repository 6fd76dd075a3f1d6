//! What a slot tells about itself: read by heartbeats, written by the slot's task.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use millrace_common::record::CommittedRecord;
use millrace_common::types::{Epoch, NextOffset, SlotId, SlotMetrics, SlotPhase, SlotReport};
use tokio::sync::Notify;

use crate::compute::Meter;

/// Shared between a slot's task and the session.
#[derive(Debug)]
pub(crate) struct SlotStatus {
    slot: SlotId,
    epoch: Epoch,
    state: Mutex<State>,
    /// Of the slot's work on the compute pool.
    meter: Meter,
    /// Told at each change that the master should hear of at once.
    changed: Arc<Notify>,
}

#[derive(Debug)]
struct State {
    phase: SlotPhase,
    metrics: SlotMetrics,
    read: Read,
    rates_from: (Instant, Read),
    /// Why the slot opens anew again and again, and since when that is known.
    trouble: Option<(Instant, String)>,
}

/// A trouble that did not come back for so long is over.
const TROUBLE: Duration = Duration::from_secs(60);

/// What the slot took in since it opened.
#[derive(Debug, Clone, Copy, Default)]
struct Read {
    records: u64,
    bytes: u64,
    compute: Duration,
}

impl SlotStatus {
    pub(crate) fn new(slot: SlotId, epoch: Epoch, changed: Arc<Notify>) -> Arc<Self> {
        let state = State {
            phase: SlotPhase::Opening,
            metrics: SlotMetrics::default(),
            read: Read::default(),
            rates_from: (Instant::now(), Read::default()),
            trouble: None,
        };
        Arc::new(Self { slot, epoch, state: Mutex::new(state), meter: Meter::default(), changed })
    }

    pub(crate) fn meter(&self) -> Meter {
        self.meter.clone()
    }

    pub(crate) fn set_phase(&self, phase: SlotPhase) {
        self.lock().phase = phase;
        self.changed.notify_one();
    }

    /// Says what the slot waits for; `None` when it moves again.
    pub(crate) fn set_waiting_for(&self, what: Option<String>) {
        self.lock().metrics.waiting_for = what;
    }

    /// Says why the slot opens anew, shown while it waits for nothing else, until a commit succeeds.
    pub(crate) fn set_trouble(&self, trouble: String) {
        self.lock().trouble = Some((Instant::now(), trouble));
    }

    pub(crate) fn update(&self, change: impl FnOnce(&mut SlotMetrics)) {
        change(&mut self.lock().metrics);
    }

    pub(crate) fn add_read(&self, records: u64, bytes: u64) {
        let read = &mut self.lock().read;
        read.records += records;
        read.bytes += bytes;
    }

    /// The slot is claimed, and its record is known.
    pub(crate) fn claimed(&self, record: &CommittedRecord, has_lake: bool, has_topic: bool) {
        let metrics = &mut self.lock().metrics;
        // Opened anew: what a commit of unknown outcome passed meanwhile is in no count.
        let uncounted = metrics.topic_cursor.map_or(0, |before| record.topic_cursor.0 - before.0);
        let from = metrics.topic_from.map_or(record.topic_cursor.0, |from| from.0 + uncounted);
        metrics.topic_from = has_topic.then_some(NextOffset(from));
        set_cursors(metrics, record, has_lake, has_topic);
    }

    /// A transaction is committed. If it moved a cursor the master hears of it at once: it is the end of a takeover.
    pub(crate) fn committed(
        &self,
        record: &CommittedRecord,
        has_lake: bool,
        has_topic: bool,
        moved: bool,
        count: impl FnOnce(&mut SlotMetrics),
    ) {
        let mut state = self.lock();
        state.trouble = None;
        let metrics = &mut state.metrics;
        set_cursors(metrics, record, has_lake, has_topic);
        count(metrics);
        if moved {
            let is_first = metrics.last_commit_at_ms.is_none();
            metrics.last_commit_at_ms = Some(unix_millis());
            drop(state);
            if is_first {
                self.changed.notify_one();
            }
        }
    }

    /// The report of a heartbeat. The rates are over the time since the report at least a second before.
    pub(crate) fn report(&self) -> SlotReport {
        let mut state = self.lock();
        let (since, before) = state.rates_from;
        let seconds = since.elapsed().as_secs_f64();
        if seconds >= 1.0 {
            let read = Read { compute: self.meter.held(), ..state.read };
            #[expect(
                clippy::cast_precision_loss,
                reason = "a rate, for people and for the shares of workers"
            )]
            let rate = |now: u64, before: u64| (now - before) as f64 / seconds;
            state.metrics.records_per_second = rate(read.records, before.records);
            state.metrics.bytes_per_second = rate(read.bytes, before.bytes);
            state.metrics.cpu = read.compute.saturating_sub(before.compute).as_secs_f64() / seconds;
            state.rates_from = (Instant::now(), read);
        }
        let metrics = &mut state.metrics;
        let slower = metrics.lake_cursor.into_iter().chain(metrics.topic_cursor).min();
        metrics.lag = match (metrics.end, slower) {
            (Some(end), Some(cursor)) => Some(u64::try_from(end.0 - cursor.0).unwrap_or(0)),
            _ => None,
        };
        let mut metrics = state.metrics.clone();
        if metrics.waiting_for.is_none() {
            let lasting = state.trouble.as_ref().filter(|(since, _)| since.elapsed() < TROUBLE);
            metrics.waiting_for = lasting.map(|(_, trouble)| trouble.clone());
        }
        SlotReport { slot: self.slot.clone(), epoch: self.epoch, phase: state.phase, metrics }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn set_cursors(metrics: &mut SlotMetrics, record: &CommittedRecord, has_lake: bool, has_topic: bool) {
    metrics.lake_cursor = has_lake.then_some(record.lake_cursor);
    metrics.topic_cursor = has_topic.then_some(record.topic_cursor);
}

/// Now, for people: no decision about correctness uses it.
pub(crate) fn unix_millis() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0))
}
