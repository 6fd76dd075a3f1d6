//! What happened lately, for people: moves of slots and losses of workers. No decision reads it.

use millrace_types::{Epoch, Millis, SlotId, WorkerId};
use serde::Serialize;

/// Why a slot got a new owner or a new epoch.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum MoveReason {
    PipelineSubmitted,
    PartitionsAdded,
    WorkerLost {
        worker: WorkerId,
        cause: LossCause,
    },
    WorkerJoined {
        worker: WorkerId,
    },
    /// Workers hold uneven shares, without one that just joined.
    Uneven,
    SlotStopped {
        worker: WorkerId,
        why: String,
    },
    /// The slot was free when this master began.
    MasterRestarted,
    Operator {
        what: String,
    },
}

/// By what a worker's loss was noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LossCause {
    /// Its session dropped and did not come back within the grace.
    SessionDropped,
    /// Its port refused a connection.
    ProcessGone,
    /// No message for a whole lease.
    Silent,
    /// Another process registered under its id.
    Replaced,
}

/// A slot that was granted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    pub slot: SlotId,
    /// The owner before; `None` at the first grant.
    pub from: Option<WorkerId>,
    pub to: WorkerId,
    /// The new grant's epoch.
    pub epoch: Epoch,
    pub reason: MoveReason,
    /// When it was decided to take the slot from its owner, or when it was found without one.
    pub begun_at: Millis,
    pub granted_at: Millis,
    /// When a report first showed it running at this epoch. `running_at` - `begun_at` bounds the pause.
    pub running_at: Option<Millis>,
}

/// A worker that was declared dead, and what became of its slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Loss {
    pub worker: WorkerId,
    pub cause: LossCause,
    /// `None` when this master never heard it.
    pub last_heard_at: Option<Millis>,
    pub detected_at: Millis,
    /// When the last of its slots was granted anew; `None` while one is free.
    pub reassigned_at: Option<Millis>,
    pub slots: Vec<LostSlot>,
}

/// A slot of a lost worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LostSlot {
    pub slot: SlotId,
    /// The lost worker's epoch.
    pub epoch: Epoch,
    pub regrant: Option<Regrant>,
}

/// The first grant of a lost worker's slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Regrant {
    pub worker: WorkerId,
    pub epoch: Epoch,
    pub granted_at: Millis,
    /// The new owner's first transaction that moved a cursor, in milliseconds since 1970 UTC by its clock.
    pub first_commit_at_ms: Option<u64>,
}
