//! What the coordinator keeps of workers, slots and pipelines.

use std::collections::BTreeMap;
use std::sync::Arc;

use millrace_types::{
    Epoch, Halt, Millis, PipelineDefinition, PipelineId, SlotId, SlotReport, WorkerId, WorkerSpec,
};

use crate::history::MoveReason;

/// Signs of life of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    /// Its session dropped: dead at `until`, unless it registers before.
    Suspect {
        until: Millis,
    },
    /// Known from the store: dead at `until`, unless it registers before.
    Unknown {
        until: Millis,
    },
    Dead,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Worker {
    pub(crate) spec: WorkerSpec,
    /// The connection through which it can be told something.
    pub(crate) session: Option<u64>,
    pub(crate) life: Life,
    /// Since when it lives so.
    pub(crate) since: Millis,
    /// `None`: never, by this master.
    pub(crate) last_heard: Option<Millis>,
    pub(crate) memory_used_bytes: u64,
}

impl Worker {
    /// Whether slots may be given to it.
    pub(crate) fn can_be_told(&self) -> bool {
        self.life == Life::Alive && self.session.is_some()
    }
}

/// Who has a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holding {
    Free,
    Granted {
        worker: WorkerId,
        /// When the grant was last sent through the present session; `None` if it was not.
        sent_at: Option<Millis>,
    },
    Revoking {
        worker: WorkerId,
        sent_at: Option<Millis>,
        /// For whom.
        target: WorkerId,
    },
}

/// Why a slot has no owner, for the move that ends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Vacancy {
    pub(crate) from: Option<WorkerId>,
    pub(crate) reason: MoveReason,
    pub(crate) since: Millis,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slot {
    pub(crate) holding: Holding,
    pub(crate) vacancy: Vacancy,
    /// Of the last grant; 0 before the first.
    pub(crate) epoch: Epoch,
    pub(crate) opened: bool,
    pub(crate) halt: Option<Halt>,
    /// The owner's last report at this epoch.
    pub(crate) report: Option<SlotReport>,
    pub(crate) last_report: Option<SlotReport>,
    /// Failures in a row, and when it may be granted again.
    pub(crate) failures: u32,
    pub(crate) retry_at: Option<Millis>,
    pub(crate) failed_on: Option<(WorkerId, String)>,
    pub(crate) running_since: Option<Millis>,
}

impl Slot {
    pub(crate) fn new(reason: MoveReason, now: Millis) -> Self {
        Self {
            holding: Holding::Free,
            vacancy: Vacancy { from: None, reason, since: now },
            epoch: Epoch(0),
            opened: false,
            halt: None,
            report: None,
            last_report: None,
            failures: 0,
            retry_at: None,
            failed_on: None,
            running_since: None,
        }
    }

    pub(crate) fn owner(&self) -> Option<&WorkerId> {
        match &self.holding {
            Holding::Free => None,
            Holding::Granted { worker, .. } | Holding::Revoking { worker, .. } => Some(worker),
        }
    }

    /// Takes the slot from its owner.
    pub(crate) fn vacate(&mut self, reason: MoveReason, now: Millis) {
        let since = match &self.holding {
            // A planned move began with the revoke.
            Holding::Revoking { .. } => self.vacancy.since,
            _ => now,
        };
        self.vacancy = Vacancy { from: self.owner().cloned(), reason, since };
        self.holding = Holding::Free;
        self.report = None;
        self.running_since = None;
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pipeline {
    pub(crate) definition: Arc<PipelineDefinition>,
    /// Partition count of each source topic.
    pub(crate) partitions: Vec<u32>,
}

pub(crate) type Workers = BTreeMap<WorkerId, Worker>;
pub(crate) type Slots = BTreeMap<SlotId, Slot>;
pub(crate) type Pipelines = BTreeMap<PipelineId, Pipeline>;
