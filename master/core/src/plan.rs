//! From the state to the solver's problem, and from its answer to homes of free slots and to moves, of which only a
//! bounded number is under way at a time.

use std::collections::{BTreeMap, VecDeque};

use millrace_types::{Millis, PipelineId, SlotId, WorkerId};
use serde::Serialize;

use crate::coordinator::{Balance, Coordinator};
use crate::history::{Beside, MoveReason};
use crate::rebalance::{CORE, Demand, Numbering, Offer, Wish, seat_of, zones_of};
use crate::settings::Settings;
use crate::solver::{Cause, Change, Evening, Item, NOBODY, Problem, share, solve};
use crate::state::{Hold, Life, Resend, Slot, Worker};

/// A decided move that has not begun.
#[derive(Debug, Clone)]
pub(crate) struct Planned {
    pub(crate) slot: SlotId,
    pub(crate) from: WorkerId,
    /// `None`: its place goes to another pipeline.
    pub(crate) to: Option<WorkerId>,
    pub(crate) reason: MoveReason,
}

/// Decided moves by the worker that gives.
pub(crate) type Queues = BTreeMap<WorkerId, VecDeque<Planned>>;

/// A slot that moved, and how often it did so for the load's sake lately. Each time makes it rest for twice as long, and
/// asks for one margin more: figures that waver, however they do, come to move nothing.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moved {
    at: Millis,
    for_load: u32,
}

/// More moves for the load's sake make no slot more reluctant.
const MOST_RELUCTANT: u32 = 6;

impl Moved {
    fn rests(self, now: Millis, settings: &Settings) -> bool {
        let doubled = self.for_load.saturating_sub(1);
        self.at.plus(Millis(settings.rest.0.saturating_mul(1 << doubled))) > now
    }

    /// Moves for the load's sake that are not forgotten: one is, after each longest rest without another.
    fn reluctance(self, now: Millis, settings: &Settings) -> u32 {
        let forgotten = now.since(self.at).0 / settings.longest_rest().0.max(1);
        self.for_load.saturating_sub(u32::try_from(forgotten).unwrap_or(u32::MAX))
    }
}

/// What would be moved now, as [`Event::Rebalance`](crate::Event::Rebalance) would.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RebalancePlan {
    /// By slot.
    pub moves: Vec<PlannedMove>,
    /// Workers that may have slots, by id.
    pub workers: Vec<WorkerLoad>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PlannedMove {
    pub slot: SlotId,
    /// `None` when it has no owner.
    pub from: Option<WorkerId>,
    /// `None` when its place goes to another pipeline.
    pub to: Option<WorkerId>,
    /// In thousandths of a core.
    pub load_millicores: u64,
    pub reason: MoveReason,
}

/// A worker's load before the plan and after it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct WorkerLoad {
    pub worker: WorkerId,
    pub cores: u32,
    /// What its cores achieve, in percent of what is usual here.
    pub speed_percent: u32,
    pub slots_before: usize,
    pub slots_after: usize,
    /// In thousandths of a core of usual speed.
    pub millicores_before: u64,
    pub millicores_after: u64,
}

/// A problem with the names of its numbers.
struct Named<'a> {
    problem: Problem,
    workers: Vec<&'a WorkerId>,
    slots: Vec<&'a SlotId>,
    pipelines: Vec<&'a PipelineId>,
}

impl Named<'_> {
    fn worker(&self, seat: u32) -> Option<WorkerId> {
        self.workers.get(seat as usize).map(|id| (*id).clone())
    }

    fn reason(&self, change: Change, coordinator: &Coordinator) -> MoveReason {
        let from = self.worker(self.problem.items[change.item as usize].owner);
        let beside = |beside, there| Beside { here_percent: percent(beside), there_percent: percent(there) };
        match (change.cause, from, self.worker(change.to)) {
            (Cause::Joined { beside: here, there }, _, Some(worker)) => {
                MoveReason::WorkerJoined { worker, beside: beside(here, there) }
            }
            (Cause::Uneven { beside: here, there } | Cause::Joined { beside: here, there }, _, _) => {
                MoveReason::Uneven { beside: beside(here, there) }
            }
            (Cause::Drained, Some(worker), _) => MoveReason::WorkerDrained { worker },
            (Cause::Avoided, Some(worker), _) => MoveReason::KeepsFailing { worker },
            (Cause::FairShare { pipeline }, _, _) => {
                let slot = self.slots[change.item as usize];
                let pipeline = self.pipelines[pipeline as usize];
                let places = |id| coordinator.pipelines.get(id).map_or(0, |pipeline| pipeline.owned);
                MoveReason::FairShare {
                    pipeline: pipeline.clone(),
                    its_places: places(pipeline),
                    our_places: places(&slot.pipeline),
                }
            }
            (Cause::Placed | Cause::Drained | Cause::Avoided, _, _) => MoveReason::FewerPlaces,
        }
    }
}

/// From millionths.
fn percent(share: u64) -> u32 {
    u32::try_from(share / 10_000).unwrap_or(u32::MAX)
}

impl Coordinator {
    /// What would be moved now, and why, with the load of the workers before and after. Changes nothing.
    pub fn plan(&self) -> RebalancePlan {
        let named = self.problem(Evening::All, true, false);
        let mut workers: Vec<WorkerLoad> = named
            .workers
            .iter()
            .filter_map(|id| {
                let spec = self.workers.get(*id)?;
                Some(WorkerLoad {
                    worker: (*id).clone(),
                    cores: spec.spec.cores,
                    speed_percent: spec.speed,
                    slots_before: 0,
                    slots_after: 0,
                    millicores_before: 0,
                    millicores_after: 0,
                })
            })
            .collect();
        for item in &named.problem.items {
            if let Some(worker) = workers.get_mut(item.owner as usize) {
                worker.slots_before += 1;
                worker.millicores_before += item.load;
            }
        }
        for worker in &mut workers {
            worker.slots_after = worker.slots_before;
            worker.millicores_after = worker.millicores_before;
        }
        let mut moves = Vec::new();
        for change in solve(&named.problem) {
            let item = &named.problem.items[change.item as usize];
            if let Some(worker) = workers.get_mut(item.owner as usize) {
                worker.slots_after -= 1;
                worker.millicores_after -= item.load;
            }
            if let Some(worker) = workers.get_mut(change.to as usize) {
                worker.slots_after += 1;
                worker.millicores_after += item.load;
            }
            moves.push(PlannedMove {
                slot: named.slots[change.item as usize].clone(),
                from: named.worker(item.owner),
                to: named.worker(change.to),
                load_millicores: item.load / 1_000,
                reason: named.reason(change, self),
            });
        }
        for worker in &mut workers {
            worker.millicores_before /= 1_000;
            worker.millicores_after /= 1_000;
        }
        moves.sort_by(|a, b| a.slot.cmp(&b.slot));
        RebalancePlan { moves, workers }
    }

    /// A person wants it evened out now.
    pub(crate) fn rebalance_now(&mut self) {
        self.look_at_load(Balance::Asked);
    }

    /// Weighs the slots anew; the load is evened out as soon as joins have settled.
    pub(crate) fn look_at_load(&mut self, why: Balance) {
        self.weigh();
        self.balanced_at = self.now;
        let (now, settings) = (self.now, &self.settings);
        self.moved.retain(|_, moved| moved.rests(now, settings) || moved.reluctance(now, settings) > 0);
        if self.balance_due != Some(Balance::Asked) {
            self.balance_due = Some(why);
        }
    }

    /// Decides what has to be decided, begins moves, grants free slots. While joins are gathered, only slots that
    /// ran a moment ago are placed and granted.
    pub(crate) fn assign(&mut self) {
        let settled = self.settle_at.is_none();
        let replan = std::mem::take(&mut self.replan);
        let balance = self.balance_due.take_if(|_| settled);
        let evening = match balance {
            Some(_) => Evening::All,
            None if settled && !self.joiners.is_empty() => Evening::Joiners,
            None => Evening::None,
        };
        let to_place = if settled { !self.waiting.unplaced.is_empty() } else { self.waiting.urgent > 0 };
        let to_move = evening != Evening::None || !self.avoiding.is_empty() || !self.draining.is_empty();
        if balance.is_some() || replan && (to_place || to_move || !self.waiting.homed.is_empty()) {
            self.decide(evening, balance == Some(Balance::Asked), !settled);
        }
        if settled {
            self.begin_moves();
            if self.planned.is_empty() {
                self.joiners.clear();
            }
        }
        self.grant_homed(settled);
    }

    fn decide(&mut self, evening: Evening, though_resting: bool, urgent_only: bool) {
        let named = self.problem(evening, though_resting, urgent_only);
        let decided: Vec<(SlotId, Option<WorkerId>, Cause, MoveReason)> = solve(&named.problem)
            .into_iter()
            .map(|change| {
                let slot = named.slots[change.item as usize].clone();
                (slot, named.worker(change.to), change.cause, named.reason(change, self))
            })
            .collect();
        self.planned.clear();
        self.drains.clear();
        for (id, wanted, cause, reason) in decided {
            let Some(slot) = self.slots.get(&id) else { continue };
            match &slot.hold {
                Hold::Free { .. } => {
                    if let Some(to) = wanted.as_ref().filter(|to| self.may_grant(slot, to, !urgent_only)) {
                        self.grant(&id, to);
                        continue;
                    }
                    self.change_slot(&id, |slot| {
                        if let Hold::Free { home, .. } = &mut slot.hold {
                            *home = wanted;
                        }
                    });
                }
                Hold::Revoking { .. } => {
                    self.change_slot(&id, |slot| {
                        if let Hold::Revoking { to, .. } = &mut slot.hold {
                            *to = wanted;
                        }
                    });
                }
                Hold::Granted { owner, .. } => {
                    let from = owner.clone();
                    let planned = Planned { slot: id, from, to: wanted, reason };
                    match cause {
                        Cause::Drained => {
                            self.drains.entry(planned.from.clone()).or_default().push_back(planned);
                        }
                        // Only a fair share takes a place away for nothing in return.
                        _ if planned.to.is_some() || matches!(cause, Cause::FairShare { .. }) => {
                            self.planned.entry(planned.from.clone()).or_default().push_back(planned);
                        }
                        _ => {}
                    }
                }
            }
        }
        self.grants_due = true;
    }

    /// As many as may be under way. Whoever drains comes first: its process may be about to end.
    fn begin_moves(&mut self) {
        let drains = std::mem::take(&mut self.drains);
        self.drains = self.begin_some(drains);
        let planned = std::mem::take(&mut self.planned);
        self.planned = self.begin_some(planned);
    }

    /// Gives back those that have to wait.
    fn begin_some(&mut self, mut queues: Queues) -> Queues {
        let (all, of_a_worker) =
            (self.settings.moves_at_a_time.max(1), self.settings.moves_of_a_worker.max(1));
        let mut done = Vec::new();
        for (from, queue) in &mut queues {
            if self.waiting.moving >= all {
                break;
            }
            while self.waiting.moving < all
                && self.workers.get(from).is_some_and(|worker| worker.revoking < of_a_worker)
                && let Some(planned) = queue.pop_front()
            {
                self.begin_move(planned);
            }
            if queue.is_empty() {
                done.push(from.clone());
            }
        }
        for from in done {
            queues.remove(&from);
        }
        queues
    }

    /// Begins it, if it is still what it was when it was decided.
    fn begin_move(&mut self, planned: Planned) {
        let Planned { slot: id, from, to, reason } = planned;
        let granted = self.slots.get(&id).is_some_and(
            |slot| matches!(&slot.hold, Hold::Granted { owner, .. } if *owner == from && slot.halt.is_none()),
        );
        let taken =
            to.as_ref().is_none_or(|to| self.workers.get(to).is_some_and(|worker| self.takes_slots(worker)));
        if !granted || !taken || !self.grants_slots_of(&id.pipeline) {
            return;
        }
        let (since, resend) = (self.now, Resend::after(self.now, self.settings.heartbeat));
        let owner = from.clone();
        let epoch = self.change_slot(&id, |slot| {
            slot.hold = Hold::Revoking { owner, to, since, reason, resend };
            slot.epoch
        });
        if let Some(epoch) = epoch {
            self.revoke_directive(&from, &id, epoch);
        }
    }

    /// Grants free slots whose home can take them.
    fn grant_homed(&mut self, settled: bool) {
        if !std::mem::take(&mut self.grants_due) {
            return;
        }
        let homed: Vec<SlotId> = self.waiting.homed.iter().cloned().collect();
        for id in homed {
            let Some(slot) = self.slots.get(&id) else { continue };
            if let Hold::Free { home: Some(home), .. } = &slot.hold
                && self.may_grant(slot, home, settled)
            {
                let home = home.clone();
                self.grant(&id, &home);
            }
        }
    }

    /// Whether the free slot may be granted to the worker now. Who is still giving slots up gets its next one when
    /// they are gone: see `slot_stopped`.
    fn may_grant(&self, slot: &Slot, to: &WorkerId, settled: bool) -> bool {
        let urgent = matches!(slot.hold, Hold::Free { urgent: true, .. });
        slot.retry_at.is_none()
            && (settled || urgent)
            && self.workers.get(to).is_some_and(|worker| self.takes_slots(worker) && worker.has_room())
    }

    fn offer(&self, id: &WorkerId, worker: &Worker) -> Offer {
        Offer {
            cores: worker.spec.cores,
            speed_percent: worker.speed,
            max_slots: worker.spec.max_slots,
            zone: worker.spec.zone.clone(),
            unreachable: !self.is_within_reach(worker),
            draining: worker.is_draining(),
            joined: self.joiners.contains(id),
        }
    }

    /// Whether the slot rests, and how reluctant it is, by the last look at the load: between two looks nothing
    /// changes by time alone.
    fn calm_of(&self, slot: &SlotId, though: bool) -> (bool, u32) {
        let (at, settings) = (self.balanced_at, &self.settings);
        let moved = self.moved.get(slot).filter(|_| !though);
        moved.map_or((false, 0), |moved| {
            (moved.rests(at, settings), moved.reluctance(at, settings).saturating_sub(1))
        })
    }

    /// The slot went to another worker.
    pub(crate) fn note_moved(&mut self, slot: &SlotId, reason: &MoveReason) {
        let before = self.moved.get(slot).map_or(0, |moved| moved.reluctance(self.now, &self.settings));
        let more = u32::from(matches!(reason, MoveReason::Uneven { .. }));
        let for_load = (before + more).min(MOST_RELUCTANT);
        self.moved.insert(slot.clone(), Moved { at: self.now, for_load });
    }

    fn weight_of(&self, pipeline: &PipelineId) -> u32 {
        self.pipelines.get(pipeline).map_or(1, |pipeline| pipeline.definition.weight)
    }

    fn problem(&self, evening: Evening, though_resting: bool, urgent_only: bool) -> Named<'_> {
        let living: Vec<(&WorkerId, &Worker)> =
            self.workers.iter().filter(|(_, worker)| worker.life != Life::Dead).collect();
        let zones = zones_of(living.iter().map(|(_, worker)| worker.spec.zone.as_deref()));
        let mut pipelines = Numbering::default();
        let (mut items, mut slots) = (Vec::new(), Vec::new());
        let mut avoids = Vec::new();
        let mut add = |id, load, owner| {
            if let Some((avoided, _)) = self.avoiding.get(id) {
                avoids.push((items.len(), avoided));
            }
            let (resting, reluctance) = self.calm_of(id, though_resting);
            let pipeline = pipelines.of(&id.pipeline);
            items.push(Item { pipeline, load, owner, avoids: NOBODY, resting, reluctance });
            slots.push(id);
        };
        let mut homeless = Vec::new();
        for (seat, (_, worker)) in (0u32..).zip(&living) {
            let takes = self.takes_slots(worker);
            // What it holds comes first: what is only to come has to go when there is no room for all.
            for (id, intended) in worker.intended.iter().filter(|(_, intended)| intended.held) {
                add(id, intended.load.max(1), seat);
            }
            for (id, intended) in worker.intended.iter().filter(|(_, intended)| !intended.held) {
                if takes {
                    add(id, intended.load.max(1), seat);
                } else {
                    homeless.push((id, intended.load.max(1)));
                }
            }
        }
        let unplaced = self.waiting.unplaced.iter().filter(|(_, urgent)| **urgent || !urgent_only);
        homeless.extend(unplaced.filter_map(|(id, _)| Some((id, self.slots.get(id)?.weight.max(1)))));
        homeless.sort_unstable();
        for (id, load) in homeless {
            add(id, load, NOBODY);
        }
        for (item, avoided) in avoids {
            let seat = living.binary_search_by(|(id, _)| (*id).cmp(avoided));
            items[item].avoids = seat.ok().and_then(|seat| u32::try_from(seat).ok()).unwrap_or(NOBODY);
        }
        Named {
            problem: Problem {
                seats: living.iter().map(|(id, worker)| seat_of(&self.offer(id, worker), &zones)).collect(),
                items,
                weights: pipelines.weights(|id| self.weight_of(id)),
                zones: zones.len().max(1) as u32,
                evening,
                margin_percent: self.settings.margin_percent,
            },
            pipelines: pipelines.pipelines(),
            workers: living.into_iter().map(|(id, _)| id).collect(),
            slots,
        }
    }

    /// The solver's question in plain maps, with everything that may be evened out.
    pub fn demand(&self) -> Demand {
        let living = self.workers.iter().filter(|(_, worker)| worker.life != Life::Dead);
        let wanted =
            self.slots.iter().filter(|(id, slot)| slot.halt.is_none() && self.grants_slots_of(&id.pipeline));
        let wish = |id: &SlotId, load| {
            let (resting, reluctance) = self.calm_of(id, false);
            let avoids = self.avoiding.get(id).map(|(worker, _)| worker.clone());
            Wish { load, avoids, resting, reluctance }
        };
        Demand {
            workers: living.map(|(id, worker)| (id.clone(), self.offer(id, worker))).collect(),
            slots: wanted.map(|(id, slot)| (id.clone(), wish(id, slot.weight))).collect(),
            weights: self.pipelines.keys().map(|id| (id.clone(), self.weight_of(id))).collect(),
            evening: Evening::All,
            margin_percent: self.settings.margin_percent,
        }
    }

    /// Load per core of a worker, in percent of a core of usual speed.
    pub(crate) fn load_percent(&self, worker: &Worker) -> u32 {
        let load = worker.intended.values().map(|intended| intended.load).sum();
        let capacity = u64::from(worker.spec.cores) * CORE / 100 * u64::from(worker.speed);
        percent(share(load, capacity))
    }
}
