//! The master's flags, and the built-in pipeline that they describe. Decides nothing, asks nobody.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use millrace_common::address::{join_host_port, parse_servers, parse_topic};
use millrace_common::tls::ServerFlags;
use millrace_common::types::{LakeTarget, PipelineDefinition, PipelineId, SecretReference};
use millrace_common::units::{parse_bytes, parse_duration};

use crate::draft::{parse_endpoint, parse_lake};
use crate::store::{EtcdFlags, StateLocation};

/// Name of the pipeline that the master makes by itself.
pub(crate) const BUILT_IN: &str = "clickstream";

const DEFAULT_PARTITIONS: i32 = 6;
const DEFAULT_KAFKA: &str = "127.0.0.1:9092";
const DEFAULT_RAW: &str = "acme.clickstream.raw.events";
const DEFAULT_LATEST: &str = "acme.clickstream.latest.events";
const DEFAULT_INVALID: &str = "acme.clickstream.invalid.events";
const DEFAULT_LAKE: &str = "s3://acme.eu-west-1.stg.data.lake/clickstream-data";

/// A master: registers workers, gives them the partitions, and shows it on a page.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    millrace master --kafka 127.0.0.1:9092 --s3-endpoint http://127.0.0.1:9000\n  \
    millrace master --state file:/var/lib/millrace --lake file:///data/lake\n  \
    millrace master --no-pipeline\n  \
    millrace master --state etcd://10.0.0.1,10.0.0.2,10.0.0.3 --bind 10.0.0.7:7077\n\n\
    Secrets are named, never given: the master and each worker read the variable or the file on their own host.")]
pub struct Config {
    /// Where workers and the command line reach the master.
    #[arg(long, default_value = "127.0.0.1:7077", value_name = "HOST:PORT")]
    pub bind: SocketAddr,
    /// Where the status page is.
    #[arg(long, default_value = "127.0.0.1:18080", value_name = "HOST:PORT")]
    pub http_bind: SocketAddr,
    /// A file with the logins that the status page asks for, one a line: `read` or `act`, then `basic NAME:SECRET` or
    /// `token SECRET`. Without it nobody is asked.
    #[arg(long, value_name = "FILE")]
    pub ui_auth: Option<PathBuf>,
    /// Host name or address under which workers, people and other masters reach this one; by default the one that it
    /// listens on.
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Where assignments and epochs are kept: memory, file:DIR, or etcd://HOST:PORT,…[/PREFIX] for several masters, of
    /// which one leads.
    #[arg(long, env = "MILLRACE_STATE", default_value = "file:millrace-state", value_name = "WHERE")]
    pub state: StateLocation,
    /// Name of the cluster: masters of another one are refused at the same state in etcd.
    #[arg(long, default_value = "millrace", value_name = "NAME")]
    pub cluster: String,
    /// A leader that etcd does not hear for this long leads no more; whole seconds.
    #[arg(long, default_value = "3s", value_parser = parse_leader_lease, value_name = "TIME")]
    pub leader_lease: Duration,
    /// How often a worker reports.
    #[arg(long, default_value = "500ms", value_parser = parse_positive_duration, value_name = "TIME")]
    pub heartbeat_interval: Duration,
    /// A worker silent for this long is dead.
    #[arg(long, default_value = "3s", value_parser = parse_positive_duration, value_name = "TIME")]
    pub lease: Duration,
    /// How long a worker may be away after its session has broken while its port still answers.
    #[arg(long, default_value = "500ms", value_parser = parse_duration, value_name = "TIME")]
    pub grace: Duration,
    /// Grant halted partitions again: after their cause was repaired.
    #[arg(long)]
    pub resume_halted: bool,
    /// How often Kafka is asked for partitions that were added to source topics.
    #[arg(long, default_value = "5s", value_parser = parse_positive_duration, value_name = "TIME")]
    pub metadata_refresh: Duration,
    /// Make no pipeline: run what is submitted.
    #[arg(
        long,
        conflicts_with_all = ["raw_topic", "latest_topic", "invalid_topic", "lake", "s3_endpoint", "s3_region",
            "roll_age", "roll_bytes", "roll_rows", "roll_idle"]
    )]
    pub no_pipeline: bool,
    #[command(flatten)]
    pub access: ServerFlags,
    #[command(flatten)]
    pub etcd: EtcdFlags,
    #[command(flatten)]
    pub pipeline: PipelineConfig,
}

impl Config {
    /// `host:port` of the workers' port and of the page, as others reach them.
    pub(crate) fn advertised(&self, bound: SocketAddr, page: SocketAddr) -> (String, String) {
        let address = |bound: SocketAddr| match &self.advertise {
            Some(host) => join_host_port(host, bound.port()),
            None => bound.to_string(),
        };
        (address(bound), address(page))
    }
}

/// Whole seconds, as etcd counts leases, and long enough for a call that hangs.
fn parse_leader_lease(text: &str) -> Result<Duration, String> {
    let lease = parse_duration(text)?;
    if lease.subsec_nanos() == 0 && (2..=600).contains(&lease.as_secs()) {
        return Ok(lease);
    }
    Err("expected whole seconds from 2s to 600s".to_owned())
}

/// What the built-in pipeline `clickstream` reads and writes. A flag that is not given leaves a stored pipeline as it
/// is; a new one gets the default.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "The pipeline clickstream, made at the first start")]
pub struct PipelineConfig {
    /// Kafka's brokers, separated by commas [default: 127.0.0.1:9092].
    #[arg(long, env = "MILLRACE_KAFKA", value_parser = parse_servers, value_name = "HOST:PORT,…")]
    pub kafka: Option<String>,
    /// Topic to read [default: acme.clickstream.raw.events].
    #[arg(long, value_parser = parse_topic, value_name = "TOPIC")]
    pub raw_topic: Option<String>,
    /// Topic for enriched events [default: acme.clickstream.latest.events].
    #[arg(long, value_parser = parse_topic, value_name = "TOPIC")]
    pub latest_topic: Option<String>,
    /// Topic for what can't be parsed [default: acme.clickstream.invalid.events].
    #[arg(long, value_parser = parse_topic, value_name = "TOPIC")]
    pub invalid_topic: Option<String>,
    /// Partitions of a topic that is absent and made.
    #[arg(long, default_value_t = DEFAULT_PARTITIONS, value_parser = clap::value_parser!(i32).range(1..=10_000))]
    pub partitions: i32,
    /// Where the lake lies: s3://bucket/prefix or file:///folder. It belongs to this pipeline for ever
    /// [default: s3://acme.eu-west-1.stg.data.lake/clickstream-data].
    #[arg(long, value_parser = parse_lake, value_name = "URL")]
    pub lake: Option<String>,
    /// An S3 server other than AWS's own.
    #[arg(long, value_parser = parse_endpoint, value_name = "http://HOST:PORT")]
    pub s3_endpoint: Option<String>,
    /// S3 region of the lake's bucket.
    #[arg(long, value_name = "REGION")]
    pub s3_region: Option<String>,
    /// Where the access key id is kept, here and at each worker: env:NAME or file:/PATH
    /// [default: env:AWS_ACCESS_KEY_ID].
    #[arg(long, value_name = "WHERE")]
    pub s3_access_key_id: Option<SecretReference>,
    /// Where the secret access key is kept, here and at each worker: env:NAME or file:/PATH
    /// [default: env:AWS_SECRET_ACCESS_KEY].
    #[arg(long, value_name = "WHERE")]
    pub s3_secret_access_key: Option<SecretReference>,
    /// Files are closed when their oldest row is older than this [default: 60s].
    #[arg(long, value_parser = parse_positive_duration, value_name = "TIME")]
    pub roll_age: Option<Duration>,
    /// Files are closed when a partition's open files hold this much [default: 128MiB].
    #[arg(long, value_parser = parse_positive_bytes, value_name = "SIZE")]
    pub roll_bytes: Option<u64>,
    /// Files are closed when a partition's open files hold this many rows [default: 5000000].
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub roll_rows: Option<u64>,
    /// Files are closed when nothing has come for this long [default: 30s].
    #[arg(long, value_parser = parse_positive_duration, value_name = "TIME")]
    pub roll_idle: Option<Duration>,
}

/// Flags that would make a stored pipeline another one.
#[derive(Debug, thiserror::Error)]
#[error(
    "pipeline {pipeline} has {flag} {stored}, it can't become {given}: leave the flag out, or start a new pipeline \
     with another --state and --lake"
)]
pub struct AnotherPipeline {
    pipeline: PipelineId,
    flag: &'static str,
    stored: String,
    given: String,
}

impl PipelineConfig {
    /// A new pipeline under `id`, as the flags describe it.
    pub(crate) fn definition(&self, id: PipelineId, submitted_at_ms: u64) -> PipelineDefinition {
        let or = |flag: &Option<String>, default: &str| flag.clone().unwrap_or_else(|| default.to_owned());
        let mut definition = PipelineDefinition {
            enriched_topic: Some(or(&self.latest_topic, DEFAULT_LATEST)),
            lake: Some(LakeTarget::new(or(&self.lake, DEFAULT_LAKE))),
            submitted_at_ms,
            user: std::env::var("USER").unwrap_or_else(|_| "unknown".into()),
            ..PipelineDefinition::new(
                id,
                BUILT_IN,
                DEFAULT_KAFKA,
                vec![or(&self.raw_topic, DEFAULT_RAW)],
                &or(&self.invalid_topic, DEFAULT_INVALID),
            )
        };
        self.set_addresses_and_limits(&mut definition);
        definition
    }

    /// The stored pipeline with the addresses and limits that the flags give; what it reads and writes stays.
    pub(crate) fn change(&self, stored: &PipelineDefinition) -> Result<PipelineDefinition, AnotherPipeline> {
        let fixed = [
            ("--raw-topic", &self.raw_topic, stored.source.topics.join(",")),
            ("--latest-topic", &self.latest_topic, stored.enriched_topic.clone().unwrap_or_default()),
            ("--invalid-topic", &self.invalid_topic, stored.invalid_topic.clone()),
            ("--lake", &self.lake, stored.lake_url().to_owned()),
        ];
        for (flag, given, stored_value) in fixed {
            if let Some(given) = given.as_ref().filter(|given| **given != stored_value) {
                return Err(AnotherPipeline {
                    pipeline: stored.id.clone(),
                    flag,
                    stored: stored_value,
                    given: given.clone(),
                });
            }
        }
        let mut definition = stored.clone();
        self.set_addresses_and_limits(&mut definition);
        Ok(definition)
    }

    fn set_addresses_and_limits(&self, definition: &mut PipelineDefinition) {
        let set = |field: &mut String, flag: &Option<String>| {
            if let Some(value) = flag {
                field.clone_from(value);
            }
        };
        set(&mut definition.bootstrap_servers, &self.kafka);
        if let Some(lake) = &mut definition.lake {
            lake.endpoint = self.s3_endpoint.clone().or_else(|| lake.endpoint.take());
            lake.region = self.s3_region.clone().or_else(|| lake.region.take());
            if let Some(reference) = &self.s3_access_key_id {
                lake.access_key_id = reference.clone();
            }
            if let Some(reference) = &self.s3_secret_access_key {
                lake.secret_access_key = reference.clone();
            }
        }
        let roll = &mut definition.roll;
        roll.max_bytes = self.roll_bytes.unwrap_or(roll.max_bytes);
        roll.max_rows = self.roll_rows.unwrap_or(roll.max_rows);
        roll.max_age_ms = self.roll_age.map_or(roll.max_age_ms, millis);
        roll.max_idle_ms = self.roll_idle.map_or(roll.max_idle_ms, millis);
    }
}

/// Whole milliseconds; `parse_duration` yields nothing finer.
pub(crate) fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn parse_positive_duration(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("expected a time above zero, like 500ms, 10s or 2m".into()),
        span => Ok(span),
    }
}

fn parse_positive_bytes(text: &str) -> Result<u64, String> {
    match parse_bytes(text)? {
        0 => Err("expected a size above zero, like 128MiB".into()),
        bytes => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct Command {
        #[command(flatten)]
        config: Config,
    }

    fn parse(flags: &[&str]) -> Result<Config, clap::Error> {
        Command::try_parse_from([&["master"], flags].concat()).map(|command| command.config)
    }

    #[test]
    fn flags_describe_the_pipeline() {
        let config = parse(&["--roll-age", "10s", "--lake", "file:///x/lake/", "--roll-bytes", "1MiB"])
            .expect("flags");
        let definition = config.pipeline.definition("clickstream-000000".parse().expect("id"), 5);
        assert_eq!(definition.roll.max_age_ms, 10_000);
        assert_eq!(definition.roll.max_bytes, 1 << 20);
        assert_eq!(definition.lake_url(), "file:///x/lake");
        assert_eq!(definition.source.topics, ["acme.clickstream.raw.events"]);
    }

    #[test]
    fn a_stored_pipeline_takes_new_addresses_and_refuses_other_topics() {
        let first = parse(&["--lake", "file:///x/lake", "--roll-age", "10s"]).expect("flags");
        let stored = first.pipeline.definition("clickstream-000000".parse().expect("id"), 5);
        let unchanged = parse(&[]).expect("flags").pipeline.change(&stored).expect("same");
        assert_eq!(unchanged, stored);
        let moved =
            parse(&["--kafka", "other:9092"]).expect("flags").pipeline.change(&stored).expect("address");
        assert_eq!((moved.bootstrap_servers.as_str(), moved.roll), ("other:9092", stored.roll));
        for (flag, value) in [("--lake", "file:///y"), ("--raw-topic", "other"), ("--invalid-topic", "other")]
        {
            let message =
                parse(&[flag, value]).expect("flags").pipeline.change(&stored).expect_err(flag).to_string();
            assert!(message.contains(flag) && message.contains(value), "{message}");
        }
    }

    #[test]
    fn a_master_without_its_own_pipeline_takes_no_flags_for_it() {
        assert!(parse(&["--no-pipeline", "--metadata-refresh", "1s"]).expect("flags").no_pipeline);
        let refused = parse(&["--no-pipeline", "--lake", "file:///x"]).expect_err("contradiction");
        assert!(refused.to_string().contains("--lake"), "{refused}");
        assert_eq!(refused.exit_code(), 2);
    }

    #[test]
    fn bad_values_name_flag_value_and_accepted_form_and_exit_with_2() {
        for (flag, value, accepted) in [
            ("--state", "disk", "etcd://HOST:PORT"),
            ("--leader-lease", "2500ms", "whole seconds"),
            ("--lease", "soon", "expected a time like"),
            ("--lease", "0s", "above zero"),
            ("--roll-bytes", "12", "expected a size like"),
            ("--kafka", "nowhere", "expected HOST:PORT"),
            ("--kafka", "a:1,b", "expected HOST:PORT"),
            ("--lake", "gs://x", "expected s3://bucket/prefix"),
            ("--lake", "s3:", "expected s3://bucket/prefix"),
            ("--s3-endpoint", "127.0.0.1:9000", "expected http://host:port"),
            ("--raw-topic", "a b", "expected a topic's name"),
            ("--partitions", "0", "0 is not in"),
            ("--bind", "7077", "invalid socket address"),
            ("--s3-secret-access-key", "hunter2", "env:NAME or file:/PATH"),
        ] {
            let error = parse(&[flag, value]).expect_err(flag);
            let message = error.to_string();
            assert!(
                message.contains(flag) && message.contains(value) && message.contains(accepted),
                "{message}"
            );
            assert_eq!(error.exit_code(), 2);
        }
    }
}
