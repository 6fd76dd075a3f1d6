use std::collections::BTreeMap;

use millrace_common::types::{Epoch, SlotId};
use millrace_proto::v1::master_message;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::*;
use crate::store::{Entries, Failure, etcd_testing};
use crate::testing::{PARTITIONS, link, parts, running, submitted, worker};

type Messages = mpsc::Receiver<Result<MasterMessage, Status>>;

struct Session {
    number: u64,
    messages: Messages,
    cut: CancellationToken,
}

async fn register(handle: &Handle, name: &str) -> Result<Session, Refused> {
    let (link, mut messages, cut) = link(64);
    let number = handle.register(worker(name, 1), Vec::new(), link).await?;
    let first = messages.recv().await.expect("a message").expect("no status");
    assert!(matches!(first.message, Some(master_message::Message::Registered(_))), "{first:?}");
    Ok(Session { number, messages, cut })
}

impl Session {
    async fn next_grant(&mut self) -> (SlotId, Epoch) {
        loop {
            let message = self.messages.recv().await.expect("a message").expect("no status");
            if let Some(master_message::Message::Grant(grant)) = message.message {
                let grant = millrace_proto::Grant::try_from(grant).expect("readable");
                return (grant.slot, grant.epoch);
            }
        }
    }

    async fn all_grants(&mut self) -> BTreeMap<SlotId, Epoch> {
        let mut grants = BTreeMap::new();
        while grants.len() < PARTITIONS as usize {
            let (slot, epoch) = self.next_grant().await;
            grants.insert(slot, epoch);
        }
        grants
    }
}

async fn memory() -> Store {
    Store::memory()
}

async fn started(store: Store) -> (Handle, Shutdown) {
    let shutdown = Shutdown::new();
    let (driver, handle) = Driver::new(parts(store, &shutdown)).await.expect("driver");
    shutdown.spawn("driver", driver.run());
    (handle, shutdown)
}

/// What the store held when its next commit came.
async fn stored_epochs(folder: &std::path::Path) -> Entries {
    // Read as another process would, from the disk alone.
    let copy = tempfile::tempdir().expect("folder");
    std::fs::copy(folder.join("state.log"), copy.path().join("state.log")).expect("log");
    Store::file(copy.path().into()).await.expect("store").load().await.expect("entries")
}

#[tokio::test]
async fn a_grant_is_stored_before_the_worker_hears_of_it() {
    let folder = tempfile::tempdir().expect("folder");
    let store = Store::file(folder.path().into()).await.expect("store");
    let (handle, _shutdown) = started(store).await;
    handle.apply(submitted()).await.expect("submitted");
    let mut session = register(&handle, "worker-1").await.expect("registered");
    let (slot, epoch) = session.next_grant().await;
    let stored = records::records(&stored_epochs(folder.path()).await).expect("records");
    let found = stored.iter().find_map(|record| match &record.body {
        RecordBody::Slots { slots, .. } => slots.get(&slot.partition),
        _ => None,
    });
    let found = found.expect("stored");
    assert_eq!((found.owner.as_ref().map(WorkerId::as_str), found.epoch), (Some("worker-1"), epoch));
}

#[tokio::test(start_paused = true)]
async fn a_silent_worker_loses_its_slots_to_one_that_is_heard() {
    let (handle, _shutdown) = started(memory().await).await;
    handle.apply(submitted()).await.expect("submitted");
    let mut silent = register(&handle, "worker-1").await.expect("registered");
    let granted = silent.all_grants().await;
    let mut heard = register(&handle, "worker-2").await.expect("registered");
    let mut taken: BTreeMap<SlotId, Epoch> = BTreeMap::new();
    let mut beat = tokio::time::interval(Duration::from_millis(500));
    while taken.len() < PARTITIONS as usize {
        tokio::select! {
            _ = beat.tick() => {
                let reports: Vec<SlotReport> = taken.iter().map(|(slot, epoch)| running(slot, *epoch)).collect();
                let worker = "worker-2".parse().expect("id");
                handle.tell(Event::Heartbeat { session: heard.number, worker, memory_used_bytes: 0, draining: false, digest: reports.iter().map(|report| (&report.slot, report.epoch)).collect(), reports }).await;
            }
            (slot, epoch) = heard.next_grant() => {
                taken.insert(slot, epoch);
            }
        }
    }
    for (slot, epoch) in &taken {
        assert!(*epoch > granted[slot], "{slot}: {epoch} after {}", granted[slot]);
    }
    let look = handle.look().await.expect("look");
    assert_eq!(look.view.losses.len(), 1);
    assert_eq!(look.pids.get(&look.view.losses[0].worker), Some(&42));
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_failed_is_done_again_by_the_next_registration() {
    let mut store = memory().await;
    store.fail_next(Failure::NotWritten);
    let (handle, _shutdown) = started(store).await;
    assert!(matches!(handle.apply(submitted()).await, Err(Refused::Unavailable(_))));
    handle.apply(submitted()).await.expect("again");
    let mut session = register(&handle, "worker-1").await.expect("registered");
    assert_eq!(session.all_grants().await.len(), PARTITIONS as usize);
}

#[tokio::test(start_paused = true)]
async fn a_commit_of_unknown_outcome_ends_the_sessions_and_no_epoch_is_given_twice() {
    let mut store = memory().await;
    // The last one is popped first: the submission goes well, the registration does not.
    store.fail_next(Failure::WrittenAndUnknown);
    store.fail_next(Failure::WrittenAndUnknown);
    let (handle, _shutdown) = started(store).await;
    assert!(handle.apply(submitted()).await.is_err());
    handle.apply(submitted()).await.expect("the same again is no contradiction");
    assert!(matches!(register(&handle, "worker-1").await, Err(Refused::Unavailable(_))));
    let mut session = register(&handle, "worker-1").await.expect("registered");
    let grants = session.all_grants().await;
    let stored: BTreeMap<SlotId, Epoch> = handle
        .look()
        .await
        .expect("look")
        .view
        .slots
        .into_iter()
        .map(|slot| (slot.slot, slot.epoch))
        .collect();
    assert_eq!(grants, stored);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_does_not_read_loses_its_session() {
    let (handle, _shutdown) = started(memory().await).await;
    handle.apply(submitted()).await.expect("submitted");
    let (link, _unread, cut) = link(1);
    handle.register(worker("worker-1", 1), Vec::new(), link).await.expect("registered");
    cut.cancelled().await;
}

#[tokio::test(start_paused = true)]
async fn a_session_that_was_replaced_is_ended() {
    let (handle, _shutdown) = started(memory().await).await;
    let first = register(&handle, "worker-1").await.expect("registered");
    let second = register(&handle, "worker-1").await.expect("registered again");
    first.cut.cancelled().await;
    assert!(!second.cut.is_cancelled());
    assert!(first.number < second.number);
}

#[tokio::test]
async fn a_reserved_id_outlives_the_master_until_its_pipeline_is_admitted() {
    let folder = tempfile::tempdir().expect("folder");
    let (handle, shutdown) = started(Store::file(folder.path().into()).await.expect("store")).await;
    let reserved = handle.reserve("clickstream").await.expect("reserved");
    assert_eq!(handle.reserve("clickstream").await.expect("again"), reserved);
    assert_ne!(handle.reserve("views").await.expect("another").pipeline, reserved.pipeline);
    drop(handle);
    shutdown.begin();
    assert!(shutdown.drained(Duration::from_secs(60)).await, "all tasks end");

    let (handle, _shutdown) = started(Store::file(folder.path().into()).await.expect("store")).await;
    assert_eq!(handle.reserve("clickstream").await.expect("kept"), reserved);
    handle.apply(submitted()).await.expect("admitted");
    assert!(!stored_epochs(folder.path()).await.contains_key("submission/clickstream"));
    assert_ne!(handle.reserve("clickstream").await.expect("anew"), reserved, "an id is used once");
}

#[tokio::test]
async fn a_deposed_leader_ends_its_sessions_names_the_next_one_and_leads_again_after_it() {
    let etcd = etcd_testing::Prefix::new("deposed-driver");
    let (handle, _shutdown) = started(etcd.store("one")).await;
    handle.apply(submitted()).await.expect("submitted");
    let mut session = register(&handle, "worker-1").await.expect("registered");
    let before = session.all_grants().await;

    let mut two = etcd.store("two");
    etcd.depose().await;
    two.load().await.expect("it leads");
    let late = handle.reserve("late").await.expect_err("it leads no more");
    assert!(
        matches!(&late, Refused::Unavailable(reason) if reason.contains("leadership has ended")),
        "{late}"
    );
    session.cut.cancelled().await;
    let refused = register(&handle, "worker-1").await.err().expect("it stands by");
    assert!(
        matches!(&refused, Refused::Standby { leader: Some(leader) } if leader.address == "two:7077"),
        "{refused}"
    );
    let stored = two.load().await.expect("loaded");
    assert!(!stored.contains_key("submission/late"), "{stored:?}");

    two.resign().await;
    let mut session = loop {
        match register(&handle, "worker-1").await {
            Ok(session) => break session,
            Err(Refused::Standby { .. }) => tokio::time::sleep(Duration::from_millis(20)).await,
            Err(refused) => panic!("{refused}"),
        }
    };
    assert_eq!(session.all_grants().await, before, "the stored grants stand");
}

#[tokio::test]
async fn a_master_that_does_not_start_keeps_nobody_from_leading() {
    let etcd = etcd_testing::Prefix::new("unreadable");
    let mut first = etcd.store("one");
    first.load().await.expect("it leads");
    let unreadable = Change { key: "pipeline/x".into(), value: Some("{".into()) };
    first.commit(vec![unreadable]).await.expect("committed");
    first.resign().await;
    let failure = Driver::new(parts(etcd.store("two"), &Shutdown::new())).await.expect_err("unreadable");
    assert!(failure.to_string().contains("pipeline/x"), "{failure}");
    etcd.store("three").load().await.expect("nobody leads");
}
