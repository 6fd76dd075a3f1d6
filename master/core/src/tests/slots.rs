//! Stories of slots: stops and their reasons, back-off, halts, lost messages, claims, refusals of pipelines.

use millrace_types::{
    Epoch, Halt, HaltKind, Millis, NextOffset, SkipLost, SlotId, SlotPhase, StopReason, WorkerId,
};

use super::support::{Cluster, definition, heard, report, slot, spec, worker_id};
use crate::{Directive, Event, MAX_SLOT_RECORDS, Rejection, SLOTS_PER_RECORD, Settings, SlotState, Step};

/// The worker's word that the slot's current grant ended.
fn stopped(cluster: &mut Cluster, slot: &SlotId, reason: StopReason) -> Step {
    let view = cluster.slot(slot.partition);
    let worker = view.owner.expect("owned");
    let session = cluster.sessions[&worker];
    cluster.running.entry(worker.clone()).or_default().remove(slot);
    let event = Event::SlotStopped { session, worker, slot: slot.clone(), epoch: view.epoch, reason };
    let step = cluster.try_apply(event).expect("accepted");
    for directive in &step.directives {
        if let Directive::Grant { worker, slot, epoch, .. } = directive {
            let runs = cluster.running.entry(worker.clone()).or_default();
            runs.insert(slot.clone(), (*epoch, SlotPhase::Opening));
        }
    }
    step
}

fn failed() -> StopReason {
    StopReason::Failed { detail: "the memory budget is full".to_owned() }
}

#[test]
fn a_fenced_slot_is_granted_anew_at_once() {
    let mut cluster = Cluster::started(&["a", "b"], 2);
    stopped(&mut cluster, &slot(0), StopReason::Fenced);
    let view = cluster.slot(0);
    assert_eq!((view.state, view.epoch), (SlotState::Granted, Epoch(2)));
}

#[test]
fn fences_in_a_row_are_slowed_down() {
    let mut cluster = Cluster::started(&["a"], 1);
    stopped(&mut cluster, &slot(0), StopReason::Fenced);
    stopped(&mut cluster, &slot(0), StopReason::Fenced);
    assert_eq!(cluster.slot(0).state, SlotState::Free);
    let reason = cluster.slot(0).unowned_reason.expect("a reason");
    assert!(reason.starts_with("it stopped 2 times in a row"), "{reason}");
    cluster.pass(1_100);
    assert_eq!((cluster.slot(0).state, cluster.slot(0).epoch), (SlotState::Granted, Epoch(3)));
}

#[test]
fn a_grant_after_a_lost_store_goes_above_the_recorded_epoch() {
    let mut cluster = Cluster::started(&["a"], 1);
    stopped(&mut cluster, &slot(0), StopReason::EpochBehind { recorded: Epoch(41) });
    assert_eq!((cluster.slot(0).state, cluster.slot(0).epoch), (SlotState::Granted, Epoch(42)));
}

#[test]
fn a_recorded_epoch_that_nothing_can_exceed_halts_the_slot() {
    let mut cluster = Cluster::started(&["a"], 1);
    stopped(&mut cluster, &slot(0), StopReason::EpochBehind { recorded: Epoch(u64::MAX) });
    let view = cluster.slot(0);
    assert_eq!(view.state, SlotState::Halted);
    assert_eq!(view.halt.expect("halted").kind, HaltKind::RecordDamaged);
}

#[test]
fn a_failing_slot_waits_longer_each_time_and_looks_for_another_worker() {
    let mut cluster = Cluster::started(&["a", "b"], 2);
    let first = cluster.slot(0).owner.expect("owned");
    let mut waits = Vec::new();
    let mut owners = Vec::new();
    for _ in 0..8 {
        let before = cluster.now;
        stopped(&mut cluster, &slot(0), failed());
        assert_eq!(cluster.slot(0).state, SlotState::Free);
        while cluster.slot(0).state == SlotState::Free {
            cluster.pass(50);
        }
        waits.push((cluster.now - before) / 1_000);
        owners.push(cluster.slot(0).owner.expect("owned"));
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    assert_eq!(owners[0], first);
    assert_ne!(owners[1], first, "the second failure in a row moves it");
    cluster.pass(121_000);
    let before = cluster.now;
    stopped(&mut cluster, &slot(0), failed());
    cluster.pass(1_100);
    assert_eq!(cluster.slot(0).state, SlotState::Granted, "long after {before} it starts over");
}

#[test]
fn a_failing_slot_stays_with_the_only_worker() {
    let mut cluster = Cluster::started(&["a"], 1);
    for _ in 0..3 {
        stopped(&mut cluster, &slot(0), failed());
        cluster.pass(10_000);
        assert_eq!(cluster.slot(0).owner, Some(worker_id("a")));
    }
}

#[test]
fn a_halted_slot_waits_for_a_person() {
    let mut cluster = Cluster::started(&["a", "b"], 2);
    let halt = Halt { kind: HaltKind::OffsetsLost, detail: "offsets 5 to 9 are gone".to_owned() };
    stopped(&mut cluster, &slot(1), StopReason::Halted(halt.clone()));
    cluster.pass(120_000);
    let view = cluster.slot(1);
    assert_eq!((view.state, view.owner, view.halt), (SlotState::Halted, None, Some(halt)));
    cluster.restart_master();
    cluster.register("a");
    cluster.register("b");
    cluster.pass(5_000);
    assert_eq!(cluster.slot(1).state, SlotState::Halted, "also for the next master");

    let refused =
        cluster.try_apply(Event::SlotResumed { slot: slot(0), skip_lost: None }).expect_err("refused");
    assert_eq!(refused, Rejection::NotHalted { slot: slot(0) });
    cluster.apply(Event::SlotResumed { slot: slot(1), skip_lost: None });
    let view = cluster.slot(1);
    assert_eq!((view.state, view.epoch), (SlotState::Granted, Epoch(2)));
}

#[test]
fn a_persons_word_about_what_is_lost_is_good_for_the_halt_that_was_seen_and_until_the_slot_runs() {
    let mut cluster = Cluster::started(&["a", "b"], 2);
    let halt = |kind| StopReason::Halted(Halt { kind, detail: "gone".to_owned() });
    let skip = |halt, from: Option<i64>| Some(SkipLost { halt, from: from.map(NextOffset) });
    let resumed = |skip_lost| Event::SlotResumed { slot: slot(1), skip_lost };
    stopped(&mut cluster, &slot(1), halt(HaltKind::OffsetsLost));
    for (word, refusal) in [
        (
            skip(HaltKind::ManifestMismatch, None),
            Rejection::OtherHalt {
                slot: slot(1),
                halt: HaltKind::OffsetsLost,
                seen: HaltKind::ManifestMismatch,
            },
        ),
        (
            skip(HaltKind::OffsetsLost, Some(7)),
            Rejection::FromUnused { slot: slot(1), halt: HaltKind::OffsetsLost, from: NextOffset(7) },
        ),
    ] {
        assert_eq!(cluster.try_apply(resumed(word)).expect_err("refused"), refusal);
    }
    let granted = |step: &[Directive]| {
        step.iter().find_map(|directive| match directive {
            Directive::Grant { slot: id, skip_lost, .. } if *id == slot(1) => Some(*skip_lost),
            _ => None,
        })
    };
    let word = skip(HaltKind::OffsetsLost, None);
    let told = cluster.try_apply(resumed(word)).expect("taken").directives;
    assert_eq!(granted(&told), Some(word));
    // The next owner hears it too, and so does one of the next master.
    stopped(&mut cluster, &slot(1), failed());
    cluster.restart_master();
    assert_eq!(cluster.slot(1).skip_lost, word);
    let mut told = cluster.register("a");
    told.extend(cluster.register("b"));
    told.extend(cluster.pass(5_000));
    assert_eq!(granted(&told), Some(word));
    cluster.pass(5_000);
    assert_eq!(cluster.slot(1).skip_lost, None, "it runs");

    stopped(&mut cluster, &slot(1), halt(HaltKind::RecordLost));
    let refused = cluster.try_apply(resumed(skip(HaltKind::RecordLost, None))).expect_err("refused");
    assert_eq!(refused, Rejection::FromMissing { slot: slot(1), halt: HaltKind::RecordLost });
    cluster.apply(resumed(skip(HaltKind::RecordLost, Some(7))));
    stopped(&mut cluster, &slot(1), halt(HaltKind::RecordLost));
    assert_eq!(cluster.slot(1).skip_lost, None, "it halted again: the word has had its effect");
    stopped(&mut cluster, &slot(0), halt(HaltKind::RecordRefused));
    let word = skip(HaltKind::RecordRefused, None);
    let refused =
        cluster.try_apply(Event::SlotResumed { slot: slot(0), skip_lost: word }).expect_err("refused");
    assert_eq!(refused, Rejection::NothingLost { slot: slot(0), halt: HaltKind::RecordRefused });
}

#[test]
fn an_endless_halt_text_is_cut() {
    let mut cluster = Cluster::started(&["a"], 1);
    let halt = Halt { kind: HaltKind::RecordDamaged, detail: "ü".repeat(1_000_000) };
    stopped(&mut cluster, &slot(0), StopReason::Halted(halt));
    assert!(cluster.slot(0).halt.expect("halted").detail.len() < 1_100);
}

#[test]
fn words_about_old_grants_change_nothing() {
    let mut cluster = Cluster::started(&["a", "b"], 2);
    stopped(&mut cluster, &slot(0), StopReason::Fenced);
    let owners = cluster.owners();
    let owner = cluster.slot(0).owner.expect("owned");
    let other = worker_id(if owner.as_str() == "a" { "b" } else { "a" });
    for (worker, epoch) in [(owner, Epoch(1)), (other, Epoch(2))] {
        let session = cluster.sessions[&worker];
        let reason = StopReason::EpochBehind { recorded: Epoch(77) };
        let told = cluster.apply(Event::SlotStopped { session, worker, slot: slot(0), epoch, reason });
        assert_eq!(told, vec![]);
    }
    assert_eq!(cluster.owners(), owners);
}

#[test]
fn a_lost_grant_is_sent_again_with_the_same_epoch() {
    let mut cluster = Cluster::started(&["a"], 1);
    cluster.running.clear();
    cluster.pass(3_000);
    assert_eq!(cluster.slot(0).epoch, Epoch(1));
    let runs = &cluster.running[&worker_id("a")];
    assert_eq!(runs.get(&slot(0)).map(|(epoch, _)| *epoch), Some(Epoch(1)));
}

#[test]
fn a_grant_that_shows_no_effect_is_not_repeated_at_every_heartbeat() {
    let mut cluster = Cluster::started(&["a"], 1);
    let mut sent = 0;
    for _ in 0..120 {
        cluster.running.clear();
        cluster.now += 500;
        let (worker, session) = (worker_id("a"), cluster.sessions[&worker_id("a")]);
        let heartbeat = heard(session, worker, vec![]);
        sent += cluster.apply(heartbeat).len();
    }
    assert!((5..=12).contains(&sent), "{sent} times in a minute");
}

#[test]
fn a_lost_revoke_is_sent_again() {
    let mut cluster = Cluster::started(&["a"], 2);
    let event = Event::WorkerRegistered { session: 90, spec: spec("b", 1), running: vec![] };
    cluster.try_apply(event).expect("ok");
    cluster.sessions.insert(worker_id("b"), 90);
    cluster.now += 200;
    let step = cluster.try_apply(Event::DeadlineReached).expect("ok");
    assert!(matches!(step.directives.as_slice(), [Directive::Revoke { .. }]), "and this one gets lost");
    cluster.pass(3_000);
    assert_eq!(cluster.worker("b").slots.len(), 1);
}

fn claim(cluster: &mut Cluster, worker: &str, claims: &[(SlotId, u64)]) -> Vec<Directive> {
    let worker: WorkerId = worker_id(worker);
    let session = cluster.sessions[&worker];
    let reports =
        claims.iter().map(|(slot, epoch)| report(slot, Epoch(*epoch), SlotPhase::Running)).collect();
    let event = heard(session, worker, reports);
    cluster.try_apply(event).expect("accepted").directives
}

#[test]
fn claims_of_what_is_not_granted_are_revoked() {
    let mut cluster = Cluster::started(&["a", "b"], 2);
    let owner = cluster.slot(0).owner.expect("owned");
    let (mine, other) = if owner.as_str() == "a" { (1, "b") } else { (0, "a") };
    let mine = if cluster.slot(mine).owner == Some(worker_id(other)) { slot(mine) } else { slot(1 - mine) };
    let unknown = SlotId { partition: 9, ..slot(0) };
    let before = cluster.owners();
    for (slot, epoch) in [(slot(0), 1), (slot(0), 900), (slot(0), u64::MAX), (unknown, 1)] {
        let told = claim(&mut cluster, other, &[(slot.clone(), epoch), (mine.clone(), 1)]);
        let [Directive::Revoke { slot: revoked, epoch: at, .. }] = told.as_slice() else {
            panic!("{told:?}")
        };
        assert_eq!((revoked, at), (&slot, &Epoch(epoch)));
    }
    assert_eq!(cluster.owners(), before);
}

#[test]
fn a_claim_above_the_stores_epoch_by_the_owner_itself_is_taken_over() {
    let mut cluster = Cluster::started(&["a"], 1);
    assert_eq!(claim(&mut cluster, "a", &[(slot(0), 5)]), vec![]);
    assert_eq!(cluster.owners()[&0], ("a".to_owned(), Epoch(5)));
}

#[test]
fn an_older_epoch_of_a_workers_own_slot_is_no_reason_to_revoke() {
    let mut cluster = Cluster::started(&["a"], 1);
    stopped(&mut cluster, &slot(0), StopReason::Fenced);
    assert_eq!(claim(&mut cluster, "a", &[(slot(0), 1)]), vec![]);
    cluster.now += 1_100;
    let told = claim(&mut cluster, "a", &[(slot(0), 1)]);
    assert!(matches!(told.as_slice(), [Directive::Grant { epoch: Epoch(2), .. }]), "{told:?}");
}

#[test]
fn a_worker_never_holds_more_than_its_memory_carries() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.submit(6);
    let mut small = spec("a", 8);
    small.max_slots = 2;
    cluster.register_spec(small);
    cluster.pass(1_000);
    assert_eq!(cluster.worker("a").slots.len(), 2);
    let reason = cluster.slot(5).unowned_reason.expect("a reason");
    assert_eq!(reason, "1 worker carries at most 2 slots: add a worker or memory");
    cluster.register("b");
    cluster.pass(1_000);
    assert_eq!(cluster.worker("b").slots.len(), 4);
}

#[test]
fn partitions_that_are_added_get_owners() {
    let mut cluster = Cluster::started(&["a", "b"], 2);
    let pipeline = slot(0).pipeline;
    cluster.apply(Event::PartitionsFound { pipeline: pipeline.clone(), topic: 0, count: 5 });
    cluster.pass(1_000);
    assert_eq!(cluster.owners().len(), 5);
    let fewer = Event::PartitionsFound { pipeline: pipeline.clone(), topic: 0, count: 4 };
    let refused = cluster.try_apply(fewer).expect_err("refused").to_string();
    assert!(refused.contains("has 4 partitions, but 5 are known"), "{refused}");
    let other = Event::PartitionsFound { pipeline, topic: 3, count: 4 };
    assert!(matches!(cluster.try_apply(other), Err(Rejection::UnknownTopic { topic: 3, topics: 1, .. })));
}

#[test]
fn pipelines_that_cant_be_run_are_refused() {
    let mut cluster = Cluster::started(&["a"], 1);
    let mut submit = |id: &str, topics, partitions| {
        let definition = Box::new(definition(id, topics));
        cluster.try_apply(Event::PipelineSubmitted { definition, partitions })
    };
    assert_eq!(submit("clicks-1", 1, vec![1]), Ok(Step::default()), "the same one again");
    assert!(matches!(submit("clicks-1", 2, vec![1, 1]), Err(Rejection::PipelineExists { .. })));
    assert!(matches!(submit("b-1", 2, vec![1]), Err(Rejection::PartitionCounts { .. })));
    assert!(matches!(submit("b-1", 0, vec![]), Err(Rejection::PartitionCounts { .. })));
    assert!(matches!(submit("b-1", 2, vec![1, 0]), Err(Rejection::NoPartitions { .. })));
    assert!(matches!(submit("b-1", 1, vec![u32::MAX]), Err(Rejection::TooManySlots { .. })));
    let most = u32::try_from(MAX_SLOT_RECORDS - 1).expect("small") * SLOTS_PER_RECORD;
    assert!(matches!(submit("b-1", 1, vec![most + 1]), Err(Rejection::TooManySlots { .. })));
    submit("b-1", 1, vec![most]).expect("just fits");
    // Far more than one transaction takes: each step's size is checked where it is stored.
    while !cluster.coordinator.is_written() {
        cluster.now += 1;
        cluster.apply(Event::DeadlineReached);
    }
    cluster.restart_master();
    assert_eq!(cluster.view().slots.len(), most as usize + 1);
}

#[test]
fn a_free_slots_epoch_is_believed_of_its_last_owner_only() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.submit(3);
    cluster.register("a");
    cluster.pass(1_000);
    cluster.pass_without(4_000, &["a"]);
    assert_eq!(cluster.owners().len(), 0);
    let running = vec![report(&slot(0), Epoch(1), SlotPhase::Running)];
    let event = Event::WorkerRegistered { session: 90, spec: spec("b", 1), running };
    let told = cluster.try_apply(event).expect("accepted").directives;
    assert!(matches!(&told[0], Directive::Revoke { session: 90, epoch: Epoch(1), .. }), "{told:?}");
    assert!(matches!(&told[1], Directive::Grant { session: 90, epoch: Epoch(2), .. }), "{told:?}");
}

#[test]
fn claims_of_free_slots_are_taken_over_up_to_the_workers_memory() {
    let mut cluster = Cluster::started(&["a"], 3);
    cluster.pass_without(4_000, &["a"]);
    cluster.lose_session("a");
    let mut small = spec("a", 1);
    small.max_slots = 2;
    let told = cluster.register_spec(small);
    assert_eq!(cluster.worker("a").slots.len(), 2);
    let revoked = told.iter().filter(|directive| matches!(directive, Directive::Revoke { .. })).count();
    assert_eq!(revoked, 1);
}

#[test]
fn a_claim_does_not_end_a_back_off() {
    let mut cluster = Cluster::started(&["a"], 1);
    stopped(&mut cluster, &slot(0), failed());
    let told = claim(&mut cluster, "a", &[(slot(0), 1)]);
    assert!(matches!(told.as_slice(), [Directive::Revoke { .. }]), "{told:?}");
    assert_eq!(cluster.slot(0).state, SlotState::Free);
}

#[test]
fn an_epoch_seen_on_record_was_granted_to_nobody_known() {
    let mut cluster = Cluster::started(&["a"], 1);
    stopped(&mut cluster, &slot(0), StopReason::Fenced);
    stopped(&mut cluster, &slot(0), StopReason::EpochBehind { recorded: Epoch(41) });
    assert_eq!(cluster.slot(0).state, SlotState::Free, "it waits: the second stop in a row");
    cluster.restart_master();
    let told = cluster.register("a");
    assert_eq!(told, vec![]);
    let told = claim(&mut cluster, "a", &[(slot(0), 41)]);
    assert!(matches!(told.as_slice(), [Directive::Revoke { .. }]), "{told:?}");
}

#[test]
fn a_free_slot_waits_for_no_worker_that_lost_its_session() {
    let mut cluster = Cluster::new(Settings { grace: Millis(10_000), ..Settings::default() });
    cluster.submit(2);
    cluster.register("a");
    cluster.register("b");
    cluster.pass(1_000);
    let owner = cluster.slot(0).owner.expect("owned");
    stopped(&mut cluster, &slot(0), failed());
    cluster.lose_session(owner.as_str());
    cluster.pass(1_100);
    let view = cluster.slot(0);
    assert_eq!(view.state, SlotState::Granted);
    assert_ne!(view.owner, Some(owner));
}
