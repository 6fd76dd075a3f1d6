//! The topics that a pipeline writes to: made when they are absent, and as wide as its sources. Makes no source topic
//! and takes no partition away.

use std::time::Duration;

use millrace_common::kafka::{SetUpError, client_config, ensure_topics, partition_counts};
use millrace_common::types::PipelineDefinition;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::time::Instant;

const DEADLINE: Duration = Duration::from_secs(15);
/// Between two looks at metadata that does not show a change yet.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A pipeline's topics can't be made ready.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    #[error(transparent)]
    SetUp(#[from] SetUpError),
    #[error("topic {topic:?} can't be extended to {wanted} partitions, as its source has: {reason}")]
    Extend { topic: String, wanted: i32, reason: String },
}

/// Makes the enriched and the invalid topic if they are absent, and extends the enriched one to `widest` partitions:
/// records keep their partition on the way. Tells what it did, in words.
pub(crate) async fn prepare(definition: &PipelineDefinition, widest: i32) -> Result<Vec<String>, TopicError> {
    let servers = &definition.bootstrap_servers;
    let mut sinks = vec![definition.invalid_topic.as_str()];
    sinks.extend(definition.enriched_topic.as_deref());
    let before = partition_counts(servers, &sinks).await?;
    let counts = ensure_topics(servers, &sinks, &sinks, widest).await?;
    let absent = sinks.iter().filter(|topic| !before.contains_key(**topic));
    let mut notes: Vec<String> =
        absent.map(|topic| format!("topic {topic} made with {widest} partitions")).collect();
    if let Some(enriched) = &definition.enriched_topic
        && let Some(count) = counts.get(enriched).filter(|count| **count < widest)
    {
        extend(servers, enriched, widest).await?;
        notes.push(format!("topic {enriched} extended from {count} to {widest} partitions"));
    }
    Ok(notes)
}

async fn extend(servers: &str, topic: &str, wanted: i32) -> Result<(), TopicError> {
    let failed = |reason: String| TopicError::Extend { topic: topic.to_owned(), wanted, reason };
    let admin: AdminClient<DefaultClientContext> =
        client_config(servers, "setup").create().map_err(|error| failed(error.to_string()))?;
    let options = AdminOptions::new().operation_timeout(Some(DEADLINE)).request_timeout(Some(DEADLINE));
    let total = usize::try_from(wanted).unwrap_or(0);
    let results = admin
        .create_partitions(&[NewPartitions::new(topic, total)], &options)
        .await
        .map_err(|error| failed(error.to_string()))?;
    let refused = results.into_iter().find_map(Result::err);
    let deadline = Instant::now() + DEADLINE;
    loop {
        let count = partition_counts(servers, &[topic]).await?.get(topic).copied().unwrap_or(0);
        if count >= wanted {
            // Somebody else may have been faster.
            return Ok(());
        }
        if let Some((_, code)) = &refused {
            return Err(failed(code.to_string()));
        }
        if Instant::now() > deadline {
            let slow = KafkaError::MetadataFetch(RDKafkaErrorCode::OperationTimedOut);
            return Err(failed(slow.to_string()));
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// Partitions of each source topic, in their order; the names of those that are absent.
pub(crate) async fn source_counts(
    servers: &str,
    topics: &[String],
) -> Result<Result<Vec<i32>, Vec<String>>, SetUpError> {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    let counts = partition_counts(servers, &names).await?;
    let absent: Vec<String> = topics.iter().filter(|topic| !counts.contains_key(*topic)).cloned().collect();
    if absent.is_empty() {
        Ok(Ok(topics.iter().filter_map(|topic| counts.get(topic).copied()).collect()))
    } else {
        Ok(Err(absent))
    }
}

/// As events have them: Kafka's counts are never negative.
pub(crate) fn as_event(counts: &[i32]) -> Vec<u32> {
    counts.iter().map(|count| u32::try_from(*count).unwrap_or(0)).collect()
}

/// The most partitions that one of the topics has.
pub(crate) fn widest(counts: &[i32]) -> i32 {
    counts.iter().copied().max().unwrap_or(1)
}
