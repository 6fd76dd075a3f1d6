//! Workers that are to give their slots up: because a person says so, which outlives the master, or because their
//! process was told to end. They keep what nobody else has room for, and run it.

use millrace_types::WorkerId;

use crate::backlog::Dirty;
use crate::coordinator::Coordinator;
use crate::state::{Drain, Life, Worker};
use crate::{Directive, Rejection};

impl Coordinator {
    pub(crate) fn check_drain(&self, id: &WorkerId) -> Result<(), Rejection> {
        match self.workers.get(id) {
            None => Err(Rejection::UnknownWorker { worker: id.clone() }),
            Some(worker) if worker.life == Life::Dead => Err(Rejection::WorkerIsDead { worker: id.clone() }),
            Some(_) => Ok(()),
        }
    }

    pub(crate) fn check_recommission(&self, id: &WorkerId) -> Result<(), Rejection> {
        self.check_drain(id)?;
        match self.workers.get(id).map(|worker| worker.drain) {
            Some(Drain { leaving: true, .. }) => Err(Rejection::WorkerIsLeaving { worker: id.clone() }),
            Some(Drain { asked: false, .. }) => Err(Rejection::NotDrained { worker: id.clone() }),
            Some(_) | None => Ok(()),
        }
    }

    pub(crate) fn drain(&mut self, id: &WorkerId) {
        self.set_drain(id, |drain| drain.asked = true);
    }

    pub(crate) fn recommission(&mut self, id: &WorkerId) {
        self.set_drain(id, |drain| drain.asked = false);
    }

    /// What the process says of itself with each heartbeat.
    pub(crate) fn note_leaving(&mut self, id: &WorkerId, leaving: bool) {
        if self.workers.get(id).is_some_and(|worker| worker.drain.leaving != leaving) {
            self.set_drain(id, |drain| drain.leaving = leaving);
        }
    }

    pub(crate) fn set_drain(&mut self, id: &WorkerId, change: impl FnOnce(&mut Drain)) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let (before, was_draining) = (worker.drain, worker.is_draining());
        change(&mut worker.drain);
        let is_draining = worker.is_draining();
        if before.asked != worker.drain.asked {
            self.backlog.insert(Dirty::Worker(id.clone()));
        }
        if was_draining == is_draining {
            return;
        }
        self.replan = true;
        if is_draining {
            self.draining.insert(id.clone());
            self.joiners.remove(id);
        } else {
            self.draining.remove(id);
            self.drains.remove(id);
            self.joiners.insert(id.clone());
            self.settle();
        }
    }

    /// Tells a leaving worker from which nothing more is moved that it may go, again with each of its heartbeats.
    pub(crate) fn let_go(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.get(id) else { return };
        let moves = worker.revoking > 0 || self.drains.contains_key(id);
        if let (true, false, Some(session)) = (worker.drain.leaving, moves, worker.reachable()) {
            self.directives.push(Directive::Leave { worker: id.clone(), session });
        }
    }

    /// What a draining worker waits for; `None` when it holds nothing, or does not drain.
    pub(crate) fn drain_waits_for(&self, id: &WorkerId, worker: &Worker) -> Option<String> {
        let held = worker.holds.len();
        if !worker.is_draining() || worker.life == Life::Dead || held == 0 {
            return None;
        }
        let slots = crate::view::counted(held, "slot");
        let moves = worker.revoking > 0 || self.drains.contains_key(id) || self.settle_at.is_some();
        Some(if moves {
            format!("{slots} to be given up")
        } else {
            format!("a worker with room for its {slots}: none is there, add one")
        })
    }
}
