//! The simulation as a test: ten thousand clusters, every flaw found, every run the same again, every failure small.

use std::collections::BTreeSet;

use crate::flaws::Flaw;
use crate::plan::Plan;
use crate::rules::{Rule, Violation};
use crate::run::{Arguments, replay_line, tell};
use crate::settled::{self, Noise, Settled, settle};
use crate::shrink::shrink;
use crate::tally::{KINDS, Tally};
use crate::world::run;

/// Runs without a flaw; `MILLRACE_SEED` runs one alone, `MILLRACE_SEEDS` another number.
#[test]
fn ten_thousand_clusters_keep_all_rules() {
    let number = |variable: &str| {
        let text = std::env::var(variable).ok()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{variable} = {text:?}: expected a number")))
    };
    let single = number("MILLRACE_SEED");
    let seeds = match single {
        Some(seed) => seed..seed + 1,
        None => 0..number("MILLRACE_SEEDS").unwrap_or(10_000),
    };
    let mut total = Tally::default();
    for seed in seeds {
        let plan = Plan::of(seed);
        let outcome = run(&plan, None, false);
        total.add(&outcome.tally);
        if let Some(violation) = outcome.violation {
            panic!(
                "{}\nor: MILLRACE_SEED={seed} cargo test --release -p millrace-master-core --example simulate",
                tell(&plan, &violation, None)
            );
        }
    }
    println!("{total}");
    if single.is_none() {
        for kind in KINDS {
            assert!(total.of(kind) > 0, "no {kind} in all seeds: the simulation tests less than it says");
        }
    }
}

/// Seeds that broke a rule once: a store that took a fence for an earlier one, places that passed on slowly, a slot that
/// was sent elsewhere on its way, a tie that figures decide.
#[test]
fn what_failed_once_does_not_fail_again() {
    for seed in [33_212, 36_422, 66_909, 69_283, 94_337, 114_706, 133_865, 148_199, 158_712, 187_328] {
        let plan = Plan::of(seed);
        if let Some(violation) = run(&plan, None, false).violation {
            panic!("{}", tell(&plan, &violation, None));
        }
    }
}

fn first_found(flaw: Flaw, seeds: std::ops::Range<u64>) -> Option<(Plan, Violation)> {
    seeds.map(Plan::of).find_map(|plan| {
        let violation = run(&plan, Some(flaw), false).violation?;
        (violation.rule == flaw.breaks()).then_some((plan, violation))
    })
}

#[test]
fn every_flaw_is_found_by_its_rule() {
    for flaw in Flaw::ALL {
        let found = first_found(flaw, 0..400);
        assert!(found.is_some(), "{flaw:?} breaks {:?}, and nobody sees it in 400 seeds", flaw.breaks());
    }
}

#[test]
fn every_rule_is_broken_by_a_flaw() {
    let broken: BTreeSet<Rule> = Flaw::ALL.into_iter().map(Flaw::breaks).collect();
    for rule in Rule::ALL {
        assert!(broken.contains(&rule), "no flaw shows that {rule:?} is checked");
    }
}

#[test]
fn the_same_seed_is_the_same_run() {
    let mut traces = BTreeSet::new();
    for seed in 0..100 {
        let (first, second) = (run(&Plan::of(seed), None, false), run(&Plan::of(seed), None, true));
        assert_eq!(first.trace, second.trace, "seed {seed}, told or not");
        assert_eq!(first.tally.to_string(), second.tally.to_string());
        assert!(traces.insert(first.trace), "seed {seed} is like another one");
    }
}

#[test]
fn a_failure_is_told_small_and_can_be_seen_again() {
    let flaw = Some(Flaw::DrainNotHeard);
    let found = first_found(Flaw::DrainNotHeard, 0..400);
    let (plan, violation) = found.unwrap_or_else(|| panic!("never found"));
    let small = shrink(&plan, violation.rule, flaw);
    let again = run(&small, flaw, false).violation.map(|violation| violation.rule);
    assert_eq!(again, Some(violation.rule), "the small one fails alike");
    assert!(
        small.steps.len() < plan.steps.len().min(5),
        "{} of {} steps are left",
        small.steps.len(),
        plan.steps.len()
    );
    assert!(
        small.steps.iter().any(|step| matches!(step.action, crate::plan::Action::Drain { .. })),
        "{small}"
    );
    // Without any of its steps it does not fail.
    for number in 0..small.steps.len() {
        let mut less = small.clone();
        less.steps.remove(number);
        let rule = run(&less, flaw, false).violation.map(|violation| violation.rule);
        assert_ne!(rule, Some(violation.rule), "step {number} is not needed:\n{small}");
    }
    let told = tell(&plan, &violation, flaw);
    let line = replay_line(plan.seed, flaw);
    assert!(told.contains(&line) && told.contains(&small.to_string()), "{told}");
    let words = line.split(" -- ").nth(1).map(|words| words.split(' ').map(str::to_owned));
    let arguments = Arguments::parse(words.into_iter().flatten());
    assert_eq!(arguments.map(|given| (given.single, given.flaw)), Ok((Some(plan.seed), flaw)));
}

#[test]
fn settled_clusters_stop_moving_and_are_shared_out_well() {
    let mut total = settled::Tally::default();
    for seed in 0..900 {
        let plan = Settled::of(seed);
        let outcome = settle(&plan, &settled::settings(None));
        total.add(&plan, &outcome);
        if let Some(wrong) = outcome.wrong {
            panic!("{plan}\n{}", settled::tell(seed, &wrong));
        }
    }
    println!("{total}");
    for noise in [Noise::None, Noise::Quick, Noise::Slow] {
        let (clusters, moves) = total.of(noise);
        assert!(clusters > 100 && moves > clusters, "{noise:?}: {moves} moves of {clusters} clusters");
    }
}

#[test]
fn a_scheduler_that_never_rests_is_found() {
    let settings = settled::settings(Some(Flaw::NoRest));
    let wrong = (0..50).find_map(|seed| settle(&Settled::of(seed), &settings).wrong);
    assert!(wrong.is_some_and(|wrong| wrong.contains(" may be")));
}

#[test]
fn wrong_arguments_are_named() {
    let refusal = |given: &[&str]| Arguments::parse(given.iter().map(|text| (*text).to_owned())).err();
    for (given, named) in [
        (&["--seeds", "many"][..], "--seeds many: expected a number from 0 on"),
        (&["--seeds"], "--seeds: expected a value after it"),
        (&["--sed", "1"], "--sed is no option"),
        (&["--flaw", "Nothing"], "expected one of EpochNotRaised"),
    ] {
        assert!(refusal(given).is_some_and(|text| text.contains(named)), "{given:?}: {:?}", refusal(given));
    }
}
