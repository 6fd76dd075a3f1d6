//! One granted slot: open, read, commit, flush, publish; the exactly-once protocol of `docs/delivery.md`.
//!
//! A slot stops only by a revoke, by Kafka's fence, or by a halt that needs a person. Everything else is waited
//! out, and any doubt about a transaction's outcome goes back to opening, where the record tells it.

mod begin;
mod commit;
mod flush;
mod freshness;
mod intake;
mod lake_end;
mod latest;
mod open;
mod publish;
mod roll;
mod skip;
mod staging;
mod status;
#[cfg(test)]
mod tests;
mod trial;
mod work;

use std::sync::Arc;
use std::time::Duration;

use millrace_common::backoff::Backoff;
use millrace_common::lake::Lake;
use millrace_common::record::CommittedRecord;
use millrace_common::types::{
    Epoch, Halt, HaltKind, NextOffset, PipelineDefinition, SkipLost, SlotId, StopReason,
};
use millrace_transform::{Registry, Transform};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::budget::Account;
use crate::compute::ComputePool;
use crate::kafka::{SlotProducer, SourceConsumer};
use crate::rate::Rate;
pub(crate) use latest::{LatestRequests, LatestRows};
pub(crate) use status::SlotStatus;
pub(crate) use trial::Trial;
pub use trial::try_records;

/// Everything that a slot's task works with.
pub(crate) struct Slot {
    pub(crate) id: SlotId,
    pub(crate) epoch: Epoch,
    /// The master knows that the slot was opened before: its record must exist.
    pub(crate) opened: bool,
    pub(crate) definition: Arc<PipelineDefinition>,
    /// The source topic's name.
    pub(crate) topic: String,
    /// Partition of the invalid topic that takes what this slot quarantines: always the same one, so that a
    /// transaction adds one partition only.
    pub(crate) invalid_partition: i32,
    pub(crate) consumer: Arc<SourceConsumer>,
    /// `None` for a pipeline without lake.
    pub(crate) lake: Option<Lake>,
    pub(crate) transforms: Registry,
    /// How many owners in a row died since the slot's cursors last moved.
    pub(crate) deaths: u32,
    /// A person's word that it may open without what is lost; void once it has opened.
    pub(crate) skip_lost: Option<SkipLost>,
    /// What tries records in a process of its own.
    pub(crate) trial: Trial,
    /// Shared by the pipeline's slots on this worker.
    pub(crate) rate: Option<Arc<Rate>>,
    pub(crate) account: Account,
    pub(crate) compute: ComputePool,
    pub(crate) status: Arc<SlotStatus>,
    pub(crate) latest: Arc<LatestRequests>,
    /// Give the slot up after a last commit.
    pub(crate) revoked: CancellationToken,
    /// Give it up at once, without a commit.
    pub(crate) abandoned: CancellationToken,
}

/// Why a part of the slot's life ended.
enum Exit {
    Stop(StopReason),
    /// The outcome of a transaction is uncertain: open anew and learn it from the record.
    Doubt(String),
    /// The transform failed: open anew, and try each record before it is taken in.
    TransformFailed(String),
    /// The sinks are level, so that another transform or window can begin: open anew.
    Level,
}

impl Exit {
    fn halt(kind: HaltKind, detail: String) -> Self {
        Self::Stop(StopReason::Halted(Halt { kind, detail }))
    }
}

/// Deadline of one call to Kafka.
const KAFKA_DEADLINE: Duration = Duration::from_secs(10);
/// So many doubts in a row are shown to people.
const DOUBTS: u32 = 3;
/// Owners that may die one after the other before records are tried in a process of their own.
const DEATHS: u32 = 2;

/// Runs the slot until it stops, and says why.
pub(crate) async fn run(mut slot: Slot) -> StopReason {
    let mut opened = slot.opened;
    let mut tries_records = slot.deaths >= DEATHS;
    let mut backoff = Backoff::new(Duration::from_millis(20), Duration::from_secs(5));
    let reason = loop {
        let exit = match open::open(&slot, opened).await {
            Ok(open) => {
                // From the claim on the record exists, whatever the master knows yet.
                opened = true;
                slot.skip_lost = None;
                info!(
                    slot = %slot.id, epoch = %slot.epoch, topic_cursor = %open.claimed.record.topic_cursor,
                    lake_cursor = %open.claimed.record.lake_cursor, tries_records, "slot opened"
                );
                let began = tokio::time::Instant::now();
                let exit = work::work(&slot, open, tries_records).await;
                if began.elapsed() > Duration::from_secs(30) {
                    backoff.reset();
                }
                exit
            }
            Err(exit) => exit,
        };
        match exit {
            Exit::Stop(reason) => break reason,
            Exit::Doubt(detail) => {
                warn!(slot = %slot.id, epoch = %slot.epoch, detail, "producer retired, opening the slot anew");
                slot.account.set(0, 0);
                let wait = backoff.next_wait();
                if backoff.tries() >= DOUBTS {
                    let times = backoff.tries();
                    slot.status.set_trouble(format!("opened anew {times} times in a row: {detail}"));
                }
                if slot.pause(wait).await.is_err() {
                    break StopReason::Revoked;
                }
            }
            Exit::TransformFailed(detail) => {
                warn!(slot = %slot.id, epoch = %slot.epoch, detail, "trying each record in a process of its own");
                slot.account.set(0, 0);
                tries_records = true;
                if slot.pause(backoff.next_wait()).await.is_err() {
                    break StopReason::Revoked;
                }
            }
            Exit::Level => {
                info!(slot = %slot.id, epoch = %slot.epoch, "both sinks are level, going on with the new definition");
            }
        }
    };
    info!(slot = %slot.id, epoch = %slot.epoch, ?reason, "slot stopped");
    reason
}

impl Slot {
    /// Waits for `span`, or stops early when the slot is to be given up.
    async fn pause(&self, span: Duration) -> Result<(), Exit> {
        tokio::select! {
            () = tokio::time::sleep(span) => Ok(()),
            () = self.revoked.cancelled() => Err(Exit::Stop(StopReason::Revoked)),
            () = self.abandoned.cancelled() => Err(Exit::Stop(StopReason::Revoked)),
        }
    }

    /// Tries `attempt` until it succeeds, with growing pauses, telling what it waits for. Only giving the slot up
    /// ends it early: a slot under way to its last commit (`revoked`) goes on until it is `abandoned`.
    async fn persist<T, E, F>(&self, what: &str, attempt: impl Fn() -> F) -> Result<T, Exit>
    where
        E: std::fmt::Display,
        F: Future<Output = Result<T, E>>,
    {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(3));
        loop {
            let tried = tokio::select! {
                tried = attempt() => tried,
                () = self.abandoned.cancelled() => return Err(Exit::Stop(StopReason::Revoked)),
            };
            match tried {
                Ok(value) => {
                    if backoff.tries() > 0 {
                        self.status.set_waiting_for(None);
                        info!(slot = %self.id, tries = backoff.tries(), "{what}: works again");
                    }
                    return Ok(value);
                }
                Err(error) => {
                    let wait = backoff.next_wait();
                    let waiting_for = format!("{what}: {error} (try {})", backoff.tries());
                    if backoff.tries().is_power_of_two() {
                        warn!(slot = %self.id, epoch = %self.epoch, %error, tries = backoff.tries(), "{what}: trying again");
                    }
                    self.status.set_waiting_for(Some(waiting_for));
                    tokio::select! {
                        () = tokio::time::sleep(wait) => {}
                        () = self.abandoned.cancelled() => return Err(Exit::Stop(StopReason::Revoked)),
                    }
                }
            }
        }
    }

    fn transactional_id(&self) -> String {
        format!("{}.{}", self.definition.group_id(), self.id.local())
    }
}

/// A producer that has claimed the slot, and the record as it stands.
struct Claimed {
    producer: SlotProducer,
    record: CommittedRecord,
}

/// A slot ready to be worked on.
struct Open {
    claimed: Claimed,
    transform: Box<dyn Transform>,
    /// The definition has changed: go no further than the topic cursor, then open anew with what it says now.
    only_levels: bool,
    /// Where reading begins.
    read_from: NextOffset,
}
