//! Why the check could not be made at all. A check that was made and found faults is no error.

use millrace_common::kafka::SetUpError;
use millrace_common::lake::LakeError;
use millrace_common::ledger::ReadError;
use rdkafka::error::KafkaError;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    OpenLake(#[from] LakeError),
    #[error("the lake {lake} has no {key}: no pipeline has written there; check --lake and --s3-endpoint")]
    NoPipeline { lake: String, key: &'static str },
    #[error("{key} of the lake {lake} can't be read: {reason}; expected a pipeline's definition as JSON")]
    Definition { lake: String, key: &'static str, reason: String },
    #[error("{action} failed: {source}; check --lake and --s3-endpoint")]
    Lake {
        action: String,
        #[source]
        source: object_store::Error,
    },
    #[error(transparent)]
    Topics(#[from] SetUpError),
    #[error("topic {topic:?} of pipeline {pipeline} does not exist on Kafka at {servers}; check --kafka")]
    NoTopic { topic: String, pipeline: String, servers: String },
    #[error("{action} failed: {source}; check --kafka")]
    Kafka {
        action: String,
        #[source]
        source: KafkaError,
    },
    #[error(
        "{topic}/{partition}: a transaction below offset {end} is still open, so nobody can read up to it; try again"
    )]
    Undecided { topic: String, partition: i32, end: i64 },
    #[error("the ledger {path} can't be read: {source}")]
    Ledger {
        path: String,
        #[source]
        source: ReadError,
    },
    #[error("what the pipeline's transform makes of its records can't be recomputed: {reason}")]
    Transform { reason: String },
    #[error(
        "--ledger can't be compared with pipeline {pipeline}: its transform leaves events out or changes them; check the \
         pipeline without --ledger"
    )]
    LedgerUnfit { pipeline: String },
    #[error("pipeline {pipeline:?} can't be asked for at {url}: {reason}; check --pipeline and --page")]
    NoDefinition { pipeline: String, url: String, reason: String },
    #[error("stopped before the check was complete")]
    Interrupted,
}
