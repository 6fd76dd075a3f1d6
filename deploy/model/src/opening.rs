//! Steps 2 and 3 of the protocol: `worker/src/slot/open.rs`, up to the roll forward.

use crate::kafka;
use crate::mutant::Mutant;
use crate::rules::Rule;
use crate::state::{Commit, FLUSHES, MANIFEST, Phase, Publication, Record, State, Worker};
use crate::step::Next;
use crate::transaction::{self, Intent, stop, stop_epoch_behind};

pub(crate) fn steps(state: &State, index: usize, next: &mut Next<'_>) {
    match state.workers[index].phase {
        Phase::Fence => fence(state, index, next),
        Phase::Read => read(state, index, next),
        Phase::List => list(state, index, next),
        Phase::Claim => prove(state, index, "claims the slot", next),
        Phase::GetManifest => get_manifest(state, index, next),
        // The manifest was not there: only an owner halts.
        Phase::ProveManifest => prove(state, index, "proves its ownership", next),
        Phase::Collect => collect(state, index, next),
        Phase::Absent | Phase::Idle | Phase::RollForward | Phase::Work | Phase::Halted => {}
    }
}

/// `open::fence`: `init_transactions`.
fn fence(state: &State, index: usize, next: &mut Next<'_>) {
    let mut after = *state;
    if next.is(Mutant::ReadBeforeFence) && !state.workers[index].record_is_read() {
        read(state, index, next);
        return;
    }
    if !next.is(Mutant::OwnTransactionalId) {
        kafka::fence(&mut after);
    }
    let worker = &mut after.workers[index];
    worker.current = true;
    worker.phase = if next.is(Mutant::ReadBeforeFence) { Phase::List } else { Phase::Read };
    if next.is(Mutant::DoubtMeansFailed) && worker.record_is_read() {
        worker.phase = Phase::List;
    }
    next.step(index, "fences its predecessors", "open::fence", after);
}

/// `open::read_record`, and what `open::open` and `begin::plan` decide about it.
fn read(state: &State, index: usize, next: &mut Next<'_>) {
    if (state.kafka.pending.is_some() || state.kafka.hanging) && !next.is(Mutant::UnstableRead) {
        // `SourceConsumer::committed` asks for stable offsets: the broker makes it wait.
        return;
    }
    let mut after = *state;
    let worker = &mut after.workers[index];
    match state.kafka.record {
        Some(record) if record.epoch > worker.epoch && !next.is(Mutant::EpochUnchecked) => {
            stop_epoch_behind(&mut after, index, record.epoch);
            next.step(index, "reads a record with a higher epoch, and stops", "open::open", after);
            return;
        }
        Some(record) => worker.record = record,
        None if worker.opened && !next.is(Mutant::LostRecordIsNew) => {
            if !state.kafka.expired {
                after.break_rule(Rule::NoHaltWithoutCause);
            }
            stop(&mut after, index);
            next.step(index, "finds no record, and halts: record_lost", "open::open", after);
            return;
        }
        None => worker.record = Record::default(),
    }
    worker.record.epoch = worker.epoch;
    let mut is_unknown = false;
    let record = &mut worker.record;
    let level = record.topic == record.lake;
    worker.stops_at_topic = false;
    if level || next.is(Mutant::DefinitionAnywhere) {
        record.transform = worker.definition;
    } else {
        is_unknown = record.transform > worker.definition;
        worker.stops_at_topic = record.transform != worker.definition;
    }
    worker.phase = match next.protocol.mutant {
        Some(Mutant::ReadBeforeFence) => Phase::Fence,
        Some(Mutant::ListAfterClaim) => Phase::Claim,
        _ => Phase::List,
    };
    if is_unknown {
        after.break_rule(Rule::NoHaltWithoutCause);
    }
    next.step(index, "reads the record", "open::read_record, begin::plan", after);
}

/// `staging::list_staged`.
fn list(state: &State, index: usize, next: &mut Next<'_>) {
    let mut after = *state;
    let worker = &mut after.workers[index];
    worker.listed = state.store.flushes.map(|flush| flush.present);
    worker.phase = match next.protocol.mutant {
        Some(Mutant::NoClaim | Mutant::ListAfterClaim) => after_claim(worker),
        _ => Phase::Claim,
    };
    next.step(index, "lists the staged objects", "staging::list_staged", after);
}

/// `commit::prove_ownership`: commits the record unchanged but for the epoch.
pub(crate) fn prove(state: &State, index: usize, what: &'static str, next: &mut Next<'_>) {
    let worker = &state.workers[index];
    if worker.commit == Commit::default() {
        let intent = Intent { record: worker.record, ..Intent::default() };
        transaction::begin(state, index, intent, what, next);
    } else {
        transaction::advance(state, index, next);
    }
}

/// What follows from a record that was committed while the slot is being opened.
pub(crate) fn end_commit(state: &mut State, index: usize, mutant: Option<Mutant>) {
    let worker = &mut state.workers[index];
    match worker.phase {
        Phase::Claim if mutant == Some(Mutant::ListAfterClaim) => worker.phase = Phase::List,
        Phase::Claim => worker.phase = after_claim(worker),
        Phase::ProveManifest => {
            worker.phase = Phase::Halted;
            state.break_rule(Rule::NoHaltWithoutCause);
        }
        _ => {}
    }
}

fn after_claim(worker: &mut Worker) -> Phase {
    if worker.record.manifest.is_some() { Phase::GetManifest } else { Phase::Collect }
}

/// `staging::get` and `Manifest::decode` in `open::roll_forward`.
fn get_manifest(state: &State, index: usize, next: &mut Next<'_>) {
    let mut after = *state;
    let worker = &mut after.workers[index];
    let pointer = worker.record.manifest;
    let flush = state.flush(pointer);
    if !flush.holds(MANIFEST) {
        worker.phase = Phase::ProveManifest;
        if next.is(Mutant::HaltUnproven) {
            after.break_rule(Rule::NoHaltWithoutCause);
        }
        next.step(index, "does not find the manifest", "open::roll_forward", after);
        return;
    }
    worker.publication = Publication { flush: pointer, ..Publication::default() };
    worker.phase = Phase::RollForward;
    if next.is(Mutant::CollectUnchecked) {
        worker.phase = Phase::Collect;
    }
    let build = worker.build;
    if let Some(place) = pointer.index()
        && next.is(Mutant::RebuiltAfterNewBuild)
        && build != flush.build
    {
        // Its own files of the same range, staged at once.
        after.store.flushes[place].build = build;
        after.store.flushes[place].present |= 0b11;
    }
    if flush.replaced >> MANIFEST & 1 == 1 {
        // `Manifest::decode`: altered.
        after.break_rule(Rule::NoHaltWithoutCause);
    }
    next.step(index, "reads the manifest", "open::roll_forward", after);
}

/// The end of `open::roll_forward`: deletes what was listed and is not named.
fn collect(state: &State, index: usize, next: &mut Next<'_>) {
    let mut after = *state;
    let worker = &mut after.workers[index];
    if let Some(manifest) = worker.record.manifest.index()
        && !next.is(Mutant::CollectUnchecked)
    {
        worker.listed[manifest] &= !(1 << MANIFEST);
    }
    let first = worker.listed.iter().position(|objects| *objects != 0);
    let Some(flush) = first else {
        begin_work(worker);
        next.step(index, "begins to work", "work::work", after);
        return;
    };
    let object = worker.listed[flush].trailing_zeros();
    worker.listed[flush] &= !(1 << object);
    after.store.flushes[flush].present &= !(1 << object);
    next.step(index, "deletes a staged object that it listed", "staging::delete", after);
}

/// `work::work` and `Intake::new`: what begins from the record.
fn begin_work(worker: &mut Worker) {
    let record = worker.record;
    worker.phase = Phase::Work;
    // `slot::run`: from the claim on the record exists, whatever the master knows yet.
    worker.opened = true;
    worker.position = record.topic.min(record.lake);
    worker.topic_from = record.topic;
    worker.lake_from = record.lake;
    worker.rejected = record.rejected;
    worker.flushed_to = record.lake;
    worker.listed = [0; FLUSHES];
    worker.publication = Publication::default();
}

impl Worker {
    /// Whether it holds a record from before its fence (of mutants).
    fn record_is_read(&self) -> bool {
        self.record.epoch > 0
    }
}
