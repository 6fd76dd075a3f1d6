//! The worker's memory budget: who holds how much, and who must flush when it is reached.
//!
//! `--memory` is divided once: what librdkafka may queue for every slot that the worker accepts, and the rest for
//! the slots' open files. It counts; it does not allocate.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_common::types::SlotId;
use tokio::sync::Notify;

/// Least that librdkafka gets for a partition; below it fetching becomes request by request.
const LEAST_FETCH_PER_SLOT: u64 = 4 << 20;
const MOST_FETCH_PER_SLOT: u64 = 64 << 20;
/// What an open slot needs beside its fetch queue: its builders, a producer, a flush under way.
const LEAST_BUFFER_PER_SLOT: u64 = 12 << 20;
/// More slots than this on one worker are of no use to anybody.
const MOST_SLOTS: u64 = 4096;

/// How `--memory` is divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Division {
    pub(crate) max_slots: u32,
    pub(crate) fetch_bytes_per_slot: u64,
    /// For all slots' buffers together.
    pub(crate) buffer_bytes: u64,
}

/// Divides `memory` bytes: at most a quarter for fetching ahead, the rest for buffers.
pub(crate) fn divide(memory: u64, cores: u32) -> Division {
    let max_slots = (memory / (LEAST_FETCH_PER_SLOT + LEAST_BUFFER_PER_SLOT)).clamp(1, MOST_SLOTS);
    // Few slots run at once on a small worker, but all that it accepts must fit.
    let per_slot =
        (memory / 4 / max_slots.max(u64::from(cores))).clamp(LEAST_FETCH_PER_SLOT, MOST_FETCH_PER_SLOT);
    let fetch = per_slot * max_slots;
    Division {
        max_slots: u32::try_from(max_slots).unwrap_or(u32::MAX),
        fetch_bytes_per_slot: per_slot,
        buffer_bytes: memory.saturating_sub(fetch).max(LEAST_BUFFER_PER_SLOT),
    }
}

#[derive(Debug, Default)]
struct Held {
    by_slot: BTreeMap<SlotId, Share>,
    total: u64,
}

#[derive(Debug)]
struct Share {
    /// In open files: a flush frees it.
    open: u64,
    /// In a flush under way: freed when it ends.
    flushing: u64,
    must_flush: Arc<Notify>,
}

/// The buffers' budget, shared by all slots of a worker.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: u64,
    held: Mutex<Held>,
    freed: Notify,
}

impl Budget {
    pub(crate) fn new(limit: u64) -> Arc<Self> {
        Arc::new(Self { limit, held: Mutex::default(), freed: Notify::new() })
    }

    /// Bytes held by all slots.
    pub(crate) fn used(&self) -> u64 {
        self.lock().total
    }

    /// A slot's account; dropping it gives everything back.
    pub(crate) fn open_account(self: &Arc<Self>, slot: &SlotId) -> Account {
        let must_flush = Arc::new(Notify::new());
        let share = Share { open: 0, flushing: 0, must_flush: Arc::clone(&must_flush) };
        self.lock().by_slot.insert(slot.clone(), share);
        Account { budget: Arc::clone(self), slot: slot.clone(), must_flush }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What one slot holds.
#[derive(Debug)]
pub(crate) struct Account {
    budget: Arc<Budget>,
    slot: SlotId,
    must_flush: Arc<Notify>,
}

impl Account {
    /// Says how much the slot holds now. When the budget is reached, the slot that holds most in open files is
    /// told to flush.
    pub(crate) fn set(&self, open: u64, flushing: u64) {
        let mut held = self.budget.lock();
        let Some(share) = held.by_slot.get_mut(&self.slot) else { return };
        let before = share.open + share.flushing;
        (share.open, share.flushing) = (open, flushing);
        held.total = held.total - before + open + flushing;
        if held.total >= self.budget.limit {
            let most = held.by_slot.values().max_by_key(|share| share.open);
            if let Some(most) = most.filter(|share| share.open > 0) {
                most.must_flush.notify_one();
            }
        }
        let freed = open + flushing < before;
        drop(held);
        if freed {
            self.budget.freed.notify_waiters();
        }
    }

    /// Resolves when this slot holds most of a budget that is reached.
    pub(crate) async fn must_flush(&self) {
        self.must_flush.notified().await;
    }

    /// Whether the slot may take in more.
    pub(crate) fn has_room(&self) -> bool {
        self.budget.lock().total < self.budget.limit
    }

    /// Resolves when somebody gave something back after this call; look for room between the call and the wait.
    pub(crate) fn freed(&self) -> tokio::sync::futures::Notified<'_> {
        self.budget.freed.notified()
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let mut held = self.budget.lock();
        if let Some(share) = held.by_slot.remove(&self.slot) {
            held.total -= share.open + share.flushing;
        }
        drop(held);
        self.budget.freed.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use proptest::prelude::*;

    fn slot(partition: i32) -> SlotId {
        format!("p-1/0-{partition}").parse().expect("slot")
    }

    #[test]
    fn the_slot_that_holds_most_is_told_to_flush() {
        let budget = Budget::new(100);
        let small = budget.open_account(&slot(0));
        let large = budget.open_account(&slot(1));
        large.set(60, 0);
        small.set(30, 0);
        assert!(large.has_room() && large.must_flush().now_or_never().is_none());
        small.set(40, 0);
        assert!(!small.has_room());
        assert!(large.must_flush().now_or_never().is_some());
        assert!(small.must_flush().now_or_never().is_none());
        large.set(0, 60);
        assert!(!small.has_room(), "bytes of a flush under way still count");
        drop(large);
        assert!(small.has_room());
        assert_eq!(budget.used(), 40);
    }

    proptest! {
        #[test]
        fn the_division_never_exceeds_the_memory(mebibytes in 32u64..1_000_000, cores in 1u32..256) {
            let memory = mebibytes << 20;
            let division = divide(memory, cores);
            prop_assert!(division.max_slots >= 1);
            prop_assert!(division.fetch_bytes_per_slot * u64::from(division.max_slots) + division.buffer_bytes <= memory);
        }
    }
}
