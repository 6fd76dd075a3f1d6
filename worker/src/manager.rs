//! Grants in, slot tasks out. Owns every slot's task; knows nothing of connections.
//!
//! A lost session changes nothing here: only a revoke, a newer grant, a fence or the process's own stop ends a
//! slot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_common::lake::{self, Lake};
use millrace_common::shutdown::Shutdown;
use millrace_common::types::{Epoch, PipelineDefinition, PipelineId, SlotId, SlotReport, StopReason};
use millrace_common::units::format_bytes;
use millrace_common::window;
use millrace_proto::Grant;
use millrace_transform::Registry;
use tokio::sync::{Notify, mpsc};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::budget::{Budget, Division};
use crate::compute::{ComputePool, blocking};
use crate::kafka::{ConsumerLimits, SourceConsumer};
use crate::rate::Rate;
use crate::slot::{self, LatestRequests, Slot, SlotStatus, Trial};

/// How long a revoked slot may take for its last commit; its successor redoes what is not committed.
const LAST_COMMIT: Duration = Duration::from_secs(10);
/// Grants and ends that may wait to be handled.
const QUEUE: usize = 1024;

/// What the master told.
#[derive(Debug)]
pub(crate) enum Order {
    Grant(Box<Grant>),
    Revoke { slot: SlotId, epoch: Epoch },
}

/// A slot that stopped here.
#[derive(Debug, Clone)]
pub(crate) struct Stopped {
    pub(crate) slot: SlotId,
    pub(crate) epoch: Epoch,
    pub(crate) reason: StopReason,
}

/// The slots that run, as heartbeats tell them.
#[derive(Debug, Clone, Default)]
pub(crate) struct RunningSlots(Arc<Mutex<BTreeMap<SlotId, Shown>>>);

/// What others may see of a running slot.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) status: Arc<SlotStatus>,
    pub(crate) latest: Arc<LatestRequests>,
    pub(crate) definition: Arc<PipelineDefinition>,
    pub(crate) lake: Option<Lake>,
}

impl RunningSlots {
    pub(crate) fn reports(&self) -> Vec<SlotReport> {
        self.lock().values().map(|shown| shown.status.report()).collect()
    }

    /// Everything that is shown of the slots that run.
    pub(crate) fn all(&self) -> BTreeMap<SlotId, Shown> {
        self.lock().clone()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<SlotId, Shown>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What all slots of a pipeline share on this worker.
struct PipelineParts {
    definition: Arc<PipelineDefinition>,
    consumer: Arc<SourceConsumer>,
    lake: Option<Lake>,
    invalid_partitions: i32,
    rate: Option<Arc<Rate>>,
}

struct RunningSlot {
    epoch: Epoch,
    revoked: CancellationToken,
    abandoned: CancellationToken,
    /// Cancelled when the task has ended.
    finished: CancellationToken,
    /// A newer grant of the same slot, to begin when this one has ended.
    next: Option<Box<Grant>>,
}

/// What the manager works with, given once.
pub(crate) struct Parts {
    pub(crate) division: Division,
    pub(crate) budget: Arc<Budget>,
    pub(crate) compute: ComputePool,
    pub(crate) transforms: Registry,
    pub(crate) trial: Trial,
    pub(crate) running: RunningSlots,
    /// Told at each change that the master should hear of at once.
    pub(crate) changed: Arc<Notify>,
    pub(crate) stopped: mpsc::Sender<Stopped>,
    pub(crate) shutdown: Shutdown,
}

/// Starts and stops slots.
pub(crate) struct Manager {
    parts: Parts,
    slots: BTreeMap<SlotId, RunningSlot>,
    pipelines: BTreeMap<PipelineId, Arc<PipelineParts>>,
    ended: (mpsc::Sender<Stopped>, mpsc::Receiver<Stopped>),
}

impl Manager {
    pub(crate) fn new(parts: Parts) -> Self {
        Self { parts, slots: BTreeMap::new(), pipelines: BTreeMap::new(), ended: mpsc::channel(QUEUE) }
    }

    /// Carries out orders until the process stops; then gives up every slot after a last commit.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        loop {
            tokio::select! {
                () = self.parts.shutdown.begun() => break,
                Some(ended) = self.ended.1.recv() => self.on_ended(ended).await,
                Some(order) = orders.recv() => self.on_order(order).await,
            }
        }
        if !self.slots.is_empty() {
            info!(slots = self.slots.len(), "committing and giving up all slots");
        }
        for (id, slot) in &mut self.slots {
            slot.next = None;
            self.parts.shutdown.spawn(format!("last commit of {id}"), last_commit(slot));
        }
        while !self.slots.is_empty() {
            // The successors are found by the end of our session: telling each stop would only bring the slots
            // back to us.
            if let Some(ended) = self.ended.1.recv().await {
                self.slots.remove(&ended.slot);
                self.parts.running.lock().remove(&ended.slot);
            }
        }
    }

    async fn on_order(&mut self, order: Order) {
        match order {
            Order::Grant(grant) => {
                if let Some(running) = self.slots.get_mut(&grant.slot) {
                    if running.epoch < grant.epoch {
                        // Ours is deposed by our own new grant: what it has not committed is redone.
                        running.abandoned.cancel();
                        running.next = Some(grant);
                    }
                    return;
                }
                self.start(*grant).await;
            }
            Order::Revoke { slot, epoch } => match self.slots.get_mut(&slot) {
                Some(running) if running.epoch <= epoch => {
                    running.next = None;
                    self.parts.shutdown.spawn(format!("last commit of {slot}"), last_commit(running));
                }
                Some(_) => {}
                // Already gone: the master waits for the word.
                None => self.tell(Stopped { slot, epoch, reason: StopReason::Revoked }).await,
            },
        }
    }

    async fn start(&mut self, grant: Grant) {
        let Grant { slot: id, epoch, opened, definition, deaths } = grant;
        let prepared = match self.window_fits(&definition) {
            Ok(()) => self.parts_of(definition).await,
            Err(refusal) => Err(refusal),
        };
        let found = prepared.and_then(|parts| {
            let topic = parts.definition.source.topics.get(usize::from(id.topic)).cloned();
            let topic =
                topic.ok_or_else(|| format!("the pipeline has no source topic number {}", id.topic))?;
            Ok((parts, topic))
        });
        let (parts, topic) = match found {
            Ok(found) => found,
            Err(detail) => {
                warn!(slot = %id, %epoch, detail, "grant can't be taken");
                self.tell(Stopped { slot: id, epoch, reason: StopReason::Failed { detail } }).await;
                return;
            }
        };
        let status = SlotStatus::new(id.clone(), epoch, Arc::clone(&self.parts.changed));
        let latest = Arc::new(LatestRequests::default());
        let (revoked, abandoned) = (CancellationToken::new(), CancellationToken::new());
        let finished = CancellationToken::new();
        let slot = Slot {
            id: id.clone(),
            epoch,
            opened,
            definition: Arc::clone(&parts.definition),
            topic,
            invalid_partition: id.partition % parts.invalid_partitions,
            consumer: Arc::clone(&parts.consumer),
            lake: parts.lake.clone(),
            transforms: self.parts.transforms.clone(),
            deaths,
            trial: self.parts.trial.clone(),
            rate: parts.rate.clone(),
            account: self.parts.budget.open_account(&id),
            compute: self.parts.compute.metered(status.meter()),
            status: Arc::clone(&status),
            latest: Arc::clone(&latest),
            revoked: revoked.clone(),
            abandoned: abandoned.clone(),
        };
        info!(slot = %id, %epoch, opened, deaths, "granted");
        let (definition, lake) = (Arc::clone(&parts.definition), parts.lake.clone());
        self.parts.running.lock().insert(id.clone(), Shown { status, latest, definition, lake });
        self.slots.insert(
            id.clone(),
            RunningSlot { epoch, revoked, abandoned, finished: finished.clone(), next: None },
        );
        self.parts.changed.notify_one();
        let ended = self.ended.0.clone();
        self.parts.shutdown.spawn(format!("slot {id}"), async move {
            let _finished = finished.drop_guard();
            let reason = slot::run(slot).await;
            // The receiver lives as long as there are slots.
            let _ = ended.send(Stopped { slot: id, epoch, reason }).await;
        });
    }

    async fn on_ended(&mut self, ended: Stopped) {
        self.parts.running.lock().remove(&ended.slot);
        let next = self.slots.remove(&ended.slot).and_then(|slot| slot.next);
        let unused: Vec<PipelineId> = self
            .pipelines
            .keys()
            .filter(|pipeline| !self.slots.keys().any(|slot| slot.pipeline == **pipeline))
            .cloned()
            .collect();
        if let Some(grant) = next {
            self.start(*grant).await;
            return;
        }
        for pipeline in unused {
            if let Some(parts) = self.pipelines.remove(&pipeline) {
                // Closing the consumer blocks.
                blocking(move || drop(parts)).await;
            }
        }
        self.tell(ended).await;
    }

    async fn tell(&self, stopped: Stopped) {
        // The session forwards it, or drops it while there is none: the next registration tells the same.
        let _ = self.parts.stopped.send(stopped).await;
    }

    /// The windows of the duplicate rule may take half of the buffers' budget.
    fn window_fits(&self, definition: &PipelineDefinition) -> Result<(), String> {
        let window = |definition: &PipelineDefinition| definition.duplicate_window * window::BYTES_PER_OFFSET;
        let running = self.parts.running.lock();
        let taken: u64 = running.values().map(|shown| window(&shown.definition)).sum();
        let budget = self.parts.division.buffer_bytes / 2;
        if taken + window(definition) <= budget {
            return Ok(());
        }
        Err(format!(
            "the duplicate windows of {} slots would take {} of memory, more than {}: give the worker more --memory, or \
             the pipeline a smaller duplicate_window",
            running.len() + 1,
            format_bytes(taken + window(definition)),
            format_bytes(budget)
        ))
    }

    /// The pipeline's parts, made at its first grant and again when its definition has changed.
    async fn parts_of(&mut self, definition: PipelineDefinition) -> Result<Arc<PipelineParts>, String> {
        if let Some(parts) = self.pipelines.get(&definition.id)
            && *parts.definition == definition
        {
            return Ok(Arc::clone(parts));
        }
        let lake = definition.lake.as_ref().map(lake::open).transpose().map_err(|error| error.to_string())?;
        let limits = ConsumerLimits { queued_bytes_per_partition: self.parts.division.fetch_bytes_per_slot };
        let consumer = SourceConsumer::new(&definition.bootstrap_servers, &definition.group_id(), limits)
            .map_err(|error| format!("no consumer for {}: {error}", definition.bootstrap_servers))?;
        let invalid = definition.invalid_topic.as_str();
        let counts = millrace_common::kafka::partition_counts(&definition.bootstrap_servers, &[invalid])
            .await
            .map_err(|error| error.to_string())?;
        let invalid_partitions =
            counts.get(invalid).copied().ok_or_else(|| format!("topic {invalid:?} does not exist"))?;
        let parts = Arc::new(PipelineParts {
            definition: Arc::new(definition.clone()),
            consumer: Arc::new(consumer),
            lake,
            invalid_partitions,
            rate: definition.max_rate.map(|rate| Arc::new(Rate::new(rate, std::time::Instant::now()))),
        });
        self.pipelines.insert(definition.id.clone(), Arc::clone(&parts));
        Ok(parts)
    }
}

/// Asks for the slot's last commit, and gives it up without one when that takes too long.
fn last_commit(slot: &RunningSlot) -> impl Future<Output = ()> + Send + 'static {
    slot.revoked.cancel();
    let (abandoned, finished) = (slot.abandoned.clone(), slot.finished.clone());
    async move {
        tokio::select! {
            () = tokio::time::sleep(LAST_COMMIT) => abandoned.cancel(),
            () = finished.cancelled() => {}
        }
    }
}
