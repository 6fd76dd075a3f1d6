//! Faults of the lake, one after the other.

use std::time::Duration;

use millrace_common::event::canonical_hash;
use millrace_common::ledger::{Answer, Entry};
use millrace_common::shutdown::Shutdown;
use millrace_transform::Registry;
use millrace_verify::finding::FindingKind;
use millrace_verify::{Progress, Report, check};
use sha2::{Digest, Sha256};

use crate::scene::{CURSOR, DAY, REFUSED, Scene, Setup, event};
use crate::{kinds, verify};

#[tokio::test(flavor = "multi_thread")]
async fn a_sound_lake_is_clean_and_every_offset_accounted_for() {
    let scene = Scene::new(Setup::default()).await;
    let report = verify(&scene).await;
    assert!(report.clean, "{report}");
    let total = report.total;
    // Partition 0: 30 committed of which one is no event and one a repeat, 5 in flight, and an aborted transaction
    // between. Partition 1: nothing was ever committed.
    assert_eq!((total.raw_records, total.in_lake, total.quarantined, total.in_flight), (38, 28, 1, 8));
    assert_eq!((total.lake_rows, total.missing, total.duplicates, total.altered), (28, 0, 0, 0));
    assert_eq!((total.client_duplicates, total.filtered), (1, 0));
    assert_eq!(report.invalid_records, 2);
    let back: Report = serde_json::from_str(&serde_json::to_string(&report).expect("json")).expect("report");
    assert_eq!(back, report);
    assert!(report.to_string().contains("clean"), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_of_the_lake_is_found() {
    let scene = Scene::new(Setup::default()).await;
    let (first, second) = (scene.files[0].clone(), scene.files[1].clone());
    let whole = scene.take(&first);
    assert_eq!(kinds(&verify(&scene).await), [(FindingKind::Missing, 10)], "an older file is gone");
    scene.put(&first, &whole);
    let last = scene.take(&second);
    assert_eq!(kinds(&verify(&scene).await), [(FindingKind::Missing, 18)], "the newest file is gone");
    scene.put(&second, &last);

    let stray = format!("{DAY}/backup.parquet");
    scene.put(&stray, &whole);
    let report = verify(&scene).await;
    assert_eq!(kinds(&report), [(FindingKind::Doubled, 10), (FindingKind::FooterDisagrees, 1)], "a copy");
    assert_eq!(report.total.duplicates, 10);
    scene.take(&stray);

    let elsewhere = first.replace(DAY, "year=2024/month=01/day=16");
    scene.put(&elsewhere, &scene.take(&first));
    assert_eq!(kinds(&verify(&scene).await), [(FindingKind::Misplaced, 10)], "another day's folder");
    scene.take(&elsewhere);

    scene.put(&first, &scene.file(1, 0..10, |offset| event(if offset == 4 { 999 } else { offset })));
    assert_eq!(kinds(&verify(&scene).await), [(FindingKind::Altered, 1)], "one row differs");
    scene.put(&first, &scene.file(1, 0..12, event));
    let report = verify(&scene).await;
    assert_eq!(
        kinds(&report),
        [(FindingKind::Doubled, 2), (FindingKind::BrokenChain, 1)],
        "two flushes that overlap: {report}"
    );
    scene.put(&first, &whole);

    let garbage = format!("{DAY}/notes.txt");
    scene.put(&garbage, b"no Parquet");
    assert_eq!(kinds(&verify(&scene).await), [(FindingKind::Unreadable, 1)], "an object that is no file");
    scene.take(&garbage);
    let mut torn = whole.clone();
    torn.truncate(torn.len() / 2);
    scene.put(&first, &torn);
    assert_eq!(
        kinds(&verify(&scene).await),
        [(FindingKind::Missing, 10), (FindingKind::Unreadable, 1)],
        "a torn file"
    );
    scene.put(&first, &whole);

    let foreign = format!("{DAY}/other-1-0-0-0-0.parquet");
    scene.put(&foreign, &scene.file_of("other-1", 1, 0..10, event));
    let report = verify(&scene).await;
    assert_eq!(kinds(&report), [(FindingKind::Foreign, 1)], "another pipeline's file");
    assert!(report.to_string().contains("other-1"), "{report}");
    scene.take(&foreign);
    assert!(verify(&scene).await.clean);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_before_their_commit_are_found() {
    let scene = Scene::new(Setup::default()).await;
    let next = scene.key(CURSOR);
    scene.put(&next, &scene.file(3, CURSOR..CURSOR + 3, event));
    let report = verify(&scene).await;
    assert_eq!(kinds(&report), [(FindingKind::Uncommitted, 3)], "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_file_that_is_published_meanwhile_is_not_missing() {
    let scene = Scene::new(Setup::default()).await;
    let last = scene.files[1].clone();
    let bytes = scene.take(&last);
    let mut config = scene.config();
    config.settle = Duration::from_secs(60);
    let publish = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        scene.put(&last, &bytes);
    };
    let progress = Progress::hidden();
    let shutdown = Shutdown::new();
    let transforms = Registry::default();
    let (report, ()) = tokio::join!(check(&config, &transforms, &progress, &shutdown), publish);
    let report = report.expect("a check");
    assert!(report.clean, "{report}");
    assert_eq!(report.total.in_lake, 28);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_ledger_tells_what_is_missing_doubled_and_altered() {
    let scene = Scene::new(Setup::default()).await;
    let ok = |offset: i64| Entry {
        package_id: Some(format!("id-{offset}")),
        sha256: canonical_hash(event(offset).as_bytes()).expect("hash"),
        answer: Answer::Ok,
    };
    let refused = |bytes: &[u8]| Entry {
        package_id: None,
        sha256: Sha256::digest(bytes).into(),
        answer: Answer::Invalid,
    };
    let mut entries: Vec<Entry> = scene.offsets().map(ok).collect();
    entries.push(refused(REFUSED));
    // In flight, not sent at all, and without an answer: one that is there and one that is not.
    entries.push(ok(CURSOR));
    entries.push(Entry { answer: Answer::Unknown, ..ok(7777) });
    entries[3].answer = Answer::Unknown;
    let mut config = scene.config();
    config.ledger = Some(scene.ledger(&entries));
    let (progress, shutdown) = (Progress::hidden(), Shutdown::new());
    let report = check(&config, &Registry::default(), &progress, &shutdown).await.expect("a check");
    assert!(report.clean, "{report}");
    let ledger = report.ledger.expect("ledger");
    assert_eq!((ledger.acknowledged_ok, ledger.acknowledged_invalid), (28, 1));
    assert_eq!((ledger.found, ledger.in_flight, ledger.unknown, ledger.unknown_found), (28, 1, 2, 1));

    entries.push(ok(5555));
    entries.push(refused(b"never sent"));
    config.ledger = Some(scene.ledger(&entries));
    let first = scene.files[0].clone();
    scene.put(
        &first,
        &scene.file(1, 0..10, |offset| match offset {
            // Same id, other content.
            4 => event(4).replace("/home", "/changed"),
            _ => event(offset),
        }),
    );
    scene.put(&format!("{DAY}/again.parquet"), &scene.file(1, 5..6, event));
    let report = check(&config, &Registry::default(), &progress, &shutdown).await.expect("a check");
    assert!(!report.clean);
    let ledger = report.ledger.expect("ledger");
    assert_eq!(ledger.altered.examples, ["id-4"], "{ledger}");
    assert_eq!(ledger.doubled.examples, ["id-5"], "{ledger}");
    assert_eq!(ledger.missing.count, 2, "{ledger}");
    assert_eq!(ledger.missing.examples[0], "id-5555", "{ledger}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_checked_is_an_error_that_says_what_to_do() {
    let folder = tempfile::tempdir().expect("folder");
    let scene = Scene::new(Setup::default()).await;
    let mut config = scene.config();
    config.lake = format!("file://{}", folder.path().display());
    let error = check(&config, &Registry::default(), &Progress::hidden(), &Shutdown::new())
        .await
        .expect_err("no pipeline")
        .to_string();
    assert!(error.contains("_millrace/pipeline.json") && error.contains("--lake"), "{error}");
}
