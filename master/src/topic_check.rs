//! Whether Kafka will do for a pipeline what the pipeline promises: its topics' settings, the replicas that are in sync,
//! and transactions that begin. Asks only; what is wrong is told all at once, with what to do.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::kafka::client_config;
use millrace_common::types::PipelineDefinition;
use rdkafka::TopicPartitionList;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::producer::{BaseProducer, Producer};

use crate::draft::Draft;

/// Of each question.
const DEADLINE: Duration = Duration::from_secs(5);
/// The first transaction of a cluster makes the topic that keeps them.
const FIRST_TRANSACTION: Duration = Duration::from_secs(15);
/// The least that a source must keep its records beyond the lake's oldest open row: a worker's loss and its takeover,
/// with a person's time to look.
const LEAST_RETENTION_MS: u64 = 10 * 60_000;
/// A source that keeps less than this is mentioned.
const SHORT_RETENTION_MS: u64 = 24 * 3_600_000;
/// A running slot renews its committed offset every hour.
const LEAST_OFFSETS_RETENTION_MINUTES: u64 = 180;

/// What a pipeline will ask of Kafka.
#[derive(Debug, Clone)]
pub(crate) struct Needs {
    pub(crate) servers: String,
    pub(crate) sources: Vec<String>,
    /// The enriched and the invalid topic; what is absent will be made.
    pub(crate) sinks: Vec<String>,
    /// How long a row of the lake may stay open; zero without a lake.
    pub(crate) open_ms: u64,
    /// Part of the name of the transaction that is tried, which fences its like.
    pub(crate) name: String,
}

impl From<&Draft> for Needs {
    fn from(draft: &Draft) -> Self {
        let sinks = draft.enriched_topic.iter().chain([&draft.invalid_topic]);
        Self {
            servers: draft.kafka.clone(),
            sources: draft.topics.clone(),
            sinks: sinks.cloned().collect(),
            open_ms: draft.lake.as_ref().map_or(0, |_| draft.roll.max_age_ms.max(draft.roll.max_idle_ms)),
            name: draft.name.clone(),
        }
    }
}

impl From<&PipelineDefinition> for Needs {
    fn from(definition: &PipelineDefinition) -> Self {
        let (roll, sinks) =
            (definition.roll, definition.enriched_topic.iter().chain([&definition.invalid_topic]));
        Self {
            servers: definition.bootstrap_servers.clone(),
            sources: definition.source.topics.clone(),
            sinks: sinks.cloned().collect(),
            open_ms: definition.lake.as_ref().map_or(0, |_| roll.max_age_ms.max(roll.max_idle_ms)),
            name: definition.name.clone(),
        }
    }
}

/// What stands against the pipeline, or could not be learned.
#[derive(Debug, thiserror::Error)]
pub enum TopicCheckError {
    #[error("Kafka at {servers} can't be asked: {source}")]
    Client {
        servers: String,
        #[source]
        source: KafkaError,
    },
    #[error("{}", .0.join("\n  "))]
    Unfit(Vec<String>),
    #[error(
        "Kafka at {servers} begins no transaction ({source}): exactly-once delivery needs them; on fewer than three \
         brokers its transaction.state.log.replication.factor and offsets.topic.replication.factor must be lower than \
         the default, 3"
    )]
    NoTransactions {
        servers: String,
        #[source]
        source: KafkaError,
    },
    #[error("Kafka at {servers} keeps no committed offsets ({source}): they hold where a pipeline stands")]
    NoOffsets {
        servers: String,
        #[source]
        source: KafkaError,
    },
}

impl TopicCheckError {
    /// Asking again may help.
    pub(crate) fn is_passing(&self) -> bool {
        !matches!(self, Self::Unfit(_))
    }
}

type Settings = BTreeMap<String, String>;

/// A topic as it stands.
#[derive(Debug, Default)]
struct Found {
    settings: Settings,
    /// In-sync replicas of each partition.
    in_sync: Vec<usize>,
}

/// Checks everything; returns what should be known, though nothing stands against it.
pub(crate) async fn check(needs: Needs) -> Result<Vec<String>, TopicCheckError> {
    let failed = |source| TopicCheckError::Client { servers: needs.servers.clone(), source };
    let asked = needs.clone();
    let (admin, mut topics, broker) = on_a_thread(move || {
        let admin: AdminClient<DefaultClientContext> = client_config(&asked.servers, "check").create()?;
        let mut topics = BTreeMap::new();
        let mut broker = None;
        for topic in asked.sources.iter().chain(&asked.sinks) {
            let metadata = admin.inner().fetch_metadata(Some(topic), DEADLINE)?;
            broker = broker.or_else(|| metadata.brokers().first().map(|broker| broker.id()));
            let entry =
                metadata.topics().iter().find(|entry| entry.name() == topic && entry.error().is_none());
            if let Some(entry) = entry {
                let in_sync = entry.partitions().iter().map(|partition| partition.isr().len()).collect();
                topics.insert(topic.clone(), Found { settings: Settings::new(), in_sync });
            }
        }
        Ok((admin, topics, broker))
    })
    .await
    .map_err(failed)?;

    let options = AdminOptions::new().request_timeout(Some(DEADLINE));
    let names: Vec<String> = topics.keys().cloned().collect();
    let resources: Vec<ResourceSpecifier<'_>> =
        names.iter().map(|name| ResourceSpecifier::Topic(name)).collect();
    for described in admin.describe_configs(&resources, &options).await.map_err(failed)? {
        let described = described.map_err(|code| failed(KafkaError::AdminOp(code)))?;
        let topic = match &described.specifier {
            rdkafka::admin::OwnedResourceSpecifier::Topic(topic) => topics.get_mut(topic),
            _ => None,
        };
        if let Some(topic) = topic {
            topic.settings = settings(described);
        }
    }
    let mut of_broker = Settings::new();
    if let Some(broker) = broker {
        let resource = ResourceSpecifier::Broker(broker);
        for described in admin.describe_configs([&resource], &options).await.map_err(failed)? {
            of_broker = settings(described.map_err(|code| failed(KafkaError::AdminOp(code)))?);
        }
    }
    let (problems, notes) = judge(&needs, &topics, &of_broker);
    if !problems.is_empty() {
        return Err(TopicCheckError::Unfit(problems));
    }
    try_coordinators(needs).await?;
    Ok(notes)
}

fn settings(described: ConfigResource) -> Settings {
    described.entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect()
}

fn number(settings: &Settings, name: &str) -> Option<u64> {
    settings.get(name)?.parse().ok()
}

/// What stands against the pipeline, and what should be known. Pure.
fn judge(needs: &Needs, topics: &BTreeMap<String, Found>, broker: &Settings) -> (Vec<String>, Vec<String>) {
    let (mut problems, mut notes) = (Vec::new(), Vec::new());
    let least = needs.open_ms + LEAST_RETENTION_MS;
    for (topic, found) in topics {
        let Found { settings, in_sync } = found;
        let is_sink = needs.sinks.contains(topic);
        let wanted = number(settings, "min.insync.replicas").unwrap_or(1);
        let short = in_sync.iter().enumerate().find(|(_, in_sync)| (**in_sync as u64) < wanted);
        if let (true, Some((partition, in_sync))) = (is_sink, short) {
            problems.push(format!(
                "topic {topic}: partition {partition} has {in_sync} replicas in sync and min.insync.replicas = {wanted}: \
                 nothing can be written to it; bring its brokers back, or lower the setting"
            ));
        }
        let compacts = settings.get("cleanup.policy").is_some_and(|policy| policy.contains("compact"));
        if is_sink && compacts {
            problems.push(format!(
                "topic {topic}: cleanup.policy = {} removes records for others of the same key; set it to delete",
                settings["cleanup.policy"]
            ));
        }
        let deletes = settings.get("cleanup.policy").is_none_or(|policy| policy.contains("delete"));
        // -1 keeps them for ever.
        let kept = number(settings, "retention.ms").filter(|_| deletes && !is_sink);
        match kept {
            Some(kept) if kept < least => problems.push(format!(
                "topic {topic}: retention.ms = {kept}: a record may be gone before the lake has it; expected at least {least} \
                 (roll_age or roll_idle, whichever is longer, and ten minutes)"
            )),
            Some(kept) if kept < SHORT_RETENTION_MS => notes.push(format!(
                "topic {topic} keeps its records for {} minutes only: a pipeline that stands still for longer halts, for \
                 it would lose some",
                kept / 60_000
            )),
            _ => {}
        }
    }
    let offsets = number(broker, "offsets.retention.minutes");
    if let Some(minutes) = offsets.filter(|minutes| *minutes < LEAST_OFFSETS_RETENTION_MINUTES) {
        problems.push(format!(
            "Kafka forgets committed offsets after offsets.retention.minutes = {minutes}, and with them where the pipeline \
             stands; expected at least {LEAST_OFFSETS_RETENTION_MINUTES}"
        ));
    }
    let made = needs.sinks.iter().find(|topic| !topics.contains_key(*topic));
    let replicas = (number(broker, "default.replication.factor"), number(broker, "min.insync.replicas"));
    if let (Some(topic), (Some(made_with), Some(wanted))) = (made, replicas)
        && made_with < wanted
    {
        problems.push(format!(
            "topic {topic}, which is to be made, would get default.replication.factor = {made_with} replicas and needs \
             min.insync.replicas = {wanted} in sync: nothing could be written to it; make it by hand, or change the \
             brokers' settings"
        ));
    }
    (problems, notes)
}

/// Begins a transaction's life and looks for committed offsets, as every slot will.
async fn try_coordinators(needs: Needs) -> Result<(), TopicCheckError> {
    let Needs { servers, sources, name, .. } = needs;
    let asked = servers.clone();
    // Two checks at the same time must not fence each other.
    let transactional_id = format!("millrace.check.{name}.{:04x}", rand::random::<u16>());
    let begun = on_a_thread(move || {
        let producer: BaseProducer =
            client_config(&asked, "check").set("transactional.id", transactional_id).create()?;
        // Once connected it finds its coordinator without half a second's wait.
        producer.client().fetch_metadata(Some("__transaction_state"), DEADLINE)?;
        producer.init_transactions(FIRST_TRANSACTION)
    });
    begun.await.map_err(|source| TopicCheckError::NoTransactions { servers: servers.clone(), source })?;
    let asked = servers.clone();
    let looked = on_a_thread(move || {
        let consumer: BaseConsumer =
            client_config(&asked, "check").set("group.id", format!("millrace.check.{name}")).create()?;
        let mut list = TopicPartitionList::new();
        sources.iter().for_each(|topic| {
            list.add_partition(topic, 0);
        });
        consumer.committed_offsets(list, FIRST_TRANSACTION).map(drop)
    });
    looked.await.map_err(|source| TopicCheckError::NoOffsets { servers, source })
}

async fn on_a_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(settings: &[(&str, &str)], in_sync: &[usize]) -> Found {
        let settings =
            settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Found { settings, in_sync: in_sync.to_vec() }
    }

    fn judged(topics: &[(&str, Found)], broker: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let needs = Needs {
            servers: "k:1".into(),
            sources: vec!["raw".into()],
            sinks: vec!["enriched".into(), "invalid".into()],
            open_ms: 60_000,
            name: "p".into(),
        };
        let topics = topics.iter().map(|(name, topic)| {
            let Found { settings, in_sync } = topic;
            ((*name).to_owned(), Found { settings: settings.clone(), in_sync: in_sync.clone() })
        });
        judge(&needs, &topics.collect(), &found(broker, &[]).settings)
    }

    #[test]
    fn kafkas_own_defaults_are_fine() {
        let plain = || found(&[("cleanup.policy", "delete"), ("retention.ms", "604800000")], &[1, 1]);
        let broker = [
            ("offsets.retention.minutes", "10080"),
            ("default.replication.factor", "1"),
            ("min.insync.replicas", "1"),
        ];
        let topics = [("raw", plain()), ("enriched", plain())];
        assert_eq!(judged(&topics, &broker), (Vec::new(), Vec::new()));
        let for_ever = found(&[("cleanup.policy", "delete"), ("retention.ms", "-1")], &[1]);
        assert_eq!(judged(&[("raw", for_ever)], &[]), (Vec::new(), Vec::new()));
    }

    #[test]
    fn each_thing_that_would_lose_or_jam_is_named() {
        for (topic, settings, in_sync, words) in [
            ("raw", [("retention.ms", "300000")], 1, "topic raw: retention.ms = 300000"),
            ("enriched", [("min.insync.replicas", "2")], 1, "partition 0 has 1 replicas in sync"),
            ("invalid", [("cleanup.policy", "compact,delete")], 1, "cleanup.policy = compact,delete"),
        ] {
            let (problems, _) = judged(&[(topic, found(&settings, &[in_sync]))], &[]);
            assert!(problems.len() == 1 && problems[0].contains(words), "{problems:?}");
        }
        let (problems, _) = judged(&[], &[("offsets.retention.minutes", "60")]);
        assert!(problems[0].contains("offsets.retention.minutes = 60"), "{problems:?}");
        let broker = [("default.replication.factor", "1"), ("min.insync.replicas", "2")];
        let (problems, _) = judged(&[], &broker);
        assert!(problems[0].contains("topic enriched, which is to be made"), "{problems:?}");
        let (problems, notes) = judged(&[("raw", found(&[("retention.ms", "7200000")], &[1]))], &[]);
        assert!(problems.is_empty() && notes[0].contains("120 minutes only"), "{notes:?}");
        // A compacted source keeps the last of each key; what it deletes is not this pipeline's to judge.
        let compacted = found(&[("cleanup.policy", "compact"), ("retention.ms", "1000")], &[1]);
        assert!(judged(&[("raw", compacted)], &[]).0.is_empty());
    }
}
