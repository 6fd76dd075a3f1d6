//! What must move: free slots, slots that keep away from a worker, slots of draining workers.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use super::board::Board;
use super::{Cause, NOBODY, share};

impl Board<'_> {
    /// Gives every free slot that fits a place. When not all fit, the pipeline that has the fewest places for its
    /// weight goes first.
    pub(super) fn place_free(&mut self) {
        let mut free = self.free();
        if free.is_empty() {
            return;
        }
        let room = self.room();
        if free.len() as u64 <= room {
            // The heaviest first: what comes last fills the gaps.
            free.sort_by_key(|item| (Reverse(self.item(*item).load), *item));
            for item in free {
                self.place(item);
            }
            return;
        }
        let mut waiting: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for item in free.into_iter().rev() {
            waiting.entry(self.item(item).pipeline).or_default().push(item);
        }
        let mut turns: BTreeSet<(u64, u32)> =
            waiting.keys().map(|pipeline| (self.places_per_weight(*pipeline, 0), *pipeline)).collect();
        while let Some((_, pipeline)) = turns.pop_first() {
            let Some(item) = waiting.get_mut(&pipeline).and_then(Vec::pop) else { continue };
            if !self.place(item) {
                break;
            }
            turns.insert((self.places_per_weight(pipeline, 0), pipeline));
        }
    }

    /// Places that the pipeline has, less `without`, for each unit of its weight; in millionths.
    pub(super) fn places_per_weight(&self, pipeline: u32, without: u64) -> u64 {
        let places = self.placed[pipeline as usize].saturating_sub(without);
        share(places, u64::from(self.problem.weights[pipeline as usize]))
    }

    fn place(&mut self, item: u32) -> bool {
        let taker = self.best_taker(item, false).or_else(|| self.best_taker(item, true));
        if let Some(to) = taker {
            self.hand(item, to, Cause::Placed);
        }
        taker.is_some()
    }

    pub(super) fn leave_avoided(&mut self) {
        for (number, item) in (0u32..).zip(&self.problem.items) {
            let owner = self.owner[number as usize];
            if owner == NOBODY || item.avoids != owner || self.seat(owner).unreachable {
                continue;
            }
            if let Some(to) = self.best_taker(number, false) {
                self.hand(number, to, Cause::Avoided);
            }
        }
    }

    /// What finds no room stays and runs.
    pub(super) fn leave_draining(&mut self) {
        for (number, seat) in (0u32..).zip(&self.problem.seats) {
            if !seat.draining || seat.unreachable {
                continue;
            }
            let mut leaving: Vec<u32> = self.held(number).slots.iter().map(|slot| slot.2).collect();
            leaving.sort_by_key(|item| (Reverse(self.item(*item).load), *item));
            for item in leaving {
                let Some(to) = self.best_taker(item, false).or_else(|| self.best_taker(item, true)) else {
                    break;
                };
                self.hand(item, to, Cause::Drained);
            }
        }
    }
}
