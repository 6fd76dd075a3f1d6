//! What slots cost and workers achieve: moving averages over the reports, and from them the figures by which slots
//! are shared out. For balance only; no decision about correctness uses them.
//!
//! - A slot's **load** is in cores: a little for being there at all, and the bytes that come in a second times what a
//!   byte of its pipeline costs in CPU, on average over the cluster. What comes in, not what is read: the slots of an
//!   overloaded worker would look lighter than they are anywhere else, and heavier than they are when they catch up
//!   there, and would move for ever. A slot that nobody has watched for long enough counts as an average one.
//! - A worker's **speed** is what its slots' bytes should have cost, by that average, over what they did cost. So
//!   a slow worker is not excused by the load that it makes of its slots: it gets fewer. It is what it was last
//!   judged to be, until it is clearly something else, or another process takes its id.

use std::collections::BTreeMap;

use millrace_types::{Epoch, Millis, PipelineId, SlotMetrics, WorkerId};

use crate::coordinator::Coordinator;
use crate::state::Hold;

/// A slot without any traffic, in millionths of a core: buffers, transactions and polls.
pub(crate) const LEAST_LOAD: u64 = 10_000;
/// Percent.
pub(crate) const NORMAL_SPEED: u32 = 100;
/// What a byte costs as long as nobody measured it, and below what nobody reads and writes one: in cores for one byte
/// a second.
const USUAL_COST: f64 = 1e-8;
const LEAST_COST: f64 = 1e-10;
/// No more than this many times what is read is believed to come in.
const MOST_MISSED: f64 = 16.0;
/// A worker whose slots cost less than this many cores is not judged by it.
const JUDGED_FROM: f64 = 0.05;
/// Speeds from here to there are normal, in parts of the normal one.
const NORMAL_SPEEDS: std::ops::RangeInclusive<f64> = 0.8..=1.25;
/// A new figure over a known one that is not normal: from here to there the known one stands. What is usual is an
/// average over whoever has a pipeline's slots, and so changes a little with each move.
const ALIKE: std::ops::RangeInclusive<f64> = 0.7..=1.4;
/// No speed is beyond these, in parts of the normal one.
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
}

/// Where a slot stood at a time.
#[derive(Debug, Clone, Copy)]
struct Stand {
    at: Millis,
    /// Offsets: the next one to read, and the partition's end.
    position: i64,
    end: i64,
    /// Read since the first stand.
    bytes: f64,
}

/// How far a slot came, and its partition, over the last one to two spans.
#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    first: Option<Stand>,
    /// Becomes the first after a span.
    middle: Option<Stand>,
    last: Option<Stand>,
}

impl Progress {
    fn note(&mut self, now: Millis, position: i64, end: i64, bytes_per_second: f64, span: Millis) {
        if self.last.is_some_and(|last| position < last.position || end < last.end) {
            // Another owner begins where the one before had committed: what lies between is read twice.
            *self = Self::default();
        }
        let bytes = self
            .last
            .map_or(0.0, |last| last.bytes + bytes_per_second * now.since(last.at).0 as f64 / 1_000.0);
        let stand = Stand { at: now, position, end, bytes };
        let first = *self.first.get_or_insert(stand);
        let middle = *self.middle.get_or_insert(first);
        if now.since(middle.at) >= span {
            (self.first, self.middle) = (Some(middle), Some(stand));
        }
        self.last = Some(stand);
    }

    /// Bytes that come in a second, by the size of what is read; `None` where too little is known.
    fn bytes_per_second(&self, span: Millis) -> Option<f64> {
        let (first, last) = (self.first?, self.last?);
        let (read, came) = (last.position - first.position, last.end - first.end);
        let passed = last.at.since(first.at);
        if passed < span || passed == Millis(0) || read <= 0 {
            return None;
        }
        let missed = (came as f64 / read as f64).clamp(0.0, MOST_MISSED);
        Some((last.bytes - first.bytes) * missed * 1_000.0 / passed.0 as f64)
    }
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
    progress: Progress,
}

impl Load {
    /// Takes in what the owner with `epoch` says of the running slot.
    pub(crate) fn observe(&mut self, now: Millis, epoch: Epoch, metrics: &SlotMetrics, span: Millis) {
        self.pass(now, span);
        if let (Some(position), Some(end)) = (metrics.position, metrics.end) {
            self.progress.note(now, position.0, end.0, metrics.bytes_per_second, span);
        }
        let figures = Figures { bytes_per_second: metrics.bytes_per_second, cpu: metrics.cpu };
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
    fn cores(&self, cost: f64, span: Millis) -> f64 {
        self.progress.bytes_per_second(span).unwrap_or(self.average.bytes_per_second) * cost
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
            Some(sum) if sum.measure > 0.0 && sum.cpu > 0.0 => (sum.cpu / sum.measure).max(LEAST_COST),
            Some(_) | None => USUAL_COST,
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
                let millionths = slot.load.cores(per_byte, span).min(LARGEST_FIGURE) * 1e6;
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
            if let Some(achieved) = works.get(id).and_then(achieved) {
                worker.speed = judged(worker.speed, achieved);
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

/// In parts of what is usual; `None`: too little is known.
fn achieved(sum: &Sum) -> Option<f64> {
    (sum.cpu >= JUDGED_FROM && sum.measure > 0.0)
        .then(|| (sum.measure / sum.cpu).clamp(*SPEEDS.start(), *SPEEDS.end()))
}

/// The speed of a worker that was judged to have `known` percent. A figure that wavers about any bound crosses it
/// once: what is known stands as long as the new figure is not clearly another one.
fn judged(known: u32, achieved: f64) -> u32 {
    let normal = f64::from(NORMAL_SPEED);
    if known != NORMAL_SPEED && ALIKE.contains(&(achieved * normal / f64::from(known.max(1)))) {
        known
    } else if NORMAL_SPEEDS.contains(&achieved) {
        NORMAL_SPEED
    } else {
        (achieved * normal) as u32
    }
}
