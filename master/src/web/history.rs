//! What the cluster was like during the last two minutes, for sparklines, rates and scorecards: one look a second, kept
//! in memory alone. For people; nothing is decided by it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use millrace_common::shutdown::Shutdown;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tracing::debug;

use super::flow::{self, Flow, marks, mix};
use super::model::{Cluster, Failover, Slot, SlotState};
use crate::browse::{Browse, Known, topics};
use crate::handle::{Handle, Refused};
use crate::snapshot;
use crate::sources::Sources;

/// Between two looks.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// Between two questions for the invalid topics' ends.
const INVALID_EVERY: Duration = Duration::from_secs(2);
/// Points of a series.
const POINTS: usize = 120;
/// Scorecards that are followed.
const SCORES: usize = 200;

/// A look at the cluster; `Err` while it can't be seen.
pub(super) type Moment = Option<Result<Arc<Cluster>, Refused>>;

/// Figures of the last two minutes, one a second, the oldest first.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Series {
    pub(crate) records_per_second: VecDeque<f64>,
    pub(crate) cpu: VecDeque<f64>,
    pub(crate) memory_used_bytes: VecDeque<f64>,
    pub(crate) lag: VecDeque<f64>,
    /// Of a worker's process.
    pub(crate) resident_bytes: VecDeque<f64>,
    /// Of the slowest of its slots.
    pub(crate) commit_ms: VecDeque<f64>,
    pub(crate) batch_ms: VecDeque<f64>,
    pub(crate) flush_ms: VecDeque<f64>,
    pub(crate) topic_freshness_ms: VecDeque<f64>,
    pub(crate) lake_freshness_ms: VecDeque<f64>,
}

impl Series {
    #[allow(clippy::cast_precision_loss, reason = "figures for a sparkline")]
    fn add_times<'a>(&mut self, slots: &(impl Iterator<Item = &'a Slot> + Clone)) {
        let mut add = |series: fn(&mut Self) -> &mut VecDeque<f64>, figure: fn(&Slot) -> Option<u64>| {
            push(series(self), slots.clone().filter_map(figure).max().unwrap_or(0) as f64);
        };
        add(|series| &mut series.commit_ms, |slot| slot.commit_ms);
        add(|series| &mut series.batch_ms, |slot| slot.batch_ms);
        add(|series| &mut series.flush_ms, |slot| slot.flush_ms);
        add(|series| &mut series.topic_freshness_ms, |slot| slot.topic_freshness_ms);
        add(|series| &mut series.lake_freshness_ms, |slot| slot.lake_freshness_ms);
    }
}

/// What became of a lost worker's slots, as far as it was watched.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Score {
    /// Where each slot's partition ended when that was first known after the loss: a new owner that just opens it has
    /// told nothing yet.
    ends: HashMap<String, Option<i64>>,
    /// Records that the lost worker had read and not committed.
    pub(super) replayed: u64,
    pub(super) caught_up_at_ms: Option<u64>,
}

/// What the invalid topics held when they were last asked.
#[derive(Debug, Default)]
struct Invalid {
    seen: Option<(Instant, u64)>,
    /// What workers have set aside, as far as it was watched.
    quarantined: u64,
    quarantined_then: u64,
    /// `None` until they were asked twice.
    refused_per_second: Option<f64>,
}

#[derive(Debug, Default)]
struct Past {
    workers: HashMap<String, Series>,
    pipelines: HashMap<String, Series>,
    /// How fast the lag of a slot falls, in records a second; negative while it grows.
    falls: HashMap<String, f64>,
    flow: Flow,
    invalid: Invalid,
    scores: BTreeMap<(u64, String), Score>,
    /// The look before.
    last: Option<Arc<Cluster>>,
}

/// Cheap to clone; all clones show the same.
#[derive(Debug, Clone)]
pub(super) struct History {
    past: Arc<Mutex<Past>>,
    moments: watch::Sender<Moment>,
}

impl Default for History {
    fn default() -> Self {
        Self { past: Arc::default(), moments: watch::Sender::new(None) }
    }
}

impl History {
    /// Looks until the shutdown begins.
    pub(super) async fn keep(self, sources: Sources, shutdown: Shutdown) {
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                _ = ticks.tick() => {}
            }
            let look = sources.handle.look().await;
            let moment = look.map(|look| Arc::new(snapshot::cluster(&look, &sources)));
            if let Ok(cluster) = &moment {
                self.lock().add(cluster);
            }
            self.moments.send_replace(Some(moment));
        }
    }

    /// The look of each second, as it comes.
    pub(super) fn moments(&self) -> watch::Receiver<Moment> {
        self.moments.subscribe()
    }

    pub(super) fn worker(&self, id: &str) -> Series {
        self.lock().workers.get(id).cloned().unwrap_or_default()
    }

    pub(super) fn pipeline(&self, id: &str) -> Series {
        self.lock().pipelines.get(id).cloned().unwrap_or_default()
    }

    /// Records a second by which the slot's lag falls; `None` until it was looked at twice.
    pub(super) fn fall(&self, slot: &str) -> Option<f64> {
        self.lock().falls.get(slot).copied()
    }

    pub(super) fn flow(&self) -> Flow {
        self.lock().flow.clone()
    }

    /// The invalid topics have had so many offsets since they began.
    fn note_invalid(&self, offsets: u64) {
        self.lock().note_invalid(Instant::now(), offsets);
    }

    /// Asks for the invalid topics' ends until the shutdown begins.
    pub(super) async fn watch_invalid(self, handle: Handle, browse: Browse, shutdown: Shutdown) {
        let mut ticks = interval(INVALID_EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                _ = ticks.tick() => {}
            }
            let Ok(look) = handle.look().await else { continue };
            let running = look.view.pipelines.iter().map(|view| view.definition.clone());
            match topics::invalid_offsets(&browse, &Known(running.collect())).await {
                Ok(offsets) => self.note_invalid(offsets),
                // The last figures stay; that Kafka can't be asked is said where it matters.
                Err(error) => debug!(%error, "the invalid topics can't be asked"),
            }
        }
    }

    pub(super) fn score(&self, failover: &Failover) -> Score {
        let past = self.lock();
        // Wall-clock times are computed anew at each look, so they differ by milliseconds.
        let near = past.scores.iter().find(|((at, worker), _)| {
            *worker == failover.worker && at.abs_diff(failover.detected_at_ms) < SAME_MS
        });
        near.map(|(_, score)| score.clone()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Two losses of one worker are further apart.
const SAME_MS: u64 = 500;

fn push(series: &mut VecDeque<f64>, value: f64) {
    if series.len() == POINTS {
        series.pop_front();
    }
    series.push_back(value);
}

impl Past {
    #[allow(clippy::cast_precision_loss, reason = "figures for a sparkline")]
    fn add(&mut self, cluster: &Arc<Cluster>) {
        let mut by_owner: HashMap<&str, Vec<&Slot>> = HashMap::new();
        for slot in &cluster.slots {
            if let Some(owner) = &slot.owner {
                by_owner.entry(owner).or_default().push(slot);
            }
        }
        for worker in &cluster.workers {
            let series = self.workers.entry(worker.id.clone()).or_default();
            push(&mut series.records_per_second, worker.records_per_second);
            push(&mut series.cpu, worker.cpu);
            push(&mut series.memory_used_bytes, worker.memory_used_bytes as f64);
            push(&mut series.lag, worker.lag as f64);
            push(&mut series.resident_bytes, worker.resident_bytes.unwrap_or(0) as f64);
            series.add_times(&by_owner.get(worker.id.as_str()).into_iter().flatten().copied());
        }
        let known: HashSet<&str> = cluster.workers.iter().map(|worker| worker.id.as_str()).collect();
        self.workers.retain(|id, _| known.contains(id.as_str()));
        for pipeline in &cluster.pipelines {
            let series = self.pipelines.entry(pipeline.id.clone()).or_default();
            push(&mut series.records_per_second, pipeline.records_per_second);
            push(&mut series.lag, pipeline.lag.unwrap_or(0) as f64);
            series.add_times(&cluster.slots.iter().filter(|slot| slot.pipeline == pipeline.id));
        }
        self.pipelines.retain(|id, _| cluster.pipelines.iter().any(|pipeline| pipeline.id == *id));
        self.follow_slots(cluster);
        self.follow_losses(cluster);
        self.last = Some(Arc::clone(cluster));
    }

    #[allow(clippy::cast_precision_loss, reason = "rates for people")]
    fn follow_slots(&mut self, cluster: &Cluster) {
        let before = self.last.take();
        let seconds = before
            .as_ref()
            .map(|before| cluster.at_ms.saturating_sub(before.at_ms) as f64 / 1000.0)
            .filter(|seconds| *seconds > 0.0);
        let earlier: HashMap<&str, &Slot> =
            before.iter().flat_map(|before| &before.slots).map(|slot| (slot.slot.as_str(), slot)).collect();
        let mut falls = HashMap::with_capacity(cluster.slots.len());
        let mut grown = [0_u64; 3];
        for slot in &cluster.slots {
            let Some(old) = earlier.get(slot.slot.as_str()) else { continue };
            for (grown, (new, old)) in grown.iter_mut().zip(marks(slot).into_iter().zip(marks(old))) {
                let step = new.zip(old).map_or(0, |(new, old)| new.saturating_sub(old));
                *grown += u64::try_from(step).unwrap_or(0);
            }
            // A new owner counts from nothing again.
            self.invalid.quarantined += slot.records_quarantined.saturating_sub(old.records_quarantined);
            if let (Some(new), Some(old), Some(seconds)) = (slot.lag, old.lag, seconds) {
                let now = (old as f64 - new as f64) / seconds;
                let shown = self.falls.get(&slot.slot).map_or(now, |fall| mix(*fall, now));
                falls.insert(slot.slot.clone(), shown);
            }
        }
        self.falls = falls;
        let rates: Vec<f64> = (0..3)
            .map(|index| {
                let now = seconds.map_or(0.0, |seconds| grown[index] as f64 / seconds);
                mix(self.flow.stages.get(index).map_or(0.0, |stage| stage.records_per_second), now)
            })
            .collect();
        self.flow.stages = flow::stages(cluster, &rates);
        self.flow.ledger = flow::ledger(cluster);
        self.tell_received();
    }

    #[allow(clippy::cast_precision_loss, reason = "rates for people")]
    fn note_invalid(&mut self, now: Instant, offsets: u64) {
        let quarantined = self.invalid.quarantined;
        if let Some((then, before)) = self.invalid.seen {
            let seconds = (now - then).as_secs_f64().max(0.001);
            let invalid = offsets.saturating_sub(before) as f64 / seconds;
            let set_aside = (quarantined - self.invalid.quarantined_then) as f64 / seconds;
            let shown = mix(self.flow.invalid_per_second.unwrap_or(invalid), invalid);
            self.flow.invalid_per_second = Some(shown);
            let refused = (invalid - set_aside).max(0.0);
            let before = self.invalid.refused_per_second.unwrap_or(refused);
            self.invalid.refused_per_second = Some(mix(before, refused));
        }
        self.flow.invalid_offsets = Some(offsets);
        self.invalid.seen = Some((now, offsets));
        self.invalid.quarantined_then = quarantined;
        self.tell_received();
    }

    fn tell_received(&mut self) {
        let valid = self.flow.stages.first().map_or(0.0, |stage| stage.records_per_second);
        self.flow.received_per_second = self.invalid.refused_per_second.map(|refused| valid + refused);
    }

    fn follow_losses(&mut self, cluster: &Cluster) {
        let now: HashMap<&str, &Slot> = cluster.slots.iter().map(|slot| (slot.slot.as_str(), slot)).collect();
        for failover in &cluster.failovers {
            let key = self
                .scores
                .keys()
                .find(|(at, worker)| {
                    *worker == failover.worker && at.abs_diff(failover.detected_at_ms) < SAME_MS
                })
                .cloned()
                .unwrap_or_else(|| (failover.detected_at_ms, failover.worker.clone()));
            let score = self.scores.entry(key).or_insert_with(|| first_sight(failover, &now));
            if score.caught_up_at_ms.is_none() && !score.ends.is_empty() {
                let mut is_there = true;
                for (slot, end) in &mut score.ends {
                    let slot = now.get(slot.as_str());
                    *end = end.or(slot.and_then(|slot| slot.end));
                    is_there &= slot.is_some_and(|slot| {
                        slot.state == SlotState::Running
                            && slot.position.zip(*end).is_some_and(|(next, end)| next >= end)
                    });
                }
                score.caught_up_at_ms = is_there.then_some(cluster.at_ms);
            }
        }
        while self.scores.len() > SCORES {
            self.scores.pop_first();
        }
    }
}

/// What is known of a loss when it is first seen: within a second after it.
fn first_sight(failover: &Failover, now: &HashMap<&str, &Slot>) -> Score {
    let mut score = Score::default();
    for lost in &failover.slots {
        let Some(slot) = now.get(lost.slot.as_str()) else { continue };
        score.ends.insert(lost.slot.clone(), slot.end);
        let slower = slot.lake_cursor.into_iter().chain(slot.topic_cursor).min();
        let read = slot.position.zip(slower).map_or(0, |(position, cursor)| position - cursor);
        score.replayed += u64::try_from(read).unwrap_or(0);
    }
    score
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::example;

    #[test]
    fn rates_and_falls_come_from_two_looks() {
        let mut past = Past::default();
        let first = example::cluster();
        past.add(&Arc::new(first.clone()));
        assert!(past.flow.stages.iter().all(|stage| stage.records_per_second == 0.0));
        let mut second = first;
        second.at_ms += 1_000;
        second.slots[0].end = Some(120);
        second.slots[0].lake_cursor = Some(110);
        second.slots[0].lag = Some(6);
        past.add(&Arc::new(second));
        assert_eq!(past.flow.stages[0].records_per_second, 25.0);
        assert_eq!(past.flow.stages[2].records_per_second, 25.0);
        assert_eq!((past.flow.stages[2].behind, past.flow.stages[0].behind), (20, 0));
        assert_eq!(past.falls["clickstream-1/0-0"], 4.0);
        assert_eq!(past.workers["worker-1"].cpu, [0.5, 0.5]);
    }

    #[test]
    fn what_workers_set_aside_was_received_once() {
        let mut past = Past::default();
        let mut cluster = example::cluster();
        past.add(&Arc::new(cluster.clone()));
        let begun = Instant::now();
        past.note_invalid(begun, 100);
        assert_eq!((past.flow.invalid_offsets, past.flow.received_per_second), (Some(100), None));
        cluster.at_ms += 1_000;
        cluster.slots[0].records_quarantined += 4;
        past.add(&Arc::new(cluster));
        past.note_invalid(begun + Duration::from_secs(1), 110);
        assert_eq!(past.flow.invalid_per_second, Some(10.0));
        assert_eq!(past.flow.received_per_second, Some(6.0));
    }

    #[test]
    fn a_scorecard_says_when_the_new_owners_had_read_what_there_was() {
        let mut past = Past::default();
        let mut cluster = example::cluster();
        past.add(&Arc::new(cluster.clone()));
        let score = past.scores.values().next().expect("followed").clone();
        assert_eq!((score.replayed, score.caught_up_at_ms), (2, None), "it has read to 12, of 20");
        cluster.at_ms += 1_000;
        cluster.failovers[0].detected_at_ms += 3;
        cluster.slots[0].position = Some(20);
        past.add(&Arc::new(cluster.clone()));
        assert_eq!(past.scores.len(), 1, "the same loss, however the clock is read");
        let score = past.scores.values().next().expect("followed");
        assert_eq!(score.caught_up_at_ms, Some(cluster.at_ms));
    }

    #[test]
    fn a_loss_that_is_seen_while_its_slots_are_opened_is_followed_all_the_same() {
        let mut past = Past::default();
        let mut cluster = example::cluster();
        (cluster.slots[0].end, cluster.slots[0].position) = (None, None);
        past.add(&Arc::new(cluster.clone()));
        for (end, position, reached) in [(20, 12, false), (30, 19, false), (31, 20, true)] {
            cluster.at_ms += 1_000;
            (cluster.slots[0].end, cluster.slots[0].position) = (Some(end), Some(position));
            past.add(&Arc::new(cluster.clone()));
            let score = past.scores.values().next().expect("followed");
            assert_eq!(score.caught_up_at_ms, reached.then_some(cluster.at_ms), "{position} of 20");
        }
    }
}
