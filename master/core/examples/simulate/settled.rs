//! Settled clusters at the settings of production: nothing fails, nobody comes or goes, every load is what it is, exactly
//! or give or take a fifth. The scheduler must come to an end, and end well. There is no network here, and workers do at
//! once what they are told: the hours that figures need to show their ways would cost too much with one.

use std::collections::BTreeMap;
use std::fmt;

use millrace_master_core::{Coordinator, Directive, Event, MoveReason, Settings};
use millrace_types::{
    Digest, Epoch, Millis, NextOffset, PipelineDefinition, SlotId, SlotMetrics, SlotPhase, SlotReport,
    StopReason, VERSION, WorkerId, WorkerSpec,
};

use crate::act::pipeline_id;
use crate::chance::{Chance, mix};
use crate::flaws::Flaw;

const MINUTE: u64 = 60_000;
/// How long the cluster has until it is settled, and for how long it is looked at then.
pub(crate) const SETTLED: u64 = 60 * MINUTE;
pub(crate) const LOOKED_AT: u64 = 120 * MINUTE;
/// A slot rests twice as long after each move for the load's sake: within these hours more can't be.
const MOST_OF_A_SLOT: usize = 10;
/// By how much more may be beside a slot than elsewhere: the margin, and what a worker's speed is rounded by.
const MOST_UNFAIR: f64 = 1.2 * 1.25 * 1.25;
/// What a slot costs for being there.
const IDLE: f64 = 0.01;
/// Bytes of a record.
const RECORD_BYTES: f64 = 500.0;
/// Figures are measured anew so often.
const MEASURED: u64 = 2_000;

/// How figures differ from the truth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Noise {
    None,
    /// By a fifth at most, anew with each measurement.
    Quick,
    /// By a fifth at most, for a few minutes each time: longer than any average can see through.
    Slow,
}

/// What a seed stands for.
#[derive(Debug, Clone)]
pub(crate) struct Settled {
    pub(crate) seed: u64,
    pub(crate) noise: Noise,
    pub(crate) workers: Vec<Machine>,
    /// Of each pipeline: what a byte costs, in cores for one byte a second of a core of usual speed.
    pub(crate) costs: Vec<f64>,
    /// Of each slot of each pipeline: what it needs of a core of usual speed.
    pub(crate) slots: Vec<Vec<f64>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    pub(crate) cores: u32,
    pub(crate) speed: f64,
    pub(crate) zone: Option<u64>,
}

impl fmt::Display for Settled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "settled cluster {}: noise {:?}", self.seed, self.noise)?;
        for (number, Machine { cores, speed, zone }) in self.workers.iter().enumerate() {
            let zone = zone.map_or_else(String::new, |zone| format!(", zone {zone}"));
            writeln!(f, "  worker w{number}: {cores} cores at {:.0} %{zone}", speed * 100.0)?;
        }
        for (number, slots) in self.slots.iter().enumerate() {
            let slots: Vec<String> = slots.iter().map(|need| format!("{need:.3}")).collect();
            let cost = self.costs[number];
            writeln!(f, "  pipeline p-{number}: {cost:.1e} cores a byte, slots need {}", slots.join(" "))?;
        }
        Ok(())
    }
}

impl Settled {
    pub(crate) fn of(seed: u64) -> Self {
        let mut chance = Chance::of(seed, "settled", 0);
        let zones = chance.pick(&[0, 0, 2, 3]);
        let alike = chance.percent(40);
        let one_slow = chance.percent(30);
        let cores = chance.between(1, 4) as u32;
        let workers: Vec<Machine> = (0..chance.between(2, 9))
            .map(|number| Machine {
                cores: if alike { cores } else { chance.between(1, 6) as u32 },
                speed: match (one_slow && number == 0, alike) {
                    (true, _) => chance.between(25, 85) as f64 / 100.0,
                    (false, true) => 1.0,
                    (false, false) => chance.pick(&[1.0, 1.0, 1.0, 0.78, 1.27, 1.6]),
                },
                zone: (zones > 0).then(|| chance.between(1, zones)),
            })
            .collect();
        let costs: Vec<f64> =
            (0..chance.pick(&[1, 1, 2, 3])).map(|_| chance.between(5, 50) as f64 * 1e-9).collect();
        let shape = chance.index(4);
        let mut slots: Vec<Vec<f64>> = costs
            .iter()
            .map(|_| {
                let most = chance.pick(&[4, 12, 24]);
                (0..chance.between(1, most))
                    .map(|_| match shape {
                        0 => 1.0,
                        1 => chance.between(1, 20) as f64,
                        _ => f64::from(1_u32 << chance.index(9)),
                    })
                    .collect()
            })
            .collect();
        if shape == 3 || chance.percent(25) {
            // Heavier than a fair share, by far.
            slots[0][0] = 2.0 * slots.iter().flatten().sum::<f64>();
        }
        let all: f64 = slots.iter().flatten().sum();
        let can: f64 = workers.iter().map(|machine| f64::from(machine.cores) * machine.speed).sum();
        // Some are nearly idle, some have more to do than they can.
        let busy = chance.pick(&[0.03, 0.2, 0.5, 0.8, 1.1]);
        for slot in slots.iter_mut().flatten() {
            *slot *= busy * can / all;
        }
        let noise = chance.pick(&[Noise::None, Noise::Quick, Noise::Slow]);
        Self { seed, noise, workers, costs, slots }
    }
}

#[derive(Debug, Clone)]
struct Run {
    epoch: Epoch,
    /// Records that were read, and that came in.
    stand: Stand,
}

#[derive(Debug, Clone, Copy, Default)]
struct Stand {
    read: f64,
    came: f64,
}

/// A slot that went to another worker.
#[derive(Debug, Clone)]
pub(crate) struct Moved {
    pub(crate) at: u64,
    pub(crate) slot: SlotId,
    pub(crate) from: WorkerId,
    pub(crate) to: WorkerId,
    pub(crate) reason: Option<MoveReason>,
}

impl fmt::Display for Moved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { at, slot, from, to, reason } = self;
        let why = reason.as_ref().map(ToString::to_string).unwrap_or_default();
        write!(f, "{:>6} s  {slot}: {from} to {to}: {why}", at / 1_000)
    }
}

struct Hours<'a> {
    plan: &'a Settled,
    settings: Settings,
    now: u64,
    core: Coordinator,
    ids: Vec<WorkerId>,
    runs: Vec<BTreeMap<SlotId, Run>>,
    owners: BTreeMap<SlotId, (Epoch, WorkerId)>,
    /// Of slots on their way to the next owner.
    stands: BTreeMap<SlotId, Stand>,
    moved: Vec<Moved>,
}

/// What became of a cluster.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) moved: Vec<Moved>,
    /// Why that is not as it should be.
    pub(crate) wrong: Option<String>,
}

impl Outcome {
    pub(crate) fn early(&self) -> usize {
        self.moved.iter().filter(|moved| moved.at < SETTLED).count()
    }

    pub(crate) fn late(&self) -> usize {
        self.moved.len() - self.early()
    }
}

/// Lets the hours pass.
pub(crate) fn settle(plan: &Settled, settings: &Settings) -> Outcome {
    let mut hours = Hours::new(plan, settings);
    while hours.now < SETTLED + LOOKED_AT {
        hours.pass();
    }
    let wrong = hours.restless().or_else(|| hours.unfair());
    Outcome { moved: hours.moved, wrong }
}

impl<'a> Hours<'a> {
    fn new(plan: &'a Settled, settings: &Settings) -> Self {
        let core = Coordinator::restore(settings.clone(), Vec::new(), Millis(0))
            .unwrap_or_else(|error| unreachable!("nothing is restored: {error}"));
        let id = |number| {
            let text = format!("w{number}");
            WorkerId::new(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
        };
        let mut hours = Self {
            plan,
            settings: settings.clone(),
            now: 0,
            core,
            ids: (0..plan.workers.len()).map(id).collect(),
            runs: vec![BTreeMap::new(); plan.workers.len()],
            owners: BTreeMap::new(),
            stands: BTreeMap::new(),
            moved: Vec::new(),
        };
        for (number, slots) in plan.slots.iter().enumerate() {
            let name = format!("clicks-{number}");
            let definition = PipelineDefinition::new(
                pipeline_id(number),
                &name,
                "127.0.0.1:9092",
                vec!["raw.0".to_owned()],
                "invalid",
            );
            let partitions = vec![slots.len() as u32];
            hours.tell(Event::PipelineSubmitted { definition: Box::new(definition), partitions });
        }
        for (number, machine) in plan.workers.iter().enumerate() {
            let spec = WorkerSpec {
                id: hours.ids[number].clone(),
                pid: number as u32 + 1,
                host: "127.0.0.1".to_owned(),
                port: 4_000,
                http_port: 4_000,
                cores: machine.cores,
                memory_mib: 1_024,
                max_slots: 1_000,
                zone: machine.zone.map(|zone| format!("zone-{zone}")),
                version: VERSION.to_owned(),
            };
            hours.tell(Event::WorkerRegistered { session: number as u64 + 1, spec, running: Vec::new() });
        }
        hours
    }

    /// More moves than the loads give cause for.
    fn restless(&self) -> Option<String> {
        let slots = self.owners.len();
        let mut late = self.moved.iter().filter(|moved| moved.at >= SETTLED);
        let most = match self.plan.noise {
            Noise::None => 0,
            Noise::Quick => 4 + slots / 4,
            Noise::Slow => 4 * slots,
        };
        if late.clone().count() > most {
            let last = late.next_back().map(ToString::to_string).unwrap_or_default();
            let count = self.moved.iter().filter(|moved| moved.at >= SETTLED).count();
            let hours = LOOKED_AT / MINUTE / 60;
            return Some(format!(
                "{count} moves of {slots} slots in {hours} hours of {:?} noise, {most} may be: {last}",
                self.plan.noise
            ));
        }
        let mut of_slots: BTreeMap<&SlotId, usize> = BTreeMap::new();
        for moved in &self.moved {
            *of_slots.entry(&moved.slot).or_default() += 1;
        }
        let (slot, count) = of_slots.into_iter().max_by_key(|(_, count)| *count)?;
        (count > MOST_OF_A_SLOT).then(|| format!("{slot} moved {count} times, {MOST_OF_A_SLOT} may be"))
    }

    /// A slot that truly has far less beside it elsewhere: to move nothing at all is no answer.
    fn unfair(&self) -> Option<String> {
        if self.plan.noise != Noise::None || self.plan.workers.iter().any(|machine| machine.zone.is_some()) {
            return None;
        }
        let loads: Vec<f64> =
            self.runs.iter().map(|runs| runs.keys().map(|slot| self.plan.need(slot) + IDLE).sum()).collect();
        let can = |number: usize| {
            let machine = &self.plan.workers[number];
            f64::from(machine.cores) * machine.speed
        };
        for (from, runs) in self.runs.iter().enumerate() {
            for slot in runs.keys() {
                let beside = (loads[from] - self.plan.need(slot) - IDLE) / can(from);
                for to in (0..loads.len()).filter(|to| *to != from) {
                    let there = loads[to] / can(to);
                    if beside > there * MOST_UNFAIR + 0.05 {
                        return Some(format!(
                            "beside {slot} each core of w{from} has {beside:.2} to do, each of w{to} {there:.2}"
                        ));
                    }
                }
            }
        }
        None
    }

    fn tell(&mut self, event: Event) {
        let step = self
            .core
            .apply(Millis(self.now), event)
            .unwrap_or_else(|rejection| panic!("nothing here is refused: {rejection}"));
        for directive in step.directives {
            match directive {
                Directive::Grant { worker, slot, epoch, .. } => self.granted(&worker, slot, epoch),
                Directive::Revoke { worker, session, slot, epoch } => {
                    let number = session as usize - 1;
                    if let Some(run) = self.runs[number].remove(&slot) {
                        self.stands.insert(slot.clone(), run.stand);
                    }
                    let reason = StopReason::Revoked;
                    self.tell(Event::SlotStopped { session, worker, slot, epoch, reason });
                }
                Directive::Leave { .. }
                | Directive::ReportAll { .. }
                | Directive::Probe { .. }
                | Directive::EndSession { .. } => {}
            }
        }
    }

    fn granted(&mut self, worker: &WorkerId, slot: SlotId, epoch: Epoch) {
        let Some(number) = self.ids.iter().position(|id| id == worker) else { return };
        let stand = self.stands.remove(&slot).unwrap_or_default();
        self.runs[number].entry(slot.clone()).or_insert(Run { epoch, stand });
        let before = self.owners.insert(slot.clone(), (epoch, worker.clone()));
        let Some((_, from)) = before.filter(|(_, before)| before != worker) else { return };
        let log = self.core.view().moves;
        let this = log.iter().rev().find(|moved| moved.slot == slot && moved.epoch == epoch);
        let reason = this.map(|moved| moved.reason.clone());
        self.moved.push(Moved { at: self.now, slot, from, to: worker.clone(), reason });
    }

    /// One heartbeat of everybody.
    fn pass(&mut self) {
        self.now += self.settings.heartbeat.0;
        while self.core.next_deadline().is_some_and(|due| due.0 <= self.now) {
            self.tell(Event::DeadlineReached);
        }
        for number in 0..self.ids.len() {
            let reports = if self.now.is_multiple_of(MEASURED) { self.measure(number) } else { Vec::new() };
            let digest: Digest = self.runs[number].iter().map(|(slot, run)| (slot, run.epoch)).collect();
            self.tell(Event::Heartbeat {
                session: number as u64 + 1,
                worker: self.ids[number].clone(),
                memory_used_bytes: 1,
                draining: false,
                digest,
                reports,
            });
        }
    }

    /// What its slots did since the last measurement: as much as its cores can do for all of them together.
    fn measure(&mut self, number: usize) -> Vec<SlotReport> {
        let (plan, now) = (self.plan, self.now);
        let machine = &plan.workers[number];
        let seconds = MEASURED as f64 / 1_000.0;
        let can = f64::from(machine.cores) * machine.speed * seconds;
        let need = |slot: &SlotId| {
            let cost = plan.costs[plan.pipeline_of(slot)] * RECORD_BYTES;
            (plan.need(slot) * plan.waver(slot, now, 0), cost)
        };
        // What came in, and what was left from before, in seconds of a core of usual speed.
        let wanted: f64 = self.runs[number]
            .iter()
            .map(|(slot, run)| {
                let (need, cost) = need(slot);
                need * seconds + (run.stand.came - run.stand.read) * cost
            })
            .sum();
        let part = if wanted > can { can / wanted } else { 1.0 };
        let mut reports = Vec::new();
        for (slot, run) in &mut self.runs[number] {
            let (need, cost) = need(slot);
            run.stand.came += need * seconds / cost;
            let read = (run.stand.came - run.stand.read) * part;
            run.stand.read += read;
            let metrics = SlotMetrics {
                records_per_second: read / seconds,
                bytes_per_second: read / seconds * RECORD_BYTES,
                cpu: read * cost / seconds / machine.speed * plan.waver(slot, now, 1),
                position: Some(NextOffset(run.stand.read as i64)),
                end: Some(NextOffset(run.stand.came as i64)),
                lag: Some((run.stand.came - run.stand.read) as u64),
                ..SlotMetrics::default()
            };
            let (slot, epoch, phase) = (slot.clone(), run.epoch, SlotPhase::Running);
            reports.push(SlotReport { slot, epoch, phase, metrics });
        }
        reports
    }
}

impl Settled {
    fn pipeline_of(&self, slot: &SlotId) -> usize {
        (0..self.slots.len()).find(|number| pipeline_id(*number) == slot.pipeline).unwrap_or_default()
    }

    /// Of a core of usual speed, when nothing wavers.
    fn need(&self, slot: &SlotId) -> f64 {
        self.slots[self.pipeline_of(slot)][slot.partition as usize]
    }

    /// By what a figure differs from the truth now.
    fn waver(&self, slot: &SlotId, now: u64, figure: u64) -> f64 {
        let number = slot.pipeline.as_str().len() as u64
            ^ slot.pipeline.as_str().bytes().fold(7, |hash, byte| mix(hash ^ u64::from(byte)))
            ^ (slot.partition as u64) << 20
            ^ figure << 40;
        let span = match self.noise {
            Noise::None => return 1.0,
            Noise::Quick => MEASURED,
            // Each at times of its own.
            Noise::Slow => 3 * MINUTE,
        };
        let turn = (now + mix(number) % span) / span;
        0.8 + (mix(self.seed ^ number ^ mix(turn)) % 4_001) as f64 / 10_000.0
    }
}

/// The defaults, or what a flaw makes of them.
pub(crate) fn settings(flaw: Option<Flaw>) -> Settings {
    let mut settings = Settings::default();
    if let Some(flaw) = flaw {
        flaw.distort_settings(&mut settings);
    }
    settings
}

pub(crate) fn tell(seed: u64, wrong: &str) -> String {
    format!(
        "settled cluster {seed}: {wrong}\nreplay: cargo run --release -p millrace-master-core --example simulate -- \
         --settled 1 --from {seed}"
    )
}

/// Counts by noise: clusters, slots, moves until they were settled and after, the most of those in one.
#[derive(Debug, Default)]
pub(crate) struct Tally(BTreeMap<Noise, [usize; 5]>);

impl Tally {
    pub(crate) fn add(&mut self, plan: &Settled, outcome: &Outcome) {
        let [clusters, slots, early, late, most] = self.0.entry(plan.noise).or_default();
        *clusters += 1;
        *slots += plan.slots.iter().map(Vec::len).sum::<usize>();
        *early += outcome.early();
        *late += outcome.late();
        *most = (*most).max(outcome.late());
    }

    /// Clusters, and moves until they were settled.
    #[cfg(test)]
    pub(crate) fn of(&self, noise: Noise) -> (usize, usize) {
        self.0.get(&noise).map_or((0, 0), |[clusters, _, early, ..]| (*clusters, *early))
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (noise, [clusters, slots, early, late, most]) in &self.0 {
            writeln!(
                f,
                "noise {noise:?}: {clusters} clusters of {slots} slots: {early} moves in their first {} minutes, {late} \
                 in the {} after, {most} at most in one",
                SETTLED / MINUTE,
                LOOKED_AT / MINUTE
            )?;
        }
        Ok(())
    }
}
