//! What is to be stored anew, in the order in which it has to be: a step takes no more than a transaction of the
//! store, the rest follows with the next ones. Whatever was written so far is a state to go on from.

use std::collections::BTreeMap;

use millrace_types::{PipelineId, WorkerId};

use crate::record::SlotGroup;

/// What is to be stored anew, or removed when it is no more.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Dirty {
    Pipeline(PipelineId),
    Worker(WorkerId),
    Slots(SlotGroup),
}

#[derive(Debug, Default)]
pub(crate) struct Backlog {
    place: BTreeMap<Dirty, u64>,
    queue: BTreeMap<u64, Dirty>,
    next: u64,
}

impl Backlog {
    /// It is written after all that is in the queue by now, and once.
    pub(crate) fn insert(&mut self, dirty: Dirty) {
        if let Some(earlier) = self.place.insert(dirty.clone(), self.next) {
            self.queue.remove(&earlier);
        }
        self.queue.insert(self.next, dirty);
        self.next += 1;
    }

    pub(crate) fn pop(&mut self) -> Option<Dirty> {
        let (_, dirty) = self.queue.pop_first()?;
        self.place.remove(&dirty);
        Some(dirty)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }
}
