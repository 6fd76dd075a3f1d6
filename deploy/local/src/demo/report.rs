//! The demo's result, for programs. Pure.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serialize;

use crate::demo::master::Failover;

/// What `--report` writes.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Report {
    /// Nothing is missing, doubled, altered or otherwise wrong.
    pub(crate) clean: bool,
    /// Events that the generator sent.
    pub(crate) sent: u64,
    /// Of these: acknowledged as valid, acknowledged as invalid, without an answer.
    pub(crate) accepted: u64,
    pub(crate) rejected: u64,
    pub(crate) unknown: u64,
    /// In the whole raw topic and the whole lake, from earlier demos on the same data folder too.
    pub(crate) raw_records: u64,
    pub(crate) lake_rows: u64,
    /// Raw records or acknowledged events that are nowhere: the larger of both counts.
    pub(crate) missing: u64,
    /// Raw records or acknowledged events that are there more than once: the larger of both counts.
    pub(crate) duplicates: u64,
    /// Accepted events over the time that the generator sent.
    pub(crate) events_per_second: f64,
    /// From the demo's start to the first committed file.
    pub(crate) first_lake_file_ms: Option<u64>,
    pub(crate) worker_losses: Vec<WorkerLoss>,
    /// The most resident memory that each process had, and that all had together, in MiB.
    pub(crate) peak_resident_mib: BTreeMap<String, u64>,
    /// All that `millrace verify` found.
    pub(crate) verify: millrace_verify::Report,
}

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

/// Events a second; 0 for no time at all.
pub(crate) fn rate(events: u64, time: Duration) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let events = events as f64;
    if time.is_zero() { 0.0 } else { events / time.as_secs_f64() }
}

/// Resident memory in MiB of the process `pid`, from the kernel's `VmRSS`; `None` when it has ended.
pub(crate) fn resident_mib(pid: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    line.trim().strip_suffix(" kB")?.parse::<u64>().ok().map(|kib| kib.div_ceil(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

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
    fn this_process_has_resident_memory() {
        assert!(resident_mib(std::process::id()).is_some_and(|mib| mib > 0));
    }
}
