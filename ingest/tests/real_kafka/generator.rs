//! The generator's ledger against what lies in Kafka.

mod resend;
mod truth;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use clap::Parser;
use millrace_common::event::canonical_hash;
use millrace_common::ledger::{Answer, Entry, each_entry};
use millrace_common::shutdown::Shutdown;
use millrace_ingest::generator::{self, Report, generate};
use sha2::{Digest, Sha256};

use crate::scene::{self, Collector, free_port};
use crate::topics::{Record, Topics};

#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    config: generator::Config,
}

fn config(url: &str, ledger: &Path, flags: &[&str]) -> generator::Config {
    let common = ["generate", "--url", url, "--ledger", ledger.to_str().expect("UTF-8")];
    CommandLine::parse_from(common.iter().chain(flags)).config
}

async fn run(base: &str, ledger: &Path, flags: &[&str]) -> Report {
    generate(config(&format!("{base}/collect"), ledger, flags), Shutdown::new()).await.expect("a report")
}

fn read(ledger: &Path) -> Vec<Entry> {
    let mut entries = Vec::new();
    each_entry(ledger, |entry| entries.push(entry.clone())).expect("a ledger");
    entries
}

fn counted<T: Ord>(items: impl IntoIterator<Item = T>) -> BTreeMap<T, usize> {
    let mut counts = BTreeMap::new();
    for item in items {
        *counts.entry(item).or_default() += 1;
    }
    counts
}

/// Hashes of the entries with this answer, and of the records: both must be the same.
fn assert_same(entries: &[Entry], answer: Answer, records: &[Record], hash: impl Fn(&[u8]) -> [u8; 32]) {
    let noted = counted(entries.iter().filter(|entry| entry.answer == answer).map(|entry| entry.sha256));
    let there = counted(records.iter().map(|record| hash(&record.bytes)));
    assert!(noted == there, "{answer:?}: {} noted, {} there", noted.len(), there.len());
}

#[tokio::test]
async fn the_ledger_has_exactly_what_lies_in_kafka() {
    let topics = Topics::new();
    let collector = topics.collector(&[]).await;
    let folder = tempfile::tempdir().expect("folder");
    let ledger = folder.path().join("ledger.jsonl");
    let made = ["--seed", "3", "--rate", "0", "--count", "3000", "--invalid", "0.1"];
    let report = run(&collector.base, &ledger, &made).await;
    assert_eq!((report.sent, report.ok + report.invalid, report.unexpected), (3000, 3000, 0), "{report:?}");
    assert!(report.invalid > 200, "{report:?}");
    // A second run with the same seed, and the sample several times over: no event twice.
    run(&collector.base, &ledger, &made).await;
    run(&collector.base, &ledger, &["--sample", "--rate", "0", "--count", "1000", "--batch", "7"]).await;
    let single =
        run(&collector.base, &ledger, &["--rate", "0", "--count", "50", "--batch", "1", "--invalid", "0.5"]);
    assert_eq!(single.await.unexpected, 0);
    collector.stop().await;

    let entries = read(&ledger);
    assert_eq!(entries.len(), 7050);
    let ids =
        counted(entries.iter().filter(|entry| entry.answer == Answer::Ok).map(|entry| &entry.package_id));
    assert!(ids.values().all(|count| *count == 1));
    let raw = topics.read(&topics.raw).await;
    assert_same(&entries, Answer::Ok, &raw, |bytes| canonical_hash(bytes).expect("JSON"));
    let invalid = topics.read(&topics.invalid).await;
    assert_same(&entries, Answer::Invalid, &invalid, |bytes| Sha256::digest(bytes).into());
}

#[tokio::test]
async fn it_waits_for_a_collector_and_sends_then() {
    let topics = Topics::new();
    let folder = tempfile::tempdir().expect("folder");
    let ledger = folder.path().join("ledger.jsonl");
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}/collect");
    let waiting = tokio::spawn(generate(config(&url, &ledger, &["--count", "200"]), Shutdown::new()));
    // Time enough to be refused; if it was not, the test still holds.
    tokio::time::sleep(Duration::from_millis(300)).await;
    let bind = format!("127.0.0.1:{port}");
    let shutdown = Shutdown::new();
    let flags = [&topics.flags()[..], &["--bind", &bind]].concat();
    let collector = tokio::spawn(millrace_ingest::collector::run(scene::config(&flags), shutdown.clone()));
    let report = waiting.await.expect("no panic").expect("a report");
    shutdown.begin();
    collector.await.expect("no panic").expect("no error");
    assert_eq!((report.not_sent, report.unknown), (0, 0), "{report:?}");
    // What came while the collector waited for Kafka was sent again.
    assert_eq!((report.ok, report.refused), (200, 0), "{report:?}");
    assert_eq!(read(&ledger).len(), 200);
}

#[tokio::test]
async fn a_stop_while_the_collector_is_away_ends_with_what_was_not_sent() {
    let folder = tempfile::tempdir().expect("folder");
    let ledger = folder.path().join("ledger.jsonl");
    let base = format!("http://127.0.0.1:{}", free_port());
    let report = run(&base, &ledger, &["--duration", "300ms"]).await;
    assert_eq!((report.sent, report.unknown), (0, 0), "{report:?}");
    assert!(report.not_sent > 0, "{report:?}");
    assert_eq!(read(&ledger), []);
}

#[tokio::test]
async fn the_rate_is_kept_and_a_stop_waits_for_the_last_answers() {
    let topics = Topics::new();
    let collector: Collector = topics.collector(&[]).await;
    let folder = tempfile::tempdir().expect("folder");
    let ledger = folder.path().join("ledger.jsonl");
    let shutdown = Shutdown::new();
    let url = format!("{}/collect", collector.base);
    let running = tokio::spawn(generate(config(&url, &ledger, &["--rate", "500"]), shutdown.clone()));
    tokio::time::sleep(Duration::from_secs(2)).await;
    shutdown.begin();
    let report = running.await.expect("no panic").expect("a report");
    assert_eq!((report.sent, report.unknown), (report.ok, 0), "{report:?}");
    // Never more than was due.
    #[expect(clippy::cast_precision_loss, reason = "compared with a margin")]
    let sent = report.sent as f64;
    assert!(report.sent > 0 && sent <= report.seconds * 500.0 + 100.0, "{report:?}");
    collector.stop().await;
    assert_eq!(topics.read(&topics.raw).await.len() as u64, report.ok);
    assert_eq!(read(&ledger).len() as u64, report.ok);
}
