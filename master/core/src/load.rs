//! What slots cost and workers achieve: moving averages over the reports, and from them the figures by which slots
//! are shared out. For balance only; no decision about correctness uses them.
//!
//! - A slot's **load** is in cores: a little for being there at all, and its bytes per second times what a byte of
//!   its pipeline costs in CPU, on average over the cluster. A slot that lags counts for more, up to twice: its
//!   owner reads less than comes in. A slot that nobody has watched for long enough counts as an average one.
//! - A worker's **speed** is what its slots' bytes should have cost, by that average, over what they did cost. So
//!   a slow worker is not excused by the load that it makes of its slots: it gets fewer. It is what it was last
//!   judged to be, until another process takes its id.

use std::collections::BTreeMap;

use millrace_types::{Epoch, Millis, PipelineId, SlotMetrics, WorkerId};

use crate::coordinator::Coordinator;
use crate::state::Hold;

/// A slot without any traffic, in millionths of a core: buffers, transactions and polls.
pub(crate) const LEAST_LOAD: u64 = 10_000;
/// Percent.
pub(crate) const NORMAL_SPEED: u32 = 100;
/// Nobody reads and writes a byte for less, in cores for one byte a second.
const LEAST_COST: f64 = 1e-8;
/// What lags this long or longer counts twice, in seconds.
const LONG_LAG: f64 = 60.0;
/// A worker whose slots cost less than this many cores is not judged by it.
const JUDGED_FROM: f64 = 0.05;
/// Speeds from here to there are normal; beyond them no further than that. In parts of the normal one.
const NORMAL_SPEEDS: std::ops::RangeInclusive<f64> = 0.8..=1.25;
const SPEEDS: std::ops::RangeInclusive<f64> = 0.25..=4.0;
/// No figure of a report is believed beyond this.
const LARGEST_FIGURE: f64 = 1e15;

/// Figures that can't be are 0, and none is beyond what any machine does.
pub(crate) fn repair(metrics: &mut SlotMetrics, cores: u32) {
    let limits = [
        (&mut metrics.records_per_second, LARGEST_FIGURE),
        (&mut metrics.bytes_per_second, LARGEST_FIGURE),
        (&mut metrics.cpu, f64::from(cores)),
    ];
    for (figure, most) in limits {
        *figure = if figure.is_finite() { figure.clamp(0.0, most) } else { 0.0 };
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct Figures {
    bytes_per_second: f64,
    cpu: f64,
    lag_seconds: f64,
}

/// Moving averages of one slot's figures.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Load {
    average: Figures,
    /// As reported last: an unchanged report is not sent again, so they hold until the next one.
    last: Figures,
    /// Up to when `average` goes.
    at: Millis,
    /// Since when anything is known.
    since: Option<Millis>,
    /// Whose CPU it is, and since when.
    owner: Option<(Epoch, Millis)>,
}

impl Load {
    /// Takes in what the owner with `epoch` says of the running slot.
    pub(crate) fn observe(&mut self, now: Millis, epoch: Epoch, metrics: &SlotMetrics, span: Millis) {
        self.pass(now, span);
        let lag_seconds = match metrics.lag {
            Some(lag) if metrics.records_per_second > 0.0 => lag as f64 / metrics.records_per_second,
            Some(_) | None => 0.0,
        };
        let figures = Figures { bytes_per_second: metrics.bytes_per_second, cpu: metrics.cpu, lag_seconds };
        if self.since.is_none() {
            self.since = Some(now);
            self.average = figures;
        }
        if self.owner.is_none_or(|(known, _)| known != epoch) {
            self.owner = Some((epoch, now));
            self.average.cpu = figures.cpu;
        }
        self.last = figures;
    }

    /// Lets time pass, in which the last figures held.
    fn pass(&mut self, now: Millis, span: Millis) {
        let passed = now.since(self.at).0 as f64;
        let part = passed / (span.0.max(1) as f64 + passed);
        self.at = self.at.max(now);
        for (average, last) in [
            (&mut self.average.bytes_per_second, self.last.bytes_per_second),
            (&mut self.average.cpu, self.last.cpu),
            (&mut self.average.lag_seconds, self.last.lag_seconds),
        ] {
            *average += part * (last - *average);
        }
    }

    fn is_known(&self, now: Millis, span: Millis) -> bool {
        self.since.is_some_and(|since| now.since(since) >= span)
    }

    /// Whether its owner's part in the CPU average outweighs an earlier one's.
    fn tells_of_owner(&self, epoch: Epoch, now: Millis, span: Millis) -> bool {
        self.owner.is_some_and(|(known, since)| known == epoch && now.since(since) >= span)
    }

    /// In cores, when a byte a second costs `cost`.
    fn cores(&self, cost: f64) -> f64 {
        let behind = (self.average.lag_seconds / LONG_LAG).clamp(0.0, 1.0);
        self.average.bytes_per_second * cost * (1.0 + behind)
    }
}

/// A sum of CPU and of what it was used for.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    cpu: f64,
    measure: f64,
}

impl Coordinator {
    /// Sets what slots count for and what workers achieve, by the averages of now.
    pub(crate) fn weigh(&mut self) {
        let (now, span) = (self.now, self.settings.load_span);
        let mut costs: BTreeMap<PipelineId, Sum> = BTreeMap::new();
        for (id, slot) in &mut self.slots {
            slot.load.pass(now, span);
            if slot.load.is_known(now, span) && slot.owner().is_some() {
                if !costs.contains_key(&id.pipeline) {
                    costs.insert(id.pipeline.clone(), Sum::default());
                }
                if let Some(sum) = costs.get_mut(&id.pipeline) {
                    sum.cpu += slot.load.average.cpu;
                    sum.measure += slot.load.average.bytes_per_second;
                }
            }
        }
        let cost_of = |pipeline: &PipelineId| match costs.get(pipeline) {
            Some(sum) if sum.measure > 0.0 => (sum.cpu / sum.measure).max(LEAST_COST),
            Some(_) | None => LEAST_COST,
        };
        let mut works: BTreeMap<WorkerId, Sum> = BTreeMap::new();
        let (mut known, mut total) = (0_u64, 0_u64);
        let mut weights = Vec::with_capacity(self.slots.len());
        let mut cost: Option<(PipelineId, f64)> = None;
        for (id, slot) in &self.slots {
            // Slots come by pipeline.
            let per_byte = match &cost {
                Some((pipeline, cost)) if *pipeline == id.pipeline => *cost,
                Some(_) | None => cost.insert((id.pipeline.clone(), cost_of(&id.pipeline))).1,
            };
            let weight = slot.load.is_known(now, span).then(|| {
                let millionths = slot.load.cores(per_byte).min(LARGEST_FIGURE) * 1e6;
                LEAST_LOAD.saturating_add(millionths as u64).min(LARGEST_LOAD)
            });
            if let Some(weight) = weight {
                known += 1;
                total += weight;
            }
            if let Hold::Granted { owner, .. } = &slot.hold
                && slot.load.is_known(now, span)
                && slot.load.tells_of_owner(slot.epoch, now, span)
            {
                let sum = match works.get_mut(owner) {
                    Some(sum) => sum,
                    None => works.entry(owner.clone()).or_default(),
                };
                sum.cpu += slot.load.average.cpu;
                sum.measure += slot.load.average.bytes_per_second * per_byte;
            }
            weights.push(weight);
        }
        let average = total.checked_div(known).unwrap_or(LEAST_LOAD).max(LEAST_LOAD);
        for (slot, weight) in self.slots.values_mut().zip(weights) {
            slot.weight = weight.unwrap_or(average);
        }
        for (id, worker) in &mut self.workers {
            // Who does too little to be judged is what it was judged to be: forgotten with its slots, it would get
            // them back, be judged, and lose them again.
            if let Some(speed) = works.get(id).and_then(speed) {
                worker.speed = speed;
            }
            for (slot, intended) in &mut worker.intended {
                intended.load = self.slots.get(slot).map_or(average, |slot| slot.weight);
            }
        }
        self.average_load = average;
    }
}

/// A slot counts for no more than this many millionths of a core.
const LARGEST_LOAD: u64 = 1_000_000_000;

/// `None`: too little is known.
fn speed(sum: &Sum) -> Option<u32> {
    if sum.cpu < JUDGED_FROM || sum.measure <= 0.0 {
        return None;
    }
    let speed = (sum.measure / sum.cpu).clamp(*SPEEDS.start(), *SPEEDS.end());
    let percent = (speed * f64::from(NORMAL_SPEED)) as u32;
    Some(if NORMAL_SPEEDS.contains(&speed) { NORMAL_SPEED } else { percent })
}
