//! `millrace-chaos`: parses the flags, makes a run, prints the report.

use std::fs;
use std::process::ExitCode;

use anyhow::Context;
use clap::Parser;
use millrace_chaos::{Config, Report, run};
use millrace_common::shutdown::Shutdown;

fn main() -> ExitCode {
    let config = Config::parse();
    match make(&config) {
        Ok(report) if report.exact => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("millrace-chaos: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn make(config: &Config) -> anyhow::Result<Report> {
    let shutdown = Shutdown::on_signals().context("signals can't be received")?;
    let report = run(config, &shutdown).await?;
    let (json, table) = (serde_json::to_string_pretty(&report)?, report.table());
    for (path, text) in [(&config.report, &json), (&config.table, &table)] {
        if let Some(path) = path {
            fs::write(path, text).with_context(|| format!("{} can't be written", path.display()))?;
        }
    }
    println!("{json}");
    eprintln!("\n{table}");
    eprintln!(
        "seed {}: {} events acknowledged, {} missing, {} twice, {} faults in {} s: {}",
        report.seed,
        report.acknowledged,
        report.missing,
        report.duplicates,
        report.cycles,
        report.elapsed_ms / 1000,
        if report.exact { "exact" } else { "NOT EXACT" }
    );
    Ok(report)
}
