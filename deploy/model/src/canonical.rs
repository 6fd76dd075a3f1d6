//! One representative for states that differ in names only: which worker is which, how flushes are numbered, how high
//! epochs are. Refuses to merge anything that some step could tell apart.

use crate::state::{
    FLUSHES, Flush, FlushId, LateKafka, LateStore, MOST_WORKERS, Phase, Record, State, Worker,
};

const ORDERS: [[usize; MOST_WORKERS]; 6] = [[0, 1, 2], [1, 0, 2], [0, 2, 1], [1, 2, 0], [2, 0, 1], [2, 1, 0]];

/// The representative of `state`.
pub(crate) fn canonical(state: &State) -> State {
    let mut state = *state;
    rank_epochs(&mut state);
    let absent = state.workers.iter().filter(|worker| worker.phase == Phase::Absent).count();
    let orders = match MOST_WORKERS - absent {
        3 => 6,
        2 => 2,
        _ => 1,
    };
    let candidates = ORDERS[..orders].iter().map(|order| {
        let mut renamed = state;
        renamed.workers = order.map(|index| state.workers[index]);
        renumber_flushes(&mut renamed);
        renamed
    });
    candidates.min().unwrap_or(state)
}

/// Epochs are only ever compared: their ranks do.
fn rank_epochs(state: &mut State) {
    let mut used: u64 = 0;
    each_epoch(state, &mut |epoch| used |= 1 << *epoch);
    each_epoch(state, &mut |epoch| {
        let below = used & ((1 << *epoch) - 1) & !1;
        *epoch = if *epoch == 0 { 0 } else { u8::try_from(below.count_ones()).unwrap_or(u8::MAX) + 1 };
    });
}

fn each_epoch(state: &mut State, change: &mut impl FnMut(&mut u8)) {
    change(&mut state.master.epoch);
    for worker in &mut state.workers {
        change(&mut worker.epoch);
    }
    each_record(state, &mut |record| change(&mut record.epoch));
}

fn each_record(state: &mut State, change: &mut impl FnMut(&mut Record)) {
    let kafka = &mut state.kafka;
    kafka.record.iter_mut().for_each(&mut *change);
    kafka.pending.iter_mut().for_each(&mut *change);
    kafka.transaction.record.iter_mut().for_each(&mut *change);
    for late in &mut kafka.late {
        if let LateKafka::Offsets(record) = late {
            change(record);
        }
    }
    for worker in &mut state.workers {
        change(&mut worker.record);
        change(&mut worker.commit.record);
    }
}

/// Numbers flushes in the order in which they are referred to. One that nobody names can only be deleted, by its random
/// key: whether it is there makes no difference to anybody, so it is forgotten.
fn renumber_flushes(state: &mut State) {
    let mut names = Names::default();
    each_record(state, &mut |record| names.name(&mut record.manifest));
    for worker in &mut state.workers {
        names.name(&mut worker.staging);
        names.name(&mut worker.staged);
        names.name(&mut worker.commit.flush);
        names.name(&mut worker.publication.flush);
    }
    if let LateStore::Copy(flush, _) = &mut state.store.late {
        names.name(flush);
    }
    for worker in &mut state.workers {
        names.follow(&mut worker.publication.previous);
        let listed = worker.listed;
        worker.listed = [0; FLUSHES];
        for (old, objects) in listed.into_iter().enumerate() {
            if let Some(new) = names.new[old].index() {
                worker.listed[new] = objects;
            }
        }
    }
    match &mut state.store.late {
        LateStore::Put(flush, _) | LateStore::Delete(flush, _) => {
            names.follow(flush);
            if !flush.is_some() {
                state.store.late = LateStore::None;
            }
        }
        LateStore::None | LateStore::Copy(..) => {}
    }
    let old = state.store.flushes;
    state.store.flushes = [Flush::default(); FLUSHES];
    for (flush, new) in old.into_iter().zip(names.new) {
        if let Some(index) = new.index() {
            state.store.flushes[index] = flush;
        }
    }
}

#[derive(Default)]
struct Names {
    new: [FlushId; FLUSHES],
    count: usize,
}

impl Names {
    fn name(&mut self, id: &mut FlushId) {
        let Some(old) = id.index() else { return };
        if !self.new[old].is_some() {
            self.new[old] = FlushId::of(self.count);
            self.count += 1;
        }
        *id = self.new[old];
    }

    fn follow(&self, id: &mut FlushId) {
        *id = id.index().map_or(FlushId::NONE, |old| self.new[old]);
    }
}

/// A worker that ended with the slot remembers nothing of it.
pub(crate) fn idle(worker: &Worker) -> Worker {
    Worker { phase: Phase::Idle, build: worker.build, ..Worker::default() }
}
