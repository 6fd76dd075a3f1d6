//! `millrace-bench`: what the shipped processes cost, on a real Kafka and a real S3 server, in processor time as the
//! operating system counts it. Measures the processes from outside; has no way into them that a user has not.

mod cluster;
mod drain;
mod figures;
mod parts;
mod process;
mod report;
mod traffic;

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::parts::Parts;
use crate::report::{Machine, Report};

/// Measures Millrace. Each part makes its own Kafka and S3 server, in a folder that goes with them.
#[derive(Debug, Parser)]
#[command(
    name = "millrace-bench",
    after_help = "Examples:\n  \
    millrace-bench drain\n  \
    millrace-bench drain --events 500000 --rounds 1 --sinks both --input none --cores 1"
)]
struct Arguments {
    #[command(subcommand)]
    part: Part,
    /// Write the figures to this file as JSON.
    #[arg(long, global = true, value_name = "FILE")]
    json: Option<PathBuf>,
    /// The `millrace` to measure; by default the one beside this program.
    #[arg(long, global = true, value_name = "FILE")]
    program: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// One worker takes in what lies ready in the raw topic.
    Drain(drain::Config),
}

/// Where a part runs.
struct Scene<'a> {
    program: &'a Path,
    parts: &'a Parts,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let Arguments { part, json, program } = Arguments::parse();
    let program = match program {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("millrace"),
    };
    anyhow::ensure!(
        program.is_file(),
        "no millrace at {}; `cargo build --release -p millrace` makes it",
        program.display()
    );
    let mut parts = Parts::start().await?;
    let scene = Scene { program: &program, parts: &parts };
    let table = match &part {
        Part::Drain(config) => drain::run(&scene, config).await,
    };
    let report = Report { machine: Machine::read(), tables: vec![table?] };
    parts.stop().await;
    println!("{}", report.markdown());
    if let Some(path) = json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(&path, text).with_context(|| format!("{} can't be written", path.display()))?;
    }
    Ok(())
}
