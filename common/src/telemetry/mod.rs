//! What a process tells of itself while it runs: logs to stderr (plain text, JSON for collectors of logs), and, where
//! they are asked for, traces to an OTLP receiver. The process' own metrics are here, too; [`crate::http`] serves them.

mod export;
pub mod process;
pub mod tail;
mod trace;

use std::io::IsTerminal;

use tracing_subscriber::filter::{EnvFilter, FilterExt, FilterFn};
use tracing_subscriber::layer::{Layer, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

use export::Exporter;
pub use trace::{
    CommitSpans, MOST_TRACES, RecordTraces, TRACEPARENT, TRACES, continue_trace, inject, traceparent,
};

/// How the process logs, and where its traces go.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// What is logged: a level, or targets with levels (`info,millrace_worker=debug`).
    #[arg(long = "log", global = true, env = "MILLRACE_LOG", default_value = "info", value_name = "FILTER")]
    pub filter: String,
    /// Log one JSON object a line.
    #[arg(long = "log-json", global = true, env = "MILLRACE_LOG_JSON")]
    pub json: bool,
    /// Send traces there, by OTLP over gRPC (`http://127.0.0.1:4317`); none are made without it.
    #[arg(long, global = true, env = "OTEL_EXPORTER_OTLP_ENDPOINT", value_name = "URL")]
    pub otlp_endpoint: Option<String>,
    /// Share of the requests that are traced; a request that comes with a `traceparent` brings its own decision.
    #[arg(long, global = true, env = "OTEL_TRACES_SAMPLER_ARG", default_value_t = 0.001, value_parser = parse_ratio, value_name = "0..1")]
    pub trace_ratio: f64,
}

fn parse_ratio(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(ratio) if (0.0..=1.0).contains(&ratio) => Ok(ratio),
        _ => Err("expected a number from 0 (none) to 1 (all)".to_owned()),
    }
}

/// Logs and traces can't be set up as asked.
#[derive(Debug, thiserror::Error)]
pub enum InvalidConfig {
    #[error(
        "--log {value:?} can't be read ({reason}): expected a level (error, warn, info, debug, trace) or target=level pairs"
    )]
    Filter { value: String, reason: String },
    #[error(
        "--otlp-endpoint {value:?} can't be used ({reason}): expected http://HOST:PORT of a receiver of OTLP over gRPC"
    )]
    Endpoint { value: String, reason: String },
}

/// Logs and traces, as long as the process lives.
#[derive(Debug)]
#[must_use = "traces that are not sent yet are lost without finish()"]
pub struct Telemetry {
    exporter: Option<Exporter>,
}

impl Telemetry {
    /// Sends what is not sent yet; at most five seconds, for a receiver may be away. Blocks: call it last, off any
    /// runtime.
    pub fn finish(self) {
        if let Some(exporter) = self.exporter {
            exporter.finish();
        }
    }
}

/// Installs the process-wide log output and, with an endpoint, the traces of `service`. Call once, first.
pub fn install(config: &Config, service: &'static str) -> Result<Telemetry, InvalidConfig> {
    let filter = EnvFilter::builder().parse(&config.filter).map_err(|reason| InvalidConfig::Filter {
        value: config.filter.clone(),
        reason: reason.to_string(),
    })?;
    let exporter = match &config.otlp_endpoint {
        Some(endpoint) => Some(Exporter::new(endpoint, config.trace_ratio, service)?),
        None => None,
    };
    // librdkafka and the HTTP client speak through `log` targets of their own; they are loud at info.
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let lines = if config.json {
        lines.json().boxed()
    } else {
        lines.with_ansi(std::io::stderr().is_terminal()).boxed()
    };
    let kept = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(tail::Keep);
    let lines = lines.and_then(kept);
    // Without this, spans of traces would be made for the log, whether anybody traces or not.
    let lines = lines.with_filter(filter.and(FilterFn::new(|metadata| metadata.target() != TRACES)));
    let traces = exporter.as_ref().map(|exporter| trace::layer(exporter.tracer()));
    tracing_subscriber::registry().with(traces).with(lines).init();
    Ok(Telemetry { exporter })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_ratio_says_what_was_expected() {
        assert_eq!(parse_ratio("0.25"), Ok(0.25));
        for bad in ["-0.1", "1.5", "NaN", "all", ""] {
            assert!(parse_ratio(bad).expect_err(bad).contains("0 (none) to 1 (all)"));
        }
    }

    #[test]
    fn an_endpoint_that_cannot_be_used_is_named() {
        for bad in ["", "localhost:4317", "https://collector:4317", "http://", "http://a b:4317"] {
            let message = Exporter::new(bad, 1.0, "test").expect_err(bad).to_string();
            assert!(
                message.contains(&format!("{bad:?}")) && message.contains("http://HOST:PORT"),
                "{message}"
            );
        }
    }
}
