//! Stories of load: hot slots, slow workers, zones, scarce places, rest and margin; and what a plan tells.

use std::collections::BTreeMap;

use millrace_types::{Epoch, NextOffset, SlotId, SlotMetrics, SlotPhase, SlotReport, WorkerId};

use super::support::{Cluster, definition, heard, spec, worker_id};
use crate::{Directive, Event, MoveReason, Settings};

/// What a slot's report says: bytes a second, cores, seconds of lag.
type Figures = (f64, f64, f64);

/// Heartbeats of all workers for a while, in which each slot has the figures that `of` says for it and its owner.
fn live(cluster: &mut Cluster, span: u64, of: impl Fn(&SlotId, &WorkerId) -> Figures) -> Vec<Directive> {
    let end = cluster.now + span;
    let mut told = Vec::new();
    while cluster.now < end {
        cluster.now += cluster.settings.heartbeat.0;
        while cluster.coordinator.next_deadline().is_some_and(|due| due.0 <= cluster.now) {
            told.extend(cluster.apply(Event::DeadlineReached));
        }
        for (worker, session) in cluster.sessions.clone() {
            let runs = cluster.running.entry(worker.clone()).or_default().clone();
            let report = |(slot, (epoch, _)): (SlotId, (Epoch, SlotPhase))| {
                let (bytes_per_second, cpu, lag_seconds) = of(&slot, &worker);
                let metrics = SlotMetrics {
                    bytes_per_second,
                    cpu,
                    records_per_second: bytes_per_second / 100.0,
                    lag: Some((lag_seconds * bytes_per_second / 100.0) as u64),
                    ..SlotMetrics::default()
                };
                SlotReport { slot, epoch, phase: SlotPhase::Running, metrics }
            };
            let reports = runs.into_iter().map(report).collect();
            told.extend(cluster.apply(heard(session, worker, reports)));
        }
    }
    told
}

fn slots_of(cluster: &Cluster, worker: &str) -> Vec<SlotId> {
    cluster.worker(worker).slots
}

fn moves(cluster: &Cluster) -> usize {
    cluster.view().moves.iter().filter(|moved| moved.from.is_some()).count()
}

fn moves_for_load(cluster: &Cluster) -> usize {
    let of_load = |moved: &&crate::Move| matches!(moved.reason, MoveReason::Uneven { .. });
    cluster.view().moves.iter().filter(of_load).count()
}

#[test]
fn beside_a_hot_slot_there_is_less() {
    let mut cluster = Cluster::started(&["a", "b", "c"], 12);
    let hot = |slot: &SlotId, _: &WorkerId| {
        let part = if slot.partition == 0 { 20.0 } else { 1.0 };
        (1e6 * part, 0.05 * part, 0.0)
    };
    live(&mut cluster, 300_000, hot);
    let owner = cluster.slot(0).owner.expect("owned").to_string();
    assert_eq!(slots_of(&cluster, &owner).len(), 1, "the hot slot is alone");
    let view = cluster.view();
    let MoveReason::Uneven { beside } = &view.moves.last().expect("a move").reason else {
        panic!("{view:?}")
    };
    assert!(beside.here_percent > beside.there_percent, "{beside}");
    let before = moves(&cluster);
    live(&mut cluster, 600_000, hot);
    assert_eq!(moves(&cluster), before, "and so it stays");
}

#[test]
fn another_master_moves_nothing_before_it_knows_the_load() {
    let mut cluster = Cluster::started(&["a", "b", "c"], 12);
    let hot = |slot: &SlotId, _: &WorkerId| {
        let part = if slot.partition == 0 { 20.0 } else { 1.0 };
        (1e6 * part, 0.05 * part, 0.0)
    };
    live(&mut cluster, 300_000, hot);
    let owners = cluster.owners();
    cluster.restart_master();
    for worker in ["a", "b", "c"] {
        cluster.now += 500;
        cluster.register(worker);
    }
    live(&mut cluster, 300_000, hot);
    assert_eq!(cluster.owners(), owners);
}

#[test]
fn a_slow_worker_gets_fewer_slots() {
    let mut cluster = Cluster::started(&["fast", "other", "slow"], 24);
    let figures = |_: &SlotId, worker: &WorkerId| {
        if worker.as_str() == "slow" { (1e6, 0.12, 30.0) } else { (1e6, 0.03, 0.0) }
    };
    live(&mut cluster, 400_000, figures);
    let (fast, slow) = (slots_of(&cluster, "fast").len(), slots_of(&cluster, "slow").len());
    assert!((1..=4).contains(&slow) && fast >= 9, "slow has {slow}, fast has {fast}");
    assert!(cluster.worker("slow").speed_percent < cluster.worker("fast").speed_percent);
    let before = moves(&cluster);
    live(&mut cluster, 600_000, figures);
    assert_eq!(moves(&cluster), before, "it is not given back what it can't do");
}

/// With one small slot too little is known of the slow worker to judge it anew, with two it is enough.
#[test]
fn what_is_known_of_a_worker_is_not_forgotten_when_its_slots_leave() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.submit(3);
    cluster.register_spec(spec("a", 3));
    cluster.register_spec(spec("slow", 1));
    let figures = |slot: &SlotId, worker: &WorkerId| {
        let part = if slot.partition == 0 { 6.0 } else { 1.0 };
        (1e6 * part, 0.018 * part / if worker.as_str() == "slow" { 0.4 } else { 1.0 }, 0.0)
    };
    live(&mut cluster, 600_000, figures);
    let before = moves(&cluster);
    live(&mut cluster, 900_000, figures);
    assert_eq!(moves(&cluster), before, "{:?}", cluster.view().moves.last());
}

/// Three workers of one core for four slots of 0.6: one has to have two, reads less than comes in for both, and catches
/// up when one of them moves on.
#[test]
fn slots_that_too_few_cores_read_count_for_what_comes_in() {
    let mut cluster = Cluster::started(&["a", "b", "c"], 4);
    const NEED: f64 = 0.6;
    let mut pass = |span: u64| {
        let end = cluster.now + span;
        while cluster.now < end {
            cluster.now += cluster.settings.heartbeat.0;
            while cluster.coordinator.next_deadline().is_some_and(|due| due.0 <= cluster.now) {
                cluster.apply(Event::DeadlineReached);
            }
            let seconds = cluster.settings.heartbeat.0 as f64 / 1_000.0;
            for (worker, session) in cluster.sessions.clone() {
                let runs = cluster.running.entry(worker.clone()).or_default().clone();
                // Ten thousand records, of a hundred bytes, take a core a second.
                let wanted: Vec<f64> = runs
                    .keys()
                    .map(|slot| {
                        let stand = cluster.stands.entry(slot.clone()).or_default();
                        stand.1 += NEED * seconds * 1e4;
                        stand.1 - stand.0
                    })
                    .collect();
                let part = (seconds * 1e4 / wanted.iter().sum::<f64>()).min(1.0);
                let mut reports = Vec::new();
                for ((slot, (epoch, _)), wanted) in runs.into_iter().zip(wanted) {
                    let stand = cluster.stands.entry(slot.clone()).or_default();
                    stand.0 += wanted * part;
                    let rate = wanted * part / seconds;
                    let metrics = SlotMetrics {
                        bytes_per_second: rate * 100.0,
                        records_per_second: rate,
                        cpu: rate / 1e4,
                        position: Some(NextOffset(stand.0 as i64)),
                        end: Some(NextOffset(stand.1 as i64)),
                        ..SlotMetrics::default()
                    };
                    reports.push(SlotReport { slot, epoch, phase: SlotPhase::Running, metrics });
                }
                cluster.apply(heard(session, worker, reports));
            }
        }
        moves(&cluster)
    };
    let before = pass(600_000);
    assert_eq!(pass(1_800_000), before, "no arrangement is better than another");
}

#[test]
fn workers_that_are_alike_are_so_at_any_cost_of_a_byte() {
    let mut cluster = Cluster::started(&["a", "b"], 8);
    live(&mut cluster, 300_000, |_, _| (1e9, 0.5, 0.0));
    for worker in ["a", "b"] {
        assert_eq!(cluster.worker(worker).speed_percent, 100);
    }
}

/// Every move makes the slots less willing: their rests grow, and so does what the next one must be worth.
#[test]
fn slots_that_are_hot_in_turn_move_less_and_less() {
    let mut cluster = Cluster::new(Settings::default());
    cluster.submit(6);
    cluster.register("a");
    cluster.register("b");
    cluster.pass(1_000);
    let mut of_hours = Vec::new();
    for _ in 0..4 {
        let before = moves_for_load(&cluster);
        for turn in 0..15 {
            // Whatever one worker has is hot, then whatever the other one has.
            live(&mut cluster, 240_000, |_, worker| {
                let hot = (worker.as_str() == "a") == (turn % 2 == 0);
                let part = if hot { 2.0 } else { 1.0 };
                (1e6 * part, 0.05 * part, 0.0)
            });
        }
        of_hours.push(moves_for_load(&cluster) - before);
    }
    assert!(
        of_hours.iter().skip(1).all(|moves| *moves <= 12),
        "at most two of each slot an hour: {of_hours:?}"
    );
}

#[test]
fn load_that_wavers_moves_nothing() {
    let mut cluster = Cluster::started(&["a", "b", "c", "d"], 20);
    let before = cluster.owners();
    for minute in 0..30_u32 {
        live(&mut cluster, 60_000, |slot, _| {
            let noise = (slot.partition.unsigned_abs() * 7_919 + minute * 104_729) % 31;
            let part = 0.9 + f64::from(noise) / 150.0;
            (1e6 * part, 0.05 * part, 0.0)
        });
    }
    assert_eq!(cluster.owners(), before);
}

#[test]
fn a_slot_that_moved_rests_unless_a_person_wants_it_otherwise() {
    let settings = Settings { moves_at_a_time: 1, ..Settings::default() };
    let mut cluster = Cluster::new(settings.clone());
    cluster.submit(8);
    cluster.register("a");
    cluster.register("b");
    cluster.pass(1_000);
    // Two slots of the one worker are hot, then two of the other's.
    let turn = |first: bool| {
        move |slot: &SlotId, _: &WorkerId| {
            let hot = slot.partition < 4 && (slot.partition % 2 == 0) == first;
            let part = if hot { 10.0 } else { 1.0 };
            (1e6 * part, 0.05 * part, 0.0)
        }
    };
    let mut last: BTreeMap<SlotId, u64> = BTreeMap::new();
    for round in 0..8 {
        for _ in 0..60 {
            let before = cluster.view().moves.len();
            live(&mut cluster, 1_000, turn(round % 2 == 0));
            for moved in cluster.view().moves.iter().skip(before).filter(|moved| moved.from.is_some()) {
                let begun = moved.begun_at.0;
                if let Some(earlier) = last.insert(moved.slot.clone(), moved.granted_at.0) {
                    assert!(
                        begun - earlier >= settings.rest.0,
                        "{} moved at {earlier} and {begun}",
                        moved.slot
                    );
                }
            }
        }
    }
    assert!(!last.is_empty(), "something moved");
}

#[test]
fn a_plan_says_what_a_person_can_have_now_and_changes_nothing() {
    let mut cluster = Cluster::started(&["a", "b", "c"], 9);
    let hot = |slot: &SlotId, _: &WorkerId| {
        let part = if slot.partition < 3 { 20.0 } else { 1.0 };
        (1e6 * part, 0.04 * part, 0.0)
    };
    live(&mut cluster, 300_000, hot);
    assert_eq!(cluster.coordinator.plan().moves, vec![], "all is even");
    // Two of the hot ones become cold: one worker's slots are now most of the load.
    let other = |slot: &SlotId, _: &WorkerId| {
        let part = if slot.partition > 5 { 20.0 } else { 1.0 };
        (1e6 * part, 0.04 * part, 0.0)
    };
    live(&mut cluster, 55_000, other);
    let owners = cluster.owners();
    let plan = cluster.coordinator.plan();
    assert_eq!(cluster.coordinator.plan(), plan);
    assert_eq!(plan.workers.iter().map(|worker| worker.slots_before).sum::<usize>(), 9);
    assert_eq!(plan.workers.iter().map(|worker| worker.slots_after).sum::<usize>(), 9);
    let worst = |load: fn(&crate::WorkerLoad) -> u64| plan.workers.iter().map(load).max().expect("workers");
    assert!(worst(|worker| worker.millicores_after) <= worst(|worker| worker.millicores_before));
    assert_eq!(cluster.owners(), owners);
    cluster.apply(Event::Rebalance);
    cluster.pass(2_000);
    let moved: Vec<i32> = cluster
        .owners()
        .into_iter()
        .filter(|(partition, owned)| owners[partition].0 != owned.0)
        .map(|(partition, _)| partition)
        .collect();
    let planned: Vec<i32> = plan.moves.iter().map(|planned| planned.slot.partition).collect();
    assert_eq!(moved, planned);
    assert!(plan.moves.iter().all(|planned| !planned.reason.to_string().is_empty()));
}

#[test]
fn a_pipeline_is_spread_over_the_zones() {
    let mut cluster = Cluster::new(Settings::default());
    for number in 0..8 {
        let mut worker = spec(&format!("w{number}"), 1);
        // Six in one zone, two in the other.
        worker.zone = Some(if number < 6 { "east" } else { "west" }.to_owned());
        worker.cores = if number < 6 { 1 } else { 3 };
        cluster.register_spec(worker);
    }
    for pipeline in ["clicks-1", "views-1", "orders-1"] {
        let definition = Box::new(definition(pipeline, 1));
        cluster.apply(Event::PipelineSubmitted { definition, partitions: vec![4] });
        cluster.pass(1_000);
    }
    let west = |slot: &&crate::SlotView| {
        slot.owner.as_ref().is_some_and(|owner| matches!(owner.as_str(), "w6" | "w7"))
    };
    let view = cluster.view();
    for pipeline in ["clicks-1", "views-1", "orders-1"] {
        let own = view.slots.iter().filter(|slot| slot.slot.pipeline.as_str() == pipeline);
        assert_eq!(own.filter(west).count(), 2, "{pipeline} has half of its slots in each zone");
    }
}

fn places(cluster: &Cluster, pipeline: &str) -> usize {
    let view = cluster.view();
    view.slots.iter().filter(|slot| slot.slot.pipeline.as_str() == pipeline && slot.owner.is_some()).count()
}

#[test]
fn scarce_places_follow_the_weights_and_a_killed_pipelines_are_free_at_once() {
    let mut cluster = Cluster::new(Settings::default());
    for name in ["a", "b"] {
        let mut small = spec(name, 4);
        small.max_slots = 6;
        cluster.register_spec(small);
    }
    cluster.submit(12);
    cluster.pass(1_000);
    assert_eq!(places(&cluster, "clicks-1"), 12);
    let mut heavy = definition("views-1", 1);
    heavy.weight = 3;
    cluster.apply(Event::PipelineSubmitted { definition: Box::new(heavy), partitions: vec![20] });
    cluster.pass(1_000);
    assert_eq!(places(&cluster, "views-1"), 0, "nothing is taken in a hurry");
    let waits = cluster.pipeline("views-1").waiting_for.expect("it waits");
    assert!(waits.contains("at most 12 slots, shared by 2 pipelines; this one, of weight 3"), "{waits}");
    assert!(waits.contains("it takes 20 places more for all"), "{waits}");

    cluster.pass(200_000);
    let (clicks, views) = (places(&cluster, "clicks-1"), places(&cluster, "views-1"));
    assert_eq!(clicks + views, 12, "no place is left empty");
    assert!((3..=4).contains(&clicks), "clicks has {clicks} places, views {views}");
    let given = cluster.view().moves.into_iter().filter(|moved| moved.slot.pipeline.as_str() == "views-1");
    assert_eq!(given.count(), views, "each got its place once");
    let owners = cluster.owners();
    cluster.pass(300_000);
    assert_eq!(cluster.owners(), owners, "and there it stays");

    let pipeline = definition("views-1", 1).id;
    cluster.apply(Event::PipelineKilled { pipeline, at_ms: 1 });
    cluster.pass(2_000);
    assert_eq!(places(&cluster, "clicks-1"), 12);
}

#[test]
fn a_rolling_restart_moves_each_slot_about_twice() {
    let names: Vec<String> = (0..6).map(|number| format!("w{number}")).collect();
    let starting: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut cluster = Cluster::started(&starting, 48);
    let before = cluster.view().moves.len();
    for name in &names {
        cluster.leaving.insert(worker_id(name));
        cluster.pass(15_000);
        assert_eq!(slots_of(&cluster, name).len(), 0, "{name} gave all up before it left");
        cluster.lose_session(name);
        cluster.leaving.remove(&worker_id(name));
        cluster.running.remove(&worker_id(name));
        cluster.pass(1_000);
        let mut next = spec(name, 1);
        next.pid = 200;
        cluster.register_spec(next);
        cluster.pass(15_000);
    }
    let counts = names.iter().map(|name| slots_of(&cluster, name).len());
    assert!(counts.clone().max() <= counts.min().map(|least| least + 2), "the shares are even in the end");
    let moved = cluster.view().moves.len() - before;
    assert!(moved <= 2 * 48 + 6, "{moved} moves of 48 slots: out, and a fair share back");
}
