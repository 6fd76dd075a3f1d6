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

/// A submitted pipeline. Workers learn all that they need from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipelineDefinition {
    pub id: PipelineId,
    pub name: String,
    /// `host:port[,host:port…]` of Kafka.
    pub bootstrap_servers: String,
    pub source_topics: Vec<String>,
    /// The quarantine: where records go that can't be parsed.
    pub invalid_topic: String,
    pub lake: LakeTarget,
    pub roll: RollPolicy,
    /// When it was submitted, in milliseconds since 1970 UTC.
    pub submitted_at_ms: u64,
    pub user: String,
}

impl PipelineDefinition {
    /// Kafka group whose committed offsets are the slots' records.
    pub fn group_id(&self) -> String {
        format!("millrace.{}", self.id)
    }
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
