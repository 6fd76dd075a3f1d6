//! Who should own which slot: a pure function of what is offered, what is asked for, and who has what.
//!
//! Load is slots per core. Three rules make the moves few. A free slot goes where the load stays lowest. A slot
//! moves only from the most loaded worker to the least loaded. And only if the receiver ends below where the giver
//! began. So among workers that were balanced, a departure moves only the departed one's slots, and a join moves
//! slots only to the one that joined: at most its fair share, and one slot more where workers of different size
//! can't be evened out in whole slots.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use millrace_types::{SlotId, WorkerId};

/// What a worker offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Weight of its share; 0 is taken as 1.
    pub cores: u32,
    /// The most slots that it takes.
    pub max_slots: u32,
    /// It can't be told anything now: it keeps what it has, and nothing comes or goes.
    pub unreachable: bool,
}

/// Slots to be owned and workers to own them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    pub workers: BTreeMap<WorkerId, Offer>,
    /// Each slot with the worker that it should keep away from, as long as another one has room.
    pub slots: BTreeMap<SlotId, Option<WorkerId>>,
    /// Slots that stay with their owner for now.
    pub pinned: BTreeSet<SlotId>,
}

/// Owner of each slot; a slot that no worker has room for is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    pub owners: BTreeMap<SlotId, WorkerId>,
}

/// The assignment that follows from the `previous` one by moving only what must move. Deterministic, and
/// idempotent: its own result comes back unchanged.
pub fn rebalance(demand: &Demand, previous: &Assignment) -> Assignment {
    let mut solver = Solver::new(demand, previous);
    solver.place_free();
    solver.even_out();
    let owners = solver
        .owned
        .into_iter()
        .flat_map(|(worker, slots)| slots.into_iter().map(|slot| (slot, worker.clone())))
        .collect();
    Assignment { owners }
}

/// A worker's load, ordered by slots per core and then by id.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Load {
    slots: u64,
    cores: u64,
    worker: WorkerId,
}

impl Load {
    fn compare_ratio(&self, other: &Self) -> Ordering {
        (self.slots * other.cores).cmp(&(other.slots * self.cores))
    }
}

impl Ord for Load {
    fn cmp(&self, other: &Self) -> Ordering {
        self.compare_ratio(other).then_with(|| self.worker.cmp(&other.worker))
    }
}

impl PartialOrd for Load {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

struct Solver<'a> {
    demand: &'a Demand,
    owned: BTreeMap<&'a WorkerId, BTreeSet<SlotId>>,
    /// Loads of those that may give.
    now: BTreeSet<Load>,
    /// Loads of those that may receive, as they would be with one slot more.
    with_one_more: BTreeSet<Load>,
}

impl<'a> Solver<'a> {
    /// Keeps what the workers own, up to what they can take.
    fn new(demand: &'a Demand, previous: &Assignment) -> Self {
        let mut owned: BTreeMap<&WorkerId, BTreeSet<SlotId>> =
            demand.workers.keys().map(|worker| (worker, BTreeSet::new())).collect();
        for (slot, worker) in &previous.owners {
            let Some(offer) = demand.workers.get(worker).filter(|_| demand.slots.contains_key(slot)) else {
                continue;
            };
            if let Some(slots) = owned.get_mut(worker)
                && (offer.unreachable || slots.len() < offer.max_slots as usize)
            {
                slots.insert(slot.clone());
            }
        }
        let mut solver = Self { demand, owned, now: BTreeSet::new(), with_one_more: BTreeSet::new() };
        for worker in demand.workers.keys() {
            solver.enter(worker);
        }
        solver
    }

    fn load(&self, worker: &WorkerId, more: u64) -> Load {
        Load {
            slots: self.owned[worker].len() as u64 + more,
            cores: u64::from(self.demand.workers[worker].cores.max(1)),
            worker: worker.clone(),
        }
    }

    fn enter(&mut self, worker: &WorkerId) {
        let offer = self.demand.workers[worker];
        if offer.unreachable {
            return;
        }
        self.now.insert(self.load(worker, 0));
        if self.owned[worker].len() < offer.max_slots as usize {
            self.with_one_more.insert(self.load(worker, 1));
        }
    }

    fn change(&mut self, worker: &WorkerId, change: impl FnOnce(&mut BTreeSet<SlotId>)) {
        self.now.remove(&self.load(worker, 0));
        self.with_one_more.remove(&self.load(worker, 1));
        if let Some(slots) = self.owned.get_mut(worker) {
            change(slots);
        }
        self.enter(worker);
    }

    /// Gives each slot without an owner to the worker whose load stays lowest.
    fn place_free(&mut self) {
        let placed: BTreeSet<SlotId> = self.owned.values().flatten().cloned().collect();
        for (slot, avoid) in &self.demand.slots {
            if placed.contains(slot) {
                continue;
            }
            let best = self.with_one_more.iter().find(|load| Some(&load.worker) != avoid.as_ref());
            if let Some(worker) = best.or_else(|| self.with_one_more.first()).map(|load| load.worker.clone())
            {
                self.change(&worker, |slots| {
                    slots.insert(slot.clone());
                });
            }
        }
    }

    /// Moves slots from the most to the least loaded while that evens them out.
    fn even_out(&mut self) {
        // Those whose slots are all pinned have nothing to give.
        let mut exhausted = BTreeSet::new();
        loop {
            let giver = self.now.iter().rev().find(|load| !exhausted.contains(&load.worker)).cloned();
            let (Some(giver), Some(receiver)) = (giver, self.with_one_more.first().cloned()) else { return };
            if giver.worker == receiver.worker || giver.compare_ratio(&receiver) != Ordering::Greater {
                return;
            }
            let movable = self.owned[&giver.worker].iter().rev().find(|slot| {
                let avoids = self.demand.slots[*slot].as_ref() == Some(&receiver.worker);
                !avoids && !self.demand.pinned.contains(*slot)
            });
            let Some(slot) = movable.cloned() else {
                exhausted.insert(giver.worker);
                continue;
            };
            self.change(&giver.worker, |slots| {
                slots.remove(&slot);
            });
            self.change(&receiver.worker, |slots| {
                slots.insert(slot);
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn worker(number: u32) -> WorkerId {
        WorkerId::new(format!("worker-{number:03}")).expect("id")
    }

    fn offer(cores: u32) -> Offer {
        Offer { cores, max_slots: 1000, unreachable: false }
    }

    fn demand(cores: &[u32], count: i32) -> Demand {
        Demand {
            workers: cores.iter().zip(0..).map(|(cores, number)| (worker(number), offer(*cores))).collect(),
            slots: (0..count)
                .map(|partition| (format!("p-1/0-{partition}").parse().expect("slot"), None))
                .collect(),
            pinned: BTreeSet::new(),
        }
    }

    fn first(demand: &Demand) -> Assignment {
        rebalance(demand, &Assignment::default())
    }

    fn counts(assignment: &Assignment) -> BTreeMap<WorkerId, usize> {
        let mut counts = BTreeMap::new();
        for owner in assignment.owners.values() {
            *counts.entry(owner.clone()).or_default() += 1;
        }
        counts
    }

    /// Who gave which slot to whom.
    fn moves(before: &Assignment, after: &Assignment) -> Vec<(WorkerId, WorkerId)> {
        before
            .owners
            .iter()
            .filter(|(slot, owner)| after.owners[*slot] != **owner)
            .map(|(slot, owner)| (owner.clone(), after.owners[slot].clone()))
            .collect()
    }

    #[test]
    fn six_slots_on_three_equal_workers_are_two_each_and_a_seventh_worker_gets_none() {
        let three = first(&demand(&[1, 1, 1], 6));
        assert!(counts(&three).values().all(|count| *count == 2));
        let seven = rebalance(&demand(&[1; 7], 6), &three);
        assert_eq!(counts(&seven).len(), 6);
    }

    #[test]
    fn twice_the_cores_get_twice_the_slots() {
        assert_eq!(counts(&first(&demand(&[2, 1], 6)))[&worker(0)], 4);
    }

    #[test]
    fn what_no_worker_has_room_for_is_left_out() {
        let mut little = demand(&[4], 6);
        little.workers.insert(worker(0), Offer { max_slots: 4, ..offer(4) });
        assert_eq!(first(&little).owners.len(), 4);
        assert!(first(&demand(&[], 6)).owners.is_empty());
    }

    #[test]
    fn a_slot_that_failed_somewhere_goes_elsewhere_if_it_can() {
        let mut two = demand(&[1, 1], 1);
        let slot = two.slots.keys().next().cloned().expect("slot");
        two.slots.insert(slot.clone(), Some(worker(0)));
        assert_eq!(first(&two).owners[&slot], worker(1));
        two.workers.remove(&worker(1));
        assert_eq!(first(&two).owners[&slot], worker(0));
    }

    #[test]
    fn an_unreachable_worker_keeps_what_it_has_and_gets_nothing() {
        let mut two = demand(&[1, 1], 6);
        let before = first(&two);
        two.workers.insert(worker(0), Offer { unreachable: true, ..offer(1) });
        two.slots.insert("p-1/0-6".parse().expect("slot"), None);
        let after = rebalance(&two, &before);
        assert!(moves(&before, &after).is_empty());
        assert_eq!(after.owners[&"p-1/0-6".parse().expect("slot")], worker(1));
    }

    proptest! {
        #[test]
        fn it_is_balanced_idempotent_and_complete(cores in prop::collection::vec(1u32..9, 1..20), count in 0..200i32) {
            let demand = demand(&cores, count);
            let first = first(&demand);
            prop_assert_eq!(first.owners.len(), demand.slots.len());
            prop_assert_eq!(&rebalance(&demand, &first), &first);
            let counts = counts(&first);
            let count = |worker| counts.get(worker).copied().unwrap_or(0);
            for (a, a_offer) in &demand.workers {
                for (b, b_offer) in &demand.workers {
                    // Nobody could hand a slot on and leave both better off.
                    prop_assert!(count(a) * b_offer.cores as usize <= (count(b) + 1) * a_offer.cores as usize);
                }
            }
        }

        #[test]
        fn a_departure_moves_only_the_departed_ones_slots(cores in prop::collection::vec(1u32..9, 2..20), count in 0..200i32, gone in 0..20u32) {
            let mut demand = demand(&cores, count);
            let before = first(&demand);
            let gone = worker(gone % cores.len() as u32);
            demand.workers.remove(&gone);
            for (from, _) in moves(&before, &rebalance(&demand, &before)) {
                prop_assert_eq!(&from, &gone);
            }
        }

        #[test]
        fn a_join_moves_slots_only_to_the_one_that_joined_and_at_most_its_share(cores in prop::collection::vec(1u32..9, 1..20), count in 0..200i32, joining in 1u32..9) {
            let mut demand = demand(&cores, count);
            let before = first(&demand);
            let new = worker(999);
            demand.workers.insert(new.clone(), offer(joining));
            let moves = moves(&before, &rebalance(&demand, &before));
            for (_, to) in &moves {
                prop_assert_eq!(to, &new);
            }
            let all: u32 = cores.iter().sum::<u32>() + joining;
            let share = (count as u64 * u64::from(joining)).div_ceil(u64::from(all));
            prop_assert!(moves.len() as u64 <= share + 1, "{} moves, share {}", moves.len(), share);
            if cores.iter().all(|cores| *cores == joining) {
                prop_assert!(moves.len() as u64 <= share, "{} moves, share {}", moves.len(), share);
            }
        }

        #[test]
        fn a_pinned_slot_stays_with_its_owner(cores in prop::collection::vec(1u32..9, 2..10), count in 1..50i32, pinned in 0..50usize) {
            let mut demand = demand(&cores, count);
            let owners = demand.slots.keys().map(|slot| (slot.clone(), worker(0))).collect();
            demand.pinned = demand.slots.keys().take(pinned).cloned().collect();
            let after = rebalance(&demand, &Assignment { owners });
            for slot in &demand.pinned {
                prop_assert_eq!(&after.owners[slot], &worker(0));
            }
        }
    }
}
