//! The flags. Decides nothing.

use std::path::PathBuf;
use std::time::Duration;

use millrace_common::units::{parse_bytes, parse_duration};

use crate::fault::{Fault, Mix};

/// Real processes under load, faults by a seeded schedule, and a check of every acknowledged event at the end.
#[derive(Debug, Clone, clap::Parser)]
#[command(
    name = "millrace-chaos",
    version,
    after_help = faults(),
)]
pub struct Config {
    /// How many faults, one after the other.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1_000_000), value_name = "N")]
    pub cycles: u32,
    /// Begin no cycle after this time, whatever --cycles says.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// Decides the schedule; without it one is drawn, and told.
    #[arg(long, value_name = "NUMBER")]
    pub seed: Option<u64>,
    /// Faults to draw from, each with its share: worker-kill=10,worker-freeze. Default: every one alike.
    #[arg(long, value_name = "FAULT[=N],…")]
    pub faults: Option<Mix>,
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(2..=16), value_name = "N")]
    pub workers: u16,
    /// Events that the generator sends a second.
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    pub rate: u32,
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(i32).range(1..=64), value_name = "N")]
    pub partitions: i32,
    /// Budget of each worker's buffers.
    #[arg(long, default_value = "256MiB", value_parser = parse_bytes, value_name = "SIZE")]
    pub memory: u64,
    /// How often the enriched topic gets a transaction.
    #[arg(long, default_value = "1s", value_parser = parse_positive, value_name = "TIME")]
    pub commit_interval: Duration,
    /// How old a file's oldest row becomes.
    #[arg(long, default_value = "2s", value_parser = parse_positive, value_name = "TIME")]
    pub roll_age: Duration,
    /// Takes a folder for each run; it goes away after a run that found nothing wrong.
    #[arg(long, default_value = "chaos-data", value_name = "FOLDER")]
    pub folder: PathBuf,
    /// Keep the run's folder in any case.
    #[arg(long)]
    pub keep: bool,
    /// Write the report to this file, too; it stands on the standard output in any case.
    #[arg(long, value_name = "FILE.json")]
    pub report: Option<PathBuf>,
    /// Write the table of faults to this file, too; it stands on the standard error in any case.
    #[arg(long, value_name = "FILE.md")]
    pub table: Option<PathBuf>,
    /// The program under test; by default the millrace beside this program.
    #[arg(long, value_name = "FILE")]
    pub millrace: Option<PathBuf>,
}

impl Config {
    /// What is drawn from.
    pub fn mix(&self) -> Mix {
        self.faults.clone().unwrap_or_else(Mix::all)
    }
}

fn faults() -> String {
    let faults = Fault::ALL.map(|fault| format!("  {fault:<20}{}\n", fault.describe()));
    format!(
        "Faults:\n{}\nExit status: 0 exact; 1 not exact, a fault did not bite, or the run could not be made; 2 usage.",
        faults.concat()
    )
}

fn parse_positive(text: &str) -> Result<Duration, String> {
    match parse_duration(text)? {
        Duration::ZERO => Err("expected a time above zero, like 500ms or 2s".to_owned()),
        span => Ok(span),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[test]
    fn bad_flags_end_with_2_and_say_what_is_expected() {
        for (flag, value, expected) in [
            ("--faults", "worker-kil", "expected some of"),
            ("--cycles", "0", "1..=1000000"),
            ("--roll-age", "0s", "above zero"),
            ("--workers", "1", "2..=16"),
        ] {
            let error = Config::try_parse_from(["millrace-chaos", flag, value]).expect_err(flag);
            assert_eq!(error.exit_code(), 2);
            let message = error.to_string();
            assert!(message.contains(flag) && message.contains(expected), "{message}");
        }
    }
}
