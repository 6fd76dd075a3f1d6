//! One worker takes in what lies ready in the raw topic, and commits as it always does.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use futures::TryStreamExt;
use millrace_common::kafka::client_config;
use millrace_common::lake;
use millrace_types::LakeTarget;
use object_store::{ObjectMeta, ObjectStore};
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;

use crate::Scene;
use crate::cluster::{Cluster, Slot};
use crate::figures::Rounds;
use crate::process::{cpu_seconds, memory};
use crate::report::{Column, Row, Table};
use crate::traffic::{Compression, Raw, fill};

const PARTITIONS: i32 = 6;
/// A partition's last rows wait for no more: after so long without a record its files are closed.
const ROLL_IDLE: &str = "1s";

#[derive(Debug, clap::Args)]
pub(crate) struct Config {
    /// Events in the raw topic.
    #[arg(long, default_value_t = 2_000_000, value_parser = clap::value_parser!(u64).range(1..))]
    events: u64,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..))]
    rounds: u64,
    /// Where they go.
    #[arg(long, value_delimiter = ',', default_value = "lake,topic,both")]
    sinks: Vec<Sinks>,
    /// How the records of the raw topic are compressed.
    #[arg(long, value_delimiter = ',', default_value = "none,lz4,zstd")]
    input: Vec<Compression>,
    /// The worker's `--cores`.
    #[arg(long, value_delimiter = ',', default_value = "1,2")]
    cores: Vec<u32>,
    /// The worker's `--memory`.
    #[arg(long, default_value = "1GiB")]
    memory: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Sinks {
    Lake,
    Topic,
    Both,
}

impl Sinks {
    fn has_lake(self) -> bool {
        self != Self::Topic
    }

    fn has_topic(self) -> bool {
        self != Self::Lake
    }

    fn name(self) -> &'static str {
        match self {
            Self::Lake => "lake",
            Self::Topic => "topic",
            Self::Both => "both",
        }
    }
}

/// What one drain took.
struct Drained {
    cpu_seconds: f64,
    wall_seconds: f64,
    peak_bytes: u64,
    lake_bytes: u64,
    topic_bytes: u64,
}

pub(crate) async fn run(scene: &Scene<'_>, config: &Config) -> anyhow::Result<Table> {
    let mut rows = Vec::new();
    for input in &config.input {
        let topic = format!("bench.raw.{}", input.name());
        let raw = fill(scene, &topic, PARTITIONS, config.events, *input).await?;
        for sinks in &config.sinks {
            for cores in &config.cores {
                let mut rounds = Vec::new();
                for round in 0..config.rounds {
                    let name = format!("drain-{}-{}-{cores}-{round}", input.name(), sinks.name());
                    let drained = drain(scene, &raw, *sinks, &name, &flags(*cores, &config.memory)).await?;
                    eprintln!(
                        "{name}: {:.2} CPU-seconds, {:.0} events each, {:.1} s",
                        drained.cpu_seconds,
                        per(raw.events, drained.cpu_seconds),
                        drained.wall_seconds
                    );
                    rounds.push(drained);
                }
                let varied = vec![input.name().to_owned(), sinks.name().to_owned(), cores.to_string()];
                rows.push(Row { varied, figures: figures(&raw, &rounds) });
            }
        }
        delete_topic(&scene.parts.servers(), &raw.topic).await?;
    }
    let (events, rounds, memory) = (config.events, config.rounds, &config.memory);
    Ok(Table {
        part: "drain",
        what: format!(
            "One worker with `--memory {memory}` takes in {events} events of the generator's (seed 1) that lie in \
             {PARTITIONS} partitions; the pipeline's defaults but `roll_idle = \"{ROLL_IDLE}\"`, so commits every second \
             and files of up to 128 MiB. From the worker's start to its last commit, median of {rounds} rounds (least – greatest). Processor \
             time is the whole worker's, librdkafka's threads too."
        ),
        command: format!("make bench ARGS=\"drain --events {events} --rounds {rounds}\""),
        varied: vec!["input", "sinks", "cores"],
        columns: [
            ("events per CPU-second", 0),
            ("events per second", 0),
            ("bytes an event read", 0),
            ("in the lake", 1),
            ("in the enriched topic", 0),
            ("peak memory, MiB", 0),
        ]
        .map(|(name, decimals)| Column { name, decimals })
        .into(),
        rows,
    })
}

fn flags(cores: u32, memory: &str) -> Vec<String> {
    ["--cores", &cores.to_string(), "--memory", memory].map(str::to_owned).into()
}

fn figures(raw: &Raw, rounds: &[Drained]) -> Vec<Rounds> {
    let rounds_of = |figure: &dyn Fn(&Drained) -> f64| Rounds::of(rounds.iter().map(figure).collect());
    let each = |bytes: u64| per(bytes, per(raw.events, 1.0));
    vec![
        rounds_of(&|drained| per(raw.events, drained.cpu_seconds)),
        rounds_of(&|drained| per(raw.events, drained.wall_seconds)),
        rounds_of(&|_| each(raw.bytes)),
        rounds_of(&|drained| each(drained.lake_bytes)),
        rounds_of(&|drained| each(drained.topic_bytes)),
        rounds_of(&|drained| per(drained.peak_bytes, f64::from(1 << 20))),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn per(count: u64, unit: f64) -> f64 {
    count as f64 / unit
}

/// Drains `raw` once, with a master, a lake and an enriched topic of its own.
async fn drain(
    scene: &Scene<'_>,
    raw: &Raw,
    sinks: Sinks,
    name: &str,
    flags: &[String],
) -> anyhow::Result<Drained> {
    let parts = scene.parts;
    let target = parts.lake(name);
    let enriched = format!("bench.enriched.{name}");
    let mut cluster = Cluster::start(scene, name).await?;
    cluster.submit(&pipeline(&parts.servers(), raw, sinks, &target, &enriched)).await?;
    let began = SystemTime::now();
    cluster.add_worker(flags).await?;
    let slots = cluster.drained(usize::try_from(raw.partitions)?, raw.events).await?;
    let pid = cluster.workers().next().unwrap_or_default();
    let (cpu_seconds, peak_bytes) = (cpu_seconds(pid)?, memory(pid)?.peak);
    cluster.stop().await;

    let sum = |count: fn(&Slot) -> u64| slots.iter().map(count).sum::<u64>();
    let (rows, records) = (sum(|slot| slot.rows_committed), sum(|slot| slot.records_enriched));
    let expected = |wanted: bool| if wanted { raw.events } else { 0 };
    ensure!(
        (rows, records) == (expected(sinks.has_lake()), expected(sinks.has_topic())),
        "{name}: {rows} rows and {records} enriched records are committed of {} events",
        raw.events
    );
    let mut drained = Drained {
        cpu_seconds,
        wall_seconds: last_commit(&slots) - began.duration_since(UNIX_EPOCH)?.as_secs_f64(),
        peak_bytes,
        lake_bytes: 0,
        topic_bytes: 0,
    };
    if sinks.has_lake() {
        drained.lake_bytes = empty_lake(&target).await?;
    }
    if sinks.has_topic() {
        drained.topic_bytes = parts.topic_bytes(&enriched)?;
        delete_topic(&parts.servers(), &enriched).await?;
    }
    Ok(drained)
}

/// Seconds since 1970 of the last commit of all.
fn last_commit(slots: &[Slot]) -> f64 {
    per(slots.iter().filter_map(|slot| slot.last_commit_at_ms).max().unwrap_or(0), 1000.0)
}

fn pipeline(servers: &str, raw: &Raw, sinks: Sinks, lake: &LakeTarget, enriched: &str) -> String {
    let mut file = format!(
        "name = \"bench\"\nkafka = \"{servers}\"\n[source]\ntopics = [\"{topic}\"]\n[transform]\nkind = \"clicks\"\n\
         [sinks]\ninvalid_topic = \"{topic}.invalid\"\n",
        topic = raw.topic
    );
    if sinks.has_topic() {
        file += &format!("enriched_topic = \"{enriched}\"\n");
    }
    if sinks.has_lake() {
        file += &format!(
            "[sinks.lake]\nurl = \"{}\"\nendpoint = \"{}\"\naccess_key_id = \"{}\"\nsecret_access_key = \"{}\"\n\
             roll_idle = \"{ROLL_IDLE}\"\n",
            lake.url,
            lake.endpoint.as_deref().unwrap_or_default(),
            lake.access_key_id,
            lake.secret_access_key
        );
    }
    file
}

/// Deletes what is in a lake; returns how many bytes its rows took.
async fn empty_lake(target: &LakeTarget) -> anyhow::Result<u64> {
    let lake = lake::open(target)?;
    let objects: Vec<ObjectMeta> = lake.store.list(Some(&lake.prefix)).try_collect().await?;
    let mut bytes = 0;
    for object in &objects {
        if object.location.as_ref().contains("/year=") {
            bytes += object.size;
        }
    }
    let places = futures::stream::iter(objects.into_iter().map(|object| Ok(object.location)));
    lake.store.delete_stream(Box::pin(places)).try_collect::<Vec<_>>().await?;
    Ok(bytes)
}

async fn delete_topic(servers: &str, topic: &str) -> anyhow::Result<()> {
    let admin: AdminClient<DefaultClientContext> = client_config(servers, "bench").create()?;
    for deleted in admin.delete_topics(&[topic], &AdminOptions::new()).await? {
        if let Err((topic, code)) = deleted {
            anyhow::bail!("topic {topic} can't be deleted: {code}");
        }
    }
    Ok(())
}
