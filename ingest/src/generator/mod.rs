//! The generator: sends click events to a collector at a rate until each is acknowledged, and keeps a ledger of what
//! became of each and a ground truth of what must be in the lake.
//!
//! `source` makes the events (`shop` invents them, `replay` repeats a file's), `schedule` says when each is due,
//! `send` sends them through `client`, `answer` reads what the collector says, `delivery` decides what is sent again,
//! and `ledger`, `truth` and `tally` write down the rest.

mod answer;
mod client;
mod delivery;
mod facts;
mod invalid;
mod ledger;
mod progress;
mod replay;
mod schedule;
mod send;
mod shop;
mod source;
mod tally;
mod truth;

use std::future::IntoFuture;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use millrace_common::shutdown::Shutdown;
use millrace_common::units::parse_duration;
use rand::RngExt;
use reqwest::Url;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;
use tracing::info;

pub use client::ClientError;
pub use ledger::LedgerError;
pub use source::SourceError;
pub use tally::{Latency, Report};
pub use truth::{Duplicates, GroundTruth, Sessions, TruthError};

use ledger::Ledger;
use progress::{Goal, Progress};
use replay::Replay;
use schedule::Schedule;
use send::Shared;
use shop::Shop;
use source::{Origin, Shares, Source};
use tally::Tally;
use truth::{Truth, TruthFile};

/// How long after a stop what is in doubt is asked for and sent again.
const LAST_ANSWERS: Duration = Duration::from_secs(20);

/// A generator: sends click events to a collector and keeps a ledger of the answers.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    millrace generate --rate 2000 --duration 60s --invalid 0.005 --ledger ledger.jsonl\n  \
    millrace generate --count 100000 --rate 0 --connections 8 --ground-truth truth.json\n  \
    millrace generate --file events.json --count 500\n\n\
    It makes the traffic of a shop, unless --file or --sample says what to send. Every run has ids of its own:\n\
    --seed fixes all of an event but its ids and its time. Each pass through a file but the first gives the events\n\
    fresh ids. What is not acknowledged is sent again with the same package_id.")]
pub struct Config {
    /// The collector.
    #[arg(long, env = "MILLRACE_COLLECT_URL", default_value = "http://127.0.0.1:60000/collect", value_parser = parse_url)]
    pub url: Url,
    /// File with the write key, if the collector wants one.
    #[arg(long, env = "MILLRACE_WRITE_KEY_FILE", value_name = "FILE")]
    pub write_key_file: Option<PathBuf>,
    /// Replay the events of this JSON file, an array, again and again.
    #[arg(long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Replay a built-in file of 40 events.
    #[arg(long, conflicts_with = "file")]
    pub sample: bool,
    /// Decides what is made, and which events are invalid.
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Events a second; 0 is as fast as possible.
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u64).range(0..=100_000_000))]
    pub rate: u64,
    /// Stop after this time.
    #[arg(long, value_parser = parse_duration, value_name = "TIME")]
    pub duration: Option<Duration>,
    /// Stop after this many events.
    #[arg(long, value_name = "EVENTS")]
    pub count: Option<u64>,
    /// The most events of a request.
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    pub batch: u64,
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,
    /// Share of deliberately invalid events, from 0 to 1.
    #[arg(long, default_value_t = 0.0, value_parser = parse_share, value_name = "SHARE")]
    pub invalid: f64,
    /// Share of the visits that are told of late, by minutes to three days.
    #[arg(long, default_value_t = 0.002, value_parser = parse_share, value_name = "SHARE")]
    pub late: f64,
    /// Share of the valid events that are sent a second time after they are acknowledged.
    #[arg(long, default_value_t = 0.0, value_parser = parse_share, value_name = "SHARE")]
    pub duplicates: f64,
    /// How often an event is sent again that is not acknowledged.
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(0..=1_000_000))]
    pub retries: u32,
    /// Append what became of each event to this file.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Write what the lake must hold of this run to this file, at the end.
    #[arg(long, value_name = "FILE")]
    pub ground_truth: Option<PathBuf>,
    /// Print the counts as JSON.
    #[arg(long)]
    pub json: bool,
}

fn parse_url(text: &str) -> Result<Url, String> {
    const EXPECTED: &str = "expected http://HOST:PORT/collect";
    let url = Url::parse(text).map_err(|error| format!("{error}, {EXPECTED}"))?;
    if url.scheme() == "http" && url.has_host() { Ok(url) } else { Err(EXPECTED.to_owned()) }
}

fn parse_share(text: &str) -> Result<f64, String> {
    let share = text.parse().ok().filter(|share| (0.0..=1.0).contains(share));
    share.ok_or_else(|| "expected a number from 0 to 1".to_owned())
}

/// Why a generator can't go on.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    #[error(transparent)]
    Truth(#[from] TruthError),
    #[error(transparent)]
    Client(#[from] ClientError),
}

/// Sends events until the duration or the count is reached or `shutdown` begins; then sends again what is in doubt and
/// waits for the last answers, for 20 s at most, writes ledger and ground truth, and prints the counts to stdout.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let is_json = config.json;
    let report = generate(config, shutdown).await?;
    if is_json {
        let text = serde_json::to_string(&report).unwrap_or_else(|error| panic!("numbers: {error}"));
        println!("{text}");
    } else {
        print!("{report}");
    }
    Ok(())
}

/// [`run`] without the printing.
pub async fn generate(config: Config, shutdown: Shutdown) -> Result<Report, Error> {
    let run = format!("{:012x}", rand::rng().random::<u64>() >> 16);
    let schedule = Schedule::new(config.rate, config.batch, config.count);
    let origin = match config.file {
        Some(path) => Origin::Replay(blocking(move || Replay::file(&path)).await?),
        None if config.sample => Origin::Replay(Replay::sample()),
        None => Origin::Shop(Box::new(Shop::new(config.seed, &run, schedule.rate(), config.late))),
    };
    let shares = Shares { invalid: config.invalid, duplicates: config.duplicates };
    let key_file = config.write_key_file;
    let client = blocking(move || client::client(key_file.as_deref())).await?;
    let source = Source::new(schedule, origin, config.seed, &run, shares);
    let truth_file = match config.ground_truth {
        Some(path) => Some(blocking(move || TruthFile::open(&path)).await?),
        None => None,
    };
    let stop = CancellationToken::new();
    let (ledger, written) = match &config.ledger {
        Some(path) => Ledger::open(path, &shutdown, stop.clone()).await?,
        None => Ledger::none(),
    };
    info!(url = client::shown(&config.url), rate = config.rate, run, "generator starts");
    let shared = Arc::new(Shared {
        client,
        url: config.url,
        truth: truth_file.is_some().then(|| Truth::new(source.names(), config.seed)),
        source,
        tally: Tally::default(),
        retries: config.retries,
        stop,
        give_up: CancellationToken::new(),
        is_away: AtomicBool::new(false),
        is_surprised: AtomicBool::new(false),
    });
    let start = Instant::now();
    let connections: Vec<_> = (0..config.connections)
        .map(|number| {
            let connection = send::connection(Arc::clone(&shared), ledger.clone());
            shutdown.spawn(format!("connection {number}"), connection)
        })
        .collect();
    drop(ledger);

    let goal = match (config.count, config.duration) {
        (Some(count), _) => Goal::Events(count),
        (None, Some(span)) => Goal::Time(span),
        (None, None) => Goal::None,
    };
    watch(&shared, futures::future::join_all(connections), goal, config.duration, &shutdown).await;
    let report = shared.tally.report(start.elapsed());
    let ledger = written.result().await;
    if let (Some(file), Some(truth)) = (truth_file, &shared.truth) {
        let truth = truth.result();
        blocking(move || file.write(&truth)).await?;
    }
    ledger?;
    Ok(report)
}

/// Runs `work` off the threads that must not block.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

/// Shows the progress until `connections` have ended, and tells them when to stop.
async fn watch(
    shared: &Shared,
    connections: impl IntoFuture,
    goal: Goal,
    duration: Option<Duration>,
    shutdown: &Shutdown,
) {
    let mut progress = Progress::new(goal);
    let mut ticks = tokio::time::interval(progress.interval());
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks.reset();
    let ended = connections.into_future();
    let over = async {
        match duration {
            Some(span) => tokio::time::sleep(span).await,
            None => std::future::pending().await,
        }
    };
    let too_late = async {
        shared.stop.cancelled().await;
        tokio::time::sleep(LAST_ANSWERS).await;
    };
    tokio::pin!(ended, over, too_late);
    loop {
        tokio::select! {
            _ = &mut ended => break,
            () = &mut over, if !shared.stop.is_cancelled() => shared.stop.cancel(),
            () = shutdown.begun(), if !shared.stop.is_cancelled() => shared.stop.cancel(),
            () = &mut too_late, if !shared.give_up.is_cancelled() => shared.give_up.cancel(),
            _ = ticks.tick() => progress.show(&shared.tally),
        }
    }
    progress.end();
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Debug, Parser)]
    struct CommandLine {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn bad_flags_name_the_value_and_what_was_expected() {
        for (arguments, expected) in [
            (["--url", "localhost:60000"], "http://HOST:PORT/collect"),
            (["--url", "https://localhost/collect"], "http://HOST:PORT/collect"),
            (["--invalid", "2"], "0 to 1"),
            (["--invalid", "NaN"], "0 to 1"),
            (["--duplicates", "1.5"], "0 to 1"),
            (["--retries", "many"], "--retries"),
            (["--duration", "60"], "10s"),
            (["--batch", "0"], "1..=10000"),
            (["--rate", "fast"], "--rate"),
        ] {
            let error =
                CommandLine::try_parse_from(["generate"].iter().chain(&arguments)).expect_err("refused");
            assert!(error.to_string().contains(expected), "{error}");
        }
        let error =
            CommandLine::try_parse_from(["generate", "--sample", "--file", "x.json"]).expect_err("both");
        assert!(error.to_string().contains("--file"), "{error}");
    }
}
