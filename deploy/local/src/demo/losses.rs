//! The workers that were lost while the demo ran. Pure: it is told what the master says and who died when.

use std::time::{SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::demo::master::Failover;

/// No worker can be lost, come back and be lost again within this: the lease is longer.
const SAME_LOSS_MS: u64 = 1_000;

/// A worker that was lost on the way. Spans are milliseconds from the fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct WorkerLoss {
    pub(crate) worker: String,
    pub(crate) pid: u32,
    pub(crate) detected_ms: u64,
    pub(crate) reassigned_ms: Option<u64>,
    /// To the new owner's first transaction that moves a cursor; the claim does not count.
    pub(crate) first_commit_ms: Option<u64>,
}

impl WorkerLoss {
    /// `died_at` is known for the demo's own workers; of others only when they were last heard.
    pub(crate) fn new(failover: &Failover, died_at: Option<SystemTime>) -> Self {
        let fault = died_at
            .and_then(|at| at.duration_since(UNIX_EPOCH).ok())
            .map_or(failover.lost_at_ms, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        // The master may see the broken session a moment before the demo sees the exit.
        let since = |at: u64| at.saturating_sub(fault);
        Self {
            worker: failover.worker.clone(),
            pid: failover.pid,
            detected_ms: since(failover.detected_at_ms),
            reassigned_ms: failover.reassigned_at_ms.map(since),
            first_commit_ms: failover.first_commit_at_ms.map(since),
        }
    }
}

impl std::fmt::Display for WorkerLoss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let span = |ms: Option<u64>| ms.map_or("not yet".to_owned(), |ms| format!("after {ms} ms"));
        write!(
            f,
            "{} (pid {}): loss detected {}, partitions reassigned {}, first commit of a new owner {}",
            self.worker,
            self.pid,
            span(Some(self.detected_ms)),
            span(self.reassigned_ms),
            span(self.first_commit_ms)
        )
    }
}

/// All losses so far. Kept here because a restarted master has forgotten them.
#[derive(Debug, Default)]
pub(crate) struct Losses(Vec<(Failover, WorkerLoss)>);

impl Losses {
    /// Takes in what the master says of a loss; gives it back once, when a new owner has committed.
    pub(crate) fn note(&mut self, failover: &Failover, died_at: Option<SystemTime>) -> Option<&WorkerLoss> {
        let loss = WorkerLoss::new(failover, died_at);
        // The master works out points in time anew for each answer, so that they may differ by a little.
        let known = self.0.iter().position(|(known, _)| {
            known.worker == failover.worker
                && known.detected_at_ms.abs_diff(failover.detected_at_ms) < SAME_LOSS_MS
        });
        let was_told = known.is_some_and(|index| self.0[index].1.first_commit_ms.is_some());
        let index = known.unwrap_or(self.0.len());
        if was_told {
            return None;
        }
        match known {
            Some(index) => self.0[index] = (failover.clone(), loss),
            None => self.0.push((failover.clone(), loss)),
        }
        self.0.get(index).map(|(_, loss)| loss).filter(|loss| loss.first_commit_ms.is_some())
    }

    /// In the order in which they were noted.
    pub(crate) fn all(&self) -> Vec<WorkerLoss> {
        self.0.iter().map(|(_, loss)| loss.clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn failover() -> Failover {
        Failover {
            worker: "worker-1".to_owned(),
            pid: 7,
            lost_at_ms: 1_000,
            detected_at_ms: 1_250,
            reassigned_at_ms: Some(1_300),
            first_commit_at_ms: None,
        }
    }

    #[test]
    fn spans_count_from_the_death_that_the_demo_saw() {
        let died_at = UNIX_EPOCH + Duration::from_millis(1_260);
        let loss = WorkerLoss::new(&failover(), Some(died_at));
        assert_eq!((loss.detected_ms, loss.reassigned_ms, loss.first_commit_ms), (0, Some(40), None));
        let loss = WorkerLoss::new(&failover(), None);
        assert_eq!((loss.detected_ms, loss.reassigned_ms), (250, Some(300)));
    }

    #[test]
    fn a_loss_is_told_once_and_kept_when_the_master_forgets_it() {
        let mut losses = Losses::default();
        assert_eq!(losses.note(&failover(), None), None);
        let committed = Failover { detected_at_ms: 1_251, first_commit_at_ms: Some(2_000), ..failover() };
        assert_eq!(losses.note(&committed, None).and_then(|loss| loss.first_commit_ms), Some(1_000));
        assert_eq!(losses.note(&committed, None), None);
        let again = Failover { detected_at_ms: 9_000, ..failover() };
        assert_eq!(losses.note(&again, None), None);
        assert_eq!(losses.all().len(), 2);
    }
}
