//! Stories of workers: joins, lost sessions, silence, coming back, refusals.

use millrace_types::{Epoch, Millis, SlotMetrics, SlotPhase, StopReason};

use super::support::{Cluster, heard, report, slot, spec, worker_id};
use crate::{Directive, Event, LossCause, MoveReason, Rejection, SLOTS_PER_RECORD, Settings, WorkerState};

fn revokes(directives: &[Directive]) -> usize {
    directives.iter().filter(|directive| matches!(directive, Directive::Revoke { .. })).count()
}

fn grants(directives: &[Directive]) -> usize {
    directives.iter().filter(|directive| matches!(directive, Directive::Grant { .. })).count()
}

#[test]
fn workers_that_start_together_are_balanced_once() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.submit(6);
    for worker in ["a", "b", "c"] {
        assert_eq!(grants(&cluster.register(worker)), 0, "joins are gathered");
        cluster.now += 50;
    }
    let told = cluster.pass(500);
    assert_eq!((grants(&told), revokes(&told)), (6, 0));
    assert!(["a", "b", "c"].iter().all(|worker| cluster.worker(worker).slots.len() == 2));
    assert!(cluster.owners().values().all(|(_, epoch)| *epoch == Epoch(1)));
}

#[test]
fn without_a_settling_span_the_first_worker_starts_at_once() {
    let mut cluster = Cluster::new(Settings { settle: Millis(0), ..Settings::default() });
    cluster.submit(6);
    assert_eq!(grants(&cluster.register("a")), 6);
}

#[test]
fn a_join_moves_its_share_after_the_owners_gave_it_up() {
    let mut cluster = Cluster::started(&["a", "b"], 6);
    cluster.register("c");
    let told = cluster.pass(1_000);
    assert_eq!((revokes(&told), grants(&told)), (2, 2));
    assert_eq!(cluster.worker("c").slots.len(), 2);
    let view = cluster.view();
    let reasons: Vec<_> = view.moves.iter().filter(|moved| moved.to == worker_id("c")).collect();
    assert_eq!(reasons.len(), 2);
    for moved in reasons {
        let MoveReason::WorkerJoined { worker, beside } = &moved.reason else { panic!("{moved:?}") };
        assert_eq!(*worker, worker_id("c"));
        assert!(beside.here_percent > beside.there_percent, "{beside}");
        assert_eq!(moved.epoch, Epoch(2));
        assert!(moved.running_at.is_some());
    }
}

#[test]
fn a_planned_move_waits_for_the_owners_word() {
    let mut cluster = Cluster::started(&["a"], 2);
    cluster.now += 1;
    cluster
        .try_apply(Event::WorkerRegistered { session: 90, spec: spec("b", 1), running: vec![] })
        .expect("ok");
    cluster.now += 200;
    let step = cluster.try_apply(Event::DeadlineReached).expect("ok");
    let [Directive::Revoke { worker, slot, epoch, session }] = step.directives.as_slice() else {
        panic!("{:?}", step.directives)
    };
    assert_eq!(step.writes, vec![], "nothing is granted yet");
    let stopped = Event::SlotStopped {
        session: *session,
        worker: worker.clone(),
        slot: slot.clone(),
        epoch: *epoch,
        reason: StopReason::Revoked,
    };
    let step = cluster.try_apply(stopped).expect("ok");
    let [Directive::Grant { worker, epoch, opened, .. }] = step.directives.as_slice() else {
        panic!("{:?}", step.directives)
    };
    assert_eq!((worker.as_str(), *epoch, *opened), ("b", Epoch(2), true));
}

#[test]
fn a_dropped_session_within_the_grace_moves_nothing() {
    let mut cluster = Cluster::started(&["a", "b", "c"], 6);
    let before = cluster.owners();
    let told = cluster.lose_session("b");
    assert!(
        matches!(told.as_slice(), [Directive::Probe { worker, port: 4_000, .. }] if worker.as_str() == "b")
    );
    assert_eq!(cluster.worker("b").state, WorkerState::Suspect);
    cluster.pass(400);
    let told = cluster.register("b");
    assert_eq!(told, vec![], "nothing to repair");
    cluster.pass(5_000);
    assert_eq!(cluster.owners(), before);
    assert_eq!(cluster.worker("b").state, WorkerState::Alive);
    assert_eq!(cluster.view().losses, vec![]);
}

#[test]
fn a_dropped_session_is_a_loss_after_the_grace() {
    let mut cluster = Cluster::started(&["a", "b", "c"], 6);
    let before = cluster.owners();
    cluster.lose_session("b");
    let told = cluster.pass(500);
    assert_eq!((grants(&told), revokes(&told)), (2, 0), "the lost worker's slots alone");
    for (partition, (owner, epoch)) in cluster.owners() {
        let (old_owner, old_epoch) = &before[&partition];
        if old_owner == "b" {
            assert!(owner != "b" && epoch == old_epoch.next());
        } else {
            assert_eq!((&owner, &epoch), (old_owner, old_epoch));
        }
    }
}

#[test]
fn a_refused_connection_needs_no_grace_and_the_failover_is_told_in_full() {
    let mut cluster = Cluster::started(&["a", "b", "c"], 6);
    cluster.now += 20;
    let last_heard = cluster.worker("b").last_heard_at;
    cluster.lose_session("b");
    let detected = cluster.now;
    let told = cluster.apply(Event::ProcessGone { worker: worker_id("b") });
    assert_eq!(grants(&told), 2);
    cluster.running.remove(&worker_id("b"));

    let loss = cluster.view().losses.pop().expect("a loss");
    assert_eq!((loss.worker.as_str(), loss.cause), ("b", LossCause::ProcessGone));
    assert_eq!((loss.last_heard_at, loss.detected_at), (last_heard, Millis(detected)));
    assert_eq!((loss.reassigned_at, loss.slots.len()), (Some(Millis(detected)), 2));
    assert!(
        loss.slots.iter().all(|lost| lost.regrant.as_ref().is_some_and(|r| r.first_commit_at_ms.is_none()))
    );

    // Each new owner commits for the first time, and again.
    for committed in [7_000, 9_000] {
        for lost in &loss.slots {
            let regrant = lost.regrant.clone().expect("granted anew");
            let metrics = SlotMetrics { last_commit_at_ms: Some(committed), ..SlotMetrics::default() };
            let mut reports = cluster.reports(&regrant.worker);
            for report in reports.iter_mut().filter(|report| report.slot == lost.slot) {
                report.phase = SlotPhase::Running;
                report.metrics = metrics.clone();
            }
            let (worker, session) = (regrant.worker.clone(), cluster.sessions[&regrant.worker]);
            cluster.apply(heard(session, worker, reports));
        }
    }
    let loss = cluster.view().losses.pop().expect("a loss");
    for lost in loss.slots {
        assert_eq!(lost.regrant.expect("granted anew").first_commit_at_ms, Some(7_000));
    }
}

#[test]
fn a_frozen_worker_is_dead_after_the_lease_and_alive_when_it_thaws() {
    let mut cluster = Cluster::started(&["a", "b", "c"], 6);
    cluster.pass_without(2_900, &["b"]);
    assert_eq!(cluster.worker("b").state, WorkerState::Alive);
    cluster.pass_without(200, &["b"]);
    assert_eq!(cluster.worker("b").state, WorkerState::Dead);
    assert_eq!(cluster.view().losses[0].cause, LossCause::Silent);
    let elsewhere = cluster.owners();
    assert!(elsewhere.values().all(|(owner, _)| owner != "b"));

    let told = cluster.heartbeat(&worker_id("b"));
    assert_eq!(revokes(&told), 2, "its old slots are not its own any more");
    assert_eq!(cluster.worker("b").state, WorkerState::Alive);
    cluster.pass(2_000);
    assert_eq!(cluster.worker("b").slots.len(), 2, "and it works again");
}

#[test]
fn a_lone_worker_that_froze_keeps_its_slots_without_a_new_epoch() {
    let mut cluster = Cluster::started(&["a"], 3);
    let before = cluster.owners();
    cluster.pass_without(4_000, &["a"]);
    assert_eq!(cluster.worker("a").state, WorkerState::Dead);
    assert_eq!(cluster.owners().len(), 0);
    assert_eq!(cluster.slot(0).unowned_reason.as_deref(), Some("no worker is alive"));
    let told = cluster.heartbeat(&worker_id("a"));
    assert_eq!(told, vec![]);
    assert_eq!(cluster.owners(), before);
}

#[test]
fn a_lone_worker_keeps_its_slots_though_the_master_restarts_while_it_is_frozen() {
    let mut cluster = Cluster::started(&["a"], 3);
    let before = cluster.owners();
    cluster.pass_without(4_000, &["a"]);
    cluster.restart_master();
    cluster.pass(1_000);
    let told = cluster.register("a");
    assert_eq!((told, cluster.owners()), (vec![], before));
}

#[test]
fn the_masters_own_stall_is_nobodys_silence() {
    let mut cluster = Cluster::started(&["a", "b"], 4);
    let before = cluster.owners();
    cluster.now += 60_000;
    cluster.apply(Event::DeadlineReached);
    assert_eq!(cluster.view().losses, vec![]);
    let told = cluster.pass(5_000);
    assert_eq!((told, cluster.owners()), (vec![], before));
}

#[test]
fn a_stall_does_not_save_the_dead() {
    let mut cluster = Cluster::started(&["a", "b"], 4);
    cluster.lose_session("b");
    cluster.now += 60_000;
    cluster.pass(2_000);
    assert_eq!(cluster.worker("b").state, WorkerState::Dead);
    assert_eq!(cluster.worker("a").slots.len(), 4);
}

#[test]
fn a_dead_worker_is_forgotten_in_time_and_its_record_too() {
    let mut cluster = Cluster::started(&["a", "b"], 4);
    cluster.lose_session("b");
    cluster.pass(1_000);
    assert_eq!(cluster.view().workers.len(), 2);
    cluster.pass(16 * 60_000);
    assert_eq!(cluster.view().workers.len(), 1);
    assert!(!cluster.store.keys().any(|key| key.as_str() == "workers/b"));
}

#[test]
fn unfit_registrations_are_refused_in_clear_words() {
    let mut cluster = Cluster::started(&["a"], 1);
    let mut refuse = |spec| {
        let event = Event::WorkerRegistered { session: 99, spec, running: vec![] };
        cluster.try_apply(event).expect_err("refused").to_string()
    };
    assert_eq!(refuse(spec("b", 0)), "worker b offers cores = 0: expected at least 1");
    let mut other = spec("b", 1);
    other.version = "9.4.0".to_owned();
    assert!(refuse(other.clone()).contains("version \"9.4.0\""));
    other.version = "new".to_owned();
    assert!(refuse(other.clone()).contains("version \"new\""));
    other = spec("b", 1);
    other.max_slots = 0;
    assert!(refuse(other).contains("max_slots = 0"));
    let mut same_id = spec("a", 1);
    same_id.pid = 7;
    assert!(refuse(same_id).contains("already registered by process 100"));
}

#[test]
fn a_newer_patch_release_may_register() {
    let mut cluster = Cluster::new(Settings::default());
    let mut newer = spec("a", 1);
    let (line, _) = millrace_types::VERSION.rsplit_once('.').expect("three numbers");
    newer.version = format!("{line}.99");
    cluster.register_spec(newer);
    assert_eq!(cluster.worker("a").state, WorkerState::Alive);
}

#[test]
fn another_process_under_a_suspects_id_gets_no_old_grant() {
    let mut cluster = Cluster::started(&["a", "b"], 4);
    cluster.lose_session("b");
    cluster.running.remove(&worker_id("b"));
    let mut next = spec("b", 1);
    next.pid = 101;
    cluster.register_spec(next);
    assert_eq!(cluster.view().losses[0].cause, LossCause::Replaced);
    cluster.pass(1_000);
    assert!(cluster.owners().values().filter(|(_, epoch)| *epoch == Epoch(2)).count() >= 2);
    assert_eq!(cluster.owners().len(), 4);
}

#[test]
fn a_second_session_of_the_same_process_takes_the_firsts_place() {
    let mut cluster = Cluster::started(&["a"], 2);
    let old = cluster.sessions[&worker_id("a")];
    let told = cluster.register("a");
    assert_eq!(told, vec![Directive::EndSession { worker: worker_id("a"), session: old }]);
    let late = Event::SessionLost { session: old, worker: worker_id("a") };
    assert_eq!(cluster.apply(late), vec![]);
    assert_eq!(cluster.worker("a").state, WorkerState::Alive);
    let reports = vec![report(&slot(0), Epoch(1), SlotPhase::Running)];
    let stale = heard(old, worker_id("a"), reports);
    let refused = cluster.try_apply(stale).expect_err("refused");
    assert_eq!(refused, Rejection::StaleSession { worker: worker_id("a"), session: old });
}

#[test]
fn idle_workers_say_why() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.register("a");
    assert_eq!(cluster.worker("a").idle_reason.as_deref(), Some("no pipeline is submitted"));

    let mut cluster = Cluster::started(&["a", "b", "c", "d", "e", "f"], 6);
    cluster.register("g");
    cluster.pass(1_000);
    let idle = cluster.worker("g");
    assert_eq!((idle.state, idle.slots.len()), (WorkerState::Alive, 0));
    assert_eq!(idle.idle_reason.as_deref(), Some("6 slots on 6 workers: none is left"));
    assert_eq!(cluster.worker("a").idle_reason, None);
}

#[test]
fn many_losses_at_once_stay_within_a_transaction() {
    let mut cluster = Cluster::new(Settings::default());
    let slots = 96 * SLOTS_PER_RECORD;
    for number in 0..60 {
        let mut large = spec(&format!("w{number}"), 1);
        large.max_slots = slots;
        let event = Event::WorkerRegistered { session: number, spec: large, running: vec![] };
        cluster.try_apply(event).expect("accepted");
    }
    cluster.submit(slots);
    cluster.now += 200;
    cluster.try_apply(Event::DeadlineReached).expect("accepted");
    assert_eq!(cluster.owners().len(), slots as usize);
    // All fall silent at the same moment; each step's size is checked where it is stored.
    let mut steps = 0;
    while cluster.view().workers.iter().any(|worker| worker.state == WorkerState::Alive) {
        cluster.now = cluster.coordinator.next_deadline().expect("a deadline").0;
        cluster.try_apply(Event::DeadlineReached).expect("accepted");
        steps += 1;
        assert!(steps < 60, "it comes to an end");
    }
    assert_eq!(cluster.owners().len(), 0);
}
