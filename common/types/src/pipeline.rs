//! The definition of a pipeline: where it reads, what it writes, and when it rolls its files.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::PipelineId;

/// Where a secret is kept. The value itself never travels and is never logged.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SecretReference {
    /// Name of an environment variable of the process that uses it.
    Environment(String),
    /// Path of a file on the host that uses it.
    File(String),
}

/// As flags and files have it: `env:NAME` or `file:PATH`.
impl fmt::Display for SecretReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment(name) => write!(f, "env:{name}"),
            Self::File(path) => write!(f, "file:{path}"),
        }
    }
}

impl FromStr for SecretReference {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            Some(("env", name)) if !name.is_empty() => Ok(Self::Environment(name.to_owned())),
            Some(("file", path)) if path.starts_with('/') => Ok(Self::File(path.to_owned())),
            // The value is not repeated: it may be the secret itself.
            _ => {
                Err("expected where the secret is kept, never the secret: env:NAME or file:/PATH".to_owned())
            }
        }
    }
}

/// The object store prefix that a pipeline fills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LakeTarget {
    /// `s3://bucket/prefix` or `file:///folder/prefix`, without a trailing slash.
    pub url: String,
    /// `http://host:port` of a server that is not AWS's own.
    pub endpoint: Option<String>,
    pub region: Option<String>,
    /// By default the environment variable `AWS_ACCESS_KEY_ID` of the worker.
    pub access_key_id: SecretReference,
    /// By default the environment variable `AWS_SECRET_ACCESS_KEY` of the worker.
    pub secret_access_key: SecretReference,
}

impl LakeTarget {
    /// The lake at `url`, with the worker's usual credentials and AWS's own server.
    pub fn new(url: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            endpoint: None,
            region: None,
            access_key_id: SecretReference::Environment("AWS_ACCESS_KEY_ID".into()),
            secret_access_key: SecretReference::Environment("AWS_SECRET_ACCESS_KEY".into()),
        }
    }
}

/// When a slot closes its files and commits: whichever limit is reached first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollPolicy {
    /// Encoded and buffered bytes of all open files of the slot.
    pub max_bytes: u64,
    /// Rows of all open files of the slot.
    pub max_rows: u64,
    /// Age of the oldest row, in milliseconds since it was read.
    pub max_age_ms: u64,
    /// Wall-clock time without a new record after which open rows are flushed, in milliseconds.
    pub max_idle_ms: u64,
}

impl Default for RollPolicy {
    fn default() -> Self {
        Self { max_bytes: 128 << 20, max_rows: 5_000_000, max_age_ms: 60_000, max_idle_ms: 30_000 }
    }
}

/// Where a source partition that was never opened begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartPosition {
    /// The first record that the topic still holds.
    #[default]
    Earliest,
    /// What comes after the pipeline's start.
    Latest,
    /// The first record of this time or later, in milliseconds since 1970 UTC.
    Timestamp(u64),
}

/// What a pipeline reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Source {
    /// A topic's number in [`crate::SlotId`] is its place here.
    pub topics: Vec<String>,
    pub start: StartPosition,
    /// Partitions of each topic when the pipeline was submitted. Later ones are read from their first record,
    /// whatever `start` says: nobody could have read them before.
    pub initial_partitions: Vec<i32>,
}

impl Source {
    /// Where partition `partition` of the topic numbered `topic` begins.
    pub fn start_of(&self, topic: usize, partition: i32) -> StartPosition {
        match self.initial_partitions.get(topic) {
            Some(initial) if partition >= *initial => StartPosition::Earliest,
            _ => self.start,
        }
    }
}

/// What becomes of a record: a kind that the transforms' registry knows, and its options.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TransformDefinition {
    pub kind: String,
    #[serde(default)]
    pub options: serde_json::Map<String, serde_json::Value>,
}

/// A submitted pipeline. Workers learn all that they need from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineDefinition {
    pub id: PipelineId,
    pub name: String,
    /// `host:port[,host:port…]` of Kafka.
    pub bootstrap_servers: String,
    pub source: Source,
    pub transform: TransformDefinition,
    /// Transforms that it had before it was resumed with another one, the oldest first: a slot whose sinks stand at
    /// different offsets finishes that stretch with the one that it began it with.
    #[serde(default)]
    pub earlier_transforms: Vec<TransformDefinition>,
    /// A record is a client duplicate if its key occurred among this many offsets before it; 0 turns that off.
    pub duplicate_window: u64,
    /// The topic sink: where enriched records go. At least one of it and `lake` is there.
    pub enriched_topic: Option<String>,
    /// The quarantine: where records go that can't be parsed or enriched.
    pub invalid_topic: String,
    pub lake: Option<LakeTarget>,
    /// Of the lake.
    pub roll: RollPolicy,
    /// How often the topic sink commits, in milliseconds.
    pub commit_interval_ms: u64,
    /// The most records a second that one worker reads for this pipeline.
    pub max_rate: Option<u64>,
    /// Its share of the workers' places, when there are fewer of those than slots. At least 1.
    #[serde(default = "default_weight")]
    pub weight: u32,
    /// When it was submitted, in milliseconds since 1970 UTC.
    pub submitted_at_ms: u64,
    pub user: String,
}

/// Offsets that the duplicate rule looks back, unless a pipeline says otherwise.
pub const DEFAULT_DUPLICATE_WINDOW: u64 = 100_000;
/// A pipeline's share, unless it says otherwise.
pub const DEFAULT_WEIGHT: u32 = 1;
/// How often the topic sink commits, unless a pipeline says otherwise.
pub const DEFAULT_COMMIT_INTERVAL_MS: u64 = 1000;

impl PipelineDefinition {
    /// A pipeline of clicks with default limits that reads `topics` from their first records, without sinks yet.
    pub fn new(
        id: PipelineId,
        name: &str,
        bootstrap_servers: &str,
        topics: Vec<String>,
        invalid_topic: &str,
    ) -> Self {
        Self {
            id,
            name: name.to_owned(),
            bootstrap_servers: bootstrap_servers.to_owned(),
            source: Source { topics, start: StartPosition::Earliest, initial_partitions: Vec::new() },
            transform: TransformDefinition { kind: "clicks".into(), options: serde_json::Map::new() },
            earlier_transforms: Vec::new(),
            duplicate_window: DEFAULT_DUPLICATE_WINDOW,
            enriched_topic: None,
            invalid_topic: invalid_topic.to_owned(),
            lake: None,
            roll: RollPolicy::default(),
            commit_interval_ms: DEFAULT_COMMIT_INTERVAL_MS,
            max_rate: None,
            weight: DEFAULT_WEIGHT,
            submitted_at_ms: 0,
            user: String::new(),
        }
    }

    /// Kafka group whose committed offsets are the slots' records.
    pub fn group_id(&self) -> String {
        format!("millrace.{}", self.id)
    }

    /// The lake's URL; empty for a pipeline without lake.
    pub fn lake_url(&self) -> &str {
        self.lake.as_ref().map_or("", |lake| &lake.url)
    }
}

fn default_weight() -> u32 {
    DEFAULT_WEIGHT
}

/// One thing that is wrong with a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    pub key: String,
    pub value: String,
    pub accepted: String,
}

/// A definition that is refused, with everything that is wrong with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidDefinition(pub Vec<Problem>);

impl fmt::Display for InvalidDefinition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the pipeline's definition is refused:")?;
        for problem in &self.0 {
            write!(f, "\n  {} = {:?}: expected {}", problem.key, problem.value, problem.accepted)?;
        }
        Ok(())
    }
}

impl std::error::Error for InvalidDefinition {}
