//! The demo's result, for programs. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::demo::losses::WorkerLoss;

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
    /// On the enriched topic.
    pub(crate) topic_records: u64,
    /// On the invalid topic: what the collector refused, and what workers set aside.
    pub(crate) invalid_records: u64,
    /// Of these, what workers set aside.
    pub(crate) quarantined: u64,
    /// Raw records that were dropped because their client had sent them before.
    pub(crate) client_duplicates: u64,
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

    #[test]
    fn this_process_has_resident_memory() {
        assert!(resident_mib(std::process::id()).is_some_and(|mib| mib > 0));
    }
}
