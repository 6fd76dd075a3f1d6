//! What the cluster was like during the last two minutes, for sparklines, rates and scorecards: one look a second, kept
//! in memory alone. For people; nothing is decided by it.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use millrace_common::shutdown::Shutdown;
use schemars::JsonSchema;
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};

use super::model::{Cluster, Failover, Slot, SlotState};
use crate::handle::Refused;
use crate::snapshot;
use crate::sources::Sources;

/// Between two looks.
pub(super) const EVERY: Duration = Duration::from_secs(1);
/// Points of a series.
const POINTS: usize = 120;
/// How much of a new rate goes into the shown one at each look.
const SHARE: f64 = 0.25;
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
}

/// One stage of the way from the raw topic to a sink, of all pipelines together.
#[derive(Debug, Clone, Default, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Stage {
    /// raw, enriched or lake.
    pub(crate) stage: &'static str,
    /// Offsets that it has passed since the topics began.
    pub(crate) passed: u64,
    pub(crate) records_per_second: f64,
    /// Records of the raw topics that it does not hold yet.
    pub(crate) behind: u64,
    /// How long ago the slowest slot that has something to do last committed.
    pub(crate) oldest_commit_age_ms: Option<u64>,
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

#[derive(Debug, Default)]
struct Past {
    workers: HashMap<String, Series>,
    pipelines: HashMap<String, Series>,
    /// How fast the lag of a slot falls, in records a second; negative while it grows.
    falls: HashMap<String, f64>,
    flow: [Stage; 3],
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

    pub(super) fn flow(&self) -> Vec<Stage> {
        self.lock().flow.to_vec()
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
        for worker in &cluster.workers {
            let series = self.workers.entry(worker.id.clone()).or_default();
            push(&mut series.records_per_second, worker.records_per_second);
            push(&mut series.cpu, worker.cpu);
            push(&mut series.memory_used_bytes, worker.memory_used_bytes as f64);
            push(&mut series.lag, worker.lag as f64);
        }
        let known: HashSet<&str> = cluster.workers.iter().map(|worker| worker.id.as_str()).collect();
        self.workers.retain(|id, _| known.contains(id.as_str()));
        for pipeline in &cluster.pipelines {
            let series = self.pipelines.entry(pipeline.id.clone()).or_default();
            push(&mut series.records_per_second, pipeline.records_per_second);
            push(&mut series.lag, pipeline.lag.unwrap_or(0) as f64);
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
                mix(self.flow[index].records_per_second, now)
            })
            .collect();
        self.flow = flow(cluster, &rates);
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

/// How far the raw partition, the topic sink and the lake are.
fn marks(slot: &Slot) -> [Option<i64>; 3] {
    [slot.end, slot.topic_cursor, slot.lake_cursor]
}

fn mix(shown: f64, now: f64) -> f64 {
    shown.mul_add(1.0 - SHARE, now * SHARE)
}

fn flow(cluster: &Cluster, rates: &[f64]) -> [Stage; 3] {
    let mut stages = ["raw", "enriched", "lake"].map(|stage| Stage { stage, ..Stage::default() });
    for slot in &cluster.slots {
        let [end, ..] = marks(slot);
        for (stage, mark) in stages.iter_mut().zip(marks(slot)) {
            stage.passed += mark.and_then(|mark| u64::try_from(mark).ok()).unwrap_or(0);
            let behind = end.zip(mark).map_or(0, |(end, mark)| u64::try_from(end - mark).unwrap_or(0));
            stage.behind += behind;
            if behind > 0 {
                let age = slot.last_commit_at_ms.map(|at| cluster.at_ms.saturating_sub(at));
                stage.oldest_commit_age_ms = stage.oldest_commit_age_ms.max(age);
            }
        }
    }
    for (stage, rate) in stages.iter_mut().zip(rates) {
        stage.records_per_second = *rate;
    }
    stages
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
        assert!(past.flow.iter().all(|stage| stage.records_per_second == 0.0));
        let mut second = first;
        second.at_ms += 1_000;
        second.slots[0].end = Some(120);
        second.slots[0].lake_cursor = Some(110);
        second.slots[0].lag = Some(6);
        past.add(&Arc::new(second));
        assert_eq!(past.flow[0].records_per_second, 100.0 * SHARE);
        assert_eq!(past.flow[2].records_per_second, 100.0 * SHARE);
        assert_eq!((past.flow[2].behind, past.flow[0].behind), (20, 0));
        assert_eq!(past.falls["clickstream-1/0-0"], 4.0);
        assert_eq!(past.workers["worker-1"].cpu, [0.5, 0.5]);
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
