//! A receiver of OTLP that is none of ours: the Rotel collector, which tells what it was sent in its log.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use millrace_local::{Part, PortBlock, PortUse, Probe, Program};
use tempfile::TempDir;

use crate::demo::{PATIENCE, POLL};
use crate::s3proxy::get;

/// Named where a port is taken; the tests choose free ones.
const FLAG: &str = "a test of its own";

/// The receiver, running.
#[derive(Debug)]
pub struct Receiver {
    _part: Part,
    log: PathBuf,
    ports: PortBlock,
    _folder: TempDir,
}

/// A span as it arrived.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Span {
    pub service: String,
    pub name: String,
    /// 32 hex digits.
    pub trace: String,
    /// 16 hex digits.
    pub id: String,
    /// Empty for the first of a trace.
    pub parent: String,
    pub attributes: BTreeMap<String, String>,
}

impl Receiver {
    /// Starts it and waits until it listens.
    ///
    /// # Panics
    /// When it can't be had or does not start.
    pub async fn start() -> Self {
        let program = get("rotel", "rotel").await.expect("rotel");
        let folder = tempfile::tempdir().expect("folder");
        let ports = PortBlock::find().expect("free ports");
        let log = folder.path().join("rotel.log");
        let path = |name: &str| folder.path().join(name).display().to_string();
        let program = Program::new("Rotel", program, &log)
            .arguments(["start", "--exporter", "blackhole", "--debug-log", "traces"])
            .arguments([
                "--debug-log-verbosity",
                "detailed",
                "--pid-file",
                &path("pid"),
                "--log-file",
                &path("log"),
            ])
            .arguments(["--otlp-grpc-endpoint", &format!("127.0.0.1:{}", ports.port(0))])
            .arguments(["--otlp-http-endpoint", &format!("127.0.0.1:{}", ports.port(1))]);
        let used = [0, 1].map(|index| PortUse { port: ports.port(index), flag: FLAG });
        let mut part = Part::new(program, used.to_vec(), Probe::Tcp { port: ports.port(0) });
        part.start().await.expect("rotel starts");
        Self { _part: part, log, ports, _folder: folder }
    }

    /// What `--otlp-endpoint` takes.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.ports.port(0))
    }

    /// Everything that it was sent so far.
    pub fn spans(&self) -> Vec<Span> {
        spans(&read(&self.log))
    }

    /// Waits until what it was sent is `enough`.
    ///
    /// # Panics
    /// When that takes minutes.
    pub async fn until(&self, what: &str, enough: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let began = Instant::now();
        loop {
            let spans = self.spans();
            if enough(&spans) {
                return spans;
            }
            assert!(began.elapsed() < PATIENCE, "{what} does not come; it was sent:\n{}", read(&self.log));
            tokio::time::sleep(POLL).await;
        }
    }
}

fn read(log: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(log).expect("log")).into_owned()
}

/// The spans of the log's own form: `Name           : commit`, and below `Attributes:` lines `-> key: Str(value)`.
fn spans(log: &str) -> Vec<Span> {
    let mut found: Vec<Span> = Vec::new();
    let mut service = String::new();
    let mut in_span = false;
    for line in log.lines().map(str::trim) {
        if line.starts_with("ResourceSpans #") {
            in_span = false;
        } else if line.starts_with("Span #") {
            in_span = true;
            found.push(Span { service: service.clone(), ..Span::default() });
        } else if let Some((key, value)) =
            line.strip_prefix("-> ").and_then(|attribute| attribute.split_once(": "))
        {
            let value = value.split_once('(').and_then(|(_, value)| value.strip_suffix(')')).unwrap_or(value);
            match found.last_mut().filter(|_| in_span) {
                Some(span) => drop(span.attributes.insert(key.to_owned(), value.to_owned())),
                None if key == "service.name" => value.clone_into(&mut service),
                None => {}
            }
        } else if let (Some(span), Some((key, value))) =
            (found.last_mut().filter(|_| in_span), line.split_once(':'))
        {
            let field = match key.trim() {
                "Trace ID" => &mut span.trace,
                "Parent ID" => &mut span.parent,
                "ID" => &mut span.id,
                "Name" => &mut span.name,
                _ => continue,
            };
            value.trim().clone_into(field);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_read_from_the_log() {
        let log = "INFO Starting Rotel.\nResourceSpans #0\nResource attributes:\n     -> service.name: Str(millrace-worker)\n\
            ScopeSpans #0\nInstrumentationScope millrace \nSpan #0\n    Trace ID       : 0af7\n    Parent ID      : b7ad\n    \
            ID             : b7ae\n    Name           : publish\n    Kind           : SPAN_KIND_INTERNAL\nAttributes:\n     \
            -> key: Str(year=2024/x.parquet)\n     -> offset: Int(5)\n";
        let expected = Span {
            service: "millrace-worker".into(),
            name: "publish".into(),
            trace: "0af7".into(),
            id: "b7ae".into(),
            parent: "b7ad".into(),
            attributes: [("key", "year=2024/x.parquet"), ("offset", "5")]
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .into(),
        };
        assert_eq!(spans(log), [expected]);
    }
}
