use std::collections::BTreeMap;
use std::path::Path;

use millrace_common::types::{Digest, Epoch, SlotId};
use millrace_proto::v1::master_client::MasterClient;
use millrace_proto::v1::master_message;
use millrace_transform::Registry;
use tokio::sync::mpsc::Sender;
use tonic::Code;
use tonic::transport::Channel;

use super::*;
use crate::store::Store;
use crate::testing::{PARTITIONS, running, sources_on, submitted, worker};

struct RunningMaster {
    handle: Handle,
    shutdown: Shutdown,
    address: String,
}

impl RunningMaster {
    async fn start(folder: &Path) -> Self {
        let shutdown = Shutdown::new();
        let store = Store::file(folder.into()).await.expect("store");
        let sources = sources_on(store, &shutdown).await;
        let handle = sources.handle.clone();
        let admission = Admission::new(handle.clone(), Registry::default(), None);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address").to_string();
        let doors = Doors { listener, tls: None, token: None, lease: Duration::from_secs(3) };
        shutdown.spawn("grpc", serve(doors, sources, admission, shutdown.clone()));
        Self { handle, shutdown, address }
    }

    async fn stop(self) {
        let Self { handle, shutdown, .. } = self;
        drop(handle);
        shutdown.begin();
        assert!(shutdown.drained(Duration::from_secs(60)).await, "all tasks end");
    }

    async fn client(&self) -> MasterClient<Channel> {
        MasterClient::connect(format!("http://{}", self.address)).await.expect("connection")
    }
}

fn heartbeat(memory_used_bytes: u64, slots: Vec<SlotReport>) -> WorkerMessage {
    let digest = slots.iter().map(|report| (&report.slot, report.epoch)).collect::<Digest>();
    WorkerMessage::heartbeat(&Heartbeat {
        memory_used_bytes,
        slots,
        digest,
        draining: false,
        resident_bytes: 0,
    })
}

/// A worker of a few lines: runs whatever it is granted, at once.
struct Scripted {
    outbound: Sender<WorkerMessage>,
    inbound: Streaming<MasterMessage>,
    slots: BTreeMap<SlotId, Epoch>,
    revoked: usize,
}

impl Scripted {
    async fn register(
        master: &RunningMaster,
        name: &str,
        port: u16,
        slots: BTreeMap<SlotId, Epoch>,
    ) -> Result<Self, Status> {
        let (outbound, messages) = mpsc::channel(64);
        let reports: Vec<SlotReport> = slots.iter().map(|(slot, epoch)| running(slot, *epoch)).collect();
        let register = WorkerMessage::register(&worker(name, port), &reports);
        outbound.send(register).await.expect("sent");
        let answer = master.client().await.session(ReceiverStream::new(messages)).await?;
        let mut inbound = answer.into_inner();
        let first = inbound.message().await?.expect("a message");
        assert!(matches!(first.message, Some(master_message::Message::Registered(_))), "{first:?}");
        Ok(Self { outbound, inbound, slots, revoked: 0 })
    }

    /// Does as it is told, and reports it, until it has `count` slots.
    async fn until_slots(&mut self, count: usize) {
        let mut beat = tokio::time::interval(Duration::from_millis(100));
        while self.slots.len() != count {
            tokio::select! {
                message = self.inbound.message() => {
                    let message = message.expect("no status").expect("no end");
                    self.obey(message).await;
                }
                _ = beat.tick() => self.heartbeat().await,
            }
        }
        self.heartbeat().await;
    }

    async fn obey(&mut self, message: MasterMessage) {
        match message.message {
            Some(master_message::Message::Grant(grant)) => {
                let grant = millrace_proto::Grant::try_from(grant).expect("readable");
                self.slots.insert(grant.slot, grant.epoch);
            }
            Some(master_message::Message::Revoke(revoke)) => {
                let revoke = millrace_proto::Revoke::try_from(revoke).expect("readable");
                self.revoked += 1;
                self.slots.remove(&revoke.slot);
                let stopped = WorkerMessage::slot_stopped(&revoke.slot, revoke.epoch, &StopReason::Revoked);
                self.outbound.send(stopped).await.expect("sent");
            }
            other => panic!("unexpected {other:?}"),
        }
    }

    async fn heartbeat(&self) {
        let reports: Vec<SlotReport> = self.slots.iter().map(|(slot, epoch)| running(slot, *epoch)).collect();
        self.outbound.send(heartbeat(1 << 20, reports)).await.expect("sent");
    }
}

async fn until_listed(master: &RunningMaster, reached: impl Fn(&[WorkerStatus]) -> bool) {
    let mut client = master.client().await;
    loop {
        let workers = client.list_workers(ListWorkersRequest {}).await.expect("list").into_inner().workers;
        if reached(&workers) {
            return;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn slots_of_a_dead_process_go_to_the_next_worker() {
    let folder = tempfile::tempdir().expect("folder");
    let master = RunningMaster::start(folder.path()).await;
    master.handle.apply(submitted()).await.expect("submitted");
    // Nobody listens on port 1: as soon as the session ends, the probe finds the process gone.
    let mut first = Scripted::register(&master, "worker-1", 1, BTreeMap::new()).await.expect("registered");
    first.until_slots(PARTITIONS as usize).await;
    until_listed(&master, |workers| {
        workers.iter().any(|worker| worker.slots.len() == PARTITIONS as usize && worker.state == "ALIVE")
    })
    .await;
    let before = first.slots.clone();
    drop(first);
    let mut second = Scripted::register(&master, "worker-2", 1, BTreeMap::new()).await.expect("registered");
    second.until_slots(PARTITIONS as usize).await;
    assert!(second.slots.iter().all(|(slot, epoch)| *epoch > before[slot]));
    until_listed(&master, |workers| {
        workers.iter().any(|worker| worker.state == "DEAD")
            && workers.iter().any(|worker| worker.slots.len() == PARTITIONS as usize)
    })
    .await;
    master.stop().await;
}

#[tokio::test]
async fn a_restarted_master_takes_running_slots_back_as_they_are() {
    let folder = tempfile::tempdir().expect("folder");
    let master = RunningMaster::start(folder.path()).await;
    master.handle.apply(submitted()).await.expect("submitted");
    let mut first = Scripted::register(&master, "worker-1", 1, BTreeMap::new()).await.expect("registered");
    first.until_slots(PARTITIONS as usize).await;
    let slots = first.slots.clone();
    master.stop().await;

    let master = RunningMaster::start(folder.path()).await;
    let mut back = Scripted::register(&master, "worker-1", 1, slots.clone()).await.expect("registered");
    back.heartbeat().await;
    until_listed(&master, |workers| {
        workers.iter().any(|worker| {
            worker.state == "ALIVE"
                && worker.slots.len() == PARTITIONS as usize
                && worker.slots.iter().all(|slot| slot.phase() == millrace_proto::v1::SlotPhase::Running)
        })
    })
    .await;
    // The pipeline is known still, so a second worker gets its share and the first goes on with the rest as it is.
    let mut second = Scripted::register(&master, "worker-2", 1, BTreeMap::new()).await.expect("registered");
    let half = PARTITIONS as usize / 2;
    let (_, ()) = tokio::join!(second.until_slots(half), back.until_slots(half));
    assert!(back.slots.iter().all(|(slot, epoch)| *epoch == slots[slot]), "{:?}", back.slots);
    assert_eq!(back.revoked, half, "only what moves is revoked");
    master.stop().await;
}

#[tokio::test]
async fn a_session_that_begins_wrong_is_refused_in_words() {
    let folder = tempfile::tempdir().expect("folder");
    let master = RunningMaster::start(folder.path()).await;
    let (outbound, messages) = mpsc::channel(1);
    outbound.send(heartbeat(0, Vec::new())).await.expect("sent");
    let refused = master.client().await.session(ReceiverStream::new(messages)).await.expect_err("refused");
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::InvalidArgument, "a session begins with Register")
    );

    let (outbound, messages) = mpsc::channel(1);
    let mut spec = worker("worker-1", 1);
    spec.cores = 0;
    outbound.send(WorkerMessage::register(&spec, &[])).await.expect("sent");
    let refused = master.client().await.session(ReceiverStream::new(messages)).await.expect_err("refused");
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("worker-1") && refused.message().contains("cores"), "{refused}");
    master.stop().await;
}
