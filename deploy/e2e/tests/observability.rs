//! Traces, metrics and live rows of real processes, as a person's own tools see them.

use std::collections::{BTreeMap, BTreeSet};

use millrace_e2e::{Demo, Receiver, Span};
use serde_json::Value;

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const CLIENT_SPAN: &str = "00f067aa0ba902b7";
const EVENT: &str = r#"{"id": 1, "type": "click", "package_id": "traced-1", "event": {"user_agent": "Mozilla/5.0",
    "ip": "192.168.1.1", "customer_id": 12345, "timestamp": "2024-01-01T00:00:00Z", "page": "/home"}}"#;

fn named<'a>(spans: &'a [Span], name: &str) -> Vec<&'a Span> {
    spans.iter().filter(|span| span.trace == TRACE && span.name == name).collect()
}

/// The publication of the file that holds the event: its day's. The flush may publish others whose offsets surround
/// it.
fn published(spans: &[Span]) -> Span {
    let files = named(spans, "publish");
    let own = files.iter().find(|span| span.attributes["key"].starts_with("year=2024/month=01/day=01/"));
    let own = own.unwrap_or_else(|| panic!("no file of the event's day: {files:#?}"));
    assert!(own.attributes["key"].ends_with(".parquet"), "{own:#?}");
    (*own).clone()
}

#[tokio::test]
async fn one_request_is_one_trace_from_http_to_both_sinks_and_the_object() {
    let receiver = Receiver::start().await;
    let flags = ["--rate", "200", "--workers", "1", "--cores", "2", "--roll-age", "1s"];
    // No request but the one that brings its own decision.
    let environment =
        [("OTEL_EXPORTER_OTLP_ENDPOINT", &*receiver.endpoint()), ("OTEL_TRACES_SAMPLER_ARG", "0")];
    let mut demo = Demo::start_in(&flags, &environment).await;
    demo.until_all_run().await;
    let answer = reqwest::Client::new()
        .post(demo.collect_url())
        .header("Content-Type", "application/json")
        .header("traceparent", format!("00-{TRACE}-{CLIENT_SPAN}-01"))
        .body(EVENT)
        .send()
        .await
        .expect("answer");
    assert_eq!(answer.status(), 200);
    let names = ["POST /collect", "commit", "flush", "publish"];
    let spans = receiver
        .until("the whole trace", |spans| {
            names.iter().all(|name| !named(spans, name).is_empty()) && named(spans, "commit").len() >= 2
        })
        .await;

    let only = |name: &str| match &named(&spans, name)[..] {
        [one] => (*one).clone(),
        several => panic!("one {name}: {several:#?}"),
    };
    let (request, flush, publish) = (only("POST /collect"), only("flush"), published(&spans));
    assert_eq!((request.service.as_str(), request.parent.as_str()), ("millrace-ingest", CLIENT_SPAN));
    assert_eq!(request.attributes["http.response.status_code"], "200");
    assert_eq!((flush.service.as_str(), &flush.parent), ("millrace-worker", &request.id));
    assert_eq!((publish.service.as_str(), &publish.parent), ("millrace-worker", &flush.id));
    let commits: BTreeMap<_, _> =
        named(&spans, "commit").into_iter().map(|span| (span.attributes["sink"].as_str(), span)).collect();
    assert_eq!(commits["topic"].parent, request.id);
    assert_eq!(commits["lake"].parent, flush.id);
    let offsets: BTreeSet<_> =
        [&flush, &publish, commits["topic"], commits["lake"]].map(|span| &span.attributes["offset"]).into();
    assert_eq!(offsets.len(), 1, "all are of the one record");
    let foreign: Vec<_> = spans.iter().filter(|span| span.trace != TRACE).collect();
    assert!(foreign.is_empty(), "nobody else is traced: {foreign:#?}");
    demo.interrupt().await;
}

/// Names of the metric families in OpenMetrics text, with their kind; each must have a help text.
fn families(text: &str) -> BTreeMap<String, String> {
    let described = |prefix: &str| {
        let lines = text.lines().filter_map(|line| line.strip_prefix(prefix)?.split_once(' '));
        lines.map(|(name, rest)| (name.to_owned(), rest.to_owned())).collect::<BTreeMap<_, _>>()
    };
    let (kinds, helps) = (described("# TYPE "), described("# HELP "));
    for name in kinds.keys() {
        assert!(helps.get(name).is_some_and(|help| help.len() > 10), "{name} has no help text");
    }
    assert!(text.ends_with("# EOF\n"), "the text was cut");
    kinds
}

/// A row of the page's tables.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Documented {
    kind: String,
    /// Appears with the first event that it counts.
    may_be_absent: bool,
}

/// The tables of the page: metrics by process.
fn documented() -> BTreeMap<String, BTreeMap<String, Documented>> {
    let page = include_str!("../../../docs/observability.md");
    let mut section = String::new();
    let mut all: BTreeMap<String, BTreeMap<String, Documented>> = BTreeMap::new();
    for line in page.lines() {
        if line.starts_with("## ") {
            section.clear();
        } else if let Some(title) = line.strip_prefix("### ") {
            section = title.to_lowercase();
        } else if let Some(rest) = line.strip_prefix("| `").filter(|_| !section.is_empty()) {
            let cells: Vec<_> = rest.split('|').map(str::trim).collect();
            let [name, kind, meaning, ""] = cells[..] else { panic!("three cells: {line}") };
            assert!(!meaning.is_empty(), "{line}");
            let may_be_absent = kind.ends_with('†');
            let kind = kind.trim_end_matches([' ', '†']).to_owned();
            let name = name.trim_end_matches('`').to_owned();
            let doubled =
                all.entry(section.clone()).or_default().insert(name, Documented { kind, may_be_absent });
            assert_eq!(doubled, None, "twice in {section}: {line}");
        }
    }
    all
}

#[tokio::test]
async fn every_metric_is_documented_and_every_documented_metric_is_there() {
    let mut demo =
        Demo::start(&["--rate", "200", "--workers", "1", "--cores", "2", "--roll-age", "1s"]).await;
    demo.until_all_run().await;
    demo.until_all_commit().await;
    let worker = demo.workers().await.into_iter().next().expect("a worker");
    let address = worker["address"].as_str().unwrap_or_else(|| panic!("no address: {worker:#}"));
    let addresses = [
        ("master", format!("http://127.0.0.1:{}/metrics", demo.ports.port(4))),
        ("worker", format!("http://{}/metrics", address.trim_start_matches("http://").trim_end_matches('/'))),
        ("collector", demo.collect_url().replace("/collect", "/metrics")),
    ];
    let mut documented = documented();
    let everywhere = documented.remove("every process").expect("the table of every process");
    for (process, address) in addresses {
        let answer = reqwest::get(&address).await.expect("answer").error_for_status().expect("metrics");
        let found = families(&answer.text().await.expect("text"));
        let mut expected = documented.remove(process).unwrap_or_else(|| panic!("no table of the {process}"));
        expected.extend(everywhere.clone());
        expected.retain(|name, metric| found.contains_key(name) || !metric.may_be_absent);
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|(name, metric)| (name, metric.kind)).collect();
        assert_eq!(
            found, expected,
            "docs/observability.md (right) and the {process} at {address} (left) differ"
        );
        let prefix = format!("millrace_{process}_");
        for name in found.keys() {
            assert!(name.starts_with(&prefix) || name.starts_with("process_"), "{name} is the {process}'s?");
        }
    }
    assert!(documented.values().all(BTreeMap::is_empty), "tables of no process: {documented:?}");
    demo.interrupt().await;
}

#[tokio::test]
async fn tail_shows_live_rows_and_says_which_are_committed() {
    // Files roll late: what is new is not committed for long.
    let mut demo =
        Demo::start(&["--rate", "300", "--workers", "2", "--cores", "2", "--roll-age", "10m"]).await;
    demo.until_all_run().await;
    let master = demo.master();
    let line = ["tail", "--master", &master, "--json", "-n", "5"];
    let rows = loop {
        let (output, status) = demo.run(&line).await;
        assert!(status.success(), "{output}");
        let rows: Vec<Value> = output.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let partitions: BTreeSet<_> = rows.iter().map(|row| row["partition"].as_i64()).collect();
        if partitions.len() == 6 {
            break rows;
        }
    };
    for row in &rows {
        assert_eq!(row["committed"], false, "{row:#}");
        assert!(row["slot"].is_string() && row["offset"].is_i64(), "{row:#}");
        assert!(row["row"]["package_id"].is_string(), "{row:#}");
    }
    let (output, status) = demo.run(&["tail", "--master", &master, "--partition", "3", "-n", "2"]).await;
    assert!(status.success(), "{output}");
    assert!(output.lines().all(|line| line.contains("/3@") && line.contains(" uncommitted ")), "{output}");
    let (output, status) = demo.run(&["tail", "--master", &master, "--pipeline", "nobody"]).await;
    assert!(!status.success() && output.contains("no partition of pipeline \"nobody\" runs"), "{output}");
    demo.interrupt().await;
}
