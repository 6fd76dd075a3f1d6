//! Who should own which slot, asked in plain maps: the [`solver`](crate::solver) for whoever has no coordinator at
//! hand (tests, and checks of a coordinator by its own view).

use std::collections::BTreeMap;

use millrace_types::{PipelineId, SlotId, WorkerId};

use crate::solver::{Evening, Item, MOST_ZONES, NOBODY, Problem, Seat, solve};

/// Millionths in one core.
pub(crate) const CORE: u64 = 1_000_000;

/// What a worker offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// 0 is taken as 1.
    pub cores: u32,
    /// What its cores achieve, in percent of what is usual here.
    pub speed_percent: u32,
    /// The most slots that it takes.
    pub max_slots: u32,
    pub zone: Option<String>,
    /// It can't be told anything now: it keeps what it has, and nothing comes or goes.
    pub unreachable: bool,
    /// It takes nothing more, and what it has goes where there is room.
    pub draining: bool,
    /// It takes its share without delay.
    pub joined: bool,
}

/// A slot to be owned.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// Millionths of a core; 0 is taken as 1.
    pub load: u64,
    /// The worker that it should keep away from, as long as another one has room.
    pub avoids: Option<WorkerId>,
    /// It moved a moment ago: it does not move for the load's sake.
    pub resting: bool,
    /// So many margins more must be worth it to move it for the load's sake.
    pub reluctance: u32,
}

/// Slots to be owned and workers to own them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Demand {
    pub workers: BTreeMap<WorkerId, Offer>,
    pub slots: BTreeMap<SlotId, Wish>,
    /// Shares of the pipelines when places are scarce; 1 for those that are not in it.
    pub weights: BTreeMap<PipelineId, u32>,
    pub evening: Evening,
    /// By how much less load per core must be beside a slot after a move for the load's sake.
    pub margin_percent: u32,
}

/// Owner of each slot; a slot that no worker has room for is absent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    pub owners: BTreeMap<SlotId, WorkerId>,
}

/// The assignment that follows from the `previous` one by moving only what must move, or what is clearly better
/// elsewhere (see [`Demand::evening`]).
///
/// Deterministic, and `rebalance(d, rebalance(d, p)) == rebalance(d, p)`. Slots and workers of `previous` that
/// are not in the demand are forgotten.
pub fn rebalance(demand: &Demand, previous: &Assignment) -> Assignment {
    let workers: Vec<&WorkerId> = demand.workers.keys().collect();
    let number_of = |id: &WorkerId| {
        workers.binary_search(&id).ok().and_then(|index| u32::try_from(index).ok()).unwrap_or(NOBODY)
    };
    let mut slots: Vec<(u32, &SlotId)> =
        demand.slots.keys().map(|slot| (previous.owners.get(slot).map_or(NOBODY, number_of), slot)).collect();
    slots.sort_unstable();
    let mut pipelines = Numbering::default();
    let items = slots
        .iter()
        .map(|(owner, slot)| {
            let wish = &demand.slots[*slot];
            Item {
                pipeline: pipelines.of(&slot.pipeline),
                load: wish.load.max(1),
                owner: *owner,
                avoids: wish.avoids.as_ref().map_or(NOBODY, number_of),
                resting: wish.resting,
                reluctance: wish.reluctance,
            }
        })
        .collect();
    let zones = zones_of(demand.workers.values().map(|offer| offer.zone.as_deref()));
    let problem = Problem {
        seats: demand.workers.values().map(|offer| seat_of(offer, &zones)).collect(),
        items,
        weights: pipelines.weights(|id| demand.weights.get(id).copied().unwrap_or(1)),
        zones: zones.len().max(1) as u32,
        evening: demand.evening,
        margin_percent: demand.margin_percent,
    };
    let mut owners: BTreeMap<SlotId, WorkerId> = slots
        .iter()
        .filter_map(|(owner, slot)| Some(((*slot).clone(), (*workers.get(*owner as usize)?).clone())))
        .collect();
    for change in solve(&problem) {
        let (_, slot) = slots[change.item as usize];
        match workers.get(change.to as usize) {
            Some(worker) => owners.insert(slot.clone(), (*worker).clone()),
            None => owners.remove(slot),
        };
    }
    Assignment { owners }
}

/// Numbers of the pipelines, in the order in which they are met.
#[derive(Debug, Default)]
pub(crate) struct Numbering<'a>(BTreeMap<&'a PipelineId, u32>);

impl<'a> Numbering<'a> {
    pub(crate) fn of(&mut self, pipeline: &'a PipelineId) -> u32 {
        let next = self.0.len() as u32;
        *self.0.entry(pipeline).or_insert(next)
    }

    /// By number.
    pub(crate) fn pipelines(&self) -> Vec<&'a PipelineId> {
        let mut pipelines: Vec<_> = self.0.iter().map(|(id, number)| (*number, *id)).collect();
        pipelines.sort_unstable();
        pipelines.into_iter().map(|(_, id)| id).collect()
    }

    pub(crate) fn weights(&self, weight: impl Fn(&PipelineId) -> u32) -> Vec<u32> {
        self.pipelines().into_iter().map(|id| weight(id).max(1)).collect()
    }
}

/// The zones by number; one without a label is a zone too. Too many are none at all.
pub(crate) fn zones_of<'a>(labels: impl Iterator<Item = Option<&'a str>>) -> BTreeMap<Option<&'a str>, u32> {
    let mut zones = BTreeMap::new();
    for label in labels {
        zones.insert(label, 0);
    }
    if zones.len() > MOST_ZONES {
        return BTreeMap::new();
    }
    for (number, zone) in (0..).zip(zones.values_mut()) {
        *zone = number;
    }
    zones
}

pub(crate) fn seat_of(offer: &Offer, zones: &BTreeMap<Option<&str>, u32>) -> Seat {
    let speed = u64::from(offer.speed_percent.max(1));
    Seat {
        capacity: u64::from(offer.cores.max(1)) * CORE / 100 * speed,
        places: offer.max_slots,
        zone: zones.get(&offer.zone.as_deref()).copied().unwrap_or(0),
        unreachable: offer.unreachable,
        draining: offer.draining,
        joined: offer.joined,
    }
}
