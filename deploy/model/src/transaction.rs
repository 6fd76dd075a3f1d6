//! A slot's commit as Kafka sees it: Produce, TxnOffsetCommit, EndTxn, each of which may be lost, late or sent twice.
//! Stands for `SlotProducer::commit`, `DoubtWatch`, and what `slot::run` makes of their answers.

use crate::canonical::idle;
use crate::kafka;
use crate::mutant::Mutant;
use crate::opening;
use crate::publishing;
use crate::state::{Commit, FlushId, LateKafka, Offsets, Phase, Record, State, Step, Worker};
use crate::step::Next;
use crate::work;

/// What a commit is to make visible.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Intent {
    pub(crate) record: Record,
    pub(crate) flush: FlushId,
    pub(crate) proof: bool,
    pub(crate) enriched: Offsets,
    pub(crate) invalid: Offsets,
}

/// The first request of a transaction. Begin itself is local.
pub(crate) fn begin(state: &State, index: usize, intent: Intent, what: &'static str, next: &mut Next<'_>) {
    let Intent { record, flush, proof, enriched, invalid } = intent;
    let mut after = *state;
    after.workers[index].commit = Commit { step: Step::Offsets, record, flush, proof, doubt: false };
    if next.is(Mutant::OwnTransactionalId) {
        if state.kafka.pending.is_none() {
            kafka::show(&mut after, enriched, invalid);
            kafka::replace_record(&mut after, record, Some(index));
            after.kafka.pending = Some(record);
            committed(&mut after, index, next.protocol.mutant);
            next.step(index, what, "commit::commit", after);
        }
        return;
    }
    if next.is(Mutant::ExternalCursor) {
        let produces = enriched | invalid != 0;
        after.workers[index].commit.step = if produces { Step::End } else { Step::ExternalCursor };
        if !produces {
            next.step(index, what, "commit::commit", after);
            return;
        }
    }
    if enriched | invalid == 0 {
        offsets(&after, index, what, next);
        return;
    }
    if refused(state, index, next) {
        return;
    }
    let transaction = &mut after.kafka.transaction;
    transaction.open = true;
    after.workers[index].in_transaction = true;
    let transaction = &mut after.kafka.transaction;
    transaction.enriched |= enriched;
    if next.is(Mutant::QuarantineOutside) {
        kafka::show(&mut after, 0, invalid);
    } else {
        transaction.invalid |= invalid;
    }
    next.step(index, what, "SlotProducer::commit: AddPartitionsToTxn, Produce", after);
    if state.faults.kafka > 0 && !next.is(Mutant::ReuseAfterDoubt) {
        after.faults.kafka -= 1;
        doubt(&mut after, index, next);
        next.fault(Some(index), "produces, and the answer is lost: doubt", after);
    }
}

/// The further requests.
pub(crate) fn advance(state: &State, index: usize, next: &mut Next<'_>) {
    match state.workers[index].commit.step {
        Step::None => {}
        Step::Offsets => offsets(state, index, "commits the record within the transaction", next),
        Step::End => end(state, index, next),
        Step::ExternalCursor => {
            let mut after = *state;
            let record = state.workers[index].commit.record;
            kafka::replace_record(&mut after, record, Some(index));
            after.kafka.record = Some(record);
            committed(&mut after, index, next.protocol.mutant);
            next.step(index, "writes the cursor elsewhere", "mutant", after);
        }
    }
}

fn offsets(state: &State, index: usize, what: &'static str, next: &mut Next<'_>) {
    if refused(state, index, next) {
        return;
    }
    if state.kafka.pending.is_some() {
        // The coordinator of the group still applies the commit before.
        return;
    }
    let record = state.workers[index].commit.record;
    let mut applied = *state;
    applied.kafka.transaction.open = true;
    applied.kafka.transaction.record = Some(record);
    applied.workers[index].in_transaction = true;
    let mut answered = applied;
    answered.workers[index].commit.step = Step::End;
    next.step(index, what, "SlotProducer::commit: TxnOffsetCommit", answered);
    let request = LateKafka::Offsets(record);
    troubled(state, index, next, &Trouble { what: "TxnOffsetCommit", request, applied, answered });
}

fn end(state: &State, index: usize, next: &mut Next<'_>) {
    if refused(state, index, next) {
        return;
    }
    let mut applied = *state;
    kafka::end_transaction(&mut applied);
    let mut answered = applied;
    if next.is(Mutant::ExternalCursor) {
        answered.workers[index].commit.step = Step::ExternalCursor;
    } else if state.workers[index].commit.doubt {
        doubt(&mut answered, index, next);
    } else {
        committed(&mut answered, index, next.protocol.mutant);
    }
    next.step(index, "commits the transaction", "SlotProducer::commit: EndTxn", answered);
    troubled(state, index, next, &Trouble { what: "EndTxn", request: LateKafka::End, applied, answered });
}

/// A request that is in trouble: the state if it is applied, and if its answer comes besides.
struct Trouble {
    what: &'static str,
    request: LateKafka,
    applied: State,
    answered: State,
}

fn troubled(state: &State, index: usize, next: &mut Next<'_>, trouble: &Trouble) {
    if state.faults.kafka == 0 {
        return;
    }
    let is_end = trouble.what == "EndTxn";
    let reuses = next.is(Mutant::ReuseAfterDoubt);
    let give_up = |mut after: State, what: &'static str, next: &mut Next<'_>| {
        after.faults.kafka -= 1;
        if is_end && next.is(Mutant::DoubtMeansCommitted) {
            committed(&mut after, index, next.protocol.mutant);
        } else if !reuses {
            doubt(&mut after, index, next);
        }
        next.fault(Some(index), what, after);
    };
    let (lost, late, twice) = if is_end {
        (
            "sends EndTxn, which is applied; the answer is lost: doubt",
            "sends EndTxn, which is late; the connection is lost: doubt",
            "sends EndTxn twice: the second is answered, the first is late: doubt",
        )
    } else {
        (
            "sends TxnOffsetCommit, which is applied; the answer is lost: doubt",
            "sends TxnOffsetCommit, which is late; the connection is lost: doubt",
            "sends TxnOffsetCommit twice: the second is answered, the first is late",
        )
    };
    give_up(trouble.applied, lost, next);
    let mut delayed = *state;
    if kafka::send_late(&mut delayed, trouble.request) {
        give_up(delayed, late, next);
    }
    // librdkafka sends again by itself; `DoubtWatch` sees it, and the commit ends in doubt.
    let mut after = trouble.answered;
    if kafka::send_late(&mut after, trouble.request) {
        after.faults.kafka -= 1;
        if reuses {
        } else if is_end {
            after = trouble.applied;
            after.faults.kafka -= 1;
            kafka::send_late(&mut after, trouble.request);
            doubt(&mut after, index, next);
        } else {
            after.workers[index].commit.doubt = true;
        }
        next.fault(Some(index), twice, after);
    }
}

/// A producer that is not the newest is refused whatever it sends: `StopReason::Fenced`.
fn refused(state: &State, index: usize, next: &mut Next<'_>) -> bool {
    let is_refused = !state.workers[index].current;
    if is_refused {
        let mut after = *state;
        stop(&mut after, index);
        next.step(index, "is refused as fenced, and stops", "Exit::Stop(Fenced)", after);
    }
    is_refused
}

/// The slot ended on this worker.
pub(crate) fn stop(state: &mut State, index: usize) {
    state.workers[index] = idle(&state.workers[index]);
}

/// The same, and the master learns of the higher epoch if the grant is still its own (`Slot::stop` of its core).
pub(crate) fn stop_epoch_behind(state: &mut State, index: usize, recorded: u8) {
    if state.workers[index].epoch == state.master.epoch {
        state.master.epoch = state.master.epoch.max(recorded);
    }
    stop(state, index);
}

/// `Exit::Doubt` in `slot::run`: the producer is retired, and the slot opened anew.
pub(crate) fn doubt(state: &mut State, index: usize, next: &Next<'_>) {
    let worker = state.workers[index];
    let keeps_record = next.is(Mutant::DoubtMeansFailed);
    state.workers[index] = Worker {
        phase: Phase::Fence,
        epoch: worker.epoch,
        opened: worker.opened,
        definition: worker.definition,
        in_transaction: worker.in_transaction,
        committed_last: worker.committed_last,
        record: if keeps_record { worker.record } else { Record::default() },
        ..idle(&worker)
    };
}

/// The commit is certain.
fn committed(state: &mut State, index: usize, mutant: Option<Mutant>) {
    let commit = std::mem::take(&mut state.workers[index].commit);
    let worker = &mut state.workers[index];
    let before = std::mem::replace(&mut worker.record, commit.record);
    if commit.proof {
        publishing::proven(worker);
    } else if worker.phase == Phase::Work {
        work::end_commit(worker, &commit, &before);
    } else {
        opening::end_commit(state, index, mutant);
    }
}
