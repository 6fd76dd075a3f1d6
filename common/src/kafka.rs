//! Kafka set-up: clients' shared settings, and topics made when they are absent.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::producer::{BaseProducer, Producer};

/// Deadline of one administrative request.
const ADMIN_DEADLINE: Duration = Duration::from_secs(15);
/// Deadline of one look at the metadata. It blocks a thread, for which the end of the process waits.
const METADATA_DEADLINE: Duration = Duration::from_secs(4);

/// Settings that every client shares. `role` shows up in the broker's log and metrics.
pub fn client_config(bootstrap_servers: &str, role: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", bootstrap_servers)
        .set("client.id", format!("millrace-{role}"))
        // A broker that restarts is back within a second or two: don't let the back-off grow to its 10 s default.
        .set("reconnect.backoff.ms", "50")
        .set("reconnect.backoff.max.ms", "1000")
        .set("socket.keepalive.enable", "true")
        .set("topic.metadata.refresh.interval.ms", "30000")
        .set("allow.auto.create.topics", "false")
        .set_log_level(rdkafka::config::RDKafkaLogLevel::Warning);
    config
}

/// Kafka refused, or could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum SetUpError {
    #[error("Kafka at {servers} can't be asked: {source}")]
    Unreachable {
        servers: String,
        #[source]
        source: KafkaError,
    },
    #[error("topic {topic:?} can't be made: {code}")]
    Create { topic: String, code: RDKafkaErrorCode },
}

/// Largest record of a topic whose records grow on the way. Brokers take about 1 MiB by default: a record of just that
/// size must still fit when something is added.
const GROWN_RECORD_BYTES: &str = "1310720";

/// Makes those of `topics` that are absent, each with `partitions` partitions, and those that are `grown` (they take
/// another topic's records with something added: the reason, what was found out) with room for that; returns the
/// partition count of every one as it stands.
pub async fn ensure_topics(
    bootstrap_servers: &str,
    topics: &[&str],
    grown: &[&str],
    partitions: i32,
) -> Result<BTreeMap<String, i32>, SetUpError> {
    let unreachable = |source| SetUpError::Unreachable { servers: bootstrap_servers.to_owned(), source };
    let admin: AdminClient<DefaultClientContext> =
        client_config(bootstrap_servers, "setup").create().map_err(unreachable)?;
    let found = partition_counts(bootstrap_servers, topics).await?;
    let absent: Vec<NewTopic<'_>> = topics
        .iter()
        .filter(|topic| !found.contains_key(**topic))
        // -1: the broker's own default replication.
        .map(|topic| {
            let new = NewTopic::new(topic, partitions, TopicReplication::Fixed(-1));
            if grown.contains(topic) { new.set("max.message.bytes", GROWN_RECORD_BYTES) } else { new }
        })
        .collect();
    if absent.is_empty() {
        return Ok(found);
    }
    let options =
        AdminOptions::new().operation_timeout(Some(ADMIN_DEADLINE)).request_timeout(Some(ADMIN_DEADLINE));
    for result in admin.create_topics(&absent, &options).await.map_err(unreachable)? {
        match result {
            Ok(_) | Err((_, RDKafkaErrorCode::TopicAlreadyExists)) => {}
            Err((topic, code)) => return Err(SetUpError::Create { topic, code }),
        }
    }
    // A new topic may not stand in the metadata at once.
    let deadline = tokio::time::Instant::now() + ADMIN_DEADLINE;
    loop {
        let found = partition_counts(bootstrap_servers, topics).await?;
        if found.len() == topics.len() {
            return Ok(found);
        }
        if tokio::time::Instant::now() > deadline {
            return Err(unreachable(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)));
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Partition counts of those of `topics` that exist.
pub async fn partition_counts(
    bootstrap_servers: &str,
    topics: &[&str],
) -> Result<BTreeMap<String, i32>, SetUpError> {
    let servers = bootstrap_servers.to_owned();
    let wanted: Vec<String> = topics.iter().map(|topic| (*topic).to_owned()).collect();
    let asked = tokio::task::spawn_blocking(move || {
        // No admin client: the thread that it has ends a tenth of a second late.
        let client: BaseProducer = client_config(&servers, "setup").create()?;
        let mut found = BTreeMap::new();
        for topic in wanted {
            let metadata = client.client().fetch_metadata(Some(&topic), METADATA_DEADLINE)?;
            for entry in metadata.topics() {
                match entry.error().map(RDKafkaErrorCode::from) {
                    None if !entry.partitions().is_empty() => {
                        let count = i32::try_from(entry.partitions().len()).unwrap_or(i32::MAX);
                        found.insert(entry.name().to_owned(), count);
                    }
                    None
                    | Some(
                        RDKafkaErrorCode::UnknownTopicOrPartition
                        | RDKafkaErrorCode::LeaderNotAvailable
                        | RDKafkaErrorCode::UnknownTopic,
                    ) => {}
                    Some(code) => return Err(KafkaError::MetadataFetch(code)),
                }
            }
        }
        Ok(found)
    })
    .await
    .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
    asked.map_err(|source| SetUpError::Unreachable { servers: bootstrap_servers.to_owned(), source })
}
