//! A whole cluster in one thread, by seed: masters that crash and restart, workers that crash, freeze and thaw,
//! a network that loses, doubles and reorders, a clock that jumps forwards. What must hold is checked at each
//! step; when the faults stop, every slot must have an owner that runs it.
//!
//! `MILLRACE_SIMULATION_SEEDS` sets how many seeds are run, `MILLRACE_SIMULATION_SEED` runs a single one.

mod checks;
mod faults;
mod model;
mod tally;
mod worker;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use self::tally::Tally;
use self::world::World;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} = {text:?}: expected a number")))
}

#[test]
fn simulation() {
    let seeds = match number("MILLRACE_SIMULATION_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..number("MILLRACE_SIMULATION_SEEDS").unwrap_or(3_000),
    };
    let single = seeds.end - seeds.start == 1;
    let mut total = Tally::default();
    for seed in seeds {
        match catch_unwind(AssertUnwindSafe(|| World::new(seed, single).run())) {
            Ok(tally) => total.add(&tally),
            Err(_) => panic!(
                "seed {seed} fails; replay: MILLRACE_SIMULATION_SEED={seed} cargo test --release \
                 -p millrace-master-core simulation -- --nocapture"
            ),
        }
    }
    println!("{total:?}");
    if !single {
        total.check_that_faults_happened();
    }
}
