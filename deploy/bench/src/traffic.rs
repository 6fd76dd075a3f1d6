//! Fills a raw topic as production does: the generator's events, through the collector.

use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_common::kafka::client_config;
use millrace_local::{Part, PortUse, Probe, Program};
use rdkafka::consumer::{BaseConsumer, Consumer};

use crate::Scene;
use crate::cluster::run;

/// Decides what the generator makes.
const SEED: &str = "1";
const DEADLINE: Duration = Duration::from_secs(30);

/// A filled topic.
#[derive(Debug, Clone)]
pub(crate) struct Raw {
    pub(crate) topic: String,
    pub(crate) partitions: i32,
    pub(crate) events: u64,
    /// As they lie on the broker's disk.
    pub(crate) bytes: u64,
}

/// How the records of a raw topic are compressed; the collector's own words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Compression {
    None,
    Lz4,
    Zstd,
}

impl Compression {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Makes `topic` and fills it with `events` of the generator's.
pub(crate) async fn fill(
    scene: &Scene<'_>,
    topic: &str,
    partitions: i32,
    events: u64,
    compression: Compression,
) -> anyhow::Result<Raw> {
    let port = scene.parts.free_port(2);
    let folder = scene.parts.folder().join(topic);
    let servers = scene.parts.servers();
    let program = Program::new("collector", scene.program, folder.join("collector.log"))
        .arguments(["ingest", "--kafka", &servers, "--raw-topic", topic])
        .arguments(["--invalid-topic".to_owned(), format!("{topic}.invalid")])
        .arguments(["--bind".to_owned(), format!("127.0.0.1:{port}")])
        .arguments(["--partitions".to_owned(), partitions.to_string()])
        .arguments(["--compression", compression.name()]);
    let ready = Probe::Http { url: format!("http://127.0.0.1:{port}/readyz") };
    let mut collector = Part::new(program, vec![PortUse { port, flag: "the bench" }], ready);
    collector.start().await?;
    let generator = Program::new("generator", scene.program, folder.join("generator.log"))
        .arguments(["generate", "--seed", SEED, "--rate", "0", "--connections", "8"])
        .arguments(["--url".to_owned(), format!("http://127.0.0.1:{port}/collect")])
        .arguments(["--count".to_owned(), events.to_string()]);
    run(&generator).await?;
    collector.stop().await;
    let (servers, name) = (servers.clone(), topic.to_owned());
    let held = tokio::task::spawn_blocking(move || count(&servers, &name, partitions)).await??;
    ensure!(held == events, "{topic} holds {held} records, expected the {events} that were acknowledged");
    Ok(Raw { topic: topic.to_owned(), partitions, events, bytes: scene.parts.topic_bytes(topic)? })
}

/// Records of a topic that was written without transactions.
fn count(servers: &str, topic: &str, partitions: i32) -> anyhow::Result<u64> {
    let consumer: BaseConsumer = client_config(servers, "bench").set("group.id", "bench").create()?;
    let mut records = 0;
    for partition in 0..partitions {
        let (first, end) = consumer
            .fetch_watermarks(topic, partition, DEADLINE)
            .with_context(|| format!("{topic}/{partition}"))?;
        records += u64::try_from(end - first)?;
    }
    Ok(records)
}
