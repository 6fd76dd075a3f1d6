//! What happened lately, for people: moves of slots and losses of workers. No decision reads it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

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
    /// The worker that it went to took its share.
    WorkerJoined {
        worker: WorkerId,
        beside: Beside,
    },
    /// There is clearly less load beside it where it went.
    Uneven {
        beside: Beside,
    },
    /// The worker was to give its slots up.
    WorkerDrained {
        worker: WorkerId,
    },
    /// It stopped there again and again.
    KeepsFailing {
        worker: WorkerId,
    },
    /// Its worker offers fewer places than it has slots.
    FewerPlaces,
    /// Its place went to this pipeline, which had fewer than its share of too few places.
    FairShare {
        pipeline: PipelineId,
        its_places: usize,
        our_places: usize,
    },
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

/// Load per core beside a slot, not counting its own, in percent of a core of usual speed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Beside {
    /// On its owner.
    pub here_percent: u32,
    /// On the worker that gets it.
    pub there_percent: u32,
}

impl fmt::Display for Beside {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "beside it each core had {} % to do, and has {} % there",
            self.here_percent, self.there_percent
        )
    }
}

/// As people read it, without the move's own slot, owner and receiver.
impl fmt::Display for MoveReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PipelineSubmitted => f.write_str("the pipeline was submitted"),
            Self::PartitionsAdded => f.write_str("partitions were added to the topic"),
            Self::WorkerLost { worker, cause } => write!(f, "worker {worker} was lost: {cause}"),
            Self::WorkerJoined { worker, beside } => write!(f, "worker {worker} joined: {beside}"),
            Self::Uneven { beside } => write!(f, "the load was uneven: {beside}"),
            Self::WorkerDrained { worker } => write!(f, "worker {worker} is drained"),
            Self::KeepsFailing { worker } => write!(f, "it stopped on {worker} again and again"),
            Self::FewerPlaces => f.write_str("its worker offers fewer places than it had slots"),
            Self::FairShare { pipeline, its_places, our_places } => write!(
                f,
                "places are scarce: pipeline {pipeline} had {its_places} of them, this one {our_places}"
            ),
            Self::SlotStopped { worker, why } => write!(f, "it stopped on {worker}: {why}"),
            Self::MasterRestarted => f.write_str("it had no owner when the master started"),
            Self::Operator { what } => write!(f, "a person asked for it: {what}"),
        }
    }
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

impl fmt::Display for LossCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::SessionDropped => "its session dropped and did not come back",
            Self::ProcessGone => "its session dropped and its port refuses connections: the process is gone",
            Self::Silent => "no heartbeat for a whole lease",
            Self::Replaced => "another process registered under its id",
            Self::Left => "it was told to stop, and left",
        })
    }
}

/// Entries that are numbered in their order; the oldest are forgotten.
#[derive(Debug)]
struct Log<T> {
    entries: VecDeque<T>,
    /// Number of the oldest.
    first: u64,
    kept: usize,
}

impl<T> Log<T> {
    fn new(kept: usize) -> Self {
        Self { entries: VecDeque::new(), first: 0, kept }
    }

    fn push(&mut self, entry: T) -> u64 {
        self.entries.push_back(entry);
        let number = self.first + self.entries.len() as u64 - 1;
        while self.entries.len() > self.kept {
            self.entries.pop_front();
            self.first += 1;
        }
        number
    }

    fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        self.entries.get_mut(usize::try_from(number.checked_sub(self.first)?).ok()?)
    }
}

/// A lost slot in the log of losses.
#[derive(Debug, Clone, Copy)]
struct Place {
    loss: u64,
    index: usize,
}

/// The latest moves and losses, bounded. What is still open is found by its slot.
#[derive(Debug)]
pub(crate) struct History {
    moves: Log<Move>,
    losses: Log<Loss>,
    /// The last move of a slot that was not seen running since.
    opening: BTreeMap<SlotId, u64>,
    /// Slots without an owner since their owner's loss.
    lost: BTreeMap<SlotId, Place>,
    /// Lost slots whose new owner has not committed yet.
    silent: BTreeMap<SlotId, Place>,
    /// How many slots of a loss are without owner.
    open: BTreeMap<u64, usize>,
}

impl History {
    pub(crate) fn new(moves_kept: usize, losses_kept: usize) -> Self {
        Self {
            moves: Log::new(moves_kept),
            losses: Log::new(losses_kept),
            opening: BTreeMap::new(),
            lost: BTreeMap::new(),
            silent: BTreeMap::new(),
            open: BTreeMap::new(),
        }
    }

    pub(crate) fn moves(&self) -> Vec<Move> {
        self.moves.entries.iter().cloned().collect()
    }

    pub(crate) fn losses(&self) -> Vec<Loss> {
        self.losses.entries.iter().cloned().collect()
    }

    pub(crate) fn lost(&mut self, loss: Loss) {
        let slots: Vec<SlotId> = loss.slots.iter().map(|lost| lost.slot.clone()).collect();
        let number = self.losses.push(loss);
        if !slots.is_empty() {
            self.open.insert(number, slots.len());
        }
        for (index, slot) in slots.into_iter().enumerate() {
            self.silent.remove(&slot);
            self.lost.insert(slot, Place { loss: number, index });
        }
    }

    pub(crate) fn moved(&mut self, moved: Move) {
        self.owned_again(&moved.slot, &moved.to, moved.epoch, moved.granted_at);
        let slot = moved.slot.clone();
        let number = self.moves.push(moved);
        self.opening.insert(slot, number);
    }

    /// The slot has an owner again, by a grant or because its lost owner came back with it.
    pub(crate) fn owned_again(&mut self, slot: &SlotId, worker: &WorkerId, epoch: Epoch, now: Millis) {
        let Some(place) = self.lost.remove(slot) else { return };
        let regrant = Regrant { worker: worker.clone(), epoch, granted_at: now, first_commit_at_ms: None };
        if let Some(lost) = self.losses.get_mut(place.loss).and_then(|loss| loss.slots.get_mut(place.index)) {
            lost.regrant = Some(regrant);
            self.silent.insert(slot.clone(), place);
        }
        self.close(place.loss, now);
    }

    fn close(&mut self, number: u64, now: Millis) {
        let Some(open) = self.open.get_mut(&number) else { return };
        *open = open.saturating_sub(1);
        if *open == 0 {
            self.open.remove(&number);
            if let Some(loss) = self.losses.get_mut(number) {
                loss.reassigned_at.get_or_insert(now);
            }
        }
    }

    /// The pipeline is over: nobody waits for its slots.
    pub(crate) fn completed(&mut self, pipeline: &PipelineId, now: Millis) {
        let of_it = |slot: &SlotId| slot.pipeline == *pipeline;
        let given: Vec<Place> =
            self.lost.iter().filter(|(slot, _)| of_it(slot)).map(|(_, place)| *place).collect();
        self.lost.retain(|slot, _| !of_it(slot));
        self.silent.retain(|slot, _| !of_it(slot));
        self.opening.retain(|slot, _| !of_it(slot));
        for place in &given {
            self.close(place.loss, now);
        }
        let losses: BTreeSet<u64> = given.into_iter().map(|place| place.loss).collect();
        for number in losses {
            let Some(loss) = self.losses.get_mut(number) else { continue };
            loss.slots.retain(|lost| !of_it(&lost.slot) || lost.regrant.is_some());
            for (index, lost) in loss.slots.iter().enumerate() {
                for places in [&mut self.lost, &mut self.silent] {
                    if let Some(place) = places.get_mut(&lost.slot).filter(|place| place.loss == number) {
                        place.index = index;
                    }
                }
            }
        }
    }

    /// A report of the slot's current grant.
    pub(crate) fn reported(&mut self, report: &SlotReport, now: Millis) {
        if report.phase == SlotPhase::Running
            && let Some(number) = self.opening.get(&report.slot)
        {
            match self.moves.get_mut(*number) {
                Some(moved) if moved.epoch == report.epoch => moved.running_at = Some(now),
                // A later epoch, that the worker knew before this master: nobody waits for the earlier one.
                Some(_) | None => {}
            }
            self.opening.remove(&report.slot);
        }
        let (Some(committed), Some(place)) =
            (report.metrics.last_commit_at_ms, self.silent.get(&report.slot).copied())
        else {
            return;
        };
        let lost = self.losses.get_mut(place.loss).and_then(|loss| loss.slots.get_mut(place.index));
        match lost.and_then(|lost| lost.regrant.as_mut()) {
            Some(regrant) if regrant.epoch == report.epoch => {
                regrant.first_commit_at_ms.get_or_insert(committed);
                self.silent.remove(&report.slot);
            }
            Some(_) => {}
            None => {
                self.silent.remove(&report.slot);
            }
        }
    }
}
