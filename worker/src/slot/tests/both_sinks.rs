//! Pipelines with a topic sink, most of them beside a lake.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_common::headers;
use millrace_common::types::{HaltKind, NextOffset, SlotPhase, StartPosition, StopReason};
use rand::RngExt;
use serde_json::json;

use super::{Bench, Kind, Owner, once};

const BOTH: Kind = Kind { on_s3: false, topic: true, no_lake: false, window: 0 };

impl Owner {
    /// Waits until both sinks have passed `cursor`.
    async fn both_reach(&self, cursor: i64) {
        let cursor = Some(NextOffset(cursor));
        self.wait_for(|report| report.metrics.lake_cursor >= cursor && report.metrics.topic_cursor >= cursor)
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_enriched_record_has_the_clients_bytes_the_key_and_its_source() {
    let bench = Bench::build("enriched", Kind { no_lake: true, ..BOTH }).await;
    bench.produce_keyed((0..10).map(|number| (Some(format!("p-{number}")), Bench::event(number))));
    let owner = bench.own(1, false);
    owner.wait_for(|report| report.metrics.topic_cursor >= Some(NextOffset(10))).await;
    let metrics = owner.status.report().metrics;
    assert_eq!((metrics.records_enriched, metrics.lake_cursor, metrics.lag), (10, None, Some(0)));
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    let found = bench.enriched();
    assert_eq!(found.len(), 10);
    for (number, record) in found.iter().enumerate() {
        let sent = Bench::event(number);
        let value = record.value.as_deref().expect("a value");
        assert!(
            value.starts_with(&format!("{},\"millrace\":{{\"event_time\":\"2024-", &sent[..sent.len() - 1]))
        );
        assert_eq!(record.key, Some(format!("p-{number}")));
        assert_eq!(record.headers[headers::SOURCE_TOPIC], bench.definition.source.topics[0]);
        assert_eq!(record.headers[headers::SOURCE_PARTITION], "0");
        assert_eq!(record.headers[headers::SOURCE_OFFSET], number.to_string());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_that_crash_at_any_moment_lose_and_double_nothing_in_either_sink() {
    let bench = Bench::build("both", Kind { on_s3: true, window: 150, ..BOTH }).await;
    let (owners, each) = (30, 200);
    let mut keys: Vec<String> = Vec::new();
    let mut expected = Expected::default();
    let (mut epoch, mut opened) = (0, false);
    for crash in 0..owners {
        epoch += 1;
        let records: Vec<_> = (crash * each..(crash + 1) * each)
            .map(|number| {
                // Every now and then a client sends again what it sent up to 200 events ago.
                let again = number % 7 == 3 && number > 200;
                let key = match again {
                    true => keys[number - rand::rng().random_range(1..200)].clone(),
                    false => format!("p-{number}"),
                };
                let is_poison = number % 97 == 0;
                expected.add(number, &keys, &key, is_poison);
                keys.push(key.clone());
                let value = if is_poison { format!("poison {number}") } else { Bench::event(number) };
                (Some(key), value)
            })
            .collect();
        bench.produce_keyed(records);
        let owner = bench.own(epoch, opened);
        // A different moment each time: in the opening, in a commit, in a flush, before the publication.
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..500))).await;
        opened |= owner.status.report().phase == SlotPhase::Running;
        owner.task.abort();
        match owner.task.await {
            Err(aborted) if aborted.is_cancelled() => {}
            // A request of a crashed owner may still be under way and fence its successor.
            Ok(StopReason::Fenced) => {}
            other => panic!("it neither crashed nor was it fenced: {other:?}"),
        }
    }
    let total = Some(NextOffset((owners * each) as i64));
    loop {
        epoch += 1;
        let last = bench.own(epoch, opened);
        let done = || {
            let metrics = last.status.report().metrics;
            metrics.lake_cursor >= total && metrics.topic_cursor >= total
        };
        while !done() && !last.task.is_finished() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        match last.revoke().await {
            StopReason::Fenced => {}
            reason => break assert_eq!(reason, StopReason::Revoked),
        }
    }
    assert!(expected.duplicates.len() > 200, "{}", expected.duplicates.len());
    assert_eq!(bench.quarantined_offsets(), expected.poison);
    assert_eq!(bench.enriched_offsets(), expected.kept);
    assert_eq!(bench.lake_offsets().await, expected.kept);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_was_idle_for_longer_than_its_commit_interval_reads_on() {
    for no_lake in [true, false] {
        let bench =
            Bench::build(if no_lake { "idle-topic" } else { "idle-both" }, Kind { no_lake, ..BOTH }).await;
        let owner = bench.own(1, false);
        for round in 1..=3 {
            bench.produce((0..10).map(Bench::event));
            let cursor = Some(NextOffset(round * 10));
            owner
                .wait_for(|report| {
                    report.metrics.topic_cursor >= cursor && (no_lake || report.metrics.lake_cursor >= cursor)
                })
                .await;
            // Every timer of what was committed runs out.
            tokio::time::sleep(Duration::from_millis(3 * bench.definition.commit_interval_ms)).await;
        }
        assert_eq!(owner.revoke().await, StopReason::Revoked);
    }
}

/// What must become of each offset, by the words of the rules.
#[derive(Default)]
struct Expected {
    kept: BTreeMap<i64, usize>,
    poison: BTreeMap<i64, usize>,
    duplicates: BTreeSet<i64>,
}

impl Expected {
    fn add(&mut self, number: usize, keys: &[String], key: &str, is_poison: bool) {
        let offset = number as i64;
        if keys[number.saturating_sub(150)..].iter().any(|earlier| earlier == key) {
            self.duplicates.insert(offset);
        } else if is_poison {
            self.poison.insert(offset, 1);
        } else {
            self.kept.insert(offset, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_poison_waits_for_the_lake_and_never_outgrows_the_record() {
    let mut bench = Bench::build("flood", BOTH).await;
    // Only the flood makes the lake flush.
    bench.definition.roll.max_age_ms = 3_600_000;
    bench.definition.roll.max_idle_ms = 3_600_000;
    bench.definition.roll.max_rows = 1_000_000;
    let total = 5_000;
    bench.produce(
        (0..total).map(|number| if number % 2 == 0 { "flood".to_owned() } else { Bench::event(number) }),
    );
    let owner = bench.own(1, false);
    owner.wait_for(|report| report.metrics.topic_cursor >= Some(NextOffset(total as i64))).await;
    let lake_cursor = owner.status.report().metrics.lake_cursor.expect("a lake");
    assert!(lake_cursor > NextOffset(total as i64 / 2), "the lake stands at {lake_cursor}");
    // Killed with rejected offsets between the cursors: the lake must obey them.
    owner.task.abort();
    let _ = owner.task.await;
    bench.definition.roll.max_idle_ms = 100;
    let successor = bench.own(2, true);
    successor.both_reach(total as i64).await;
    assert_eq!(successor.revoke().await, StopReason::Revoked);
    let (poison, good): (BTreeMap<_, _>, BTreeMap<_, _>) =
        once(0..total as i64).into_iter().partition(|(offset, _)| offset % 2 == 0);
    assert_eq!(bench.quarantined_offsets(), poison);
    assert_eq!(bench.enriched_offsets(), good);
    assert_eq!(bench.lake_offsets().await, good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_transform_begins_where_both_sinks_are_level() {
    let mut bench = Bench::build("change", BOTH).await;
    bench.definition.roll.max_age_ms = 3_600_000;
    bench.definition.roll.max_idle_ms = 3_600_000;
    bench.definition.roll.max_rows = 1_000_000;
    bench.produce((0..100).map(Bench::event));
    let owner = bench.own(1, false);
    owner.wait_for(|report| report.metrics.topic_cursor >= Some(NextOffset(100))).await;
    owner.task.abort();
    let _ = owner.task.await;
    // Resumed with a filter that none of the events passes; the topic sink has taken the first hundred.
    let former = bench.definition.transform.clone();
    bench.definition.transform.options.insert("types".into(), json!(["purchase"]));
    bench.definition.roll.max_idle_ms = 100;
    let reason = bench.own(2, true).task.await.expect("no panic");
    let StopReason::Halted(halt) = reason else { panic!("{reason:?}") };
    assert_eq!(halt.kind, HaltKind::TransformChanged, "without the former definition: {}", halt.detail);
    bench.definition.earlier_transforms.push(former);
    bench.produce((100..200).map(Bench::event));
    let successor = bench.own(3, true);
    successor.both_reach(200).await;
    assert_eq!(successor.status.report().metrics.records_filtered, 100);
    assert_eq!(successor.revoke().await, StopReason::Revoked);
    assert_eq!(bench.enriched_offsets(), once(0..100));
    assert_eq!(bench.lake_offsets().await, once(0..100));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_begins_where_its_definition_says() {
    let mut bench = Bench::build("start", Kind { no_lake: true, ..BOTH }).await;
    bench.produce((0..10).map(Bench::event));
    bench.definition.source.initial_partitions = vec![1];
    bench.definition.source.start = StartPosition::Latest;
    let owner = bench.own(1, false);
    owner.wait_for(|report| report.phase == SlotPhase::Running).await;
    let between = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    bench.produce((10..20).map(Bench::event));
    owner.wait_for(|report| report.metrics.topic_cursor >= Some(NextOffset(20))).await;
    owner.revoke().await;
    assert_eq!(bench.enriched_offsets(), once(10..20));

    // The same topics under other pipelines.
    let first = bench.definition.id.clone();
    bench.definition.id = format!("{first}-2").parse().expect("id");
    bench.slot.pipeline = bench.definition.id.clone();
    let time_ms = u64::try_from(between.as_millis()).expect("small");
    bench.definition.source.start = StartPosition::Timestamp(time_ms);
    let owner = bench.own(1, false);
    owner.wait_for(|report| report.metrics.topic_cursor >= Some(NextOffset(20))).await;
    owner.revoke().await;
    let twice = (10..20).map(|offset| (offset, 2)).collect::<BTreeMap<i64, usize>>();
    assert_eq!(bench.enriched_offsets(), twice);

    // A partition that was added later is read from its first record.
    bench.definition.id = format!("{first}-3").parse().expect("id");
    bench.slot.pipeline = bench.definition.id.clone();
    bench.definition.source.start = StartPosition::Latest;
    bench.definition.source.initial_partitions = vec![0];
    let owner = bench.own(1, false);
    owner.wait_for(|report| report.metrics.topic_cursor >= Some(NextOffset(20))).await;
    owner.revoke().await;
    assert_eq!(bench.enriched_offsets().get(&0), Some(&1));
}
