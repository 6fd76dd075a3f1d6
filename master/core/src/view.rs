//! The cluster as page, REST and CLI show it: plain data, made from the state on demand. Decides nothing.
//!
//! All `*_at` of type [`Millis`] are points in time of the clock that drives the coordinator.

use millrace_types::{Epoch, Halt, Millis, PipelineDefinition, SlotId, SlotReport, WorkerId, WorkerSpec};
use serde::Serialize;

use crate::Coordinator;
use crate::history::{Loss, Move};
use crate::state::{Holding, Life, Slot, Worker};

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

impl Coordinator {
    /// The cluster as it stands.
    pub fn view(&self) -> ClusterView {
        ClusterView {
            at: self.last_apply,
            workers: self.workers.values().map(|worker| self.worker_view(worker)).collect(),
            slots: self.slots.iter().map(|(id, slot)| self.slot_view(id, slot)).collect(),
            pipelines: self.pipelines.values().map(|pipeline| (*pipeline.definition).clone()).collect(),
            moves: self.history.moves.iter().cloned().collect(),
            losses: self.history.losses.iter().cloned().collect(),
        }
    }

    fn worker_view(&self, worker: &Worker) -> WorkerView {
        let state = match worker.life {
            Life::Alive => WorkerState::Alive,
            Life::Suspect { .. } => WorkerState::Suspect,
            Life::Unknown { .. } => WorkerState::Unknown,
            Life::Dead => WorkerState::Dead,
        };
        let slots: Vec<SlotId> = self
            .slots
            .iter()
            .filter(|(_, slot)| slot.owner() == Some(&worker.spec.id))
            .map(|(id, _)| id.clone())
            .collect();
        let idle_reason = (state == WorkerState::Alive && slots.is_empty()).then(|| self.idle_reason());
        WorkerView {
            spec: worker.spec.clone(),
            state,
            last_heard_at: worker.last_heard,
            since: worker.since,
            memory_used_bytes: worker.memory_used_bytes,
            slots,
            idle_reason,
        }
    }

    fn idle_reason(&self) -> String {
        let workers = self.workers.values().filter(|worker| worker.life != Life::Dead).count();
        let halted = self.slots.values().filter(|slot| slot.halt.is_some()).count();
        match (self.slots.len(), halted) {
            (0, _) => "no pipeline has slots yet".into(),
            _ if self.even_out_at.is_some() => "slots are about to be shared out".into(),
            (slots, 0) => format!("{slots} slots on {workers} workers: none is left"),
            (slots, halted) => {
                format!("{slots} slots on {workers} workers, {halted} of them halted: none is left")
            }
        }
    }

    fn slot_view(&self, id: &SlotId, slot: &Slot) -> SlotView {
        let topic = self
            .pipelines
            .get(&id.pipeline)
            .and_then(|pipeline| pipeline.definition.source_topics.get(usize::from(id.topic)))
            .cloned()
            .unwrap_or_default();
        let state = match slot.holding {
            Holding::Free if slot.halt.is_some() => SlotState::Halted,
            Holding::Free => SlotState::Free,
            Holding::Granted { .. } => SlotState::Granted,
            Holding::Revoking { .. } => SlotState::Revoking,
        };
        SlotView {
            slot: id.clone(),
            topic,
            state,
            owner: slot.owner().cloned(),
            epoch: slot.epoch,
            opened: slot.opened,
            report: slot.report.clone(),
            last_report: slot.last_report.clone(),
            halt: slot.halt.clone(),
            unowned_reason: self.unowned_reason(slot),
        }
    }

    fn unowned_reason(&self, slot: &Slot) -> Option<String> {
        if slot.holding != Holding::Free {
            return None;
        }
        let reachable = self.workers.values().any(Worker::can_be_told);
        Some(match (&slot.halt, &slot.failed_on) {
            (Some(halt), _) => halt.detail.clone(),
            (None, Some((worker, detail))) => format!("tried again after a failure on {worker}: {detail}"),
            (None, None) if !reachable => "no worker is alive".into(),
            (None, None) if self.even_out_at.is_some() => "slots are about to be shared out".into(),
            (None, None) => "no worker has room: start one, or give one more memory".into(),
        })
    }
}
