//! The collector: takes click events over HTTP, checks each, and answers for it only after Kafka has acknowledged
//! its record. Valid events go to the raw topic, keyed by `package_id`; the others to the invalid topic, with the
//! reason. Keeps nothing of its own: what it acknowledged is in Kafka, what it did not is the client's.
//!
//! `body` judges, `producer` hands over, `link` keeps Kafka, `routes` and `serve` speak HTTP.

mod answer;
mod body;
mod drain;
mod link;
mod metrics;
mod producer;
mod routes;
mod serve;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use millrace_common::address::{parse_servers, parse_topic};
use millrace_common::http::{self, BindError, Readiness};
use millrace_common::shutdown::Shutdown;
use millrace_common::units::{format_bytes, parse_bytes, parse_duration};
use tracing::info;

pub use answer::{Answer, ErrorBody, ErrorDetail, Verdict};
use link::Link;

/// The largest record, with its key and headers: a broker takes 1 MiB by default.
const LARGEST_RECORD: usize = 1_000_000;
/// The largest event that fits into a record, whatever its headers say.
const LARGEST_KEPT_EVENT: usize = 960 << 10;
const LARGEST_BODY: u64 = 64 << 20;
const LEAST_MEMORY: u64 = 16 << 20;

/// A collector: takes click events over HTTP and hands them to Kafka.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    millrace ingest\n  \
    millrace ingest --bind 0.0.0.0:60000 --kafka kafka-1:9092,kafka-2:9092\n\n\
    It listens at once and answers 503 with Retry-After until Kafka is there.")]
pub struct Config {
    /// Address and port to listen on.
    #[arg(long, default_value = "127.0.0.1:60000", value_name = "ADDRESS:PORT")]
    pub bind: SocketAddr,
    /// Kafka's bootstrap servers, separated by commas.
    #[arg(long, env = "MILLRACE_KAFKA", default_value = "127.0.0.1:9092", value_parser = parse_servers, value_name = "HOST:PORT")]
    pub kafka: String,
    /// Topic of the valid events.
    #[arg(long, default_value = "acme.clickstream.raw.events", value_parser = parse_topic)]
    pub raw_topic: String,
    /// Topic of the invalid events.
    #[arg(long, default_value = "acme.clickstream.invalid.events", value_parser = parse_topic)]
    pub invalid_topic: String,
    /// Partitions of a topic that is made because it is absent.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=100_000))]
    pub partitions: i32,
    /// The largest body of a request; a larger one is answered with 413.
    #[arg(long, default_value = "1MiB", value_parser = parse_max_body, value_name = "SIZE")]
    pub max_body: u64,
    /// The largest valid event; a larger one is invalid.
    #[arg(long, default_value = "32KiB", value_parser = parse_max_event, value_name = "SIZE")]
    pub max_event: u64,
    /// The most requests to /collect at a time; more are answered with 503.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_requests: u32,
    /// The most connections at a time; more wait.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// Budget of bodies (one half) and of the queue to Kafka (the other); beyond it the answer is 503, or `retry`.
    #[arg(long, default_value = "128MiB", value_parser = parse_memory, value_name = "SIZE")]
    pub memory: u64,
    /// How long Kafka may take to acknowledge an event before its client is told to retry.
    #[arg(long, default_value = "10s", value_parser = parse_delivery_timeout, value_name = "TIME")]
    pub delivery_timeout: Duration,
    /// Compression of the records.
    #[arg(long, value_enum, default_value_t = Compression::None)]
    pub compression: Compression,
}

/// How records travel and lie in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Compression {
    None,
    Lz4,
    Zstd,
}

impl Compression {
    fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

impl Config {
    fn queue_bytes(&self) -> u64 {
        self.memory / 2
    }

    fn body_bytes(&self) -> u64 {
        self.memory / 2
    }
}

fn within(value: u64, least: u64, most: u64) -> Result<u64, String> {
    if (least..=most).contains(&value) {
        return Ok(value);
    }
    Err(format!(
        "{} is out of range: expected {} to {}",
        format_bytes(value),
        format_bytes(least),
        format_bytes(most)
    ))
}

fn parse_max_body(text: &str) -> Result<u64, String> {
    within(parse_bytes(text)?, 1 << 10, LARGEST_BODY)
}

fn parse_max_event(text: &str) -> Result<u64, String> {
    within(parse_bytes(text)?, 256, LARGEST_KEPT_EVENT as u64)
}

fn parse_memory(text: &str) -> Result<u64, String> {
    within(parse_bytes(text)?, LEAST_MEMORY, 4 << 30)
}

fn parse_delivery_timeout(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    let accepted = Duration::from_millis(100)..=Duration::from_secs(600);
    if accepted.contains(&time) { Ok(time) } else { Err("expected 100ms to 10m".to_owned()) }
}

/// Why a collector can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("--raw-topic and --invalid-topic are both {0:?}: expected two topics")]
    SameTopic(String),
    #[error(
        "--max-body {} does not fit into half of --memory {}: raise --memory or lower --max-body",
        format_bytes(*max_body),
        format_bytes(*memory)
    )]
    Memory { max_body: u64, memory: u64 },
}

/// Runs a collector until `shutdown` begins; then answers the requests that run, sends out what the queue to Kafka
/// holds, and returns.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    if config.raw_topic == config.invalid_topic {
        return Err(Error::SameTopic(config.raw_topic));
    }
    if config.max_body > config.body_bytes() {
        return Err(Error::Memory { max_body: config.max_body, memory: config.memory });
    }
    let listener = http::bind("the collector", config.bind, "--bind").await?;
    let readiness = Readiness::waiting(format!("Kafka at {}", config.kafka));
    let link = Link::new(readiness.clone());
    let (metrics, registry) = metrics::Metrics::new(link.clone());
    let routes =
        routes::routes(&config, &link, &metrics).merge(http::status_routes(readiness, Arc::new(registry)));
    info!(bind = %config.bind, kafka = config.kafka.as_str(), "collector starts");

    let limits = serve::Limits {
        connections: config.max_connections,
        // The longest that a request takes.
        drain: routes::BODY_DEADLINE + config.delivery_timeout + routes::MARGIN,
    };
    shutdown.spawn("kafka link", link.clone().keep(config, shutdown.clone()));
    serve::serve(listener, routes, limits, metrics.connections, &shutdown).await;
    link.close().await;
    info!("collector stopped");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct CommandLine {
        #[command(flatten)]
        config: Config,
    }

    fn parse(arguments: &[&str]) -> Result<Config, String> {
        let all = ["ingest"].into_iter().chain(arguments.iter().copied());
        CommandLine::try_parse_from(all).map(|line| line.config).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_the_reference_pipelines() {
        let config = parse(&["--kafka", "127.0.0.1:9092"]).expect("defaults");
        assert_eq!(config.bind.to_string(), "127.0.0.1:60000");
        assert_eq!(config.raw_topic, "acme.clickstream.raw.events");
        assert_eq!(config.invalid_topic, "acme.clickstream.invalid.events");
        assert_eq!((config.partitions, config.max_body, config.max_event), (6, 1 << 20, 32 << 10));
    }

    #[test]
    fn bad_flags_name_the_value_and_what_was_expected() {
        for (arguments, expected) in [
            (["--kafka", "localhost"], "HOST:PORT"),
            (["--kafka", "http://localhost:9092"], "HOST:PORT"),
            (["--kafka", "a:1,,b:2"], "HOST:PORT"),
            (["--raw-topic", "click events"], "1 to 249"),
            (["--max-event", "2MiB"], "960.0 KiB"),
            (["--max-body", "1GiB"], "64.0 MiB"),
            (["--delivery-timeout", "1h"], "100ms to 10m"),
            (["--bind", "60000"], "--bind"),
        ] {
            let message = parse(&arguments).expect_err(arguments[1]);
            assert!(message.contains(arguments[1]) && message.contains(expected), "{message}");
        }
    }

    #[tokio::test]
    async fn flags_that_contradict_each_other_are_refused() {
        let same = parse(&["--raw-topic", "a", "--invalid-topic", "a"]).expect("parsed");
        assert!(matches!(run(same, Shutdown::new()).await, Err(Error::SameTopic(_))));
        let tight = parse(&["--max-body", "20MiB", "--memory", "16MiB"]).expect("parsed");
        assert!(matches!(run(tight, Shutdown::new()).await, Err(Error::Memory { .. })));
    }
}
