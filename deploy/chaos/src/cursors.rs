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
/// Longer than a transaction stays open in doubt.
const STABLE_DEADLINE: Duration = Duration::from_secs(30);

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
    /// What a transaction has not decided yet does not keep it from reading. For that it may be told old news: a group
    /// coordinator that has just started answers by what it knows to be replicated already.
    quick: BaseConsumer,
    /// Waits for open transactions, and for the coordinator to know all.
    stable: BaseConsumer,
    topic: String,
    partitions: i32,
}

impl Reader {
    pub(crate) fn new(servers: &str, group: &str, topic: &str, partitions: i32) -> Result<Self, KafkaError> {
        let consumer = |isolation| {
            client_config(servers, "chaos")
                .set("group.id", group)
                .set("enable.auto.commit", "false")
                .set("isolation.level", isolation)
                .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg)
                .create()
        };
        let (quick, stable) = (consumer("read_uncommitted")?, consumer("read_committed")?);
        Ok(Self { quick, stable, topic: topic.to_owned(), partitions })
    }

    /// All partitions, maybe as they were before the coordinator started.
    pub(crate) fn read(&self) -> Result<BTreeMap<i32, Place>, KafkaError> {
        self.read_by(&self.quick, DEADLINE)
    }

    /// All partitions as they are.
    pub(crate) fn read_stable(&self) -> Result<BTreeMap<i32, Place>, KafkaError> {
        self.read_by(&self.stable, STABLE_DEADLINE)
    }

    fn read_by(
        &self,
        consumer: &BaseConsumer,
        deadline: Duration,
    ) -> Result<BTreeMap<i32, Place>, KafkaError> {
        let mut list = TopicPartitionList::new();
        for partition in 0..self.partitions {
            list.add_partition(&self.topic, partition);
        }
        let committed = consumer.committed_offsets(list, deadline)?;
        let mut places = BTreeMap::new();
        for element in committed.elements() {
            element.error()?;
            let partition = element.partition();
            let cursors = match element.offset() {
                Offset::Offset(offset) => Some(cursors(offset, element.metadata())),
                _ => None,
            };
            let (_, end) = consumer.fetch_watermarks(&self.topic, partition, DEADLINE)?;
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
