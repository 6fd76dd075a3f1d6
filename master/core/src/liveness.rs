//! Who is alive: a dropped session makes a worker suspect, silence makes it dead, and a master that was itself away
//! blames nobody for it.

use millrace_types::{Millis, WorkerId};

use crate::coordinator::Coordinator;
use crate::event::{Directive, Event, Step, Write};
use crate::history::{Loss, LossCause, LostSlot, MoveReason};
use crate::record::RecordKey;
use crate::state::{Holding, Life};

/// Ticks that may be missed before the master takes itself for the one that was away.
const MISSED_TICKS: u64 = 3;

impl Coordinator {
    /// After a pause of the master itself (frozen, or a machine asleep) the workers' heartbeats lie unread: every
    /// worker gets its time anew, counted from now.
    pub(crate) fn forgive_own_absence(&mut self, now: Millis, event: &Event) {
        let away = now.since(self.last_apply) > Millis(self.settings.heartbeat.0 * MISSED_TICKS);
        if !away || matches!(event, Event::ProcessGone { .. }) {
            return;
        }
        let (grace, lease) = (self.settings.grace, self.settings.lease);
        for worker in self.workers.values_mut() {
            match &mut worker.life {
                Life::Alive => worker.last_heard = Some(now),
                Life::Suspect { until } => *until = (*until).max(now.plus(grace)),
                Life::Unknown { until } => *until = (*until).max(now.plus(lease)),
                Life::Dead => {}
            }
        }
    }

    pub(crate) fn session_lost(&mut self, now: Millis, worker: &WorkerId, session: u64, step: &mut Step) {
        let Some(known) = self.workers.get_mut(worker).filter(|known| known.session == Some(session)) else {
            return;
        };
        known.session = None;
        if known.life == Life::Alive {
            known.life = Life::Suspect { until: now.plus(self.settings.grace) };
            known.since = now;
            step.directives.push(Directive::Probe {
                worker: worker.clone(),
                host: known.spec.host.clone(),
                port: known.spec.port,
            });
        }
    }

    pub(crate) fn process_gone(&mut self, now: Millis, worker: &WorkerId) {
        // One that has come back meanwhile is not suspect any more.
        let away = self
            .workers
            .get(worker)
            .is_some_and(|known| matches!(known.life, Life::Suspect { .. } | Life::Unknown { .. }));
        if away {
            self.declare_dead(now, worker, LossCause::ProcessGone);
        }
    }

    /// Declares those dead whose time is over, and forgets those that were dead for long.
    pub(crate) fn check_lives(&mut self, now: Millis, step: &mut Step) {
        let lease = self.settings.lease;
        let lost: Vec<(WorkerId, LossCause)> = self
            .workers
            .iter()
            .filter_map(|(id, worker)| {
                let cause = match worker.life {
                    Life::Alive => {
                        let heard = worker.last_heard.unwrap_or(worker.since);
                        (now.since(heard) >= lease).then_some(LossCause::Silent)
                    }
                    Life::Suspect { until } => (now >= until).then_some(LossCause::SessionDropped),
                    Life::Unknown { until } => (now >= until).then_some(LossCause::Silent),
                    Life::Dead => None,
                };
                Some((id.clone(), cause?))
            })
            .collect();
        for (worker, cause) in lost {
            self.declare_dead(now, &worker, cause);
        }
        let retention = self.settings.dead_worker_retention;
        let forgotten: Vec<WorkerId> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.life == Life::Dead && now.since(worker.since) >= retention)
            .map(|(id, _)| id.clone())
            .collect();
        for worker in forgotten {
            self.workers.remove(&worker);
            step.writes.push(Write::Delete(RecordKey::worker(&worker)));
        }
    }

    pub(crate) fn declare_dead(&mut self, now: Millis, worker: &WorkerId, cause: LossCause) {
        let Some(known) = self.workers.get_mut(worker) else { return };
        known.life = Life::Dead;
        known.since = now;
        known.memory_used_bytes = 0;
        let last_heard_at = known.last_heard;
        self.dirty_workers.insert(worker.clone());
        let mut lost = Vec::new();
        for (id, slot) in &mut self.slots {
            if slot.owner() == Some(worker) {
                slot.vacate(MoveReason::WorkerLost { worker: worker.clone(), cause }, now);
                self.dirty.insert(id.clone());
                lost.push(LostSlot { slot: id.clone(), epoch: slot.epoch, regrant: None });
            } else if let Holding::Revoking { worker: owner, target, .. } = &mut slot.holding
                && target == worker
            {
                // On its way to the lost one: where it goes instead is seen when it is free.
                *target = owner.clone();
            }
        }
        self.history.lost(Loss {
            worker: worker.clone(),
            cause,
            last_heard_at,
            detected_at: now,
            reassigned_at: None,
            slots: lost,
        });
        self.place_now = true;
    }

    /// When the next worker's time is over.
    pub(crate) fn next_death(&self) -> Option<Millis> {
        self.workers
            .values()
            .map(|worker| match worker.life {
                Life::Alive => worker.last_heard.unwrap_or(worker.since).plus(self.settings.lease),
                Life::Suspect { until } | Life::Unknown { until } => until,
                Life::Dead => worker.since.plus(self.settings.dead_worker_retention),
            })
            .min()
    }
}
