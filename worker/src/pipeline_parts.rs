//! What all slots of a pipeline share on this worker. Made by the first slot that needs it, in that slot's own task: a
//! Kafka that does not answer holds up its own pipeline only.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use millrace_common::backoff::Backoff;
use millrace_common::kafka::partition_counts;
use millrace_common::lake::{self, Lake};
use millrace_common::types::PipelineDefinition;
use tokio::sync::OnceCell;
use tracing::warn;

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
        let made = self.make_kafka_parts().await;
        let failure = made.as_ref().err().map(|error| (Instant::now(), error.clone()));
        *self.failed.lock().unwrap_or_else(PoisonError::into_inner) = failure;
        made
    }

    async fn make_kafka_parts(&self) -> Result<KafkaParts, String> {
        let PipelineDefinition { bootstrap_servers, invalid_topic, .. } = &*self.definition;
        let counts = partition_counts(bootstrap_servers, &[invalid_topic.as_str()])
            .await
            .map_err(|error| error.to_string())?;
        let invalid_partitions = counts.get(invalid_topic).copied();
        let invalid_partitions =
            invalid_partitions.ok_or_else(|| format!("topic {invalid_topic:?} does not exist"))?;
        // Last, so that it is never dropped half way: closing it blocks.
        let consumer = SourceConsumer::new(bootstrap_servers, &self.definition.group_id(), self.limits)
            .map_err(|error| format!("no consumer for {bootstrap_servers}: {error}"))?;
        Ok(KafkaParts { consumer: Arc::new(consumer), invalid_partitions })
    }
}
