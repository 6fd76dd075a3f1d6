//! Points in time at which something of a worker or a slot may be due, so that none is looked for among all.
//!
//! An entry may be early: a heartbeat moves a worker's deadline and not its entry. Whoever finds nothing due sets
//! the next entry.

use std::collections::BTreeSet;

use millrace_types::{Millis, SlotId, WorkerId};

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Timer {
    Worker(WorkerId),
    /// The end of a wait, or of an avoidance.
    Slot(SlotId),
}

#[derive(Debug, Default)]
pub(crate) struct Timers(BTreeSet<(Millis, Timer)>);

impl Timers {
    pub(crate) fn set(&mut self, at: Millis, timer: Timer) {
        self.0.insert((at, timer));
    }

    pub(crate) fn unset(&mut self, at: Millis, timer: Timer) {
        self.0.remove(&(at, timer));
    }

    pub(crate) fn first(&self) -> Option<Millis> {
        self.0.first().map(|(at, _)| *at)
    }

    /// The first one that is due, taken out.
    pub(crate) fn pop(&mut self, now: Millis) -> Option<Timer> {
        self.0.first().filter(|(at, _)| *at <= now)?;
        self.0.pop_first().map(|(_, timer)| timer)
    }
}
