//! The calm after the faults: within a bounded time the cluster comes to rest, then stays so, then bears one more change
//! as it should, and at last every slot has done all that its source holds.

use std::collections::{BTreeMap, BTreeSet};

use millrace_master_core::{
    Assignment, ClusterView, Event, MoveReason, PipelineState, SlotState, WorkerState, rebalance,
};
use millrace_types::{Epoch, SlotId, SlotPhase, WorkerId};

use crate::act::pipeline_id;
use crate::plan::Ending;
use crate::rules::Rule;
use crate::watch::Fresh;
use crate::world::{Task, World};

/// Looks come so often.
const LOOK: u64 = 500;
/// So long after the faults, or after the ending's change, all must be at rest.
const BOUND: u64 = 90_000;
/// Messages, and ends of streams, that are still under way when the faults end.
const LATE: u64 = 6_000;
/// So long at most a slot needs to do what is left of its source.
const DONE_BY: u64 = 15_000;

type Owners = BTreeMap<SlotId, (WorkerId, Epoch)>;

/// How far the calm has come.
#[derive(Debug, Clone, Default)]
pub(crate) enum Stage {
    #[default]
    Storm,
    /// Until when it must be at rest.
    Settling { by: u64 },
    /// At rest; the averages of the load still come to theirs.
    Rested { until: u64 },
    /// Nothing may move.
    Quiet { until: u64, owners: Owners },
    /// The plan's ending has begun.
    Ending { by: u64, from: u64, before: Box<ClusterView>, subject: Option<WorkerId> },
    /// The source gets nothing more.
    Finishing { by: u64 },
}

impl World<'_> {
    pub(crate) fn end_faults(&mut self) {
        self.note(|| "the faults end".to_owned());
        self.calm = true;
        for master in 0..self.masters.len() {
            self.masters[master].crashes_after_write = None;
            self.masters[master].loses_answer = false;
        }
        let number = (0..self.workers.len()).find(|number| self.plan.workers[*number].is_some());
        let any = self.workers.iter().any(|worker| worker.is_up() && !worker.leaving);
        if let Some(number) = number.filter(|_| !any) {
            self.kill_worker(number);
            self.start_worker(number);
        }
        self.stage = Stage::Settling { by: self.now + BOUND };
        self.after(LOOK, Task::Look);
    }

    pub(crate) fn look(&mut self) {
        let now = self.now;
        let settings = &self.plan.settings;
        let span = settings.rest.0 + 2 * settings.balance_interval.0;
        match std::mem::take(&mut self.stage) {
            Stage::Storm => {}
            Stage::Settling { by } => match self.unrest() {
                None if now >= self.plan.storm + LATE => {
                    self.stage = Stage::Rested { until: now + 6 * settings.load_span.0 + span };
                }
                _ if now < by => {
                    self.put_right();
                    self.stage = Stage::Settling { by };
                }
                why => self.breaks(Rule::ComesToRest, why.unwrap_or_default()),
            },
            Stage::Rested { until } if now < until => self.stage = Stage::Rested { until },
            // Places pass from pipeline to pipeline one after the other: that comes to its end first.
            Stage::Rested { .. } => {
                match self.unrest().or_else(|| self.uneven().filter(|_| self.plan.even)) {
                    None => {
                        self.fresh.clear();
                        // Where figures waver it is looked at for longer.
                        let span = if self.plan.even { span } else { 3 * span };
                        self.stage = Stage::Quiet { until: now + span, owners: self.owners() };
                    }
                    // The load was evened out just now.
                    Some(_) if now < self.plan.storm + 3 * BOUND => self.stage = Stage::Rested { until: now },
                    Some(why) => self.breaks(Rule::ComesToRest, why),
                }
            }
            Stage::Quiet { until, owners } if now < until => self.stage = Stage::Quiet { until, owners },
            Stage::Quiet { until, owners } => match self.restless(&owners) {
                Some(what) => self.breaks(Rule::NoFlapping, what),
                None => match self.unrest().or_else(|| self.uneven()) {
                    None => self.begin_ending(),
                    // As above; the figures of an even plan give no reason.
                    Some(_) if !self.plan.even && now < until + span => {
                        self.stage = Stage::Quiet { until: now, owners };
                    }
                    Some(why) => self.breaks(Rule::ComesToRest, why),
                },
            },
            Stage::Ending { by, from, before, subject } => {
                let rests = now >= from + 1_500 && self.unrest().is_none();
                if rests {
                    self.check_ending(&before, subject.as_ref());
                    self.kafka.stop_feeding(now);
                    self.stage = Stage::Finishing { by: now + DONE_BY };
                } else if now < by {
                    self.stage = Stage::Ending { by, from, before, subject };
                } else {
                    let why = self.unrest().unwrap_or_default();
                    self.breaks(Rule::ComesToRest, format!("after the {:?}: {why}", self.plan.ending));
                }
            }
            Stage::Finishing { by } => match self.unfinished() {
                None => return self.end(),
                Some(_) if now < by => self.stage = Stage::Finishing { by },
                Some(slot) => {
                    let what = format!("{slot} does not get to the end of its source");
                    self.breaks(Rule::ComesToRest, what);
                }
            },
        }
        self.after(LOOK, Task::Look);
    }

    fn view(&self) -> Option<ClusterView> {
        Some(self.masters[self.leader()?].core()?.view())
    }

    fn owners(&self) -> Owners {
        let slots = self.view().map(|view| view.slots).unwrap_or_default();
        slots.into_iter().filter_map(|slot| Some((slot.slot, (slot.owner?, slot.epoch)))).collect()
    }

    /// With nothing that happens a slot that left a worker does not come back to it; where all slots cost the same,
    /// none moves at all.
    fn restless(&self, owners: &Owners) -> Option<String> {
        if self.workers.iter().any(|worker| worker.is_up() && worker.keeps_up(self) < 1.0) {
            // What it reports tells of itself and not of its slots: they look heavier elsewhere.
            return None;
        }
        let mut had: BTreeMap<&SlotId, BTreeSet<&WorkerId>> =
            owners.iter().map(|(slot, (worker, _))| (slot, BTreeSet::from([worker]))).collect();
        for Fresh { slot, worker, reason, .. } in &self.fresh {
            let is_new = had.entry(slot).or_default().insert(worker);
            if self.plan.even || !is_new {
                let why = reason.as_ref().map(ToString::to_string);
                return Some(format!("{slot} moves to {worker}, without a cause between: {why:?}"));
            }
        }
        None
    }

    /// Why the cluster is not at rest, if it is not.
    fn unrest(&self) -> Option<String> {
        let Some(view) = self.view() else { return Some("no master leads".to_owned()) };
        if self.leader().is_some_and(|leader| self.masters[leader].is_writing()) {
            return Some("a write is under way".to_owned());
        }
        let is_alive =
            |state| matches!(state, WorkerState::Alive | WorkerState::Draining | WorkerState::Drained);
        let alive: BTreeSet<&WorkerId> = view
            .workers
            .iter()
            .filter(|worker| is_alive(worker.state))
            .map(|worker| &worker.spec.id)
            .collect();
        let up: BTreeSet<&WorkerId> =
            self.workers.iter().filter(|worker| worker.is_up()).map(|worker| &worker.spec.id).collect();
        if alive != up {
            return Some(format!("{alive:?} are alive to the master, {up:?} are up"));
        }
        if let Some(worker) = self.workers.iter().find(|worker| worker.is_up() && worker.leaving) {
            return Some(format!("{} is still leaving", worker.spec.id));
        }
        let room: u64 = view
            .workers
            .iter()
            .filter(|worker| worker.state == WorkerState::Alive)
            .map(|worker| u64::from(worker.spec.max_slots).saturating_sub(worker.slots.len() as u64))
            .sum();
        let draining = view.workers.iter().find(|worker| worker.state == WorkerState::Draining);
        if let Some(worker) = draining.filter(|_| room > 0) {
            return Some(format!("{} still drains: {:?}", worker.spec.id, worker.waiting_for));
        }
        if let Some(over) = view.pipelines.iter().find(|view| view.state == PipelineState::Killing) {
            return Some(format!("{} is still being killed", over.definition.id));
        }
        let first = (0..self.plan.pipelines.len()).find(|number| self.plan.pipelines[*number].is_some());
        if let Some(first) = first.map(pipeline_id) {
            let known = view.pipelines.iter().find(|view| view.definition.id == first);
            let runs = known.is_some_and(|view| match view.state {
                PipelineState::Running => true,
                PipelineState::Waiting => room == 0,
                _ => false,
            });
            if !runs {
                return Some(format!("{first} does not run: {:?}", known.map(|view| view.state)));
            }
        }
        self.unrest_of_slots(&view, room)
    }

    fn unrest_of_slots(&self, view: &ClusterView, room: u64) -> Option<String> {
        let running: BTreeMap<(&WorkerId, &SlotId), (Epoch, SlotPhase, Option<u64>)> = self
            .workers
            .iter()
            .flat_map(|worker| {
                worker
                    .runs()
                    .map(|(slot, epoch, phase, version)| ((&worker.spec.id, slot), (epoch, phase, version)))
            })
            .collect();
        let mut granted = 0;
        for slot in &view.slots {
            let pipeline = view.pipelines.iter().find(|view| view.definition.id == slot.slot.pipeline)?;
            if pipeline.state == PipelineState::Paused && slot.owner.is_none() {
                continue;
            }
            let Some(owner) = &slot.owner else {
                if room > 0 || slot.unowned_reason.is_none() {
                    return Some(format!(
                        "{} has no owner, with {room} places free: {:?}",
                        slot.slot, slot.unowned_reason
                    ));
                }
                continue;
            };
            granted += 1;
            if slot.state != SlotState::Granted {
                return Some(format!("{} is {:?}", slot.slot, slot.state));
            }
            match running.get(&(owner, &slot.slot)) {
                Some((epoch, SlotPhase::Running, version)) if *epoch == slot.epoch => {
                    // Who lost the store submits by hand, and can't know by what its slots go.
                    if self.stores_lost == 0 && *version != pipeline.definition.max_rate {
                        return Some(format!("{} goes by another definition on {owner}", slot.slot));
                    }
                }
                other => return Some(format!("{} at {} is {other:?} on {owner}", slot.slot, slot.epoch)),
            }
            if !slot.opened || self.kafka.recorded(&slot.slot) != slot.epoch {
                return Some(format!(
                    "{} runs on {owner}, and the master does not know it as opened",
                    slot.slot
                ));
            }
        }
        if granted != running.len() {
            return Some(format!("{} slots run, {granted} are granted", running.len()));
        }
        None
    }

    /// Whether the shares are what they should be: by the solver itself, and where all slots cost the same by count.
    fn uneven(&self) -> Option<String> {
        let core = self.masters[self.leader()?].core()?;
        let view = core.view();
        let owners: BTreeMap<SlotId, WorkerId> =
            view.slots.iter().filter_map(|slot| Some((slot.slot.clone(), slot.owner.clone()?))).collect();
        let current = Assignment { owners };
        let wanted = rebalance(&core.demand(), &current);
        if wanted != current {
            let differs = wanted.owners.iter().find(|(slot, owner)| current.owners.get(*slot) != Some(owner));
            return Some(format!("the solver would still move {differs:?}"));
        }
        if !self.plan.even || self.plan.workers.iter().flatten().any(|worker| worker.zone.is_some()) {
            return None;
        }
        let margin = 1.0 + f64::from(self.plan.settings.margin_percent) / 100.0 + 0.1;
        let open = || view.workers.iter().filter(|worker| worker.state == WorkerState::Alive);
        for from in open() {
            for to in open().filter(|to| to.slots.len() < to.spec.max_slots as usize) {
                let here = (from.slots.len() as f64 - 1.0) / f64::from(from.spec.cores);
                let there = to.slots.len() as f64 / f64::from(to.spec.cores);
                if here > there * margin {
                    let (from, to) = (&from.spec.id, &to.spec.id);
                    return Some(format!(
                        "beside a slot of {from} each core has {here:.2}, and {there:.2} on {to}"
                    ));
                }
            }
        }
        None
    }

    fn unfinished(&self) -> Option<SlotId> {
        self.owners().into_keys().find(|slot| !self.kafka.is_done(slot, self.now))
    }

    fn begin_ending(&mut self) {
        self.rested = true;
        self.fresh.clear();
        let Some(view) = self.view() else { return };
        let busy = |view: &ClusterView| {
            let open = view.workers.iter().filter(|worker| worker.state == WorkerState::Alive);
            open.max_by_key(|worker| worker.slots.len()).map(|worker| worker.spec.id.clone())
        };
        let number_of =
            |world: &Self, id: &WorkerId| world.workers.iter().position(|worker| worker.spec.id == *id);
        let others = view.workers.iter().filter(|worker| worker.state == WorkerState::Alive).count() > 1;
        let subject = match self.plan.ending {
            Ending::None => None,
            Ending::Join => {
                let absent =
                    |number: &usize| self.plan.workers[*number].is_some() && !self.workers[*number].is_up();
                let known = |id: &WorkerId| view.workers.iter().any(|worker| worker.spec.id == *id);
                let number = (0..self.workers.len())
                    .filter(absent)
                    .find(|number| !known(&self.workers[*number].spec.id));
                number.map(|number| {
                    self.start_worker(number);
                    self.workers[number].spec.id.clone()
                })
            }
            Ending::Loss => busy(&view).filter(|_| others).inspect(|id| {
                if let Some(number) = number_of(self, id) {
                    self.kill_worker(number);
                }
                if self.flaw == Some(crate::flaws::Flaw::LossMovesOthers) {
                    let other = view
                        .workers
                        .iter()
                        .find(|worker| worker.spec.id != *id && worker.state == WorkerState::Alive);
                    if let Some(worker) = other.map(|worker| worker.spec.id.clone()) {
                        self.tell_leader(Event::WorkerDrained { worker });
                    }
                }
            }),
            Ending::Drain => busy(&view).filter(|_| others).inspect(|id| {
                self.tell_leader(Event::WorkerDrained { worker: id.clone() });
            }),
            Ending::LeaderLoss => {
                if let Some(leader) = self.leader() {
                    self.crash_master(leader, 1_000);
                }
                None
            }
        };
        self.note(|| format!("the ending: {:?} of {subject:?}", self.plan.ending));
        self.stage = Stage::Ending { by: self.now + BOUND, from: self.now, before: Box::new(view), subject };
    }

    /// The joiner's part of the slots by its cores, rounded up. Whoever has too few places for its part leaves the rest
    /// to the others.
    fn fair_share(&self, before: &ClusterView, joiner: &WorkerId, slots: u64) -> u64 {
        let joins = self.workers.iter().filter(|worker| worker.spec.id == *joiner).map(|worker| &worker.spec);
        let open = before
            .workers
            .iter()
            .filter(|worker| worker.state == WorkerState::Alive)
            .map(|worker| &worker.spec);
        let mut all: Vec<(u64, u64, bool)> = open
            .chain(joins)
            .map(|spec| (u64::from(spec.cores), u64::from(spec.max_slots), spec.id == *joiner))
            .collect();
        let mut left = slots;
        loop {
            let cores: u64 = all.iter().map(|(cores, _, _)| cores).sum();
            let part = |cores: u64, all: u64| (left * cores).div_ceil(all.max(1));
            let Some(full) = all.iter().position(|(mine, places, _)| part(*mine, cores) > *places) else {
                let joiner = all.iter().find(|(_, _, joins)| *joins);
                // Where it is a whole number the next slot has as much beside it there as where it is: figures decide.
                return joiner.map_or(0, |(mine, _, _)| left * mine / cores.max(1) + 1);
            };
            let (_, places, joins) = all.remove(full);
            if joins {
                return places;
            }
            left -= places.min(left);
        }
    }

    /// What moved since the ending began, and why.
    fn check_ending(&mut self, before: &ClusterView, subject: Option<&WorkerId>) {
        let for_the_load = |grant: &&Fresh| {
            matches!(grant.reason, Some(MoveReason::Uneven { .. } | MoveReason::FairShare { .. }))
        };
        let owner = |slot: &SlotId| before.slots.iter().find(|view| view.slot == *slot)?.owner.clone();
        let mut grants =
            self.fresh.iter().filter(|grant| !for_the_load(grant) && owner(&grant.slot).is_some());
        let ending = self.plan.ending;
        let broken = match (ending, subject) {
            (Ending::Join, Some(joiner)) => {
                let (theirs, others): (Vec<&Fresh>, Vec<&Fresh>) =
                    grants.partition(|grant| grant.worker == *joiner);
                let slots = before.slots.iter().filter(|slot| slot.owner.is_some()).count() as u64;
                let share = self.fair_share(before, joiner, slots);
                // What each slot costs is known for even loads only; lag makes it a little uneven still.
                let too_many = self.plan.even && theirs.len() as u64 > share;
                let what = || {
                    format!("{joiner} joins with a share of {share} of {slots}, and takes {}", theirs.len())
                };
                // A look at the load may send a slot that is on its way to the joiner elsewhere: where loads differ, or
                // where the joiner's zone has room for more of its pipeline now.
                let zoned = self.plan.workers.iter().flatten().any(|worker| worker.zone.is_some());
                let redirected = |grant: &&&Fresh| {
                    (!self.plan.even || zoned)
                        && matches!(&grant.reason, Some(MoveReason::WorkerJoined { worker, .. }) if worker == joiner)
                };
                // Who drained and found no room does now.
                let drained =
                    |grant: &&&Fresh| matches!(grant.reason, Some(MoveReason::WorkerDrained { .. }));
                let other = others
                    .iter()
                    .find(|grant| !redirected(grant) && !drained(grant))
                    .map(|other| format!("{joiner} joins, and {other:?} moves"));
                too_many.then(what).or(other).map(|what| (Rule::JoinTakesItsShare, what))
            }
            (Ending::Loss | Ending::Drain, Some(gone)) => grants
                .find(|grant| owner(&grant.slot).as_ref() != Some(gone))
                .map(|other| (Rule::DepartureMovesItsOwn, format!("{gone} departs, and {other:?} moves"))),
            (Ending::LeaderLoss, _) => {
                self.fresh.iter().find(|grant| owner(&grant.slot).is_some()).map(|other| {
                    (Rule::LeaderLossMovesNothing, format!("another master leads, and {other:?} moves"))
                })
            }
            (Ending::None | Ending::Join | Ending::Loss | Ending::Drain, _) => None,
        };
        if let Some((rule, what)) = broken {
            self.breaks(rule, what);
        }
    }
}
