//! What sessions cost a master: starts a real one as a process of its own, registers workers over the real wire, and
//! prints its CPU share, its memory, and how soon it notices that many are lost.
//!
//! `worker_sessions [--workers N] [--slots N] [--flood] [--pages]`, with `MILLRACE_TEST_KAFKA` naming a Kafka. `--flood` sends
//! heartbeats as fast as the master takes them, and prints how many it takes in a second of CPU time. `--pages` also
//! prints how soon the status pages come, and how much they weigh.

mod pages;

use std::collections::BTreeMap;
use std::net::TcpListener;
use std::process::{Child, Command};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use clap::Parser;
use millrace_common::shutdown::Shutdown;
use millrace_common::telemetry;
use millrace_common::types::{
    Digest, Epoch, NextOffset, SlotId, SlotMetrics, SlotPhase, SlotReport, StopReason, VERSION, WorkerSpec,
};
use millrace_proto::v1::master_client::MasterClient;
use millrace_proto::v1::{ListWorkersRequest, MasterMessage, WorkerMessage, master_message};
use millrace_proto::{Grant, Heartbeat, Revoke};
use millrace_transform::Registry;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// Ticks of `/proc/PID/stat` in a second; 100 on every Linux that is common.
const TICKS: f64 = 100.0;
const POLL: Duration = Duration::from_millis(20);

#[derive(Debug, Clone, Parser)]
struct Arguments {
    #[arg(long, default_value_t = 1000)]
    workers: usize,
    /// Partitions of the pipeline that they share.
    #[arg(long, default_value_t = 2000)]
    slots: usize,
    /// Workers that are lost at once, first with their processes, then by silence.
    #[arg(long, default_value_t = 100)]
    lost: usize,
    #[arg(long, default_value_t = 20)]
    seconds: u64,
    /// Send heartbeats without pause.
    #[arg(long)]
    flood: bool,
    /// Of the slots, how many in a hundred have something new to tell in each heartbeat.
    #[arg(long, default_value_t = 0)]
    busy: usize,
    /// Ask for the pages, too; give it `--seconds 130`, after which their charts are full.
    #[arg(long)]
    pages: bool,
    #[arg(long, default_value_t = 61_977)]
    port: u16,
}

#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    telemetry: telemetry::Config,
    #[command(flatten)]
    config: millrace_master::Config,
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut arguments = std::env::args().peekable();
    if arguments.nth(1).as_deref() == Some("serve") {
        let line = CommandLine::parse_from(std::iter::once("serve".to_owned()).chain(arguments));
        let telemetry = telemetry::install(&line.telemetry, "worker_sessions").expect("logs");
        runtime.block_on(async {
            let shutdown = Shutdown::on_signals().expect("signals");
            millrace_master::run(line.config, Registry::default(), shutdown).await.expect("the master runs");
        });
        return telemetry.finish();
    }
    runtime.block_on(measure(&Arguments::parse()));
}

/// A master, until it is dropped.
struct Master(Child);

impl Drop for Master {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Master {
    fn start(arguments: &Arguments, lake: &str) -> Self {
        let servers = std::env::var("MILLRACE_TEST_KAFKA").expect("MILLRACE_TEST_KAFKA names a Kafka");
        let bind = format!("127.0.0.1:{}", arguments.port);
        let page = format!("127.0.0.1:{}", arguments.port + 1);
        let (topic, slots) = (format!("sessions-{}", std::process::id()), arguments.slots.to_string());
        let flags = ["serve", "--bind", &bind, "--http-bind", &page, "--state", "memory", "--lake", lake];
        let topics = ["--kafka", &servers, "--raw-topic", &topic, "--partitions", &slots];
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command.env("MILLRACE_LOG", "warn");
        Self(command.args(flags).args(topics).spawn().expect("a master"))
    }

    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("stat");
        let after_name = stat.rsplit_once(')').expect("a name").1;
        let ticks = after_name.split_whitespace().skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / TICKS
    }

    /// Heartbeats that it has taken in.
    async fn heartbeats(&self, arguments: &Arguments) -> u64 {
        let mut page = TcpStream::connect(("127.0.0.1", arguments.port + 1)).await.expect("the page");
        page.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.expect("sent");
        let mut answer = String::new();
        page.read_to_string(&mut answer).await.expect("an answer");
        let line = answer.lines().find_map(|line| line.strip_prefix("millrace_master_heartbeats_total "));
        line.expect("the counter").trim().parse().expect("a number")
    }

    fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
    }
}

/// What a worker is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Behaviour {
    Beat,
    Flood,
    /// The connection stays, and says nothing more.
    Silent,
}

async fn measure(arguments: &Arguments) {
    let folder = tempfile::tempdir().expect("a folder");
    let master = Master::start(arguments, &format!("file://{}", folder.path().display()));
    let address = format!("http://127.0.0.1:{}", arguments.port);
    let mut client = loop {
        match MasterClient::connect(address.clone()).await {
            Ok(client) => break client,
            Err(_) => tokio::time::sleep(POLL).await,
        }
    };
    // Whoever lives has an open port; those to be killed have one that is closed with them.
    let living = TcpListener::bind("127.0.0.1:0").expect("a port");
    let dying = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port_of = |listener: &TcpListener| listener.local_addr().expect("address").port();

    let granted = Arc::new(AtomicUsize::new(0));
    let (steer, behaviour) = watch::channel(Behaviour::Beat);
    let (silence, silenced) = watch::channel(Behaviour::Beat);
    let (mut stay, mut killed) = (JoinSet::new(), JoinSet::new());
    let before = master.cpu_seconds();
    let began = Instant::now();
    for number in 0..arguments.workers {
        let (is_killed, is_silent) = (number < arguments.lost, number < 2 * arguments.lost);
        let port = port_of(if is_killed { &dying } else { &living });
        let orders = if is_silent && !is_killed { silenced.clone() } else { behaviour.clone() };
        let play = Play { busy: arguments.busy, has_figures: arguments.pages };
        let parts = (address.clone(), Arc::clone(&granted), play);
        let session = async move { Worker::run(parts, number, port, orders).await };
        if is_killed {
            killed.spawn(session)
        } else {
            stay.spawn(session)
        };
    }
    until(&mut client, &mut stay, |workers| count(workers, "ALIVE") == arguments.workers).await;
    while granted.load(Ordering::Relaxed) < arguments.slots {
        fail_with(&mut stay).await;
    }
    println!(
        "{} workers with {} slots registered and granted in {:.2} s, {:.2} CPU s of the master",
        arguments.workers,
        arguments.slots,
        began.elapsed().as_secs_f64(),
        master.cpu_seconds() - before
    );

    if arguments.flood {
        steer.send_replace(Behaviour::Flood);
    }
    let (cpu, taken, began) = (master.cpu_seconds(), master.heartbeats(arguments).await, Instant::now());
    let wait = tokio::time::sleep(Duration::from_secs(arguments.seconds));
    tokio::select! {
        Some(ended) = stay.join_next() => panic!("a session ended: {}", ended.expect("no panic")),
        () = wait => {}
    }
    let (cpu, taken) = (master.cpu_seconds() - cpu, master.heartbeats(arguments).await - taken);
    let seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate to print")]
    let taken = taken as f64;
    println!(
        "{:.0} heartbeats/s, {:.1} % of a core, {:.0} heartbeats in a CPU second, {} MiB resident",
        taken / seconds,
        100.0 * cpu / seconds,
        taken / cpu,
        master.resident_mib()
    );
    steer.send_replace(Behaviour::Beat);
    if arguments.pages {
        pages::measure(arguments.port + 1).await;
    }
    if arguments.lost == 0 {
        return;
    }

    let began = Instant::now();
    drop(dying);
    killed.shutdown().await;
    until(&mut client, &mut stay, |workers| count(workers, "DEAD") == arguments.lost).await;
    println!(
        "{} killed at once: all known dead after {:.2} s",
        arguments.lost,
        began.elapsed().as_secs_f64()
    );
    let began = Instant::now();
    silence.send_replace(Behaviour::Silent);
    until(&mut client, &mut stay, |workers| count(workers, "DEAD") == 2 * arguments.lost).await;
    println!(
        "{} silent at once: all known dead after {:.2} s",
        arguments.lost,
        began.elapsed().as_secs_f64()
    );
}

fn count(states: &[String], state: &str) -> usize {
    states.iter().filter(|found| *found == state).count()
}

/// Asks for the workers' states until they are `as_wanted`.
async fn until(
    client: &mut MasterClient<Channel>,
    sessions: &mut JoinSet<String>,
    as_wanted: impl Fn(&[String]) -> bool,
) {
    loop {
        let answer = client.list_workers(ListWorkersRequest {}).await.expect("an answer").into_inner();
        let states: Vec<String> = answer.workers.into_iter().map(|worker| worker.state).collect();
        if as_wanted(&states) {
            return;
        }
        fail_with(sessions).await;
    }
}

/// Waits a moment. No session may end in it.
async fn fail_with(sessions: &mut JoinSet<String>) {
    tokio::select! {
        Some(ended) = sessions.join_next() => panic!("a session ended: {}", ended.expect("no panic")),
        () = tokio::time::sleep(POLL) => {}
    }
}

/// What workers say.
#[derive(Debug, Clone, Copy)]
struct Play {
    busy: usize,
    /// Reports are as long as real ones, and change.
    has_figures: bool,
}

/// As a busy slot tells them.
fn figures(slot: &SlotId, beats: u64) -> SlotMetrics {
    let wave = beats.wrapping_mul(7919) % 1000;
    let next = |below: i64| Some(NextOffset(1_000_000 + i64::try_from(beats).unwrap_or(0) * 500 - below));
    #[expect(clippy::cast_precision_loss, reason = "a rate to show")]
    let records_per_second = 500.0 + wave as f64;
    SlotMetrics {
        topic_cursor: next(100),
        lake_cursor: next(20_000),
        position: next(50),
        end: next(0),
        lag: Some(20_000),
        records_per_second,
        bytes_per_second: 300.0 * records_per_second,
        cpu: records_per_second / 5000.0,
        buffered_rows: 20_000,
        buffered_bytes: 4_000_000 + wave,
        records_enriched: beats * 500,
        topic_from: Some(NextOffset(1_000_000 - 100)),
        commit_ms: Some(10 + wave / 50),
        batch_ms: Some(100 + wave / 10),
        flush_ms: Some(900 + wave),
        topic_freshness_ms: Some(150 + wave / 5),
        lake_freshness_ms: Some(61_000 + wave),
        last_commit_at_ms: Some(1_700_000_000_000 + beats * 500),
        last_object: Some(format!("year=2024/month=01/day=15/{}-1-0-{beats}-0.parquet", slot.pipeline)),
        ..SlotMetrics::default()
    }
}

/// A worker of a few lines: runs whatever it is granted, at once.
struct Worker {
    slots: BTreeMap<SlotId, Epoch>,
    /// Those that the next heartbeat tells.
    untold: Vec<SlotId>,
    beats: u64,
    play: Play,
    /// Slots of all workers.
    granted: Arc<AtomicUsize>,
}

impl Worker {
    /// Why the session ended.
    async fn run(
        (address, granted, play): (String, Arc<AtomicUsize>, Play),
        number: usize,
        port: u16,
        mut orders: watch::Receiver<Behaviour>,
    ) -> String {
        let channel = loop {
            match Channel::from_shared(address.clone()).expect("an address").connect().await {
                Ok(channel) => break channel,
                // The listener's queue is full.
                Err(_) => tokio::time::sleep(POLL).await,
            }
        };
        let (outbound, messages) = mpsc::channel(64);
        let spec = WorkerSpec {
            id: format!("worker-{number}").parse().expect("an id"),
            pid: 1,
            host: "127.0.0.1".into(),
            port,
            http_port: port,
            cores: 4,
            memory_mib: 1024,
            max_slots: 4096,
            zone: None,
            version: VERSION.into(),
        };
        outbound.send(WorkerMessage::register(&spec, &[])).await.expect("room");
        let mut inbound = match MasterClient::new(channel).session(ReceiverStream::new(messages)).await {
            Ok(answer) => answer.into_inner(),
            Err(status) => return status.to_string(),
        };
        let mut worker = Self { slots: BTreeMap::new(), untold: Vec::new(), beats: 0, play, granted };
        worker.hold(&outbound, &mut inbound, &mut orders).await
    }

    async fn hold(
        &mut self,
        outbound: &mpsc::Sender<WorkerMessage>,
        inbound: &mut Streaming<MasterMessage>,
        orders: &mut watch::Receiver<Behaviour>,
    ) -> String {
        let mut beat = tokio::time::interval(Duration::from_millis(500));
        loop {
            let behaviour = *orders.borrow();
            tokio::select! {
                message = inbound.message() => match message {
                    Ok(Some(message)) => self.obey(message, outbound).await,
                    Ok(None) => return "the master ended it".to_owned(),
                    Err(status) => return status.to_string(),
                },
                _ = orders.changed() => {}
                _ = beat.tick(), if behaviour == Behaviour::Beat => self.beat(outbound).await,
                () = std::future::ready(()), if behaviour == Behaviour::Flood => self.beat(outbound).await,
            }
        }
    }

    async fn beat(&mut self, outbound: &mpsc::Sender<WorkerMessage>) {
        let mut told = std::mem::take(&mut self.untold);
        let busy = self.slots.len() * self.play.busy / 100;
        told.extend(self.slots.keys().take(busy).cloned());
        self.beats += 1;
        let report = |slot: SlotId| {
            let epoch = *self.slots.get(&slot)?;
            let metrics =
                if self.play.has_figures { figures(&slot, self.beats) } else { SlotMetrics::default() };
            let metrics = SlotMetrics { rows_committed: self.beats, ..metrics };
            Some(SlotReport { slot, epoch, phase: SlotPhase::Running, metrics })
        };
        let heartbeat = Heartbeat {
            memory_used_bytes: 1 << 20,
            slots: told.into_iter().filter_map(report).collect(),
            digest: self.slots.iter().map(|(slot, epoch)| (slot, *epoch)).collect::<Digest>(),
            draining: false,
            resident_bytes: 1 << 26,
        };
        // A session that has ended says so by its messages.
        let _ = outbound.send(WorkerMessage::heartbeat(&heartbeat)).await;
    }

    async fn obey(&mut self, message: MasterMessage, outbound: &mpsc::Sender<WorkerMessage>) {
        match message.message {
            Some(master_message::Message::Grant(grant)) => {
                let grant = Grant::try_from(grant).expect("readable");
                if self.slots.insert(grant.slot.clone(), grant.epoch).is_none() {
                    self.granted.fetch_add(1, Ordering::Relaxed);
                }
                self.untold.push(grant.slot);
            }
            Some(master_message::Message::Revoke(revoke)) => {
                let revoke = Revoke::try_from(revoke).expect("readable");
                if self.slots.remove(&revoke.slot).is_some() {
                    self.granted.fetch_sub(1, Ordering::Relaxed);
                }
                let stopped = WorkerMessage::slot_stopped(&revoke.slot, revoke.epoch, &StopReason::Revoked);
                let _ = outbound.send(stopped).await;
            }
            Some(master_message::Message::ReportAll(_)) => self.untold = self.slots.keys().cloned().collect(),
            // No worker here wants to leave.
            Some(master_message::Message::Registered(_) | master_message::Message::Leave(_)) | None => {}
        }
    }
}
