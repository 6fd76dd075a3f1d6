//! Makings for the tests of driver and sessions.

use millrace_common::shutdown::Shutdown;
use millrace_common::types::{
    Epoch, LakeTarget, PipelineDefinition, SlotId, SlotMetrics, SlotPhase, SlotReport, VERSION, WorkerSpec,
};
use millrace_master_core::{Event, Settings};

use millrace_proto::v1::MasterMessage;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::discovery::Troubles;
use crate::driver::{Driver, Parts};
use crate::handle::SessionLink;
use crate::health::Health;
use crate::metrics::Counters;
use crate::snapshot::Addresses;
use crate::sources::Sources;
use crate::store::Store;
use crate::unowned::UnownedOffsets;
use crate::vitals::Vitals;

pub(crate) const PARTITIONS: u32 = 6;

pub(crate) fn parts(store: Store, shutdown: &Shutdown) -> Parts {
    Parts {
        store,
        settings: Settings::default(),
        master_id: "master-1".into(),
        built_in: None,
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
        zone: None,
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

/// A session's link, and its other ends.
pub(crate) fn link(
    capacity: usize,
) -> (SessionLink, mpsc::Receiver<Result<MasterMessage, Status>>, CancellationToken) {
    let (outbound, messages) = mpsc::channel(capacity);
    let cut = CancellationToken::new();
    (SessionLink { outbound, cut: cut.clone() }, messages, cut)
}

/// What answers are made from, with a driver on `store`.
pub(crate) async fn sources_on(store: Store, shutdown: &Shutdown) -> Sources {
    let parts = parts(store, shutdown);
    let (health, counters) = (parts.health.clone(), parts.counters.clone());
    let (driver, handle) = Driver::new(parts).await.expect("driver");
    shutdown.spawn("driver", driver.run());
    let addresses = Addresses { url: "millrace://127.0.0.1:7077".into(), rest_url: "http://x/api/v1".into() };
    let (unowned, troubles) = (UnownedOffsets::default(), Troubles::default());
    Sources { handle, addresses, health, unowned, troubles, counters, vitals: Vitals::default() }
}

/// The same on a new store in memory.
pub(crate) async fn sources() -> (Sources, Shutdown) {
    let shutdown = Shutdown::new();
    let store = Store::memory();
    (sources_on(store, &shutdown).await, shutdown)
}
