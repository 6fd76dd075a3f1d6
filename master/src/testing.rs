//! Makings for the tests of driver and sessions.

use millrace_common::shutdown::Shutdown;
use millrace_common::types::{
    Epoch, LakeTarget, PipelineDefinition, SlotId, SlotMetrics, SlotPhase, SlotReport, VERSION, WorkerSpec,
};
use millrace_master_core::{Event, Settings};

use crate::driver::Parts;
use crate::health::Health;
use crate::metrics::Counters;
use crate::store::Store;

pub(crate) const PARTITIONS: u32 = 6;

pub(crate) fn parts(store: Store, shutdown: &Shutdown) -> Parts {
    Parts {
        store,
        settings: Settings::default(),
        master_id: "master-1".into(),
        health: Health::waiting("test", "nothing"),
        counters: Counters::default(),
        shutdown: shutdown.clone(),
    }
}

pub(crate) fn pipeline() -> PipelineDefinition {
    let id = "clickstream-0a1b2c".parse().expect("id");
    PipelineDefinition {
        lake: Some(LakeTarget::new("s3://bucket/lake")),
        submitted_at_ms: 1,
        user: "somebody".into(),
        ..PipelineDefinition::new(id, "clickstream", "127.0.0.1:9092", vec!["raw".into()], "invalid")
    }
}

pub(crate) fn submitted() -> Event {
    Event::PipelineSubmitted { definition: Box::new(pipeline()), partitions: vec![PARTITIONS] }
}

/// A worker that can take all slots. `port` is what a probe of it tries.
pub(crate) fn worker(name: &str, port: u16) -> WorkerSpec {
    WorkerSpec {
        id: name.parse().expect("id"),
        pid: 42,
        host: "127.0.0.1".into(),
        port,
        http_port: port,
        cores: 2,
        memory_mib: 1024,
        max_slots: 32,
        version: VERSION.into(),
    }
}

pub(crate) fn running(slot: &SlotId, epoch: Epoch) -> SlotReport {
    SlotReport {
        slot: slot.clone(),
        epoch,
        phase: SlotPhase::Running,
        metrics: SlotMetrics { lag: Some(3), ..SlotMetrics::default() },
    }
}
