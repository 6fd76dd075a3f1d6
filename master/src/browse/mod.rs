//! What lies in Kafka and in the lakes, for people: topics, messages, files, rows, bad events. It only reads, and what it
//! reads is nobody's decision. Each question has a deadline, and few run at a time.

pub(crate) mod bad;
pub(crate) mod kafka;
pub(crate) mod lake;
pub(crate) mod log;
pub(crate) mod messages;
pub(crate) mod rows;
mod sizes;
pub(crate) mod text;
pub(crate) mod topics;
pub(crate) mod trace;

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use millrace_common::tls::ClientFlags;
use millrace_common::types::PipelineDefinition;
use rdkafka::consumer::BaseConsumer;
use tokio::sync::Semaphore;

use crate::pipelines::Refusal;
use lake::Footer;

/// Questions to Kafka and to lakes at a time.
const QUESTIONS: usize = 4;
/// How long a question waits for its turn.
const TURN: Duration = Duration::from_secs(5);

/// Where it asks, and what it remembers. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Browse {
    turns: Arc<Semaphore>,
    /// How workers are asked for rows.
    access: ClientFlags,
    clients: Arc<Mutex<HashMap<String, Arc<Client>>>>,
    footers: Arc<Mutex<Footers>>,
    /// When a topic was last asked how far it is.
    seen: Arc<Mutex<HashMap<(String, String), Seen>>>,
}

/// Of files, which never change; by lake and key.
type Footers = HashMap<(String, String), Arc<Footer>>;

/// A connection to a Kafka.
pub(crate) struct Client(BaseConsumer);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    records: i64,
    records_per_second: Option<f64>,
}

impl Browse {
    pub(crate) fn new(access: ClientFlags) -> Self {
        Self {
            turns: Arc::new(Semaphore::new(QUESTIONS)),
            access,
            clients: Arc::default(),
            footers: Arc::default(),
            seen: Arc::default(),
        }
    }

    /// A place among those that ask.
    async fn turn(&self) -> Result<tokio::sync::OwnedSemaphorePermit, Refusal> {
        match tokio::time::timeout(TURN, Arc::clone(&self.turns).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            _ => Err(Refusal::Unavailable(format!("{QUESTIONS} questions run already: ask again"))),
        }
    }
}

/// The pipelines whose Kafka and lakes are shown: those that have slots, then the completed ones.
#[derive(Debug, Clone, Default)]
pub(crate) struct Known(pub(crate) Vec<PipelineDefinition>);

impl Known {
    /// By id, else by name.
    pub(crate) fn find(&self, target: &str) -> Result<&PipelineDefinition, Refusal> {
        let by_id = self.0.iter().find(|pipeline| pipeline.id.as_str() == target);
        by_id.or_else(|| self.0.iter().find(|pipeline| pipeline.name == target)).ok_or_else(|| {
            Refusal::Unknown(format!("no pipeline has the id or name {target:?}: the front page lists them"))
        })
    }

    /// The Kafkas that they name, each once.
    pub(crate) fn kafkas(&self) -> Vec<String> {
        let mut kafkas: Vec<String> = Vec::new();
        for pipeline in &self.0 {
            if !kafkas.contains(&pipeline.bootstrap_servers) {
                kafkas.push(pipeline.bootstrap_servers.clone());
            }
        }
        kafkas
    }

    /// Pipelines that read the topic.
    pub(crate) fn readers<'a>(
        &'a self,
        kafka: &'a str,
        topic: &'a str,
    ) -> impl Iterator<Item = (usize, &'a PipelineDefinition)> + 'a {
        self.0.iter().filter(move |pipeline| pipeline.bootstrap_servers == kafka).filter_map(
            move |pipeline| {
                let number = pipeline.source.topics.iter().position(|source| source == topic)?;
                Some((number, pipeline))
            },
        )
    }
}
