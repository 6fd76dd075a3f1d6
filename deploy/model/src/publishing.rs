//! Step 7 of the protocol: `worker/src/slot/publish.rs`, and requests that the store gets late.

use crate::mutant::Mutant;
use crate::rules::Rule;
use crate::state::{Content, FlushId, LateStore, MANIFEST, Phase, Publication, Publish, State, Step, Worker};
use crate::step::Next;
use crate::transaction::{self, Intent};

/// The next step of a publication.
pub(crate) fn steps(state: &State, index: usize, next: &mut Next<'_>) {
    let worker = &state.workers[index];
    let publication = worker.publication;
    let flush = state.flush(publication.flush);
    if publication.step == Publish::DeletePrevious {
        delete_previous(state, index, next);
        return;
    }
    if publication.step == Publish::Missing {
        missing(state, index, next);
        return;
    }
    if usize::from(publication.file) >= flush.files().len() {
        let mut after = *state;
        published(&mut after.workers[index]);
        next.step(index, "has nothing more to publish", "publish::publish", after);
        return;
    }
    let file = publication.file;
    let place = (usize::from(flush.start), usize::from(file));
    let is_match = state.store.files[place.0][place.1] == flush.content(file);
    let mut after = *state;
    let step = &mut after.workers[index].publication.step;
    match publication.step {
        Publish::Compare => {
            *step = if is_match { Publish::DeleteStaged } else { Publish::Copy };
            next.step(index, "looks under the final key", "staging::compare", after);
        }
        Publish::Copy => copy(state, index, next),
        Publish::CompareAgain => {
            *step = if is_match { Publish::DeleteStaged } else { Publish::Missing };
            if !is_match && publication.proven {
                after.workers[index].phase = Phase::Halted;
                after.break_rule(Rule::NoHaltWithoutCause);
            }
            next.step(
                index,
                "finds no staged file, and looks under the final key again",
                "publish::publish_file",
                after,
            );
        }
        Publish::CompareCopy => {
            *step = if is_match { Publish::DeleteStaged } else { Publish::Compare };
            next.step(index, "compares what was copied", "publish::publish_file", after);
        }
        Publish::DeleteStaged => delete_staged(state, index, next),
        Publish::DeletePrevious | Publish::Missing => {}
    }
}

fn copy(state: &State, index: usize, next: &mut Next<'_>) {
    let Publication { flush: id, file, .. } = state.workers[index].publication;
    let mut after = *state;
    if !state.flush(id).holds(file) {
        after.workers[index].publication.step = Publish::CompareAgain;
        next.step(index, "finds no staged file to copy", "staging::copy", after);
        return;
    }
    copy_file(&mut after, id, file);
    let copied =
        if next.is(Mutant::NoCompareAfterCopy) { Publish::DeleteStaged } else { Publish::CompareCopy };
    if state.faults.store > 0 {
        let mut lost = after;
        lost.faults.store -= 1;
        lost.workers[index].publication.step = Publish::Compare;
        next.fault(Some(index), "copies a file; the answer is lost", lost);
        let mut failed = *state;
        failed.faults.store -= 1;
        failed.workers[index].publication.step = copied;
        next.fault(Some(index), "copies a file; the answer is 200 with an error in its body", failed);
        if state.store.late == LateStore::None {
            let mut late = *state;
            late.faults.store -= 1;
            late.store.late = LateStore::Copy(id, file);
            late.workers[index].publication.step = Publish::Compare;
            next.fault(Some(index), "copies a file; the request is late", late);
        }
    }
    after.workers[index].publication.step = copied;
    next.step(index, "copies a file to its final key", "staging::copy", after);
}

fn copy_file(state: &mut State, id: FlushId, file: u8) {
    let flush = state.flush(id);
    if flush.holds(file) {
        let is_foreign = flush.replaced >> file & 1 == 1;
        let content = if is_foreign { Content::Foreign } else { flush.content(file) };
        state.store.files[usize::from(flush.start)][usize::from(file)] = content;
    }
}

fn delete_staged(state: &State, index: usize, next: &mut Next<'_>) {
    let Publication { flush: id, file, .. } = state.workers[index].publication;
    let Some(place) = id.index() else { return };
    let mut after = *state;
    after.store.flushes[place].present &= !(1 << file);
    if state.faults.store > 0 && state.store.late == LateStore::None {
        let mut late = *state;
        late.faults.store -= 1;
        late.store.late = LateStore::Delete(id, file);
        next.fault(Some(index), "deletes a staged file; the request is late, it deletes it again", late);
    }
    let worker = &mut after.workers[index];
    worker.publication.file += 1;
    worker.publication.step = Publish::Compare;
    if usize::from(worker.publication.file) >= state.flush(id).files().len() {
        published(worker);
    }
    next.step(index, "deletes a staged file, which is published", "staging::delete", after);
}

/// Every file is where it belongs.
fn published(worker: &mut Worker) {
    if worker.phase == Phase::RollForward {
        worker.phase = Phase::Collect;
        worker.publication = Publication::default();
    } else if worker.publication.previous.is_some() {
        worker.publication.step = Publish::DeletePrevious;
    } else {
        worker.publication = Publication::default();
    }
}

/// `publish_flush` deletes the manifest before the one that is published now.
fn delete_previous(state: &State, index: usize, next: &mut Next<'_>) {
    let mut after = *state;
    if let Some(place) = state.workers[index].publication.previous.index() {
        after.store.flushes[place].present &= !(1 << MANIFEST);
    }
    after.workers[index].publication = Publication::default();
    next.step(index, "deletes the manifest before", "publish::publish_flush", after);
}

/// `Work::end_publishing` and `open::roll_forward`: neither source nor match is there. Whose fault that is must be proven.
fn missing(state: &State, index: usize, next: &mut Next<'_>) {
    let worker = &state.workers[index];
    if worker.commit.step == Step::None {
        let intent = Intent { record: worker.record, proof: true, ..Intent::default() };
        transaction::begin(state, index, intent, "misses a file, and proves its ownership", next);
    } else if worker.phase == Phase::RollForward {
        transaction::advance(state, index, next);
    }
}

/// The record was committed once more: the slot is this worker's. It looks again.
pub(crate) fn proven(worker: &mut Worker) {
    worker.publication =
        Publication { flush: worker.publication.flush, proven: true, ..Publication::default() };
}

/// A request that was late arrives.
pub(crate) fn late_steps(state: &State, next: &mut Next<'_>) {
    let mut after = *state;
    after.store.late = LateStore::None;
    let what = match state.store.late {
        LateStore::None => return,
        LateStore::Put(id, object) => {
            if let Some(place) = id.index() {
                after.store.flushes[place].present |= 1 << object;
            }
            "a late upload arrives"
        }
        LateStore::Copy(id, file) => {
            copy_file(&mut after, id, file);
            "a late copy arrives"
        }
        LateStore::Delete(id, object) => {
            if let Some(place) = id.index() {
                after.store.flushes[place].present &= !(1 << object);
            }
            "a late deletion arrives"
        }
    };
    next.other(what, "store", after);
}
