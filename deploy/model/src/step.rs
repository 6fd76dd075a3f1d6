//! What may happen next: one function for each part of the system, every step with its name and the code that it stands for.

use crate::bounds::Bound;
use crate::canonical::idle;
use crate::kafka;
use crate::master;
use crate::mutant::Mutant;
use crate::opening;
use crate::publishing;
use crate::rules::Rule;
use crate::state::{MOST_WORKERS, Phase, State};
use crate::work;

/// Something that happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Action {
    /// Who did it; `None`: Kafka, the store, the master, or fate.
    pub(crate) worker: Option<usize>,
    /// What happened.
    pub(crate) what: &'static str,
    /// The function that it stands for, or the kind of fault.
    pub(crate) code: &'static str,
    /// It uses up one of the bound's faults.
    pub(crate) is_fault: bool,
}

/// A protocol to explore: the code's own, or a mutant of it.
#[derive(Debug, Clone, Copy)]
pub struct Protocol {
    pub bound: Bound,
    pub mutant: Option<Mutant>,
    /// Look for a state that breaks this rule, whatever else is broken on the way; without it for any.
    pub wanted: Option<Rule>,
}

/// Where steps are gathered.
pub(crate) struct Next<'a> {
    pub(crate) protocol: &'a Protocol,
    pub(crate) found: &'a mut Vec<(Action, State)>,
}

impl Next<'_> {
    pub(crate) fn is(&self, mutant: Mutant) -> bool {
        self.protocol.mutant == Some(mutant)
    }

    /// A step of the protocol.
    pub(crate) fn step(&mut self, worker: usize, what: &'static str, code: &'static str, state: State) {
        self.found.push((Action { worker: Some(worker), what, code, is_fault: false }, state));
    }

    /// A step of Kafka, the store or the master.
    pub(crate) fn other(&mut self, what: &'static str, code: &'static str, state: State) {
        self.found.push((Action { worker: None, what, code, is_fault: false }, state));
    }

    pub(crate) fn fault(&mut self, worker: Option<usize>, what: &'static str, state: State) {
        self.found.push((Action { worker, what, code: "fault", is_fault: true }, state));
    }
}

impl Protocol {
    pub(crate) fn initial(&self) -> State {
        let mut state = State { faults: self.bound.faults, ..State::default() };
        for worker in &mut state.workers[..self.bound.workers.min(MOST_WORKERS)] {
            worker.phase = Phase::Idle;
        }
        state
    }

    /// Everything that may happen in `state`.
    pub(crate) fn next(&self, state: &State, found: &mut Vec<(Action, State)>) {
        found.clear();
        let mut next = Next { protocol: self, found };
        for index in 0..self.bound.workers {
            match state.workers[index].phase {
                Phase::Absent | Phase::Idle | Phase::Halted => {}
                Phase::Work => work::steps(state, index, &mut next),
                Phase::RollForward => publishing::steps(state, index, &mut next),
                _ => opening::steps(state, index, &mut next),
            }
            crash(state, index, &mut next);
        }
        kafka::steps(state, &mut next);
        publishing::late_steps(state, &mut next);
        master::steps(state, &mut next);
    }
}

/// SIGKILL at any step; what was sent before is under way (see the late requests).
fn crash(state: &State, index: usize, next: &mut Next<'_>) {
    let phase = state.workers[index].phase;
    if state.faults.crashes > 0 && phase != Phase::Absent && phase != Phase::Idle {
        let mut after = *state;
        after.faults.crashes -= 1;
        after.workers[index] = idle(&state.workers[index]);
        next.fault(Some(index), "is killed; its process starts anew", after);
    }
}
