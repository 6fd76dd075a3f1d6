//! A slot's way: Free -> Granted(owner, epoch) -> Revoking -> Free. Who should own it is `rebalance`'s answer; what
//! a worker's word about its end means is decided here.

use std::collections::{BTreeMap, BTreeSet};

use millrace_types::{Epoch, Halt, HaltKind, Millis, SlotId, StopReason, WorkerId};

use crate::coordinator::Coordinator;
use crate::history::{Move, MoveReason};
use crate::rebalance::{Assignment, Demand, Offer, rebalance};
use crate::state::{Hold, LARGEST_EPOCH, Life, Resend, Slot, Worker};

/// Stops in a row after which a slot looks for another worker.
const FAILURES_TO_AVOID: u32 = 2;
/// Longest text of a halt that is kept: it stands in the slot's record.
const LONGEST_DETAIL: usize = 1_000;

impl Coordinator {
    /// A slot ended on its worker. Of no meaning when it is not the worker's current grant.
    pub(crate) fn slot_stopped(&mut self, worker: &WorkerId, id: &SlotId, epoch: Epoch, reason: StopReason) {
        let (now, settings) = (self.now, self.settings.clone());
        let Some(slot) = self.slots.get_mut(id) else { return };
        if slot.owner() != Some(worker) || epoch < slot.epoch || epoch > LARGEST_EPOCH {
            return;
        }
        // A higher one is a grant that the store forgot: see `reports`.
        slot.epoch = epoch;
        let mut next_reason = MoveReason::SlotStopped { worker: worker.clone(), why: describe(&reason) };
        let (mut home, mut since, mut planned) = (Some(worker.clone()), now, false);
        if let Hold::Revoking { to, since: asked_at, reason, .. } = &slot.hold {
            (home, since, planned) = (to.clone(), *asked_at, true);
            next_reason = reason.clone();
        }
        let failed = matches!(reason, StopReason::Failed { .. });
        match reason {
            StopReason::Halted(halt) => slot.halt = Some(shortened(halt)),
            StopReason::EpochBehind { recorded } if recorded >= LARGEST_EPOCH => {
                let detail = format!(
                    "the slot's record in Kafka holds epoch {recorded}, beyond {LARGEST_EPOCH}: no grant can be \
                     above it; correct the committed offset's metadata of {id}, then resume the slot"
                );
                slot.halt = Some(Halt { kind: HaltKind::RecordDamaged, detail });
            }
            StopReason::EpochBehind { recorded } if recorded > slot.epoch => {
                slot.epoch = recorded;
                slot.granted_to = None;
            }
            StopReason::EpochBehind { .. } => {}
            StopReason::Revoked | StopReason::Fenced | StopReason::Failed { .. } => {}
        }
        if !planned && slot.halt.is_none() {
            slot.note_failure(now, failed, settings.first_retry, settings.longest_retry);
            if slot.failures >= FAILURES_TO_AVOID {
                let until = now.plus(Millis(settings.longest_retry.0.saturating_mul(2)));
                slot.avoid = Some((worker.clone(), until));
            }
        }
        slot.hold = Hold::Free { from: Some(worker.clone()), home, since, reason: next_reason, urgent: true };
        self.touch(id);
        self.replan = true;
    }

    /// Grants free slots and begins planned moves, as `rebalance` says. While joins are gathered, only slots that
    /// ran a moment ago are granted.
    pub(crate) fn assign(&mut self) {
        if !std::mem::take(&mut self.replan) {
            return;
        }
        let settled = self.settle_at.is_none();
        let target = rebalance(&self.demand(), &self.intended());
        let mut to_grant = Vec::new();
        let mut to_revoke = Vec::new();
        for (id, slot) in &mut self.slots {
            let Some(wanted) = target.owners.get(id) else { continue };
            match &mut slot.hold {
                Hold::Free { urgent, .. } if slot.retry_at.is_none() && (settled || *urgent) => {
                    to_grant.push((id.clone(), wanted.clone()));
                }
                Hold::Granted { owner, .. } if settled && owner != wanted => {
                    let is_draining = self.workers.get(owner).is_some_and(Worker::is_draining);
                    to_revoke.push((!is_draining, id.clone(), wanted.clone()));
                }
                Hold::Revoking { to, .. } => *to = Some(wanted.clone()),
                Hold::Free { .. } | Hold::Granted { .. } => {}
            }
        }
        // Whoever drains comes first: its process may be about to end.
        to_revoke.sort();
        let put_off = self.begin_moves(to_revoke);
        let mut held = self.held_slots();
        for (id, to) in to_grant {
            let Some(worker) = self.workers.get(&to) else { continue };
            let held = held.entry(to.clone()).or_insert(0);
            // Whoever is still giving slots up gets its next one when they are gone: see `slot_stopped`.
            if *held < u64::from(worker.spec.max_slots) {
                *held += 1;
                self.grant(&id, &to);
            }
        }
        if settled {
            for (id, worker) in &mut self.workers {
                worker.joined &= put_off.contains(id);
            }
        }
        self.let_go(&target);
    }

    /// Begins as many moves as may be under way at a time; the end of each calls for the next. Returns the receivers
    /// of those that are put off.
    fn begin_moves(&mut self, moves: Vec<(bool, SlotId, WorkerId)>) -> BTreeSet<WorkerId> {
        let mut under_way: BTreeMap<WorkerId, usize> = BTreeMap::new();
        for slot in self.slots.values() {
            if let Hold::Revoking { owner, to: Some(_), .. } = &slot.hold {
                *under_way.entry(owner.clone()).or_default() += 1;
            }
        }
        let mut all: usize = under_way.values().sum();
        let mut put_off = BTreeSet::new();
        for (_, id, to) in moves {
            let Some(owner) = self.slots.get(&id).and_then(Slot::owner) else { continue };
            let from_owner = under_way.entry(owner.clone()).or_default();
            if all < self.settings.moves_at_a_time.max(1)
                && *from_owner < self.settings.moves_of_a_worker.max(1)
            {
                all += 1;
                *from_owner += 1;
                self.begin_move(&id, to);
            } else {
                put_off.insert(to);
            }
        }
        put_off
    }

    /// How many slots each worker holds in memory: granted ones and those that it is giving up.
    pub(crate) fn held_slots(&self) -> BTreeMap<WorkerId, u64> {
        let mut held = BTreeMap::new();
        for owner in self.slots.values().filter_map(Slot::owner) {
            *held.entry(owner.clone()).or_insert(0) += 1;
        }
        held
    }

    pub(crate) fn demand(&self) -> Demand {
        let offers =
            self.workers.iter().filter(|(_, worker)| worker.life != Life::Dead).map(|(id, worker)| {
                let offer = Offer {
                    cores: worker.spec.cores,
                    max_slots: worker.spec.max_slots,
                    unreachable: !self.is_within_reach(worker),
                    draining: worker.is_draining(),
                };
                (id.clone(), offer)
            });
        let wanted =
            self.slots.iter().filter(|(id, slot)| slot.halt.is_none() && self.grants_slots_of(&id.pipeline));
        Demand {
            workers: offers.collect(),
            slots: wanted
                .map(|(id, slot)| (id.clone(), slot.avoid.as_ref().map(|(worker, _)| worker.clone())))
                .collect(),
        }
    }

    /// Who has each slot, or is about to. A free slot waits for no worker that can't take it.
    fn intended(&self) -> Assignment {
        let mut owners = BTreeMap::new();
        for (id, slot) in &self.slots {
            let owner = match &slot.hold {
                Hold::Free { home, .. } => home
                    .as_ref()
                    .filter(|home| self.workers.get(*home).is_some_and(|worker| self.takes_slots(worker))),
                Hold::Granted { owner, .. } => Some(owner),
                Hold::Revoking { to, .. } => to.as_ref(),
            };
            if let Some(owner) = owner {
                owners.insert(id.clone(), owner.clone());
            }
        }
        Assignment { owners }
    }

    fn begin_move(&mut self, id: &SlotId, to: WorkerId) {
        let resend = Resend::after(self.now, self.settings.heartbeat);
        let Some(slot) = self.slots.get_mut(id) else { return };
        let Hold::Granted { owner, .. } = &slot.hold else { return };
        let owner = owner.clone();
        let epoch = slot.epoch;
        let reason = if self.workers.get(&owner).is_some_and(Worker::is_draining) {
            MoveReason::WorkerDrained { worker: owner.clone() }
        } else if self.workers.get(&to).is_some_and(|worker| worker.joined) {
            MoveReason::WorkerJoined { worker: to.clone() }
        } else {
            MoveReason::Uneven
        };
        slot.hold = Hold::Revoking { owner: owner.clone(), to: Some(to), since: self.now, reason, resend };
        self.revoke_directive(&owner, id, epoch);
    }

    fn grant(&mut self, id: &SlotId, to: &WorkerId) {
        let resend = Resend::after(self.now, self.settings.heartbeat);
        let Some(slot) = self.slots.get_mut(id) else { return };
        let granted = Hold::Granted { owner: to.clone(), resend };
        let Hold::Free { from, since, reason, .. } = std::mem::replace(&mut slot.hold, granted) else {
            return;
        };
        slot.epoch = slot.epoch.next();
        slot.granted_to = Some(to.clone());
        let epoch = slot.epoch;
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
