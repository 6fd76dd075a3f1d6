//! Changes that take several steps to store, cut off after each of them.

use std::collections::BTreeMap;

use millrace_types::{Epoch, Millis, PipelineId, SlotId};

use super::support::{Cluster, definition, report, spec};
use crate::{Coordinator, Directive, Event, SLOTS_PER_RECORD, Settings};

/// More records than two steps take.
const SLOTS: u32 = 300 * SLOTS_PER_RECORD;

/// The state that a master has that begins on what is stored now.
fn restored(cluster: &Cluster) -> Coordinator {
    let records = cluster.store.values().cloned().collect();
    Coordinator::restore(Settings::default(), records, Millis(cluster.now)).expect("what is stored is whole")
}

/// Applies the event and the steps that complete it; looks at what is stored after each.
fn in_steps(cluster: &mut Cluster, event: Event, mut look: impl FnMut(&Coordinator)) -> usize {
    let mut steps = 0;
    let mut next = Some(event);
    while let Some(event) = next {
        let step = cluster.try_apply(event).expect("accepted");
        steps += 1;
        let grants = step.directives.iter().any(|directive| matches!(directive, Directive::Grant { .. }));
        assert!(cluster.coordinator.is_written() || !grants, "nothing is told before it is stored");
        look(&restored(cluster));
        let due = cluster.coordinator.next_deadline().is_some_and(|due| due.0 <= cluster.now);
        next = due.then_some(Event::DeadlineReached);
    }
    assert!(cluster.coordinator.is_written());
    steps
}

fn id() -> PipelineId {
    definition("clicks-1", 1).id
}

fn epochs(coordinator: &Coordinator) -> BTreeMap<SlotId, Epoch> {
    coordinator.view().slots.into_iter().map(|view| (view.slot, view.epoch)).collect()
}

#[test]
fn a_large_change_that_is_cut_off_leaves_a_state_to_go_on_from() {
    let mut cluster = Cluster::new(Settings::default());
    for number in 0..20 {
        let mut large = spec(&format!("w{number}"), 1);
        large.max_slots = SLOTS;
        let event = Event::WorkerRegistered { session: number, spec: large, running: vec![] };
        cluster.try_apply(event).expect("accepted");
    }
    cluster.now += 1_000;
    cluster.try_apply(Event::DeadlineReached).expect("accepted");

    // Submitted: what is stored is a beginning of its slots; the rest is found in Kafka again.
    let submitted =
        Event::PipelineSubmitted { definition: Box::new(definition("clicks-1", 1)), partitions: vec![SLOTS] };
    let mut seen = 0;
    let steps = in_steps(&mut cluster, submitted, |coordinator| {
        let stored = coordinator.view().slots.len();
        assert!(stored >= seen && stored > 0);
        seen = stored;
        let mut next = restored_again(coordinator);
        let found = Event::PartitionsFound { pipeline: id(), topic: 0, count: SLOTS };
        next.apply(Millis(2_000), found).expect("found again");
        assert_eq!(next.view().slots.len(), SLOTS as usize);
    });
    assert!(steps > 2, "{steps} steps");
    assert_eq!(seen, SLOTS as usize);

    // Killed: it is the one or the other, and forgets no epoch.
    let before = epochs(&cluster.coordinator);
    assert!(before.values().all(|epoch| *epoch == Epoch(1)));
    cluster.try_apply(Event::PipelineKilled { pipeline: id(), at_ms: 7 }).expect("killed");
    for number in 0..20 {
        let worker = spec(&format!("w{number}"), 1).id;
        let gone = Event::SessionLost { session: number, worker: worker.clone() };
        cluster.try_apply(gone).expect("accepted");
        in_steps(&mut cluster, Event::ProcessGone { worker }, |coordinator| {
            let view = coordinator.view();
            assert!(view.pipelines.len() + view.completed.len() == 1);
            assert!(view.completed.is_empty() || view.slots.is_empty());
            assert!(!view.completed.is_empty() || epochs(coordinator) == before);
        });
    }
    assert_eq!(cluster.view().completed.len(), 1);

    // Brought back: with every epoch, or not yet.
    let again = Event::PipelineResubmitted {
        definition: Box::new(definition("clicks-1", 1)),
        partitions: vec![SLOTS],
    };
    in_steps(&mut cluster, again, |coordinator| {
        let view = coordinator.view();
        assert_eq!(view.pipelines.len() + view.completed.len(), 1);
        assert!(!view.completed.is_empty() || epochs(coordinator) == before);
    });
    assert_eq!(cluster.view().pipelines.len(), 1);
}

fn restored_again(coordinator: &Coordinator) -> Coordinator {
    Coordinator::restore(Settings::default(), coordinator.records(), Millis(2_000)).expect("restorable")
}

#[test]
fn a_claim_counts_while_its_slots_opening_waits_to_be_stored() {
    let mut cluster = Cluster::started(&["a"], 2);
    assert!(cluster.view().slots.iter().all(|slot| slot.opened));
    let worker = spec("a", 1).id;
    let session = cluster.sessions[&worker];
    let pipeline = id();
    cluster.apply(Event::PartitionsFound { pipeline, topic: 0, count: 3 });
    cluster.pass(50);
    let new = cluster.slot(2);
    assert!(!new.opened);
    let running = report(&new.slot, new.epoch, millrace_types::SlotPhase::Running);
    cluster.apply(super::support::heard(session, worker.clone(), vec![running]));
    // It stops before that was stored, and is granted anew: as one that was opened.
    let (slot, epoch, reason) = (new.slot, new.epoch, millrace_types::StopReason::Fenced);
    let step = cluster.try_apply(Event::SlotStopped { session, worker, slot, epoch, reason }).expect("ok");
    assert!(
        matches!(step.directives.as_slice(), [Directive::Grant { opened: true, .. }]),
        "{:?}",
        step.directives
    );
}
