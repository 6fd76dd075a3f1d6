//! Steps 4 to 6 of the protocol: `worker/src/slot/work`, `intake.rs` and `flush.rs`.

use crate::mutant::Mutant;
use crate::publishing;
use crate::rules::Rule;
use crate::state::{
    Commit, Flush, FlushId, LateStore, MANIFEST, Offsets, Publication, Record, State, Step, Worker, span,
};
use crate::step::Next;
use crate::transaction::{self, Intent, stop};

/// Whatever a working slot may do next: reading, a commit, staging and publishing run side by side.
pub(crate) fn steps(state: &State, index: usize, next: &mut Next<'_>) {
    let worker = &state.workers[index];
    if worker.position < next.protocol.bound.records
        && !(worker.stops_at_topic && worker.position >= worker.topic_from)
    {
        take_in(state, index, next);
    }
    if worker.staging.is_some() {
        put(state, index, next);
    } else if !worker.staged.is_some() && worker.position > worker.flushed_to {
        begin_flush(state, index, next);
    }
    if worker.commit.step == Step::None {
        begin_commit(state, index, next);
    } else {
        transaction::advance(state, index, next);
    }
    if worker.publication.flush.is_some() {
        publishing::steps(state, index, next);
    }
    let at_rest = worker.commit.step == Step::None
        && !worker.staging.is_some()
        && !worker.staged.is_some()
        && !worker.publication.flush.is_some();
    if worker.stops_at_topic && at_rest && worker.record.topic == worker.record.lake {
        let mut after = *state;
        transaction::doubt(&mut after, index, next);
        next.step(index, "is level, and opens anew with the new definition", "Exit::Level", after);
    }
}

/// What `transform` and `build` say of a record.
enum Verdict {
    Kept,
    Filtered,
    Rejected,
}

fn verdict(worker: &Worker, offset: u8, rejects: [Offsets; 2]) -> Verdict {
    if is_filtered(worker.record.transform, offset) {
        Verdict::Filtered
    } else if rejects[usize::from(worker.build)] >> offset & 1 == 1 {
        Verdict::Rejected
    } else {
        Verdict::Kept
    }
}

fn is_filtered(transform: u8, offset: u8) -> bool {
    transform == 1 && offset == 0
}

/// `Intake::take_in`, one record.
fn take_in(state: &State, index: usize, next: &mut Next<'_>) {
    let mut after = *state;
    let bound = &next.protocol.bound;
    let worker = &mut after.workers[index];
    let offset = worker.position;
    worker.position += 1;
    let wants_row = offset >= worker.lake_from;
    let wants_value = bound.has_topic && offset >= worker.topic_from;
    let is_decided = offset < worker.topic_from && worker.rejected >> offset & 1 == 1;
    let is_new = wants_value || !bound.has_topic;
    if !is_decided
        && (wants_row || wants_value)
        && matches!(verdict(worker, offset, bound.rejects), Verdict::Rejected)
    {
        if !is_new {
            stop(&mut after, index);
            next.step(
                index,
                "refuses what is on the topic, and halts: transform_changed",
                "Intake::take_in",
                after,
            );
            return;
        }
        worker.rejected |= 1 << offset;
    }
    next.step(index, "takes a record in", "Intake::take_in", after);
}

/// `Work::begin_flush`, and the first upload.
fn begin_flush(state: &State, index: usize, next: &mut Next<'_>) {
    let mut after = *state;
    let worker = &mut after.workers[index];
    let (start, end) = (worker.flushed_to, worker.position);
    let deciding = worker.commit.step != Step::None && worker.commit.flush.is_some();
    let before = if deciding { worker.commit.record.sequence } else { worker.record.sequence };
    let filtered = span(start, end) & u8::from(is_filtered(worker.record.transform, 0));
    let rows = span(start, end) & !worker.rejected & !filtered;
    let place = state.store.flushes.iter().position(|flush| !flush.used);
    let place =
        place.unwrap_or_else(|| panic!("more flushes at a time than the model has places for: {state:?}"));
    worker.flushed_to = end;
    worker.staging = FlushId::of(place);
    let flush =
        Flush { used: true, sequence: before + 1, start, end, rows, build: worker.build, ..Flush::default() };
    worker.next_put = if flush.files().is_empty() { MANIFEST } else { 0 };
    after.store.flushes[place] = flush;
    put(&after, index, next);
}

/// One upload of `flush::stage`: the files, then the manifest, under fresh random keys.
fn put(state: &State, index: usize, next: &mut Next<'_>) {
    let mut after = *state;
    let worker = &mut after.workers[index];
    let (id, object) = (worker.staging, worker.next_put);
    let Some(place) = id.index() else { return };
    let flush = state.store.flushes[place];
    upload(&mut after, place, object, next);
    if state.faults.store > 0 {
        let mut lost = after;
        lost.faults.store -= 1;
        next.fault(Some(index), "uploads an object; the answer is lost, it uploads it again", lost);
        if state.store.late == LateStore::None {
            let mut late = *state;
            late.faults.store -= 1;
            late.store.late = LateStore::Put(id, object);
            next.fault(Some(index), "uploads an object; the request is late, it uploads it again", late);
        }
    }
    let worker = &mut after.workers[index];
    if object == MANIFEST {
        worker.staged = id;
        worker.staging = FlushId::NONE;
        worker.next_put = 0;
        next.step(index, "uploads the manifest: the flush is staged", "flush::stage", after);
    } else {
        let is_last = usize::from(object) + 1 == flush.files().len();
        worker.next_put = if is_last { MANIFEST } else { object + 1 };
        next.step(index, "uploads a file to the staging prefix", "flush::stage", after);
    }
}

fn upload(after: &mut State, place: usize, object: u8, next: &Next<'_>) {
    let flush = after.store.flushes[place];
    after.store.flushes[place].present |= 1 << object;
    if next.is(Mutant::FinalNames) && object != MANIFEST {
        after.store.files[usize::from(flush.start)][usize::from(object)] = flush.content(object);
    }
    if next.is(Mutant::PredictableKeys) {
        after.store.flushes[place].replaced &= !(1 << object);
        for (other, of_other) in after.store.flushes.iter_mut().enumerate() {
            let same_key = of_other.used && of_other.sequence == flush.sequence && of_other.holds(object);
            let same_bytes = object != MANIFEST && of_other.content(object) == flush.content(object);
            if other != place && same_key && !same_bytes {
                of_other.replaced |= 1 << object;
            }
        }
    }
}

/// `Work::begin_commit`, and the first request of its transaction.
fn begin_commit(state: &State, index: usize, next: &mut Next<'_>) {
    let worker = &state.workers[index];
    let has_topic = next.protocol.bound.has_topic;
    let mut state = *state;
    // A flush waits until the one before it is published.
    let is_free = !worker.publication.flush.is_some() || next.is(Mutant::CommitBeforePublished);
    let flush = if is_free { worker.staged } else { FlushId::NONE };
    let topic_waits = has_topic && worker.position > worker.record.topic;
    if !flush.is_some() && !topic_waits {
        return;
    }
    let mut record = worker.record;
    let mut intent = Intent { flush, ..Intent::default() };
    let of_flush = state.flush(flush);
    if flush.is_some() {
        if (of_flush.sequence, of_flush.start) != (record.sequence + 1, record.lake) {
            state.break_rule(Rule::ChainOfFlushes);
        }
        record.lake = of_flush.end;
        record.sequence = of_flush.sequence;
        record.manifest = flush;
    }
    if has_topic {
        let passes = next.is(Mutant::LakePassesTopic) && flush.is_some();
        let end = if passes { record.topic } else { record.topic.max(worker.position) };
        let range = span(record.topic, end);
        let filtered = range & u8::from(is_filtered(record.transform, 0));
        intent.invalid = range & worker.rejected;
        intent.enriched = range & !worker.rejected & !filtered;
        record.topic = end;
        record.rejected = worker.rejected & !span(0, record.lake);
        if next.is(Mutant::RejectedNotRecorded) {
            record.rejected = 0;
        }
    } else {
        intent.invalid = span(of_flush.start, of_flush.end) & worker.rejected;
        record.topic = record.lake;
        record.rejected = 0;
    }
    intent.record = record;
    state.workers[index].staged = if flush.is_some() { FlushId::NONE } else { worker.staged };
    let what = match (flush.is_some(), topic_waits) {
        (true, true) => "begins to commit a flush and what the topic waits for",
        (true, false) => "begins to commit a flush",
        _ => "begins to commit for the topic",
    };
    transaction::begin(&state, index, intent, what, next);
}

/// `Work::end_commit`.
pub(crate) fn end_commit(worker: &mut Worker, commit: &Commit, before: &Record) {
    if commit.flush.is_some() {
        worker.rejected &= !span(0, commit.record.lake);
        worker.publication =
            Publication { flush: commit.flush, previous: before.manifest, ..Publication::default() };
    }
}
