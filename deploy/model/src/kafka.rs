//! Kafka's side: the fence, transactions, stable offsets, and requests that arrive late.

use crate::mutant::Mutant;
use crate::rules::{Rule, follows};
use crate::state::{LateKafka, Phase, Record, State, Transaction};
use crate::step::Next;

/// `init_transactions` was answered: the open transaction is aborted, every older producer is refused from now on, and so is
/// what it sent before and what arrives later.
pub(crate) fn fence(state: &mut State) {
    for worker in &mut state.workers {
        worker.current = false;
        worker.in_transaction = false;
    }
    state.kafka.transaction = Transaction::default();
    state.kafka.late = [LateKafka::None; 2];
}

/// EndTxn with "commit": what the transaction holds at this moment becomes visible. The group's coordinator applies its
/// record a little later.
pub(crate) fn end_transaction(state: &mut State) {
    let by = state.workers.iter().position(|worker| worker.in_transaction);
    let transaction = std::mem::take(&mut state.kafka.transaction);
    show(state, transaction.enriched, transaction.invalid);
    if let Some(record) = transaction.record {
        state.kafka.hanging = false;
        replace_record(state, record, by);
        state.kafka.pending = Some(record);
    }
}

/// Records that a `read_committed` reader sees from now on.
pub(crate) fn show(state: &mut State, enriched: u8, invalid: u8) {
    if state.kafka.enriched & enriched != 0 {
        state.break_rule(Rule::TopicOnce);
    }
    if state.kafka.invalid & invalid != 0 {
        state.break_rule(Rule::QuarantineOnce);
    }
    state.kafka.enriched |= enriched;
    state.kafka.invalid |= invalid;
}

/// Checks the record that is to follow the committed one. `by`: the worker that sent it, if it still lives.
pub(crate) fn replace_record(state: &mut State, record: Record, by: Option<usize>) {
    if let Some(before) = state.committed() {
        if let Some(rule) = follows(&before, &record) {
            state.break_rule(rule);
        }
        // A master that forgot may grant an epoch twice; Kafka's fence does not care.
        let forgetful = state.master.forgot;
        let stranger = by.is_some_and(|by| !state.workers[by].committed_last);
        if before.epoch == record.epoch && stranger && !forgetful {
            state.break_rule(Rule::OneOwnerPerEpoch);
        }
    }
    for (index, worker) in state.workers.iter_mut().enumerate() {
        worker.committed_last = by == Some(index);
    }
}

/// A request of the newest producer that will arrive later, or never. False if no more fit.
pub(crate) fn send_late(state: &mut State, request: LateKafka) -> bool {
    let Some(free) = state.kafka.late.iter_mut().find(|late| **late == LateKafka::None) else { return false };
    *free = request;
    state.kafka.late.sort_unstable();
    true
}

/// What Kafka does by itself.
pub(crate) fn steps(state: &State, next: &mut Next<'_>) {
    if let Some(record) = state.kafka.pending {
        let mut after = *state;
        after.kafka.record = Some(record);
        after.kafka.pending = None;
        next.other("Kafka applies the committed record: it is stable", "group coordinator", after);
    }
    for (index, late) in state.kafka.late.iter().enumerate() {
        let mut after = *state;
        after.kafka.late[index] = LateKafka::None;
        after.kafka.late.sort_unstable();
        let transaction = &mut after.kafka.transaction;
        match late {
            LateKafka::None => continue,
            LateKafka::End if transaction.open => {
                end_transaction(&mut after);
                next.other(
                    "a late EndTxn arrives and commits what is open",
                    "transaction coordinator",
                    after,
                );
            }
            LateKafka::Offsets(record) if transaction.record.is_some() => {
                transaction.record = Some(*record);
                next.other(
                    "a late TxnOffsetCommit arrives and replaces the record",
                    "group coordinator",
                    after,
                );
            }
            LateKafka::Offsets(_) if next.is(Mutant::Unverified) => {
                after.kafka.hanging = true;
                next.other(
                    "a late TxnOffsetCommit arrives and waits for the end of no transaction",
                    "mutant",
                    after,
                );
            }
            // Kafka verifies that the partition is in an open transaction: refused.
            LateKafka::End | LateKafka::Offsets(_) => {
                next.other(
                    "a late request arrives, and there is nothing that it could do",
                    "coordinator",
                    after,
                );
            }
        }
    }
    if state.faults.expiries > 0 {
        let mut after = *state;
        after.faults.expiries -= 1;
        fence(&mut after);
        let what = if state.kafka.transaction.open {
            "the transaction is open for too long: Kafka aborts it and fences its producer"
        } else {
            "a fence of somebody who is gone arrives late"
        };
        next.fault(None, what, after);
    }
    // Who holds a grant from before the first opening would begin anew: see the limits in docs/model.md.
    if state.faults.record_losses > 0
        && state.kafka.record.is_some()
        && state.kafka.pending.is_none()
        && !state.kafka.transaction.open
        && state.master.opened
        && state.workers.iter().all(|worker| worker.opened || worker.phase <= Phase::Idle)
    {
        let mut after = *state;
        after.faults.record_losses -= 1;
        after.kafka.record = None;
        after.kafka.expired = true;
        next.fault(None, "Kafka loses the committed offset", after);
    }
}
