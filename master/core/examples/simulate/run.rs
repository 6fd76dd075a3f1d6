//! The runnable form: many seeds on a few threads, or one told at length.

use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::flaws::Flaw;
use crate::plan::Plan;
use crate::rules::Violation;
use crate::settled::{self, Settled, settle};
use crate::shrink::shrink;
use crate::tally::Tally;
use crate::world::run;

const USAGE: &str = "\
Simulated clusters around the scheduler, by seed.

  --seeds N     how many seeds (10000)
  --from M      the first one (0)
  --threads T   threads (1)
  --seed S      this one alone: its plan, its story, and what it comes to
  --failures N  stop after so many seeds that fail (1)
  --flaw NAME   with this flaw switched on, to see that it is found
  --settled N   instead: so many clusters that only have their loads, for three hours each
";

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arguments {
    pub(crate) seeds: u64,
    pub(crate) from: u64,
    pub(crate) threads: u64,
    pub(crate) failures: usize,
    pub(crate) single: Option<u64>,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) settled: Option<u64>,
    pub(crate) help: bool,
}

impl Arguments {
    pub(crate) fn parse(given: impl IntoIterator<Item = String>) -> Result<Self, String> {
        let mut arguments = Self {
            seeds: 10_000,
            from: 0,
            threads: 1,
            failures: 1,
            single: None,
            flaw: None,
            settled: None,
            help: false,
        };
        let mut given = given.into_iter();
        while let Some(key) = given.next() {
            if key == "--help" || key == "-h" {
                arguments.help = true;
                continue;
            }
            let value = given.next().ok_or_else(|| format!("{key}: expected a value after it"))?;
            let number =
                || value.parse::<u64>().map_err(|_| format!("{key} {value}: expected a number from 0 on"));
            match key.as_str() {
                "--seeds" => arguments.seeds = number()?,
                "--from" => arguments.from = number()?,
                "--threads" => arguments.threads = number()?.max(1),
                "--failures" => arguments.failures = usize::try_from(number()?.max(1)).unwrap_or(usize::MAX),
                "--settled" => arguments.settled = Some(number()?),
                "--seed" => arguments.single = Some(number()?),
                "--flaw" => {
                    let names = || Flaw::ALL.map(|flaw| format!("{flaw:?}")).join(", ");
                    let flaw = Flaw::named(&value);
                    arguments.flaw =
                        Some(flaw.ok_or_else(|| format!("--flaw {value}: expected one of {}", names()))?);
                }
                _ => return Err(format!("{key} is no option:\n\n{USAGE}")),
            }
        }
        Ok(arguments)
    }
}

/// What to type to see a run again.
pub(crate) fn replay_line(seed: u64, flaw: Option<Flaw>) -> String {
    let flaw = flaw.map_or_else(String::new, |flaw| format!(" --flaw {flaw:?}"));
    format!("cargo run --release -p millrace-master-core --example simulate -- --seed {seed}{flaw}")
}

/// A failing seed as people read it: how to see it again, and what is left of it when all is taken away that it does
/// not take.
pub(crate) fn tell(plan: &Plan, violation: &Violation, flaw: Option<Flaw>) -> String {
    let small = shrink(plan, violation.rule, flaw);
    let outcome = run(&small, flaw, true);
    let again = outcome.violation.map_or_else(String::new, |violation| violation.to_string());
    let story = outcome.story.join("\n");
    format!(
        "seed {}: {violation}\nreplay: {}\n\nshrunk, from {} steps to {}:\n{small}\n{again}\n\nits last words:\n{story}\n",
        plan.seed,
        replay_line(plan.seed, flaw),
        plan.steps.len(),
        small.steps.len(),
    )
}

pub(crate) fn main() -> ExitCode {
    let arguments = match Arguments::parse(std::env::args().skip(1)) {
        Ok(arguments) => arguments,
        Err(wrong) => {
            eprintln!("{wrong}");
            return ExitCode::from(2);
        }
    };
    if arguments.help {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    // A panic in the core is a violation: it is told as one.
    std::panic::set_hook(Box::new(|_| {}));
    match (arguments.single, arguments.settled) {
        (None, Some(clusters)) => settle_many(&arguments, clusters),
        (Some(seed), None) => tell_one(seed, arguments.flaw),
        _ => run_many(&arguments),
    }
}

fn settle_many(arguments: &Arguments, clusters: u64) -> ExitCode {
    let mut total = settled::Tally::default();
    for seed in arguments.from..arguments.from + clusters {
        let plan = Settled::of(seed);
        let outcome = settle(&plan, &settled::settings(arguments.flaw));
        total.add(&plan, &outcome);
        if clusters == 1 || outcome.wrong.is_some() {
            println!("{plan}");
            outcome.moved.iter().for_each(|moved| println!("{moved}"));
        }
        if let Some(wrong) = outcome.wrong {
            println!("{}", settled::tell(seed, &wrong));
            return ExitCode::FAILURE;
        }
    }
    println!("{total}");
    ExitCode::SUCCESS
}

fn tell_one(seed: u64, flaw: Option<Flaw>) -> ExitCode {
    let plan = Plan::of(seed);
    let outcome = run(&plan, flaw, false);
    println!("{plan}\ntrace {:016x}\n{}", outcome.trace, outcome.tally);
    match outcome.violation {
        None => {
            println!("seed {seed}: all rules hold");
            ExitCode::SUCCESS
        }
        Some(violation) => {
            println!("{}", tell(&plan, &violation, flaw));
            ExitCode::FAILURE
        }
    }
}

fn run_many(arguments: &Arguments) -> ExitCode {
    let (next, done, failed) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let total = Mutex::new(Tally::default());
    let found: Mutex<Vec<(Plan, Violation)>> = Mutex::new(Vec::new());
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..arguments.threads {
            scope.spawn(|| {
                let mut tally = Tally::default();
                while !failed.load(Ordering::Relaxed) {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= arguments.seeds {
                        break;
                    }
                    let plan = Plan::of(arguments.from + number);
                    let outcome = run(&plan, arguments.flaw, false);
                    tally.add(&outcome.tally);
                    done.fetch_add(1, Ordering::Relaxed);
                    if let Some(violation) = outcome.violation {
                        eprintln!("seed {}: {violation}", plan.seed);
                        let mut found = lock(&found);
                        found.push((plan, violation));
                        failed.fetch_or(found.len() >= arguments.failures, Ordering::Relaxed);
                    }
                }
                lock(&total).add(&tally);
            });
        }
        scope.spawn(|| {
            let mut told = 0;
            while done.load(Ordering::Relaxed) < arguments.seeds && !failed.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(200));
                let (seconds, done) = (begun.elapsed().as_secs(), done.load(Ordering::Relaxed));
                if seconds / 10 > told {
                    told = seconds / 10;
                    eprintln!("{done} of {} seeds in {seconds} s", arguments.seeds);
                }
            }
        });
    });
    println!(
        "{} seeds from {} on, in {:.1} s",
        done.into_inner(),
        arguments.from,
        begun.elapsed().as_secs_f64()
    );
    println!("{}", lock(&total));
    let mut found = std::mem::take(&mut *lock(&found));
    found.sort_by_key(|(plan, _)| plan.seed);
    for (plan, violation) in &found {
        println!("seed {}: {violation}\nreplay: {}\n", plan.seed, replay_line(plan.seed, arguments.flaw));
    }
    let Some((plan, violation)) = found.first() else { return ExitCode::SUCCESS };
    println!("{}", tell(plan, violation, arguments.flaw));
    ExitCode::FAILURE
}

/// A thread that panicked took nothing half done with it: tallies and findings are set in one go.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
