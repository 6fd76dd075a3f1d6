//! How long it takes until all is as before: what is looked for in the views after a fault, and the figures over many
//! faults. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use serde::Serialize;

use crate::cursors::Cursors;
use crate::timeline::millis;
use crate::watch::View;

/// Spans in milliseconds from the moment that the fault's kind counts from.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Spans {
    /// The leader's page shows the worker as lost or draining, or another master leads.
    pub detected_ms: Option<u64>,
    /// Every slot that was hit has another owner.
    pub reassigned_ms: Option<u64>,
    /// One of the slots that were hit has committed a transaction that moves its cursor; by a new owner, if there is one.
    pub first_commit_ms: Option<u64>,
    /// All of them have.
    pub all_committed_ms: Option<u64>,
    /// Nothing on the raw topic is older than a commit interval and a second and not on the enriched one; for faults of
    /// the store, older than a commit interval, the roll age and five seconds and not in the lake.
    pub caught_up_ms: Option<u64>,
    /// The longest time in which one slot of all committed nothing.
    pub longest_pause_ms: Option<u64>,
}

/// Which sink a fault keeps from working.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sink {
    Topic,
    Lake,
}

impl Sink {
    fn cursor(self, cursors: Cursors) -> i64 {
        match self {
            Self::Topic => cursors.topic,
            Self::Lake => cursors.lake,
        }
    }
}

/// The slots that a fault hits, by partition, as they were before it.
pub(crate) type Before = BTreeMap<i32, Cursors>;

/// Looks for the recovery of some slots.
#[derive(Debug)]
pub(crate) struct Recovery {
    from: Instant,
    slots: Before,
    sink: Sink,
    /// The worker whose slots they are, if they are to go to others.
    lost: Option<u32>,
    /// Cursors as new owners found them.
    claimed: BTreeMap<i32, i64>,
    committed: BTreeSet<i32>,
    spans: Spans,
}

impl Recovery {
    /// Of slots that keep their owners.
    pub(crate) fn in_place(from: Instant, slots: Before, sink: Sink) -> Self {
        Self {
            from,
            slots,
            sink,
            lost: None,
            claimed: BTreeMap::new(),
            committed: BTreeSet::new(),
            spans: Spans::default(),
        }
    }

    /// Of slots that the worker with this process id loses to others.
    pub(crate) fn of_lost_worker(from: Instant, slots: Before, worker: u32) -> Self {
        Self { lost: Some(worker), ..Self::in_place(from, slots, Sink::Topic) }
    }

    pub(crate) fn spans(&self) -> Spans {
        self.spans
    }

    /// Takes in a view; true when there is nothing more to look for.
    pub(crate) fn see(&mut self, view: &View, now: Instant) -> bool {
        let span = millis(now.saturating_duration_since(self.from));
        let set = |field: &mut Option<u64>, is_so: bool| {
            if is_so && field.is_none() {
                *field = Some(span);
            }
        };
        if let Some(worker) = self.lost {
            let is_lost = view
                .worker(worker)
                .is_none_or(|worker| matches!(worker.state.as_str(), "DEAD" | "DRAINING" | "DRAINED"));
            set(&mut self.spans.detected_ms, view.leader.is_some() && is_lost);
            let is_reassigned = self.slots.iter().all(|(partition, before)| {
                view.slot(*partition).is_some_and(|slot| slot.owner.is_some() && slot.epoch > before.epoch)
            });
            set(&mut self.spans.reassigned_ms, is_reassigned);
        }
        for (partition, before) in &self.slots {
            let Some(cursors) = view.cursors(*partition) else { continue };
            let cursor = self.sink.cursor(cursors);
            let floor = match self.lost {
                Some(_) if cursors.epoch <= before.epoch => continue,
                Some(_) => *self.claimed.entry(*partition).or_insert(cursor),
                None => self.sink.cursor(*before),
            };
            if cursor > floor {
                self.committed.insert(*partition);
            }
        }
        let all = self.committed.len() == self.slots.len();
        set(&mut self.spans.first_commit_ms, !self.committed.is_empty());
        set(&mut self.spans.all_committed_ms, all);
        set(&mut self.spans.caught_up_ms, all && view.is_level(self.sink));
        self.spans.caught_up_ms.is_some()
            && (self.lost.is_none()
                || (self.spans.detected_ms.is_some() && self.spans.reassigned_ms.is_some()))
    }
}

/// Figures over some spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Figures {
    pub p50_ms: u64,
    pub p99_ms: u64,
    pub max_ms: u64,
}

impl Figures {
    /// `None` of nothing.
    pub fn of(mut spans: Vec<u64>) -> Option<Self> {
        spans.sort_unstable();
        let max_ms = *spans.last()?;
        // The nearest rank: of a hundred spans the 99th.
        let rank = |percent: usize| spans[(spans.len() * percent).div_ceil(100).max(1) - 1];
        Some(Self { p50_ms: rank(50), p99_ms: rank(99), max_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn figures_are_of_the_nearest_rank() {
        assert_eq!(Figures::of(Vec::new()), None);
        assert_eq!(Figures::of(vec![5]), Some(Figures { p50_ms: 5, p99_ms: 5, max_ms: 5 }));
        assert_eq!(
            Figures::of((1..=200).rev().collect()),
            Some(Figures { p50_ms: 100, p99_ms: 198, max_ms: 200 })
        );
    }

    #[test]
    fn a_claim_is_no_commit() {
        let from = Instant::now();
        let at = |ms| from + Duration::from_millis(ms);
        let slots = BTreeMap::from([(0, Cursors { epoch: 1, topic: 10, lake: 10 })]);
        let mut recovery = Recovery::of_lost_worker(from, slots.clone(), 7);
        // The old owner's last commit was not seen before the fault; the claim keeps the cursor.
        assert!(!recovery.see(&View::of_one(None, 2, 1, 12), at(1)));
        assert!(!recovery.see(&View::of_one(Some("other"), 2, 2, 12), at(2)));
        assert_eq!((recovery.spans().reassigned_ms, recovery.spans().first_commit_ms), (Some(2), None));
        assert!(recovery.see(&View::of_one(Some("other"), 2, 2, 13), at(3)));
        assert_eq!((recovery.spans().first_commit_ms, recovery.spans().caught_up_ms), (Some(3), Some(3)));

        let mut recovery = Recovery::in_place(from, slots, Sink::Topic);
        assert!(!recovery.see(&View::of_one(Some("one"), 1, 1, 10), at(1)));
        assert!(recovery.see(&View::of_one(Some("one"), 1, 1, 11), at(2)));
        assert_eq!(recovery.spans().detected_ms, None);
    }
}
