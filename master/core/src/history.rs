//! What happened lately, for people: moves of slots and losses of workers. No decision reads it.

use std::collections::VecDeque;

use millrace_types::{Epoch, Millis, PipelineId, SlotId, SlotPhase, SlotReport, WorkerId};
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
    WorkerDrained {
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
    /// It was told to stop, gave up its slots, and ended.
    Left,
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

/// The latest moves and losses, bounded.
#[derive(Debug)]
pub(crate) struct History {
    moves: VecDeque<Move>,
    losses: VecDeque<Loss>,
    moves_kept: usize,
    losses_kept: usize,
}

impl History {
    pub(crate) fn new(moves_kept: usize, losses_kept: usize) -> Self {
        Self { moves: VecDeque::new(), losses: VecDeque::new(), moves_kept, losses_kept }
    }

    pub(crate) fn moves(&self) -> Vec<Move> {
        self.moves.iter().cloned().collect()
    }

    pub(crate) fn losses(&self) -> Vec<Loss> {
        self.losses.iter().cloned().collect()
    }

    pub(crate) fn lost(&mut self, loss: Loss) {
        self.losses.push_back(loss);
        if self.losses.len() > self.losses_kept {
            self.losses.pop_front();
        }
    }

    pub(crate) fn moved(&mut self, moved: Move) {
        self.owned_again(&moved.slot, &moved.to, moved.epoch, moved.granted_at);
        self.moves.push_back(moved);
        if self.moves.len() > self.moves_kept {
            self.moves.pop_front();
        }
    }

    /// The slot has an owner again, by a grant or because its lost owner came back with it.
    pub(crate) fn owned_again(&mut self, slot: &SlotId, worker: &WorkerId, epoch: Epoch, now: Millis) {
        for loss in &mut self.losses {
            for lost in &mut loss.slots {
                if lost.slot == *slot && lost.regrant.is_none() {
                    let worker = worker.clone();
                    lost.regrant = Some(Regrant { worker, epoch, granted_at: now, first_commit_at_ms: None });
                }
            }
            if loss.slots.iter().all(|lost| lost.regrant.is_some()) {
                loss.reassigned_at.get_or_insert(now);
            }
        }
    }

    /// The pipeline is over: nobody waits for its slots.
    pub(crate) fn completed(&mut self, pipeline: &PipelineId, now: Millis) {
        for loss in &mut self.losses {
            loss.slots.retain(|lost| lost.slot.pipeline != *pipeline || lost.regrant.is_some());
            if loss.slots.iter().all(|lost| lost.regrant.is_some()) {
                loss.reassigned_at.get_or_insert(now);
            }
        }
    }

    /// A report of the slot's current grant.
    pub(crate) fn reported(&mut self, report: &SlotReport, now: Millis) {
        if report.phase == SlotPhase::Running
            && let Some(moved) = self
                .moves
                .iter_mut()
                .rev()
                .find(|moved| moved.slot == report.slot && moved.epoch == report.epoch)
        {
            moved.running_at.get_or_insert(now);
        }
        let Some(committed) = report.metrics.last_commit_at_ms else { return };
        for lost in self.losses.iter_mut().flat_map(|loss| &mut loss.slots) {
            if lost.slot == report.slot
                && let Some(regrant) = lost.regrant.as_mut().filter(|regrant| regrant.epoch == report.epoch)
            {
                regrant.first_commit_at_ms.get_or_insert(committed);
            }
        }
    }
}
