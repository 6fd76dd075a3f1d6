//! Places that are too few for all: the pipelines' shares of them follow their weights (max-min: one that needs less
//! than its share leaves the rest to the others).

use std::cmp::Reverse;
use std::collections::BTreeMap;

use super::board::Board;
use super::{Cause, NOBODY};

impl Board<'_> {
    /// A pipeline with clearly more places than another one for its weight, although that one waits, gives places
    /// up, one at a time.
    pub(super) fn share_places(&mut self) {
        let mut waiting: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for item in self.free().into_iter().rev() {
            waiting.entry(self.item(item).pipeline).or_default().push(item);
        }
        if waiting.is_empty() {
            return;
        }
        let mut givable = self.givable();
        loop {
            let poorest = waiting
                .iter()
                .filter(|(_, items)| !items.is_empty())
                .map(|(pipeline, _)| (self.places_per_weight(*pipeline, 0), *pipeline))
                .min();
            let richest = givable
                .iter()
                .filter(|(_, items)| !items.is_empty())
                .map(|(pipeline, _)| (self.places_per_weight(*pipeline, 1), Reverse(*pipeline)))
                .max();
            let (Some((has, poor)), Some((keeps, Reverse(rich)))) = (poorest, richest) else { return };
            if rich == poor || keeps <= self.with_margin(has) {
                return;
            }
            let (Some(given), Some(taking)) = (
                givable.get_mut(&rich).and_then(Vec::pop),
                waiting.get_mut(&poor).and_then(|items| items.pop()),
            ) else {
                return;
            };
            let seat = self.owner[given as usize];
            self.hand(given, NOBODY, Cause::FairShare { pipeline: poor });
            self.hand(taking, seat, Cause::Placed);
        }
    }

    /// Of each pipeline the slots that it could give up now; the next one, of the most loaded worker, comes last.
    fn givable(&self) -> BTreeMap<u32, Vec<u32>> {
        let mut givable: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
        for (number, item) in (0u32..).zip(&self.problem.items) {
            let owner = self.owner[number as usize];
            if owner != NOBODY && owner == item.owner && !item.resting && self.seat(owner).is_open() {
                givable.entry(item.pipeline).or_default().push(number);
            }
        }
        for items in givable.values_mut() {
            items.sort_by_cached_key(|item| (self.share_of(self.owner[*item as usize]), *item));
        }
        givable
    }
}
