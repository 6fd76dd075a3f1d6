//! Who is alive: a dropped session makes a worker suspect, silence makes it dead, and a master that was itself away
//! blames nobody for it.

use std::collections::BTreeMap;

use millrace_types::{Millis, WorkerId};

use crate::coordinator::Coordinator;
use crate::event::{Directive, Step};
use crate::history::{Recovery, WorkerLoss};
use crate::record::{Write, worker_key};
use crate::state::{Holding, Life};
use crate::{Event, MoveReason};

/// Ticks that may be missed before the master takes itself for the one that was away.
const MISSED_TICKS: u64 = 3;

impl Coordinator {
    /// After a pause of the master itself (frozen, or a machine asleep) the workers' heartbeats lie unread: every
    /// worker gets its lease anew, counted from now.
    pub(crate) fn forgive_own_absence(&mut self, now: Millis, event: &Event) {
        let away = now.since(self.last_apply) > Millis(self.settings.heartbeat.0 * MISSED_TICKS);
        if !away || matches!(event, Event::ProcessGone { .. }) {
            return;
        }
        for worker in self.workers.values_mut() {
            match &mut worker.life {
                Life::Alive => worker.last_heard = now,
                Life::Suspect { until, .. } => *until = (*until).max(now.plus(self.settings.grace)),
                Life::Dead { .. } => {}
            }
        }
    }

    pub(crate) fn session_lost(&mut self, now: Millis, worker: &WorkerId, session: u64, step: &mut Step) {
        let grace = self.settings.grace;
        let Some(known) = self.workers.get_mut(worker).filter(|known| known.session == Some(session)) else {
            return;
        };
        known.session = None;
        if known.life == Life::Alive {
            known.life = Life::Suspect { until: now.plus(grace), reason: "session lost".into() };
            step.directives.push(Directive::Probe {
                worker: worker.clone(),
                host: known.spec.host.clone(),
                port: known.spec.port,
            });
        }
    }

    pub(crate) fn process_gone(&mut self, now: Millis, worker: &WorkerId) {
        // One that has come back meanwhile is not suspect any more.
        let suspect =
            self.workers.get(worker).is_some_and(|known| matches!(known.life, Life::Suspect { .. }));
        if suspect {
            self.declare_dead(now, worker, "process gone");
        }
    }

    /// Declares those dead whose time is over, and forgets those that were dead for long.
    pub(crate) fn check_lives(&mut self, now: Millis, step: &mut Step) {
        let lease = self.settings.lease;
        let lost: Vec<(WorkerId, String)> = self
            .workers
            .iter()
            .filter_map(|(id, worker)| match &worker.life {
                Life::Alive if now.since(worker.last_heard) >= lease => {
                    Some((id.clone(), format!("silent for {lease}")))
                }
                Life::Suspect { until, reason } if now >= *until => Some((id.clone(), reason.clone())),
                _ => None,
            })
            .collect();
        for (worker, reason) in lost {
            self.declare_dead(now, &worker, &reason);
        }
        let retention = self.settings.dead_worker_retention;
        let forgotten: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| matches!(worker.life, Life::Dead { since } if now.since(since) >= retention))
            .map(|(id, _)| id.clone())
            .collect();
        for worker in forgotten {
            self.workers.remove(&worker);
            step.writes.push(Write::Delete { key: worker_key(&worker) });
        }
    }

    fn declare_dead(&mut self, now: Millis, worker: &WorkerId, reason: &str) {
        let Some(known) = self.workers.get_mut(worker) else { return };
        known.life = Life::Dead { since: now };
        known.memory_used_bytes = 0;
        let mut recoveries = BTreeMap::new();
        for (id, slot) in &mut self.slots {
            if slot.owner() == Some(worker) {
                slot.free(Some((worker.clone(), MoveReason::WorkerLost(reason.to_owned()))));
                self.dirty.insert(id.clone());
                recoveries.insert(id.clone(), Recovery::default());
            }
        }
        self.history.lost(WorkerLoss {
            worker: worker.clone(),
            pid: known.spec.pid,
            reason: reason.to_owned(),
            last_heard_at: known.last_heard,
            detected_at: now,
            slots: recoveries,
        });
        // Moves on their way to it wait for a new target.
        for slot in self.slots.values_mut() {
            if let Holding::Revoking { worker: owner, target, .. } = &mut slot.holding
                && target == worker
            {
                *target = owner.clone();
            }
        }
        self.place_now = true;
    }

    /// When the next worker's time is over.
    pub(crate) fn next_death(&self) -> Option<Millis> {
        self.workers
            .values()
            .map(|worker| match &worker.life {
                Life::Alive => worker.last_heard.plus(self.settings.lease),
                Life::Suspect { until, .. } => *until,
                Life::Dead { since } => since.plus(self.settings.dead_worker_retention),
            })
            .min()
    }
}
