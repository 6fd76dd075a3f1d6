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

use millrace_types::{Digest, Epoch, SlotId, SlotPhase, SlotReport, WorkerId};

use crate::Directive;
use crate::coordinator::Coordinator;
use crate::load::repair;
use crate::state::{Hold, LARGEST_EPOCH, Resend};

/// Heartbeats between two questions for all reports, from which on a worker's digest is no longer believed: then
/// what it sends counts as all that it runs. At worst it is told once more what it runs already.
const DIGEST_DOUBTED: u64 = 8;

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
    /// Takes a heartbeat's reports in. If they are all that the worker runs, or their digest is that of its grants,
    /// what is missing is known; else all are asked for.
    pub(crate) fn take_heartbeat(&mut self, worker: &WorkerId, digest: Digest, reports: Vec<SlotReport>) {
        let told: Digest = reports.iter().map(|report| (&report.slot, report.epoch)).collect();
        if told == digest {
            self.compare(worker, reports, false);
            self.set_ask_all(worker, None);
            return;
        }
        let asked = self.workers.get(worker).and_then(|known| known.ask_all);
        let (now, heartbeat) = (self.now, self.settings.heartbeat);
        let due = asked.is_some_and(|asked| now >= asked.at);
        let doubted = due && asked.is_some_and(|asked| asked.interval.0 >= heartbeat.0 * DIGEST_DOUBTED);
        let mut shown = BTreeSet::new();
        for report in reports {
            self.take_report(worker, report, &mut shown);
        }
        let Some(known) = self.workers.get(worker) else { return };
        if known.digest == digest {
            let revoking = known.revoking > 0;
            self.set_ask_all(worker, None);
            if revoking {
                self.repeat_revokes(worker);
            }
            return;
        }
        if doubted {
            self.repeat_to(worker, &shown, false);
        }
        let resend = match asked {
            // Its next heartbeats may still show what was just asked of it.
            None => Resend::after(now, heartbeat),
            Some(asked) if due => asked.again(now, heartbeat),
            Some(asked) => asked,
        };
        self.set_ask_all(worker, Some(resend));
        if let (true, Some(session)) = (due, self.workers.get(worker).and_then(|known| known.session)) {
            self.directives.push(Directive::ReportAll { worker: worker.clone(), session });
        }
    }

    fn set_ask_all(&mut self, worker: &WorkerId, resend: Option<Resend>) {
        if let Some(worker) = self.workers.get_mut(worker) {
            worker.ask_all = resend;
        }
    }

    /// Compares all slots that `worker` runs with its grants. `registering`: it is a new session's first word,
    /// directives of the one before may be lost.
    pub(crate) fn compare(&mut self, worker: &WorkerId, reports: Vec<SlotReport>, registering: bool) {
        let mut shown = BTreeSet::new();
        for report in reports {
            self.take_report(worker, report, &mut shown);
        }
        self.repeat_to(worker, &shown, registering);
    }

    fn take_report(&mut self, worker: &WorkerId, mut report: SlotReport, shown: &mut BTreeSet<SlotId>) {
        match self.judge(worker, &report.slot, report.epoch) {
            Verdict::Current => {}
            Verdict::TakeOver => self.take_over(worker, &report.slot, report.epoch),
            Verdict::Outdated => return,
            Verdict::Revoke => {
                if report.phase != SlotPhase::Revoking {
                    self.revoke_directive(worker, &report.slot, report.epoch);
                }
                return;
            }
        }
        repair(&mut report.metrics, self.workers.get(worker).map_or(0, |known| known.spec.cores));
        // A slot that is being revoked and does not show it counts as not shown: the word is sent again.
        let slot = report.slot.clone();
        if self.observe(report) {
            shown.insert(slot);
        }
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
        self.change_slot(id, |slot| {
            slot.epoch = epoch;
            slot.granted_to = Some(worker.clone());
            if matches!(slot.hold, Hold::Free { .. }) {
                slot.hold = Hold::Granted { owner: worker.clone(), resend };
            }
        });
        self.history.owned_again(id, worker, epoch, self.now);
        self.touch(id);
    }

    /// Takes a report of the current grant in. Tells whether it shows what was asked for.
    fn observe(&mut self, report: SlotReport) -> bool {
        let (now, span) = (self.now, self.settings.load_span);
        let Some(slot) = self.slots.get_mut(&report.slot) else { return true };
        slot.note_cursors(report.metrics.topic_cursor, report.metrics.lake_cursor);
        let running = report.phase == SlotPhase::Running;
        if running {
            slot.load.observe(now, report.epoch, &report.metrics, span);
        }
        // A word that was acted on is void: what is lost later halts the slot again.
        let newly_opened = running && (!slot.opened || slot.skip_lost.is_some());
        let as_asked = match slot.hold {
            Hold::Revoking { .. } => report.phase == SlotPhase::Revoking,
            Hold::Granted { .. } | Hold::Free { .. } => true,
        };
        self.history.reported(&report, now);
        if newly_opened && self.newly_opened.insert(report.slot.clone()) {
            // One record holds many slots: those that open together are written together.
            let at = now.plus(self.settings.settle);
            self.note_opened_at.get_or_insert(at);
        }
        if let Some(slot) = self.slots.get_mut(&report.slot) {
            slot.report = Some(report);
        }
        as_asked
    }

    /// From now on Kafka must hold a record of these slots.
    pub(crate) fn note_opened(&mut self) {
        self.note_opened_at = None;
        for id in std::mem::take(&mut self.newly_opened) {
            if let Some(slot) = self.slots.get_mut(&id) {
                slot.opened = true;
                slot.skip_lost = None;
                self.touch(&id);
            }
        }
    }

    /// Sends the directives again whose effect the worker does not show.
    fn repeat_to(&mut self, worker: &WorkerId, shown: &BTreeSet<SlotId>, registering: bool) {
        let (now, heartbeat) = (self.now, self.settings.heartbeat);
        let Some(known) = self.workers.get(worker) else { return };
        let mut grants = Vec::new();
        let mut revokes = Vec::new();
        for id in &known.holds {
            let Some(slot) = self.slots.get_mut(id) else { continue };
            let epoch = slot.epoch;
            let (resend, revoking) = match &mut slot.hold {
                Hold::Granted { resend, .. } => (resend, false),
                Hold::Revoking { resend, .. } => (resend, true),
                Hold::Free { .. } => continue,
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

    /// The worker runs exactly what it was granted: only what it should give up may not have reached it.
    fn repeat_revokes(&mut self, worker: &WorkerId) {
        let Some(known) = self.workers.get(worker) else { return };
        let as_asked = |id: &&SlotId| {
            self.slots.get(*id).is_some_and(|slot| match slot.hold {
                Hold::Revoking { .. } => slot
                    .report
                    .as_ref()
                    .is_some_and(|report| report.epoch == slot.epoch && report.phase == SlotPhase::Revoking),
                Hold::Granted { .. } | Hold::Free { .. } => true,
            })
        };
        let shown = known.holds.iter().filter(as_asked).cloned().collect();
        self.repeat_to(worker, &shown, false);
    }

    fn has_memory_for_one(&self, worker: &WorkerId) -> bool {
        self.workers.get(worker).is_some_and(crate::state::Worker::has_room)
    }
}
