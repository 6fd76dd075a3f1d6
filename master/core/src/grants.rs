//! A slot's way: Free -> Granted(owner, epoch) -> Revoking -> Free. Who should own it is the `solver`'s answer; what
//! a worker's word about its end means is decided here.

use millrace_types::{Epoch, Halt, HaltKind, Millis, SlotId, StopReason, WorkerId};

use crate::Settings;
use crate::coordinator::Coordinator;
use crate::history::{Move, MoveReason};
use crate::state::{Hold, LARGEST_EPOCH, Resend, Slot};
use crate::timers::Timer;

/// Stops in a row after which a slot looks for another worker.
const FAILURES_TO_AVOID: u32 = 2;
/// Longest text of a halt that is kept: it stands in the slot's record.
const LONGEST_DETAIL: usize = 1_000;

impl Coordinator {
    /// A slot ended on its worker. Of no meaning when it is not the worker's current grant.
    pub(crate) fn slot_stopped(&mut self, worker: &WorkerId, id: &SlotId, epoch: Epoch, reason: StopReason) {
        let (now, settings) = (self.now, self.settings.clone());
        let Some(slot) = self.slots.get(id) else { return };
        if slot.owner() != Some(worker) || epoch < slot.epoch || epoch > LARGEST_EPOCH {
            return;
        }
        self.change_slot(id, |slot| slot.stop(worker, id, epoch, reason, now, &settings));
        self.touch(id);
        let Some(slot) = self.slots.get(id) else { return };
        if let Some(at) = slot.retry_at {
            self.timers.set(at, Timer::Slot(id.clone()));
        }
        if slot.failures >= FAILURES_TO_AVOID && slot.halt.is_none() && slot.last_failure == now {
            let until = now.plus(Millis(settings.longest_retry.0.saturating_mul(2)));
            self.avoiding.insert(id.clone(), (worker.clone(), until));
            self.timers.set(until, Timer::Slot(id.clone()));
            self.replan = true;
        }
        self.grants_due = true;
        let goes_on = match &slot.hold {
            Hold::Free { home: Some(home), .. } => {
                slot.halt.is_none() && self.workers.get(home).is_some_and(|home| self.takes_slots(home))
            }
            _ => false,
        };
        // A place is free, or this one looks for one.
        if !goes_on || !self.waiting.unplaced.is_empty() {
            self.replan = true;
        }
    }

    pub(crate) fn grant(&mut self, id: &SlotId, to: &WorkerId) {
        let resend = Resend::after(self.now, self.settings.heartbeat);
        if self.newly_opened.contains(id) {
            self.note_opened();
        }
        let granted = Hold::Granted { owner: to.clone(), resend };
        let taken = self.change_slot(id, |slot| {
            if !matches!(slot.hold, Hold::Free { .. }) {
                return None;
            }
            slot.epoch = slot.epoch.next();
            slot.granted_to = Some(to.clone());
            Some((std::mem::replace(&mut slot.hold, granted), slot.epoch))
        });
        let Some((Hold::Free { from, since, reason, .. }, epoch)) = taken.flatten() else { return };
        if from.as_ref().is_some_and(|from| from != to) {
            self.note_moved(id, &reason);
        }
        self.history.moved(Move {
            slot: id.clone(),
            from,
            to: to.clone(),
            epoch,
            reason,
            begun_at: since,
            granted_at: self.now,
            running_at: None,
        });
        self.touch(id);
        self.grant_directive(to, id);
    }
}

impl Slot {
    /// Its owner's word that it ended: it is free, or halted.
    fn stop(
        &mut self,
        worker: &WorkerId,
        id: &SlotId,
        epoch: Epoch,
        reason: StopReason,
        now: Millis,
        settings: &Settings,
    ) {
        // A higher one is a grant that the store forgot: see `reports`.
        self.epoch = epoch;
        let mut next_reason = MoveReason::SlotStopped { worker: worker.clone(), why: describe(&reason) };
        let (mut home, mut since, mut planned) = (Some(worker.clone()), now, false);
        if let Hold::Revoking { to, since: asked_at, reason, .. } = &self.hold {
            (home, since, planned) = (to.clone(), *asked_at, true);
            next_reason = reason.clone();
        }
        let failed = matches!(reason, StopReason::Failed { .. });
        match reason {
            StopReason::Halted(halt) => {
                self.halt = Some(shortened(halt));
                // What it now says is not what the person saw.
                self.skip_lost = None;
            }
            StopReason::EpochBehind { recorded } if recorded >= LARGEST_EPOCH => {
                let detail = format!(
                    "the slot's record in Kafka holds epoch {recorded}, beyond {LARGEST_EPOCH}: no grant can be \
                     above it; correct the committed offset's metadata of {id}, then resume the slot"
                );
                self.halt = Some(Halt { kind: HaltKind::RecordDamaged, detail });
            }
            StopReason::EpochBehind { recorded } if recorded > self.epoch => {
                self.epoch = recorded;
                self.granted_to = None;
            }
            StopReason::EpochBehind { .. } => {}
            StopReason::Revoked | StopReason::Fenced | StopReason::Failed { .. } => {}
        }
        if !planned && self.halt.is_none() {
            self.note_failure(now, failed, settings.first_retry, settings.longest_retry);
        }
        self.hold = Hold::Free { from: Some(worker.clone()), home, since, reason: next_reason, urgent: true };
    }

    /// Counts an unasked stop and sets when the slot may be granted again: at once after the first one, unless it
    /// `failed`; later after waits that double.
    fn note_failure(&mut self, now: Millis, failed: bool, first: Millis, longest: Millis) {
        if now.since(self.last_failure).0 > longest.0.saturating_mul(2) {
            self.failures = 0;
        }
        let doublings = if failed { Some(self.failures) } else { self.failures.checked_sub(1) };
        self.failures = self.failures.saturating_add(1);
        self.last_failure = now;
        self.retry_at = doublings.map(|doublings| {
            let factor = 1_u64.checked_shl(doublings).unwrap_or(u64::MAX);
            now.plus(Millis(first.0.saturating_mul(factor).min(longest.0)))
        });
    }
}

fn describe(reason: &StopReason) -> String {
    match reason {
        StopReason::Revoked => "given up unasked".to_owned(),
        StopReason::Fenced => "fenced by another owner".to_owned(),
        StopReason::EpochBehind { recorded } => format!("its record holds epoch {recorded} already"),
        StopReason::Halted(halt) => format!("halted: {}", halt.detail),
        StopReason::Failed { detail } => format!("failed: {detail}"),
    }
}

fn shortened(mut halt: Halt) -> Halt {
    if halt.detail.len() > LONGEST_DETAIL {
        let end = (0..=LONGEST_DETAIL).rev().find(|at| halt.detail.is_char_boundary(*at)).unwrap_or(0);
        halt.detail.truncate(end);
        halt.detail.push('…');
    }
    halt
}
