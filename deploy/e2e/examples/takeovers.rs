//! How long it takes until things are as before when a leader is killed, and when workers are replaced: many times
//! over, at default settings, under load.
//!
//! `target/release/with-parts target/release/examples/takeovers` starts what it needs and prints a table.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use clap::Parser;
use millrace_common::kafka::client_config;
use millrace_e2e::{Cluster, DEFAULT_LEASE, Etcd, Hand, make_topics, millrace, signal};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;

const WORKERS: usize = 3;
const SLOTS: usize = 6;
const MASTERS: u16 = 3;
const LOOK: Duration = Duration::from_millis(10);
/// About as long as a takeover takes.
const UNDISTURBED: Duration = Duration::from_secs(4);
const HANG: Duration = Duration::from_secs(120);

/// Measures takeovers by a standby master, and rolling restarts of all workers.
#[derive(Debug, Parser)]
struct Flags {
    /// Leaders to kill.
    #[arg(long, default_value_t = 20)]
    leaders: usize,
    /// Times that all workers are replaced.
    #[arg(long, default_value_t = 10)]
    rounds: usize,
    /// Events a second.
    #[arg(long, default_value_t = 2000)]
    rate: u32,
}

/// Milliseconds, many times.
#[derive(Debug, Default)]
struct Times(Vec<u64>);

impl Times {
    fn add(&mut self, span: Duration) {
        self.0.push(u64::try_from(span.as_millis()).unwrap_or(u64::MAX));
    }

    fn print(&mut self, what: &str) {
        self.0.sort_unstable();
        // The least that this share of all does not exceed.
        let at = |share: usize| self.0[(self.0.len() * share).div_ceil(100).max(1) - 1];
        if !self.0.is_empty() {
            println!("| {what} | {} | {} | {} | {} |", self.0.len(), at(50), at(99), at(100));
        }
    }
}

/// The longest time without a new record on each partition of the enriched topic, as a reader of committed records
/// sees it.
#[derive(Debug, Clone)]
struct Gaps(Arc<Mutex<[(Instant, Duration); SLOTS]>>);

impl Gaps {
    fn watch(servers: &str, topic: &str, stop: Arc<AtomicBool>) -> (Self, std::thread::JoinHandle<()>) {
        let consumer: BaseConsumer = client_config(servers, "takeovers")
            .set("group.id", "takeovers")
            .set("enable.auto.commit", "false")
            .set("isolation.level", "read_committed")
            .set("fetch.wait.max.ms", "10")
            .create()
            .expect("consumer");
        let mut list = TopicPartitionList::new();
        for partition in 0..i32::try_from(SLOTS).expect("few") {
            list.add_partition_offset(topic, partition, Offset::End).expect("offset");
        }
        consumer.assign(&list).expect("assigned");
        let gaps = Self(Arc::new(Mutex::new([(Instant::now(), Duration::ZERO); SLOTS])));
        let seen = gaps.clone();
        let watching = std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                if let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                    let mut all = seen.0.lock().unwrap_or_else(PoisonError::into_inner);
                    let (last, longest) =
                        &mut all[usize::try_from(message.partition()).expect("a partition")];
                    *longest = (*longest).max(last.elapsed());
                    *last = Instant::now();
                }
            }
        });
        (gaps, watching)
    }

    /// The longest of each partition since the last call.
    fn take(&self) -> Vec<Duration> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter_mut().map(|(last, longest)| std::mem::take(longest).max(last.elapsed())).collect()
    }
}

async fn wait<F: Future<Output = bool>>(reached: impl Fn() -> F) {
    let began = Instant::now();
    while !reached().await {
        assert!(began.elapsed() < HANG, "it hangs");
        tokio::time::sleep(LOOK).await;
    }
}

/// All slots run on so many workers.
async fn is_whole(cluster: &Cluster) -> bool {
    let workers = cluster.get("/api/v1/workers").await.unwrap_or_default();
    let is_alive = |worker: &&Value| worker["state"] == "ALIVE";
    let alive = workers.as_array().map_or(0, |all| all.iter().filter(is_alive).count());
    let slots = cluster.slots().await;
    alive == WORKERS && slots.len() == SLOTS && slots.iter().all(|slot| slot["state"] == "running")
}

async fn epochs(cluster: &Cluster) -> Vec<Value> {
    cluster.slots().await.iter().map(|slot| slot["epoch"].clone()).collect()
}

async fn has_caught_up(cluster: &Cluster) -> bool {
    let level = |slot: &Value, cursor: &str| slot[cursor].as_i64() >= slot["end"].as_i64();
    cluster.slots().await.iter().all(|slot| level(slot, "topic_cursor") && level(slot, "lake_cursor"))
}

#[tokio::main]
async fn main() {
    let flags = Flags::parse();
    let etcd = Etcd::start().await;
    let mut cluster = Cluster::with_masters(&millrace(), &etcd.endpoints(), MASTERS, DEFAULT_LEASE).await;
    let name = |of: &str| format!("takeovers-{of}-{}", std::process::id());
    let (raw, enriched, invalid) = (name("raw"), name("enriched"), name("invalid"));
    make_topics(&cluster.kafka, &[&raw, &enriched], i32::try_from(SLOTS).expect("few")).await;
    let lake = format!("file://{}/lake", cluster.folder().display());
    let file = format!(
        "name = \"takeovers\"\nkafka = \"{}\"\n[source]\ntopics = [\"{raw}\"]\n[sinks]\nenriched_topic = \"{enriched}\"\n\
         invalid_topic = \"{invalid}\"\ncommit_interval = \"100ms\"\n[sinks.lake]\nurl = \"{lake}\"\nroll_age = \"2s\"\n",
        cluster.kafka
    );
    cluster.submit("takeovers", &file).await;
    let mut workers: Vec<Hand> = (0..WORKERS).map(|number| cluster.worker(number)).collect();
    let (_collector, url) = cluster.collector(&raw, &invalid);
    let ledger = cluster.folder().join("ledger.jsonl").display().to_string();
    let rate = flags.rate.to_string();
    let generate = ["generate", "--url", &url, "--rate", &rate, "--ledger", &ledger];
    let mut generator = cluster.start_line("generator", &generate);
    wait(|| async {
        let slots = cluster.slots().await;
        slots.len() == SLOTS && slots.iter().all(|slot| slot["lake_cursor"].as_i64() > Some(0))
    })
    .await;

    let stop = Arc::new(AtomicBool::new(false));
    let (gaps, watching) = Gaps::watch(&cluster.kafka, &enriched, Arc::clone(&stop));
    println!("| what | times | p50 ms | p99 ms | longest ms |\n| --- | --- | --- | --- | --- |");
    kill_leaders(&mut cluster, &gaps, flags.leaders).await;
    replace_workers(&cluster, &mut workers, flags.rounds).await;
    stop.store(true, Ordering::Relaxed);
    watching.join().expect("no panic");

    signal(generator.pid(), libc::SIGTERM);
    assert!(generator.ended().await.success(), "{}", generator.output());
    wait(|| has_caught_up(&cluster)).await;
    let verify = ["verify", "--kafka", &cluster.kafka, "--lake", &lake, "--ledger", &ledger];
    let verdict = cluster.run(&verify).await;
    println!("\n{}", verdict.trim_end().rsplit('\n').next().unwrap_or_default());
}

async fn kill_leaders(cluster: &mut Cluster, gaps: &Gaps, times: usize) {
    let (mut leads, mut heard) = (Times::default(), Times::default());
    let (mut undisturbed, mut without) = (Times::default(), Times::default());
    let mut granted_anew = 0;
    for _ in 0..times {
        wait(|| is_whole(cluster)).await;
        let before = epochs(cluster).await;
        let first = cluster.leader().await.expect("a leader");
        gaps.take();
        tokio::time::sleep(UNDISTURBED).await;
        gaps.take().into_iter().for_each(|gap| undisturbed.add(gap));
        let began = Instant::now();
        signal(cluster.masters[usize::from(first)].pid(), libc::SIGKILL);
        wait(|| async { cluster.leader().await.is_some_and(|leader| leader != first) }).await;
        leads.add(began.elapsed());
        wait(|| is_whole(cluster)).await;
        heard.add(began.elapsed());
        gaps.take().into_iter().for_each(|gap| without.add(gap));
        granted_anew +=
            before.iter().zip(epochs(cluster).await).filter(|(before, now)| *before != now).count();
        cluster.masters[usize::from(first)] = cluster.master(first);
        wait(|| async { cluster.status(first).await.as_deref() == Some("STANDBY") }).await;
    }
    leads.print("leader killed: another leads");
    heard.print("leader killed: all workers are heard, all slots known to run");
    undisturbed.print("undisturbed for 4 s: longest time without a commit, each slot (every 100 ms)");
    without.print("leader killed: longest time without a commit, each slot (every 100 ms)");
    println!("| leader killed: slots granted anew | {granted_anew} | | | |");
}

async fn replace_workers(cluster: &Cluster, workers: &mut [Hand], rounds: usize) {
    // By slot and epoch: the master forgets old ones.
    let mut moves: BTreeMap<(String, u64), Option<u64>> = BTreeMap::new();
    let take = async || {
        let all = cluster.get("/api/v1/moves").await.expect("moves");
        let all = all.as_array().expect("a list").iter();
        all.map(|moved| {
            let slot = moved["slot"].as_str().expect("a slot").to_owned();
            ((slot, moved["epoch"].as_u64().expect("an epoch")), moved["pause_ms"].as_u64())
        })
        .collect::<BTreeMap<_, _>>()
    };
    let before = take().await;
    for round in 1..=rounds {
        for (number, worker) in workers.iter_mut().enumerate() {
            let successor = cluster.worker(round * WORKERS + number);
            let is_heard = async || {
                let workers = cluster.get("/api/v1/workers").await.unwrap_or_default();
                workers.as_array().is_some_and(|all| {
                    all.iter().filter(|worker| worker["state"] == "ALIVE").count() == WORKERS + 1
                })
            };
            wait(is_heard).await;
            let mut old = std::mem::replace(worker, successor);
            signal(old.pid(), libc::SIGTERM);
            assert!(old.ended().await.success(), "{}", old.output());
            wait(|| is_whole(cluster)).await;
            moves.extend(take().await);
        }
    }
    moves.retain(|moved, _| !before.contains_key(moved));
    let mut pauses = Times::default();
    moves.values().flatten().for_each(|pause| pauses.add(Duration::from_millis(*pause)));
    pauses.print("worker replaced: pause of each slot that moves");
    println!("| worker replaced: moves, {rounds} rounds of {SLOTS} slots | {} | | | |", moves.len());
}
