//! Draining: a worker gives up its slots, a few at a time, while it goes on running the others, and gets no new ones.
//! A person asks for it, and may take that back; or its process does, when it is told to stop.
//!
//! Nothing is taken from a worker for which nobody else has room: who leaves all the same is told so, and commits and
//! publishes what it read before its slots are free.

use millrace_types::WorkerId;

use crate::coordinator::{Coordinator, Dirty};
use crate::rebalance::Assignment;
use crate::state::{Hold, Life, Worker};
use crate::{Directive, Rejection};

impl Coordinator {
    pub(crate) fn check_drain(&self, id: &WorkerId) -> Result<(), Rejection> {
        match self.workers.get(id).map(|worker| worker.life) {
            None => Err(Rejection::UnknownWorker { worker: id.clone() }),
            Some(Life::Dead) => Err(Rejection::WorkerIsDead { worker: id.clone() }),
            Some(Life::Alive | Life::Suspect { .. } | Life::Unknown { .. }) => Ok(()),
        }
    }

    pub(crate) fn check_recommission(&self, id: &WorkerId) -> Result<(), Rejection> {
        self.check_drain(id)?;
        match self.workers.get(id) {
            Some(worker) if worker.leaving => Err(Rejection::WorkerIsLeaving { worker: id.clone() }),
            Some(worker) if worker.drained => Ok(()),
            Some(_) | None => Err(Rejection::NotDrained { worker: id.clone() }),
        }
    }

    /// A person's word, which is stored.
    pub(crate) fn set_drained(&mut self, id: &WorkerId, drained: bool) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        if worker.drained != drained {
            worker.drained = drained;
            self.dirty.insert(Dirty::Worker(id.clone()));
            self.replan = true;
        }
    }

    /// The process's own word, which it repeats with each heartbeat.
    pub(crate) fn set_leaving(&mut self, id: &WorkerId, leaving: bool) {
        if let Some(worker) = self.workers.get_mut(id) {
            worker.leaving = leaving;
            // Also without a change: whoever may leave is told once more.
            self.replan |= leaving;
        }
    }

    /// Tells the leaving workers of which `target` moves nothing more that they may go.
    pub(crate) fn let_go(&mut self, target: &Assignment) {
        let leaving = self.workers.iter().filter(|(_, worker)| worker.leaving);
        let free: Vec<(WorkerId, u64)> = leaving
            .filter(|(id, _)| !self.has_slots_to_move(id, target))
            .filter_map(|(id, worker)| Some((id.clone(), worker.reachable()?)))
            .collect();
        for (worker, session) in free {
            self.directives.push(Directive::Leave { worker, session });
        }
    }

    fn has_slots_to_move(&self, id: &WorkerId, target: &Assignment) -> bool {
        self.slots.iter().any(|(slot_id, slot)| match &slot.hold {
            Hold::Granted { owner, .. } => owner == id && target.owners.get(slot_id) != Some(id),
            Hold::Revoking { owner, .. } => owner == id,
            Hold::Free { .. } => false,
        })
    }

    /// What a draining worker waits for; `None` when it holds nothing, or does not drain.
    pub(crate) fn drain_waits_for(&self, id: &WorkerId, worker: &Worker) -> Option<String> {
        let held = self.slots.values().filter(|slot| slot.owner() == Some(id)).count();
        if !worker.is_draining() || worker.life == Life::Dead || held == 0 {
            return None;
        }
        let taken = self.held_slots();
        let is_free = |(other, worker): (&WorkerId, &Worker)| {
            let slots = taken.get(other).copied().unwrap_or(0);
            self.takes_slots(worker) && slots < u64::from(worker.spec.max_slots)
        };
        let is_moving =
            self.slots.values().any(|slot| matches!(&slot.hold, Hold::Revoking { owner, .. } if owner == id));
        let slots = crate::view::counted(held, "slot");
        Some(if is_moving || self.workers.iter().any(is_free) {
            format!("{slots} to be given up")
        } else {
            format!("a worker with room for its {slots}: none is there, add one")
        })
    }
}
