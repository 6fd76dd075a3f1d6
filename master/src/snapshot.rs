//! From the core's view to what people are shown: unix times, words for reasons, and the figures of slots that nobody
//! reports. Decides nothing.

use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use millrace_common::address::join_host_port;
use millrace_common::types::{Millis, SlotId, SlotPhase, WorkerId};
use millrace_master_core as core;
use millrace_master_core::{SlotView, WorkerView};

use crate::discovery::Troubles;
use crate::handle::Look;
use crate::sources::Sources;
use crate::store::Leader;
use crate::unowned::UnownedOffsets;
use crate::vitals::Vitals;
use crate::web::model::{
    Cluster, Failover, Halt, LostSlot, MasterStatus, Move, Pipeline, PipelineDetail, Slot, SlotState, Worker,
    WorkerState,
};

/// Milliseconds since 1970 UTC.
pub(crate) fn unix_now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    crate::config::millis(since)
}

/// What stands in the page's header and never changes.
#[derive(Debug, Clone)]
pub(crate) struct Addresses {
    /// `millrace://host:port`
    pub(crate) url: String,
    pub(crate) rest_url: String,
}

/// The cluster at the moment of `look`, with points in time by the wall clock of now.
pub(crate) fn cluster(look: &Look, sources: &Sources) -> Cluster {
    let times = Times { unix: unix_now_ms(), now: look.now };
    let core::ClusterView { workers, slots, moves, losses, .. } = &look.view;
    let (running, completed) = pipelines(look, sources);
    let recovering = workers.iter().any(|worker| worker.state == core::WorkerState::Unknown);
    Cluster {
        url: sources.addresses.url.clone(),
        rest_url: sources.addresses.rest_url.clone(),
        status: if recovering { MasterStatus::Recovering } else { MasterStatus::Alive },
        leader: None,
        waiting_for: sources.health.waiting_for(),
        at_ms: times.unix,
        workers: worker_rows(look, times, &sources.vitals),
        pipelines: running,
        completed,
        slots: slots.iter().map(|slot| slot_row(slot, &sources.unowned)).collect(),
        moves: moves.iter().rev().map(|moved| move_row(moved, times)).collect(),
        failovers: losses.iter().rev().map(|loss| failover_row(loss, look, times)).collect(),
    }
}

/// What a master shows that does not lead: itself, and who does.
pub(crate) fn standby(leader: Option<&Leader>, sources: &Sources) -> Cluster {
    Cluster {
        url: sources.addresses.url.clone(),
        rest_url: sources.addresses.rest_url.clone(),
        status: MasterStatus::Standby,
        leader: leader.map(|leader| leader.page.clone()),
        waiting_for: sources.health.waiting_for(),
        at_ms: unix_now_ms(),
        workers: Vec::new(),
        pipelines: Vec::new(),
        completed: Vec::new(),
        slots: Vec::new(),
        moves: Vec::new(),
        failovers: Vec::new(),
    }
}

/// Turns the driver's clock into the wall clock.
#[derive(Debug, Clone, Copy)]
struct Times {
    unix: u64,
    now: Millis,
}

impl Times {
    fn unix(self, at: Millis) -> u64 {
        self.unix.saturating_sub(self.now.since(at).0)
    }
}

fn is_running(slot: &SlotView) -> bool {
    slot.report.as_ref().is_some_and(|report| report.phase == SlotPhase::Running)
}

/// What a worker's slots report, together.
#[derive(Debug, Clone, Copy, Default)]
struct Sum {
    running: usize,
    records_per_second: f64,
    bytes_per_second: f64,
    cpu: f64,
    lag: u64,
}

fn worker_rows(look: &Look, times: Times, vitals: &Vitals) -> Vec<Worker> {
    let mut sums: HashMap<&WorkerId, Sum> = HashMap::new();
    for slot in &look.view.slots {
        let (Some(owner), Some(report)) = (&slot.owner, &slot.report) else { continue };
        let sum = sums.entry(owner).or_default();
        sum.running += usize::from(is_running(slot));
        sum.records_per_second += report.metrics.records_per_second;
        sum.bytes_per_second += report.metrics.bytes_per_second;
        sum.cpu += report.metrics.cpu;
        sum.lag = sum.lag.saturating_add(report.metrics.lag.unwrap_or(0));
    }
    let row = |worker: &WorkerView| {
        let sum = sums.get(&worker.spec.id).copied().unwrap_or_default();
        Worker { resident_bytes: vitals.resident_bytes(&worker.spec.id), ..worker_row(worker, sum, times) }
    };
    look.view.workers.iter().map(row).collect()
}

fn worker_row(worker: &WorkerView, sum: Sum, times: Times) -> Worker {
    let spec = &worker.spec;
    let heard = worker.last_heard_at.unwrap_or(worker.since);
    Worker {
        id: spec.id.to_string(),
        pid: spec.pid,
        host: spec.host.clone(),
        port: spec.port,
        address: join_host_port(&spec.host, spec.http_port),
        state: match worker.state {
            core::WorkerState::Alive => WorkerState::Alive,
            core::WorkerState::Suspect => WorkerState::Suspect,
            core::WorkerState::Unknown => WorkerState::Unknown,
            core::WorkerState::Draining => WorkerState::Draining,
            core::WorkerState::Drained => WorkerState::Drained,
            core::WorkerState::Dead => WorkerState::Dead,
        },
        cores: spec.cores,
        cores_used: u32::try_from(sum.running).unwrap_or(u32::MAX).min(spec.cores),
        memory_mib: spec.memory_mib,
        memory_used_bytes: worker.memory_used_bytes,
        resident_bytes: None,
        slots: worker.slots.iter().map(SlotId::local).collect(),
        max_slots: spec.max_slots,
        heartbeat_age_ms: times.now.since(heard).0,
        last_heartbeat_at_ms: times.unix(heard),
        idle_reason: worker.idle_reason.clone(),
        waiting_for: worker.waiting_for.clone(),
        zone: spec.zone.clone(),
        version: spec.version.clone(),
        load_percent: worker.load_percent,
        speed_percent: worker.speed_percent,
        records_per_second: sum.records_per_second,
        bytes_per_second: sum.bytes_per_second,
        cpu: sum.cpu,
        lag: sum.lag,
    }
}

/// Milliseconds since 1970 UTC as RFC 3339 has them.
pub(crate) fn date_time(at_ms: u64) -> String {
    i64::try_from(at_ms)
        .ok()
        .and_then(chrono::DateTime::from_timestamp_millis)
        .map_or(format!("{at_ms} ms"), |at| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

/// The pipelines of the moment of `look`: those with slots, then the completed ones.
pub(crate) fn pipelines(look: &Look, sources: &Sources) -> (Vec<Pipeline>, Vec<Pipeline>) {
    let row = |view| pipeline_row(view, &slots_of(view, look, &sources.unowned), &sources.troubles);
    (look.view.pipelines.iter().map(row).collect(), look.view.completed.iter().map(row).collect())
}

/// All that is known of one pipeline.
pub(crate) fn pipeline(view: &core::PipelineView, look: &Look, sources: &Sources) -> PipelineDetail {
    let partitions = slots_of(view, look, &sources.unowned);
    let pipeline = pipeline_row(view, &partitions, &sources.troubles);
    PipelineDetail { pipeline, definition: view.definition.clone(), partitions }
}

fn slots_of(view: &core::PipelineView, look: &Look, unowned: &UnownedOffsets) -> Vec<Slot> {
    // They are sorted by pipeline first.
    let id = &view.definition.id;
    let begin = look.view.slots.partition_point(|slot| slot.slot.pipeline < *id);
    let own = look.view.slots[begin..].iter().take_while(|slot| slot.slot.pipeline == *id);
    own.map(|slot| slot_row(slot, unowned)).collect()
}

fn pipeline_row(view: &core::PipelineView, slots: &[Slot], troubles: &Troubles) -> Pipeline {
    let definition = &view.definition;
    let waiting_for: Vec<String> =
        view.waiting_for.iter().cloned().chain(troubles.get(&definition.id)).collect();
    let end = view.killed_at_ms.unwrap_or_else(unix_now_ms);
    Pipeline {
        id: definition.id.to_string(),
        name: definition.name.clone(),
        state: view.state.as_str(),
        waiting_for: (!waiting_for.is_empty()).then(|| waiting_for.join("; ")),
        user: definition.user.clone(),
        submitted_at_ms: definition.submitted_at_ms,
        killed_at_ms: view.killed_at_ms,
        duration_ms: end.saturating_sub(definition.submitted_at_ms),
        bootstrap_servers: definition.bootstrap_servers.clone(),
        source_topics: definition.source.topics.clone(),
        transform: definition.transform.kind.clone(),
        enriched_topic: definition.enriched_topic.clone(),
        invalid_topic: definition.invalid_topic.clone(),
        lake: definition.lake.as_ref().map(|lake| lake.url.clone()),
        slots: view.slots,
        slots_running: slots.iter().filter(|slot| slot.state == SlotState::Running).count(),
        lag: slots.iter().filter_map(|slot| slot.lag).reduce(|sum, lag| sum.saturating_add(lag)),
        // An empty sum is -0.
        records_per_second: slots
            .iter()
            .map(|slot| slot.records_per_second)
            .fold(0.0, |sum, rate| sum + rate),
        weight: definition.weight,
        max_rate: definition.max_rate,
        slots_halted: slots.iter().filter(|slot| slot.halt.is_some()).count(),
    }
}

fn slot_row(slot: &SlotView, unowned: &UnownedOffsets) -> Slot {
    let phase = slot.report.as_ref().map(|report| report.phase);
    let is_current = slot.report.is_some();
    let report = slot.report.as_ref().or(slot.last_report.as_ref());
    let metrics = report.map(|report| report.metrics.clone()).unwrap_or_default();
    // What Kafka says of a slot that nobody works on is newer than its last owner's word.
    let asked = (!is_current).then(|| unowned.get(&slot.slot)).flatten();
    let (topic_cursor, lake_cursor, end) = match asked {
        Some(asked) => (asked.topic_cursor, asked.lake_cursor, Some(asked.end)),
        None => (metrics.topic_cursor, metrics.lake_cursor, metrics.end),
    };
    Slot {
        slot: slot.slot.to_string(),
        pipeline: slot.slot.pipeline.to_string(),
        topic: slot.topic.clone(),
        partition: slot.slot.partition,
        owner: slot.owner.as_ref().map(WorkerId::to_string),
        epoch: slot.epoch.0,
        state: match (slot.state, phase) {
            (core::SlotState::Free, _) => SlotState::Free,
            (core::SlotState::Halted, _) => SlotState::Halted,
            (core::SlotState::Revoking, _) | (_, Some(SlotPhase::Revoking)) => SlotState::Revoking,
            (core::SlotState::Granted, None) => SlotState::Granted,
            (core::SlotState::Granted, Some(SlotPhase::Opening)) => SlotState::Opening,
            (core::SlotState::Granted, Some(SlotPhase::Running)) => SlotState::Running,
        },
        opened: slot.opened,
        topic_cursor: topic_cursor.map(|next| next.0),
        lake_cursor: lake_cursor.map(|next| next.0),
        position: metrics.position.map(|next| next.0),
        end: end.map(|next| next.0),
        lag: asked.map_or(metrics.lag, |asked| Some(asked.lag)),
        // Rates and buffers of an owner that is gone are gone with it.
        records_per_second: if is_current { metrics.records_per_second } else { 0.0 },
        bytes_per_second: if is_current { metrics.bytes_per_second } else { 0.0 },
        cpu: if is_current { metrics.cpu } else { 0.0 },
        buffered_rows: if is_current { metrics.buffered_rows } else { 0 },
        buffered_bytes: if is_current { metrics.buffered_bytes } else { 0 },
        rows_committed: metrics.rows_committed,
        records_enriched: metrics.records_enriched,
        records_quarantined: metrics.records_quarantined,
        client_duplicates: metrics.client_duplicates,
        records_filtered: metrics.records_filtered,
        rows_unplaced: metrics.rows_unplaced,
        topic_from: metrics.topic_from.filter(|_| is_current).map(|next| next.0),
        commit_ms: metrics.commit_ms.filter(|_| is_current),
        batch_ms: metrics.batch_ms.filter(|_| is_current),
        flush_ms: metrics.flush_ms.filter(|_| is_current),
        topic_freshness_ms: metrics.topic_freshness_ms.filter(|_| is_current),
        lake_freshness_ms: metrics.lake_freshness_ms.filter(|_| is_current),
        last_commit_at_ms: metrics.last_commit_at_ms,
        last_object: metrics.last_object,
        waiting_for: metrics.waiting_for.filter(|_| is_current).or_else(|| slot.unowned_reason.clone()),
        halt: slot
            .halt
            .as_ref()
            .map(|halt| Halt { kind: halt.kind.name().to_owned(), detail: halt.detail.clone() }),
        deaths: slot.deaths,
    }
}

fn move_row(moved: &core::Move, times: Times) -> Move {
    Move {
        at_ms: times.unix(moved.granted_at),
        slot: moved.slot.to_string(),
        from: moved.from.as_ref().map(WorkerId::to_string),
        to: moved.to.to_string(),
        epoch: moved.epoch.0,
        reason: moved.reason.to_string(),
        pause_ms: moved.running_at.map(|running| running.since(moved.begun_at).0),
    }
}

fn failover_row(loss: &core::Loss, look: &Look, times: Times) -> Failover {
    let slots: Vec<LostSlot> = loss
        .slots
        .iter()
        .map(|lost| LostSlot {
            slot: lost.slot.to_string(),
            new_owner: lost.regrant.as_ref().map(|regrant| regrant.worker.to_string()),
            reassigned_at_ms: lost.regrant.as_ref().map(|regrant| times.unix(regrant.granted_at)),
            first_commit_at_ms: lost.regrant.as_ref().and_then(|regrant| regrant.first_commit_at_ms),
        })
        .collect();
    Failover {
        worker: loss.worker.to_string(),
        pid: look.pids.get(&loss.worker).copied().unwrap_or_default(),
        reason: loss.cause.to_string(),
        // The driver's clock begins at zero.
        lost_at_ms: times.unix(loss.last_heard_at.unwrap_or(Millis(0))),
        detected_at_ms: times.unix(loss.detected_at),
        reassigned_at_ms: loss.reassigned_at.map(|at| times.unix(at)),
        first_commit_at_ms: slots.iter().filter_map(|slot| slot.first_commit_at_ms).min(),
        slots,
    }
}
