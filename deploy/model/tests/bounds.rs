//! The protocol keeps every rule in every state of each bound, and each bound reaches what it is there for.

use millrace_model::{BOUNDS, Protocol, bound, explore, show};

/// Far above the largest bound of the tests: a change that makes one so large should be told, not waited for.
const MOST_STATES: usize = 20_000_000;

fn holds(name: &str) {
    let bound = bound(name).expect("a bound of this name");
    let found = explore(&Protocol { bound, mutant: None, wanted: None }, MOST_STATES);
    println!("{name}: {} states, {} steps, depth {}", found.states, found.steps, found.depth);
    if let Some(counterexample) = &found.counterexample {
        panic!("within {name}:\n{}", show(counterexample, &bound));
    }
    assert!(found.complete, "{name} has more than {MOST_STATES} states");
    let (_, missing) = found.reached.against(&bound);
    assert!(missing.is_empty(), "{name} never reaches: {missing:?}");
}

macro_rules! bounds {
    ($($test:ident $name:literal,)*) => {
        $(#[test]
        fn $test() {
            holds($name);
        })*

        #[test]
        fn no_bound_of_the_tests_is_left_out() {
            let tested = [$($name),*];
            let all: Vec<_> = BOUNDS.iter().filter(|bound| bound.in_tests).map(|bound| bound.name).collect();
            assert_eq!(all, tested);
        }
    };
}

bounds! {
    freeze "freeze",
    store "store",
    build "build",
    files "files",
    definition "definition",
    kafka "kafka",
    expiry "expiry",
    lake_only "lake-only",
    record_lost "record-lost",
    forgetful "forgetful",
    three "three",
}

#[test]
fn an_exploration_that_was_given_up_is_not_taken_for_complete() {
    let bound = bound("freeze").expect("a bound of this name");
    let found = explore(&Protocol { bound, mutant: None, wanted: None }, 1000);
    assert!(!found.complete);
    let (_, missing) = found.reached.against(&bound);
    assert!(missing.contains(&"everything is committed and published"), "{missing:?}");
}
