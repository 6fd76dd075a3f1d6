//! Kafka as the fence: one record and one transactional producer per slot, and the source that it reads.

use std::collections::BTreeMap;

use millrace_types::{Epoch, SlotId};

use crate::rules::Rule;

/// One slot in Kafka.
#[derive(Debug, Default)]
struct Known {
    /// Of the producer that fenced all before it; 0 before the first one.
    generation: u64,
    /// The record, with both cursors.
    epoch: Epoch,
    /// The highest epoch that ever stood in the record.
    highest: Epoch,
    topic: i64,
    lake: i64,
    /// Records in the source up to `since`, and how many come each second from then on.
    end: i64,
    since: u64,
    rate: i64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) generation: u64,
    pub(crate) topic: i64,
    pub(crate) lake: i64,
}

/// A transaction of a slot: the cursors as its owner believes them, and what they become.
#[derive(Debug, Clone)]
pub(crate) struct Commit {
    pub(crate) slot: SlotId,
    pub(crate) generation: u64,
    pub(crate) epoch: Epoch,
    pub(crate) topic: (i64, i64),
    pub(crate) lake: (i64, i64),
}

#[derive(Debug, Default)]
pub(crate) struct Kafka {
    slots: BTreeMap<SlotId, Known>,
    pub(crate) down_until: u64,
    pub(crate) delays_until: u64,
    fed_until: Option<u64>,
    /// Flaws: stale producers commit too; claims below the record's epoch are taken.
    fences_nobody: bool,
    takes_old_claims: bool,
}

impl Kafka {
    pub(crate) fn new(fences_nobody: bool, takes_old_claims: bool) -> Self {
        Self { fences_nobody, takes_old_claims, ..Self::default() }
    }

    pub(crate) fn is_up(&self, now: u64) -> bool {
        now >= self.down_until
    }

    /// Fences the predecessor, reads the record, and claims it; or tells the higher epoch on record.
    pub(crate) fn open(&mut self, slot: &SlotId, epoch: Epoch) -> Result<Opened, Epoch> {
        let known = self.slots.entry(slot.clone()).or_default();
        known.generation += 1;
        if known.epoch > epoch && !self.takes_old_claims {
            return Err(known.epoch);
        }
        known.epoch = epoch;
        known.highest = known.highest.max(epoch);
        Ok(Opened { generation: known.generation, topic: known.topic, lake: known.lake })
    }

    /// `Ok(false)`: fenced. An error: what must never happen did.
    pub(crate) fn commit(&mut self, commit: &Commit) -> Result<bool, (Rule, String)> {
        let fences_nobody = self.fences_nobody;
        let Some(known) = self.slots.get_mut(&commit.slot) else { return Ok(false) };
        let slot = &commit.slot;
        if known.generation != commit.generation && !fences_nobody {
            return Ok(false);
        }
        if commit.epoch < known.highest {
            let what = format!("{slot}: epoch {} commits after epoch {} did", commit.epoch, known.highest);
            return Err((Rule::RecordEpoch, what));
        }
        if (known.topic, known.lake) != (commit.topic.0, commit.lake.0) {
            let what = format!(
                "{slot}: cursors {} and {} move from {} and {}: offsets are committed twice, or never",
                known.topic, known.lake, commit.topic.0, commit.lake.0
            );
            return Err((Rule::ExactlyOnce, what));
        }
        if commit.topic.1 < known.topic || commit.lake.1 < known.lake || commit.lake.1 > commit.topic.1 {
            let what = format!("{slot}: cursors step back or overtake each other: {commit:?}");
            return Err((Rule::ExactlyOnce, what));
        }
        (known.topic, known.lake) = (commit.topic.1, commit.lake.1);
        Ok(true)
    }

    pub(crate) fn recorded(&self, slot: &SlotId) -> Epoch {
        self.slots.get(slot).map(|known| known.epoch).unwrap_or_default()
    }

    /// From now on so many records a second come in.
    pub(crate) fn feed(&mut self, slot: &SlotId, now: u64, rate: i64) {
        let end = self.end(slot, now);
        let known = self.slots.entry(slot.clone()).or_default();
        (known.end, known.since, known.rate) = (end, now, rate);
    }

    pub(crate) fn stop_feeding(&mut self, now: u64) {
        self.fed_until.get_or_insert(now);
    }

    pub(crate) fn rate(&self, slot: &SlotId) -> i64 {
        self.slots.get(slot).map_or(0, |known| known.rate)
    }

    pub(crate) fn is_fed(&self, slot: &SlotId) -> bool {
        self.slots.get(slot).is_some_and(|known| known.rate > 0)
    }

    /// How many records the source holds.
    pub(crate) fn end(&self, slot: &SlotId, now: u64) -> i64 {
        let now = self.fed_until.map_or(now, |until| until.min(now));
        let fed = |known: &Known| known.end + known.rate * now.saturating_sub(known.since) as i64 / 1_000;
        self.slots.get(slot).map_or(0, fed)
    }

    /// Whether both sinks hold all that the source does.
    pub(crate) fn is_done(&self, slot: &SlotId, now: u64) -> bool {
        let end = self.end(slot, now);
        self.slots.get(slot).is_some_and(|known| known.topic == end && known.lake == end)
    }
}
