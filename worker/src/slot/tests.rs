//! The protocol against a real Kafka and a lake on S3 or in a folder: owners that stop, crash and fence each other,
//! and afterwards every record is exactly once in the lake or in quarantine.
//!
//! `MILLRACE_TEST_KAFKA`, `MILLRACE_TEST_S3` and `MILLRACE_TEST_BUCKET` name the servers; `make test` starts them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use millrace_common::kafka::{client_config, ensure_topics};
use millrace_common::types::{
    Epoch, HaltKind, LakeTarget, NextOffset, PipelineDefinition, PipelineId, RollPolicy, SlotId, SlotPhase,
    StopReason,
};
use millrace_common::{headers, lake};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::RngExt;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::budget::Budget;
use crate::kafka::ConsumerLimits;

struct Bench {
    servers: String,
    definition: PipelineDefinition,
    slot: SlotId,
    lake: Lake,
    _folder: tempfile::TempDir,
    budget: Arc<Budget>,
}

struct Owner {
    task: JoinHandle<StopReason>,
    status: Arc<SlotStatus>,
    revoked: CancellationToken,
}

impl Owner {
    /// Waits until the lake cursor is at least `cursor`.
    async fn reaches(&self, cursor: i64) {
        self.wait_for(|report| report.metrics.lake_cursor >= Some(NextOffset(cursor))).await;
    }

    async fn wait_for(&self, reached: impl Fn(&millrace_common::types::SlotReport) -> bool) {
        while !reached(&self.status.report()) {
            assert!(!self.task.is_finished(), "the owner stopped: {:?}", self.status.report());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn revoke(self) -> StopReason {
        self.revoked.cancel();
        self.task.await.expect("no panic")
    }
}

impl Bench {
    /// A lake in a folder.
    async fn new(name: &str) -> Self {
        Self::build(name, false).await
    }

    async fn on_s3(name: &str) -> Self {
        Self::build(name, true).await
    }

    async fn build(name: &str, on_s3: bool) -> Self {
        let servers = test_server("MILLRACE_TEST_KAFKA");
        let run: u32 = rand::rng().random();
        let (raw, invalid) = (format!("test-{name}-{run:08x}-raw"), format!("test-{name}-{run:08x}-invalid"));
        ensure_topics(&servers, &[&raw, &invalid], Some(&invalid), 1).await.expect("topics");
        let folder = tempfile::tempdir().expect("folder");
        let id: PipelineId = format!("{name}-{run:08x}").parse().expect("id");
        let url = if on_s3 {
            format!("s3://{}/{id}/lake", test_server("MILLRACE_TEST_BUCKET"))
        } else {
            format!("file://{}", folder.path().display())
        };
        let target =
            LakeTarget { endpoint: on_s3.then(|| test_server("MILLRACE_TEST_S3")), ..LakeTarget::new(url) };
        let definition = PipelineDefinition {
            lake: Some(target.clone()),
            roll: RollPolicy { max_bytes: 64 << 20, max_rows: 500, max_age_ms: 300, max_idle_ms: 100 },
            ..PipelineDefinition::new(id, name, &servers, vec![raw], &invalid)
        };
        Self {
            slot: SlotId { pipeline: definition.id.clone(), topic: 0, partition: 0 },
            servers,
            lake: lake::open(&target).expect("lake"),
            definition,
            _folder: folder,
            budget: Budget::new(256 << 20),
        }
    }

    /// An owner with a consumer of its own, as on another worker.
    fn own(&self, epoch: u64, opened: bool) -> Owner {
        let limits = ConsumerLimits { queued_bytes_per_partition: 4 << 20 };
        let consumer =
            SourceConsumer::new(&self.servers, &self.definition.group_id(), limits).expect("consumer");
        let status = SlotStatus::new(self.slot.clone(), Epoch(epoch), Arc::new(Notify::new()));
        let revoked = CancellationToken::new();
        let slot = Slot {
            id: self.slot.clone(),
            epoch: Epoch(epoch),
            opened,
            definition: Arc::new(self.definition.clone()),
            topic: self.definition.source.topics[0].clone(),
            invalid_partition: 0,
            consumer: Arc::new(consumer),
            lake: self.lake.clone(),
            account: self.budget.open_account(&self.slot),
            compute: ComputePool::new(2),
            status: Arc::clone(&status),
            revoked: revoked.clone(),
            abandoned: CancellationToken::new(),
        };
        Owner { task: tokio::spawn(run(slot)), status, revoked }
    }

    fn event(number: usize) -> String {
        format!(
            r#"{{"id":{number},"type":"click","package_id":"p-{number}","event":{{"timestamp":"2024-01-{:02}T00:00:00Z","page":"/home?utm_source=x","customer_id":{number}}}}}"#,
            1 + number % 5
        )
    }

    fn produce(&self, values: impl IntoIterator<Item = String>) {
        let producer: BaseProducer = client_config(&self.servers, "test")
            .set("message.max.bytes", "2000000")
            .create()
            .expect("producer");
        for value in values {
            let mut record = BaseRecord::<(), str>::to(&self.definition.source.topics[0]).payload(&value);
            while let Err((error, refused)) = producer.send(record) {
                assert_eq!(
                    error.rdkafka_error_code(),
                    Some(rdkafka::types::RDKafkaErrorCode::QueueFull),
                    "produced"
                );
                record = refused;
                producer.poll(Duration::from_millis(10));
            }
        }
        producer.flush(Duration::from_secs(30)).expect("delivered");
    }

    /// Keys below the lake's prefix that contain `part`.
    async fn keys(&self, part: &str) -> Vec<object_store::path::Path> {
        let objects: Vec<_> =
            self.lake.store.list(Some(&self.lake.prefix)).try_collect().await.expect("listed");
        objects.into_iter().map(|object| object.location).filter(|key| key.as_ref().contains(part)).collect()
    }

    /// How often each raw offset is in the lake, read by its rows.
    async fn lake_offsets(&self) -> BTreeMap<i64, usize> {
        let mut found = BTreeMap::new();
        for key in self.keys("year=").await {
            let bytes = self.lake.store.get(&key).await.expect("got").bytes().await.expect("bytes");
            let reader =
                ParquetRecordBatchReaderBuilder::try_new(bytes).expect("Parquet").build().expect("reader");
            for batch in reader {
                let batch = batch.expect("batch");
                let column = batch.column_by_name("kafka_offset").expect("column");
                let offsets =
                    column.as_any().downcast_ref::<arrow_array::Int64Array>().expect("64-bit offsets");
                for offset in offsets.values() {
                    *found.entry(*offset).or_default() += 1;
                }
            }
        }
        found
    }

    /// The source offsets of quarantined records, as a `read_committed` reader sees them.
    fn quarantined_offsets(&self) -> BTreeMap<i64, usize> {
        let consumer: BaseConsumer = client_config(&self.servers, "test")
            .set("group.id", "test")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .create()
            .expect("consumer");
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(&self.definition.invalid_topic, 0, rdkafka::Offset::Beginning)
            .expect("offset");
        consumer.assign(&list).expect("assigned");
        let mut found = BTreeMap::new();
        loop {
            match consumer.poll(Duration::from_secs(30)).expect("the end of the partition") {
                Ok(message) => {
                    let headers = message.headers().expect("headers");
                    let offset = headers
                        .iter()
                        .find(|header| header.key == headers::SOURCE_OFFSET)
                        .and_then(|header| std::str::from_utf8(header.value?).ok()?.parse().ok())
                        .expect("source offset");
                    *found.entry(offset).or_default() += 1;
                }
                Err(rdkafka::error::KafkaError::PartitionEOF(_)) => return found,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

fn test_server(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} must name a server for this test; `make test` starts it"))
}

fn once(offsets: std::ops::Range<i64>) -> BTreeMap<i64, usize> {
    offsets.map(|offset| (offset, 1)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_record_is_in_the_lake_once_and_a_successor_goes_on_where_the_last_one_stopped() {
    let bench = Bench::on_s3("handover").await;
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
    let bench = Bench::on_s3("crash").await;
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
    bench.lake.store.put(&manifest, "{}".into()).await.expect("damaged");
    let reason = bench.own(2, true).task.await.expect("no panic");
    let StopReason::Halted(halt) = reason else { panic!("{reason:?}") };
    assert_eq!(halt.kind, HaltKind::ManifestMismatch);
    assert!(halt.detail.contains("SHA-256"), "{}", halt.detail);
    assert_eq!(bench.lake_offsets().await, once(0..10), "what is published stays");
}
