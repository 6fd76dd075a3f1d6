//! Kafka as the collector sees it: not there yet, there, or to be connected anew. One task keeps it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use millrace_common::backoff::Backoff;
use millrace_common::http::Readiness;
use millrace_common::kafka::{SetUpError, ensure_topics};
use millrace_common::shutdown::Shutdown;
use rdkafka::error::KafkaError;
use tokio::sync::Notify;
use tracing::{error, info, warn};

use super::Config;
use super::producer::Producer;

/// The producer, while there is one.
#[derive(Debug, Clone)]
pub(super) struct Link {
    producer: Arc<RwLock<Option<Arc<Producer>>>>,
    readiness: Readiness,
}

#[derive(Debug, thiserror::Error)]
enum ConnectError {
    #[error(transparent)]
    Topics(#[from] SetUpError),
    #[error("the producer can't be made: {0}")]
    Producer(#[from] KafkaError),
}

impl Link {
    pub(super) fn new(readiness: Readiness) -> Self {
        Self { producer: Arc::default(), readiness }
    }

    /// The producer, or what is waited for.
    pub(super) fn producer(&self) -> Result<Arc<Producer>, String> {
        let producer = self.producer.read().unwrap_or_else(PoisonError::into_inner).clone();
        producer.ok_or_else(|| self.readiness.waiting_for().unwrap_or_else(|| "Kafka".to_owned()))
    }

    fn set(&self, producer: Option<Arc<Producer>>) -> Option<Arc<Producer>> {
        std::mem::replace(&mut *self.producer.write().unwrap_or_else(PoisonError::into_inner), producer)
    }

    /// Makes the topics and the producer, again and again while Kafka is away, and anew when a producer can't work
    /// any more; until `shutdown` begins. The producer stays for requests that still run.
    pub(super) async fn keep(self, config: Config, shutdown: Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let broken = Arc::new(Notify::new());
            let connected = tokio::select! {
                () = shutdown.begun() => return,
                connected = self.connect(&config, Arc::clone(&broken)) => connected,
            };
            match connected {
                Ok(producer) => {
                    self.set(Some(Arc::new(producer)));
                    self.readiness.set_ready();
                    backoff.reset();
                    tokio::select! {
                        () = shutdown.begun() => return,
                        () = broken.notified() => {}
                    }
                    self.readiness.set_waiting(format!("Kafka at {}", config.kafka));
                    retire(self.set(None)).await;
                }
                Err(error) => {
                    let wait = backoff.next_wait();
                    warn!(kafka = config.kafka.as_str(), %error, ?wait, "kafka can't be used, trying again");
                    self.readiness.set_waiting(error.to_string());
                    tokio::select! {
                        () = shutdown.begun() => return,
                        () = tokio::time::sleep(wait) => {}
                    }
                }
            }
        }
    }

    async fn connect(&self, config: &Config, broken: Arc<Notify>) -> Result<Producer, ConnectError> {
        let topics = [config.raw_topic.as_str(), config.invalid_topic.as_str()];
        let grown = [config.invalid_topic.as_str()];
        for (topic, partitions) in ensure_topics(&config.kafka, &topics, &grown, config.partitions).await? {
            info!(topic, partitions, "topic is there");
        }
        Ok(Producer::new(config, self.readiness.clone(), broken)?)
    }

    /// Takes the producer away and sends out what it still holds.
    pub(super) async fn close(&self) {
        retire(self.set(None)).await;
    }
}

/// Flushes `producer` and, if no request holds it any more, ends it; off the runtime, since both block.
async fn retire(producer: Option<Arc<Producer>>) {
    let Some(producer) = producer else { return };
    let ended = tokio::task::spawn_blocking(move || {
        if let Err(error) = producer.flush() {
            // Not acknowledged to anybody: their requests were told to retry, or their clients are gone.
            warn!(%error, records = producer.queued(), "records were not acknowledged by kafka in time");
        }
    });
    if let Err(panicked) = ended.await {
        error!(error = %panicked, "the producer's end failed");
    }
}
