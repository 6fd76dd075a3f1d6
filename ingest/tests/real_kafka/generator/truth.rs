//! The ground truth against what lies in Kafka, which is read here by a reader of the test's own.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use millrace_common::headers;
use millrace_common::ledger::Answer;
use millrace_common::shutdown::Shutdown;
use millrace_ingest::generator::{Duplicates, GroundTruth, Report, Sessions, generate};
use serde_json::Value;

use super::{config, counted, read};
use crate::topics::{Record, Topics};

pub(super) struct Places {
    _folder: tempfile::TempDir,
    pub(super) ledger: PathBuf,
    pub(super) truth: PathBuf,
}

impl Places {
    pub(super) fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let (ledger, truth) = (folder.path().join("ledger.jsonl"), folder.path().join("truth.json"));
        Self { _folder: folder, ledger, truth }
    }

    pub(super) async fn run(&self, base: &str, flags: &[&str], shutdown: Shutdown) -> Report {
        let truth = ["--ground-truth", self.truth.to_str().expect("UTF-8")];
        let url = format!("{base}/collect");
        generate(config(&url, &self.ledger, &[&truth[..], flags].concat()), shutdown).await.expect("a report")
    }

    pub(super) fn ground_truth(&self) -> GroundTruth {
        read_truth(&self.truth)
    }
}

fn read_truth(path: &Path) -> GroundTruth {
    let text = std::fs::read_to_string(path).expect("a ground truth");
    serde_json::from_str(&text).expect("its form")
}

/// What the records of the raw topic say, each key counted once: `truth` but for what only the generator knows.
pub(super) fn of_raw(raw: &[Record], truth: &GroundTruth) -> GroundTruth {
    let by_key: BTreeMap<&str, Value> = raw
        .iter()
        .map(|record| {
            let value = serde_json::from_str(&record.value).expect("JSON");
            (record.key.as_deref().expect("a key"), value)
        })
        .collect();
    let events: Vec<&Value> = by_key.values().collect();
    let count = |name: &dyn Fn(&Value) -> Option<String>| -> BTreeMap<String, u64> {
        let counts = counted(events.iter().filter_map(|event| name(event)));
        counts.into_iter().map(|(name, count)| (name, count as u64)).collect()
    };
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let path = |page: &str| {
        let page = page.strip_prefix("https://shop.example.com").unwrap_or(page);
        page.split_once('?').map_or(page, |(path, _)| path).to_owned()
    };
    let sessions = count(&|event| text(&event["event"]["session_id"]));
    let by_events = counted(sessions.values().copied());
    let with_session: u64 = sessions.values().sum();
    let by_page = count(&|event| event["event"]["page"].as_str().map(path));
    let with_page: u64 = by_page.values().sum();
    let all = events.len() as u64;
    let quantity = |event: &Value| event["event"]["quantity"].as_i64().unwrap_or(0);
    let cents = |event: &Value| {
        let price = event["event"]["price"].as_f64().filter(|_| event["type"] == "purchase");
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            reason = "an amount of money"
        )]
        price.map_or(0, |price| (price * quantity(event) as f64 * 100.0).round() as i64)
    };
    GroundTruth {
        acknowledged: all,
        by_type: count(&|event| text(&event["type"])),
        by_day: count(&|event| event["event"]["timestamp"].as_str().map(|time| time[..10].to_owned())),
        by_page,
        without_page: all - with_page,
        sessions: Sessions {
            count: sessions.len() as u64,
            by_events: by_events.into_iter().map(|(events, count)| (events, count as u64)).collect(),
            without: all - with_session,
            events: Some(sessions),
        },
        quantity: events.iter().map(|event| quantity(event)).sum(),
        revenue_cents: events.iter().map(|event| cents(event)).sum(),
        ..truth.clone()
    }
}

pub(super) fn codes(invalid: &[Record]) -> BTreeMap<String, u64> {
    let code = |record: &Record| {
        let reason = record.headers.iter().find(|(name, _)| name == headers::REASON);
        reason.expect("a reason").1.clone()
    };
    counted(invalid.iter().map(code)).into_iter().map(|(code, count)| (code, count as u64)).collect()
}

#[tokio::test]
async fn the_ground_truth_is_what_lies_in_kafka() {
    let topics = Topics::new();
    let collector = topics.collector(&[]).await;
    let places = Places::new();
    let flags = [
        "--rate",
        "0",
        "--count",
        "8000",
        "--batch",
        "50",
        "--invalid",
        "0.05",
        "--late",
        "0.1",
        "--duplicates",
        "0.05",
    ];
    let report = places.run(&collector.base, &flags, Shutdown::new()).await;
    collector.stop().await;
    let truth = places.ground_truth();
    assert_eq!((report.ok + report.invalid, report.resent), (8000, 0), "{report:?}");
    assert_eq!((truth.acknowledged, truth.unknown), (report.ok, 0));

    let raw = topics.read(&topics.raw).await;
    assert_eq!(of_raw(&raw, &truth), truth);
    // Days before today's, people who bought, crawlers.
    assert!(truth.by_day.len() > 1 && truth.revenue_cents > 0 && truth.sessions.without > 0, "{truth:?}");
    assert!(truth.by_page.len() > 100 && truth.sessions.by_events.len() > 5, "{truth:?}");

    let copies = raw.len() as u64 - truth.acknowledged;
    assert_eq!(truth.duplicates, Duplicates { acknowledged: copies, unknown: 0 });
    assert_eq!(report.duplicates, copies);
    assert!((200..600).contains(&copies), "{copies} of 7600");
    // The second copy is the first one's, byte for byte, and behind it in its partition.
    let mut values: BTreeMap<&str, (&str, i32)> = BTreeMap::new();
    for record in &raw {
        let this = (record.value.as_str(), record.partition);
        assert_eq!(*values.entry(record.key.as_deref().expect("a key")).or_insert(this), this);
    }

    let codes = codes(&topics.read(&topics.invalid).await);
    assert_eq!(codes, truth.invalid_by_code);
    assert_eq!(codes.len(), 13, "{codes:?}");
    let entries = read(&places.ledger);
    assert_eq!(entries.len(), 8000);
    let ids =
        counted(entries.iter().filter(|entry| entry.answer == Answer::Ok).map(|entry| &entry.package_id));
    assert_eq!(ids.len() as u64, truth.acknowledged);
}

#[tokio::test]
async fn a_replayed_file_has_a_ground_truth_too() {
    let topics = Topics::new();
    let collector = topics.collector(&[]).await;
    let places = Places::new();
    let report =
        places.run(&collector.base, &["--sample", "--rate", "0", "--count", "1000"], Shutdown::new()).await;
    collector.stop().await;
    let truth = places.ground_truth();
    assert_eq!((report.ok, truth.acknowledged), (1000, 1000), "{report:?}");
    // One event of the sample lies one hour east of UTC, and all its days are days of UTC.
    assert_eq!(of_raw(&topics.read(&topics.raw).await, &truth), truth);
    assert!(truth.by_day.contains_key("2024-02-29"), "{truth:?}");
}

#[tokio::test]
async fn a_stop_by_hand_leaves_ledger_and_ground_truth_whole() {
    let topics = Topics::new();
    let collector = topics.collector(&[]).await;
    let places = Places::new();
    let shutdown = Shutdown::new();
    let began = shutdown.clone();
    let running = places.run(&collector.base, &["--rate", "2000", "--duplicates", "0.2"], began);
    let stopped = async {
        let acknowledged = async |collector: &crate::scene::Collector| {
            let (_, metrics) = collector.get("/metrics").await;
            let counts = metrics.lines().filter(|line| line.starts_with("millrace_collector_events_total"));
            counts.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum::<u64>() > 1000
        };
        collector.until("a thousand events", acknowledged).await;
        shutdown.begin();
    };
    let (report, ()) = tokio::join!(running, stopped);
    collector.stop().await;
    let truth = places.ground_truth();
    assert_eq!((report.sent, report.ok), (truth.acknowledged, truth.acknowledged), "{report:?}");
    assert_eq!(read(&places.ledger).len() as u64, report.ok);
    let raw = topics.read(&topics.raw).await;
    assert_eq!(of_raw(&raw, &truth), truth);
    assert_eq!(raw.len() as u64, truth.acknowledged + truth.duplicates.acknowledged);
}
