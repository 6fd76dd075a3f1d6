//! What happened lately, for people: moves of slots and losses of workers. No decision reads it.

use std::collections::VecDeque;

use millrace_types::{Epoch, Millis, SlotId, WorkerId};
use serde::Serialize;

use crate::Settings;

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

/// Bounded memory of both.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct History {
    pub(crate) moves: VecDeque<Move>,
    pub(crate) losses: VecDeque<Loss>,
    moves_kept: usize,
    losses_kept: usize,
}

impl History {
    pub(crate) fn new(settings: &Settings) -> Self {
        Self { moves_kept: settings.moves_kept, losses_kept: settings.losses_kept, ..Self::default() }
    }

    pub(crate) fn moved(&mut self, entry: Move) {
        for loss in &mut self.losses {
            let Some(lost) =
                loss.slots.iter_mut().find(|lost| lost.slot == entry.slot && lost.regrant.is_none())
            else {
                continue;
            };
            lost.regrant = Some(Regrant {
                worker: entry.to.clone(),
                epoch: entry.epoch,
                granted_at: entry.granted_at,
                first_commit_at_ms: None,
            });
            if loss.slots.iter().all(|lost| lost.regrant.is_some()) {
                loss.reassigned_at = Some(entry.granted_at);
            }
        }
        self.moves.push_back(entry);
        while self.moves.len() > self.moves_kept {
            self.moves.pop_front();
        }
    }

    pub(crate) fn lost(&mut self, loss: Loss) {
        self.losses.push_back(loss);
        while self.losses.len() > self.losses_kept {
            self.losses.pop_front();
        }
    }

    /// A report showed the slot running at `epoch`.
    pub(crate) fn running(&mut self, slot: &SlotId, epoch: Epoch, at: Millis) {
        let found = self.moves.iter_mut().rev().find(|entry| entry.slot == *slot && entry.epoch == epoch);
        if let Some(entry) = found {
            entry.running_at.get_or_insert(at);
        }
    }

    /// The owner at `epoch` committed a transaction that moved a cursor, at `at_ms` by its clock.
    pub(crate) fn committed(&mut self, slot: &SlotId, epoch: Epoch, at_ms: u64) {
        for regrant in self
            .losses
            .iter_mut()
            .flat_map(|loss| &mut loss.slots)
            .filter(|lost| lost.slot == *slot)
            .filter_map(|lost| lost.regrant.as_mut())
            // The first new owner may itself be lost before it commits.
            .filter(|regrant| regrant.epoch <= epoch)
        {
            regrant.first_commit_at_ms.get_or_insert(at_ms);
        }
    }
}
