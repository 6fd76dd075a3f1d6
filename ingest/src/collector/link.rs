//! Kafka as the collector sees it: not there yet, there, away for a while, or to be connected anew. One task keeps it.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use millrace_common::backoff::Backoff;
use millrace_common::http::Readiness;
use millrace_common::kafka::{SetUpError, ensure_topics};
use millrace_common::shutdown::Shutdown;
use rdkafka::error::KafkaError;
use tracing::{error, info, warn};

use super::Config;
use super::health::{Look, Watch, Way};
use super::producer::{Producer, Signals, Target};

/// Between two looks at how Kafka does.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// How long Kafka may take to say that it is there.
const ASK_PATIENCE: Duration = Duration::from_secs(2);
/// Records that wait so long without any acknowledgement are a reason to ask.
const STALL: Duration = Duration::from_secs(1);

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

    /// The producer, or what is waited for: there is none, or it is known that Kafka would not acknowledge.
    pub(super) fn producer(&self) -> Result<Arc<Producer>, String> {
        self.current()
            .filter(|producer| producer.health(Target::Raw).way() != Way::Shut)
            .ok_or_else(|| self.readiness.waiting_for().unwrap_or_else(|| "Kafka".to_owned()))
    }

    /// The producer, however Kafka does.
    pub(super) fn current(&self) -> Option<Arc<Producer>> {
        self.producer.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, producer: Option<Arc<Producer>>) -> Option<Arc<Producer>> {
        std::mem::replace(&mut *self.producer.write().unwrap_or_else(PoisonError::into_inner), producer)
    }

    /// Makes the topics and the producer, again and again while Kafka is away, and anew when a producer can't work
    /// any more; until `shutdown` begins. The producer stays for requests that still run.
    pub(super) async fn keep(self, config: Config, shutdown: Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        loop {
            let signals = Arc::new(Signals::default());
            let connected = tokio::select! {
                () = shutdown.begun() => return,
                connected = self.connect(&config, Arc::clone(&signals)) => connected,
            };
            match connected {
                Ok(producer) => {
                    self.set(Some(Arc::new(producer)));
                    self.readiness.set_ready();
                    backoff.reset();
                    tokio::select! {
                        () = shutdown.begun() => return,
                        () = signals.broken.notified() => {}
                        () = self.watch(&config, &signals) => {}
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

    /// Looks at how Kafka does until the producer is gone, and keeps the readiness by it.
    async fn watch(&self, config: &Config, signals: &Signals) {
        let start = Instant::now();
        // A record that failed was handed over this long ago at most; half of it leaves room for the last report.
        let patience = config.delivery_timeout / 2;
        let mut watches = Target::ALL.map(|_| Watch::new(Duration::ZERO, patience));
        let mut away = None;
        loop {
            let cut_off = tokio::select! {
                () = signals.cut_off.notified() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let Some(producer) = self.current() else { return };
            let stalled = producer.queued() > 0
                && watches.iter().all(|watch| watch.silent_for(start.elapsed()) > STALL);
            let must_ask = Target::ALL.iter().any(|target| Watch::must_ask(producer.health(*target)));
            let answers = if cut_off || stalled || must_ask { Some(ask(&producer).await) } else { None };
            let mut ways = [Way::Open; 2];
            for target in Target::ALL {
                let answer = answers.as_ref().map(|answers| matches!(answers[target as usize], Ok(true)));
                let look = Look { now: start.elapsed(), answers: answer };
                ways[target as usize] = watches[target as usize].look(producer.health(target), look);
            }
            let now_away = Target::ALL.into_iter().find(|target| ways[*target as usize] == Way::Shut);
            if now_away != away {
                let topic = now_away.map(|target| producer.topic(target));
                self.tell(config, topic, &reason(answers));
                away = now_away;
            }
        }
    }

    /// Logs a change, and keeps the readiness by the raw topic: without the invalid one most events are still taken.
    fn tell(&self, config: &Config, away: Option<&str>, reason: &str) {
        let kafka = config.kafka.as_str();
        let Some(topic) = away else {
            info!(kafka, "kafka answers again");
            return self.readiness.set_ready();
        };
        warn!(kafka, topic, reason, "kafka is away, clients are told to come again later");
        if topic == config.raw_topic {
            self.readiness.set_waiting(format!("Kafka at {kafka} ({reason})"));
        } else {
            self.readiness.set_ready();
        }
    }

    async fn connect(&self, config: &Config, signals: Arc<Signals>) -> Result<Producer, ConnectError> {
        let topics = [config.raw_topic.as_str(), config.invalid_topic.as_str()];
        let grown = [config.invalid_topic.as_str()];
        for (topic, partitions) in ensure_topics(&config.kafka, &topics, &grown, config.partitions).await? {
            info!(topic, partitions, "topic is there");
        }
        Ok(Producer::new(config, signals)?)
    }

    /// Takes the producer away and sends out what it still holds.
    pub(super) async fn close(&self) {
        retire(self.set(None)).await;
    }
}

/// Why Kafka counts as away, by what it said when it was asked.
fn reason(answers: Option<[Result<bool, KafkaError>; 2]>) -> String {
    match answers.map(|[raw, invalid]| Ok(raw? && invalid?)) {
        Some(Err(error)) => KafkaError::to_string(&error),
        Some(Ok(false)) => "no partition has a leader".to_owned(),
        Some(Ok(true)) | None => "it acknowledges nothing".to_owned(),
    }
}

/// What [`Producer::ask`] says; off the runtime, since it blocks.
async fn ask(producer: &Arc<Producer>) -> [Result<bool, KafkaError>; 2] {
    let asked = Arc::clone(producer);
    let answers = tokio::task::spawn_blocking(move || asked.ask(ASK_PATIENCE)).await;
    answers.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
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
