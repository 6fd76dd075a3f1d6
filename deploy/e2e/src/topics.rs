//! Topics as a foreign client sees them.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::kafka::{client_config, ensure_topics, partition_counts};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

const PATIENCE: Duration = Duration::from_secs(60);

/// A record of a topic.
#[derive(Debug, Clone)]
pub struct TopicRecord {
    pub partition: i32,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: BTreeMap<String, String>,
}

/// Makes topics with so many partitions.
///
/// # Panics
/// When Kafka refuses.
pub async fn make_topics(servers: &str, topics: &[&str], partitions: i32) {
    ensure_topics(servers, topics, &[], partitions).await.expect("topics");
}

/// Sends records to a topic, keyed by nothing.
///
/// # Panics
/// When Kafka does not take them.
pub fn produce(servers: &str, topic: &str, values: impl IntoIterator<Item = String>) {
    let producer: BaseProducer = client_config(servers, "test").create().expect("producer");
    for value in values {
        assert!(producer.send(BaseRecord::<(), str>::to(topic).payload(&value)).is_ok(), "queued");
    }
    producer.flush(PATIENCE).expect("delivered");
}

/// Everything in a topic, as a `read_committed` reader sees it.
///
/// # Panics
/// When the topic is not there or can't be read to its end.
pub async fn read_committed(servers: &str, topic: &str) -> Vec<TopicRecord> {
    let counts = partition_counts(servers, &[topic]).await.expect("metadata");
    let partitions = *counts.get(topic).unwrap_or_else(|| panic!("no topic {topic}"));
    let (servers, topic) = (servers.to_owned(), topic.to_owned());
    tokio::task::spawn_blocking(move || read(&servers, &topic, partitions)).await.expect("no panic")
}

fn read(servers: &str, topic: &str, partitions: i32) -> Vec<TopicRecord> {
    let consumer: BaseConsumer = client_config(servers, "test")
        .set("group.id", "test")
        .set("enable.partition.eof", "true")
        .set("enable.auto.commit", "false")
        .set("isolation.level", "read_committed")
        .create()
        .expect("consumer");
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Beginning).expect("offset");
    }
    consumer.assign(&list).expect("assigned");
    let (mut found, mut ended) = (Vec::new(), 0);
    while ended < partitions {
        match consumer.poll(PATIENCE).expect("the partition's end") {
            Ok(message) => {
                let headers = message.headers().map(|headers| {
                    let text = |value: Option<&[u8]>| {
                        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
                    };
                    headers.iter().map(|header| (header.key.to_owned(), text(header.value))).collect()
                });
                found.push(TopicRecord {
                    partition: message.partition(),
                    key: message.key().map(<[u8]>::to_vec),
                    value: message.payload().map(<[u8]>::to_vec),
                    headers: headers.unwrap_or_default(),
                });
            }
            Err(KafkaError::PartitionEOF(_)) => ended += 1,
            Err(error) => panic!("{topic}: {error}"),
        }
    }
    found
}
