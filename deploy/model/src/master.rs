//! The master: grants, and what it remembers. Whom it takes for dead is of no importance to the protocol, so it may grant
//! the slot away at any time, within the bound.

use crate::canonical::idle;
use crate::state::{Master, Phase, State};
use crate::step::Next;

pub(crate) fn steps(state: &State, next: &mut Next<'_>) {
    let workers = next.protocol.bound.workers;
    let is_owner = |index: usize| {
        let worker = &state.workers[index];
        worker.phase != Phase::Idle && worker.epoch == state.master.epoch
    };
    let owned = (0..workers).any(is_owner);
    for index in (0..workers).filter(|index| !is_owner(*index)) {
        // Its owner stopped and said so, or is dead: `Coordinator::grant`. Else it is frozen, or cut off.
        let mut after = *state;
        if owned {
            if state.faults.moves == 0 {
                continue;
            }
            after.faults.moves -= 1;
        }
        after.master.epoch += 1;
        let worker = &mut after.workers[index];
        // A slot of an older epoch is given up (`Manager::on_order`); what it sent last may still arrive.
        *worker = idle(worker);
        worker.phase = Phase::Fence;
        worker.epoch = after.master.epoch;
        worker.opened = after.master.opened;
        worker.definition = after.master.definition;
        if owned {
            next.fault(Some(index), "is granted the slot, whose owner is silent and lives", after);
        } else {
            next.step(index, "is granted the slot", "Coordinator::grant", after);
        }
    }
    let runs = |index: usize| {
        let worker = &state.workers[index];
        worker.phase == Phase::Work && worker.epoch == state.master.epoch
    };
    if !state.master.opened && (0..workers).any(runs) {
        let mut after = *state;
        after.master.opened = true;
        next.other("the master stores that the slot is opened", "Coordinator::note_opened", after);
    }
    if state.faults.definitions > 0 && state.kafka.record.is_some() {
        let mut after = *state;
        after.faults.definitions -= 1;
        after.master.definition = 1;
        next.fault(None, "the pipeline is given another transform, which drops the first record", after);
    }
    if state.faults.forgets > 0 && state.master.epoch > 0 {
        let mut after = *state;
        after.faults.forgets -= 1;
        after.master = Master { definition: state.master.definition, forgot: true, ..Master::default() };
        next.fault(None, "the master loses its store", after);
    }
    for index in (0..workers).filter(|index| state.workers[*index].phase == Phase::Idle) {
        let mut after = *state;
        let other = 1 - state.workers[index].build;
        after.workers[index].build = other;
        if state.faults.builds < next.protocol.bound.faults.builds {
            // It is there now, beside the old one. A slot that halts for a verdict asks for the one that took the record.
            next.step(index, "is started with the other build", "halt transform_changed", after);
        } else if state.faults.builds > 0 {
            after.faults.builds -= 1;
            next.fault(Some(index), "is started with the new build", after);
        }
    }
}
