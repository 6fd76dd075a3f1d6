//! Moves that nothing forces: joiners take their share, and the load is evened out.

use std::collections::BTreeSet;

use super::board::{Board, Takers};
use super::{Cause, share};

/// Givers that are tried for one taker before it has to do without.
const GIVERS_TRIED: usize = 64;
/// Slots of one pipeline that are weighed up on each side of the ideal load.
const NEAR: usize = 8;

/// Which moves are allowed.
#[derive(Clone, Copy)]
struct Terms {
    joiners: bool,
    margin_percent: u32,
    /// Slots that moved a moment ago stay.
    rest: bool,
}

/// A slot that could move, with what that is worth.
struct Offer {
    item: u32,
    /// Load × (load per core beside it here, less there).
    gain: u128,
    /// It does not bring more of its pipeline into one zone than leaves the other.
    spreads: bool,
    /// By how much the pipeline's part here exceeds its part there.
    excess: i128,
    cause: Cause,
}

impl Board<'_> {
    pub(super) fn let_joiners_take(&mut self) {
        self.even(Terms { joiners: true, margin_percent: 0, rest: false });
    }

    pub(super) fn even_out(&mut self) {
        let margin_percent = self.problem.margin_percent;
        self.even(Terms { joiners: false, margin_percent, rest: true });
    }

    /// What must be exceeded so that a move is clearly worth it.
    pub(super) fn with_margin(&self, share: u64) -> u64 {
        exceeded(share, self.problem.margin_percent)
    }

    /// Goes round the takers until nobody finds a giver. Every move lowers the sum that the module's head names.
    fn even(&mut self, terms: Terms) {
        let mut givers = BTreeSet::new();
        for seat in 0..self.held.len() as u32 {
            givers.extend(self.as_giver(seat, terms).map(|beside| (beside, seat)));
        }
        loop {
            let mut moved = false;
            let mut takers: Takers = (0..self.held.len() as u32)
                .filter(|seat| self.has_room(*seat) && (!terms.joiners || self.seat(*seat).joined))
                .map(|seat| self.as_taker(seat))
                .collect();
            while let Some(first) = takers.pop_first() {
                let to = first.2;
                let Some((from, offer)) = self.find_giver(&givers, to, terms) else { continue };
                for seat in [from, to] {
                    if let Some(beside) = self.as_giver(seat, terms) {
                        givers.remove(&(beside, seat));
                    }
                }
                let key = self.as_taker(from);
                let still = takers.remove(&key);
                self.hand(offer.item, to, offer.cause);
                for seat in [from, to] {
                    givers.extend(self.as_giver(seat, terms).map(|beside| (beside, seat)));
                }
                if still {
                    takers.insert(self.as_taker(from));
                }
                if self.has_room(to) {
                    takers.insert(self.as_taker(to));
                }
                moved = true;
            }
            if !moved {
                return;
            }
        }
    }

    /// The most that is beside one of its slots that may move; `None` when none may.
    fn as_giver(&self, number: u32, terms: Terms) -> Option<u64> {
        let (seat, held) = (self.seat(number), self.held(number));
        if !seat.is_open() {
            return None;
        }
        let lightest = held
            .by_pipeline()
            .filter_map(|slots| slots.iter().find(|slot| !terms.rest || !self.item(slot.2).resting))
            .map(|slot| slot.1)
            .min()?;
        Some(share(held.load - lightest, seat.capacity))
    }

    fn find_giver(&self, givers: &BTreeSet<(u64, u32)>, to: u32, terms: Terms) -> Option<(u32, Offer)> {
        let least = exceeded(self.share_of(to), terms.margin_percent);
        let worth = givers.iter().rev().take_while(|(beside, _)| *beside > least);
        let mut tried = worth.filter(|(_, from)| *from != to).take(GIVERS_TRIED);
        tried.find_map(|(_, from)| Some((*from, self.best_offer(*from, to, least, terms)?)))
    }

    /// The slot whose move is worth most; of nearly equal ones that which spreads its pipeline.
    fn best_offer(&self, from: u32, to: u32, least: u64, terms: Terms) -> Option<Offer> {
        let (giver, taker) = (self.seat(from), self.seat(to));
        let (given, taken) = (self.held(from), self.held(to));
        let there = self.share_of(to);
        let as_much_here = u128::from(taken.load) * u128::from(giver.capacity) / u128::from(taker.capacity);
        let ideal =
            u64::try_from(u128::from(given.load).saturating_sub(as_much_here) / 2).unwrap_or(u64::MAX);
        let mut offers = Vec::new();
        for slots in given.by_pipeline() {
            let pipeline = slots[0].0;
            let spreads = !self.crowds_a_zone(from, to, pipeline);
            let excess = slots.len() as i128 * i128::from(taker.capacity)
                - taken.of(pipeline).len() as i128 * i128::from(giver.capacity);
            let movable = |slot: &&(u32, u64, u32)| {
                let item = self.item(slot.2);
                item.avoids != to && (!terms.rest || !item.resting)
            };
            let middle = slots.partition_point(|slot| slot.1 < ideal);
            let (lighter, heavier) = slots.split_at(middle);
            let near = heavier
                .iter()
                .filter(movable)
                .take(NEAR)
                .chain(lighter.iter().rev().filter(movable).take(NEAR));
            for &(_, load, item) in near {
                let beside = share(given.load - load, giver.capacity);
                // A zone is crowded only when that is worth the slot's own load.
                let allowance = if spreads { 0 } else { share(load, taker.capacity) };
                let margins = terms.margin_percent.saturating_mul(self.item(item).reluctance);
                let enough = (exceeded(there, margins) - there).saturating_add(allowance);
                if beside > least.saturating_add(enough) {
                    let gain = u128::from(load) * u128::from(beside - there.min(beside));
                    let cause = if terms.joiners {
                        Cause::Joined { beside, there }
                    } else {
                        Cause::Uneven { beside, there }
                    };
                    offers.push(Offer { item, gain, spreads, excess, cause });
                }
            }
        }
        let most = offers.iter().map(|offer| offer.gain).max()?;
        let nearly = most - most / 8;
        offers
            .into_iter()
            .filter(|offer| offer.gain >= nearly)
            .max_by_key(|offer| (offer.spreads, offer.excess, offer.gain, offer.item))
    }
}

fn exceeded(share: u64, margin_percent: u32) -> u64 {
    let more = u128::from(share) * u128::from(margin_percent) / 100;
    share.saturating_add(u64::try_from(more).unwrap_or(u64::MAX))
}
