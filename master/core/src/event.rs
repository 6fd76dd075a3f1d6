//! What the shell tells the core, and what the core asks of the shell. Plain data, no behaviour.

use std::sync::Arc;

use millrace_types::{
    Digest, Epoch, HaltKind, NextOffset, PipelineDefinition, PipelineId, SkipLost, SlotId, SlotReport,
    StopReason, WorkerId, WorkerSpec,
};

use crate::{Record, RecordKey};

/// A fact from outside, applied to the [`Coordinator`](crate::Coordinator).
///
/// `session` is a number that the shell gives to each worker's stream; it is never given twice by one process.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A pipeline to run. `partitions` holds the number of partitions of each source topic, in their order.
    PipelineSubmitted { definition: Box<PipelineDefinition>, partitions: Vec<u32> },
    /// A known pipeline, completed ones too, goes on with this definition, in which its id, name and source topics
    /// are what they were. `partitions` as above.
    PipelineResubmitted { definition: Box<PipelineDefinition>, partitions: Vec<u32> },
    /// No slot is to run, after a last commit of each.
    PipelinePaused { pipeline: PipelineId },
    /// A paused pipeline goes on; of a running one, the halted slots.
    PipelineResumed { pipeline: PipelineId },
    /// The pipeline is over: as paused, then completed. `at_ms`: milliseconds since 1970 UTC.
    PipelineKilled { pipeline: PipelineId, at_ms: u64 },
    /// How many partitions a source topic has now.
    PartitionsFound { pipeline: PipelineId, topic: u16, count: u32 },
    /// The first message of a session. `running`: slots that the process runs already.
    WorkerRegistered { session: u64, spec: WorkerSpec, running: Vec<SlotReport> },
    /// A sign of life.
    Heartbeat {
        session: u64,
        worker: WorkerId,
        /// The bytes that its buffers hold.
        memory_used_bytes: u64,
        /// The process was told to end: its slots are to go to others.
        draining: bool,
        /// Of all slots that it runs.
        digest: Digest,
        /// Of all of them, or of those whose report changed since the last heartbeat of this session.
        reports: Vec<SlotReport>,
    },
    /// A person wants the worker to give its slots up, without stopping it.
    WorkerDrained { worker: WorkerId },
    /// A person wants the worker to take slots again, also when it is still giving them up.
    WorkerRecommissioned { worker: WorkerId },
    /// A person wants what [`Coordinator::plan`](crate::Coordinator::plan) says, now.
    Rebalance,
    /// The worker's stream ended.
    SessionLost { session: u64, worker: WorkerId },
    /// The worker's port refuses connections: its process is gone, no grace is needed.
    ProcessGone { worker: WorkerId },
    /// A slot ended on its worker.
    SlotStopped { session: u64, worker: WorkerId, slot: SlotId, epoch: Epoch, reason: StopReason },
    /// A person lets a halted slot go on: by what stands there, or without what is lost.
    SlotResumed { slot: SlotId, skip_lost: Option<SkipLost> },
    /// The time of [`next_deadline`](crate::Coordinator::next_deadline) has come.
    DeadlineReached,
}

/// What follows from an event.
///
/// The shell commits `writes` in one transaction, and only then sends `directives`. When a commit's outcome is
/// uncertain it drops the coordinator, ends all sessions, and restores from the store. An event that changes more
/// than fits is stored over several steps, the later ones due at once; its directives come with the last one.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Step {
    /// At most [`MAX_WRITES`](crate::MAX_WRITES), each key once.
    pub writes: Vec<Write>,
    pub directives: Vec<Directive>,
}

/// A change of the store.
#[derive(Debug, Clone, PartialEq)]
pub enum Write {
    Put(Record),
    Delete(RecordKey),
}

/// A message to a worker, or a task of the shell. One that gets lost is repaired by the next heartbeats.
#[derive(Debug, Clone, PartialEq)]
pub enum Directive {
    /// Tell the worker to run the slot. May come again with the same epoch.
    Grant {
        worker: WorkerId,
        session: u64,
        slot: SlotId,
        epoch: Epoch,
        /// The slot was opened before: Kafka must hold a record of it.
        opened: bool,
        definition: Arc<PipelineDefinition>,
        /// How many owners in a row died since the slot's cursors last moved.
        deaths: u32,
        /// A person's word that it may open without what is lost.
        skip_lost: Option<SkipLost>,
    },
    /// Tell the worker to give the slot up.
    Revoke { worker: WorkerId, session: u64, slot: SlotId, epoch: Epoch },
    /// Tell the worker, which wants to end, that no slot is moved from it any more: it may.
    Leave { worker: WorkerId, session: u64 },
    /// Tell the worker to put all its slots into the next heartbeat: what it runs is not what is known of it.
    ReportAll { worker: WorkerId, session: u64 },
    /// Try a connection to the worker's port: when it is refused, tell [`Event::ProcessGone`]; else nothing.
    Probe { worker: WorkerId, host: String, port: u16 },
    /// Close this stream: another one of the same worker has taken its place.
    EndSession { worker: WorkerId, session: u64 },
}

/// An event that is refused. Nothing has changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    #[error("worker {worker} offers {key} = {value}: expected {expected}")]
    Offer { worker: WorkerId, key: &'static str, value: u64, expected: &'static str },
    #[error(
        "worker {worker} is already registered by process {registered_pid}, which is alive: process {pid} must \
         take another id (restart it)"
    )]
    IdTaken { worker: WorkerId, registered_pid: u32, pid: u32 },
    #[error(
        "worker {worker} has version {version:?}, this master {master}: expected the same major and minor number; \
         install the master's version"
    )]
    Version { worker: WorkerId, version: String, master: &'static str },
    #[error("session {session} of worker {worker} is not its current one: register again")]
    StaleSession { worker: WorkerId, session: u64 },
    #[error("pipeline {pipeline} exists with another definition: submit it under a new id")]
    PipelineExists { pipeline: PipelineId },
    #[error("the name {name} is taken by pipeline {pipeline}")]
    NameTaken { name: String, pipeline: PipelineId },
    #[error("pipeline {pipeline} has the source topics {known:?}, they can't become {given:?}")]
    OtherTopics { pipeline: PipelineId, known: Vec<String>, given: Vec<String> },
    #[error("pipeline {pipeline} is paused already")]
    AlreadyPaused { pipeline: PipelineId },
    #[error("pipeline {pipeline} is neither paused nor has it halted partitions: there is nothing to resume")]
    NothingToResume { pipeline: PipelineId },
    #[error("pipeline {pipeline} was killed; submit its file with --resume to go on with it")]
    PipelineOver { pipeline: PipelineId },
    #[error("pipeline {pipeline} is not known: submit it first")]
    UnknownPipeline { pipeline: PipelineId },
    #[error("pipeline {pipeline} has no source topic number {topic}: it has {topics}")]
    UnknownTopic { pipeline: PipelineId, topic: u16, topics: usize },
    #[error("pipeline {pipeline}: {given} partition counts for {topics} source topics: expected one each")]
    PartitionCounts { pipeline: PipelineId, given: usize, topics: usize },
    #[error("pipeline {pipeline}: topic {topic:?} has no partitions: create it first")]
    NoPartitions { pipeline: PipelineId, topic: String },
    #[error(
        "pipeline {pipeline}: topic {topic:?} has {count} partitions, but {known} are known: it was made anew; \
         submit a new pipeline for it"
    )]
    PartitionsGone { pipeline: PipelineId, topic: String, count: u32, known: u32 },
    #[error("pipeline {pipeline} would bring the slots to {records} records of {per_record}: at most {most}")]
    TooManySlots { pipeline: PipelineId, records: usize, per_record: u32, most: usize },
    #[error("worker {worker} is not known: `millrace workers` lists those that are")]
    UnknownWorker { worker: WorkerId },
    #[error("worker {worker} is dead: it has no slots to give up and takes none")]
    WorkerIsDead { worker: WorkerId },
    #[error("worker {worker} is not being drained: there is nothing to take back")]
    NotDrained { worker: WorkerId },
    #[error(
        "worker {worker} was told to end by its own process (SIGTERM), which can't be undone: start it again"
    )]
    WorkerIsLeaving { worker: WorkerId },
    #[error("worker {worker} has zone {zone:?}: expected at most 64 printable characters")]
    Zone { worker: WorkerId, zone: String },
    #[error("slot {slot} is not known")]
    UnknownSlot { slot: SlotId },
    #[error("slot {slot} is not halted: there is nothing to resume")]
    NotHalted { slot: SlotId },
    #[error(
        "slot {slot} is halted by {halt}, where nothing is lost that could be skipped: repair its cause and resume it \
         without --skip-lost"
    )]
    NothingLost { slot: SlotId, halt: HaltKind },
    #[error(
        "slot {slot} is halted by {halt} now, not by {seen}: look at it again before anything is skipped"
    )]
    OtherHalt { slot: SlotId, halt: HaltKind, seen: HaltKind },
    #[error(
        "slot {slot} is halted by {halt}: where its sinks stand is unknown, so --skip-lost needs --from OFFSET, the \
         source offset at which both go on"
    )]
    FromMissing { slot: SlotId, halt: HaltKind },
    #[error("slot {slot} is halted by {halt}: its cursors are known, so --from {from} has no meaning here")]
    FromUnused { slot: SlotId, halt: HaltKind, from: NextOffset },
    #[error("slot {slot}: epoch {epoch} of worker {worker} can't be: expected at most {most}")]
    Epoch { worker: WorkerId, slot: SlotId, epoch: Epoch, most: Epoch },
}
