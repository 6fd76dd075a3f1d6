//! The one binary: parses the command line, sets up logs and signals, and hands over to the role's crate. A library
//! too, so that a program with transforms of its own is the same in everything else: see `docs/extending.md`.

mod ask;
mod drain;
mod pipeline;
mod rebalance;
mod slots;
mod table;
mod tail;
mod workers;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::anyhow;
use clap::{Parser, Subcommand};
use millrace_common::shutdown::Shutdown;
use millrace_common::telemetry;
use millrace_local::demo;
use millrace_transform::Registry;

/// Click events from HTTP through Kafka to a Parquet lake on S3, exactly once.
#[derive(Debug, Parser)]
#[command(
    name = "millrace",
    version,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
    millrace demo --workers 3 --rate 2000\n  \
    millrace worker --master 127.0.0.1:7077 --cores 2 --memory 2GiB\n  \
    millrace workers\n  \
    millrace submit clicks.toml"
)]
struct CommandLine {
    #[command(flatten)]
    log: telemetry::Config,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Register workers, give them the partitions, and show it on a page.
    Master(Box<millrace_master::Config>),
    /// Offer cores and memory to a master and run the partitions that it assigns.
    Worker(millrace_worker::Config),
    /// Take click events over HTTP, check them, and hand them to Kafka.
    Ingest(Box<millrace_ingest::collector::Config>),
    /// Send click events to a collector, and keep a ledger of its answers.
    Generate(Box<millrace_ingest::generator::Config>),
    /// Account for every raw offset: which are in the lake exactly once, and what is wrong.
    Verify(millrace_verify::Config),
    /// Run the whole job on this machine, each process a real one, and verify it at the end.
    Demo(Box<demo::Config>),
    /// Try records on the standard input: a worker runs this when a record may have killed it.
    #[command(hide = true)]
    TryRecords,
    /// Hand a pipeline to a master: what to read, what to make of it, where it goes.
    Submit(pipeline::Submit),
    /// List a master's pipelines, completed ones too.
    Pipelines(pipeline::List),
    /// Show one pipeline: its settings, and where each of its partitions stands.
    Describe(pipeline::Describe),
    /// Stop a pipeline after a last commit, until it is resumed.
    Pause(pipeline::Target),
    /// Let a paused pipeline, or the halted partitions of a running one, go on.
    Resume(pipeline::Target),
    /// End a pipeline after a last commit; its record, topics and lake stay.
    Kill(pipeline::Target),
    /// Show a pipeline's partitions; let halted ones go on, also without what is lost.
    #[command(subcommand)]
    Slots(slots::Slots),
    /// Show the latest rows of the running partitions, uncommitted ones marked.
    Tail(tail::Config),
    /// Move a worker's partitions to others, a few at a time, and give it no new ones.
    Drain(drain::Drain),
    /// Let a drained worker take partitions again, or stop a drain half way.
    Recommission(drain::Recommission),
    /// Show which partitions would move to even out the load, and why; or move them now.
    Rebalance(rebalance::Config),
    /// List a master's workers: id, pid, state, cores, memory, partitions.
    Workers(workers::Config),
}

impl Command {
    /// Name of the process in its traces.
    fn service(&self) -> &'static str {
        match self {
            Self::Master(_) => "millrace-master",
            Self::Worker(_) => "millrace-worker",
            Self::Ingest(_) => "millrace-ingest",
            Self::Generate(_) => "millrace-generate",
            _ => "millrace",
        }
    }
}

/// How long blocking calls that are under way at the end may take before the process leaves anyway.
const LAST_THREADS: Duration = Duration::from_secs(5);

/// Runs the command line of this process with the kinds of transform that its pipelines may name.
pub fn main(transforms: &Registry) -> ExitCode {
    let CommandLine { log, command } = CommandLine::parse();
    let telemetry = match telemetry::install(&log, command.service()) {
        Ok(telemetry) => telemetry,
        Err(error) => {
            eprintln!("millrace: {error}");
            return ExitCode::from(2);
        }
    };
    let outcome = run(command, transforms);
    telemetry.finish();
    match outcome {
        Ok(code) => code,
        // Every error's own text tells its causes too.
        Err(error) => {
            eprintln!("millrace: {error}");
            let is_usage = matches!(error.downcast_ref(), Some(demo::Error::Flags(_)))
                || error.downcast_ref().is_some_and(ask::Error::is_usage);
            if is_usage { ExitCode::from(2) } else { ExitCode::FAILURE }
        }
    }
}

fn run(command: Command, transforms: &Registry) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| anyhow!("the threads of the runtime can't be started: {error}"))?;
    let outcome = runtime.block_on(carry_out(command, transforms));
    // A transform that never returns must not keep the process: what it did not commit is redone by others.
    runtime.shutdown_timeout(LAST_THREADS);
    outcome
}

async fn carry_out(command: Command, transforms: &Registry) -> anyhow::Result<ExitCode> {
    let shutdown = Shutdown::on_signals().map_err(|error| anyhow!("signals can't be received: {error}"))?;
    let stop = shutdown.clone();
    let is_well = match command {
        Command::Master(config) => {
            millrace_master::run(*config, transforms.clone(), shutdown).await.map(|()| true)?
        }
        Command::Worker(config) => {
            millrace_worker::run(config, transforms.clone(), shutdown).await.map(|()| true)?
        }
        Command::Ingest(config) => millrace_ingest::collector::run(*config, shutdown).await.map(|()| true)?,
        Command::Generate(config) => {
            millrace_ingest::generator::run(*config, shutdown).await.map(|()| true)?
        }
        Command::Verify(config) => millrace_verify::run(config, transforms, shutdown).await?.clean,
        Command::Demo(config) => demo::run(*config, shutdown).await? == demo::Outcome::Clean,
        Command::TryRecords => tokio::task::block_in_place(|| millrace_worker::try_records(transforms))
            .map(|()| true)
            .map_err(|error| anyhow!("the worker's records can't be tried: {error}"))?,
        Command::Submit(config) => pipeline::submit(config, transforms).await.map(|()| true)?,
        Command::Pipelines(config) => pipeline::list(config).await.map(|()| true)?,
        Command::Describe(config) => pipeline::describe(config).await.map(|()| true)?,
        Command::Pause(target) => pipeline::pause(target).await.map(|()| true)?,
        Command::Resume(target) => pipeline::resume(target).await.map(|()| true)?,
        Command::Kill(target) => pipeline::kill(target).await.map(|()| true)?,
        Command::Slots(slots) => slots::run(slots).await.map(|()| true)?,
        Command::Tail(config) => tail::run(config, shutdown).await.map(|()| true)?,
        Command::Drain(config) => drain::drain(config).await.map(|()| true)?,
        Command::Recommission(config) => drain::recommission(config).await.map(|()| true)?,
        Command::Rebalance(config) => rebalance::run(config).await.map(|()| true)?,
        Command::Workers(config) => workers::run(config).await.map(|()| true)?,
    };
    Ok(if is_well && !stop.has_failed() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
