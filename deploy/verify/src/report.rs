//! The verdict: as JSON for programs, as a table for people. Pure.

use std::fmt;

use millrace_common::units::format_bytes;
use serde::{Deserialize, Serialize};

use crate::account::Account;
use crate::finding::{EXAMPLES, Findings};
use crate::ledger::LedgerReport;

/// The account of one partition of a source topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PartitionAccount {
    pub topic: String,
    pub partition: i32,
    /// The lake cursor at the start; `None` if nothing was ever committed.
    pub lake_cursor: Option<i64>,
    pub topic_cursor: Option<i64>,
    /// First offset that the raw topic still holds.
    pub first_offset: i64,
    /// End of the raw topic, taken at the start.
    pub end_offset: i64,
    pub files: u64,
    #[serde(flatten)]
    pub account: Account,
}

/// Where every raw offset is, and what is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Nothing is wrong.
    pub clean: bool,
    pub pipeline: String,
    /// `None` for a pipeline without lake.
    pub lake: Option<String>,
    /// `None` for a pipeline without topic sink.
    pub enriched_topic: Option<String>,
    pub kafka: String,
    /// The sum over all partitions.
    #[serde(flatten)]
    pub total: Account,
    /// Records that the invalid topic holds, also the collector's own refusals.
    pub invalid_records: u64,
    pub files: u64,
    pub bytes: u64,
    pub partitions: Vec<PartitionAccount>,
    pub findings: Findings,
    /// The ledger's events in the lake.
    pub ledger: Option<LedgerReport>,
    /// The same on the enriched topic.
    pub topic_ledger: Option<LedgerReport>,
    /// What can't be proven either way, for people.
    pub notes: Vec<String>,
    pub elapsed_ms: u64,
}

const COLUMNS: [&str; 11] = [
    "partition",
    "raw records",
    "in the lake",
    "on the topic",
    "quarantined",
    "client duplicates",
    "filtered",
    "in flight",
    "missing",
    "doubled",
    "altered",
];

fn cells(name: String, account: &Account) -> [String; COLUMNS.len()] {
    [
        name,
        account.raw_records.to_string(),
        account.in_lake.to_string(),
        account.on_topic.to_string(),
        account.quarantined.to_string(),
        account.client_duplicates.to_string(),
        account.filtered.to_string(),
        account.in_flight.to_string(),
        (account.missing + account.topic_missing).to_string(),
        (account.duplicates + account.topic_duplicates).to_string(),
        (account.altered + account.topic_altered).to_string(),
    ]
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "pipeline {}, Kafka {}", self.pipeline, self.kafka)?;
        if let Some(lake) = &self.lake {
            write!(f, ", lake {lake}")?;
        }
        if let Some(topic) = &self.enriched_topic {
            write!(f, ", enriched topic {topic}")?;
        }
        writeln!(f)?;
        writeln!(f)?;
        let mut rows = vec![COLUMNS.map(str::to_owned)];
        rows.extend(
            self.partitions
                .iter()
                .map(|part| cells(format!("{}/{}", part.topic, part.partition), &part.account)),
        );
        rows.push(cells("total".to_owned(), &self.total));
        let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..COLUMNS.len()).map(width).collect();
        for row in &rows {
            write!(f, "{:<width$}", row[0], width = widths[0])?;
            for (cell, width) in row.iter().zip(&widths).skip(1) {
                write!(f, "  {cell:>width$}")?;
            }
            writeln!(f)?;
        }
        writeln!(f)?;
        writeln!(
            f,
            "{} rows in {} files ({}), {} of them unplaced; {} records on the enriched topic, {} in the invalid topic; {} ms",
            self.total.lake_rows,
            self.files,
            format_bytes(self.bytes),
            self.total.unplaced,
            self.total.topic_records,
            self.invalid_records,
            self.elapsed_ms
        )?;
        if self.total.proven_by_ranges_only > 0 {
            writeln!(
                f,
                "{} records are gone from the raw topic: proven by the files' ranges only",
                self.total.proven_by_ranges_only
            )?;
        }
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        for (ledger, place) in [(&self.ledger, "in the lake"), (&self.topic_ledger, "on the enriched topic")]
        {
            if let Some(ledger) = ledger {
                writeln!(f)?;
                write!(f, "{place}, {ledger}")?;
            }
        }
        for (kind, finding) in self.findings.iter() {
            writeln!(f)?;
            writeln!(f, "{} × {}", finding.count, kind.describe())?;
            for example in &finding.examples {
                writeln!(f, "    {example}")?;
            }
            if finding.examples.len() == EXAMPLES && finding.count > EXAMPLES as u64 {
                writeln!(f, "    …")?;
            }
        }
        writeln!(f)?;
        writeln!(
            f,
            "{}",
            if self.clean {
                "clean: every offset is accounted for, exactly once"
            } else {
                "WRONG: see above"
            }
        )
    }
}
