//! Grants in, slot tasks out. Owns every slot's task; knows nothing of connections.
//!
//! A lost session changes nothing here: only a revoke, a newer grant, a fence or the process's own stop ends a
//! slot.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_common::lake::Lake;
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
use crate::kafka::ConsumerLimits;
use crate::pipeline_parts::PipelineParts;
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
                biased;
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
        let Grant { slot: id, epoch, opened, definition, deaths, skip_lost } = grant;
        let prepared = match self.window_fits(&definition) {
            Ok(()) => self.parts_of(definition),
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
        let shown = Shown {
            status: Arc::clone(&status),
            latest: Arc::new(LatestRequests::default()),
            definition: Arc::clone(&parts.definition),
            lake: parts.lake.clone(),
        };
        let running = RunningSlot {
            epoch,
            revoked: CancellationToken::new(),
            abandoned: CancellationToken::new(),
            finished: CancellationToken::new(),
            next: None,
        };
        let (revoked, abandoned) = (running.revoked.clone(), running.abandoned.clone());
        let finished = running.finished.clone();
        let (account, compute) =
            (self.parts.budget.open_account(&id), self.parts.compute.metered(status.meter()));
        let (transforms, trial) = (self.parts.transforms.clone(), self.parts.trial.clone());
        info!(slot = %id, %epoch, opened, deaths, "granted");
        self.parts.running.lock().insert(id.clone(), shown.clone());
        self.slots.insert(id.clone(), running);
        self.parts.changed.notify_one();
        let ended = self.ended.0.clone();
        self.parts.shutdown.spawn(format!("slot {id}"), async move {
            let _finished = finished.drop_guard();
            let kafka = tokio::select! {
                kafka = parts.kafka(&status) => Some(kafka),
                () = revoked.cancelled() => None,
                () = abandoned.cancelled() => None,
            };
            let reason = match kafka {
                Some(kafka) => {
                    slot::run(Slot {
                        id: id.clone(),
                        epoch,
                        opened,
                        definition: shown.definition,
                        topic,
                        invalid_partition: id.partition % kafka.invalid_partitions,
                        consumer: kafka.consumer,
                        lake: shown.lake,
                        transforms,
                        deaths,
                        skip_lost,
                        trial,
                        rate: parts.rate.clone(),
                        account,
                        compute,
                        status,
                        latest: shown.latest,
                        revoked,
                        abandoned,
                    })
                    .await
                }
                None => StopReason::Revoked,
            };
            // Whoever lets go last closes the consumer, which blocks.
            blocking(move || drop(parts)).await;
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
                let closing = async move { blocking(move || drop(parts)).await };
                self.parts.shutdown.spawn(format!("closing the consumer of {pipeline}"), closing);
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
    fn parts_of(&mut self, definition: PipelineDefinition) -> Result<Arc<PipelineParts>, String> {
        if let Some(parts) = self.pipelines.get(&definition.id)
            && parts.serve(&definition)
        {
            return Ok(Arc::clone(parts));
        }
        let limits = ConsumerLimits { queued_bytes_per_partition: self.parts.division.fetch_bytes_per_slot };
        let id = definition.id.clone();
        let parts = Arc::new(PipelineParts::new(definition, limits)?);
        self.pipelines.insert(id, Arc::clone(&parts));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::budget::divide;

    fn grant(pipeline: &str, kafka: &str, topic: u16) -> Order {
        let id: PipelineId = pipeline.parse().expect("id");
        let definition = PipelineDefinition::new(id.clone(), "p", kafka, vec!["raw".into()], "invalid");
        let slot = SlotId { pipeline: id, topic, partition: 0 };
        Order::Grant(Box::new(Grant {
            slot,
            epoch: Epoch(1),
            opened: false,
            definition,
            deaths: 0,
            skip_lost: None,
        }))
    }

    #[tokio::test]
    async fn a_kafka_that_does_not_answer_holds_up_its_own_pipeline_only() {
        // It takes connections and never says a word.
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let kafka = silent.local_addr().expect("address").to_string();
        let (stopped, mut told) = mpsc::channel(16);
        let division = divide(256 << 20, 2);
        let (running, shutdown) = (RunningSlots::default(), Shutdown::new());
        let manager = Manager::new(Parts {
            budget: Budget::new(division.buffer_bytes),
            division,
            compute: ComputePool::new(2),
            transforms: Registry::default(),
            trial: Trial { program: "/nowhere".into(), arguments: Vec::new() },
            running: running.clone(),
            changed: Arc::new(Notify::new()),
            stopped,
            shutdown: shutdown.clone(),
        });
        let (orders, to_carry_out) = mpsc::channel(16);
        let managing = shutdown.spawn("manager", manager.run(to_carry_out));
        orders.send(grant("silent-1", &kafka, 0)).await.expect("taken");
        let _connected = silent.accept().await.expect("it is asked");
        // Another pipeline's grant, which can't be taken, is answered meanwhile.
        orders.send(grant("other-1", &kafka, 7)).await.expect("taken");
        let answer = told.recv().await.expect("an answer");
        assert!(matches!(answer.reason, StopReason::Failed { .. }), "{answer:?}");
        let shown: Vec<_> = running.reports().into_iter().map(|report| report.slot.to_string()).collect();
        assert_eq!(shown, ["silent-1/0-0"], "the waiting slot is shown");
        // So is its own revoke.
        let slot: SlotId = "silent-1/0-0".parse().expect("slot");
        orders.send(Order::Revoke { slot: slot.clone(), epoch: Epoch(1) }).await.expect("taken");
        let answer = told.recv().await.expect("an answer");
        assert_eq!((answer.slot, answer.reason), (slot, StopReason::Revoked));
        shutdown.begin();
        managing.await.expect("no panic");
    }

    #[test]
    fn slots_share_their_parts_whatever_the_pipelines_weight() {
        let definition =
            PipelineDefinition::new("p-1".parse().expect("id"), "p", "k:1", vec!["raw".into()], "invalid");
        let limits = ConsumerLimits { queued_bytes_per_partition: 1 << 20 };
        let parts = PipelineParts::new(definition.clone(), limits).expect("parts");
        assert!(parts.serve(&PipelineDefinition { weight: 7, ..definition.clone() }));
        assert!(!parts.serve(&PipelineDefinition { max_rate: Some(5), ..definition }));
    }
}
