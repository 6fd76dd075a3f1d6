//! Who is alive: registrations, lost sessions, silence. A dead worker's slots become free at once, since Kafka
//! fences whoever still holds one: too early a verdict costs a pause and never correctness.

use millrace_types::{Millis, SlotReport, VERSION, WorkerId, WorkerSpec};

use crate::backlog::Dirty;
use crate::coordinator::Coordinator;
use crate::history::{Loss, LossCause, LostSlot, MoveReason};
use crate::load::NORMAL_SPEED;
use crate::state::{Hold, Life, Worker};
use crate::timers::Timer;
use crate::{Directive, Rejection};

/// Longest label of a zone, in characters.
const LONGEST_ZONE: usize = 64;

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
        if let Some(zone) = &spec.zone {
            let plain = zone.chars().all(|c| !c.is_control()) && !zone.trim().is_empty();
            if !plain || zone.chars().count() > LONGEST_ZONE {
                let zone = zone.chars().take(LONGEST_ZONE).collect();
                return Err(Rejection::Zone { worker: spec.id.clone(), zone });
            }
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

    pub(crate) fn register(&mut self, session: u64, spec: WorkerSpec, running: Vec<SlotReport>) {
        let id = spec.id.clone();
        let other_process = self.workers.get(&id).is_some_and(|known| known.spec.pid != spec.pid);
        if other_process && self.workers.get(&id).is_some_and(|known| known.life != Life::Dead) {
            self.bury(&id, LossCause::Replaced);
        }
        let now = self.now;
        let known =
            self.workers.entry(id.clone()).or_insert_with(|| Worker::new(spec.clone(), Life::Dead, now));
        let old_session = known.session.replace(session).filter(|old| *old != session);
        let was_dead = known.life == Life::Dead;
        if was_dead || known.spec != spec {
            self.backlog.insert(Dirty::Worker(id.clone()));
        }
        if was_dead {
            known.memory_used_bytes = 0;
        }
        if other_process {
            known.speed = NORMAL_SPEED;
        }
        if known.life != Life::Alive {
            known.life = Life::Alive;
            known.since = now;
        }
        known.spec = spec;
        known.last_heard = Some(now);
        known.ask_all = None;
        if let Some(session) = old_session {
            self.directives.push(Directive::EndSession { worker: id.clone(), session });
        }
        if other_process {
            // The earlier one was told to end. What a person asked for still holds.
            self.set_drain(&id, |drain| drain.leaving = false);
        }
        if was_dead {
            self.join(&id);
        } else {
            self.replan = true;
            self.grants_due = true;
        }
        self.arm(&id);
        self.compare(&id, running, true);
    }

    /// The worker takes its share when the joins of this moment are gathered. What nobody had room for goes to the
    /// first of them at once and waits with the others: a thousand workers that come back together are no reason to
    /// share out a thousand times.
    fn join(&mut self, id: &WorkerId) {
        if !self.draining.contains(id) {
            self.replan |= self.settle_at.is_none();
            self.grants_due |= self.replan;
            self.joiners.insert(id.clone());
            self.settle();
        }
    }

    /// A message of its current session came. A worker that was silent for too long and thawed is alive again.
    pub(crate) fn hear(&mut self, id: &WorkerId, memory_used_bytes: u64) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.last_heard = Some(self.now);
        worker.memory_used_bytes = memory_used_bytes;
        if worker.life != Life::Alive {
            worker.life = Life::Alive;
            worker.since = self.now;
            self.backlog.insert(Dirty::Worker(id.clone()));
            self.join(id);
            self.arm(id);
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
        if worker.drain.leaving && worker.holds.is_empty() {
            return self.bury(id, LossCause::Left);
        }
        worker.life = Life::Suspect { until: self.now.plus(self.settings.grace) };
        worker.since = self.now;
        self.replan = true;
        let (host, port) = (worker.spec.host.clone(), worker.spec.port);
        self.directives.push(Directive::Probe { worker: id.clone(), host, port });
        self.arm(id);
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

    /// Its deadline is looked at when it comes; an earlier look sets the next one.
    pub(crate) fn arm(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.get(id) else { return };
        let (at, set) = (self.deadline_of(worker), worker.wake_at);
        if set.is_some_and(|set| set <= at) {
            return;
        }
        if let Some(set) = set {
            self.timers.unset(set, Timer::Worker(id.clone()));
        }
        self.timers.set(at, Timer::Worker(id.clone()));
        if let Some(worker) = self.workers.get_mut(id) {
            worker.wake_at = Some(at);
        }
    }

    /// Its timer went off: it is dead, or forgotten, or was heard meanwhile.
    pub(crate) fn look_after(&mut self, id: &WorkerId) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.wake_at = None;
        let life = worker.life;
        let due = self.workers.get(id).is_some_and(|worker| self.deadline_of(worker) <= self.now);
        match life {
            _ if !due => self.arm(id),
            Life::Dead => self.forget(id),
            Life::Suspect { .. } => self.bury(id, LossCause::SessionDropped),
            Life::Alive | Life::Unknown { .. } => self.bury(id, LossCause::Silent),
        }
    }

    fn forget(&mut self, id: &WorkerId) {
        if let Some(Worker { session: Some(session), .. }) = self.workers.remove(id) {
            self.directives.push(Directive::EndSession { worker: id.clone(), session });
        }
        self.draining.remove(id);
        self.backlog.insert(Dirty::Worker(id.clone()));
    }

    /// The worker is dead; its slots are free.
    fn bury(&mut self, id: &WorkerId, cause: LossCause) {
        let Some(worker) = self.workers.get_mut(id) else { return };
        worker.life = Life::Dead;
        worker.since = self.now;
        let last_heard_at = worker.last_heard;
        let leaving = worker.drain.leaving;
        let (held, coming) = (worker.holds.clone(), worker.intended.clone());
        self.backlog.insert(Dirty::Worker(id.clone()));
        self.joiners.remove(id);
        self.drains.remove(id);
        let since = self.now;
        let mut lost = Vec::new();
        for slot_id in &held {
            let epoch = self.change_slot(slot_id, |slot| {
                // Who left was not killed by a record.
                slot.deaths = slot.deaths.saturating_add(u32::from(!leaving));
                let reason = MoveReason::WorkerLost { worker: id.clone(), cause };
                slot.hold = Hold::Free { from: Some(id.clone()), home: None, since, reason, urgent: true };
                slot.epoch
            });
            lost.extend(epoch.map(|epoch| LostSlot { slot: slot_id.clone(), epoch, regrant: None }));
            self.touch(slot_id);
        }
        for slot_id in coming.keys().filter(|slot| !held.contains(*slot)) {
            self.change_slot(slot_id, |slot| match &mut slot.hold {
                Hold::Free { home, .. } => *home = None,
                Hold::Revoking { to, .. } => *to = None,
                Hold::Granted { .. } => {}
            });
        }
        self.arm(id);
        self.replan = true;
        let reassigned_at = lost.is_empty().then_some(self.now);
        self.history.lost(Loss {
            worker: id.clone(),
            cause,
            last_heard_at,
            detected_at: self.now,
            reassigned_at,
            slots: lost,
        });
    }

    pub(crate) fn settle(&mut self) {
        let at = self.now.plus(self.settings.settle);
        self.settle_at.get_or_insert(at);
    }

    /// Whether the worker can be told anything: it is alive, and not about to be declared dead.
    pub(crate) fn is_within_reach(&self, worker: &Worker) -> bool {
        worker.reachable().is_some() && self.deadline_of(worker) > self.now
    }

    /// Whether slots may go to the worker.
    pub(crate) fn takes_slots(&self, worker: &Worker) -> bool {
        self.is_within_reach(worker) && !worker.is_draining()
    }
}

/// Major and minor number; workers and masters understand each other within them.
fn release_line(version: &str) -> Option<(u32, u32)> {
    let mut parts = version.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}
