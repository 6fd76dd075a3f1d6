//! Messages of a partition, from an offset or a time on, as a `read_committed` reader sees them.

use std::time::Instant;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Headers, Message as _};
use rdkafka::{Offset, TopicPartitionList};
use schemars::JsonSchema;
use serde::Serialize;

use super::kafka::{DEADLINE, ends, reader};
use super::text::Shown;
use super::topics::kafka_of;
use super::{Browse, Known};
use crate::pipelines::Refusal;

/// The most messages in one answer.
pub(crate) const MOST: usize = 500;
/// Of a value among others, and of one alone, in bytes.
const SHORT: usize = 2_000;
const LONG: usize = 2 << 20;
const LONGEST_KEY: usize = 512;

/// From where messages are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum From {
    Offset(i64),
    /// The first message of this time or later, in milliseconds since 1970 UTC.
    Time(i64),
    /// The last ones.
    End,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Messages {
    pub(crate) topic: String,
    pub(crate) kafka: String,
    pub(crate) partition: i32,
    /// The first offset that the partition still holds, and the next one.
    pub(crate) first: i64,
    pub(crate) end: i64,
    /// Where reading began.
    pub(crate) from: i64,
    /// Where the next ones begin; `None` at the end.
    pub(crate) next: Option<i64>,
    pub(crate) messages: Vec<Message>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Message {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) at_ms: Option<i64>,
    pub(crate) key: Option<Shown>,
    pub(crate) headers: Vec<Header>,
    /// `None`: the record has no value.
    pub(crate) value: Option<Shown>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Header {
    pub(crate) name: String,
    pub(crate) value: Option<Shown>,
}

impl Message {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|header| header.name == name)?;
        header.value.as_ref().map(|value| value.text.as_str())
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) topic: String,
    pub(crate) kafka: Option<String>,
    pub(crate) partition: i32,
    pub(crate) from: From,
    pub(crate) limit: usize,
}

pub(crate) async fn read(browse: &Browse, known: &Known, wanted: Wanted) -> Result<Messages, Refusal> {
    let Wanted { topic, kafka, partition, from, limit } = wanted;
    let (kafka, count) = kafka_of(browse, known, &topic, kafka.as_deref()).await?;
    if !usize::try_from(partition).is_ok_and(|partition| partition < count) {
        return Err(Refusal::Unknown(format!(
            "topic {topic} has no partition {partition}: expected 0 to {}",
            count.saturating_sub(1)
        )));
    }
    let limit = limit.clamp(1, MOST);
    let servers = kafka.clone();
    let name = topic.clone();
    let found = browse
        .blocking(&kafka, move || {
            let consumer = reader(&servers)?;
            fetch(&consumer, &name, partition, from, limit, if limit == 1 { LONG } else { SHORT })
        })
        .await?;
    let (first, end, begun, messages) = found;
    let next = messages.last().map(|last| last.offset + 1).filter(|next| *next < end);
    Ok(Messages { topic, kafka, partition, first, end, from: begun, next, messages })
}

/// The partition's first offset and end, where reading began, and what was read.
pub(super) type Fetched = (i64, i64, i64, Vec<Message>);

/// Blocking.
pub(super) fn fetch(
    consumer: &BaseConsumer,
    topic: &str,
    partition: i32,
    from: From,
    limit: usize,
    longest: usize,
) -> Result<Fetched, KafkaError> {
    let key = (topic.to_owned(), partition);
    let marks = ends(consumer, std::slice::from_ref(&key))?;
    let (first, end) = marks.get(&key).copied().unwrap_or((0, 0));
    let most = i64::try_from(limit).unwrap_or(i64::MAX);
    let begin = match from {
        From::Offset(offset) => offset,
        From::End => end.saturating_sub(most),
        From::Time(at_ms) => at_time(consumer, topic, partition, at_ms)?.unwrap_or(end),
    }
    .clamp(first, end);
    let mut list = TopicPartitionList::with_capacity(1);
    list.add_partition_offset(topic, partition, Offset::Offset(begin))?;
    let mut messages = Vec::new();
    if begin < end {
        consumer.assign(&list)?;
        let until = Instant::now() + DEADLINE;
        while messages.len() < limit {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                break;
            }
            match consumer.poll(left) {
                None | Some(Err(KafkaError::PartitionEOF(_))) => break,
                Some(Err(error)) => return Err(error),
                Some(Ok(message)) => {
                    let is_last = message.offset() + 1 >= end;
                    messages.push(shown(&message, longest));
                    if is_last {
                        break;
                    }
                }
            }
        }
        consumer.unassign()?;
    }
    Ok((first, end, begin, messages))
}

fn at_time(
    consumer: &BaseConsumer,
    topic: &str,
    partition: i32,
    at_ms: i64,
) -> Result<Option<i64>, KafkaError> {
    let mut times = TopicPartitionList::with_capacity(1);
    times.add_partition_offset(topic, partition, Offset::Offset(at_ms.max(0)))?;
    let found = consumer.offsets_for_times(times, DEADLINE)?;
    Ok(found.elements().iter().find_map(|element| match element.offset() {
        Offset::Offset(offset) => Some(offset),
        _ => None,
    }))
}

fn shown(message: &BorrowedMessage<'_>, longest: usize) -> Message {
    let headers = message.headers().map(|headers| {
        let header = |header: rdkafka::message::Header<'_, &[u8]>| Header {
            name: header.key.to_owned(),
            value: header.value.map(|value| Shown::of(value, LONGEST_KEY)),
        };
        headers.iter().map(header).collect()
    });
    Message {
        partition: message.partition(),
        offset: message.offset(),
        at_ms: message.timestamp().to_millis(),
        key: message.key().map(|key| Shown::of(key, LONGEST_KEY)),
        headers: headers.unwrap_or_default(),
        value: message.payload().map(|value| Shown::of(value, longest)),
    }
}
