//! Who is alive: registrations, lost sessions, silence. A dead worker's slots become free at once, since Kafka
//! fences whoever still holds one: too early a verdict costs a pause and never correctness.

use millrace_types::{Millis, SlotReport, VERSION, WorkerId, WorkerSpec};

use crate::coordinator::{Coordinator, Dirty};
use crate::history::{Loss, LossCause, LostSlot, MoveReason};
use crate::state::{Hold, Life, Worker};
use crate::{Directive, Rejection};

/// Most workers declared dead, and most forgotten, in one step: its writes are bounded. The rest is due at once.
const WORKERS_PER_STEP: usize = 8;

impl Coordinator {
    pub(crate) fn check_registration(&self, spec: &WorkerSpec) -> Result<(), Rejection> {
        let offer =
            |key, expected| Err(Rejection::Offer { worker: spec.id.clone(), key, value: 0, expected });
        if spec.cores == 0 {
            return offer("cores", "at least 1");
        }
        if spec.max_slots == 0 {
            return offer("max_slots", "at least 1: give the worker more memory");
        }
        if release_line(&spec.version).is_none() || release_line(&spec.version) != release_line(VERSION) {
            let (worker, version) = (spec.id.clone(), spec.version.clone());
            return Err(Rejection::Version { worker, version, master: VERSION });
        }
        match self.workers.get(&spec.id) {
            Some(known) if known.life == Life::Alive && known.spec.pid != spec.pid => {
                let (worker, registered_pid) = (spec.id.clone(), known.spec.pid);
                Err(Rejection::IdTaken { worker, registered_pid, pid: spec.pid })
            }
            _ => Ok(()),
        }
    }

    pub(crate) fn register(&mut self, session: u64, spec: WorkerSpec, running: &[SlotReport]) {
        let id = spec.id.clone();
        if let Some(known) = self.workers.get(&id)
            && known.life != Life::Dead
            && known.spec.pid != spec.pid
        {
            self.bury(&id, LossCause::Replaced);
        }
        let before = self.workers.remove(&id);
        if let Some(old) = before.as_ref().and_then(|known| known.session).filter(|old| *old != session) {
            self.directives.push(Directive::EndSession { worker: id.clone(), session: old });
        }
        let stored = before.as_ref().is_some_and(|known| known.life != Life::Dead && known.spec == spec);
        if !stored {
            self.dirty.insert(Dirty::Worker(id.clone()));
        }
        let mut worker = Worker {
            spec,
            life: Life::Alive,
            since: self.now,
            session: Some(session),
            last_heard: Some(self.now),
            memory_used_bytes: 0,
            joined: true,
            drained: before.as_ref().is_some_and(|known| known.drained),
            leaving: false,
        };
        match before {
            Some(known) if known.life != Life::Dead => {
                worker.joined = known.joined;
                worker.memory_used_bytes = known.memory_used_bytes;
                if known.life == Life::Alive {
                    worker.since = known.since;
                }
            }
            _ => self.settle(),
        }
        self.workers.insert(id.clone(), worker);
        self.replan = true;
        self.compare(&id, running, true);
    }

    /// A message of its current session came. A worker that was silent for too long and thawed is alive again.
    pub(crate) fn hear(&mut self, id: &WorkerId, memory_used_bytes: u64) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.last_heard = Some(self.now);
        worker.memory_used_bytes = memory_used_bytes;
        if worker.life != Life::Alive {
            worker.life = Life::Alive;
            worker.since = self.now;
            worker.joined = true;
            self.dirty.insert(Dirty::Worker(id.clone()));
            self.replan = true;
            self.settle();
        }
    }

    pub(crate) fn lose_session(&mut self, session: u64, id: &WorkerId) {
        let Some(worker) = self.workers.get_mut(id).filter(|worker| worker.session == Some(session)) else {
            return;
        };
        worker.session = None;
        if worker.life != Life::Alive {
            return;
        }
        if worker.leaving && !self.slots.values().any(|slot| slot.owner() == Some(id)) {
            return self.bury(id, LossCause::Left);
        }
        worker.life = Life::Suspect { until: self.now.plus(self.settings.grace) };
        worker.since = self.now;
        self.replan = true;
        let (host, port) = (worker.spec.host.clone(), worker.spec.port);
        self.directives.push(Directive::Probe { worker: id.clone(), host, port });
    }

    /// A worker that has a session again by now is a new answer to an old question: it stays.
    pub(crate) fn lose_process(&mut self, id: &WorkerId) {
        let life = self.workers.get(id).map(|worker| worker.life);
        if matches!(life, Some(Life::Suspect { .. } | Life::Unknown { .. })) {
            self.bury(id, LossCause::ProcessGone);
        }
    }

    /// When time alone changes the worker's state.
    pub(crate) fn deadline_of(&self, worker: &Worker) -> Millis {
        let last_sign = worker.last_heard.unwrap_or(worker.since);
        match worker.life {
            Life::Alive => last_sign.plus(self.settings.lease).max(self.patience_until),
            Life::Suspect { until } | Life::Unknown { until } => until.max(self.patience_until),
            Life::Dead => worker.since.plus(self.settings.dead_worker_retention),
        }
    }

    fn overdue(&self, dead: bool) -> Vec<(WorkerId, Life)> {
        self.workers
            .iter()
            .filter(|(_, worker)| (worker.life == Life::Dead) == dead && self.deadline_of(worker) <= self.now)
            .map(|(id, worker)| (id.clone(), worker.life))
            .take(WORKERS_PER_STEP)
            .collect()
    }

    pub(crate) fn bury_the_overdue(&mut self) {
        for (id, life) in self.overdue(false) {
            let cause = if matches!(life, Life::Suspect { .. }) {
                LossCause::SessionDropped
            } else {
                LossCause::Silent
            };
            self.bury(&id, cause);
        }
    }

    pub(crate) fn forget_the_long_dead(&mut self) {
        for (id, _) in self.overdue(true) {
            if let Some(Worker { session: Some(session), .. }) = self.workers.remove(&id) {
                self.directives.push(Directive::EndSession { worker: id.clone(), session });
            }
            self.dirty.insert(Dirty::Worker(id));
        }
    }

    /// The worker is dead; its slots are free.
    fn bury(&mut self, id: &WorkerId, cause: LossCause) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        let left = worker.leaving;
        worker.life = Life::Dead;
        worker.since = self.now;
        let last_heard_at = worker.last_heard;
        self.dirty.insert(Dirty::Worker(id.clone()));
        let mut lost = Vec::new();
        for (slot_id, slot) in &mut self.slots {
            if slot.owner() != Some(id) {
                continue;
            }
            // Who left was not killed by a record.
            slot.deaths = slot.deaths.saturating_add(u32::from(!left));
            lost.push(LostSlot { slot: slot_id.clone(), epoch: slot.epoch, regrant: None });
            let reason = MoveReason::WorkerLost { worker: id.clone(), cause };
            slot.hold =
                Hold::Free { from: Some(id.clone()), home: None, since: self.now, reason, urgent: true };
        }
        for lost in &lost {
            self.touch(&lost.slot);
        }
        let reassigned_at = lost.is_empty().then_some(self.now);
        self.history.lost(Loss {
            worker: id.clone(),
            cause,
            last_heard_at,
            detected_at: self.now,
            reassigned_at,
            slots: lost,
        });
        self.replan = true;
    }

    fn settle(&mut self) {
        let at = self.now.plus(self.settings.settle);
        self.settle_at.get_or_insert(at);
    }

    /// Whether the worker can be told anything: it is alive, and not about to be declared dead.
    pub(crate) fn is_within_reach(&self, worker: &Worker) -> bool {
        worker.reachable().is_some() && self.deadline_of(worker) > self.now
    }

    /// Whether free slots may go to the worker.
    pub(crate) fn takes_slots(&self, worker: &Worker) -> bool {
        self.is_within_reach(worker) && !worker.is_draining()
    }
}

/// Major and minor number; workers and masters understand each other within them.
fn release_line(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
