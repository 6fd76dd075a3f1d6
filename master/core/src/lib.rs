//! The scheduler of Millrace, as a pure state machine: who is alive, which worker owns which slot at which epoch.
//!
//! It has no clock, no randomness and does no IO: time is an argument of [`Coordinator::apply`], and what should
//! happen comes back as a [`Step`] of store writes and directives for the shell to carry out.

mod backlog;
mod coordinator;
mod drain;
mod event;
mod grants;
mod history;
mod index;
mod liveness;
mod load;
mod pipelines;
mod plan;
mod rebalance;
mod record;
mod reports;
mod restore;
mod settings;
mod solver;
mod state;
mod timers;
mod view;

#[cfg(test)]
mod tests;

pub use coordinator::Coordinator;
pub use event::{Directive, Event, Rejection, Step, Write};
pub use history::{Beside, Loss, LossCause, LostSlot, Move, MoveReason, Regrant};
pub use plan::{PlannedMove, RebalancePlan, WorkerLoad};
pub use rebalance::{Assignment, Demand, Offer, Wish, rebalance};
pub use record::{
    CompletedRecord, MAX_SLOT_RECORDS, MAX_WRITES, PipelineRecord, RECORD_VERSION, Record, RecordBody,
    RecordKey, RestoreError, SLOTS_PER_RECORD, SlotGroup, SlotRecord, SlotRemains, Stage,
};
pub use settings::{InvalidSettings, Settings};
pub use solver::Evening;
pub use view::{ClusterView, PipelineState, PipelineView, SlotState, SlotView, WorkerState, WorkerView};
