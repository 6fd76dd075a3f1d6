//! The slots' committed records and the ends of the raw topic, asked of Kafka itself by a client of its own. It joins
//! no group and writes nothing.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::kafka::client_config;
use millrace_common::record::CommittedRecord;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::{Offset, TopicPartitionList};

const DEADLINE: Duration = Duration::from_secs(1);

/// How far a slot has come: its epoch and next offsets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cursors {
    pub(crate) epoch: u64,
    pub(crate) topic: i64,
    pub(crate) lake: i64,
}

/// What Kafka says of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Place {
    /// `None` before the first claim. An error is a record that can't be read.
    pub(crate) cursors: Option<Result<Cursors, String>>,
    /// End of the raw partition.
    pub(crate) end: i64,
}

/// Asks for the records of one pipeline's group. Every call blocks.
pub(crate) struct Reader {
    consumer: BaseConsumer,
    topic: String,
    partitions: i32,
}

impl Reader {
    pub(crate) fn new(servers: &str, group: &str, topic: &str, partitions: i32) -> Result<Self, KafkaError> {
        let consumer = client_config(servers, "chaos")
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            // What a transaction has not decided yet must not keep this from reading.
            .set("isolation.level", "read_uncommitted")
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg)
            .create()?;
        Ok(Self { consumer, topic: topic.to_owned(), partitions })
    }

    /// All partitions as they are now.
    pub(crate) fn read(&self) -> Result<BTreeMap<i32, Place>, KafkaError> {
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition(&self.topic, partition);
        }
        let committed = self.consumer.committed_offsets(list, DEADLINE)?;
        let mut places = BTreeMap::new();
        for element in committed.elements() {
            element.error()?;
            let partition = element.partition();
            let cursors = match element.offset() {
                Offset::Offset(offset) => Some(cursors(offset, element.metadata())),
                _ => None,
            };
            let (_, end) = self.consumer.fetch_watermarks(&self.topic, partition, DEADLINE)?;
            places.insert(partition, Place { cursors, end });
        }
        Ok(places)
    }
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader").field("topic", &self.topic).finish_non_exhaustive()
    }
}

fn cursors(offset: i64, metadata: &str) -> Result<Cursors, String> {
    let record = CommittedRecord::parse(offset, metadata.as_bytes()).map_err(|error| error.to_string())?;
    Ok(Cursors { epoch: record.epoch.0, topic: record.topic_cursor.0, lake: record.lake_cursor.0 })
}
