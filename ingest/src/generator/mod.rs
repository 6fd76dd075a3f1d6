//! The generator: sends click events to a collector at a rate, and keeps a ledger of what became of each. It does
//! not resend: an event without an answer is unknown, and stands in the ledger as such.
//!
//! `source` makes the events, `schedule` says when each is due, `send` sends them, `ledger` writes down the answers.

mod invalid;
mod ledger;
mod progress;
mod replay;
mod schedule;
mod seeded;
mod send;
mod source;
mod tally;

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

pub use ledger::LedgerError;
pub use source::SourceError;
pub use tally::{Latency, Report};

use ledger::Ledger;
use progress::{Goal, Progress};
use replay::Replay;
use schedule::Schedule;
use send::Shared;
use source::{Origin, Source};
use tally::Tally;

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Longer than a collector takes with its own time-outs at their defaults.
const ANSWER_DEADLINE: Duration = Duration::from_secs(40);
/// Shorter than the collector keeps an idle connection: a request on one that is just closed would be unknown.
const IDLE_CONNECTION: Duration = Duration::from_secs(20);

/// A generator: sends click events to a collector and keeps a ledger of the answers.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    millrace generate --rate 2000 --duration 60s --ledger ledger.jsonl\n  \
    millrace generate --file events.json --count 500\n  \
    millrace generate --seeded --seed 7 --rate 0 --connections 8 --invalid 0.01\n\n\
    Every run has ids of its own: --seed fixes all of an event but its ids and its time. Without --file and\n\
    --seeded it replays a built-in sample. Each pass through a file but the first gives the events fresh ids.")]
pub struct Config {
    /// The collector.
    #[arg(long, env = "MILLRACE_COLLECT_URL", default_value = "http://127.0.0.1:60000/collect", value_parser = parse_url)]
    pub url: Url,
    /// Replay the events of this JSON file, an array, again and again.
    #[arg(long, value_name = "FILE", conflicts_with = "seeded")]
    pub file: Option<PathBuf>,
    /// Make events instead of replaying some.
    #[arg(long)]
    pub seeded: bool,
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
    /// Append what became of each event to this file.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
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
    #[error("the HTTP client can't be set up: {0}")]
    Client(#[from] reqwest::Error),
}

/// Sends events until the duration or the count is reached or `shutdown` begins; then waits for the last answers,
/// writes the ledger, and prints the counts to stdout.
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
    let origin = match config.file {
        Some(path) => Origin::Replay(read_file(path).await?),
        None if config.seeded => Origin::Seeded,
        None => Origin::Replay(Replay::sample()),
    };
    let run = format!("{:012x}", rand::rng().random::<u64>() >> 16);
    let stop = CancellationToken::new();
    let (ledger, written) = match &config.ledger {
        Some(path) => Ledger::open(path, &shutdown, stop.clone()).await?,
        None => Ledger::none(),
    };
    let client = reqwest::Client::builder()
        .no_proxy()
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(ANSWER_DEADLINE)
        .pool_idle_timeout(IDLE_CONNECTION)
        .tcp_nodelay(true)
        .build()?;
    info!(url = %config.url, rate = config.rate, run, "generator starts");
    let shared = Arc::new(Shared {
        client,
        url: config.url,
        source: Source { origin, seed: config.seed, run, invalid: config.invalid },
        schedule: Schedule::new(config.rate, config.batch, config.count),
        tally: Tally::default(),
        stop,
        is_away: AtomicBool::new(false),
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
    written.result().await?;
    Ok(report)
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
    tokio::pin!(ended, over);
    loop {
        tokio::select! {
            _ = &mut ended => break,
            () = &mut over, if !shared.stop.is_cancelled() => shared.stop.cancel(),
            () = shutdown.begun(), if !shared.stop.is_cancelled() => shared.stop.cancel(),
            _ = ticks.tick() => progress.show(&shared.tally),
        }
    }
    progress.end();
}

async fn read_file(path: PathBuf) -> Result<Replay, SourceError> {
    tokio::task::spawn_blocking(move || Replay::file(&path))
        .await
        .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
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
            (["--duration", "60"], "10s"),
            (["--batch", "0"], "1..=10000"),
            (["--rate", "fast"], "--rate"),
        ] {
            let error =
                CommandLine::try_parse_from(["generate"].iter().chain(&arguments)).expect_err("refused");
            assert!(error.to_string().contains(expected), "{error}");
        }
        let error =
            CommandLine::try_parse_from(["generate", "--seeded", "--file", "x.json"]).expect_err("both");
        assert!(error.to_string().contains("--file"), "{error}");
    }
}
