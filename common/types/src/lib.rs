//! The plain words of Millrace: identifiers, offsets, the definition of a pipeline, and what masters and
//! workers tell each other. No IO, no clock, no runtime: the scheduler is built on this crate alone.

mod digest;
mod ids;
mod pipeline;
mod report;

pub use digest::Digest;
pub use ids::{Epoch, InvalidId, Millis, NextOffset, PipelineId, SlotId, WorkerId};
pub use pipeline::{
    DEFAULT_COMMIT_INTERVAL_MS, DEFAULT_DUPLICATE_WINDOW, DEFAULT_WEIGHT, InvalidDefinition, LakeTarget,
    PipelineDefinition, Problem, RollPolicy, SecretReference, Source, StartPosition, TransformDefinition,
};
pub use report::{Halt, HaltKind, SkipLost, SlotMetrics, SlotPhase, SlotReport, StopReason, WorkerSpec};

/// Millrace's version, as workers and masters tell each other.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
