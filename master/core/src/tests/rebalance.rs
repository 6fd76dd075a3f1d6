//! Properties of `rebalance`, over random clusters and histories.

use std::collections::BTreeMap;

use millrace_types::{PipelineId, SlotId, WorkerId};
use proptest::prelude::*;

use crate::{Assignment, Demand, Evening, Offer, Wish, rebalance};

fn worker(number: usize) -> WorkerId {
    WorkerId::new(format!("worker-{number:02}")).expect("plain")
}

/// Every third one belongs to a second pipeline.
fn slot(number: usize) -> SlotId {
    slot_of(if number % 3 == 2 { "views-1" } else { "clicks-1" }, number)
}

fn slot_of(pipeline: &str, number: usize) -> SlotId {
    let pipeline = PipelineId::new(pipeline).expect("plain");
    SlotId { pipeline, topic: 0, partition: i32::try_from(number).expect("small") }
}

fn count_of(assignment: &Assignment, worker: &WorkerId, pipeline: &str) -> usize {
    let own = |(slot, owner): &(&SlotId, &WorkerId)| *owner == worker && slot.pipeline.as_str() == pipeline;
    assignment.owners.iter().filter(own).count()
}

fn offer(cores: u32, max_slots: u32) -> Offer {
    Offer {
        cores,
        speed_percent: 100,
        max_slots,
        zone: None,
        unreachable: false,
        draining: false,
        joined: false,
    }
}

fn plain() -> Wish {
    Wish { load: 10_000, ..Wish::default() }
}

fn count(assignment: &Assignment, worker: &WorkerId) -> usize {
    assignment.owners.values().filter(|owner| *owner == worker).count()
}

fn moved(before: &Assignment, after: &Assignment) -> Vec<SlotId> {
    let differs = |slot: &&SlotId| before.owners.get(*slot) != after.owners.get(*slot);
    before.owners.keys().chain(after.owners.keys()).filter(differs).cloned().collect()
}

fn cluster(cores: &[u32], slots: usize) -> Demand {
    Demand {
        workers: cores.iter().enumerate().map(|(n, cores)| (worker(n), offer(*cores, 1_000))).collect(),
        slots: (0..slots).map(|n| (slot(n), plain())).collect(),
        ..Demand::default()
    }
}

prop_compose! {
    /// Reachable workers with room for everything.
    fn ample()(cores in prop::collection::vec(1_u32..=16, 1..9), slots in 0_usize..60) -> Demand {
        cluster(&cores, slots)
    }
}

prop_compose! {
    fn any_offer()(
        (cores, speed_percent, max_slots) in (0_u32..=8, prop::sample::select(vec![25_u32, 100, 180]), 0_u32..=9),
        unreachable in prop::bool::weighted(0.2),
        draining in prop::bool::weighted(0.15),
        joined in prop::bool::weighted(0.3),
        zone in prop::option::weighted(0.5, prop::sample::select(vec!["a", "b", "c"])),
    ) -> Offer {
        Offer { cores, speed_percent, max_slots, zone: zone.map(str::to_owned), unreachable, draining, joined }
    }
}

prop_compose! {
    fn any_wish()(
        load in prop::sample::select(vec![10_000_u64, 10_000, 15_000, 400_000, 3_000_000]),
        avoids in prop::option::weighted(0.2, 0_usize..9),
        resting in prop::bool::weighted(0.2),
        reluctance in 0_u32..3,
    ) -> Wish {
        Wish { load, avoids: avoids.map(worker), resting, reluctance }
    }
}

prop_compose! {
    /// Anything: full, unreachable and avoided workers.
    fn any_demand()(
        offers in prop::collection::vec(any_offer(), 0..8),
        wishes in prop::collection::vec(any_wish(), 0..40),
        weight in 1_u32..5,
        evening in prop::sample::select(vec![Evening::None, Evening::Joiners, Evening::All]),
        margin_percent in prop::sample::select(vec![0_u32, 20]),
    ) -> Demand {
        Demand {
            workers: offers.into_iter().enumerate().map(|(n, offer)| (worker(n), offer)).collect(),
            slots: wishes.into_iter().enumerate().map(|(n, wish)| (slot(n), wish)).collect(),
            weights: BTreeMap::from([(slot(0).pipeline, weight)]),
            evening,
            margin_percent,
        }
    }
}

prop_compose! {
    /// Owners that may not exist any more, of slots that may not exist any more.
    fn any_previous()(owners in prop::collection::btree_map(0_usize..45, 0_usize..10, 0..45)) -> Assignment {
        Assignment { owners: owners.into_iter().map(|(s, w)| (slot(s), worker(w))).collect() }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_second_time_changes_nothing(demand in any_demand(), previous in any_previous()) {
        let once = rebalance(&demand, &previous);
        prop_assert_eq!(&rebalance(&demand, &once), &once);
    }

    #[test]
    fn offers_are_kept_and_no_room_is_wasted(demand in any_demand(), previous in any_previous()) {
        let after = rebalance(&demand, &previous);
        let mut room = 0;
        for (id, offer) in &demand.workers {
            let held = count(&after, id);
            let kept = previous.owners.iter().filter(|(s, w)| *w == id && demand.slots.contains_key(s)).count();
            if offer.unreachable {
                prop_assert_eq!(held, kept, "nothing comes to or goes from {}", id);
            } else if offer.draining {
                prop_assert!(held <= kept, "nothing comes to {}", id);
            } else {
                prop_assert!(held <= offer.max_slots as usize, "{} holds {}", id, held);
                room += offer.max_slots as usize - held;
            }
        }
        for (slot, owner) in &after.owners {
            prop_assert!(demand.slots.contains_key(slot) && demand.workers.contains_key(owner));
        }
        let unowned = demand.slots.len() - after.owners.len();
        prop_assert!(unowned == 0 || room == 0, "{} slots wait, though there is room for {}", unowned, room);
        for (slot, owner) in &after.owners {
            let leaving = demand.workers.get(owner).is_some_and(|offer| offer.draining && !offer.unreachable);
            prop_assert!(!leaving || room == 0, "{} stays on {}, though there is room", slot, owner);
        }
    }

    #[test]
    fn a_slot_keeps_away_from_a_worker_while_another_has_room(demand in any_demand(), previous in any_previous()) {
        let after = rebalance(&demand, &previous);
        let room = demand.workers.iter().any(|(id, offer)| {
            !offer.unreachable && !offer.draining && count(&after, id) < offer.max_slots as usize
        });
        for (slot, wish) in &demand.slots {
            let owner = after.owners.get(slot);
            let Some(offer) = owner.and_then(|owner| demand.workers.get(owner)) else { continue };
            if owner == wish.avoids.as_ref() && !offer.unreachable {
                let other = demand.workers.iter().any(|(id, offer)| {
                    Some(id) != owner
                        && !offer.unreachable
                        && !offer.draining
                        && count(&after, id) < offer.max_slots as usize
                });
                prop_assert!(!room || !other, "{} is on the worker that it avoids", slot);
            }
        }
    }

    #[test]
    fn shares_follow_cores(demand in ample(), previous in any_previous()) {
        let after = rebalance(&demand, &previous);
        prop_assert_eq!(after.owners.len(), demand.slots.len());
        let cores: u64 = demand.workers.values().map(|offer| u64::from(offer.cores)).sum();
        for (id, offer) in &demand.workers {
            let fair = (demand.slots.len() as u64 * u64::from(offer.cores)).div_ceil(cores);
            prop_assert!(count(&after, id) as u64 <= fair, "{} holds more than its share {}", id, fair);
        }
    }

    #[test]
    fn a_join_takes_at_most_its_share_and_moves_nothing_else(demand in ample(), joiner in 1_u32..=16) {
        let before = rebalance(&demand, &Assignment::default());
        let mut larger = demand.clone();
        let joined = worker(50);
        larger.workers.insert(joined.clone(), offer(joiner, 1_000));
        let after = rebalance(&larger, &before);
        let cores: u64 = larger.workers.values().map(|offer| u64::from(offer.cores)).sum();
        let fair = (demand.slots.len() as u64 * u64::from(joiner)).div_ceil(cores);
        let moves = moved(&before, &after);
        prop_assert!(moves.iter().all(|slot| after.owners.get(slot) == Some(&joined)));
        prop_assert_eq!(moves.iter().collect::<std::collections::BTreeSet<_>>().len(), count(&after, &joined));
        prop_assert!(count(&after, &joined) as u64 <= fair);
    }

    #[test]
    fn a_departure_moves_its_own_slots_only(demand in ample(), index in any::<prop::sample::Index>()) {
        let before = rebalance(&demand, &Assignment::default());
        let gone = worker(index.index(demand.workers.len()));
        let mut smaller = demand;
        smaller.workers.remove(&gone);
        let after = rebalance(&smaller, &before);
        for slot in moved(&before, &after) {
            prop_assert_eq!(before.owners.get(&slot), Some(&gone));
        }
    }

    #[test]
    fn a_worker_that_leaves_and_comes_back_moves_no_third_partys_slots_twice(
        demand in ample(), index in any::<prop::sample::Index>(),
    ) {
        let before = rebalance(&demand, &Assignment::default());
        let gone = worker(index.index(demand.workers.len()));
        let mut smaller = demand.clone();
        smaller.workers.remove(&gone);
        let without = rebalance(&smaller, &before);
        let back = rebalance(&demand, &without);
        for slot in moved(&without, &back) {
            prop_assert_eq!(back.owners.get(&slot), Some(&gone));
        }
    }
}

proptest! {
    #[test]
    fn a_new_pipeline_is_spread_and_moves_no_other(workers in 1_usize..8, first in 0_usize..40, second in 0_usize..40) {
        let cores = vec![1; workers];
        let mut demand = cluster(&cores, 0);
        demand.slots.extend((0..first).map(|number| (slot_of("clicks-1", number), plain())));
        let before = rebalance(&demand, &Assignment::default());
        demand.slots.extend((0..second).map(|number| (slot_of("views-1", number), plain())));
        let after = rebalance(&demand, &before);
        prop_assert!(moved(&before, &after).iter().all(|slot| slot.pipeline.as_str() == "views-1"));
        for pipeline in ["clicks-1", "views-1"] {
            let counts = demand.workers.keys().map(|worker| count_of(&after, worker, pipeline));
            let (least, most) = (counts.clone().min().expect("one"), counts.max().expect("one"));
            prop_assert!(most - least <= 1, "{} has {} to {} slots a worker", pipeline, least, most);
        }
    }
}

/// Loads from a cluster with hot slots; all else as `ample`.
fn with_loads(mut demand: Demand, loads: &[u64]) -> Demand {
    for (wish, load) in demand.slots.values_mut().zip(loads.iter().cycle()) {
        wish.load = *load;
    }
    demand
}

fn load_of(demand: &Demand, assignment: &Assignment, worker: &WorkerId) -> u64 {
    let own = assignment.owners.iter().filter(|(_, owner)| *owner == worker);
    own.map(|(slot, _)| demand.slots[slot].load).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 1_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_join_takes_at_most_its_share_of_the_load(
        demand in ample(), joiner in 1_u32..=16, loads in prop::collection::vec(10_000_u64..3_000_000, 1..40),
    ) {
        let demand = with_loads(demand, &loads);
        let before = rebalance(&demand, &Assignment::default());
        let before = rebalance(&demand, &before);
        let mut larger = demand.clone();
        larger.evening = Evening::Joiners;
        let joined = worker(50);
        larger.workers.insert(joined.clone(), Offer { joined: true, ..offer(joiner, 1_000) });
        let after = rebalance(&larger, &before);
        let moves = moved(&before, &after);
        prop_assert!(moves.iter().all(|slot| after.owners.get(slot) == Some(&joined)), "nothing else moves");
        let cores: u64 = larger.workers.values().map(|offer| u64::from(offer.cores)).sum();
        let all: u64 = demand.slots.values().map(|wish| wish.load).sum();
        let fair = all as f64 * f64::from(joiner) / cores as f64;
        let heaviest = moves.iter().map(|slot| demand.slots[slot].load).max().unwrap_or(0);
        let taken = load_of(&larger, &after, &joined);
        prop_assert!((taken as f64) < fair + heaviest as f64 + 1.0, "{} of a share of {}", taken, fair);
    }

    #[test]
    fn a_loss_moves_the_lost_slots_only_whatever_their_load(
        demand in ample(), index in any::<prop::sample::Index>(),
        loads in prop::collection::vec(10_000_u64..3_000_000, 1..40),
    ) {
        let mut demand = with_loads(demand, &loads);
        let before = rebalance(&demand, &Assignment::default());
        let gone = worker(index.index(demand.workers.len()));
        demand.workers.remove(&gone);
        demand.evening = Evening::None;
        let after = rebalance(&demand, &before);
        for slot in moved(&before, &after) {
            prop_assert_eq!(before.owners.get(&slot), Some(&gone));
        }
    }

    #[test]
    fn in_the_end_nothing_is_clearly_better_elsewhere(
        demand in ample(), previous in any_previous(), loads in prop::collection::vec(10_000_u64..3_000_000, 1..40),
    ) {
        let mut demand = with_loads(demand, &loads);
        demand.margin_percent = 20;
        let after = rebalance(&demand, &previous);
        for (slot, owner) in &after.owners {
            let beside = (load_of(&demand, &after, owner) - demand.slots[slot].load) as f64;
            let here = beside / f64::from(demand.workers[owner].cores);
            for (other, offer) in &demand.workers {
                let there = load_of(&demand, &after, other) as f64 / f64::from(offer.cores);
                prop_assert!(other == owner || here <= there * 1.2 + 1.0, "{}: {} here, {} there", slot, here, there);
            }
        }
    }

    #[test]
    fn scarce_places_are_shared_by_weight(
        first in 0_usize..40, second in 0_usize..40, places in 1_u32..20, weight in 1_u32..5,
    ) {
        let mut demand = Demand::default();
        demand.workers.insert(worker(0), offer(1, places));
        demand.workers.insert(worker(1), offer(4, places));
        demand.slots.extend((0..first).map(|number| (slot_of("clicks-1", number), plain())));
        demand.slots.extend((0..second).map(|number| (slot_of("views-1", number), plain())));
        demand.weights.insert(slot_of("views-1", 0).pipeline, weight);
        let after = rebalance(&demand, &Assignment::default());
        let of = |pipeline| demand.workers.keys().map(|id| count_of(&after, id, pipeline)).sum::<usize>();
        let (clicks, views, all) = (of("clicks-1"), of("views-1"), places as usize * 2);
        prop_assert_eq!(clicks + views, all.min(first + second));
        let weight = weight as usize;
        // Who has less than it wants has at least its share, but for one place.
        prop_assert!(clicks == first || (clicks + 1) * (weight + 1) >= all, "{} and {} of {}", clicks, views, all);
        prop_assert!(views == second || (views + 1) * (weight + 1) >= all * weight, "{} and {} of {}", clicks, views, all);
    }
}

#[test]
fn who_joins_gets_slots_of_each_pipeline() {
    let mut demand = cluster(&[1], 0);
    for pipeline in ["clicks-1", "views-1"] {
        demand.slots.extend((0..6).map(|number| (slot_of(pipeline, number), plain())));
    }
    let before = rebalance(&demand, &Assignment::default());
    demand.workers.insert(worker(1), offer(1, 1_000));
    let after = rebalance(&demand, &before);
    for pipeline in ["clicks-1", "views-1"] {
        assert_eq!(count_of(&after, &worker(1), pipeline), 3, "{after:?}");
    }
}

#[test]
fn two_cores_get_twice_the_share_of_one() {
    let after = rebalance(&cluster(&[1, 2], 6), &Assignment::default());
    assert_eq!((count(&after, &worker(0)), count(&after, &worker(1))), (2, 4));
}

#[test]
fn the_seventh_worker_for_six_slots_stays_idle() {
    let six = cluster(&[1; 6], 6);
    let before = rebalance(&six, &Assignment::default());
    let after = rebalance(&cluster(&[1; 7], 6), &before);
    assert_eq!(after, before);
    let per_worker: BTreeMap<_, _> = six.workers.keys().map(|id| (id.clone(), count(&after, id))).collect();
    assert!(per_worker.values().all(|held| *held == 1), "{per_worker:?}");
}
