//! Desired versus observed: what a worker says it runs, against what is granted. Repairs by sending again.
//!
//! A claim is (worker, slot, epoch). The rule for one that the store does not know as the current grant:
//!
//! - An older epoch of a slot that the worker owns: its newer grant is on the way, or is sent again.
//! - A higher epoch of a slot that the worker owns: the store forgot a step; the claim is taken over, no pause.
//! - A free slot's epoch, claimed by the worker to which it was granted last, or a higher one: nobody was granted
//!   the slot since, so the worker keeps it, without a pause (a lone worker that froze and thawed). Not if the
//!   slot is halted or waits after a failure or its pipeline does not run, nor beyond the worker's `max_slots`.
//! - Everything else, unknown pipelines too, is revoked. Kafka's record holds the epoch that counts: a grant
//!   below it comes back as `EpochBehind`.

use std::collections::BTreeSet;

use millrace_types::{Epoch, SlotId, SlotPhase, SlotReport, WorkerId};

use crate::coordinator::Coordinator;
use crate::state::{Hold, LARGEST_EPOCH, Resend};

/// What a claim means.
enum Verdict {
    /// It is the current grant.
    Current,
    /// It becomes the current grant.
    TakeOver,
    /// The worker still runs an older grant of a slot that is its own.
    Outdated,
    Revoke,
}

impl Coordinator {
    /// Compares all slots that `worker` runs with its grants. `registering`: it is a new session's first word,
    /// directives of the one before may be lost.
    pub(crate) fn compare(&mut self, worker: &WorkerId, reports: &[SlotReport], registering: bool) {
        let mut shown = BTreeSet::new();
        for report in reports {
            match self.judge(worker, &report.slot, report.epoch) {
                Verdict::Current => {}
                Verdict::TakeOver => self.take_over(worker, &report.slot, report.epoch),
                Verdict::Outdated => continue,
                Verdict::Revoke => {
                    if report.phase != SlotPhase::Revoking {
                        self.revoke_directive(worker, &report.slot, report.epoch);
                    }
                    continue;
                }
            }
            // A slot that is being revoked and does not show it counts as not shown: the word is sent again.
            if self.observe(report) {
                shown.insert(report.slot.clone());
            }
        }
        self.repeat_to(worker, &shown, registering);
    }

    fn judge(&self, worker: &WorkerId, id: &SlotId, epoch: Epoch) -> Verdict {
        let Some(slot) = self.slots.get(id) else { return Verdict::Revoke };
        if epoch > LARGEST_EPOCH || epoch == Epoch(0) {
            return Verdict::Revoke;
        }
        match slot.owner() {
            Some(owner) if owner == worker && epoch == slot.epoch => Verdict::Current,
            Some(owner) if owner == worker && epoch > slot.epoch => Verdict::TakeOver,
            Some(owner) if owner == worker => Verdict::Outdated,
            None if (epoch > slot.epoch
                || (epoch == slot.epoch && slot.granted_to.as_ref() == Some(worker)))
                && slot.halt.is_none()
                && slot.retry_at.is_none()
                && self.grants_slots_of(&id.pipeline)
                && self.has_memory_for_one(worker) =>
            {
                Verdict::TakeOver
            }
            Some(_) | None => Verdict::Revoke,
        }
    }

    fn take_over(&mut self, worker: &WorkerId, id: &SlotId, epoch: Epoch) {
        let resend = Resend::after(self.now, self.settings.heartbeat);
        let Some(slot) = self.slots.get_mut(id) else { return };
        slot.epoch = epoch;
        slot.granted_to = Some(worker.clone());
        if matches!(slot.hold, Hold::Free { .. }) {
            slot.hold = Hold::Granted { owner: worker.clone(), resend };
        }
        self.history.owned_again(id, worker, epoch, self.now);
        self.touch(id);
        self.replan = true;
    }

    /// Takes a report of the current grant in. Tells whether it shows what was asked for.
    fn observe(&mut self, report: &SlotReport) -> bool {
        let Some(slot) = self.slots.get_mut(&report.slot) else { return true };
        slot.report = Some(report.clone());
        slot.note_cursors(report.metrics.topic_cursor, report.metrics.lake_cursor);
        let running = report.phase == SlotPhase::Running;
        let newly_opened = running && !slot.opened;
        slot.opened |= running;
        let as_asked = match slot.hold {
            Hold::Revoking { .. } => report.phase == SlotPhase::Revoking,
            Hold::Granted { .. } | Hold::Free { .. } => true,
        };
        self.history.reported(report, self.now);
        if newly_opened {
            self.touch(&report.slot);
        }
        as_asked
    }

    /// Sends the directives again whose effect the worker does not show.
    fn repeat_to(&mut self, worker: &WorkerId, shown: &BTreeSet<SlotId>, registering: bool) {
        let (now, heartbeat) = (self.now, self.settings.heartbeat);
        let mut grants = Vec::new();
        let mut revokes = Vec::new();
        for (id, slot) in &mut self.slots {
            let epoch = slot.epoch;
            let (resend, revoking) = match &mut slot.hold {
                Hold::Granted { owner, resend } if owner == worker => (resend, false),
                Hold::Revoking { owner, resend, .. } if owner == worker => (resend, true),
                Hold::Free { .. } | Hold::Granted { .. } | Hold::Revoking { .. } => continue,
            };
            if shown.contains(id) {
                *resend = Resend::after(now, heartbeat);
            } else if registering || now >= resend.at {
                *resend = resend.again(now, heartbeat);
                if revoking {
                    revokes.push((id.clone(), epoch));
                } else {
                    grants.push(id.clone());
                }
            }
        }
        for (id, epoch) in revokes {
            self.revoke_directive(worker, &id, epoch);
        }
        for id in grants {
            self.grant_directive(worker, &id);
        }
    }

    fn has_memory_for_one(&self, worker: &WorkerId) -> bool {
        let held = self.held_slots().get(worker).copied().unwrap_or(0);
        self.workers.get(worker).is_some_and(|known| held < u64::from(known.spec.max_slots))
    }
}
