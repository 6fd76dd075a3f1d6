//! Explores the delivery protocol and its mutants, and prints what it finds.

use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use millrace_model::{About, BOUNDS, Bound, Mutant, Protocol, bound, explore, show};

/// Explore the delivery protocol exhaustively within bounds: every interleaving of its workers, Kafka, the store and the
/// faults. Exit status: 0 if all rules hold in whole bounds that reach what they must (or every mutant was found out), 1 if
/// not, 2 usage.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    /// Bounds to explore; all that the tests take, if none is given. `--list` tells them.
    bounds: Vec<String>,
    /// Every bound, the long ones too: minutes, and gigabytes of memory.
    #[arg(long, conflicts_with_all = ["bounds", "mutant"])]
    all: bool,
    /// Explore a protocol with one rule undone, and show the shortest way to what it breaks; `all` for each in turn. In the
    /// bound that is given, else in the mutant's own.
    #[arg(long, value_name = "NAME")]
    mutant: Option<String>,
    /// Tell all bounds and mutants, and explore nothing.
    #[arg(long)]
    list: bool,
    /// Give up beyond so many states.
    #[arg(long, default_value_t = 200_000_000)]
    most_states: usize,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.list {
        list();
        return ExitCode::SUCCESS;
    }
    let mut bounds = Vec::new();
    for name in &arguments.bounds {
        let Some(found) = bound(name) else {
            eprintln!("there is no bound {name:?}; --list tells all");
            return ExitCode::from(2);
        };
        bounds.push(found);
    }
    if arguments.mutant.is_some() && bounds.len() > 1 {
        eprintln!("a mutant is explored in one bound, and {} were given", bounds.len());
        return ExitCode::from(2);
    }
    let ok = match arguments.mutant.as_deref() {
        None => {
            if bounds.is_empty() {
                bounds = BOUNDS.into_iter().filter(|bound| bound.in_tests || arguments.all).collect();
            }
            // Each is explored, whatever became of those before.
            bounds.iter().filter(|bound| !check(**bound, arguments.most_states)).count() == 0
        }
        Some("all") => {
            let within = bounds.first().copied();
            let survives = |mutant: &Mutant| !refute(*mutant, within, arguments.most_states);
            Mutant::ALL.into_iter().filter(survives).count() == 0
        }
        Some(name) => {
            let Some(mutant) = Mutant::named(name) else {
                eprintln!("there is no mutant {name:?}; --list tells all");
                return ExitCode::from(2);
            };
            refute(mutant, bounds.first().copied(), arguments.most_states)
        }
    };
    if ok { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn list() {
    println!("bounds:");
    for bound in BOUNDS {
        let Bound { name, what, workers, records, in_tests, .. } = bound;
        let note = if in_tests { "" } else { " (not in the tests)" };
        println!("  {name:<12} {workers} workers, {records} records; {what}{note}");
    }
    println!("mutants, and the bound in which each shows:");
    for mutant in Mutant::ALL {
        let About { name, undone, bound, harm } = mutant.about();
        println!("  {name:<24} {undone} ({bound}: {harm:?})");
    }
}

/// Explores the protocol as it is. True if nothing is broken.
fn check(bound: Bound, most_states: usize) -> bool {
    let began = Instant::now();
    let found = explore(&Protocol { bound, mutant: None, wanted: None }, most_states);
    let (happened, missing) = found.reached.against(&bound);
    println!(
        "{:<12} {:>10} states {:>11} steps, depth {:>3}, {:>6.1} s, {:>5} MB, {:>2} of {:>2} reached: {}",
        bound.name,
        found.states,
        found.steps,
        found.depth,
        began.elapsed().as_secs_f64(),
        found.memory >> 20,
        happened,
        happened + missing.len(),
        match (&found.counterexample, found.complete) {
            (Some(counterexample), _) => counterexample.rule.text(),
            (None, true) => "all rules hold",
            (None, false) => "given up at --most-states",
        }
    );
    if let Some(counterexample) = &found.counterexample {
        println!("{}", show(counterexample, &bound));
    }
    for text in &missing {
        println!("  NOT REACHED: {text}");
    }
    found.complete && found.counterexample.is_none() && missing.is_empty()
}

/// Explores a mutant. True if it breaks a rule.
fn refute(mutant: Mutant, within: Option<Bound>, most_states: usize) -> bool {
    let About { name, undone, bound: home, harm } = mutant.about();
    let Some(bound) = within.or_else(|| bound(home)) else { return false };
    let began = Instant::now();
    let found = explore(&Protocol { bound, mutant: Some(mutant), wanted: Some(harm) }, most_states);
    println!("{name}: {undone}");
    println!("within {:?}: {} states, {:.1} s", bound.name, found.states, began.elapsed().as_secs_f64());
    match &found.counterexample {
        Some(counterexample) => println!("{}", show(counterexample, &bound)),
        None => println!("NOT FOUND OUT: {harm:?} holds\n"),
    }
    found.counterexample.is_some()
}
