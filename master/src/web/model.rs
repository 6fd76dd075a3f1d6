//! The cluster as the page and the REST interface tell it. Plain values: no state, no decisions.
//!
//! Points in time are milliseconds since 1970 UTC, sizes are bytes unless the name says MiB, cursors are next offsets.

use millrace_common::types::PipelineDefinition;
use schemars::JsonSchema;
use serde::Serialize;

/// Everything that is shown.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Cluster {
    /// `millrace://host:port` for workers.
    pub(crate) url: String,
    pub(crate) rest_url: String,
    pub(crate) status: MasterStatus,
    /// URL of the leader's page, if this master stands by.
    pub(crate) leader: Option<String>,
    /// What the master waits for.
    pub(crate) waiting_for: Option<String>,
    /// When this was true.
    pub(crate) at_ms: u64,
    pub(crate) workers: Vec<Worker>,
    /// Those with slots.
    pub(crate) pipelines: Vec<Pipeline>,
    /// The latest first.
    pub(crate) completed: Vec<Pipeline>,
    pub(crate) slots: Vec<Slot>,
    /// The latest first.
    pub(crate) moves: Vec<Move>,
    /// The latest first.
    pub(crate) failovers: Vec<Failover>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum MasterStatus {
    Alive,
    /// Restarted: known workers still have time to come back.
    Recovering,
    /// Another master leads, or none yet.
    Standby,
}

impl MasterStatus {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Alive => "ALIVE",
            Self::Recovering => "RECOVERING",
            Self::Standby => "STANDBY",
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(crate) enum WorkerState {
    Alive,
    /// Its session broke: it may come back within the grace.
    Suspect,
    /// Not heard since this master began: it may come back within the lease.
    Unknown,
    /// Its slots go to others, a few at a time.
    Draining,
    /// It has no slots and gets none.
    Drained,
    Dead,
}

impl WorkerState {
    pub(crate) const ALL: [Self; 6] =
        [Self::Alive, Self::Suspect, Self::Unknown, Self::Draining, Self::Drained, Self::Dead];

    /// Its cores work, or could.
    pub(crate) fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Draining | Self::Drained)
    }

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Alive => "ALIVE",
            Self::Suspect => "SUSPECT",
            Self::Unknown => "UNKNOWN",
            Self::Draining => "DRAINING",
            Self::Drained => "DRAINED",
            Self::Dead => "DEAD",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Worker {
    pub(crate) id: String,
    pub(crate) pid: u32,
    pub(crate) host: String,
    pub(crate) port: u16,
    /// `host:port` of the worker's own status.
    pub(crate) address: String,
    pub(crate) state: WorkerState,
    pub(crate) cores: u32,
    pub(crate) cores_used: u32,
    pub(crate) memory_mib: u64,
    /// What its open files and flushes hold.
    pub(crate) memory_used_bytes: u64,
    /// Of its whole process, in RAM; `None` before its first heartbeat and when it is lost.
    pub(crate) resident_bytes: Option<u64>,
    pub(crate) slots: Vec<String>,
    pub(crate) max_slots: u32,
    pub(crate) heartbeat_age_ms: u64,
    pub(crate) last_heartbeat_at_ms: u64,
    /// Why it has no slot.
    pub(crate) idle_reason: Option<String>,
    /// What it waits for while it drains.
    pub(crate) waiting_for: Option<String>,
    pub(crate) zone: Option<String>,
    pub(crate) version: String,
    /// Load of the slots that it has or is to get, per core, in percent of a core of usual speed.
    pub(crate) load_percent: u32,
    /// What its cores achieve, in percent of what is usual here; 100 until that is known.
    pub(crate) speed_percent: u32,
    /// Of its running slots together.
    pub(crate) records_per_second: f64,
    /// Keys and values read by its running slots together.
    pub(crate) bytes_per_second: f64,
    /// Cores that its running slots hold on average.
    pub(crate) cpu: f64,
    /// Of its slots together: what their slower sinks do not hold yet.
    pub(crate) lag: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Pipeline {
    pub(crate) id: String,
    pub(crate) name: String,
    /// WAITING, RUNNING, PAUSED, KILLING or KILLED.
    pub(crate) state: &'static str,
    /// Why no worker has a slot of it, and what is wrong with its topics.
    pub(crate) waiting_for: Option<String>,
    pub(crate) user: String,
    pub(crate) submitted_at_ms: u64,
    pub(crate) killed_at_ms: Option<u64>,
    /// Since its submission, until it was killed.
    pub(crate) duration_ms: u64,
    pub(crate) bootstrap_servers: String,
    pub(crate) source_topics: Vec<String>,
    pub(crate) transform: String,
    pub(crate) enriched_topic: Option<String>,
    pub(crate) invalid_topic: String,
    pub(crate) lake: Option<String>,
    pub(crate) slots: usize,
    pub(crate) slots_running: usize,
    /// Records that its slower sink does not hold yet; `None` while that is not known of any slot.
    pub(crate) lag: Option<u64>,
    pub(crate) records_per_second: f64,
    /// Its share when the workers have fewer places than there are slots.
    pub(crate) weight: u32,
    /// The most records a second that one worker reads for it.
    pub(crate) max_rate: Option<u64>,
    pub(crate) slots_halted: usize,
}

/// A pipeline with all that is known of it.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct PipelineDetail {
    #[serde(flatten)]
    pub(crate) pipeline: Pipeline,
    /// As it was submitted, or submitted last.
    #[schemars(with = "serde_json::Map<String, serde_json::Value>")]
    pub(crate) definition: PipelineDefinition,
    /// None of a completed one.
    pub(crate) partitions: Vec<Slot>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Slot {
    pub(crate) slot: String,
    pub(crate) pipeline: String,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) owner: Option<String>,
    pub(crate) epoch: u64,
    pub(crate) state: SlotState,
    /// Some owner has claimed it.
    pub(crate) opened: bool,
    pub(crate) topic_cursor: Option<i64>,
    pub(crate) lake_cursor: Option<i64>,
    pub(crate) position: Option<i64>,
    pub(crate) end: Option<i64>,
    pub(crate) lag: Option<u64>,
    pub(crate) records_per_second: f64,
    /// Keys and values of the records read.
    pub(crate) bytes_per_second: f64,
    /// Cores that it holds on average.
    pub(crate) cpu: f64,
    pub(crate) buffered_rows: u64,
    pub(crate) buffered_bytes: u64,
    pub(crate) rows_committed: u64,
    pub(crate) records_enriched: u64,
    pub(crate) records_quarantined: u64,
    pub(crate) client_duplicates: u64,
    pub(crate) records_filtered: u64,
    pub(crate) rows_unplaced: u64,
    /// The topic sink's cursor when the present owner opened it: its counts begin there.
    pub(crate) topic_from: Option<i64>,
    /// How long its last transaction took.
    pub(crate) commit_ms: Option<u64>,
    /// From the arrival of that transaction's first record until it began.
    pub(crate) batch_ms: Option<u64>,
    /// From the closing of the last flush's files until all were published.
    pub(crate) flush_ms: Option<u64>,
    /// How old, by Kafka's timestamps, 99 of 100 records at most were when the topic sink held them, in the minute before
    /// its last commit.
    pub(crate) topic_freshness_ms: Option<u64>,
    /// The same of the lake.
    pub(crate) lake_freshness_ms: Option<u64>,
    pub(crate) last_commit_at_ms: Option<u64>,
    pub(crate) last_object: Option<String>,
    pub(crate) waiting_for: Option<String>,
    pub(crate) halt: Option<Halt>,
    /// Owners in a row that were lost since its cursors last moved.
    pub(crate) deaths: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum SlotState {
    Free,
    Granted,
    Opening,
    Running,
    Revoking,
    Halted,
}

impl SlotState {
    pub(crate) const ALL: [Self; 6] =
        [Self::Free, Self::Granted, Self::Opening, Self::Running, Self::Revoking, Self::Halted];

    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Granted => "granted",
            Self::Opening => "opening",
            Self::Running => "running",
            Self::Revoking => "revoking",
            Self::Halted => "halted",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Halt {
    pub(crate) kind: String,
    pub(crate) detail: String,
}

/// A slot that changed hands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Move {
    /// When it was granted.
    pub(crate) at_ms: u64,
    pub(crate) slot: String,
    pub(crate) from: Option<String>,
    pub(crate) to: String,
    pub(crate) epoch: u64,
    pub(crate) reason: String,
    /// From the decision to the new owner's claim; `None` until then.
    pub(crate) pause_ms: Option<u64>,
}

/// A lost worker, and what became of its slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Failover {
    pub(crate) worker: String,
    pub(crate) pid: u32,
    pub(crate) reason: String,
    /// When it was last heard; the master's start if it never was.
    pub(crate) lost_at_ms: u64,
    pub(crate) detected_at_ms: u64,
    /// When the last of its slots had a new owner.
    pub(crate) reassigned_at_ms: Option<u64>,
    /// When a new owner committed the first transaction that moves a cursor; the claim does not count.
    pub(crate) first_commit_at_ms: Option<u64>,
    pub(crate) slots: Vec<LostSlot>,
}

/// One slot of a lost worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct LostSlot {
    pub(crate) slot: String,
    pub(crate) new_owner: Option<String>,
    pub(crate) reassigned_at_ms: Option<u64>,
    pub(crate) first_commit_at_ms: Option<u64>,
}

/// Sums over the workers that are alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Totals {
    pub(crate) alive: usize,
    /// Suspect or unknown: not decided yet.
    pub(crate) unknown: usize,
    pub(crate) dead: usize,
    /// Draining and drained ones.
    pub(crate) draining: usize,
    pub(crate) cores: u32,
    pub(crate) cores_used: u32,
    pub(crate) memory_mib: u64,
    pub(crate) memory_used_bytes: u64,
}

impl Cluster {
    pub(crate) fn totals(&self) -> Totals {
        let count = |state| self.workers.iter().filter(|worker| worker.state == state).count();
        let live = || self.workers.iter().filter(|worker| worker.state.is_live());
        Totals {
            alive: count(WorkerState::Alive),
            unknown: count(WorkerState::Suspect) + count(WorkerState::Unknown),
            dead: count(WorkerState::Dead),
            draining: count(WorkerState::Draining) + count(WorkerState::Drained),
            cores: live().map(|worker| worker.cores).sum(),
            cores_used: live().map(|worker| worker.cores_used).sum(),
            memory_mib: live().map(|worker| worker.memory_mib).sum(),
            memory_used_bytes: live().map(|worker| worker.memory_used_bytes).sum(),
        }
    }
}
