//! The collector's flags, and what contradicts what.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use millrace_common::address::{parse_servers, parse_topic};
use millrace_common::units::{format_bytes, parse_bytes, parse_duration};

use super::origin::parse_origin;

/// The largest event that fits into a record, whatever its headers say.
pub(super) const LARGEST_KEPT_EVENT: usize = 960 << 10;
const LARGEST_BODY: u64 = 64 << 20;
const LEAST_MEMORY: u64 = 16 << 20;

/// A collector: takes click events over HTTP and hands them to Kafka.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    millrace ingest\n  \
    millrace ingest --bind 0.0.0.0:60000 --kafka kafka-1:9092,kafka-2:9092\n  \
    millrace ingest --bind 0.0.0.0:443 --tls-certificate chain.pem --tls-key key.pem \\\n      \
        --allow-origin https://shop.example --allow-origin https://www.shop.example \\\n      \
        --write-keys-file keys.txt --client-rate 50 --anonymize-ip --respect-dnt\n  \
    millrace ingest --client-rate 50 --trust-forwarded-for    # behind a proxy\n\n\
    Send to it:\n  \
    curl -H 'Content-Type: application/json' http://127.0.0.1:60000/collect \\\n      \
        -d '{\"type\":\"click\",\"package_id\":\"a-1\",\"event\":{\"timestamp\":\"2024-01-15T10:30:00Z\"}}'\n  \
    gzip < events.ndjson | curl -H 'Content-Type: application/x-ndjson' -H 'Content-Encoding: gzip' \\\n      \
        --data-binary @- http://127.0.0.1:60000/collect\n\n\
    It listens at once and answers 503 with Retry-After until Kafka is there. SIGHUP reads the certificate, its key and\n\
    the write keys again.")]
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
    /// The largest body of a request as it is sent; a larger one is answered with 413.
    #[arg(long, default_value = "1MiB", value_parser = parse_max_body, value_name = "SIZE")]
    pub max_body: u64,
    /// The largest body when it is decoded, for one that is compressed; a larger one is answered with 413.
    #[arg(long, default_value = "4MiB", value_parser = parse_max_body, value_name = "SIZE")]
    pub max_decoded: u64,
    /// The most events in a request; more are answered with 413.
    #[arg(long, default_value_t = 10_000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_events: u32,
    /// The largest valid event; a larger one is invalid.
    #[arg(long, default_value = "32KiB", value_parser = parse_max_event, value_name = "SIZE")]
    pub max_event: u64,
    /// The most requests to /collect at a time; more are answered with 503.
    #[arg(long, default_value_t = 1024, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub max_requests: u32,
    /// The most connections at a time; more are answered with 503 and closed.
    #[arg(long, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub max_connections: u32,
    /// Budget of bodies (one half) and of the queue to Kafka (the other); beyond it the answer is 503, or `retry`.
    #[arg(long, default_value = "128MiB", value_parser = parse_memory, value_name = "SIZE")]
    pub memory: u64,
    /// How long Kafka may take to acknowledge an event before its client is told to retry. Once Kafka is known to be
    /// away the answer is 503 at once.
    #[arg(long, default_value = "10s", value_parser = parse_delivery_timeout, value_name = "TIME")]
    pub delivery_timeout: Duration,
    /// How long a client may take over a request's headers, and over the TLS handshake.
    #[arg(long, default_value = "10s", value_parser = parse_patience, value_name = "TIME")]
    pub header_timeout: Duration,
    /// How long a connection may be idle between two requests.
    #[arg(long, default_value = "75s", value_parser = parse_patience, value_name = "TIME")]
    pub idle_timeout: Duration,
    /// How long a body may take to arrive.
    #[arg(long, default_value = "15s", value_parser = parse_patience, value_name = "TIME")]
    pub body_timeout: Duration,
    /// The least rate at which a body may arrive, each second, after 3 s of grace; 0B for any.
    #[arg(long, default_value = "1KiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub min_body_rate: u64,
    /// The most requests a second of one client (an IPv4 address or an IPv6 network of 64 bits); more are answered with
    /// 429. Without it there is no such limit.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "REQUESTS")]
    pub client_rate: Option<u32>,
    /// How many requests a client may be ahead of its rate; twice the rate if it is not given.
    #[arg(long, requires = "client_rate", value_parser = clap::value_parser!(u32).range(1..=10_000_000), value_name = "REQUESTS")]
    pub client_burst: Option<u32>,
    /// Tell clients apart by the last address in X-Forwarded-For. Only behind a proxy that sets it: anybody else could
    /// claim to be somebody else.
    #[arg(long, requires = "client_rate")]
    pub trust_forwarded_for: bool,
    /// A web site whose pages may send events, for example `https://shop.example`; `*` for every one. Can be given
    /// several times.
    #[arg(long, value_parser = parse_origin, value_name = "ORIGIN")]
    pub allow_origin: Vec<String>,
    /// Speak TLS, with the certificate and its chain in this PEM file.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's private key, a PEM file.
    #[arg(long, requires = "tls_certificate", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Take events only with one of the keys in this file, one a line: as `Authorization: Bearer KEY`, as the user of basic
    /// authentication, or as `?write_key=KEY`.
    #[arg(long, value_name = "FILE")]
    pub write_keys_file: Option<PathBuf>,
    /// Zero the last octet of the IPv4 addresses in events, and the last 80 bits of the IPv6 ones, before anything is
    /// written to any topic.
    #[arg(long)]
    pub anonymize_ip: bool,
    /// Store nothing of a request with the header `DNT: 1` or `Sec-GPC: 1`; its events get the verdict not_stored.
    #[arg(long)]
    pub respect_dnt: bool,
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
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Lz4 => "lz4",
            Self::Zstd => "zstd",
        }
    }
}

/// Flags that are right each for itself, and not together.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("--raw-topic and --invalid-topic are both {0:?}: expected two topics")]
    SameTopic(String),
    #[error(
        "--max-body {} and --max-decoded {} together do not fit into half of --memory {}: raise --memory or lower them",
        format_bytes(*max_body),
        format_bytes(*max_decoded),
        format_bytes(*memory)
    )]
    Memory { max_body: u64, max_decoded: u64, memory: u64 },
}

impl Config {
    pub(super) fn queue_bytes(&self) -> u64 {
        self.memory / 2
    }

    pub(super) fn body_bytes(&self) -> u64 {
        self.memory / 2
    }

    /// How many requests a client may send at once, if clients are limited.
    pub(super) fn burst(&self) -> u32 {
        self.client_burst.or(self.client_rate.map(|rate| rate.saturating_mul(2))).unwrap_or(1)
    }

    pub(super) fn check(&self) -> Result<(), ConfigError> {
        if self.raw_topic == self.invalid_topic {
            return Err(ConfigError::SameTopic(self.raw_topic.clone()));
        }
        if self.max_body + self.max_decoded > self.body_bytes() {
            return Err(ConfigError::Memory {
                max_body: self.max_body,
                max_decoded: self.max_decoded,
                memory: self.memory,
            });
        }
        Ok(())
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

fn parse_patience(text: &str) -> Result<Duration, String> {
    let time = parse_duration(text)?;
    let accepted = Duration::from_millis(100)..=Duration::from_secs(3600);
    if accepted.contains(&time) { Ok(time) } else { Err("expected 100ms to 1h".to_owned()) }
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
        assert!(config.check().is_ok() && parse(&["--memory", "16MiB"]).expect("little").check().is_ok());
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
            (["--header-timeout", "1ms"], "100ms to 1h"),
            (["--allow-origin", "shop.example"], "https://shop.example"),
            (["--client-rate", "0"], "1..=1000000"),
            (["--bind", "60000"], "--bind"),
        ] {
            let message = parse(&arguments).expect_err(arguments[1]);
            assert!(message.contains(arguments[1]) && message.contains(expected), "{message}");
        }
        for (arguments, expected) in [
            (["--tls-key", "key.pem"], "--tls-certificate"),
            (["--tls-certificate", "chain.pem"], "--tls-key"),
            (["--client-burst", "5"], "--client-rate"),
        ] {
            let message = parse(&arguments).expect_err(arguments[0]);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn flags_that_contradict_each_other_are_refused() {
        let check = |arguments: &[&str]| parse(arguments).expect("parsed").check().expect_err("refused");
        let same = check(&["--raw-topic", "a", "--invalid-topic", "a"]);
        assert!(same.to_string().contains("--raw-topic and --invalid-topic"), "{same}");
        let tight = check(&["--max-body", "20MiB", "--memory", "16MiB"]);
        assert!(tight.to_string().contains("raise --memory"), "{tight}");
        let tight = check(&["--max-decoded", "64MiB"]);
        assert!(tight.to_string().contains("--max-decoded 64.0 MiB"), "{tight}");
    }

    #[test]
    fn a_burst_is_twice_the_rate_unless_it_is_said() {
        assert_eq!(parse(&["--client-rate", "50"]).expect("parsed").burst(), 100);
        assert_eq!(parse(&["--client-rate", "50", "--client-burst", "5"]).expect("parsed").burst(), 5);
    }
}
