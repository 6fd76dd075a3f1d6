//! What all slots of a pipeline share on this worker. Made by the first slot that needs it, in that slot's own task: a
//! Kafka that does not answer holds up its own pipeline only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_common::backoff::Backoff;
use millrace_common::lake::{self, Lake};
use millrace_common::types::PipelineDefinition;
use tokio::sync::OnceCell;
use tracing::warn;

use crate::compute::blocking;
use crate::kafka::{ConsumerLimits, SourceConsumer};
use crate::rate::Rate;
use crate::slot::SlotStatus;

/// The parts of one pipeline under one definition.
pub(crate) struct PipelineParts {
    pub(crate) definition: Arc<PipelineDefinition>,
    pub(crate) lake: Option<Lake>,
    pub(crate) rate: Option<Arc<Rate>>,
    limits: ConsumerLimits,
    kafka: OnceCell<KafkaParts>,
    /// When Kafka was last asked in vain, and why.
    failed: Mutex<Option<(Instant, String)>>,
}

/// Of the question to Kafka. It blocks a thread, for which the end of the process waits.
const DEADLINE: Duration = Duration::from_secs(4);
/// Slots that ask again within this time share the failure of the one before.
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// What only Kafka's answer makes.
#[derive(Debug, Clone)]
pub(crate) struct KafkaParts {
    pub(crate) consumer: Arc<SourceConsumer>,
    /// Partitions of the invalid topic.
    pub(crate) invalid_partitions: i32,
}

impl PipelineParts {
    /// Makes what needs no answer from anybody.
    ///
    /// # Errors
    /// A lake whose address or credentials are not usable.
    pub(crate) fn new(definition: PipelineDefinition, limits: ConsumerLimits) -> Result<Self, String> {
        let lake = definition.lake.as_ref().map(lake::open).transpose().map_err(|error| error.to_string())?;
        let rate = definition.max_rate.map(|rate| Arc::new(Rate::new(rate, Instant::now())));
        let (kafka, failed) = (OnceCell::new(), Mutex::new(None));
        Ok(Self { definition: Arc::new(definition), lake, rate, limits, kafka, failed })
    }

    /// Whether slots of `definition` can share these parts. Its weight is the scheduler's business.
    pub(crate) fn serve(&self, definition: &PipelineDefinition) -> bool {
        PipelineDefinition { weight: self.definition.weight, ..definition.clone() } == *self.definition
    }

    /// The parts that need Kafka's answer: tried until it comes, by one slot at a time, with `status` telling what is
    /// waited for. May be dropped at any time.
    pub(crate) async fn kafka(&self, status: &SlotStatus) -> KafkaParts {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(3));
        loop {
            match self.kafka.get_or_try_init(|| self.ask_kafka()).await {
                Ok(parts) => {
                    status.set_waiting_for(None);
                    return parts.clone();
                }
                Err(error) => {
                    warn!(pipeline = %self.definition.id, error, "kafka is not ready for the pipeline");
                    status.set_waiting_for(Some(error));
                    tokio::time::sleep(backoff.next_wait()).await;
                }
            }
        }
    }

    async fn ask_kafka(&self) -> Result<KafkaParts, String> {
        let before = self.failed.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some((_, error)) = before.filter(|(at, _)| at.elapsed() < ASK_AGAIN) {
            return Err(error);
        }
        let (definition, limits) = (Arc::clone(&self.definition), self.limits);
        let made = blocking(move || make_kafka_parts(&definition, limits)).await;
        let failure = made.as_ref().err().map(|error| (Instant::now(), error.clone()));
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        made
    }
}

/// Blocks, and so does the drop of what it makes.
fn make_kafka_parts(definition: &PipelineDefinition, limits: ConsumerLimits) -> Result<KafkaParts, String> {
    let (servers, topic) = (&definition.bootstrap_servers, definition.invalid_topic.as_str());
    let consumer = SourceConsumer::new(servers, &definition.group_id(), limits)
        .map_err(|error| format!("no consumer for {servers}: {error}"))?;
    let invalid_partitions = consumer
        .partition_count(topic, DEADLINE)
        .map_err(|error| format!("Kafka at {servers} can't be asked: {error}"))?
        .ok_or_else(|| format!("topic {topic:?} does not exist"))?;
    Ok(KafkaParts { consumer: Arc::new(consumer), invalid_partitions })
}
