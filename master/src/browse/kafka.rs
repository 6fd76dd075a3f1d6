//! Questions to Kafka that block, each off the runtime.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use millrace_common::kafka::client_config;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

use super::{Browse, Client};
use crate::pipelines::Refusal;

/// Of one question.
pub(super) const DEADLINE: Duration = Duration::from_secs(5);
/// Group of the consumers that look; nothing is ever committed under it.
const GROUP: &str = "millrace-page";

/// A consumer that reads whole transactions only, and stops at the end.
pub(super) fn consumer(kafka: &str, group: &str) -> Result<BaseConsumer, KafkaError> {
    client_config(kafka, "page")
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("isolation.level", "read_committed")
        .set("fetch.wait.max.ms", "100")
        .create()
}

/// One that reads messages: of its own, since it holds a place.
pub(super) fn reader(kafka: &str) -> Result<BaseConsumer, KafkaError> {
    consumer(kafka, GROUP)
}

impl Browse {
    /// Asks Kafka at `kafka` with a connection that is kept; `question` may block.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        kafka: &str,
        question: impl FnOnce(&BaseConsumer) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let clients = Arc::clone(&self.clients);
        let servers = kafka.to_owned();
        self.blocking(kafka, move || {
            let kept = clients.lock().unwrap_or_else(PoisonError::into_inner).get(&servers).cloned();
            let client = match kept {
                Some(client) => client,
                None => {
                    let client = Arc::new(Client(reader(&servers)?));
                    clients
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .insert(servers, Arc::clone(&client));
                    client
                }
            };
            question(&client.0)
        })
        .await
    }

    /// Runs what blocks, when its turn has come.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        kafka: &str,
        question: impl FnOnce() -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, Refusal> {
        let turn = self.turn().await?;
        let asked = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            question()
        });
        let answer = asked.await.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()));
        answer.map_err(|error| Refusal::Unavailable(format!("Kafka at {kafka} can't be asked: {error}")))
    }
}

/// First offset and end of each partition.
pub(super) type Ends = BTreeMap<(String, i32), (i64, i64)>;

/// Names of the topics, and how many partitions each has.
pub(super) fn counts(client: &BaseConsumer) -> Result<Vec<(String, usize)>, KafkaError> {
    let metadata = client.fetch_metadata(None, DEADLINE)?;
    let topics = metadata.topics().iter().filter(|topic| topic.error().is_none());
    Ok(topics.map(|topic| (topic.name().to_owned(), topic.partitions().len())).collect())
}

/// Where the brokers listen.
pub(super) fn brokers(client: &BaseConsumer) -> Result<Vec<(String, u16)>, KafkaError> {
    let metadata = client.fetch_metadata(None, DEADLINE)?;
    let place = |broker: &rdkafka::metadata::MetadataBroker| {
        u16::try_from(broker.port()).ok().map(|port| (broker.host().to_owned(), port))
    };
    Ok(metadata.brokers().iter().filter_map(place).collect())
}

/// Where partitions begin and end, all in two questions: the list's offsets are times, and two of them are not.
pub(super) fn ends(client: &BaseConsumer, partitions: &[(String, i32)]) -> Result<Ends, KafkaError> {
    let at = |offset: Offset| -> Result<HashMap<(String, i32), i64>, KafkaError> {
        let mut wanted = TopicPartitionList::with_capacity(partitions.len());
        for (topic, partition) in partitions {
            wanted.add_partition_offset(topic, *partition, offset)?;
        }
        let found = client.offsets_for_times(wanted, DEADLINE)?;
        let mut offsets = HashMap::new();
        for element in found.elements() {
            if let (Ok(()), Offset::Offset(offset)) = (element.error(), element.offset()) {
                offsets.insert((element.topic().to_owned(), element.partition()), offset);
            }
        }
        Ok(offsets)
    };
    if partitions.is_empty() {
        return Ok(Ends::new());
    }
    let (firsts, ends) = (at(Offset::Beginning)?, at(Offset::End)?);
    Ok(partitions
        .iter()
        .filter_map(|key| Some((key.clone(), (*firsts.get(key)?, *ends.get(key)?))))
        .collect())
}
