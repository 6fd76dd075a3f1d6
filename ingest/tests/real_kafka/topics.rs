//! A pair of topics of a test's own, and what lies in them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use millrace_common::kafka::{client_config, partition_counts};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::{Offset, TopicPartitionList};

use crate::scene::Collector;

const DEADLINE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone)]
pub(crate) struct Topics {
    pub(crate) servers: String,
    pub(crate) raw: String,
    pub(crate) invalid: String,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) key: Option<String>,
    pub(crate) bytes: Vec<u8>,
    /// The bytes as text; what is no UTF-8 in it is replaced.
    pub(crate) value: String,
    pub(crate) headers: Vec<(String, String)>,
}

impl Topics {
    pub(crate) fn new() -> Self {
        let servers = std::env::var("MILLRACE_TEST_KAFKA")
            .expect("MILLRACE_TEST_KAFKA is not set: expected host:port of a Kafka for tests");
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_nanos();
        let name = format!("ingest-{}-{nanos}", std::process::id());
        Self { servers, raw: format!("{name}.raw"), invalid: format!("{name}.invalid") }
    }

    /// A collector that writes here and is ready; it makes the topics.
    pub(crate) async fn collector(&self, flags: &[&str]) -> Collector {
        let common = self.flags();
        let collector = Collector::start(&[&common[..], flags].concat()).await;
        collector.until_ready().await;
        collector
    }

    pub(crate) fn flags(&self) -> [&str; 6] {
        ["--kafka", &self.servers, "--raw-topic", &self.raw, "--invalid-topic", &self.invalid]
    }

    /// All records of `topic`, in the order of partitions and offsets.
    pub(crate) async fn read(&self, topic: &str) -> Vec<Record> {
        let counts = partition_counts(&self.servers, &[topic]).await.expect("metadata");
        let (servers, topic, partitions) = (self.servers.clone(), topic.to_owned(), counts[topic]);
        tokio::task::spawn_blocking(move || {
            let partitions = 0..partitions;
            partitions.flat_map(|partition| read_partition(&servers, &topic, partition)).collect()
        })
        .await
        .expect("no panic")
    }
}

fn read_partition(servers: &str, topic: &str, partition: i32) -> Vec<Record> {
    let consumer: BaseConsumer =
        client_config(servers, "test").set("group.id", "unused").create().expect("consumer");
    let (_, end) = consumer.fetch_watermarks(topic, partition, DEADLINE).expect("watermarks");
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::Beginning).expect("offset");
    consumer.assign(&assignment).expect("assigned");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("UTF-8");
    (0..end)
        .map(|_| {
            let message = consumer.poll(DEADLINE).expect("a record in time").expect("a record");
            let headers = message.headers().into_iter().flat_map(|headers| headers.iter());
            Record {
                partition,
                key: message.key().map(text),
                bytes: message.payload().expect("a value").to_vec(),
                value: String::from_utf8_lossy(message.payload().expect("a value")).into_owned(),
                headers: headers
                    .map(|header| (header.key.to_owned(), header.value.map(text).expect("a value")))
                    .collect(),
            }
        })
        .collect()
}
