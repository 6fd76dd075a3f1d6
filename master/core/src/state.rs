//! The scheduler's state: workers, slots, and who holds what. Transitions are elsewhere.

use std::sync::Arc;

use millrace_types::{Epoch, Halt, Millis, NextOffset, PipelineDefinition, SlotReport, WorkerId, WorkerSpec};

use crate::history::MoveReason;
use crate::record::{SlotRecord, SlotRemains, Stage};

/// The highest epoch that a worker's word is believed for, so that epochs can always rise.
pub(crate) const LARGEST_EPOCH: Epoch = Epoch(u64::MAX >> 1);

#[derive(Debug)]
pub(crate) struct Pipeline {
    pub(crate) definition: Arc<PipelineDefinition>,
    /// Known partitions of each source topic.
    pub(crate) partitions: Vec<u32>,
    pub(crate) stage: Stage,
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
    /// It joined since the shares were evened out last.
    pub(crate) joined: bool,
    /// A person asked it to give up its slots.
    pub(crate) drained: bool,
    /// Its process wants to end, once its slots are given up.
    pub(crate) leaving: bool,
}

impl Worker {
    /// It keeps what it runs until others take it, and gets nothing.
    pub(crate) fn is_draining(&self) -> bool {
        self.drained || self.leaving
    }

    /// Its session, if it can be told something that it will act on.
    pub(crate) fn reachable(&self) -> Option<u64> {
        self.session.filter(|_| self.life == Life::Alive)
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
    pub(crate) hold: Hold,
    /// Stops in a row that no one asked for.
    pub(crate) failures: u32,
    pub(crate) last_failure: Millis,
    /// Not granted before.
    pub(crate) retry_at: Option<Millis>,
    /// Where it keeps failing, and until when it stays away.
    pub(crate) avoid: Option<(WorkerId, Millis)>,
    /// The last report of an owner, maybe of an earlier one.
    pub(crate) report: Option<SlotReport>,
    /// Owners in a row that were lost since the cursors were last seen to move.
    pub(crate) deaths: u32,
    /// Topic and lake cursor, as reported last.
    pub(crate) cursors: (Option<NextOffset>, Option<NextOffset>),
}

impl Slot {
    pub(crate) fn free(record: SlotRecord, since: Millis, reason: MoveReason, urgent: bool) -> Self {
        Self {
            epoch: record.epoch,
            granted_to: record.owner.or_else(|| record.last_owner.clone()),
            opened: record.opened,
            halt: record.halt,
            hold: Hold::Free { from: record.last_owner, home: None, since, reason, urgent },
            failures: 0,
            last_failure: Millis(0),
            retry_at: None,
            avoid: None,
            report: None,
            deaths: 0,
            cursors: (None, None),
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
        }
    }
}
