//! Who should own which slot: a pure function of what is offered, what is asked for, and who has what.
//!
//! The rule of fair shares is Adams' method of apportionment, with cores as weights: a slot moves only when its
//! owner would have more slots per core *without* it than the receiver has now. It follows that a join takes at
//! most the joiner's share, rounded up, and gives to nobody else; that a departure moves its own slots only; and
//! that every worker gets a first slot before any gets a second one. It does not weigh slots by their load.
//!
//! The shares count the slots of all pipelines. Among moves that are equally good for them, the one is taken that
//! spreads a pipeline's own slots; none is made for that alone.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

use millrace_types::{PipelineId, SlotId, WorkerId};

/// What a worker offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Offer {
    /// Weight of its share; 0 is taken as 1.
    pub cores: u32,
    /// The most slots that it takes.
    pub max_slots: u32,
    /// It can't be told anything now: it keeps what it has, and nothing comes or goes.
    pub unreachable: bool,
    /// It keeps what nobody else has room for, and gets nothing.
    pub draining: bool,
}

impl Offer {
    /// Its slots are not evened out against others'.
    fn is_apart(&self) -> bool {
        self.unreachable || self.draining
    }
}

/// Slots to be owned and workers to own them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    pub workers: BTreeMap<WorkerId, Offer>,
    /// Each slot with the worker that it should keep away from, as long as another one has room.
    pub slots: BTreeMap<SlotId, Option<WorkerId>>,
}

/// Owner of each slot; a slot that no worker has room for is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    pub owners: BTreeMap<SlotId, WorkerId>,
}

/// The assignment that follows from the `previous` one by moving only what must move.
///
/// Deterministic, and `rebalance(d, rebalance(d, p)) == rebalance(d, p)`. Slots and workers of `previous` that
/// are not in the demand are forgotten.
pub fn rebalance(demand: &Demand, previous: &Assignment) -> Assignment {
    let mut plan = Plan::keeping(demand, previous);
    plan.place_the_rest();
    while plan.leave_draining() || plan.leave_avoided() || plan.even_out() {}
    plan.into_assignment()
}

struct Holder<'a> {
    id: &'a WorkerId,
    offer: Offer,
    /// By pipeline; none is empty.
    slots: BTreeMap<&'a PipelineId, BTreeSet<&'a SlotId>>,
    /// How many `slots` are.
    count: usize,
}

impl<'a> Holder<'a> {
    fn take(&mut self, slot: &'a SlotId) {
        if self.slots.entry(&slot.pipeline).or_default().insert(slot) {
            self.count += 1;
        }
    }

    fn give(&mut self, slot: &'a SlotId) {
        let Some(siblings) = self.slots.get_mut(&slot.pipeline) else { return };
        if siblings.remove(slot) {
            self.count -= 1;
        }
        if siblings.is_empty() {
            self.slots.remove(&slot.pipeline);
        }
    }

    fn has(&self, slot: &SlotId) -> bool {
        self.slots.get(&slot.pipeline).is_some_and(|slots| slots.contains(slot))
    }

    fn count_of(&self, pipeline: &PipelineId) -> usize {
        self.slots.get(pipeline).map_or(0, BTreeSet::len)
    }

    fn has_room(&self) -> bool {
        !self.offer.is_apart() && (self.count as u64) < u64::from(self.offer.max_slots)
    }

    /// Compares `mine` slots per core of this worker with `other_slots` per core of another one.
    fn compare_share(&self, mine: usize, other: &Self, other_slots: usize) -> Ordering {
        let (cores, other_cores) = (self.offer.cores.max(1), other.offer.cores.max(1));
        (mine as u128 * u128::from(other_cores)).cmp(&(other_slots as u128 * u128::from(cores)))
    }

    /// Who takes the next slot first: the least share, then the most cores, then the id.
    fn compare_as_receiver(&self, other: &Self) -> Ordering {
        self.compare_share(self.count, other, other.count)
            .then_with(|| other.offer.cores.cmp(&self.offer.cores))
            .then_with(|| self.id.cmp(other.id))
    }

    /// The same for a slot of `pipeline`: of equal shares the one with the least share of that pipeline.
    fn compare_as_receiver_of(&self, other: &Self, pipeline: &PipelineId) -> Ordering {
        self.compare_share(self.count, other, other.count)
            .then_with(|| self.compare_share(self.count_of(pipeline), other, other.count_of(pipeline)))
            .then_with(|| self.compare_as_receiver(other))
    }

    /// The slot that goes to `to`: of the pipeline of which this worker's share exceeds the other's most, the last.
    fn slot_for(&self, to: &Self, suits: impl Fn(&SlotId) -> bool) -> Option<&'a SlotId> {
        let (cores, other_cores) = (i128::from(self.offer.cores.max(1)), i128::from(to.offer.cores.max(1)));
        let excess =
            |mine: usize, pipeline| mine as i128 * other_cores - to.count_of(pipeline) as i128 * cores;
        let mut pipelines: Vec<_> = self.slots.iter().collect();
        pipelines.sort_by_key(|(id, slots)| (Reverse(excess(slots.len(), id)), *id));
        pipelines.into_iter().find_map(|(_, slots)| slots.iter().rev().copied().find(|slot| suits(slot)))
    }

    /// Who gives a slot first: the greatest share without it, then the id.
    fn compare_as_donor(&self, other: &Self) -> Ordering {
        let (mine, others) = (self.count.saturating_sub(1), other.count.saturating_sub(1));
        other.compare_share(others, self, mine).then_with(|| self.id.cmp(other.id))
    }
}

struct Plan<'a> {
    demand: &'a Demand,
    /// In the order of their ids.
    holders: Vec<Holder<'a>>,
    /// Slots without an owner.
    free: Vec<&'a SlotId>,
    /// Slots that keep away from a worker, with that worker.
    avoiding: Vec<(&'a SlotId, &'a WorkerId)>,
}

impl<'a> Plan<'a> {
    /// Everybody keeps what the demand still asks for and what it still has room for.
    fn keeping(demand: &'a Demand, previous: &Assignment) -> Self {
        let mut holders: Vec<Holder<'a>> = demand
            .workers
            .iter()
            .map(|(id, offer)| Holder { id, offer: *offer, slots: BTreeMap::new(), count: 0 })
            .collect();
        let mut free = Vec::new();
        for slot in demand.slots.keys() {
            let holder = previous.owners.get(slot).and_then(|owner| {
                let index = holders.binary_search_by(|holder| holder.id.cmp(owner)).ok()?;
                holders.get_mut(index)
            });
            match holder {
                Some(holder) if holder.offer.is_apart() || holder.has_room() => {
                    holder.take(slot);
                }
                _ => free.push(slot),
            }
        }
        let avoiding =
            demand.slots.iter().filter_map(|(slot, avoided)| Some((slot, avoided.as_ref()?))).collect();
        Self { demand, holders, free, avoiding }
    }

    fn avoids(&self, slot: &SlotId, worker: &WorkerId) -> bool {
        self.demand.slots.get(slot).is_some_and(|avoided| avoided.as_ref() == Some(worker))
    }

    /// The worker with room that should take `slot`; one that the slot avoids only when `even_avoided`.
    fn receiver(&self, slot: &SlotId, even_avoided: bool) -> Option<usize> {
        let suits =
            |holder: &&Holder<'_>| holder.has_room() && (even_avoided || !self.avoids(slot, holder.id));
        let best =
            self.holders.iter().filter(suits).min_by(|a, b| a.compare_as_receiver_of(b, &slot.pipeline))?.id;
        self.holders.iter().position(|holder| holder.id == best)
    }

    fn place_the_rest(&mut self) {
        for slot in std::mem::take(&mut self.free) {
            if let Some(receiver) = self.receiver(slot, false).or_else(|| self.receiver(slot, true)) {
                self.holders[receiver].take(slot);
            }
        }
    }

    /// Moves one slot away from a worker that drains, while another one has room. None ever comes back to it.
    fn leave_draining(&mut self) -> bool {
        let draining = |holder: &&Holder<'_>| holder.offer.draining && !holder.offer.unreachable;
        let slots = |holder: &Holder<'a>| holder.slots.values().flatten().copied().collect::<Vec<_>>();
        let leaving = self.holders.iter().enumerate().filter(|(_, holder)| draining(holder));
        let found = leaving
            .flat_map(|(donor, holder)| slots(holder).into_iter().map(move |slot| (donor, slot)))
            .find_map(|(donor, slot)| {
                let receiver = self.receiver(slot, false).or_else(|| self.receiver(slot, true))?;
                Some((donor, slot, receiver))
            });
        self.carry_out(found)
    }

    /// Moves one slot away from the worker that it avoids. Each such move makes one fewer, whatever follows.
    fn leave_avoided(&mut self) -> bool {
        let found = self.avoiding.iter().find_map(|&(slot, avoided)| {
            let donor = self.holders.binary_search_by(|holder| holder.id.cmp(avoided)).ok()?;
            let holder = self.holders.get(donor)?;
            if holder.offer.is_apart() || !holder.has(slot) {
                return None;
            }
            Some((donor, slot, self.receiver(slot, false)?))
        });
        self.carry_out(found)
    }

    /// Moves one slot to a worker with a smaller share. The shares' unevenness falls with each such move, so
    /// this comes to an end.
    fn even_out(&mut self) -> bool {
        let mut donors: Vec<usize> =
            (0..self.holders.len()).filter(|index| !self.holders[*index].offer.is_apart()).collect();
        let mut receivers: Vec<usize> =
            donors.iter().copied().filter(|index| self.holders[*index].has_room()).collect();
        donors.sort_by(|a, b| self.holders[*a].compare_as_donor(&self.holders[*b]));
        receivers.sort_by(|a, b| self.holders[*a].compare_as_receiver(&self.holders[*b]));
        let mut found = None;
        'search: for donor in donors {
            let from = &self.holders[donor];
            for &receiver in &receivers {
                let to = &self.holders[receiver];
                let without = from.count.saturating_sub(1);
                if from.compare_share(without, to, to.count) != Ordering::Greater {
                    break;
                }
                if let Some(slot) = from.slot_for(to, |slot| !self.avoids(slot, to.id)) {
                    found = Some((donor, slot, receiver));
                    break 'search;
                }
            }
        }
        self.carry_out(found)
    }

    fn carry_out(&mut self, found: Option<(usize, &'a SlotId, usize)>) -> bool {
        let Some((donor, slot, receiver)) = found else { return false };
        self.holders[donor].give(slot);
        self.holders[receiver].take(slot);
        true
    }

    fn into_assignment(self) -> Assignment {
        let mut owners = BTreeMap::new();
        for holder in self.holders {
            for slot in holder.slots.into_values().flatten() {
                owners.insert(slot.clone(), holder.id.clone());
            }
        }
        Assignment { owners }
    }
}
