//! The cluster as page, REST and CLI show it: plain data, made from the state on demand. Decides nothing.
//!
//! All `*_at` of type [`Millis`] are points in time of the clock that drives the coordinator.

use millrace_types::{Epoch, Halt, Millis, PipelineDefinition, SlotId, SlotReport, WorkerId, WorkerSpec};
use serde::Serialize;

use crate::history::{Loss, Move};

/// Everything that people may see.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterView {
    /// The `now` of the last event.
    pub at: Millis,
    /// By id; dead ones stay for a while.
    pub workers: Vec<WorkerView>,
    /// By pipeline, topic and partition.
    pub slots: Vec<SlotView>,
    pub pipelines: Vec<PipelineDefinition>,
    /// Oldest first.
    pub moves: Vec<Move>,
    /// Oldest first.
    pub losses: Vec<Loss>,
}

/// What the master thinks of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkerState {
    /// It has a session and is heard.
    Alive,
    /// Its session dropped; it keeps its slots for the grace.
    Suspect,
    /// Known from the store and not heard since this master began; it keeps its slots for a lease.
    Unknown,
    /// Lost; its slots go to others.
    Dead,
}

impl WorkerState {
    /// As the page shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "ALIVE",
            Self::Suspect => "SUSPECT",
            Self::Unknown => "UNKNOWN",
            Self::Dead => "DEAD",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerView {
    pub spec: WorkerSpec,
    pub state: WorkerState,
    /// When its last message came; `None` when this master never heard it.
    pub last_heard_at: Option<Millis>,
    /// When it got into its state.
    pub since: Millis,
    pub memory_used_bytes: u64,
    /// The slots granted to it, those being revoked too.
    pub slots: Vec<SlotId>,
    /// Why a live worker has no slot.
    pub idle_reason: Option<String>,
}

/// Where a slot stands for the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    Free,
    Granted,
    Revoking,
    Halted,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlotView {
    pub slot: SlotId,
    /// Name of its source topic.
    pub topic: String,
    pub state: SlotState,
    pub owner: Option<WorkerId>,
    /// The highest epoch granted so far.
    pub epoch: Epoch,
    pub opened: bool,
    /// The owner's last report at this epoch: phase and figures.
    pub report: Option<SlotReport>,
    /// Figures of the last owner that reported any; kept while the slot has no owner or a new one that is
    /// silent yet.
    pub last_report: Option<SlotReport>,
    pub halt: Option<Halt>,
    /// Why it has no owner.
    pub unowned_reason: Option<String>,
}
