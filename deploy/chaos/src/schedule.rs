//! What happens in which cycle, drawn from a seed. Pure: the same seed, cycles and mix give the same schedule.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use serde::Serialize;

use crate::fault::{Fault, Mix};

/// The longest wait before a fault: beyond two commit intervals, so that it hits every step of them.
const LONGEST_WAIT_MS: u64 = 2_500;
const HOLD_MS: std::ops::RangeInclusive<u64> = 500..=4_000;

/// One cycle's fault.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Planned {
    /// Counted from 1.
    pub cycle: u32,
    pub fault: Fault,
    /// From the moment when all is well to the fault.
    pub wait_ms: u64,
    /// How long it lasts, where it does.
    pub hold_ms: u64,
    /// Which one of those that can be hit, modulo how many there are.
    pub victim: u32,
    /// Which kind of the fault, where it has several.
    pub variant: u32,
}

impl Planned {
    pub(crate) fn wait(&self) -> Duration {
        Duration::from_millis(self.wait_ms)
    }

    pub(crate) fn hold(&self) -> Duration {
        Duration::from_millis(self.hold_ms)
    }

    /// The victim among `count`; `None` of none.
    pub(crate) fn pick(&self, count: usize) -> Option<usize> {
        usize::try_from(self.victim).unwrap_or(0).checked_rem(count)
    }
}

/// The schedule of `cycles` cycles: rounds of `mix`, each in an order of its own.
pub fn schedule(seed: u64, cycles: u32, mix: &Mix) -> Vec<Planned> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut round = Vec::new();
    let cycles = (1..=cycles).map_while(|cycle| {
        if round.is_empty() {
            round = mix.round();
            round.shuffle(&mut random);
        }
        let fault = round.pop()?;
        Some(Planned {
            cycle,
            fault,
            wait_ms: random.random_range(0..=LONGEST_WAIT_MS),
            hold_ms: random.random_range(HOLD_MS),
            victim: random.random(),
            variant: random.random(),
        })
    });
    cycles.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything_and_every_round_holds_the_whole_mix() {
        let mix: Mix = "worker-kill=3,worker-freeze".parse().expect("a mix");
        let planned = schedule(7, 40, &mix);
        assert_eq!(planned, schedule(7, 40, &mix));
        assert_ne!(planned, schedule(8, 40, &mix));
        assert_eq!(planned.len(), 40);
        for round in planned.chunks(4) {
            let freezes = round.iter().filter(|planned| planned.fault == Fault::WorkerFreeze).count();
            assert_eq!(freezes, 1, "{round:#?}");
        }
    }
}
