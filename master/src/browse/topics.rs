//! Topics, their partitions, and who reads them how far.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::PoisonError;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::{Offset, TopicPartitionList};
use schemars::JsonSchema;
use serde::Serialize;

use super::kafka::{DEADLINE, brokers, counts, ends};
use super::sizes::{self, Sizes};
use super::{Browse, Known, Seen};
use crate::pipelines::Refusal;

/// Two looks that are nearer give no rate.
const NEAR: Duration = Duration::from_millis(900);
/// Groups that are asked for their offsets.
const GROUPS: usize = 20;

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct Topic {
    pub(crate) topic: String,
    pub(crate) kafka: String,
    pub(crate) partitions: usize,
    /// What it is to which pipeline: `source of NAME`, `enriched topic of NAME`, `invalid topic of NAME`.
    pub(crate) roles: Vec<String>,
    /// Offsets between the partitions' beginnings and ends; transactions' own markers count.
    pub(crate) records: i64,
    /// Of one copy of it on the brokers' disks; `None` when one of them did not say.
    pub(crate) bytes: Option<u64>,
    /// Offsets written a second since the topic was last looked at; `None` at the first look.
    pub(crate) records_per_second: Option<f64>,
}

#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(crate) struct TopicDetail {
    #[serde(flatten)]
    pub(crate) topic: Topic,
    pub(crate) watermarks: Vec<Watermarks>,
    pub(crate) groups: Vec<Group>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Watermarks {
    pub(crate) partition: i32,
    /// The first offset that the topic still holds.
    pub(crate) first: i64,
    /// The next offset as a `read_committed` reader sees it.
    pub(crate) end: i64,
    /// Of one copy on the brokers' disks; `None` when one of them did not say.
    pub(crate) bytes: Option<u64>,
}

/// A consumer group that has committed offsets of the topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Group {
    pub(crate) group: String,
    /// As Kafka says it: Stable, Empty, Dead…
    pub(crate) state: String,
    pub(crate) members: usize,
    /// Of all partitions together.
    pub(crate) lag: i64,
    pub(crate) partitions: Vec<GroupLag>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct GroupLag {
    pub(crate) partition: i32,
    /// Committed next offset.
    pub(crate) committed: i64,
    pub(crate) lag: i64,
}

/// Offsets that the pipelines' invalid topics have had since they began, together.
pub(crate) async fn invalid_offsets(browse: &Browse, known: &Known) -> Result<u64, Refusal> {
    let mut sum = 0;
    for kafka in known.kafkas() {
        let own = known.0.iter().filter(|pipeline| pipeline.bootstrap_servers == kafka);
        let wanted: BTreeSet<String> = own.map(|pipeline| pipeline.invalid_topic.clone()).collect();
        let ends = browse
            .ask(&kafka, move |client| {
                let mut counts = counts(client)?;
                counts.retain(|(topic, _)| wanted.contains(topic));
                ends(client, &all_partitions(&counts))
            })
            .await?;
        sum += ends.values().map(|(_, end)| u64::try_from(*end).unwrap_or(0)).sum::<u64>();
    }
    Ok(sum)
}

/// The topics of every Kafka that a pipeline names; Kafka's own are left out.
pub(crate) async fn list(browse: &Browse, known: &Known) -> Result<Vec<Topic>, Refusal> {
    let mut topics = Vec::new();
    for kafka in known.kafkas() {
        let (counts, ends) = browse
            .ask(&kafka, |client| {
                let counts = counts(client)?;
                let partitions = all_partitions(&counts);
                Ok((counts, ends(client, &partitions)?))
            })
            .await?;
        let sizes = browse.sizes(&kafka).await?;
        for (topic, partitions) in counts.into_iter().filter(|(topic, _)| !topic.starts_with("__")) {
            let own = ends.iter().filter(|((name, _), _)| *name == topic);
            let (first, end) = own.fold((0, 0), |(first, end), (_, (a, b))| (first + a, end + b));
            topics.push(Topic {
                roles: roles(known, &kafka, &topic),
                records: end - first,
                bytes: sizes.as_ref().map(|sizes| bytes_of(sizes, &topic)),
                records_per_second: browse.rate(&kafka, &topic, end),
                kafka: kafka.clone(),
                partitions,
                topic,
            });
        }
    }
    topics.sort_by(|a, b| (a.roles.is_empty(), &a.topic).cmp(&(b.roles.is_empty(), &b.topic)));
    Ok(topics)
}

fn bytes_of(sizes: &Sizes, topic: &str) -> u64 {
    let own = sizes.range((topic.to_owned(), 0)..).take_while(|((name, _), _)| name == topic);
    own.map(|(_, bytes)| bytes).sum()
}

fn all_partitions(counts: &[(String, usize)]) -> Vec<(String, i32)> {
    let shown = counts.iter().filter(|(topic, _)| !topic.starts_with("__"));
    shown
        .flat_map(|(topic, count)| {
            (0..i32::try_from(*count).unwrap_or(0)).map(move |partition| (topic.clone(), partition))
        })
        .collect()
}

fn roles(known: &Known, kafka: &str, topic: &str) -> Vec<String> {
    let mut roles = Vec::new();
    for pipeline in known.0.iter().filter(|pipeline| pipeline.bootstrap_servers == kafka) {
        if pipeline.source.topics.iter().any(|source| source == topic) {
            roles.push(format!("source of {}", pipeline.name));
        }
        if pipeline.enriched_topic.as_deref() == Some(topic) {
            roles.push(format!("enriched topic of {}", pipeline.name));
        }
        if pipeline.invalid_topic == topic {
            roles.push(format!("invalid topic of {}", pipeline.name));
        }
    }
    roles
}

/// The Kafka that is meant: the one that is named, else the first that has the topic.
pub(super) async fn kafka_of(
    browse: &Browse,
    known: &Known,
    topic: &str,
    kafka: Option<&str>,
) -> Result<(String, usize), Refusal> {
    let kafkas = known.kafkas();
    if let Some(wanted) = kafka
        && !kafkas.iter().any(|known| known == wanted)
    {
        return Err(Refusal::Unknown(format!(
            "no pipeline names the Kafka {wanted:?}; known: {}",
            kafkas.join(" ")
        )));
    }
    for known in kafkas.into_iter().filter(|known| kafka.is_none_or(|wanted| wanted == known)) {
        let found = browse.ask(&known, counts).await?.into_iter().find(|(name, _)| name == topic);
        if let Some((_, partitions)) = found {
            return Ok((known, partitions));
        }
    }
    Err(Refusal::Unknown(format!("no topic has the name {topic:?}, of the Kafkas that pipelines name")))
}

/// One topic, with its partitions and the groups that read it.
pub(crate) async fn detail(
    browse: &Browse,
    known: &Known,
    topic: &str,
    kafka: Option<&str>,
) -> Result<TopicDetail, Refusal> {
    let (kafka, count) = kafka_of(browse, known, topic, kafka).await?;
    let partitions = all_partitions(&[(topic.to_owned(), count)]);
    let found = browse.ask(&kafka, move |client| ends(client, &partitions)).await?;
    let sizes = browse.sizes(&kafka).await?;
    let watermarks: Vec<Watermarks> = found
        .iter()
        .map(|(place, (first, end))| Watermarks {
            partition: place.1,
            first: *first,
            end: *end,
            bytes: sizes.as_ref().and_then(|sizes| sizes.get(place).copied()),
        })
        .collect();
    let (name, servers, marks) = (topic.to_owned(), kafka.clone(), watermarks.clone());
    let groups = browse.blocking(&kafka, move || groups(&servers, &name, &marks)).await?;
    let end: i64 = watermarks.iter().map(|mark| mark.end).sum();
    let first: i64 = watermarks.iter().map(|mark| mark.first).sum();
    Ok(TopicDetail {
        topic: Topic {
            roles: roles(known, &kafka, topic),
            records: end - first,
            bytes: sizes.map(|sizes| bytes_of(&sizes, topic)),
            records_per_second: browse.rate(&kafka, topic, end),
            topic: topic.to_owned(),
            partitions: count,
            kafka,
        },
        watermarks,
        groups,
    })
}

/// Blocking. Groups that have committed nothing of the topic are left out.
fn groups(kafka: &str, topic: &str, marks: &[Watermarks]) -> Result<Vec<Group>, rdkafka::error::KafkaError> {
    let asker = super::kafka::reader(kafka)?;
    let listed = asker.fetch_group_list(None, DEADLINE)?;
    let ends: BTreeMap<i32, i64> = marks.iter().map(|mark| (mark.partition, mark.end)).collect();
    let mut groups = Vec::new();
    for listed in listed.groups().iter().take(GROUPS) {
        let member = super::kafka::consumer(kafka, listed.name())?;
        let mut wanted = TopicPartitionList::with_capacity(marks.len());
        for mark in marks {
            wanted.add_partition(topic, mark.partition);
        }
        let committed = member.committed_offsets(wanted, DEADLINE)?;
        let mut partitions = Vec::new();
        for element in committed.elements() {
            if let (Offset::Offset(next), Some(end)) = (element.offset(), ends.get(&element.partition())) {
                partitions.push(GroupLag {
                    partition: element.partition(),
                    committed: next,
                    lag: (end - next).max(0),
                });
            }
        }
        if !partitions.is_empty() {
            groups.push(Group {
                group: listed.name().to_owned(),
                state: listed.state().to_owned(),
                members: listed.members().len(),
                lag: partitions.iter().map(|partition| partition.lag).sum(),
                partitions,
            });
        }
    }
    Ok(groups)
}

impl Browse {
    /// What the brokers' disks hold of each partition; `None` when one of them does not say.
    async fn sizes(&self, kafka: &str) -> Result<Option<Sizes>, Refusal> {
        let brokers = self.ask(kafka, brokers).await?;
        Ok(sizes::of_partitions(&brokers).await)
    }

    /// How fast the topic's ends rise, between this look and one before.
    fn rate(&self, kafka: &str, topic: &str, records: i64) -> Option<f64> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (kafka.to_owned(), topic.to_owned());
        let now = Instant::now();
        let before = seen.get(&key).copied();
        if let Some(before) = before
            && now - before.at < NEAR
        {
            return before.records_per_second;
        }
        #[allow(clippy::cast_precision_loss, reason = "a rate for people")]
        let records_per_second =
            before.map(|before| (records - before.records).max(0) as f64 / (now - before.at).as_secs_f64());
        seen.insert(key, Seen { at: now, records, records_per_second });
        records_per_second
    }
}
