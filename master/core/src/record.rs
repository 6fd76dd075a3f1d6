//! What stands in the state store, and the way back. One record holds a group of slots, so that a transaction
//! stays small. Never stored: times, sessions, reports.

use std::collections::BTreeMap;
use std::fmt;

use millrace_types::{Epoch, Halt, PipelineDefinition, PipelineId, SkipLost, SlotId, WorkerId, WorkerSpec};
use serde::{Deserialize, Serialize};

use crate::settings::InvalidSettings;

/// Version of the records' form that this build writes and reads.
pub const RECORD_VERSION: u32 = 2;
/// Most slots in one record.
pub const SLOTS_PER_RECORD: u32 = 256;
/// Most records of slots in the store.
pub const MAX_SLOT_RECORDS: usize = 1_024;
/// Most writes in one step; etcd takes 128 operations per transaction.
pub const MAX_WRITES: usize = 120;
/// About where a step's writes end, in bytes; etcd takes 1.5 MiB per request. One record may exceed it.
pub(crate) const MAX_STEP_BYTES: usize = 640 << 10;

/// A record's place in the store: `pipelines/<id>`, `workers/<id>` or `slots/<pipeline>/<topic>-<group>`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RecordKey(String);

impl RecordKey {
    pub fn pipeline(id: &PipelineId) -> Self {
        Self(format!("pipelines/{id}"))
    }

    pub fn worker(id: &WorkerId) -> Self {
        Self(format!("workers/{id}"))
    }

    pub fn slots(group: &SlotGroup) -> Self {
        Self(format!("slots/{}/{}-{}", group.pipeline, group.topic, group.number))
    }

    /// Printable ASCII without spaces; parts are separated by slashes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RecordKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Which slots stand in one record: partitions `number` * [`SLOTS_PER_RECORD`] and on.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SlotGroup {
    pub pipeline: PipelineId,
    pub topic: u16,
    pub number: u32,
}

impl SlotGroup {
    /// The group of a slot; partition numbers are never negative.
    pub fn of(slot: &SlotId) -> Self {
        let number = u32::try_from(slot.partition).unwrap_or(0) / SLOTS_PER_RECORD;
        Self { pipeline: slot.pipeline.clone(), topic: slot.topic, number }
    }

    /// Its first and last partition number.
    pub(crate) fn partitions(&self) -> (i32, i32) {
        let clamp = |number: u64| i32::try_from(number).unwrap_or(i32::MAX);
        let first = u64::from(self.number) * u64::from(SLOTS_PER_RECORD);
        (clamp(first), clamp(first + u64::from(SLOTS_PER_RECORD) - 1))
    }
}

/// One value of the store.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// [`RECORD_VERSION`] of the build that wrote it.
    pub version: u32,
    pub body: RecordBody,
}

/// What a record holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordBody {
    Pipeline(Box<PipelineRecord>),
    /// In a pipeline's place when it is over.
    Completed(Box<CompletedRecord>),
    Worker {
        spec: WorkerSpec,
        /// It was declared dead and has not come back.
        dead: bool,
        /// A person drains it, or has drained it.
        #[serde(default)]
        drained: bool,
    },
    Slots {
        group: SlotGroup,
        /// By partition number.
        slots: BTreeMap<i32, SlotRecord>,
    },
}

/// A pipeline that has slots.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PipelineRecord {
    pub definition: PipelineDefinition,
    pub stage: Stage,
}

/// What is wanted of a pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Its slots are granted.
    Running,
    /// It runs again when every slot was given up: none may run by an older definition beside a newer one.
    Changing,
    /// No slot is granted.
    Paused,
    /// No slot is granted again. `at_ms`: milliseconds since 1970 UTC.
    Killed { at_ms: u64 },
}

/// A killed pipeline, with what is needed to go on with it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct CompletedRecord {
    pub definition: PipelineDefinition,
    /// Milliseconds since 1970 UTC.
    pub killed_at_ms: u64,
    /// Of each source topic, by partition.
    pub slots: Vec<Vec<SlotRemains>>,
}

/// What is kept of a completed pipeline's slot: the highest epoch, and whether Kafka holds a record of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SlotRemains(pub Epoch, pub bool);

/// What outlives the master of one slot.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct SlotRecord {
    /// The highest epoch granted or seen; 0 when it was never granted.
    pub epoch: Epoch,
    /// A worker has claimed it: Kafka holds a record of it.
    pub opened: bool,
    /// To whom `epoch` is granted; `None` when the slot is free.
    pub owner: Option<WorkerId>,
    /// To whom `epoch` was granted, when the slot is free: this worker alone may still run it rightly.
    pub last_owner: Option<WorkerId>,
    pub halt: Option<Halt>,
    /// A person's word that it may open without what is lost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub skip_lost: Option<SkipLost>,
}

impl RecordBody {
    /// About how long it is as JSON text.
    pub(crate) fn size_estimate(&self) -> usize {
        match self {
            Self::Pipeline(_) => 4_000,
            Self::Completed(completed) => 4_000 + completed.slots.iter().map(Vec::len).sum::<usize>() * 16,
            Self::Worker { .. } => 500,
            Self::Slots { slots, .. } => slots.values().map(SlotRecord::size_estimate).sum(),
        }
    }
}

impl SlotRecord {
    fn size_estimate(&self) -> usize {
        let owner = self.owner.iter().chain(&self.last_owner).map(|id| id.as_str().len());
        100 + owner.sum::<usize>() + self.halt.as_ref().map_or(0, |halt| 50 + halt.detail.len())
    }
}

impl Record {
    pub fn key(&self) -> RecordKey {
        match &self.body {
            RecordBody::Pipeline(pipeline) => RecordKey::pipeline(&pipeline.definition.id),
            RecordBody::Completed(completed) => RecordKey::pipeline(&completed.definition.id),
            RecordBody::Worker { spec, .. } => RecordKey::worker(&spec.id),
            RecordBody::Slots { group, .. } => RecordKey::slots(group),
        }
    }
}

/// Why the store's records are no state to go on from.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    #[error(transparent)]
    Settings(#[from] InvalidSettings),
    #[error(
        "record {key} has version {version}, this build reads {RECORD_VERSION}: start the build that wrote it, or \
         an empty store"
    )]
    Version { key: RecordKey, version: u32 },
    #[error("record {key} stands twice in the store")]
    Twice { key: RecordKey },
    #[error("record {key} is damaged: {problem}; restore the store from a copy")]
    Damaged { key: RecordKey, problem: String },
}
