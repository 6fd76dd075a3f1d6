//! The parts of the world that are not workers: chance, and Kafka's memory of each slot.

use std::collections::BTreeMap;

use millrace_types::{Epoch, SlotId};

/// Reproducible chance (SplitMix64, Steele et al. 2014).
#[derive(Debug)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) ^ 0x5851_F42D_4C95_7F2D)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number from `low` to `high`, both included.
    pub(super) fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low + 1)
    }

    pub(super) fn percent(&mut self, percent: u64) -> bool {
        self.next() % 100 < percent
    }

    pub(super) fn pick<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        if from.is_empty() { None } else { Some(from[(self.next() % from.len() as u64) as usize]) }
    }
}

/// One slot's transactional id and record, as Kafka keeps them.
#[derive(Debug, Default)]
struct SlotInKafka {
    /// Who fenced all others last: (incarnation of a worker, its opening's number).
    holder: Option<(u64, u64)>,
    recorded: Epoch,
    cursor: i64,
}

/// What outlives every process.
#[derive(Debug, Default)]
pub(super) struct Kafka {
    slots: BTreeMap<SlotId, SlotInKafka>,
    openings: u64,
}

impl Kafka {
    /// Fences the predecessor, then claims: the number of this opening, or the higher epoch on record.
    pub(super) fn open(&mut self, slot: &SlotId, incarnation: u64, epoch: Epoch) -> Result<u64, Epoch> {
        self.openings += 1;
        let known = self.slots.entry(slot.clone()).or_default();
        known.holder = Some((incarnation, self.openings));
        if known.recorded > epoch {
            return Err(known.recorded);
        }
        known.recorded = epoch;
        Ok(self.openings)
    }

    /// Whether a commit of this opening goes through; else it is fenced.
    pub(super) fn commit(&mut self, slot: &SlotId, incarnation: u64, opening: u64) -> bool {
        let Some(known) = self.slots.get_mut(slot) else { return false };
        let holds = known.holder == Some((incarnation, opening));
        if holds {
            known.cursor += 1;
        }
        holds
    }

    pub(super) fn cursor(&self, slot: &SlotId) -> i64 {
        self.slots.get(slot).map_or(0, |known| known.cursor)
    }

    pub(super) fn recorded(&self, slot: &SlotId) -> Epoch {
        self.slots.get(slot).map(|known| known.recorded).unwrap_or_default()
    }
}
