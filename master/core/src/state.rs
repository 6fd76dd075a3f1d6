//! The scheduler's state: workers, slots, and who holds what. Transitions are elsewhere.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_types::{
    Digest, Epoch, Halt, Millis, NextOffset, PipelineDefinition, SkipLost, SlotId, SlotReport, WorkerId,
    WorkerSpec,
};

use crate::history::MoveReason;
use crate::load::{LEAST_LOAD, Load, NORMAL_SPEED};
use crate::record::{SlotRecord, SlotRemains, Stage};

/// The highest epoch that a worker's word is believed for, so that epochs can always rise.
pub(crate) const LARGEST_EPOCH: Epoch = Epoch(u64::MAX >> 1);

#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) definition: Arc<PipelineDefinition>,
    /// Known partitions of each source topic.
    pub(crate) partitions: Vec<u32>,
    pub(crate) stage: Stage,
    /// How many of its slots have an owner.
    pub(crate) owned: usize,
}

impl Pipeline {
    pub(crate) fn new(definition: Arc<PipelineDefinition>, partitions: Vec<u32>, stage: Stage) -> Self {
        Self { definition, partitions, stage, owned: 0 }
    }
}

/// A pipeline that was killed and whose slots nobody holds any more.
#[derive(Debug)]
pub(crate) struct Completed {
    pub(crate) definition: Arc<PipelineDefinition>,
    /// Milliseconds since 1970 UTC.
    pub(crate) killed_at_ms: u64,
    pub(crate) slots: Vec<Vec<SlotRemains>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Life {
    Alive,
    /// Its session dropped.
    Suspect {
        until: Millis,
    },
    /// Not heard since this master began.
    Unknown {
        until: Millis,
    },
    Dead,
}

/// Who wants a worker to give its slots up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Drain {
    /// A person does.
    pub(crate) asked: bool,
    /// The process itself does: it was told to end.
    pub(crate) leaving: bool,
}

/// A slot that a worker should have.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Intended {
    /// [`Slot::weight`].
    pub(crate) load: u64,
    /// It is granted to it, so that it can't be given to another one without a pause.
    pub(crate) held: bool,
}

#[derive(Debug)]
pub(crate) struct Worker {
    pub(crate) spec: WorkerSpec,
    pub(crate) life: Life,
    /// When it got into `life`.
    pub(crate) since: Millis,
    /// The stream that reaches it. A dead worker may still have one: it was silent, and may thaw.
    pub(crate) session: Option<u64>,
    pub(crate) last_heard: Option<Millis>,
    pub(crate) memory_used_bytes: u64,
    pub(crate) drain: Drain,
    /// What its cores achieve, in percent of what is usual.
    pub(crate) speed: u32,
    /// Slots granted to it, those being revoked too. Kept by `index`, as what follows.
    pub(crate) holds: BTreeSet<SlotId>,
    /// How many of them are being revoked.
    pub(crate) revoking: usize,
    /// Of them, with their epochs.
    pub(crate) digest: Digest,
    /// What it should have: what it holds and keeps, and what is to come to it.
    pub(crate) intended: BTreeMap<SlotId, Intended>,
    /// Its digest is not the one above: when all reports are asked for (again).
    pub(crate) ask_all: Option<Resend>,
    /// When its deadline is looked at next.
    pub(crate) wake_at: Option<Millis>,
}

impl Worker {
    pub(crate) fn new(spec: WorkerSpec, life: Life, since: Millis) -> Self {
        Self {
            spec,
            life,
            since,
            session: None,
            last_heard: None,
            memory_used_bytes: 0,
            drain: Drain::default(),
            speed: NORMAL_SPEED,
            holds: BTreeSet::new(),
            revoking: 0,
            digest: Digest::default(),
            intended: BTreeMap::new(),
            ask_all: None,
            wake_at: None,
        }
    }

    /// Its session, if it can be told something that it will act on.
    pub(crate) fn reachable(&self) -> Option<u64> {
        self.session.filter(|_| self.life == Life::Alive)
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.drain.asked || self.drain.leaving
    }

    /// Whether one more slot fits into its memory.
    pub(crate) fn has_room(&self) -> bool {
        self.holds.len() < self.spec.max_slots as usize
    }
}

/// When a directive that shows no effect is sent again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Resend {
    pub(crate) at: Millis,
    pub(crate) interval: Millis,
}

impl Resend {
    /// The first time after two heartbeats: one may have left before the directive came.
    pub(crate) fn after(now: Millis, heartbeat: Millis) -> Self {
        let interval = Millis(heartbeat.0.saturating_mul(2));
        Self { at: now.plus(interval), interval }
    }

    /// Each further time waits twice as long, up to 16 heartbeats: a worker that is slow must not be flooded.
    pub(crate) fn again(self, now: Millis, heartbeat: Millis) -> Self {
        let longest = heartbeat.0.saturating_mul(16);
        let interval = Millis(self.interval.0.saturating_mul(2).min(longest));
        Self { at: now.plus(interval), interval }
    }
}

#[derive(Debug)]
pub(crate) enum Hold {
    Free {
        /// The last owner.
        from: Option<WorkerId>,
        /// Who should have it next, if that one is alive.
        home: Option<WorkerId>,
        since: Millis,
        reason: MoveReason,
        /// It ran: it does not wait for joins to settle.
        urgent: bool,
    },
    Granted {
        owner: WorkerId,
        resend: Resend,
    },
    /// The owner commits and gives up.
    Revoking {
        owner: WorkerId,
        /// Who gets it then; `None` when nobody should have it.
        to: Option<WorkerId>,
        since: Millis,
        reason: MoveReason,
        resend: Resend,
    },
}

#[derive(Debug)]
pub(crate) struct Slot {
    /// The highest epoch granted or seen.
    pub(crate) epoch: Epoch,
    /// To whom `epoch` was granted, also when that ended; `None` when it was only seen on record.
    pub(crate) granted_to: Option<WorkerId>,
    pub(crate) opened: bool,
    pub(crate) halt: Option<Halt>,
    /// A person's word, good until the slot runs.
    pub(crate) skip_lost: Option<SkipLost>,
    pub(crate) hold: Hold,
    /// Stops in a row that no one asked for.
    pub(crate) failures: u32,
    pub(crate) last_failure: Millis,
    /// Not granted before.
    pub(crate) retry_at: Option<Millis>,
    /// The last report of an owner, maybe of an earlier one.
    pub(crate) report: Option<SlotReport>,
    /// Owners in a row that were lost since the cursors were last seen to move.
    pub(crate) deaths: u32,
    /// Topic and lake cursor, as reported last.
    pub(crate) cursors: (Option<NextOffset>, Option<NextOffset>),
    pub(crate) load: Load,
    /// What it counts for when slots are shared out, in millionths of a core.
    pub(crate) weight: u64,
}

impl Slot {
    pub(crate) fn free(record: SlotRecord, since: Millis, reason: MoveReason, urgent: bool) -> Self {
        Self {
            epoch: record.epoch,
            granted_to: record.owner.or_else(|| record.last_owner.clone()),
            opened: record.opened,
            halt: record.halt,
            skip_lost: record.skip_lost,
            hold: Hold::Free { from: record.last_owner, home: None, since, reason, urgent },
            failures: 0,
            last_failure: Millis(0),
            retry_at: None,
            report: None,
            deaths: 0,
            cursors: (None, None),
            load: Load::default(),
            weight: LEAST_LOAD,
        }
    }

    /// To whom its epoch is granted, also while it is being revoked.
    pub(crate) fn owner(&self) -> Option<&WorkerId> {
        match &self.hold {
            Hold::Free { .. } => None,
            Hold::Granted { owner, .. } | Hold::Revoking { owner, .. } => Some(owner),
        }
    }

    /// Takes the cursors of a report in. A slot that moves kills nobody.
    pub(crate) fn note_cursors(&mut self, topic: Option<NextOffset>, lake: Option<NextOffset>) {
        if topic.is_none() && lake.is_none() {
            return;
        }
        if self.cursors != (None, None) && self.cursors != (topic, lake) {
            self.deaths = 0;
        }
        self.cursors = (topic, lake);
    }

    pub(crate) fn record(&self) -> SlotRecord {
        SlotRecord {
            epoch: self.epoch,
            opened: self.opened,
            owner: self.owner().cloned(),
            last_owner: self.granted_to.clone().filter(|_| self.owner().is_none()),
            halt: self.halt.clone(),
            skip_lost: self.skip_lost,
        }
    }
}
