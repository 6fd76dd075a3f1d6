//! Who has what while the solver works, and the orders in which workers give and take.

use std::cmp::Reverse;
use std::collections::BTreeSet;

use super::{Cause, Change, Item, NOBODY, Problem, Seat, share};

/// Of equal workers, so many are looked at for the one that has the least of a slot's pipeline.
const ALIKE: usize = 8;

/// An order of takers: the least share first, then the most cores, then the id.
pub(super) type Takers = BTreeSet<(u64, Reverse<u64>, u32)>;

#[derive(Debug, Clone, Default)]
pub(super) struct Held {
    pub(super) load: u64,
    /// (pipeline, load, item), sorted.
    pub(super) slots: Vec<(u32, u64, u32)>,
}

impl Held {
    /// The slots of one pipeline, by load.
    pub(super) fn of(&self, pipeline: u32) -> &[(u32, u64, u32)] {
        let first = self.slots.partition_point(|slot| slot.0 < pipeline);
        let rest = &self.slots[first..];
        &rest[..rest.partition_point(|slot| slot.0 == pipeline)]
    }

    /// One slice for each pipeline that it has a slot of.
    pub(super) fn by_pipeline(&self) -> impl Iterator<Item = &[(u32, u64, u32)]> {
        self.slots.chunk_by(|a, b| a.0 == b.0)
    }
}

pub(super) struct Board<'a> {
    pub(super) problem: &'a Problem,
    /// Of each item.
    pub(super) owner: Vec<u32>,
    cause: Vec<Option<Cause>>,
    /// Of each seat.
    pub(super) held: Vec<Held>,
    /// Of each zone: open seats that have room.
    takers: Vec<Takers>,
    /// Items of each pipeline that have a seat.
    pub(super) placed: Vec<u64>,
    /// Items by zone and pipeline, and capacity by zone.
    in_zone: Vec<u32>,
    zone_capacity: Vec<u64>,
    handed: u64,
}

impl<'a> Board<'a> {
    /// Everybody keeps what there is room for.
    pub(super) fn keeping(problem: &'a Problem) -> Self {
        let mut board = Self {
            problem,
            owner: vec![NOBODY; problem.items.len()],
            cause: vec![None; problem.items.len()],
            held: vec![Held::default(); problem.seats.len()],
            takers: vec![Takers::new(); problem.zones as usize],
            placed: vec![0; problem.weights.len()],
            in_zone: vec![0; problem.zones as usize * problem.weights.len()],
            zone_capacity: vec![0; problem.zones as usize],
            handed: 0,
        };
        for seat in &problem.seats {
            board.zone_capacity[seat.zone as usize] += seat.capacity;
        }
        for (number, item) in (0u32..).zip(&problem.items) {
            let Some(seat) = problem.seats.get(item.owner as usize) else { continue };
            let held = &mut board.held[item.owner as usize];
            // Who can't be told anything keeps what it has. The rest beyond its places has to go.
            if seat.unreachable || held.slots.len() < seat.places as usize {
                held.slots.push((item.pipeline, item.load, number));
                held.load += item.load;
                board.owner[number as usize] = item.owner;
                board.count(item.owner, item.pipeline, 1);
            }
        }
        for (number, held) in (0u32..).zip(&mut board.held) {
            held.slots.sort_unstable();
            let seat = &problem.seats[number as usize];
            if seat.is_open() && held.slots.len() < seat.places as usize {
                board.takers[seat.zone as usize].insert(taker(seat, held, number));
            }
        }
        board
    }

    pub(super) fn seat(&self, number: u32) -> &'a Seat {
        &self.problem.seats[number as usize]
    }

    pub(super) fn item(&self, number: u32) -> &'a Item {
        &self.problem.items[number as usize]
    }

    pub(super) fn held(&self, seat: u32) -> &Held {
        &self.held[seat as usize]
    }

    /// Load per core of a seat.
    pub(super) fn share_of(&self, seat: u32) -> u64 {
        share(self.held(seat).load, self.seat(seat).capacity)
    }

    pub(super) fn has_room(&self, seat: u32) -> bool {
        let known = self.seat(seat);
        known.is_open() && self.held(seat).slots.len() < known.places as usize
    }

    pub(super) fn as_taker(&self, seat: u32) -> (u64, Reverse<u64>, u32) {
        taker(self.seat(seat), self.held(seat), seat)
    }

    pub(super) fn free(&self) -> Vec<u32> {
        (0u32..).zip(&self.owner).filter(|(_, owner)| **owner == NOBODY).map(|(item, _)| item).collect()
    }

    /// Places that open seats have left.
    pub(super) fn room(&self) -> u64 {
        let rooms = self.problem.seats.iter().zip(&self.held).filter(|(seat, _)| seat.is_open());
        rooms.map(|(seat, held)| u64::from(seat.places).saturating_sub(held.slots.len() as u64)).sum()
    }

    /// How often an item was handed over.
    pub(super) fn handed(&self) -> u64 {
        self.handed
    }

    /// Gives the item to `to`, or to nobody.
    pub(super) fn hand(&mut self, item: u32, to: u32, cause: Cause) {
        self.handed += 1;
        let from = std::mem::replace(&mut self.owner[item as usize], to);
        self.cause[item as usize] = Some(cause);
        let Item { pipeline, load, .. } = *self.item(item);
        let entry = (pipeline, load, item);
        for (seat, comes) in [(from, false), (to, true)] {
            if seat == NOBODY {
                continue;
            }
            let key = self.as_taker(seat);
            let zone = self.seat(seat).zone as usize;
            self.takers[zone].remove(&key);
            let held = &mut self.held[seat as usize];
            match (held.slots.binary_search(&entry), comes) {
                (Err(at), true) => {
                    held.slots.insert(at, entry);
                    held.load += load;
                    self.count(seat, pipeline, 1);
                }
                (Ok(at), false) => {
                    held.slots.remove(at);
                    held.load -= load;
                    self.count(seat, pipeline, -1);
                }
                (Ok(_), true) | (Err(_), false) => {}
            }
            if self.has_room(seat) {
                let key = self.as_taker(seat);
                self.takers[zone].insert(key);
            }
        }
    }

    fn count(&mut self, seat: u32, pipeline: u32, by: i32) {
        let at = self.zone_index(seat, pipeline);
        let in_zone = &mut self.in_zone[at];
        *in_zone = in_zone.saturating_add_signed(by);
        let placed = &mut self.placed[pipeline as usize];
        *placed = placed.saturating_add_signed(i64::from(by));
    }

    fn zone_index(&self, seat: u32, pipeline: u32) -> usize {
        self.seat(seat).zone as usize * self.problem.weights.len() + pipeline as usize
    }

    /// Slots of the pipeline in the seat's zone, with the zone's capacity.
    fn zone_of(&self, seat: u32, pipeline: u32) -> (u128, u128) {
        let slots = self.in_zone[self.zone_index(seat, pipeline)];
        (u128::from(slots), u128::from(self.zone_capacity[self.seat(seat).zone as usize].max(1)))
    }

    /// Whether the move would bring more of the pipeline into one zone than leaves the other, for their sizes.
    pub(super) fn crowds_a_zone(&self, from: u32, to: u32, pipeline: u32) -> bool {
        if self.seat(from).zone == self.seat(to).zone {
            return false;
        }
        let ((here, here_cores), (there, there_cores)) =
            (self.zone_of(from, pipeline), self.zone_of(to, pipeline));
        (there + 1) * here_cores > here * there_cores
    }

    /// The worker that should take `item`: the one with the least load per core, and of equal ones that with the
    /// least of the pipeline. A zone with less of the pipeline goes first as long as that costs no more than the
    /// slot's own load. A worker that the slot avoids only when `even_avoided`.
    pub(super) fn best_taker(&self, item: u32, even_avoided: bool) -> Option<u32> {
        let Item { pipeline, load, avoids, .. } = *self.item(item);
        let mut best: Vec<(u64, u32)> = Vec::new();
        for takers in &self.takers {
            let mut found: Option<(u64, u32)> = None;
            for &(taken, _, seat) in
                takers.iter().filter(|(_, _, seat)| even_avoided || *seat != avoids).take(ALIKE)
            {
                match found {
                    Some((least, _)) if taken > least => break,
                    Some((_, other)) if !self.has_less_of(pipeline, seat, other) => {}
                    Some(_) | None => found = Some((taken, seat)),
                }
            }
            best.extend(found);
        }
        let least = best.iter().map(|(taken, _)| *taken).min()?;
        let near = |(taken, seat): &(u64, u32)| {
            *taken <= least.saturating_add(share(load, self.seat(*seat).capacity))
        };
        best.into_iter()
            .filter(near)
            .min_by(|(a_taken, a), (b_taken, b)| {
                let ((in_a, a_cores), (in_b, b_cores)) =
                    (self.zone_of(*a, pipeline), self.zone_of(*b, pipeline));
                (in_a * b_cores)
                    .cmp(&(in_b * a_cores))
                    .then_with(|| (a_taken, self.as_taker(*a)).cmp(&(b_taken, self.as_taker(*b))))
            })
            .map(|(_, seat)| seat)
    }

    fn has_less_of(&self, pipeline: u32, seat: u32, other: u32) -> bool {
        let (mine, others) = (self.held(seat).of(pipeline).len(), self.held(other).of(pipeline).len());
        mine as u128 * u128::from(self.seat(other).capacity)
            < others as u128 * u128::from(self.seat(seat).capacity)
    }

    pub(super) fn into_changes(self) -> Vec<Change> {
        let Self { problem, owner, cause, .. } = self;
        let changed = (0u32..).zip(problem.items.iter().zip(owner.into_iter().zip(cause)));
        changed
            .filter(|(_, (item, (to, _)))| item.owner != *to)
            .map(|(number, (item, (to, cause)))| {
                let cause = if item.owner == NOBODY { Cause::Placed } else { cause.unwrap_or(Cause::Placed) };
                Change { item: number, to, cause }
            })
            .collect()
    }
}

fn taker(seat: &Seat, held: &Held, number: u32) -> (u64, Reverse<u64>, u32) {
    (share(held.load, seat.capacity), Reverse(seat.capacity), number)
}
