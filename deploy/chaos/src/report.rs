//! What a run leaves: JSON for programs, a Markdown table for people. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde::Serialize;
use serde_json::Value;

use crate::fault::Fault;
use crate::recovery::{Figures, Spans};
use crate::schedule::Planned;

/// One fault that was done.
#[derive(Debug, Clone, Serialize)]
pub struct Incident {
    #[serde(flatten)]
    pub planned: Planned,
    pub victim: String,
    /// It happened, and hit something.
    pub bitten: bool,
    /// By what that is known; or what was missing.
    pub proof: String,
    #[serde(flatten)]
    pub spans: Spans,
}

/// The figures of one kind of fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub fault: Fault,
    pub count: usize,
    pub bitten: usize,
    /// By the names of [`Spans`]' fields.
    pub spans: BTreeMap<&'static str, Figures>,
}

/// A whole run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Every fault bit, nothing went wrong on the way, and every acknowledged event is where it should be.
    pub exact: bool,
    pub seed: u64,
    pub cycles: u32,
    pub faults: String,
    pub workers: u16,
    pub rate: u32,
    pub elapsed_ms: u64,
    /// What makes it not exact.
    pub wrong: Vec<String>,
    pub acknowledged: u64,
    pub missing: u64,
    pub duplicates: u64,
    pub summary: Vec<Summary>,
    pub incidents: Vec<Incident>,
    /// The checker's own report.
    pub verify: Option<Value>,
    /// That of the reader that shares nothing with Millrace.
    pub lake: Option<Value>,
}

/// The figures of all incidents, by fault.
pub(crate) fn summarize(incidents: &[Incident]) -> Vec<Summary> {
    let mut by_fault: BTreeMap<Fault, Vec<&Incident>> = BTreeMap::new();
    for incident in incidents {
        by_fault.entry(incident.planned.fault).or_default().push(incident);
    }
    let summary = |(fault, incidents): (Fault, Vec<&Incident>)| {
        let figures = |pick: fn(&Spans) -> Option<u64>| {
            Figures::of(incidents.iter().filter_map(|incident| pick(&incident.spans)).collect())
        };
        let spans = COLUMNS.iter().filter_map(|(name, _, pick)| Some((*name, figures(*pick)?)));
        Summary {
            fault,
            count: incidents.len(),
            bitten: incidents.iter().filter(|incident| incident.bitten).count(),
            spans: spans.collect(),
        }
    };
    by_fault.into_iter().map(summary).collect()
}

type Column = (&'static str, &'static str, fn(&Spans) -> Option<u64>);

/// Field, heading, value.
const COLUMNS: [Column; 6] = [
    ("detected_ms", "detected", |spans| spans.detected_ms),
    ("reassigned_ms", "reassigned", |spans| spans.reassigned_ms),
    ("first_commit_ms", "first commit", |spans| spans.first_commit_ms),
    ("all_committed_ms", "all commit", |spans| spans.all_committed_ms),
    ("caught_up_ms", "caught up", |spans| spans.caught_up_ms),
    ("longest_pause_ms", "longest pause", |spans| spans.longest_pause_ms),
];

impl Report {
    /// The table of faults in Markdown: p50 / p99 / max of each span, in seconds.
    pub fn table(&self) -> String {
        let mut table = String::from("| fault | count | bitten |");
        for (_, heading, _) in COLUMNS {
            let _ = write!(table, " {heading} |");
        }
        table.push_str("\n| --- | ---: | ---: |");
        table.push_str(&" ---: |".repeat(COLUMNS.len()));
        table.push('\n');
        for summary in &self.summary {
            let _ = write!(table, "| {} | {} | {} |", summary.fault, summary.count, summary.bitten);
            for (name, _, _) in COLUMNS {
                let cell = summary.spans.get(name).map_or("–".to_owned(), |figures| {
                    [figures.p50_ms, figures.p99_ms, figures.max_ms].map(seconds).join(" / ")
                });
                let _ = write!(table, " {cell} |");
            }
            table.push('\n');
        }
        table
    }
}

/// `1234` as `1.23`.
fn seconds(ms: u64) -> String {
    format!("{}.{:02}", ms / 1000, ms % 1000 / 10)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_fault_with_what_was_measured() {
        let incident = |fault, bitten, detected_ms| Incident {
            planned: Planned { cycle: 1, fault, wait_ms: 0, hold_ms: 0, victim: 0, variant: 0 },
            victim: "worker-0".to_owned(),
            bitten,
            proof: String::new(),
            spans: Spans { detected_ms, ..Spans::default() },
        };
        let incidents = [
            incident(Fault::WorkerFreeze, true, Some(3_210)),
            incident(Fault::WorkerKill, true, Some(40)),
            incident(Fault::WorkerKill, false, None),
        ];
        let report = Report {
            exact: false,
            seed: 1,
            cycles: 3,
            faults: String::new(),
            workers: 3,
            rate: 1,
            elapsed_ms: 1,
            wrong: Vec::new(),
            acknowledged: 0,
            missing: 0,
            duplicates: 0,
            summary: summarize(&incidents),
            incidents: incidents.to_vec(),
            verify: None,
            lake: None,
        };
        let table = report.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert_eq!(lines[2], "| worker-kill | 2 | 1 | 0.04 / 0.04 / 0.04 | – | – | – | – | – |");
        assert!(lines[3].starts_with("| worker-freeze | 1 | 1 | 3.21 / 3.21 / 3.21 |"), "{table}");
    }
}
