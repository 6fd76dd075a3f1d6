//! What the coordinator knows of workers and slots.

use std::collections::BTreeMap;

use millrace_types::{
    Epoch, Halt, Millis, PipelineDefinition, SlotId, SlotMetrics, SlotPhase, SlotReport, WorkerId, WorkerSpec,
};

use crate::MoveReason;

/// Signs of life of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    /// Dead at `until`, unless it registers before.
    Suspect { until: Millis, reason: String },
    Dead { since: Millis },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Worker {
    pub(crate) spec: WorkerSpec,
    /// The connection through which it can be told something.
    pub(crate) session: Option<u64>,
    pub(crate) life: Life,
    pub(crate) last_heard: Millis,
    pub(crate) memory_used_bytes: u64,
}

/// Who has a slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Holding {
    Free {
        /// The owner before, and why it has it no more.
        after: Option<(WorkerId, MoveReason)>,
    },
    Granted {
        worker: WorkerId,
        /// When the grant was last sent; `None` if it could not be.
        sent_at: Option<Millis>,
    },
    Revoking {
        worker: WorkerId,
        sent_at: Option<Millis>,
        /// For whom.
        target: WorkerId,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Slot {
    pub(crate) holding: Holding,
    /// Of the last grant; 0 before the first.
    pub(crate) epoch: Epoch,
    pub(crate) opened: bool,
    pub(crate) halt: Option<Halt>,
    pub(crate) phase: Option<SlotPhase>,
    pub(crate) metrics: SlotMetrics,
    /// Failures in a row, and not before when it is granted again.
    pub(crate) failures: u32,
    pub(crate) retry_at: Option<Millis>,
    pub(crate) failed: Option<(WorkerId, String)>,
}

impl Slot {
    pub(crate) fn new() -> Self {
        Self {
            holding: Holding::Free { after: None },
            epoch: Epoch(0),
            opened: false,
            halt: None,
            phase: None,
            metrics: SlotMetrics::default(),
            failures: 0,
            retry_at: None,
            failed: None,
        }
    }

    pub(crate) fn owner(&self) -> Option<&WorkerId> {
        match &self.holding {
            Holding::Free { .. } => None,
            Holding::Granted { worker, .. } | Holding::Revoking { worker, .. } => Some(worker),
        }
    }

    pub(crate) fn free(&mut self, after: Option<(WorkerId, MoveReason)>) {
        self.holding = Holding::Free { after };
        self.phase = None;
    }

    pub(crate) fn take_report(&mut self, report: &SlotReport) {
        self.phase = Some(report.phase);
        self.metrics = report.metrics.clone();
    }
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Pipeline {
    pub(crate) definition: PipelineDefinition,
    pub(crate) partitions: Vec<u32>,
}

pub(crate) type Workers = BTreeMap<WorkerId, Worker>;
pub(crate) type Slots = BTreeMap<SlotId, Slot>;
