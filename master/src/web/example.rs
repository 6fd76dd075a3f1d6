//! A small cluster for the tests of what is shown.

use super::model::{
    Cluster, Failover, Halt, LostSlot, MasterStatus, Move, Pipeline, Slot, SlotState, Worker, WorkerState,
};

/// 2024-01-01T00:00:00Z
const NOW: u64 = 1_704_067_200_000;

fn worker(number: u16, state: WorkerState) -> Worker {
    Worker {
        id: format!("worker-{number}"),
        pid: 40 + u32::from(number),
        host: "127.0.0.1".into(),
        port: 9000 + number,
        address: format!("127.0.0.1:{}", 9000 + number),
        state,
        cores: 2,
        cores_used: 1,
        memory_mib: 2048,
        memory_used_bytes: 3 << 19,
        resident_bytes: Some(90 << 20),
        slots: vec!["0-0".into()],
        max_slots: 8,
        heartbeat_age_ms: 120,
        last_heartbeat_at_ms: NOW,
        idle_reason: None,
        waiting_for: None,
        zone: None,
        version: "0.1.0".into(),
        load_percent: 60,
        speed_percent: 100,
        records_per_second: 5.0,
        bytes_per_second: 1_000.0,
        cpu: 0.5,
        lag: 10,
    }
}

fn slot(partition: i32, state: SlotState) -> Slot {
    Slot {
        slot: format!("clickstream-1/0-{partition}"),
        pipeline: "clickstream-1".into(),
        topic: "raw".into(),
        partition,
        owner: Some("worker-1".into()),
        epoch: 3,
        state,
        opened: true,
        topic_cursor: Some(12),
        lake_cursor: Some(10),
        position: Some(12),
        end: Some(20),
        lag: Some(10),
        records_per_second: 5.0,
        bytes_per_second: 1_000.0,
        cpu: 0.5,
        buffered_rows: 2,
        buffered_bytes: 100,
        rows_committed: 10,
        records_enriched: 12,
        records_quarantined: 0,
        client_duplicates: 1,
        records_filtered: 0,
        rows_unplaced: 0,
        topic_from: Some(0),
        commit_ms: Some(12),
        batch_ms: Some(100),
        flush_ms: Some(800),
        topic_freshness_ms: Some(150),
        lake_freshness_ms: Some(2_500),
        last_commit_at_ms: Some(NOW),
        last_object: Some("year=2024/month=01/day=01/x.parquet".into()),
        waiting_for: None,
        halt: None,
        deaths: 0,
    }
}

fn pipeline(name: &str, state: &'static str) -> Pipeline {
    Pipeline {
        id: format!("{name}-1"),
        name: name.into(),
        state,
        waiting_for: None,
        user: "somebody".into(),
        submitted_at_ms: NOW,
        killed_at_ms: None,
        duration_ms: 2_000,
        bootstrap_servers: "127.0.0.1:9092".into(),
        source_topics: vec!["raw".into()],
        transform: "clicks".into(),
        enriched_topic: Some("enriched".into()),
        invalid_topic: "invalid".into(),
        lake: Some("s3://bucket/lake".into()),
        slots: 2,
        slots_running: 1,
        lag: Some(20),
        records_per_second: 5.0,
        weight: 1,
        max_rate: None,
        slots_halted: 1,
    }
}

/// One live worker, one dead; a pipeline that runs and a killed one; a slot that runs and one that is halted.
pub(super) fn cluster() -> Cluster {
    let halt = Halt { kind: "offsets_lost".into(), detail: "offsets 3 to 9 are gone".into() };
    Cluster {
        url: "millrace://127.0.0.1:7077".into(),
        rest_url: "http://127.0.0.1:18080/api/v1".into(),
        leader: None,
        status: MasterStatus::Alive,
        waiting_for: None,
        at_ms: NOW + 5_000,
        workers: vec![worker(1, WorkerState::Alive), worker(2, WorkerState::Dead)],
        pipelines: vec![pipeline("clickstream", "RUNNING")],
        completed: vec![Pipeline {
            killed_at_ms: Some(NOW + 2_000),
            slots_running: 0,
            ..pipeline("views", "KILLED")
        }],
        slots: vec![
            slot(0, SlotState::Running),
            Slot { owner: None, halt: Some(halt), deaths: 2, ..slot(1, SlotState::Halted) },
        ],
        moves: vec![Move {
            at_ms: NOW,
            slot: "clickstream-1/0-0".into(),
            from: Some("worker-2".into()),
            to: "worker-1".into(),
            epoch: 3,
            reason: "worker worker-2 was lost".into(),
            pause_ms: Some(730),
        }],
        failovers: vec![Failover {
            worker: "worker-2".into(),
            pid: 42,
            reason: "connection refused".into(),
            lost_at_ms: NOW,
            detected_at_ms: NOW + 30,
            reassigned_at_ms: Some(NOW + 40),
            first_commit_at_ms: None,
            slots: vec![LostSlot {
                slot: "clickstream-1/0-0".into(),
                new_owner: Some("worker-1".into()),
                reassigned_at_ms: Some(NOW + 40),
                first_commit_at_ms: None,
            }],
        }],
    }
}

/// What the pages are made with.
pub(super) fn parts(sources: crate::sources::Sources, guard: super::Guard) -> super::Parts {
    let browse = super::Browse::new(millrace_common::tls::ClientFlags::default());
    super::Parts { sources, guard, browse, verifications: super::Verifications::new(String::new(), false) }
}

/// The same on a cluster without workers.
pub(super) async fn web() -> super::Web {
    let (sources, shutdown) = crate::testing::sources().await;
    super::Web::new(parts(sources, super::Guard::new(None, Vec::new(), true)), shutdown)
}
