//! Slots: who is granted what, and making what is observed agree with it.

use std::collections::BTreeSet;

use millrace_types::{Epoch, Millis, SlotId, SlotPhase, SlotReport, StopReason, WorkerId};

use crate::coordinator::Coordinator;
use crate::event::{Directive, Step};
use crate::history::{Move, MoveReason};
use crate::rebalance::{Assignment, Capacity, Demand, rebalance};
use crate::state::{Holding, Life};

/// A grant or revoke that a worker does not show after this many heartbeats was lost and is sent again.
const RESEND_AFTER: u64 = 2;
/// Wait before a slot that failed is granted again; doubles with each failure in a row.
const FIRST_RETRY: Millis = Millis(500);
const LONGEST_RETRY: Millis = Millis(30_000);

impl Coordinator {
    /// Compares what a worker runs with what it was granted, and repairs the difference.
    pub(crate) fn take_reports(
        &mut self,
        now: Millis,
        worker: &WorkerId,
        session: u64,
        reports: &[SlotReport],
        step: &mut Step,
    ) {
        let mut seen = BTreeSet::new();
        for report in reports {
            seen.insert(report.slot.clone());
            self.take_report(now, worker, session, report, step);
        }
        self.repair_missing(now, worker, session, &seen, step);
    }

    fn take_report(
        &mut self,
        now: Millis,
        worker: &WorkerId,
        session: u64,
        report: &SlotReport,
        step: &mut Step,
    ) {
        let resend_before = resend_before(now, self.settings.heartbeat);
        let revoke = |epoch: Epoch| Directive::Revoke {
            worker: worker.clone(),
            session,
            slot: report.slot.clone(),
            epoch,
        };
        let Some(slot) = self.slots.get_mut(&report.slot) else {
            step.directives.push(revoke(report.epoch));
            return;
        };
        let ours = report.epoch == slot.epoch && slot.halt.is_none();
        match &mut slot.holding {
            Holding::Granted { worker: owner, .. } if owner == worker && report.epoch == slot.epoch => {}
            Holding::Revoking { worker: owner, sent_at, .. } if owner == worker && report.epoch == slot.epoch => {
                if report.phase != SlotPhase::Revoking && sent_at.is_none_or(|sent| sent <= resend_before) {
                    *sent_at = Some(now);
                    step.directives.push(revoke(report.epoch));
                }
            }
            // It was declared dead, and nobody else was granted the slot since: it is still the owner for Kafka.
            Holding::Free { .. } if ours && report.phase != SlotPhase::Revoking => {
                slot.holding = Holding::Granted { worker: worker.clone(), sent_at: Some(now) };
                self.dirty.insert(report.slot.clone());
            }
            // An older grant to the same worker: the newer one, which is on its way or sent again, replaces it.
            Holding::Granted { worker: owner, .. } if owner == worker && report.epoch < slot.epoch => return,
            _ => {
                step.directives.push(revoke(report.epoch));
                return;
            }
        }
        slot.take_report(report);
        if report.phase == SlotPhase::Running {
            slot.failures = 0;
            slot.failed = None;
            if !slot.opened {
                slot.opened = true;
                self.dirty.insert(report.slot.clone());
            }
            self.history.opened(&report.slot, report.epoch, now);
            // A pinned slot may have been what kept the load uneven.
            if slot.metrics.last_commit_at_ms.is_none() {
                self.even_out_at.get_or_insert(now.plus(self.settings.settle));
            }
        }
        if report.metrics.last_commit_at_ms.is_some() {
            self.history.committed(&report.slot, now);
        }
    }

    /// What the worker should run and does not show.
    fn repair_missing(
        &mut self,
        now: Millis,
        worker: &WorkerId,
        session: u64,
        seen: &BTreeSet<SlotId>,
        step: &mut Step,
    ) {
        let resend_before = resend_before(now, self.settings.heartbeat);
        for (id, slot) in &mut self.slots {
            if slot.owner() != Some(worker) || seen.contains(id) {
                continue;
            }
            match &mut slot.holding {
                Holding::Granted { sent_at, .. } if sent_at.is_none_or(|sent| sent <= resend_before) => {
                    if let Some(pipeline) = self.pipelines.get(&id.pipeline) {
                        *sent_at = Some(now);
                        step.directives.push(Directive::Grant {
                            worker: worker.clone(),
                            session,
                            slot: id.clone(),
                            epoch: slot.epoch,
                            opened: slot.opened,
                            definition: Box::new(pipeline.definition.clone()),
                        });
                    }
                }
                // It stopped, and the word of it was lost.
                Holding::Revoking { sent_at, .. } if sent_at.is_none_or(|sent| sent <= resend_before) => {
                    slot.free(Some((worker.clone(), MoveReason::Rebalanced)));
                    self.dirty.insert(id.clone());
                    self.place_now = true;
                }
                _ => {}
            }
        }
    }

    pub(crate) fn slot_stopped(
        &mut self,
        now: Millis,
        worker: &WorkerId,
        id: &SlotId,
        epoch: Epoch,
        reason: StopReason,
    ) {
        let Some(slot) = self.slots.get_mut(id) else { return };
        if slot.owner() != Some(worker) || slot.epoch != epoch {
            return;
        }
        let planned = matches!(slot.holding, Holding::Revoking { .. });
        let why = match reason {
            StopReason::Revoked if planned => MoveReason::Rebalanced,
            StopReason::Revoked => MoveReason::Stopped("given up".into()),
            StopReason::Fenced => MoveReason::Stopped("fenced".into()),
            StopReason::EpochBehind { recorded } => {
                slot.epoch = slot.epoch.max(recorded);
                // The record exists, so the slot was opened, whatever the lost store said.
                slot.opened = true;
                MoveReason::Stopped(format!("the record's epoch was {recorded}"))
            }
            StopReason::Halted(halt) => {
                let why = MoveReason::Stopped(format!("halted: {}", halt.detail));
                slot.halt = Some(halt);
                why
            }
            StopReason::Failed { detail } => {
                let wait = FIRST_RETRY.0.saturating_mul(1 << slot.failures.min(16)).min(LONGEST_RETRY.0);
                slot.failures += 1;
                slot.retry_at = Some(now.plus(Millis(wait)));
                slot.failed = Some((worker.clone(), detail.clone()));
                MoveReason::Stopped(detail)
            }
        };
        slot.free(Some((worker.clone(), why)));
        self.dirty.insert(id.clone());
        self.place_now = true;
    }

    /// Grants free slots, and when `even_out` takes slots back that belong elsewhere.
    pub(crate) fn place(&mut self, now: Millis, even_out: bool, step: &mut Step) {
        let mut demand = Demand::default();
        for (id, worker) in &self.workers {
            // A suspect keeps what it has for its grace, and gets nothing new.
            if worker.life == Life::Alive && worker.session.is_some() {
                let capacity = Capacity { cores: worker.spec.cores, max_slots: worker.spec.max_slots };
                demand.workers.insert(id.clone(), capacity);
            }
        }
        let mut previous = Assignment::new();
        for (id, slot) in &self.slots {
            if slot.halt.is_some() {
                continue;
            }
            match &slot.holding {
                Holding::Free { .. } if slot.retry_at.is_some_and(|retry| retry > now) => continue,
                Holding::Free { .. } => {
                    if let Some((worker, _)) = &slot.failed {
                        demand.avoid.insert(id.clone(), worker.clone());
                    }
                }
                // With a suspect, or one that is gone from sight: it waits for the verdict.
                Holding::Granted { worker, .. } | Holding::Revoking { worker, .. }
                    if !demand.workers.contains_key(worker) =>
                {
                    continue;
                }
                Holding::Granted { worker, .. } => {
                    if !even_out || slot.phase != Some(SlotPhase::Running) {
                        demand.pinned.insert(id.clone());
                    }
                    previous.insert(id.clone(), worker.clone());
                }
                Holding::Revoking { target, .. } => {
                    demand.pinned.insert(id.clone());
                    previous.insert(id.clone(), target.clone());
                }
            }
            demand.slots.insert(id.clone());
        }
        let shared = rebalance(&demand, &previous);
        for (id, target) in shared.assignment {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            match &mut slot.holding {
                Holding::Free { .. } => self.grant(now, &id, target, step),
                Holding::Granted { worker, .. } if *worker != target => {
                    let owner = worker.clone();
                    let session = self.workers.get(&owner).and_then(|owner| owner.session);
                    let sent_at = session.map(|_| now);
                    slot.holding = Holding::Revoking { worker: owner.clone(), sent_at, target };
                    if let Some(session) = session {
                        step.directives.push(Directive::Revoke {
                            worker: owner,
                            session,
                            slot: id.clone(),
                            epoch: slot.epoch,
                        });
                    }
                }
                Holding::Granted { .. } => {}
                Holding::Revoking { target: planned, .. } => *planned = target,
            }
        }
    }

    fn grant(&mut self, now: Millis, id: &SlotId, worker: WorkerId, step: &mut Step) {
        let (Some(slot), Some(pipeline)) = (self.slots.get_mut(id), self.pipelines.get(&id.pipeline)) else {
            return;
        };
        let session = self.workers.get(&worker).and_then(|worker| worker.session);
        let before = match &slot.holding {
            Holding::Free { after } => after.clone(),
            Holding::Granted { .. } | Holding::Revoking { .. } => None,
        };
        let (from, reason) = match before {
            Some((from, reason)) => (Some(from), reason),
            None => (None, MoveReason::FirstGrant),
        };
        slot.epoch = slot.epoch.next();
        slot.retry_at = None;
        slot.phase = None;
        slot.holding = Holding::Granted { worker: worker.clone(), sent_at: session.map(|_| now) };
        self.dirty.insert(id.clone());
        self.history.moved(Move {
            at: now,
            slot: id.clone(),
            from,
            to: worker.clone(),
            epoch: slot.epoch,
            reason,
            pause: None,
        });
        if let Some(session) = session {
            step.directives.push(Directive::Grant {
                worker,
                session,
                slot: id.clone(),
                epoch: slot.epoch,
                opened: slot.opened,
                definition: Box::new(pipeline.definition.clone()),
            });
        }
    }

    /// When a slot that failed may be granted again.
    pub(crate) fn next_retry(&self) -> Option<Millis> {
        self.slots
            .values()
            .filter(|slot| matches!(slot.holding, Holding::Free { .. }) && slot.halt.is_none())
            .filter_map(|slot| slot.retry_at)
            .min()
    }
}

fn resend_before(now: Millis, heartbeat: Millis) -> Millis {
    Millis(now.0.saturating_sub(heartbeat.0 * RESEND_AFTER))
}
