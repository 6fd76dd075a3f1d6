//! Pipelines with a lake alone.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::types::{Epoch, HaltKind, NextOffset, SlotPhase, StopReason};
use object_store::ObjectStoreExt;
use rand::RngExt;

use super::{Bench, Kind, once};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_in_the_lake_once_and_a_successor_goes_on_where_the_last_one_stopped() {
    let bench = Bench::build("handover", Kind { on_s3: true, ..Kind::default() }).await;
    bench.produce((0..2000).map(Bench::event));
    let owner = bench.own(1, false);
    owner.reaches(500).await;
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    bench.produce((2000..2500).map(Bench::event));
    let successor = bench.own(2, true);
    successor.reaches(2500).await;
    assert_eq!(successor.revoke().await, StopReason::Revoked);
    assert_eq!(bench.lake_offsets().await, once(0..2500));
    assert_eq!(bench.keys("_staging").await.len(), 1, "only the last manifest stays staged");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn poison_is_quarantined_once_with_its_offset_and_the_slot_goes_on() {
    let bench = Bench::new("poison").await;
    let poison = [
        "",
        "no json",
        "[]",
        r#"{"type":"click"}"#,
        "\u{0}\u{1}",
        r#"{"type":1,"package_id":"x","event":{}}"#,
    ];
    let mut values: Vec<String> = (0..300).map(Bench::event).collect();
    for (place, bad) in poison.iter().enumerate() {
        values[place * 40] = (*bad).to_owned();
    }
    // As large as the broker takes: with its reason it is larger still.
    let large = poison.len() * 40;
    values[large] = "x".repeat(1_048_000);
    bench.produce(values);
    let owner = bench.own(1, false);
    owner.reaches(300).await;
    owner.revoke().await;
    let bad: BTreeMap<i64, usize> = (0..=poison.len()).map(|place| (place as i64 * 40, 1)).collect();
    assert_eq!(bench.quarantined_offsets(), bad);
    let mut good = once(0..300);
    good.retain(|offset, _| !bad.contains_key(offset));
    assert_eq!(bench.lake_offsets().await, good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn owners_that_crash_at_any_moment_lose_and_double_nothing() {
    let bench = Bench::build("crash", Kind { on_s3: true, ..Kind::default() }).await;
    let (owners, each) = (30, 200);
    let total = owners * each;
    let (mut epoch, mut opened, mut crashes) = (0, false, 0);
    while crashes < owners {
        epoch += 1;
        let numbers = crashes * each..(crashes + 1) * each;
        bench.produce(
            numbers.map(
                |number| {
                    if number % 97 == 0 { format!("poison {number}") } else { Bench::event(number) }
                },
            ),
        );
        let owner = bench.own(epoch, opened);
        // A different moment each time: in the opening, in a flush, between commit and publication.
        tokio::time::sleep(Duration::from_millis(rand::rng().random_range(0..500))).await;
        // As the master: a slot is known as opened once its owner told so.
        opened |= owner.status.report().phase == SlotPhase::Running;
        owner.task.abort();
        match owner.task.await {
            Err(aborted) if aborted.is_cancelled() => {}
            // A request of a crashed owner may still be under way and fence its successor.
            Ok(StopReason::Fenced) => {}
            other => panic!("it neither crashed nor was it fenced: {other:?}"),
        }
        crashes += 1;
    }
    loop {
        epoch += 1;
        let last = bench.own(epoch, opened);
        while last.status.report().metrics.lake_cursor < Some(NextOffset(total as i64))
            && !last.task.is_finished()
        {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        match last.revoke().await {
            StopReason::Fenced => {}
            reason => break assert_eq!(reason, StopReason::Revoked),
        }
    }
    let poison: BTreeMap<i64, usize> = (0..total as i64).step_by(97).map(|offset| (offset, 1)).collect();
    assert_eq!(bench.quarantined_offsets(), poison);
    let mut good = once(0..total as i64);
    good.retain(|offset, _| !poison.contains_key(offset));
    assert_eq!(bench.lake_offsets().await, good);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_whose_successor_has_opened_is_fenced_and_writes_nothing_more() {
    let bench = Bench::new("fence").await;
    bench.produce((0..100).map(Bench::event));
    let old = bench.own(1, false);
    old.reaches(100).await;
    let new = bench.own(2, true);
    new.wait_for(|report| report.phase == SlotPhase::Running).await;
    bench.produce((100..200).map(Bench::event));
    new.reaches(200).await;
    assert_eq!(old.task.await.expect("no panic"), StopReason::Fenced);
    new.revoke().await;
    assert_eq!(bench.lake_offsets().await, once(0..200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_whose_record_is_gone_or_newer_than_its_grant_does_not_start() {
    let bench = Bench::new("record").await;
    bench.produce((0..10).map(Bench::event));
    let reason = bench.own(1, true).task.await.expect("no panic");
    assert!(matches!(&reason, StopReason::Halted(halt) if halt.kind == HaltKind::RecordLost), "{reason:?}");
    let owner = bench.own(5, false);
    owner.reaches(10).await;
    owner.revoke().await;
    let reason = bench.own(3, true).task.await.expect("no panic");
    assert_eq!(reason, StopReason::EpochBehind { recorded: Epoch(5) });
    assert_eq!(bench.lake_offsets().await, once(0..10));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_damaged_manifest_halts_the_slot_and_says_which() {
    let bench = Bench::new("manifest").await;
    bench.produce((0..10).map(Bench::event));
    let owner = bench.own(1, false);
    owner.reaches(10).await;
    owner.revoke().await;
    let manifest = bench.keys("_staging").await.pop().expect("the last manifest");
    bench.lake().store.put(&manifest, "{}".into()).await.expect("damaged");
    let reason = bench.own(2, true).task.await.expect("no panic");
    let StopReason::Halted(halt) = reason else { panic!("{reason:?}") };
    assert_eq!(halt.kind, HaltKind::ManifestMismatch);
    assert!(halt.detail.contains("SHA-256"), "{}", halt.detail);
    assert_eq!(bench.lake_offsets().await, once(0..10), "what is published stays");
}
