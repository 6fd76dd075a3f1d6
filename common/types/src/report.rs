//! What a worker offers and reports.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Epoch, NextOffset, SlotId, WorkerId};

/// What a worker offers when it registers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSpec {
    pub id: WorkerId,
    pub pid: u32,
    pub host: String,
    /// Port on which the worker listens; a refused connection there means that the process is gone.
    pub port: u16,
    /// Port of the worker's own `/healthz`, `/readyz` and `/metrics`.
    pub http_port: u16,
    pub cores: u32,
    pub memory_mib: u64,
    /// The most slots that the worker's memory budget carries.
    pub max_slots: u32,
    /// Rack or zone: a pipeline's slots are spread over them.
    #[serde(default)]
    pub zone: Option<String>,
    pub version: String,
}

/// Where a slot stands on its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotPhase {
    /// Fencing its predecessor, reading the record, claiming.
    Opening,
    /// The claim is committed: the slot is opened and works.
    Running,
    /// Giving up after a last commit.
    Revoking,
}

/// Figures of a slot, for people; no decision about correctness uses them.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SlotMetrics {
    /// Next offset of the topic sink; `None` until the record has been read, and without topic sink.
    pub topic_cursor: Option<NextOffset>,
    /// Next offset of the lake; `None` until the record has been read, and without lake.
    pub lake_cursor: Option<NextOffset>,
    /// Next offset that will be read.
    pub position: Option<NextOffset>,
    /// End of the partition as a `read_committed` reader sees it.
    pub end: Option<NextOffset>,
    /// Records of the partition that the slower sink does not hold yet.
    pub lag: Option<u64>,
    pub records_per_second: f64,
    /// Keys and values of the records read.
    pub bytes_per_second: f64,
    /// Cores of the compute pool that the slot held, on average: at most the worker's cores.
    pub cpu: f64,
    pub buffered_rows: u64,
    pub buffered_bytes: u64,
    /// What this owner committed since it opened the slot: rows in the lake, …
    pub rows_committed: u64,
    /// …records on the enriched topic, …
    pub records_enriched: u64,
    /// …records set aside with their reason, …
    pub records_quarantined: u64,
    /// …records dropped because a client sent them twice, …
    pub client_duplicates: u64,
    /// …and records that the transform leaves out.
    pub records_filtered: u64,
    pub rows_unplaced: u64,
    /// Next offset of the topic sink when this owner opened the slot: what it committed begins there.
    pub topic_from: Option<NextOffset>,
    /// How long the last transaction took, in milliseconds.
    pub commit_ms: Option<u64>,
    /// From its first record's arrival here until that transaction began, in milliseconds.
    pub batch_ms: Option<u64>,
    /// From the closing of the last flush's files until all of them were published, in milliseconds.
    pub flush_ms: Option<u64>,
    /// How old, by Kafka's timestamps, 99 of 100 records at most were when the topic sink held them, in milliseconds;
    /// of the minute before its last commit.
    pub topic_freshness_ms: Option<u64>,
    /// The same of the lake.
    pub lake_freshness_ms: Option<u64>,
    /// The last transaction that moved a cursor, in milliseconds since 1970 UTC.
    pub last_commit_at_ms: Option<u64>,
    pub last_object: Option<String>,
    /// What the slot waits for when it does not move ("S3 answers 503, try 7").
    pub waiting_for: Option<String>,
}

/// A running slot in a heartbeat.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SlotReport {
    pub slot: SlotId,
    pub epoch: Epoch,
    pub phase: SlotPhase,
    pub metrics: SlotMetrics,
}

/// Why a slot stopped on its worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StopReason {
    /// The master took it back.
    Revoked,
    /// Another owner fenced this one.
    Fenced,
    /// The record carries a higher epoch than the grant: the master lost its store.
    EpochBehind { recorded: Epoch },
    /// It can't go on without a person.
    Halted(Halt),
    /// The worker could not run it now (for example: the memory budget is full); grant it anew.
    Failed { detail: String },
}

/// Why a slot halted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HaltKind {
    /// The master knows the slot as opened, but Kafka holds no record of it.
    RecordLost,
    /// The record can't be read.
    RecordDamaged,
    /// The source no longer holds offsets that the slot has not done.
    OffsetsLost,
    /// The manifest or the staged objects it names are gone or differ.
    ManifestMismatch,
    /// What lies between the cursors was judged by a transform that this worker does not have.
    TransformChanged,
    /// A sink's topic refuses a record: it is too large for the topic's settings, for example.
    RecordRefused,
}

impl HaltKind {
    /// As the pages, the API and the command line have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::RecordLost => "record_lost",
            Self::RecordDamaged => "record_damaged",
            Self::OffsetsLost => "offsets_lost",
            Self::ManifestMismatch => "manifest_mismatch",
            Self::TransformChanged => "transform_changed",
            Self::RecordRefused => "record_refused",
        }
    }
}

impl fmt::Display for HaltKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A person's word that a halted slot may go on without what is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkipLost {
    /// The halt that the person saw: what else is found lost halts the slot anew.
    pub halt: HaltKind,
    /// Where both sinks begin again when their cursors are unknown, for the record is lost or damaged.
    pub from: Option<NextOffset>,
}

/// A slot's halt: what is wrong, where, and what a person can do.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Halt {
    pub kind: HaltKind,
    pub detail: String,
}
