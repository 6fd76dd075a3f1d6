//! The demo's flags. Decides nothing.

use std::path::PathBuf;
use std::time::Duration;

use millrace_common::units::{format_bytes, parse_bytes, parse_duration};

use crate::ports::PortUse;
use crate::s3::INNER_PORTS;

/// The whole job on this machine: Kafka, S3, master, workers, collector and generator as separate processes.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    millrace demo\n  \
    millrace demo --fresh --workers 3 --rate 2000 --duration 60s --report report.json\n  \
    millrace demo --workers 0 --rate 20000        # then start workers by hand\n  \
    millrace demo --data-dir /tmp/second --kafka-port 9192 --kafka-controller-port 9193 --s3-port 9100 \\\n      \
    --master-port 7177 --http-port 18180 --collector-port 60100")]
pub struct Config {
    /// Workers to start; with 0 you start them yourself.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(0..=64), value_name = "N")]
    pub workers: u32,
    /// Cores that each worker offers.
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=4096), value_name = "N")]
    pub cores: u32,
    /// Memory that each worker may use for its buffers.
    #[arg(long, default_value = "512MiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub memory: u64,
    /// Events that the generator sends a second; 0 is as many as are taken.
    #[arg(long, default_value_t = 2_000, value_name = "N")]
    pub rate: u64,
    /// Share of events that are invalid on purpose, from 0 to 1: the collector refuses them.
    #[arg(long, default_value_t = 0.005, value_name = "SHARE")]
    pub invalid: f64,
    /// How long the generator sends; without it, until Ctrl-C.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// Partitions of each topic that is absent.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=1_000), value_name = "N")]
    pub partitions: i32,
    /// Files are closed when their oldest row is older than this.
    #[arg(long, default_value = "10s", value_parser = parse_duration, value_name = "TIME")]
    pub roll_age: Duration,
    /// Takes data, state and logs.
    #[arg(long, default_value = "demo-data", value_name = "FOLDER")]
    pub data_dir: PathBuf,
    /// Remove what earlier demos left in the data folder.
    #[arg(long)]
    pub fresh: bool,
    /// Write the result to this file.
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    #[command(flatten)]
    pub parts: Parts,
    #[command(flatten)]
    pub ports: Ports,
}

/// Parts that run already.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Parts that run already")]
pub struct Parts {
    /// Kafka's brokers; by default one is started.
    #[arg(long, value_name = "HOST:PORT,…")]
    pub kafka: Option<String>,
    /// An S3 server, with its login in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; by default one is started.
    #[arg(long, value_name = "http://HOST:PORT")]
    pub s3_endpoint: Option<String>,
    /// The lake; file:///folder needs no S3.
    #[arg(long, default_value = "s3://acme.eu-west-1.stg.data.lake/clickstream-data", value_name = "URL")]
    pub lake: String,
    /// Where the master keeps assignments and epochs; by default in the data folder.
    #[arg(long, value_name = "WHERE")]
    pub state: Option<String>,
}

/// Where everything listens, on the loopback device.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Ports")]
pub struct Ports {
    #[arg(long, default_value_t = 9092, value_name = "PORT")]
    pub kafka_port: u16,
    #[arg(long, default_value_t = 9093, value_name = "PORT")]
    pub kafka_controller_port: u16,
    #[arg(long, default_value_t = 9000, value_name = "PORT")]
    pub s3_port: u16,
    /// First of nine ports for the S3 server's own services; by default ten above --s3-port.
    #[arg(long, value_name = "PORT")]
    pub s3_inner_ports: Option<u16>,
    /// Where workers and the command line reach the master.
    #[arg(long, default_value_t = 7077, value_name = "PORT")]
    pub master_port: u16,
    /// The status page.
    #[arg(long, default_value_t = 18_080, value_name = "PORT")]
    pub http_port: u16,
    #[arg(long, default_value_t = 60_000, value_name = "PORT")]
    pub collector_port: u16,
}

impl Ports {
    pub(crate) fn kafka(&self) -> PortUse {
        PortUse { port: self.kafka_port, flag: "--kafka-port" }
    }

    pub(crate) fn kafka_controller(&self) -> PortUse {
        PortUse { port: self.kafka_controller_port, flag: "--kafka-controller-port" }
    }

    pub(crate) fn s3(&self) -> PortUse {
        PortUse { port: self.s3_port, flag: "--s3-port" }
    }

    pub(crate) fn master(&self) -> Vec<PortUse> {
        vec![
            PortUse { port: self.master_port, flag: "--master-port" },
            PortUse { port: self.http_port, flag: "--http-port" },
        ]
    }

    pub(crate) fn collector(&self) -> PortUse {
        PortUse { port: self.collector_port, flag: "--collector-port" }
    }

    pub(crate) fn s3_inner(&self) -> PortUse {
        let port = self.s3_inner_ports.unwrap_or(self.s3_port.saturating_add(10));
        PortUse { port, flag: "--s3-inner-ports" }
    }
}

impl Config {
    /// Every problem of the flags together, for they can't be seen one by one.
    pub(crate) fn check(&self) -> Result<(), String> {
        const LEAST_MEMORY: u64 = 64 << 20;
        let mut problems = Vec::new();
        if self.memory < LEAST_MEMORY {
            problems.push(format!(
                "--memory {} is too little for a worker: expected at least {}",
                format_bytes(self.memory),
                format_bytes(LEAST_MEMORY)
            ));
        }
        if !(0.0..=1.0).contains(&self.invalid) {
            problems.push(format!("--invalid {}: expected a number from 0 to 1", self.invalid));
        }
        if self.roll_age.is_zero() {
            problems.push("--roll-age 0 never leaves a file open: expected a time like 10s".to_owned());
        }
        if u16::MAX - self.ports.s3_inner().port < INNER_PORTS {
            problems.push(format!(
                "--s3-inner-ports {} leaves no room for {INNER_PORTS} ports: expected at most {}",
                self.ports.s3_inner().port,
                u16::MAX - INNER_PORTS
            ));
        }
        if self.lake_in_folder() && self.parts.s3_endpoint.is_some() {
            problems.push(format!("--lake {} needs no --s3-endpoint: leave one away", self.parts.lake));
        }
        if !self.lake_in_folder() && self.bucket().is_none() {
            problems.push(format!(
                "--lake {:?} is no lake: expected s3://bucket/prefix or file:///folder",
                self.parts.lake
            ));
        }
        let mut ports = self.used_ports();
        ports.sort_unstable_by_key(|port| port.port);
        for pair in ports.windows(2) {
            if pair[0].port == pair[1].port {
                problems.push(format!(
                    "{} and {} are both {}: expected different ports",
                    pair[0].flag, pair[1].flag, pair[0].port
                ));
            }
        }
        if problems.is_empty() { Ok(()) } else { Err(problems.join("\n  ")) }
    }

    fn used_ports(&self) -> Vec<PortUse> {
        let ports = &self.ports;
        let mut used = ports.master();
        used.push(ports.collector());
        if self.parts.kafka.is_none() {
            used.extend([ports.kafka(), ports.kafka_controller()]);
        }
        if self.starts_s3() {
            used.push(ports.s3());
            let PortUse { port, flag } = ports.s3_inner();
            used.extend((0..INNER_PORTS).map(|step| PortUse { port: port.saturating_add(step), flag }));
        }
        used
    }

    pub(crate) fn lake_in_folder(&self) -> bool {
        self.parts.lake.starts_with("file:")
    }

    pub(crate) fn starts_s3(&self) -> bool {
        self.parts.s3_endpoint.is_none() && !self.lake_in_folder()
    }

    /// The bucket of an `s3://` lake.
    pub(crate) fn bucket(&self) -> Option<&str> {
        let path = self.parts.lake.strip_prefix("s3://")?;
        path.split('/').next().filter(|bucket| !bucket.is_empty())
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

    fn check(flags: &[&str]) -> Result<(), String> {
        Command::try_parse_from([&["demo"], flags].concat()).expect("flags").config.check()
    }

    #[test]
    fn the_defaults_and_a_second_demo_beside_them_are_fine() {
        assert_eq!(check(&[]), Ok(()));
        assert_eq!(check(&["--s3-port", "9100", "--lake", "file:///tmp/lake"]), Ok(()));
    }

    #[test]
    fn all_problems_are_told_at_once() {
        let problems =
            check(&["--memory", "1MiB", "--master-port", "9014", "--lake", "gs://x"]).expect_err("bad");
        for part in
            ["--memory 1.0 MiB", "--master-port and --s3-inner-ports are both 9014", "--lake \"gs://x\""]
        {
            assert!(problems.contains(part), "{problems}");
        }
    }

    #[test]
    fn ports_that_are_not_used_clash_with_nobody() {
        assert_eq!(check(&["--kafka", "a:1", "--master-port", "9092"]), Ok(()));
    }
}
