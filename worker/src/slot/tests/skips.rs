//! What a slot does without, once a person has said so: never more than that, and never a row twice.

use millrace_common::types::{HaltKind, SkipLost};

use super::*;
use crate::slot::manifest::Manifest;

const BOTH: Kind = Kind { on_s3: false, topic: true, no_lake: false, window: 0 };

fn skip(halt: HaltKind) -> Option<SkipLost> {
    Some(SkipLost { halt, from: None })
}

impl Bench {
    /// Kafka forgets the record.
    async fn lose_the_record(&self) {
        let group = self.definition.group_id();
        let deleted = self.admin().delete_groups(&[&group], &AdminOptions::new()).await.expect("answered");
        assert_eq!(deleted, [Ok(group)]);
    }

    async fn begin_anew(&mut self, epoch: u64, halt: HaltKind, from: i64) -> Owner {
        self.skip_lost = Some(SkipLost { halt, from: Some(NextOffset(from)) });
        let owner = self.own(epoch, true);
        self.skip_lost = None;
        owner
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn offsets_that_retention_took_are_skipped_by_the_sinks_that_lack_them() {
    let mut bench = Bench::build("skip-offsets", BOTH).await;
    bench.produce((0..100).map(Bench::event));
    let owner = bench.own(1, false);
    owner.reaches(20).await;
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    // Both sinks got to 100, but for what comes now.
    bench.produce((100..150).map(Bench::event));
    bench.leave_the_lake_behind(2, 150).await;
    bench.produce((150..200).map(Bench::event));
    bench.lose_below(130).await;
    let halt = bench.halts(3).await;
    assert_eq!(halt.kind, HaltKind::OffsetsLost, "{}", halt.detail);
    // A word about another loss is none about this one.
    bench.skip_lost = skip(HaltKind::ManifestMismatch);
    assert_eq!(bench.halts(4).await.kind, HaltKind::OffsetsLost);
    bench.skip_lost = skip(HaltKind::OffsetsLost);
    let owner = bench.own(5, true);
    owner.reaches(200).await;
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    assert_eq!(bench.enriched_offsets(), once(0..200), "the topic had what the lake lacks");
    let mut kept = once(0..200);
    kept.retain(|offset, _| !(100..130).contains(offset));
    let (rows, _) = bench.lake_rows().await;
    assert_eq!(rows, kept);
    // What is lost later halts the slot again.
    bench.skip_lost = None;
    bench.produce((200..250).map(Bench::event));
    bench.lose_below(240).await;
    assert_eq!(bench.halts(6).await.kind, HaltKind::OffsetsLost);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_record_a_slot_begins_where_a_person_says_and_never_within_the_lakes_rows() {
    let mut bench = Bench::build("skip-record", BOTH).await;
    bench.produce((0..100).map(Bench::event));
    let owner = bench.own(1, false);
    owner.reaches(100).await;
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    bench.produce((100..150).map(Bench::event));
    bench.lose_the_record().await;
    let halt = bench.halts(2).await;
    assert_eq!(halt.kind, HaltKind::RecordLost, "{}", halt.detail);
    assert!(halt.detail.contains("rows up to offset 100 (not included)"), "{}", halt.detail);
    for (epoch, from, why) in [(3, 99, "would double rows"), (4, 151, "the source ends at 150")] {
        let refused = bench.begin_anew(epoch, HaltKind::RecordLost, from).await.task.await.expect("no panic");
        let StopReason::Halted(halt) = refused else { panic!("{refused:?}") };
        assert!(halt.detail.contains(why), "{}", halt.detail);
    }
    let owner = bench.begin_anew(5, HaltKind::RecordLost, 110).await;
    owner.reaches(150).await;
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    let mut kept = once(0..150);
    kept.retain(|offset, _| !(100..110).contains(offset));
    let (rows, flushes) = bench.lake_rows().await;
    assert_eq!((rows, bench.enriched_offsets()), (kept.clone(), kept));
    assert!(flushes.values().any(|range| range.0 == 110), "a sequence of its own: {flushes:?}");
    // Kafka holds the record again: the word has no meaning any more.
    let owner = bench.begin_anew(6, HaltKind::RecordLost, 0).await;
    owner.wait_for(|report| report.phase == millrace_common::types::SlotPhase::Running).await;
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    assert_eq!(bench.lake_rows().await.0.values().max(), Some(&1));
}

/// The record is lost while `published` of the last flush's five files are in the lake, and the others still staged.
async fn a_flush_that_is_not_wholly_published(name: &str, published: usize) {
    let mut bench = Bench::build(name, BOTH).await;
    bench.produce((0..100).map(Bench::event));
    let owner = bench.own(1, false);
    owner.reaches(100).await;
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    let key = bench.keys("_staging").await.pop().expect("the last manifest");
    let store = &bench.lake().store;
    let bytes = store.get(&key).await.expect("got").bytes().await.expect("bytes");
    let manifest = Manifest::read(&bytes, key.as_ref()).expect("a manifest");
    assert_eq!((manifest.files.len(), manifest.next_offset), (5, NextOffset(100)));
    for file in &manifest.files[published..] {
        let (from, to) = (bench.lake().path(&file.final_key), bench.lake().path(&file.staged_key));
        store.rename(&from, &to).await.expect("staged again");
    }
    bench.produce((100..150).map(Bench::event));
    bench.lose_the_record().await;
    let halt = bench.halts(2).await;
    assert_eq!(halt.kind, HaltKind::RecordLost, "{}", halt.detail);
    assert_eq!(
        halt.detail.contains("of offsets 0 to 100 (not included) is staged"),
        published == 0,
        "{}",
        halt.detail
    );
    let refused = bench.begin_anew(3, HaltKind::RecordLost, 40).await.task.await.expect("no panic");
    let StopReason::Halted(halt) = refused else { panic!("{refused:?}") };
    assert!(halt.detail.contains("--from 40 was refused"), "{}", halt.detail);
    let owner = bench.begin_anew(4, HaltKind::RecordLost, 100).await;
    owner.reaches(150).await;
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    assert_eq!((bench.lake_offsets().await, bench.enriched_offsets()), (once(0..150), once(0..150)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_record_a_flush_that_is_partly_published_is_finished() {
    a_flush_that_is_not_wholly_published("skip-partly", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_its_record_a_flush_that_may_have_been_committed_is_published() {
    a_flush_that_is_not_wholly_published("skip-staged", 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_are_lost_are_skipped_and_what_is_still_staged_is_published() {
    let mut bench = Bench::build("skip-files", BOTH).await;
    // Rows of five days: one flush makes five files.
    bench.produce((0..100).map(Bench::event));
    let owner = bench.own(1, false);
    owner.reaches(100).await;
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    let files = bench.keys("year=").await;
    assert_eq!(files.len(), 5, "{files:?}");
    // As if one file had gone before it was published.
    let gone = files.iter().find(|key| key.as_ref().contains("day=03")).expect("a file of that day");
    bench.lake().store.delete(gone).await.expect("deleted");
    let halt = bench.halts(2).await;
    assert_eq!(halt.kind, HaltKind::ManifestMismatch, "{}", halt.detail);
    assert!(halt.detail.contains("with 20 rows of offsets "), "{}", halt.detail);
    bench.skip_lost = skip(HaltKind::ManifestMismatch);
    bench.produce((100..150).map(Bench::event));
    let owner = bench.own(3, true);
    owner.reaches(150).await;
    assert_eq!(owner.revoke().await, StopReason::Revoked);
    let mut kept = once(0..150);
    kept.retain(|offset, _| *offset >= 100 || offset % 5 != 2);
    assert_eq!(bench.lake_offsets().await, kept);
    assert_eq!(bench.enriched_offsets(), once(0..150));
}
