//! Each rule of the protocol is needed: without it the model finds a way to harm, the shortest there is.

use millrace_model::{Mutant, Protocol, bound, explore, show};

const MOST_STATES: usize = 20_000_000;

/// The mutant breaks the rule that its table names. Searched breadth first, so none of its ways there is shorter than
/// this `length`; a change of it is a change of the protocol or the model.
fn is_found_out(name: &str, length: usize) {
    let mutant = Mutant::named(name).expect("a mutant of this name");
    let about = mutant.about();
    let bound = bound(about.bound).expect("a bound of this name");
    let found = explore(&Protocol { bound, mutant: Some(mutant), wanted: Some(about.harm) }, MOST_STATES);
    let counterexample = found.counterexample.expect("the rule that it breaks");
    assert_eq!(counterexample.rule, about.harm);
    assert_eq!(counterexample.length(), length, "{}", show(&counterexample, &bound));
}

macro_rules! mutants {
    ($($test:ident $name:literal $length:literal,)*) => {
        $(#[test]
        fn $test() {
            is_found_out($name, $length);
        })*

        #[test]
        fn no_mutant_is_left_out() {
            let tested = [$($name),*];
            let all: Vec<_> = Mutant::ALL.iter().map(|mutant| mutant.about().name).collect();
            assert_eq!(all, tested);
        }
    };
}

mutants! {
    read_before_fence "read-before-fence" 25,
    unstable_read "unstable-read" 25,
    own_transactional_id "own-transactional-id" 19,
    epoch_unchecked "epoch-unchecked" 13,
    no_claim "no-claim" 16,
    list_after_claim "list-after-claim" 22,
    collect_unchecked "collect-unchecked" 23,
    final_names "final-names" 25,
    predictable_keys "predictable-keys" 27,
    no_compare "no-compare" 17,
    commit_before_published "commit-before-published" 20,
    reuse_after_doubt "reuse-after-doubt" 21,
    doubt_means_failed "doubt-means-failed" 23,
    doubt_means_committed "doubt-means-committed" 10,
    external_cursor "external-cursor" 20,
    quarantine_outside "quarantine-outside" 21,
    rejected_not_recorded "rejected-not-recorded" 29,
    rebuilt "rebuilt" 30,
    definition_anywhere "definition-anywhere" 26,
    lake_passes_topic "lake-passes-topic" 33,
    lost_record_is_new "lost-record-is-new" 27,
    halt_unproven "halt-unproven" 49,
    unverified "unverified" 6,
}
