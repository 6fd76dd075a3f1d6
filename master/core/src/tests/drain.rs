//! Stories of workers that are drained by a person, or leave by themselves.

use std::collections::BTreeSet;

use super::support::{Cluster, spec, worker_id};
use crate::{Directive, Event, LossCause, MoveReason, Rejection, Settings, WorkerState};

fn drained(worker: &str) -> Event {
    Event::WorkerDrained { worker: worker_id(worker) }
}

fn recommissioned(worker: &str) -> Event {
    Event::WorkerRecommissioned { worker: worker_id(worker) }
}

fn leave_of(directives: &[Directive], worker: &str) -> bool {
    directives.iter().any(
        |directive| matches!(directive, Directive::Leave { worker: told, .. } if told.as_str() == worker),
    )
}

fn slots_of(cluster: &Cluster, worker: &str) -> usize {
    cluster.worker(worker).slots.len()
}

#[test]
fn a_drained_worker_gives_its_slots_up_a_few_at_a_time_and_keeps_the_others() {
    let mut cluster = Cluster::started(&["a", "b", "c"], 12);
    let before = cluster.owners();
    let step = cluster.try_apply(drained("b")).expect("accepted");
    let revoked: BTreeSet<_> = step
        .directives
        .iter()
        .filter_map(|directive| match directive {
            Directive::Revoke { worker, slot, .. } => Some((worker.to_string(), slot.clone())),
            _ => None,
        })
        .collect();
    assert_eq!(revoked.len(), Settings::default().moves_of_a_worker);
    assert!(revoked.iter().all(|(worker, _)| worker == "b"));
    assert_eq!((cluster.worker("b").state, slots_of(&cluster, "b")), (WorkerState::Draining, 4));
    assert_eq!(cluster.worker("b").waiting_for.as_deref(), Some("4 slots to be given up"));

    // The first orders got lost: they come again, and the rest follows.
    cluster.pass(10_000);
    assert_eq!((cluster.worker("b").state, slots_of(&cluster, "b")), (WorkerState::Drained, 0));
    assert_eq!((slots_of(&cluster, "a"), slots_of(&cluster, "c")), (6, 6));
    for (partition, (owner, epoch)) in cluster.owners() {
        let (old_owner, old_epoch) = &before[&partition];
        assert_eq!((&owner, &epoch) == (old_owner, old_epoch), old_owner != "b", "only its own slots moved");
    }
    let reasons = cluster.view().moves.into_iter().map(|moved| moved.reason);
    let of_drain = reasons.filter(|reason| *reason == MoveReason::WorkerDrained { worker: worker_id("b") });
    assert_eq!(of_drain.count(), 4);
    assert!(cluster.worker("b").idle_reason.expect("idle").contains("millrace recommission b"));

    cluster.apply(recommissioned("b"));
    cluster.pass(10_000);
    assert_eq!((cluster.worker("b").state, slots_of(&cluster, "b")), (WorkerState::Alive, 4));
}

#[test]
fn a_drain_that_is_taken_back_half_way_keeps_what_is_left() {
    let mut cluster = Cluster::started(&["a", "b"], 12);
    cluster.try_apply(drained("b")).expect("accepted");
    cluster.apply(recommissioned("b"));
    cluster.pass(10_000);
    assert_eq!((slots_of(&cluster, "a"), slots_of(&cluster, "b")), (6, 6));
    let moved = cluster.view().moves.into_iter().filter(|moved| moved.from.is_some()).count();
    assert!(moved <= 2 * Settings::default().moves_of_a_worker, "{moved} moves: those begun, and back");
}

#[test]
fn what_nobody_else_has_room_for_stays_and_the_worker_says_so() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.submit(6);
    let mut small = spec("small", 1);
    small.max_slots = 2;
    cluster.register_spec(small);
    cluster.register("large");
    cluster.pass(1_000);
    assert_eq!(slots_of(&cluster, "large"), 4);
    cluster.apply(drained("large"));
    cluster.pass(10_000);
    assert_eq!((slots_of(&cluster, "large"), cluster.owners().len()), (4, 6), "nothing stands still");
    let waits_for = cluster.worker("large").waiting_for.expect("it waits");
    assert!(waits_for.contains("a worker with room for its 4 slots"), "{waits_for}");

    cluster.register("new");
    cluster.pass(10_000);
    assert_eq!((slots_of(&cluster, "large"), slots_of(&cluster, "new")), (0, 4));
}

#[test]
fn a_leaving_worker_may_go_when_its_slots_are_others() {
    let mut cluster = Cluster::started(&["a", "b"], 6);
    cluster.leaving.insert(worker_id("b"));
    let mut told = Vec::new();
    while !leave_of(&told, "b") {
        assert!(cluster.now < 20_000, "it is told in the end");
        told = cluster.pass(50);
    }
    assert_eq!((slots_of(&cluster, "a"), slots_of(&cluster, "b")), (6, 0));
    assert_eq!(cluster.worker("b").idle_reason.as_deref(), Some("its process was told to stop"));
    // The word may be lost.
    assert!(leave_of(&cluster.pass(1_000), "b"));
    assert_eq!(
        cluster.try_apply(recommissioned("b")),
        Err(Rejection::WorkerIsLeaving { worker: worker_id("b") })
    );

    let told = cluster.lose_session("b");
    assert!(!told.iter().any(|directive| matches!(directive, Directive::Probe { .. })), "it is expected");
    assert_eq!(cluster.worker("b").state, WorkerState::Dead);
    assert_eq!(cluster.view().losses.pop().expect("a loss").cause, LossCause::Left);
}

#[test]
fn all_workers_leave_at_once_without_waiting_for_each_other() {
    let mut cluster = Cluster::started(&["a", "b"], 6);
    cluster.leaving.extend([worker_id("a"), worker_id("b")]);
    let told = cluster.pass(1_000);
    // The first one's slots may have begun to move when the second one's word came.
    let told = [told, cluster.pass(1_000)].concat();
    assert!(leave_of(&told, "a") && leave_of(&told, "b"), "{told:?}");
    assert_eq!(cluster.owners().len(), 6);
    // They go with their slots: a loss, though not one that a record is to blame for.
    cluster.lose_session("a");
    cluster.pass(1_000);
    assert!(cluster.view().slots.iter().all(|slot| slot.deaths == 0));
}

#[test]
fn a_drain_outlives_the_master() {
    let mut cluster = Cluster::started(&["a", "b"], 6);
    cluster.apply(drained("b"));
    cluster.pass(5_000);
    cluster.restart_master();
    cluster.register("a");
    cluster.register("b");
    cluster.pass(5_000);
    assert_eq!((cluster.worker("b").state, slots_of(&cluster, "a")), (WorkerState::Drained, 6));
}

#[test]
fn what_can_not_be_drained_is_refused() {
    let mut cluster = Cluster::started(&["a", "b"], 2);
    let unknown = Rejection::UnknownWorker { worker: worker_id("c") };
    assert_eq!(cluster.try_apply(drained("c")), Err(unknown.clone()));
    assert_eq!(cluster.try_apply(recommissioned("c")), Err(unknown));
    assert_eq!(cluster.try_apply(recommissioned("a")), Err(Rejection::NotDrained { worker: worker_id("a") }));
    cluster.lose_session("b");
    cluster.pass(5_000);
    assert_eq!(cluster.try_apply(drained("b")), Err(Rejection::WorkerIsDead { worker: worker_id("b") }));
}
