//! Logs to stderr: plain text by default, JSON for collectors of logs.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

/// How the process logs.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// What is logged: a level, or targets with levels (`info,millrace_worker=debug`).
    #[arg(long = "log", global = true, env = "MILLRACE_LOG", default_value = "info", value_name = "FILTER")]
    pub filter: String,
    /// Log one JSON object a line.
    #[arg(long = "log-json", global = true, env = "MILLRACE_LOG_JSON")]
    pub json: bool,
}

/// The value of `--log` can't be read.
#[derive(Debug, thiserror::Error)]
#[error(
    "--log {value:?} can't be read ({reason}): expected a level (error, warn, info, debug, trace) or target=level pairs"
)]
pub struct InvalidFilter {
    value: String,
    reason: String,
}

/// Installs the process-wide log output. Call once, first.
pub fn install(config: &Config) -> Result<(), InvalidFilter> {
    let filter = EnvFilter::builder()
        .parse(&config.filter)
        .map_err(|reason| InvalidFilter { value: config.filter.clone(), reason: reason.to_string() })?;
    // librdkafka and the HTTP client speak through `log` targets of their own; they are loud at info.
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if config.json {
        lines.json().init();
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).init();
    }
    Ok(())
}
