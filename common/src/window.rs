//! The duplicate rule: a record is dropped if and only if its key occurs among the offsets that its window reaches
//! back to, whether or not that earlier record was itself dropped. A pure function of the log, so every owner
//! decides alike. Keys are told apart by 128 bits of their SHA-256: nobody can make two that look the same.

use std::collections::VecDeque;

use hashbrown::HashTable;
use sha2::{Digest, Sha256};

use crate::record::WindowBounds;
use crate::types::NextOffset;

/// Bytes of memory for each offset of a window: hash, offset, and the table's share at its emptiest.
pub const BYTES_PER_OFFSET: u64 = 40;

/// The keys that occurred among the last offsets.
#[derive(Debug)]
pub struct Window {
    bounds: WindowBounds,
    hashes: VecDeque<u128>,
    offsets: VecDeque<i64>,
    /// Number of the oldest entry; entries are numbered as they come.
    first: u32,
    /// Number of the last entry of each hash.
    last_of: HashTable<u32>,
}

impl Window {
    pub fn new(bounds: WindowBounds) -> Self {
        Self {
            bounds,
            hashes: VecDeque::new(),
            offsets: VecDeque::new(),
            first: 0,
            last_of: HashTable::new(),
        }
    }

    /// Judges what comes by other bounds of the same size.
    pub fn set_bounds(&mut self, bounds: WindowBounds) {
        self.bounds = bounds;
    }

    /// Takes in the record at `offset`, which lies behind all that were taken in, and tells whether it is a client
    /// duplicate. A record without key is none.
    pub fn is_duplicate(&mut self, offset: i64, key: Option<&[u8]>) -> bool {
        self.bounds.size > 0 && self.is_duplicate_hash(offset, key.map(hash_of))
    }

    /// The same for a key of which only the hash ([`hash_of`]) is known.
    pub fn is_duplicate_hash(&mut self, offset: i64, hash: Option<u128>) -> bool {
        let Some(hash) = hash.filter(|_| self.bounds.size > 0) else { return false };
        self.forget_below(self.bounds.reaches_back_to(offset));
        if offset < self.bounds.floor.0 {
            return false;
        }
        let number = self.first.wrapping_add(u32::try_from(self.hashes.len()).unwrap_or(u32::MAX));
        let (hashes, first) = (&self.hashes, self.first);
        let hash_at = |number: &u32| hashes[number.wrapping_sub(first) as usize];
        let entry = self.last_of.entry(
            short(hash),
            |number| hash_at(number) == hash,
            |number| short(hash_at(number)),
        );
        let is_duplicate = match entry {
            hashbrown::hash_table::Entry::Occupied(mut last) => {
                *last.get_mut() = number;
                true
            }
            hashbrown::hash_table::Entry::Vacant(place) => {
                place.insert(number);
                false
            }
        };
        self.make_room();
        self.hashes.push_back(hash);
        self.offsets.push_back(offset);
        is_duplicate
    }

    /// Grows like a vector does, but never beyond the window's size.
    fn make_room(&mut self) {
        let held = self.hashes.len();
        if held == self.hashes.capacity() || held == self.offsets.capacity() {
            let most = usize::try_from(self.bounds.size).unwrap_or(usize::MAX);
            let more = held.max(64).min(most.saturating_sub(held)).max(1);
            self.hashes.reserve_exact(more);
            self.offsets.reserve_exact(more);
        }
    }

    fn forget_below(&mut self, start: NextOffset) {
        while self.offsets.front().is_some_and(|offset| *offset < start.0) {
            self.offsets.pop_front();
            if let Some(hash) = self.hashes.pop_front()
                && let Ok(last) = self.last_of.find_entry(short(hash), |number| *number == self.first)
            {
                // The key did not occur again since.
                last.remove();
            }
            self.first = self.first.wrapping_add(1);
        }
    }

    /// Bytes of memory that the keys take.
    pub fn memory(&self) -> u64 {
        let entries = self.hashes.capacity() * size_of::<u128>() + self.offsets.capacity() * size_of::<i64>();
        (entries + self.last_of.allocation_size()) as u64
    }
}

/// What a key is known by.
pub fn hash_of(key: &[u8]) -> u128 {
    let digest = Sha256::digest(key);
    let (half, _) = digest.split_at(size_of::<u128>());
    u128::from_le_bytes(half.try_into().expect("half of a SHA-256 has 16 bytes"))
}

/// The table's own hash: any half is as good.
fn short(hash: u128) -> u64 {
    hash as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rule, word for word.
    fn by_the_rule(bounds: WindowBounds, log: &[(i64, Option<u8>)], at: usize) -> bool {
        let (offset, key) = log[at];
        let size = i64::try_from(bounds.size).expect("small");
        key.is_some()
            && log[..at]
                .iter()
                .any(|(earlier, other)| *other == key && *earlier >= bounds.floor.0.max(offset - size))
    }

    proptest! {
        #[test]
        fn every_owner_decides_by_the_rule(
            steps in proptest::collection::vec((1..4i64, proptest::option::weighted(0.9, 0..12u8)), 1..200),
            size in 0..40u64, floor in 0..60i64, opened_at in 0..200usize,
        ) {
            let bounds = WindowBounds { size, floor: NextOffset(floor) };
            let log: Vec<_> = steps.iter().scan(0, |offset, (step, key)| { *offset += step; Some((*offset, *key)) }).collect();
            let mut first = Window::new(bounds);
            for (at, (offset, key)) in log.iter().enumerate() {
                let bytes = key.map(|key| [key]);
                let told = first.is_duplicate(*offset, bytes.as_ref().map(<[u8; 1]>::as_slice));
                prop_assert_eq!(told, by_the_rule(bounds, &log, at), "at {}", offset);
            }
            // A successor that opens in the middle takes in the window before it judges.
            let from = log[opened_at % log.len()].0;
            let mut second = Window::new(bounds);
            let start = bounds.reaches_back_to(from).min(NextOffset(from));
            for (at, (offset, key)) in log.iter().enumerate().filter(|(_, (offset, _))| *offset >= start.0) {
                let bytes = key.map(|key| [key]);
                let told = second.is_duplicate(*offset, bytes.as_ref().map(<[u8; 1]>::as_slice));
                if *offset >= from {
                    prop_assert_eq!(told, by_the_rule(bounds, &log, at), "at {} opened at {}", offset, from);
                }
            }
        }
    }

    #[test]
    fn a_full_window_takes_what_the_budget_counts() {
        let bounds = WindowBounds { size: 100_000, floor: NextOffset(0) };
        let mut window = Window::new(bounds);
        let mut most = 0;
        for offset in 0..350_000_i64 {
            assert!(!window.is_duplicate(offset, Some(&offset.to_le_bytes())));
            most = most.max(window.memory());
        }
        assert!(window.is_duplicate(350_000, Some(&250_001_i64.to_le_bytes())));
        assert!(!window.is_duplicate(350_001, Some(&250_000_i64.to_le_bytes())));
        assert!(most <= 100_000 * BYTES_PER_OFFSET + 4096, "{most} bytes");
    }
}
