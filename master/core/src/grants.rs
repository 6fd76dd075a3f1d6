//! Slots: who is granted what, and making what is observed agree with it.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_types::{Epoch, Millis, SlotId, SlotPhase, SlotReport, StopReason, WorkerId};

use crate::coordinator::Coordinator;
use crate::event::{Directive, Step};
use crate::history::{Move, MoveReason};
use crate::rebalance::{Assignment, Demand, Offer, rebalance};
use crate::state::{Holding, Life, Vacancy};

/// A grant or revoke that a worker does not show after this many heartbeats was lost and is sent again.
const RESEND_AFTER: u64 = 2;

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
        let resend_before = self.resend_before(now);
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
        let current = report.epoch == slot.epoch;
        match &mut slot.holding {
            Holding::Granted { worker: owner, .. } if owner == worker && current => {}
            // An older grant to the same worker: the newer one, on its way or sent again, replaces it.
            Holding::Granted { worker: owner, .. } if owner == worker && report.epoch < slot.epoch => return,
            Holding::Revoking { worker: owner, sent_at, .. } if owner == worker && current => {
                if report.phase != SlotPhase::Revoking && sent_at.is_none_or(|sent| sent <= resend_before) {
                    *sent_at = Some(now);
                    step.directives.push(revoke(report.epoch));
                }
            }
            // It was declared dead, and nobody was granted the slot since: it is still the owner for Kafka.
            Holding::Free if current && slot.halt.is_none() && report.phase != SlotPhase::Revoking => {
                slot.holding = Holding::Granted { worker: worker.clone(), sent_at: Some(now) };
                self.dirty.insert(report.slot.clone());
            }
            _ => {
                step.directives.push(revoke(report.epoch));
                return;
            }
        }
        let first = slot.report.is_none();
        slot.report = Some(report.clone());
        slot.last_report = Some(report.clone());
        if report.phase == SlotPhase::Running {
            let since = *slot.running_since.get_or_insert(now);
            if now.since(since) >= Millis(self.settings.longest_retry.0 * 2) {
                slot.failures = 0;
            }
            slot.failed_on = None;
            if !slot.opened {
                slot.opened = true;
                self.dirty.insert(report.slot.clone());
            }
            self.history.running(&report.slot, report.epoch, now);
            // While it was being opened it could not be moved; now what is uneven can be evened out.
            if first || since == now {
                self.even_out_at.get_or_insert(now.plus(self.settings.settle));
            }
        }
        if let Some(at_ms) = report.metrics.last_commit_at_ms {
            self.history.committed(&report.slot, report.epoch, at_ms);
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
        let resend_before = self.resend_before(now);
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
                            definition: Arc::clone(&pipeline.definition),
                        });
                    }
                }
                // It stopped, and the word of it was lost.
                Holding::Revoking { sent_at, .. } if sent_at.is_none_or(|sent| sent <= resend_before) => {
                    let reason = slot.vacancy.reason.clone();
                    slot.vacate(reason, now);
                    self.dirty.insert(id.clone());
                    self.place_now = true;
                }
                _ => {}
            }
        }
    }

    fn resend_before(&self, now: Millis) -> Millis {
        Millis(now.0.saturating_sub(self.settings.heartbeat.0 * RESEND_AFTER))
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
        let stopped = |why: &str| MoveReason::SlotStopped { worker: worker.clone(), why: why.to_owned() };
        let why = match reason {
            StopReason::Revoked if matches!(slot.holding, Holding::Revoking { .. }) => {
                slot.vacancy.reason.clone()
            }
            StopReason::Revoked => stopped("given up"),
            StopReason::Fenced => stopped("fenced by another owner"),
            StopReason::EpochBehind { recorded } => {
                slot.epoch = slot.epoch.max(recorded);
                // The record exists, so the slot was opened, whatever the lost store said.
                slot.opened = true;
                stopped(&format!("its record carries epoch {recorded}"))
            }
            StopReason::Halted(halt) => {
                let why = stopped(&format!("halted: {}", halt.detail));
                slot.halt = Some(halt);
                why
            }
            StopReason::Failed { detail } => {
                let (first, longest) = (self.settings.first_retry.0, self.settings.longest_retry.0);
                let wait = first.saturating_mul(1 << slot.failures.min(20)).min(longest);
                slot.failures = slot.failures.saturating_add(1);
                slot.retry_at = Some(now.plus(Millis(wait)));
                slot.failed_on = Some((worker.clone(), detail.clone()));
                stopped(&detail)
            }
        };
        slot.vacate(why, now);
        self.dirty.insert(id.clone());
        self.place_now = true;
    }

    /// Grants free slots, and when `even_out` takes slots back that belong elsewhere.
    pub(crate) fn place(&mut self, now: Millis, even_out: bool, step: &mut Step) {
        let mut demand = Demand::default();
        for (id, worker) in self.workers.iter().filter(|(_, worker)| worker.life != Life::Dead) {
            let offer = Offer {
                cores: worker.spec.cores,
                max_slots: worker.spec.max_slots,
                unreachable: !worker.can_be_told(),
            };
            demand.workers.insert(id.clone(), offer);
        }
        let mut previous = Assignment::default();
        let mut pinned = BTreeSet::new();
        for (id, slot) in &self.slots {
            if slot.halt.is_some() {
                continue;
            }
            match &slot.holding {
                Holding::Free if slot.retry_at.is_some() => continue,
                Holding::Free => {}
                Holding::Granted { worker, .. } => {
                    let running =
                        slot.report.as_ref().is_some_and(|report| report.phase == SlotPhase::Running);
                    if !even_out || !running {
                        pinned.insert(id.clone());
                    }
                    previous.owners.insert(id.clone(), worker.clone());
                }
                Holding::Revoking { target, .. } => {
                    pinned.insert(id.clone());
                    previous.owners.insert(id.clone(), target.clone());
                }
            }
            let avoid = slot.failed_on.as_ref().map(|(worker, _)| worker.clone());
            demand.slots.insert(id.clone(), avoid);
        }
        demand.pinned = pinned;
        let joined = if even_out { std::mem::take(&mut self.joined) } else { BTreeSet::new() };
        for (id, target) in rebalance(&demand, &previous).owners {
            let Some(slot) = self.slots.get_mut(&id) else { continue };
            match &mut slot.holding {
                Holding::Free => self.grant(now, &id, target, step),
                Holding::Granted { worker, .. } if *worker != target => {
                    let owner = worker.clone();
                    let session = self.workers.get(&owner).and_then(|owner| owner.session);
                    let reason = if joined.contains(&target) {
                        MoveReason::WorkerJoined { worker: target.clone() }
                    } else {
                        MoveReason::Uneven
                    };
                    slot.vacancy = Vacancy { from: Some(owner.clone()), reason, since: now };
                    slot.holding =
                        Holding::Revoking { worker: owner.clone(), sent_at: session.map(|_| now), target };
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
        slot.epoch = slot.epoch.next();
        slot.retry_at = None;
        slot.report = None;
        slot.running_since = None;
        slot.holding = Holding::Granted { worker: worker.clone(), sent_at: session.map(|_| now) };
        self.dirty.insert(id.clone());
        self.history.moved(Move {
            slot: id.clone(),
            from: slot.vacancy.from.clone(),
            to: worker.clone(),
            epoch: slot.epoch,
            reason: slot.vacancy.reason.clone(),
            begun_at: slot.vacancy.since,
            granted_at: now,
            running_at: None,
        });
        if let Some(session) = session {
            step.directives.push(Directive::Grant {
                worker,
                session,
                slot: id.clone(),
                epoch: slot.epoch,
                opened: slot.opened,
                definition: Arc::clone(&pipeline.definition),
            });
        }
    }

    /// Slots whose wait after a failure is over may be granted again.
    pub(crate) fn end_retries(&mut self, now: Millis) {
        for slot in self.slots.values_mut() {
            if slot.retry_at.is_some_and(|retry| retry <= now) {
                slot.retry_at = None;
                self.place_now = true;
            }
        }
    }

    /// When a slot that failed may be granted again.
    pub(crate) fn next_retry(&self) -> Option<Millis> {
        self.slots.values().filter_map(|slot| slot.retry_at).min()
    }
}
