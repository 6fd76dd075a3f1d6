//! What the scheduler costs, from 10 to 10,000 workers with ten slots each: `cargo run --release -p
//! millrace-master-core --example scale`.
//!
//! Each figure is the whole way of an event through the coordinator, with the records to store and the directives,
//! and without the store and the wire. Times are CPU time of this thread; memory is what an allocator that counts
//! says. Each row's growth is fitted by least squares over the logarithms: cost ~ workers^exponent.

use std::alloc::{GlobalAlloc, Layout, System};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};

use millrace_master_core::{Coordinator, Directive, Event, Settings, Step};
use millrace_types::{
    Digest, Epoch, LakeTarget, Millis, NextOffset, PipelineDefinition, PipelineId, SlotId, SlotMetrics,
    SlotPhase, SlotReport, StopReason, VERSION, WorkerId, WorkerSpec,
};

struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call is handed on unchanged; the counter has no part in it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        ALLOCATED.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: as the caller promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SLOTS_PER_WORKER: usize = 10;
const PIPELINES: usize = 10;
const ZONES: usize = 3;

#[repr(C)]
struct Time {
    seconds: i64,
    nanoseconds: i64,
}

unsafe extern "C" {
    fn clock_gettime(clock: i32, time: *mut Time) -> i32;
}

/// CPU time of this thread, in seconds.
fn cpu_seconds() -> f64 {
    const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
    let mut time = Time { seconds: 0, nanoseconds: 0 };
    // SAFETY: `Time` is Linux's `timespec` of 64-bit machines, and outlives the call.
    let failed = unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    assert_eq!(failed, 0, "this example needs a 64-bit Linux");
    time.seconds as f64 + time.nanoseconds as f64 / 1e9
}

struct Cluster {
    coordinator: Coordinator,
    now: u64,
    running: BTreeMap<WorkerId, BTreeMap<SlotId, Epoch>>,
    grants: usize,
    revokes: Vec<(WorkerId, u64, SlotId, Epoch)>,
    /// CPU seconds of the last round of events, and the longest of one event.
    spent: f64,
    longest: f64,
}

impl Cluster {
    fn new() -> Self {
        let coordinator = Coordinator::restore(Settings::default(), Vec::new(), Millis(0)).expect("empty");
        Self {
            coordinator,
            now: 0,
            running: BTreeMap::new(),
            grants: 0,
            revokes: Vec::new(),
            spent: 0.0,
            longest: 0.0,
        }
    }

    fn begin(&mut self) {
        (self.spent, self.longest, self.grants) = (0.0, 0.0, 0);
    }

    fn apply(&mut self, event: Event) {
        let before = cpu_seconds();
        let Step { writes, directives } = self.coordinator.apply(Millis(self.now), event).expect("accepted");
        let spent = cpu_seconds() - before;
        drop(writes);
        self.spent += spent;
        self.longest = self.longest.max(spent);
        for directive in directives {
            match directive {
                Directive::Grant { worker, slot, epoch, .. } => {
                    self.grants += 1;
                    self.running.entry(worker).or_default().insert(slot, epoch);
                }
                Directive::Revoke { worker, session, slot, epoch } => {
                    self.revokes.push((worker, session, slot, epoch));
                }
                Directive::Leave { .. }
                | Directive::ReportAll { .. }
                | Directive::Probe { .. }
                | Directive::EndSession { .. } => {}
            }
        }
    }

    /// Does what is due at once, then what workers say of what they were told.
    fn settle(&mut self) {
        loop {
            while self.coordinator.next_deadline().is_some_and(|due| due.0 <= self.now) {
                self.apply(Event::DeadlineReached);
            }
            let Some((worker, session, slot, epoch)) = self.revokes.pop() else { return };
            self.running.entry(worker.clone()).or_default().remove(&slot);
            self.apply(Event::SlotStopped { session, worker, slot, epoch, reason: StopReason::Revoked });
        }
    }

    fn register(&mut self, number: usize) {
        let spec = spec(number);
        self.apply(Event::WorkerRegistered { session: number as u64 + 1, spec, running: Vec::new() });
    }

    fn heartbeat(&mut self, number: usize, all: bool) {
        let worker = worker_id(number);
        let runs = self.running.entry(worker.clone()).or_default();
        let digest: Digest = runs.iter().map(|(slot, epoch)| (slot, *epoch)).collect();
        let reports = if all {
            runs.iter().map(|(slot, epoch)| report(slot, *epoch, self.now)).collect()
        } else {
            Vec::new()
        };
        self.apply(Event::Heartbeat {
            session: number as u64 + 1,
            worker,
            memory_used_bytes: 1 << 28,
            draining: false,
            digest,
            reports,
        });
    }
}

fn worker_id(number: usize) -> WorkerId {
    WorkerId::new(format!("worker-20240115103000-10.0.{}.{}-{number}", number / 250, number % 250))
        .expect("plain")
}

fn spec(number: usize) -> WorkerSpec {
    WorkerSpec {
        id: worker_id(number),
        pid: number as u32,
        host: format!("10.0.{}.{}", number / 250, number % 250),
        port: 7_000,
        http_port: 7_001,
        cores: 4,
        memory_mib: 8_192,
        max_slots: 64,
        zone: Some(format!("zone-{}", number % ZONES)),
        version: VERSION.to_owned(),
    }
}

/// A twentieth of the slots has ten times the traffic of the others.
fn report(slot: &SlotId, epoch: Epoch, now: u64) -> SlotReport {
    let hot = if slot.partition % 20 == 0 { 10.0 } else { 1.0 };
    SlotReport {
        slot: slot.clone(),
        epoch,
        phase: SlotPhase::Running,
        metrics: SlotMetrics {
            topic_cursor: Some(NextOffset(now as i64)),
            lake_cursor: Some(NextOffset(now as i64)),
            records_per_second: 1_000.0 * hot,
            bytes_per_second: 300_000.0 * hot,
            cpu: 0.02 * hot,
            lag: Some(100),
            last_object: Some("year=2024/month=01/day=15/clickstream-3f9a2c-0-0-90120-1.parquet".to_owned()),
            last_commit_at_ms: Some(now),
            ..SlotMetrics::default()
        },
    }
}

fn definition(number: usize) -> PipelineDefinition {
    let id = PipelineId::new(format!("clickstream{number}-3f9a2c")).expect("plain");
    let topics = vec!["acme.clickstream.raw.events".to_owned()];
    PipelineDefinition {
        lake: Some(LakeTarget::new("s3://acme.eu-west-1.stg.data.lake/clickstream-data")),
        ..PipelineDefinition::new(id, &format!("clickstream{number}"), "kafka:9092", topics, "invalid")
    }
}

/// Figures of one size, in seconds and bytes.
struct Row {
    workers: usize,
    scratch: f64,
    join: f64,
    loss: f64,
    heartbeat: f64,
    full_heartbeat: f64,
    balance: f64,
    memory: usize,
    moved: (usize, usize),
}

fn measure(workers: usize) -> Row {
    let before = ALLOCATED.load(Ordering::Relaxed);
    let mut cluster = Cluster::new();
    for number in 0..workers {
        cluster.register(number);
    }
    cluster.now += 300;
    cluster.settle();

    // Everything from scratch: all slots of all pipelines get an owner.
    cluster.begin();
    for number in 0..PIPELINES {
        let partitions = vec![(workers * SLOTS_PER_WORKER / PIPELINES) as u32];
        let definition = Box::new(definition(number));
        cluster.apply(Event::PipelineSubmitted { definition, partitions });
        cluster.settle();
    }
    let scratch = cluster.spent;
    assert_eq!(cluster.grants, workers * SLOTS_PER_WORKER);

    // A minute of full heartbeats, so that every slot's load is known.
    cluster.begin();
    let mut beats = 0;
    for _ in 0..12 {
        cluster.now += 2_500;
        cluster.settle();
        for number in 0..workers {
            cluster.heartbeat(number, true);
            beats += 1;
        }
    }
    let full_heartbeat = cluster.spent / f64::from(beats);

    // The load is looked at, evened out, and looked at again.
    cluster.begin();
    cluster.apply(Event::Rebalance);
    let balance = cluster.longest;
    cluster.settle();

    cluster.begin();
    for number in 0..workers {
        cluster.heartbeat(number, false);
    }
    let heartbeat = cluster.spent / workers as f64;
    let memory = ALLOCATED.load(Ordering::Relaxed) - before - size_of_running(&cluster);

    // One worker more: the longest event is the decision, after which the moves follow one by one.
    cluster.begin();
    cluster.register(workers);
    cluster.now += 300;
    cluster.apply(Event::DeadlineReached);
    let join = cluster.longest;
    cluster.settle();
    let joined = cluster.running.get(&worker_id(workers)).map_or(0, BTreeMap::len);

    // One worker less: from the word that its process is gone to the grants of its slots.
    cluster.begin();
    let gone = worker_id(workers / 2);
    cluster.apply(Event::SessionLost { session: workers as u64 / 2 + 1, worker: gone.clone() });
    cluster.apply(Event::ProcessGone { worker: gone });
    let loss = cluster.spent;
    cluster.settle();
    let lost = cluster.grants;

    Row { workers, scratch, join, loss, heartbeat, full_heartbeat, balance, memory, moved: (joined, lost) }
}

/// What this example itself remembers of the workers, in bytes, about.
fn size_of_running(cluster: &Cluster) -> usize {
    let slots: usize = cluster.running.values().map(BTreeMap::len).sum();
    slots * (size_of::<SlotId>() + size_of::<Epoch>()) * 2
}

/// Slope of the least-squares line through the points' logarithms.
fn exponent(points: &[(f64, f64)]) -> f64 {
    let logs: Vec<(f64, f64)> = points.iter().map(|(x, y)| (x.ln(), y.max(1e-9).ln())).collect();
    let count = logs.len() as f64;
    let (mean_x, mean_y) =
        (logs.iter().map(|p| p.0).sum::<f64>() / count, logs.iter().map(|p| p.1).sum::<f64>() / count);
    let above: f64 = logs.iter().map(|(x, y)| (x - mean_x) * (y - mean_y)).sum();
    above / logs.iter().map(|(x, _)| (x - mean_x).powi(2)).sum::<f64>()
}

fn main() {
    let rows: Vec<Row> = [10, 100, 1_000, 10_000].map(measure).into();
    println!(
        "workers   slots  scratch ms  join ms  loss ms  look at load ms  heartbeat us  full one us  memory MB  moved by join, loss"
    );
    for row in &rows {
        println!(
            "{:>7} {:>7}  {:>10.2}  {:>7.3}  {:>7.3}  {:>15.2}  {:>12.2}  {:>11.2}  {:>9.2}  {}, {}",
            row.workers,
            row.workers * SLOTS_PER_WORKER,
            row.scratch * 1e3,
            row.join * 1e3,
            row.loss * 1e3,
            row.balance * 1e3,
            row.heartbeat * 1e6,
            row.full_heartbeat * 1e6,
            row.memory as f64 / 1e6,
            row.moved.0,
            row.moved.1,
        );
    }
    type Figure = fn(&Row) -> f64;
    let figures: [(&str, Figure); 7] = [
        ("scratch", |row| row.scratch),
        ("join", |row| row.join),
        ("loss", |row| row.loss),
        ("look at load", |row| row.balance),
        ("heartbeat", |row| row.heartbeat),
        ("full heartbeat", |row| row.full_heartbeat),
        ("memory", |row| row.memory as f64),
    ];
    println!("growth, as cost ~ workers^exponent:");
    for (name, figure) in figures {
        let points: Vec<(f64, f64)> = rows.iter().map(|row| (row.workers as f64, figure(row))).collect();
        println!("  {name}: {:.2}", exponent(&points));
    }
}
