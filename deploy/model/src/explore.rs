//! Exhaustive search, breadth first: the first state that breaks a rule is found on a shortest way. States are kept as 64-bit
//! hashes; the ways between them as numbers.

use std::collections::VecDeque;
use std::hash::{Hash, Hasher};

use ahash::RandomState;
use hashbrown::HashMap;

use crate::canonical::canonical;
use crate::reached::Reached;
use crate::rules::{Rule, broken, is_finished};
use crate::state::State;
use crate::step::{Action, Protocol};

/// What an exploration found.
#[derive(Debug)]
pub struct Found {
    pub states: usize,
    pub steps: u64,
    /// Longest of the shortest ways to a state.
    pub depth: u32,
    /// Every state within the bound was seen.
    pub complete: bool,
    /// Bytes of the tables at the end.
    pub memory: usize,
    /// What happened on the way.
    pub reached: Reached,
    pub counterexample: Option<Counterexample>,
}

/// A shortest way to a broken rule.
#[derive(Debug)]
pub struct Counterexample {
    pub rule: Rule,
    pub(crate) way: Vec<(Action, State)>,
}

impl Counterexample {
    /// Its steps.
    pub fn length(&self) -> usize {
        self.way.len()
    }
}

const NO_PARENT: u32 = u32::MAX;

#[derive(Default)]
struct Seen {
    numbers: HashMap<u64, u32, NoHash>,
    fingerprints: Vec<u64>,
    parents: Vec<u32>,
    /// Steps without faults, by state: `ends[n]` is where those of state n end.
    targets: Vec<u32>,
    ends: Vec<usize>,
    finished: Vec<bool>,
}

/// The fingerprints are hashes already.
type NoHash = std::hash::BuildHasherDefault<Identity>;

#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("fingerprints are written as one number");
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

/// Makes a state's fingerprint: its fields as bytes, hashed at once.
struct Fingerprints {
    hasher: RandomState,
    bytes: Vec<u8>,
}

impl Fingerprints {
    /// With fixed seeds, so that a run can be repeated.
    fn new() -> Self {
        Self {
            hasher: RandomState::with_seeds(0x6d69_6c6c, 0x7261_6365, 0x6d6f, 0x0064_656c),
            bytes: Vec::new(),
        }
    }

    fn of(&mut self, state: &State) -> u64 {
        self.bytes.clear();
        state.hash(&mut Fields(&mut self.bytes));
        self.hasher.hash_one(self.bytes.as_slice())
    }
}

/// Gathers what is hashed. Every number of a state is small.
struct Fields<'a>(&'a mut Vec<u8>);

impl Fields<'_> {
    fn push(&mut self, number: Option<u8>) {
        self.0.push(number.unwrap_or_else(|| panic!("a number of a state is beyond a byte")));
    }
}

impl Hasher for Fields<'_> {
    fn finish(&self) -> u64 {
        unreachable!("the bytes are hashed, not this");
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn write_u8(&mut self, number: u8) {
        self.0.push(number);
    }

    fn write_usize(&mut self, number: usize) {
        self.push(u8::try_from(number).ok());
    }

    fn write_isize(&mut self, number: isize) {
        self.push(u8::try_from(number).ok());
    }
}

impl Seen {
    /// Number of the state, and whether it is new.
    fn note(&mut self, fingerprint: u64, parent: u32) -> (u32, bool) {
        let next = u32::try_from(self.fingerprints.len())
            .unwrap_or_else(|_| panic!("more than four billion states"));
        match self.numbers.entry(fingerprint) {
            hashbrown::hash_map::Entry::Occupied(known) => (*known.get(), false),
            hashbrown::hash_map::Entry::Vacant(free) => {
                free.insert(next);
                self.fingerprints.push(fingerprint);
                self.parents.push(parent);
                (next, true)
            }
        }
    }

    fn memory(&self) -> usize {
        self.numbers.capacity() * (size_of::<(u64, u32)>() + 1)
            + self.fingerprints.capacity() * size_of::<u64>()
            + (self.parents.capacity() + self.targets.capacity()) * size_of::<u32>()
            + self.ends.capacity() * size_of::<usize>()
            + self.finished.capacity()
    }
}

/// Explores every state of `protocol`, up to `most_states`.
pub fn explore(protocol: &Protocol, most_states: usize) -> Found {
    let mut fingerprints = Fingerprints::new();
    let mut seen = Seen::default();
    let mut frontier = VecDeque::new();
    let first = canonical(&protocol.initial());
    seen.note(fingerprints.of(&first), NO_PARENT);
    frontier.push_back((first, 0_u32));
    let (mut number, mut steps, mut depth, mut widest) = (0_u32, 0_u64, 0, 0);
    let mut nexts = Vec::new();
    let mut complete = true;
    let mut reached = Reached::default();
    while let Some((state, at_depth)) = frontier.pop_front() {
        depth = at_depth;
        if let Some(rule) = broken(&state, &protocol.bound).find(protocol.wanted) {
            let way = way_to(protocol, &mut fingerprints, &seen, number);
            let counterexample = Some(Counterexample { rule, way });
            let (states, memory) = (seen.fingerprints.len(), seen.memory());
            return Found { states, steps, depth, complete: false, memory, reached, counterexample };
        }
        seen.finished.push(is_finished(&state, &protocol.bound));
        if seen.fingerprints.len() >= most_states {
            complete = false;
            break;
        }
        protocol.next(&state, &mut nexts);
        for (action, next) in &nexts {
            steps += 1;
            reached.note(&state, action, next, &protocol.bound);
            let next = canonical(next);
            let (target, is_new) = seen.note(fingerprints.of(&next), number);
            if is_new {
                frontier.push_back((next, at_depth + 1));
            }
            if !action.is_fault {
                seen.targets.push(target);
            }
        }
        seen.ends.push(seen.targets.len());
        widest = widest.max(frontier.len());
        number += 1;
    }
    let asks = matches!(protocol.wanted, None | Some(Rule::CanFinish));
    let counterexample = (complete && asks).then(|| stuck(&seen)).flatten().map(|number| {
        let way = way_to(protocol, &mut fingerprints, &seen, number);
        Counterexample { rule: Rule::CanFinish, way }
    });
    let memory = seen.memory() + widest * size_of::<(State, u32)>();
    Found { states: seen.fingerprints.len(), steps, depth, complete, memory, reached, counterexample }
}

/// The first state from which no steps without faults lead to the end: a search backwards from all finished ones, done by
/// passes over the states from the deepest to the first, until nothing changes.
fn stuck(seen: &Seen) -> Option<u32> {
    let mut can_finish = seen.finished.clone();
    loop {
        let mut changed = false;
        for number in (0..seen.ends.len()).rev() {
            if can_finish[number] {
                continue;
            }
            let start = number.checked_sub(1).map_or(0, |before| seen.ends[before]);
            let targets = &seen.targets[start..seen.ends[number]];
            if targets.iter().any(|target| can_finish[*target as usize]) {
                can_finish[number] = true;
                changed = true;
            }
        }
        if !changed {
            break;
        }
    }
    can_finish.iter().position(|can| !can).and_then(|number| u32::try_from(number).ok())
}

/// The way to a state, made anew without renaming, so that a worker keeps its number from step to step.
fn way_to(
    protocol: &Protocol,
    fingerprints: &mut Fingerprints,
    seen: &Seen,
    number: u32,
) -> Vec<(Action, State)> {
    let mut numbers = vec![number];
    while let Some(parent) =
        numbers.last().map(|last| seen.parents[*last as usize]).filter(|p| *p != NO_PARENT)
    {
        numbers.push(parent);
    }
    numbers.reverse();
    let mut state = protocol.initial();
    let mut nexts = Vec::new();
    let mut way = Vec::with_capacity(numbers.len());
    for number in &numbers[1..] {
        let wanted = seen.fingerprints[*number as usize];
        protocol.next(&state, &mut nexts);
        let found = nexts.iter().find(|(_, next)| fingerprints.of(&canonical(next)) == wanted);
        let (action, next) = found.unwrap_or_else(|| panic!("a renamed state has the same steps: {state:?}"));
        state = *next;
        way.push((*action, state));
    }
    way
}
