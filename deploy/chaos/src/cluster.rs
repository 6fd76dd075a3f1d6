//! The cluster under test: Kafka, an S3 server, an etcd of three members, three masters, workers, a collector and a
//! generator with its ledger, each a process of its own. What goes over the network between Millrace and the others
//! goes by a proxy; what this program asks itself does not.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use futures::future::{join_all, try_join_all};
use millrace_faultproxy::{Proxy, S3Proxy, Wire};
use millrace_local::s3::{self, LOGIN};
use millrace_local::{Host, Part, PartError, PortBlock, PortUse, Probe, Program, etcd, kafka};
use millrace_types::LakeTarget;
use tokio::process::Command;

use crate::config::Config;
use crate::error::Error;
use crate::fault::Fault;

/// Named where a port is taken; the run chooses free ones.
const FLAG: &str = "another run";
pub(crate) const RAW_TOPIC: &str = "chaos.raw.events";
const LATEST_TOPIC: &str = "chaos.latest.events";
const INVALID_TOPIC: &str = "chaos.invalid.events";
const BUCKET: &str = "chaos.data.lake";
const LAKE: &str = "s3://chaos.data.lake/clicks";
const PIPELINE: &str = "chaos";
const MASTERS: u16 = 3;
const MEMBERS: u16 = 3;
/// Masters advertise this address: behind it stand the proxies that lead to them.
const MASTERS_BY_PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// How long one try of a command may take.
const COMMAND_DEADLINE: Duration = Duration::from_secs(30);
/// How often the pipeline is submitted, until a master leads.
const SUBMIT_TRIES: u32 = 20;

/// Places in the block of ports.
mod port {
    pub(super) const KAFKA: u16 = 0;
    pub(super) const KAFKA_CONTROLLER: u16 = 1;
    pub(super) const KAFKA_DETOUR: u16 = 2;
    pub(super) const S3: u16 = 3;
    /// Nine of them.
    pub(super) const S3_INNER: u16 = 4;
    pub(super) const COLLECTOR: u16 = 13;
    /// Two of each member.
    pub(super) const ETCD: u16 = 14;
    /// Two of each master.
    pub(super) const MASTERS: u16 = 20;
}

/// The proxies between Millrace and what it talks to.
#[derive(Debug)]
pub(crate) struct Proxies {
    pub(crate) kafka: Proxy,
    /// In front of `s3_server`.
    pub(crate) s3: Proxy,
    pub(crate) s3_server: S3Proxy,
    pub(crate) etcd: Vec<Proxy>,
    pub(crate) masters: Vec<Proxy>,
}

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) kafka: Part,
    pub(crate) s3: Part,
    pub(crate) etcd: Vec<Part>,
    pub(crate) masters: Vec<Part>,
    pub(crate) workers: Vec<Part>,
    pub(crate) collector: Part,
    pub(crate) generator: Part,
    pub(crate) proxies: Proxies,
    program: PathBuf,
    ports: PortBlock,
    folder: PathBuf,
    partitions: i32,
}

fn local(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// On a port that the kernel chooses, unless told otherwise.
async fn proxy(listen: SocketAddr, target: SocketAddr, wire: Wire) -> Result<Proxy, Error> {
    Proxy::start(listen, target, wire).await.map_err(Error::io(format!("no proxy can listen on {listen}")))
}

fn text(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

impl Cluster {
    /// Starts everything but the generator, and submits the pipeline.
    pub(crate) async fn start(config: &Config, program: &Path, folder: &Path) -> Result<Self, Error> {
        let ports = PortBlock::find().map_err(Error::io("no block of free ports is left"))?;
        let port = |index| PortUse { port: ports.port(index), flag: FLAG };
        let kafka_proxy = proxy(local(0), local(ports.port(port::KAFKA_DETOUR)), Wire::Kafka).await?;
        let kafka_settings = kafka::Settings {
            folder: folder.join("kafka"),
            log: folder.join("logs/kafka.log"),
            host: Host::default(),
            port: port(port::KAFKA),
            controller_port: port(port::KAFKA_CONTROLLER),
            detour: Some(kafka::Detour { port: port(port::KAFKA_DETOUR), advertised: kafka_proxy.address() }),
        };
        let s3_settings = s3::Settings {
            folder: folder.join("s3"),
            log: folder.join("logs/s3.log"),
            host: Host::default(),
            port: port(port::S3),
            inner_ports: port(port::S3_INNER),
            bucket: BUCKET.to_owned(),
        };
        let s3_server = S3Proxy::start(local(0), local(s3_settings.port.port))
            .await
            .map_err(Error::io("no proxy can listen on the loopback device"))?;
        let s3_proxy = proxy(local(0), s3_server.address(), Wire::Bytes).await?;
        let (access_key_id, secret_access_key) =
            s3::keep_login(folder, LOGIN, LOGIN).map_err(Error::io("the S3 login can't be kept"))?;
        let direct = LakeTarget {
            url: LAKE.to_owned(),
            endpoint: Some(s3_settings.endpoint()),
            region: None,
            access_key_id: access_key_id.clone(),
            secret_access_key: secret_access_key.clone(),
        };
        let members = (0..MEMBERS).map(|number| port(port::ETCD + 2 * number));
        let etcd_settings = etcd::Settings {
            folder: folder.join("etcd"),
            ports: members.zip((0..MEMBERS).map(|number| port(port::ETCD + 2 * number + 1))).collect(),
            ..etcd::Settings::default()
        };
        let mut etcd_proxies = Vec::new();
        for (client, _) in &etcd_settings.ports {
            etcd_proxies.push(proxy(local(0), local(client.port), Wire::Bytes).await?);
        }
        let mut master_proxies = Vec::new();
        for number in 0..MASTERS {
            let port = ports.port(port::MASTERS + 2 * number);
            let by_proxy = SocketAddr::from((MASTERS_BY_PROXY, port));
            master_proxies.push(proxy(by_proxy, local(port), Wire::Bytes).await?);
        }
        let proxies = Proxies {
            kafka: kafka_proxy,
            s3: s3_proxy,
            s3_server,
            etcd: etcd_proxies,
            masters: master_proxies,
        };
        let (kafka, s3) =
            tokio::try_join!(kafka::prepare(&kafka_settings), s3::prepare(&s3_settings, direct))?;
        let etcd = etcd::prepare(&etcd_settings).await?;

        let clock = match config.mix().has(Fault::WorkerClock) {
            true => Some(millrace_local::fake_clock().await?),
            false => None,
        };
        let build = Build { config, program, folder, ports: &ports, proxies: &proxies, clock };
        let mut cluster = Self {
            kafka,
            s3,
            etcd,
            masters: (0..MASTERS).map(|number| build.master(number)).collect(),
            workers: (0..config.workers).map(|number| build.worker(number)).collect(),
            collector: build.collector(),
            generator: build.generator(),
            program: program.to_owned(),
            folder: folder.to_owned(),
            partitions: config.partitions,
            proxies,
            ports,
        };
        cluster.start_parts().await?;
        let definition = folder.join("pipeline.toml");
        let file = cluster.pipeline_file(config, &access_key_id.to_string(), &secret_access_key.to_string());
        fs::write(&definition, file)
            .map_err(Error::io(format!("{} can't be written", definition.display())))?;
        cluster.submit(&definition).await?;
        cluster.collector.start().await?;
        try_join_all(cluster.workers.iter_mut().map(Part::launch)).await?;
        Ok(cluster)
    }

    async fn start_parts(&mut self) -> Result<(), Error> {
        tokio::try_join!(self.kafka.start(), self.s3.start(), etcd::start(&mut self.etcd))?;
        millrace_common::kafka::ensure_topics(
            &self.kafka_servers(),
            &[RAW_TOPIC, INVALID_TOPIC],
            &[INVALID_TOPIC],
            self.partitions,
        )
        .await
        .map_err(|error| Error::SetUp(error.to_string()))?;
        try_join_all(self.masters.iter_mut().map(Part::start)).await?;
        Ok(())
    }

    fn pipeline_file(&self, config: &Config, access_key_id: &str, secret_access_key: &str) -> String {
        format!(
            "name = \"{PIPELINE}\"\nkafka = \"{kafka}\"\n[source]\ntopics = [\"{RAW_TOPIC}\"]\n[sinks]\n\
             invalid_topic = \"{INVALID_TOPIC}\"\nenriched_topic = \"{LATEST_TOPIC}\"\ncommit_interval = \"{commit}\"\n\
             [sinks.lake]\nurl = \"{LAKE}\"\nendpoint = \"http://{s3}\"\naccess_key_id = \"{access_key_id}\"\n\
             secret_access_key = \"{secret_access_key}\"\nroll_age = \"{roll}\"\nroll_idle = \"{roll}\"\n",
            kafka = self.proxies.kafka.address(),
            s3 = self.proxies.s3.address(),
            commit = text(config.commit_interval),
            roll = text(config.roll_age),
        )
    }

    /// Until some master leads and takes it.
    async fn submit(&self, definition: &Path) -> Result<(), Error> {
        let mut refusal = String::new();
        for _ in 0..SUBMIT_TRIES {
            let mut command = Command::new(&self.program);
            command.arg("submit").arg(definition).env("MILLRACE_MASTER", self.master_addresses());
            command.stdin(Stdio::null()).kill_on_drop(true);
            let output = tokio::time::timeout(COMMAND_DEADLINE, command.output()).await;
            let output = output
                .map_err(|_| Error::SetUp(format!("millrace submit hangs for {COMMAND_DEADLINE:?}")))?
                .map_err(Error::io(format!("{} can't be run", self.program.display())))?;
            if output.status.success() {
                return Ok(());
            }
            refusal = String::from_utf8_lossy(&output.stderr).into_owned();
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        Err(Error::SetUp(format!("the pipeline is not taken: {refusal}")))
    }

    /// Past the proxy.
    pub(crate) fn kafka_servers(&self) -> String {
        local(self.ports.port(port::KAFKA)).to_string()
    }

    /// Past the proxy.
    pub(crate) fn s3_endpoint(&self) -> String {
        format!("http://{}", local(self.ports.port(port::S3)))
    }

    pub(crate) fn clock_file(&self, worker: usize) -> PathBuf {
        clock_file(&self.folder, worker)
    }

    /// Of the raw topic.
    pub(crate) fn partitions(&self) -> i32 {
        self.partitions
    }

    pub(crate) fn lake(&self) -> &'static str {
        LAKE
    }

    /// Of all masters, past the proxies.
    pub(crate) fn pages(&self) -> Vec<String> {
        let page = |number| format!("http://{}", local(self.ports.port(port::MASTERS + 2 * number + 1)));
        (0..MASTERS).map(page).collect()
    }

    /// Of each member, past the proxies: its metrics.
    pub(crate) fn etcd_metrics(&self) -> Vec<String> {
        let metrics = |number| format!("http://{}/metrics", local(self.ports.port(port::ETCD + 2 * number)));
        (0..MEMBERS).map(metrics).collect()
    }

    fn master_addresses(&self) -> String {
        let address = |number| local(self.ports.port(port::MASTERS + 2 * number)).to_string();
        (0..MASTERS).map(address).collect::<Vec<_>>().join(",")
    }

    pub(crate) fn ledger(&self) -> PathBuf {
        ledger(&self.folder)
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    /// The first process that has ended without being asked to.
    pub(crate) fn ended(&self) -> Option<String> {
        let single = [&self.kafka, &self.s3, &self.collector, &self.generator];
        let parts = single.into_iter().chain(&self.etcd).chain(&self.masters).chain(&self.workers);
        let ended = parts.filter_map(|part| Some((part, part.process()?.exit()?)));
        let tell = |(part, exit): (&Part, millrace_local::Exit)| {
            format!(
                "{} ended by itself: {}; its log is {}",
                part.name(),
                exit.status,
                part.program().log.display()
            )
        };
        ended.map(tell).next()
    }

    /// Ends everything at once: what was to be seen has been checked.
    pub(crate) async fn end(&mut self) {
        let single = [&mut self.kafka, &mut self.s3, &mut self.collector, &mut self.generator];
        let parts =
            single.into_iter().chain(&mut self.etcd).chain(&mut self.masters).chain(&mut self.workers);
        join_all(parts.map(Part::kill)).await;
    }
}

/// What is added to the clock of this worker, in seconds; while there is no such file, nothing.
fn clock_file(folder: &Path, worker: usize) -> PathBuf {
    folder.join(format!("clock-{worker}"))
}

fn ledger(folder: &Path) -> PathBuf {
    folder.join("ledger.jsonl")
}

/// What the command lines are made of.
struct Build<'a> {
    config: &'a Config,
    program: &'a Path,
    folder: &'a Path,
    ports: &'a PortBlock,
    proxies: &'a Proxies,
    /// The libraries by which workers have a clock that can be set.
    clock: Option<String>,
}

impl Build<'_> {
    fn program(&self, name: &str) -> Program {
        Program::new(name, self.program, self.folder.join(format!("logs/{name}.log")))
    }

    fn port(&self, index: u16) -> PortUse {
        PortUse { port: self.ports.port(index), flag: FLAG }
    }

    fn master(&self, number: u16) -> Part {
        let (address, page) =
            (self.port(port::MASTERS + 2 * number), self.port(port::MASTERS + 2 * number + 1));
        let etcd: Vec<String> = self.proxies.etcd.iter().map(|proxy| proxy.address().to_string()).collect();
        let program = self
            .program(&format!("master-{number}"))
            .arguments(["master", "--no-pipeline", "--state", &format!("etcd://{}", etcd.join(","))])
            .arguments(["--bind", &local(address.port).to_string()])
            .arguments(["--http-bind", &local(page.port).to_string()])
            .arguments(["--advertise", &MASTERS_BY_PROXY.to_string()]);
        let url = format!("http://{}/readyz", local(page.port));
        Part::new(program, vec![address, page], Probe::Http { url })
    }

    fn worker(&self, number: u16) -> Part {
        let masters: Vec<String> =
            self.proxies.masters.iter().map(|proxy| proxy.address().to_string()).collect();
        let program = self
            .program(&format!("worker-{number}"))
            .arguments(["worker", "--master", &masters.join(","), "--cores", "1"])
            .arguments(["--memory", &format!("{}B", self.config.memory)]);
        let program = match &self.clock {
            // The monotonic clock, by which all waits are measured, can't be set by anybody.
            Some(libraries) => program
                .environment("LD_PRELOAD", libraries)
                .environment("FAKETIME_TIMESTAMP_FILE", clock_file(self.folder, number.into()))
                .environment("FAKETIME_DONT_FAKE_MONOTONIC", "1")
                .environment("FAKETIME_CACHE_DURATION", "1"),
            None => program,
        };
        Part::new(program, Vec::new(), Probe::None)
    }

    fn collector(&self) -> Part {
        let address = self.port(port::COLLECTOR);
        let program = self
            .program("collector")
            .arguments(["ingest", "--bind", &local(address.port).to_string()])
            .arguments(["--kafka", &self.proxies.kafka.address().to_string()])
            .arguments(["--raw-topic", RAW_TOPIC, "--invalid-topic", INVALID_TOPIC]);
        let url = format!("http://{}/readyz", local(address.port));
        Part::new(program, vec![address], Probe::Http { url })
    }

    /// It sends again until it is answered, with the same ids: that is what the duplicate rule is for.
    fn generator(&self) -> Part {
        let url = format!("http://{}/collect", local(self.ports.port(port::COLLECTOR)));
        let program = self
            .program("generator")
            .arguments(["generate", "--url", &url, "--rate", &self.config.rate.to_string()])
            .arguments(["--invalid", "0.005", "--duplicates", "0.01", "--retries", "1000"])
            .arguments(["--ledger", &ledger(self.folder).display().to_string(), "--json"]);
        Part::new(program, Vec::new(), Probe::None)
    }
}

impl From<PartError> for Error {
    fn from(error: PartError) -> Self {
        Self::SetUp(error.to_string())
    }
}
