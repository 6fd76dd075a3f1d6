//! Bad events: what the invalid topics hold, grouped by reason and field, with examples and when they came.

use std::collections::BTreeMap;

use millrace_common::headers;
use rdkafka::error::KafkaError;
use schemars::JsonSchema;
use serde::Serialize;

use super::messages::{From, Message, fetch};
use super::text::Shown;
use super::{Browse, Known};
use crate::pipelines::Refusal;

/// Records that are read of each partition, the last ones.
const READ: usize = 500;
/// Examples of each group.
const EXAMPLES: usize = 3;
const GROUPS: usize = 200;
const MINUTES: usize = 60;
/// Of an example's value.
const LONGEST: usize = 600;

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct BadEvents {
    /// Records that the invalid topics hold, all together.
    pub(crate) total: i64,
    /// How many of them, the last of each partition, were read for what follows.
    pub(crate) read: usize,
    pub(crate) groups: Vec<BadGroup>,
    /// How many of those that were read came in each minute, the oldest first.
    pub(crate) minutes: Vec<Minute>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct BadGroup {
    pub(crate) topic: String,
    /// A stable code: not_json, missing_field, …
    pub(crate) reason: String,
    /// JSON pointer of the offending place; empty for the whole record.
    pub(crate) field: String,
    /// collector or worker.
    pub(crate) origin: String,
    pub(crate) count: usize,
    pub(crate) last_at_ms: Option<i64>,
    /// The latest first.
    pub(crate) examples: Vec<BadEvent>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct BadEvent {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) at_ms: Option<i64>,
    /// What was found and what was expected.
    pub(crate) message: String,
    /// `topic/partition@offset` of a quarantined record.
    pub(crate) source: Option<String>,
    pub(crate) value: Option<Shown>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Minute {
    /// Its beginning.
    pub(crate) at_ms: i64,
    pub(crate) count: usize,
}

pub(crate) async fn events(browse: &Browse, known: &Known) -> Result<BadEvents, Refusal> {
    let mut topics: Vec<(String, String)> = Vec::new();
    for pipeline in &known.0 {
        let topic = (pipeline.bootstrap_servers.clone(), pipeline.invalid_topic.clone());
        if !topics.contains(&topic) {
            topics.push(topic);
        }
    }
    let mut total = 0;
    let mut found: Vec<(String, Message)> = Vec::new();
    for (kafka, topic) in topics {
        let (servers, name) = (kafka.clone(), topic.clone());
        let (held, messages) = browse.blocking(&kafka, move || last(&servers, &name)).await?;
        total += held;
        found.extend(messages.into_iter().map(|message| (topic.clone(), message)));
    }
    Ok(grouped(total, found))
}

/// Blocking.
fn last(kafka: &str, topic: &str) -> Result<(i64, Vec<Message>), KafkaError> {
    let consumer = super::kafka::reader(kafka)?;
    let counts = super::kafka::counts(&consumer)?;
    let count = counts.iter().find(|(name, _)| name == topic).map_or(0, |(_, count)| *count);
    let (mut held, mut messages) = (0, Vec::new());
    for partition in 0..i32::try_from(count).unwrap_or(0) {
        let (first, end, _, read) = fetch(&consumer, topic, partition, From::End, READ, LONGEST)?;
        held += end - first;
        messages.extend(read);
    }
    Ok((held, messages))
}

fn grouped(total: i64, mut found: Vec<(String, Message)>) -> BadEvents {
    found.sort_by_key(|(_, message)| std::cmp::Reverse(message.at_ms));
    let read = found.len();
    let mut groups: BTreeMap<(String, String, String, String), BadGroup> = BTreeMap::new();
    let mut minutes: BTreeMap<i64, usize> = BTreeMap::new();
    for (topic, message) in found {
        if let Some(at_ms) = message.at_ms {
            *minutes.entry(at_ms - at_ms.rem_euclid(60_000)).or_default() += 1;
        }
        let header = |name: &str| message.header(name).unwrap_or_default().to_owned();
        let (reason, field, origin) =
            (header(headers::REASON), header(headers::POINTER), header(headers::ORIGIN));
        let key = (topic.clone(), reason.clone(), field.clone(), origin.clone());
        let group = groups.entry(key).or_insert_with(|| BadGroup {
            topic,
            reason,
            field,
            origin,
            count: 0,
            last_at_ms: message.at_ms,
            examples: Vec::new(),
        });
        group.count += 1;
        if group.examples.len() < EXAMPLES {
            let from = [headers::SOURCE_TOPIC, headers::SOURCE_PARTITION, headers::SOURCE_OFFSET];
            let source = from.map(|name| message.header(name));
            group.examples.push(BadEvent {
                partition: message.partition,
                offset: message.offset,
                at_ms: message.at_ms,
                message: header(headers::MESSAGE),
                source: match source {
                    [Some(topic), Some(partition), Some(offset)] => {
                        Some(format!("{topic}/{partition}@{offset}"))
                    }
                    _ => None,
                },
                value: message.value,
            });
        }
    }
    let mut groups: Vec<BadGroup> = groups.into_values().collect();
    groups.sort_by_key(|group| std::cmp::Reverse(group.count));
    groups.truncate(GROUPS);
    let minutes: Vec<Minute> = minutes.into_iter().map(|(at_ms, count)| Minute { at_ms, count }).collect();
    let late = minutes.len().saturating_sub(MINUTES);
    BadEvents { total, read, groups, minutes: minutes[late..].to_vec() }
}

#[cfg(test)]
mod tests {
    use super::super::messages::Header;
    use super::*;

    fn bad(offset: i64, reason: &str, pointer: &str) -> (String, Message) {
        let header = |name: &str, value: &str| Header {
            name: name.into(),
            value: Some(Shown::of(value.as_bytes(), 100)),
        };
        let message = Message {
            partition: 0,
            offset,
            at_ms: Some(offset * 30_000),
            key: None,
            headers: vec![
                header(headers::REASON, reason),
                header(headers::POINTER, pointer),
                header(headers::ORIGIN, "collector"),
                header(headers::MESSAGE, "expected a text"),
            ],
            value: Some(Shown::of(b"<script>", 100)),
        };
        ("invalid".into(), message)
    }

    #[test]
    fn bad_events_are_counted_by_reason_and_field_with_the_latest_as_examples() {
        let mut found: Vec<_> = (0..5).map(|offset| bad(offset, "missing_field", "/event/page")).collect();
        found.push(bad(5, "not_json", ""));
        let told = grouped(100, found);
        assert_eq!((told.total, told.read, told.groups.len()), (100, 6, 2));
        let first = &told.groups[0];
        assert_eq!(
            (first.reason.as_str(), first.field.as_str(), first.count),
            ("missing_field", "/event/page", 5)
        );
        let offsets: Vec<i64> = first.examples.iter().map(|example| example.offset).collect();
        assert_eq!(offsets, [4, 3, 2]);
        let minutes: Vec<usize> = told.minutes.iter().map(|minute| minute.count).collect();
        assert_eq!(minutes, [2, 2, 2]);
    }
}
