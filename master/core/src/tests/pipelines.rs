//! Stories of pipelines: paused, resumed, killed, submitted again, two at once; and slots whose owners die.

use millrace_types::{Epoch, PipelineId, SlotId, SlotPhase};

use super::support::{Cluster, definition, heard, report_at, slot, worker_id};
use crate::{Directive, Event, PipelineState, Rejection, Settings, SlotState};

fn id(text: &str) -> PipelineId {
    PipelineId::new(text).expect("plain")
}

fn pause(pipeline: &str) -> Event {
    Event::PipelinePaused { pipeline: id(pipeline) }
}

fn resume(pipeline: &str) -> Event {
    Event::PipelineResumed { pipeline: id(pipeline) }
}

fn kill(pipeline: &str, at_ms: u64) -> Event {
    Event::PipelineKilled { pipeline: id(pipeline), at_ms }
}

fn submit(pipeline: &str, slots: u32) -> Event {
    Event::PipelineSubmitted { definition: Box::new(definition(pipeline, 1)), partitions: vec![slots] }
}

/// `pipeline` again, with another limit if `max_rate` says so.
fn resubmit(pipeline: &str, slots: u32, max_rate: Option<u64>) -> Event {
    let mut definition = Box::new(definition(pipeline, 1));
    definition.max_rate = max_rate;
    Event::PipelineResubmitted { definition, partitions: vec![slots] }
}

fn state(cluster: &Cluster, pipeline: &str) -> PipelineState {
    cluster.pipeline(pipeline).state
}

/// What grants say about the definition's limit.
fn granted_rates(directives: &[Directive]) -> Vec<Option<u64>> {
    let rates = directives.iter().filter_map(|directive| match directive {
        Directive::Grant { definition, .. } => Some(definition.max_rate),
        _ => None,
    });
    rates.collect()
}

#[test]
fn a_pipeline_waits_until_a_worker_has_a_slot() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.submit(2);
    let waiting = cluster.pipeline("clicks-1");
    assert_eq!(waiting.state, PipelineState::Waiting);
    assert_eq!(waiting.waiting_for.as_deref(), Some("no worker is alive"));
    cluster.register("a");
    cluster.pass(1_000);
    assert_eq!(state(&cluster, "clicks-1"), PipelineState::Running);
    cluster.lose_session("a");
    cluster.running.clear();
    cluster.pass(1_000);
    assert_eq!(state(&cluster, "clicks-1"), PipelineState::Waiting);
}

#[test]
fn a_paused_pipeline_gives_its_slots_up_and_gets_none_until_it_is_resumed() {
    let mut cluster = Cluster::started(&["a", "b"], 4);
    cluster.apply(pause("clicks-1"));
    assert_eq!((state(&cluster, "clicks-1"), cluster.owners().len()), (PipelineState::Paused, 0));
    assert_eq!(cluster.slot(0).unowned_reason.as_deref(), Some("the pipeline is paused"));
    assert_eq!(cluster.worker("a").idle_reason.as_deref(), Some("every pipeline is paused"));
    assert_eq!(
        cluster.try_apply(pause("clicks-1")).expect_err("twice"),
        Rejection::AlreadyPaused { pipeline: id("clicks-1") }
    );
    // Neither a join nor a restart of the master wakes it.
    cluster.register("c");
    cluster.pass(2_000);
    cluster.restart_master();
    cluster.register("a");
    cluster.pass(5_000);
    assert_eq!((state(&cluster, "clicks-1"), cluster.owners().len()), (PipelineState::Paused, 0));

    cluster.register("b");
    cluster.apply(resume("clicks-1"));
    cluster.pass(1_000);
    assert_eq!((state(&cluster, "clicks-1"), cluster.owners().len()), (PipelineState::Running, 4));
    assert!(cluster.owners().values().all(|(_, epoch)| *epoch == Epoch(2)));
    let refused = cluster.try_apply(resume("clicks-1")).expect_err("it runs");
    assert_eq!(refused, Rejection::NothingToResume { pipeline: id("clicks-1") });
}

#[test]
fn a_pause_waits_for_the_last_commits_and_is_repeated_to_a_deaf_worker() {
    let mut cluster = Cluster::started(&["a"], 2);
    let step = cluster.try_apply(pause("clicks-1")).expect("ok");
    assert_eq!(step.directives.len(), 2, "both are revoked");
    assert_eq!(cluster.pipeline("clicks-1").waiting_for.as_deref(), Some("the last commit of 2 partitions"));
    assert_eq!(cluster.slot(0).state, SlotState::Revoking);
    // The words got lost; the master is killed as well.
    cluster.restart_master();
    assert_eq!(cluster.slot(0).state, SlotState::Revoking);
    cluster.register("a");
    assert_eq!(cluster.owners().len(), 0, "they are revoked again");
}

#[test]
fn resuming_before_all_was_given_up_waits_for_the_rest() {
    let mut cluster = Cluster::started(&["a"], 2);
    cluster.try_apply(pause("clicks-1")).expect("ok");
    let told = cluster.try_apply(resume("clicks-1")).expect("ok").directives;
    assert_eq!(told, vec![], "the worker still has to give up");
    cluster.pass(3_000);
    assert_eq!(cluster.owners().values().filter(|(_, epoch)| *epoch == Epoch(2)).count(), 2);
}

#[test]
fn a_frozen_workers_claim_on_a_paused_pipeline_is_not_believed() {
    let mut cluster = Cluster::started(&["a"], 2);
    cluster.pass_without(4_000, &["a"]);
    cluster.apply(pause("clicks-1"));
    cluster.heartbeat(&worker_id("a"));
    assert_eq!(cluster.owners().len(), 0);
    assert!(cluster.running[&worker_id("a")].is_empty(), "it was told to stop");
}

#[test]
fn a_killed_pipeline_is_completed_and_goes_on_with_higher_epochs_when_submitted_again() {
    let mut cluster = Cluster::started(&["a"], 3);
    let step = cluster.try_apply(kill("clicks-1", 77)).expect("ok");
    assert_eq!(state(&cluster, "clicks-1"), PipelineState::Killing);
    assert!(matches!(cluster.try_apply(kill("clicks-1", 78)), Err(Rejection::PipelineOver { .. })));
    for directive in step.directives {
        let Directive::Revoke { worker, session, slot, epoch } = directive else { panic!("{directive:?}") };
        cluster.running.entry(worker.clone()).or_default().remove(&slot);
        let reason = millrace_types::StopReason::Revoked;
        cluster.apply(Event::SlotStopped { session, worker, slot, epoch, reason });
    }
    let over = cluster.pipeline("clicks-1");
    assert_eq!((over.state, over.killed_at_ms, over.slots), (PipelineState::Killed, Some(77), 3));
    assert!(cluster.view().slots.is_empty());
    assert!(!cluster.store.keys().any(|key| key.as_str().starts_with("slots/")), "one record is left");
    for event in [pause("clicks-1"), resume("clicks-1"), kill("clicks-1", 79), submit("clicks-1", 3)] {
        assert!(matches!(cluster.try_apply(event), Err(Rejection::PipelineOver { .. })));
    }
    // A restart forgets nothing of it.
    cluster.restart_master();
    cluster.register("a");
    let told = cluster.apply(resubmit("clicks-1", 4, Some(9)));
    assert!(granted_rates(&told).iter().all(|rate| *rate == Some(9)));
    cluster.pass(1_000);
    assert_eq!(state(&cluster, "clicks-1"), PipelineState::Running);
    let epochs: Vec<u64> = cluster.owners().values().map(|(_, epoch)| epoch.0).collect();
    assert_eq!(epochs, [2, 2, 2, 1], "the fourth partition is new");
    assert!(cluster.view().completed.is_empty());
}

#[test]
fn slots_of_a_lost_worker_complete_a_kill_and_close_the_loss() {
    let mut cluster = Cluster::started(&["a", "b"], 2);
    cluster.lose_session("b");
    cluster.running.remove(&worker_id("b"));
    cluster.apply(kill("clicks-1", 5));
    assert_eq!(state(&cluster, "clicks-1"), PipelineState::Killing, "b may still come back");
    cluster.pass(1_000);
    assert_eq!(state(&cluster, "clicks-1"), PipelineState::Killed);
    let loss = cluster.view().losses.pop().expect("a loss");
    assert!(loss.slots.is_empty() && loss.reassigned_at.is_some(), "nobody waits for its slots: {loss:?}");
}

#[test]
fn another_definition_is_granted_only_when_nobody_runs_by_the_old_one() {
    let mut cluster = Cluster::started(&["a", "b"], 4);
    cluster.try_apply(resubmit("clicks-1", 4, Some(5))).expect("ok");
    assert_eq!(cluster.view().slots.iter().filter(|slot| slot.state == SlotState::Revoking).count(), 4);
    // Half of the words got lost: nothing is granted before the last slot is free.
    let told = cluster.heartbeat(&worker_id("a"));
    assert_eq!(granted_rates(&told), []);
    let told = cluster.pass(5_000);
    assert_eq!(granted_rates(&told), vec![Some(5); 4]);
    assert_eq!(cluster.owners().len(), 4);
    let told = cluster.apply(resubmit("clicks-1", 4, Some(5)));
    assert_eq!(told, vec![], "the same again changes nothing");
}

#[test]
fn a_worker_that_thaws_with_an_old_definition_is_stopped() {
    let mut cluster = Cluster::started(&["a"], 2);
    cluster.pass_without(4_000, &["a"]);
    cluster.apply(resubmit("clicks-1", 2, Some(5)));
    let mut told = cluster.heartbeat(&worker_id("a"));
    let revoked = told.iter().filter(|directive| matches!(directive, Directive::Revoke { .. })).count();
    assert_eq!(revoked, 2, "what it runs goes by the old one");
    told.extend(cluster.pass(2_000));
    assert_eq!(granted_rates(&told), vec![Some(5); 2]);
}

#[test]
fn a_resubmission_keeps_topics_and_partitions() {
    let mut cluster = Cluster::started(&["a"], 3);
    let refused = cluster.try_apply(resubmit("clicks-1", 2, None)).expect_err("fewer");
    assert!(matches!(refused, Rejection::PartitionsGone { count: 2, known: 3, .. }), "{refused}");
    let mut other = Box::new(definition("clicks-1", 1));
    other.source.topics[0] = "other".into();
    let event = Event::PipelineResubmitted { definition: other, partitions: vec![3] };
    assert!(matches!(cluster.try_apply(event), Err(Rejection::OtherTopics { .. })));
    let unknown = cluster.try_apply(resubmit("views-1", 3, None)).expect_err("unknown");
    assert_eq!(unknown, Rejection::UnknownPipeline { pipeline: id("views-1") });
}

#[test]
fn a_name_is_taken_while_its_pipeline_is_kept() {
    let mut cluster = Cluster::started(&["a"], 1);
    let mut namesake = Box::new(definition("clicks-2", 1));
    namesake.name = "clicks-1".into();
    let event = Event::PipelineSubmitted { definition: namesake, partitions: vec![1] };
    let taken = Rejection::NameTaken { name: "clicks-1".into(), pipeline: id("clicks-1") };
    assert_eq!(cluster.try_apply(event.clone()).expect_err("it runs"), taken);
    cluster.apply(kill("clicks-1", 1));
    assert_eq!(cluster.try_apply(event).expect_err("it is kept"), taken);
}

#[test]
fn the_oldest_completed_ones_are_forgotten() {
    let mut cluster = Cluster::new(Settings { completed_kept: 2, ..Settings::default() });
    for (number, at_ms) in [(1, 30), (2, 10), (3, 20), (4, 40)] {
        let pipeline = format!("clicks-{number}");
        cluster.apply(submit(&pipeline, 1));
        cluster.apply(kill(&pipeline, at_ms));
    }
    let kept: Vec<String> =
        cluster.view().completed.iter().map(|view| view.definition.id.to_string()).collect();
    assert_eq!(kept, ["clicks-4", "clicks-1"]);
    assert_eq!(cluster.store.len(), 2);
}

#[test]
fn many_kills_at_once_stay_within_a_transaction() {
    let mut cluster = Cluster::new(Settings { completed_kept: 2, ..Settings::default() });
    cluster.register("a");
    cluster.pass(500);
    for number in 0..60 {
        cluster.apply(submit(&format!("clicks-{number}"), 1));
    }
    cluster.pass(1_000);
    for number in 0..60 {
        cluster.try_apply(kill(&format!("clicks-{number}"), number)).expect("ok");
    }
    // All end with their one worker; each step's size is checked where it is stored.
    cluster.lose_session("a");
    cluster.pass(2_000);
    assert_eq!((cluster.view().pipelines.len(), cluster.view().completed.len()), (0, 2));
}

#[test]
fn two_pipelines_share_the_workers() {
    let mut cluster = Cluster::started(&["a", "b"], 4);
    let before = cluster.owners();
    cluster.apply(submit("views-1", 2));
    cluster.pass(1_000);
    let of = |cluster: &Cluster, pipeline: &str, worker: &str| {
        let slots = cluster.worker(worker).slots.into_iter();
        slots.filter(|slot| slot.pipeline.as_str() == pipeline).count()
    };
    for worker in ["a", "b"] {
        assert_eq!((of(&cluster, "clicks-1", worker), of(&cluster, "views-1", worker)), (2, 1));
    }
    // What one has to give up, the other does not feel.
    cluster.apply(pause("views-1"));
    cluster.pass(1_000);
    assert_eq!(cluster.owners(), before);
    cluster.register("c");
    cluster.pass(2_000);
    cluster.apply(resume("views-1"));
    cluster.pass(2_000);
    for worker in ["a", "b", "c"] {
        assert_eq!(cluster.worker(worker).slots.len(), 2);
    }
}

#[test]
fn resume_lets_the_halted_slots_of_a_running_pipeline_go_on() {
    let mut cluster = Cluster::started(&["a"], 2);
    let halt = millrace_types::Halt { kind: millrace_types::HaltKind::OffsetsLost, detail: "gone".into() };
    cluster.running.entry(worker_id("a")).or_default().remove(&slot(1));
    cluster.apply(Event::SlotStopped {
        session: cluster.sessions[&worker_id("a")],
        worker: worker_id("a"),
        slot: slot(1),
        epoch: Epoch(1),
        reason: millrace_types::StopReason::Halted(halt),
    });
    assert_eq!(cluster.slot(1).state, SlotState::Halted);
    let partly = cluster.pipeline("clicks-1");
    assert_eq!(partly.state, PipelineState::Running);
    assert_eq!(partly.waiting_for.as_deref(), Some("1 partition without owner: halted: gone"));
    let before = cluster.owners()[&0].clone();
    cluster.apply(resume("clicks-1"));
    cluster.pass(1_000);
    assert_eq!(cluster.owners()[&1].1, Epoch(2));
    assert_eq!(cluster.owners()[&0], before, "the others go on meanwhile");
}

#[test]
fn partitions_of_a_paused_pipeline_are_found_and_wait() {
    let mut cluster = Cluster::started(&["a"], 2);
    cluster.apply(pause("clicks-1"));
    cluster.apply(Event::PartitionsFound { pipeline: id("clicks-1"), topic: 0, count: 4 });
    cluster.pass(1_000);
    assert_eq!((cluster.view().slots.len(), cluster.owners().len()), (4, 0));
    cluster.apply(resume("clicks-1"));
    cluster.pass(1_000);
    assert_eq!(cluster.owners().len(), 4);
    cluster.apply(kill("clicks-1", 1));
    let found = Event::PartitionsFound { pipeline: id("clicks-1"), topic: 0, count: 5 };
    assert!(matches!(cluster.try_apply(found), Err(Rejection::PipelineOver { .. })));
}

/// One slot, its owner's heartbeats by hand.
struct OneSlot(Cluster);

impl OneSlot {
    fn owner_says(&mut self, cursor: i64) {
        let owner = self.0.slot(0).owner.expect("owned");
        let report = report_at(&slot(0), self.0.slot(0).epoch, SlotPhase::Running, cursor);
        let session = self.0.sessions[&owner];
        let event = heard(session, owner, vec![report]);
        self.0.try_apply(event).expect("ok");
    }

    /// The owner dies; the deaths that the next grant tells.
    fn owner_dies(&mut self) -> u32 {
        let owner = self.0.slot(0).owner.expect("owned");
        let mut told = self.0.lose_session(owner.as_str());
        told.extend(self.0.try_apply(Event::ProcessGone { worker: owner }).expect("ok").directives);
        let deaths = told.iter().find_map(|directive| match directive {
            Directive::Grant { slot, deaths, .. } => Some((slot.clone(), *deaths)),
            _ => None,
        });
        let (granted, deaths): (SlotId, u32) = deaths.expect("another one gets it");
        assert_eq!((granted, self.0.slot(0).deaths), (slot(0), deaths));
        deaths
    }
}

#[test]
fn deaths_of_owners_are_counted_until_the_cursors_move() {
    let mut one = OneSlot(Cluster::started(&["a", "b", "c", "d", "e", "f"], 1));
    one.owner_says(100);
    assert_eq!(one.owner_dies(), 1);
    assert_eq!(one.owner_dies(), 2, "it never got to say anything");
    one.owner_says(100);
    assert_eq!(one.owner_dies(), 3, "the cursors are where they were");
    one.owner_says(120);
    assert_eq!(one.0.slot(0).deaths, 0);
    assert_eq!(one.owner_dies(), 1);
    // The last owner had moved on before it died; the next one's first word tells.
    one.owner_says(130);
    assert_eq!(one.0.slot(0).deaths, 0);
}

#[test]
fn a_restored_master_has_no_deaths_to_tell() {
    let mut one = OneSlot(Cluster::started(&["a", "b", "c"], 1));
    one.owner_dies();
    one.0.restart_master();
    assert_eq!(one.0.slot(0).deaths, 0);
}
