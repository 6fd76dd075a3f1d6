//! What a slot does when it can't go on, or could only go on wrongly.

use std::os::unix::fs::PermissionsExt;

use arrow_array::ArrayRef;
use arrow_schema::ArrowError;
use millrace_common::types::{HaltKind, Problem, StopReason};
use millrace_transform::raw::Raw;
use millrace_transform::{BuildError, Column, Kind as TransformKind, Output, SourceRecord, Wants};
use rdkafka::admin::{AlterConfig, ResourceSpecifier};
use serde_json::{Map, Value};

use super::*;

const BOTH: Kind = Kind { on_s3: false, topic: true, no_lake: false, window: 0 };

impl Bench {
    async fn set(&self, topic: &str, setting: &str, value: &str) {
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(setting, value);
        for altered in self.admin().alter_configs([&config], &AdminOptions::new()).await.expect("answered") {
            altered.expect("altered");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_that_a_sinks_topic_refuses_halts_the_slot_until_the_topic_takes_it() {
    let bench = Bench::build("refused", BOTH).await;
    let enriched = bench.definition.enriched_topic.clone().expect("a topic sink");
    bench.set(&enriched, "max.message.bytes", "20000").await;
    // What does not shrink by compression.
    let mut random = rand::rng();
    let noise: String = (0..100_000).map(|_| char::from(random.random_range(b'a'..=b'z'))).collect();
    let large = Bench::event(1).replace("/home", &format!("/{noise}"));
    bench.produce([Bench::event(0), large, Bench::event(2)]);
    let halt = match bench.own(1, false).task.await.expect("no panic") {
        StopReason::Halted(halt) => halt,
        reason => panic!("{reason:?}"),
    };
    assert_eq!(halt.kind, HaltKind::RecordRefused, "{}", halt.detail);
    for part in [enriched.as_str(), "source offset 1", "max.message.bytes"] {
        assert!(halt.detail.contains(part), "{part} is not in: {}", halt.detail);
    }
    bench.set(&enriched, "max.message.bytes", "1048588").await;
    let owner = bench.own(2, true);
    owner.reaches(3).await;
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    assert_eq!(bench.enriched_offsets(), once(0..3));
    assert_eq!(bench.lake_offsets().await, once(0..3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_window_that_the_log_lost_is_done_without_once_a_person_says_so() {
    let mut bench = Bench::build("window-lost", Kind { window: 50, ..BOTH }).await;
    let keyed = |numbers: std::ops::Range<usize>| {
        numbers.map(|number| (Some(format!("p-{number}")), Bench::event(number))).collect::<Vec<_>>()
    };
    // The lake gets to 100, then stays behind.
    bench.produce_keyed(keyed(0..100));
    let owner = bench.own(1, false);
    owner.reaches(100).await;
    owner.task.abort();
    let _ = owner.task.await;
    bench.produce_keyed(keyed(100..150));
    bench.leave_the_lake_behind(2, 150).await;
    // Retention takes a part of what the window looks back to, and nothing that the lake needs.
    bench.lose_below(80).await;
    let halt = bench.halts(3).await;
    assert_eq!(halt.kind, HaltKind::OffsetsLost, "{}", halt.detail);
    assert!(halt.detail.contains("duplicate_window = 0"), "{}", halt.detail);
    bench.definition.duplicate_window = 0;
    let owner = bench.own(4, true);
    owner.reaches(150).await;
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    assert_eq!(bench.enriched_offsets(), once(0..150));
    assert_eq!(bench.lake_offsets().await, once(0..150));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_record_on_the_enriched_topic_that_now_kills_is_not_quarantined_as_well() {
    let mut bench = Bench::build("kills-later", BOTH).await;
    bench.produce([Bench::event(0)]);
    bench.leave_the_lake_behind(1, 1).await;
    // The child begins, and dies of each record that it is given.
    let program = bench.folder.path().join("dies");
    std::fs::write(&program, "#!/bin/sh\nprintf '\\000\\000\\000\\000\\000\\000\\000\\200'\n")
        .expect("written");
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o755)).expect("runnable");
    (bench.deaths, bench.trial) = (2, Trial { program, arguments: Vec::new() });
    let halt = bench.halts(2).await;
    assert_eq!(halt.kind, HaltKind::TransformChanged, "{}", halt.detail);
    assert!(halt.detail.contains("offset 0 is on the enriched topic"), "{}", halt.detail);
    assert_eq!(bench.quarantined_offsets(), BTreeMap::new());
}

/// A transform whose rows don't agree with its verdicts: of `twice` it adds two rows, of `none` no row, for `silent` it
/// gives no verdict.
struct Careless;

impl TransformKind for Careless {
    fn name(&self) -> &'static str {
        "careless"
    }

    fn check(&self, options: &Map<String, Value>) -> Vec<Problem> {
        Raw.check(options)
    }

    fn build(&self, options: &Map<String, Value>) -> Result<Box<dyn Transform>, BuildError> {
        Ok(Box::new(CarelessRows(Raw.build(options)?)))
    }

    fn default_duplicate_window(&self) -> u64 {
        0
    }
}

struct CarelessRows(Box<dyn Transform>);

impl Transform for CarelessRows {
    fn columns(&self) -> &[Column] {
        self.0.columns()
    }

    fn apply(&mut self, records: &[SourceRecord<'_>], wants: Wants, output: &mut Output) {
        for record in records {
            match record.value {
                Some(b"silent") => {}
                Some(b"none") => output.keep(),
                Some(b"twice") => {
                    self.0.apply(std::slice::from_ref(record), wants, output);
                    let row = output.rows().last().copied().expect("a row");
                    output.row(row);
                }
                _ => self.0.apply(std::slice::from_ref(record), wants, output),
            }
        }
    }

    fn take_rows(&mut self) -> Result<Vec<ArrayRef>, ArrowError> {
        self.0.take_rows()
    }

    fn memory(&self) -> usize {
        self.0.memory()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transform_that_contradicts_itself_is_named_before_anything_is_committed() {
    for (value, fault) in [
        ("silent", "2 verdicts for 3 records"),
        ("none", "kept the record at offset 1, but gave a row of offset 2"),
        ("twice", "kept the record at offset 2, but gave a row of offset 1"),
    ] {
        let mut bench = Bench::build(&format!("careless-{value}"), Kind::default()).await;
        bench.transforms = Registry::with(vec![Box::new(Careless)]);
        bench.definition.transform.kind = "careless".into();
        bench.produce(["first".to_owned(), value.to_owned(), "last".to_owned()]);
        let reason = bench.own(1, false).task.await.expect("no panic");
        let StopReason::Failed { detail } = reason else { panic!("{reason:?}") };
        assert!(detail.contains(fault), "{detail}");
        assert!(bench.lake_offsets().await.is_empty());
    }
}
