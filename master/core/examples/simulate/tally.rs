//! Counts of what happened, so that a run in which nothing went wrong can't pass for a good one.

use std::collections::BTreeMap;
use std::fmt;

/// What can happen. A full run has each of them.
#[cfg(test)]
pub(crate) const KINDS: [&str; 46] = [
    "another leader after a loss",
    "campaigns lost",
    "claims of others' slots",
    "clock steps back",
    "clock steps forward",
    "commits delayed past their owner",
    "commits fenced",
    "commits made",
    "crashes between write and directives",
    "cuts one way",
    "directives repeated",
    "drains begun",
    "drains taken back",
    "epochs behind the record",
    "grants",
    "halts",
    "heartbeats",
    "ids refused to second processes",
    "offers of nothing refused",
    "joins",
    "loads changed",
    "master crashes",
    "master stalls",
    "messages late",
    "messages lost",
    "messages twice",
    "moves for the load",
    "moves for the places",
    "object store outages",
    "kafka outages",
    "partitions added",
    "pipelines changed",
    "pipelines killed",
    "pipelines paused",
    "pipelines resumed",
    "processes told to end",
    "questions for all reports",
    "rebalances asked for",
    "second processes",
    "slots failed",
    "stale sessions refused",
    "store lost",
    "store outages",
    "takeovers by workers",
    "workers frozen",
    "workers killed",
];

#[derive(Debug, Clone, Default)]
pub(crate) struct Tally {
    counts: BTreeMap<&'static str, u64>,
    /// Tasks that the worlds carried out.
    pub(crate) events: u64,
    /// Milliseconds that passed in them.
    pub(crate) simulated: u64,
}

impl Tally {
    pub(crate) fn count(&mut self, kind: &'static str) {
        *self.counts.entry(kind).or_default() += 1;
    }

    #[cfg(test)]
    pub(crate) fn of(&self, kind: &str) -> u64 {
        self.counts.get(kind).copied().unwrap_or(0)
    }

    pub(crate) fn add(&mut self, other: &Self) {
        for (kind, count) in &other.counts {
            *self.counts.entry(kind).or_default() += count;
        }
        self.events += other.events;
        self.simulated += other.simulated;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:>14}  events in {} simulated seconds", self.events, self.simulated / 1_000)?;
        for (kind, count) in &self.counts {
            writeln!(f, "{count:>14}  {kind}")?;
        }
        Ok(())
    }
}
