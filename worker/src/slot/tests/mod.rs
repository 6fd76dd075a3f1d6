//! The protocol against a real Kafka and a lake on S3 or in a folder: owners that stop, crash and fence each other,
//! and afterwards every record is exactly once in the lake or in quarantine.
//!
//! `MILLRACE_TEST_KAFKA`, `MILLRACE_TEST_S3` and `MILLRACE_TEST_BUCKET` name the servers; `make test` starts them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt;
use millrace_common::event::footer;
use millrace_common::kafka::{client_config, ensure_topics};
use millrace_common::types::{
    Epoch, LakeTarget, NextOffset, PipelineDefinition, PipelineId, RollPolicy, SlotId, StopReason,
};
use millrace_common::{headers, lake};
use object_store::ObjectStoreExt;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rand::RngExt;
use rdkafka::admin::{AdminClient, AdminOptions};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::{Headers, Message};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::budget::Budget;
use crate::kafka::ConsumerLimits;

mod both_sinks;
mod halts;
mod lake_only;
mod skips;
mod store_contract;

struct Bench {
    servers: String,
    definition: PipelineDefinition,
    slot: SlotId,
    lake: Option<Lake>,
    folder: tempfile::TempDir,
    budget: Arc<Budget>,
    transforms: Registry,
    /// Owners that died before, and what then tries records.
    deaths: u32,
    skip_lost: Option<SkipLost>,
    trial: Trial,
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

/// What a pipeline under test is like.
#[derive(Debug, Clone, Copy, Default)]
struct Kind {
    on_s3: bool,
    /// It has a topic sink.
    topic: bool,
    no_lake: bool,
    window: u64,
}

impl Bench {
    /// A lake in a folder, and no more.
    async fn new(name: &str) -> Self {
        Self::build(name, Kind::default()).await
    }

    async fn build(name: &str, kind: Kind) -> Self {
        let servers = test_server("MILLRACE_TEST_KAFKA");
        let run: u32 = rand::rng().random();
        let topic = |part: &str| format!("test-{name}-{run:08x}-{part}");
        let (raw, invalid, enriched) = (topic("raw"), topic("invalid"), topic("enriched"));
        let topics: [&str; 3] = [&raw, &invalid, &enriched];
        ensure_topics(&servers, &topics, &[&invalid, &enriched], 1).await.expect("topics");
        let folder = tempfile::tempdir().expect("folder");
        let id: PipelineId = format!("{name}-{run:08x}").parse().expect("id");
        let url = if kind.on_s3 {
            format!("s3://{}/{id}/lake", test_server("MILLRACE_TEST_BUCKET"))
        } else {
            format!("file://{}", folder.path().display())
        };
        let endpoint = kind.on_s3.then(|| test_server("MILLRACE_TEST_S3"));
        let target = (!kind.no_lake).then(|| LakeTarget { endpoint, ..LakeTarget::new(url) });
        let definition = PipelineDefinition {
            enriched_topic: kind.topic.then_some(enriched),
            lake: target.clone(),
            roll: RollPolicy { max_bytes: 64 << 20, max_rows: 500, max_age_ms: 300, max_idle_ms: 100 },
            commit_interval_ms: 50,
            duplicate_window: kind.window,
            ..PipelineDefinition::new(id, name, &servers, vec![raw], &invalid)
        };
        Self {
            slot: SlotId { pipeline: definition.id.clone(), topic: 0, partition: 0 },
            servers,
            lake: target.map(|target| lake::open(&target).expect("lake")),
            definition,
            folder,
            budget: Budget::new(256 << 20),
            transforms: Registry::default(),
            deaths: 0,
            skip_lost: None,
            trial: Trial { program: "/nowhere".into(), arguments: Vec::new() },
        }
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        client_config(&self.servers, "test").create().expect("admin client")
    }

    /// Retention takes the source's records below `offset`.
    async fn lose_below(&self, offset: i64) {
        let mut deleted = TopicPartitionList::new();
        deleted
            .add_partition_offset(&self.definition.source.topics[0], 0, Offset::Offset(offset))
            .expect("an offset");
        self.admin().delete_records(&deleted, &AdminOptions::new()).await.expect("deleted");
    }

    /// An owner that brings the topic sink to `cursor` and dies before the lake has moved.
    async fn leave_the_lake_behind(&mut self, epoch: u64, cursor: i64) {
        let roll = std::mem::replace(
            &mut self.definition.roll,
            RollPolicy {
                max_bytes: 64 << 20,
                max_rows: 1_000_000,
                max_age_ms: 3_600_000,
                max_idle_ms: 3_600_000,
            },
        );
        let owner = self.own(epoch, epoch > 1);
        owner.wait_for(|report| report.metrics.topic_cursor >= Some(NextOffset(cursor))).await;
        owner.task.abort();
        let _ = owner.task.await;
        self.definition.roll = roll;
    }

    async fn halts(&self, epoch: u64) -> Halt {
        match self.own(epoch, true).task.await.expect("no panic") {
            StopReason::Halted(halt) => halt,
            reason => panic!("{reason:?}"),
        }
    }

    fn lake(&self) -> &Lake {
        self.lake.as_ref().expect("the pipeline has a lake")
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
            transforms: self.transforms.clone(),
            deaths: self.deaths,
            skip_lost: self.skip_lost,
            trial: self.trial.clone(),
            rate: None,
            account: self.budget.open_account(&self.slot),
            compute: ComputePool::new(2),
            status: Arc::clone(&status),
            latest: Arc::new(LatestRequests::default()),
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
        self.produce_keyed(values.into_iter().map(|value| (None, value)));
    }

    fn produce_keyed(&self, records: impl IntoIterator<Item = (Option<String>, String)>) {
        let producer: BaseProducer = client_config(&self.servers, "test")
            .set("message.max.bytes", "2000000")
            .create()
            .expect("producer");
        for (key, value) in records {
            let mut record = BaseRecord::<str, str>::to(&self.definition.source.topics[0]).payload(&value);
            record.key = key.as_deref();
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
            self.lake().store.list(Some(&self.lake().prefix)).try_collect().await.expect("listed");
        objects.into_iter().map(|object| object.location).filter(|key| key.as_ref().contains(part)).collect()
    }

    /// How often each raw offset is in the lake, read by its rows. The flushes that the footers tell of must follow one
    /// another.
    async fn lake_offsets(&self) -> BTreeMap<i64, usize> {
        let (found, flushes) = self.lake_rows().await;
        for ((sequence, (_, end)), (next, (start, _))) in flushes.iter().zip(flushes.iter().skip(1)) {
            // A flush without rows leaves no file.
            assert!(
                start >= end && (start == end || next - sequence > 1),
                "{sequence} and {next}: {flushes:?}"
            );
        }
        found
    }

    /// How often each raw offset is in the lake, and the range of each flush by its sequence.
    async fn lake_rows(&self) -> (BTreeMap<i64, usize>, BTreeMap<u64, (i64, i64)>) {
        let mut found = BTreeMap::new();
        let mut flushes: BTreeMap<u64, (i64, i64)> = BTreeMap::new();
        for key in self.keys("year=").await {
            let bytes = self.lake().store.get(&key).await.expect("got").bytes().await.expect("bytes");
            let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).expect("Parquet");
            let pairs = builder.metadata().file_metadata().key_value_metadata().expect("footer").clone();
            let number = |name: &str| {
                let pair = pairs.iter().find(|pair| pair.key == name).expect("in the footer");
                pair.value.as_deref().expect("a value").parse::<i64>().expect("a number")
            };
            let range = (number(footer::FIRST_OFFSET), number(footer::NEXT_OFFSET));
            let sequence = number(footer::SEQUENCE).unsigned_abs();
            assert_eq!(*flushes.entry(sequence).or_insert(range), range, "one flush of number {sequence}");
            for batch in builder.build().expect("reader") {
                let batch = batch.expect("batch");
                let column = batch.column_by_name("kafka_offset").expect("column");
                let offsets =
                    column.as_any().downcast_ref::<arrow_array::Int64Array>().expect("64-bit offsets");
                for offset in offsets.values() {
                    *found.entry(*offset).or_default() += 1;
                }
            }
        }
        (found, flushes)
    }

    /// The source offsets of quarantined records, and how often each stands there.
    fn quarantined_offsets(&self) -> BTreeMap<i64, usize> {
        count(
            self.read_committed(&self.definition.invalid_topic)
                .into_iter()
                .map(|record| record.source_offset),
        )
    }

    /// The source offsets of enriched records, and how often each stands there.
    fn enriched_offsets(&self) -> BTreeMap<i64, usize> {
        count(self.enriched().into_iter().map(|record| record.source_offset))
    }

    fn enriched(&self) -> Vec<Found> {
        self.read_committed(self.definition.enriched_topic.as_deref().expect("a topic sink"))
    }

    /// Everything in partition 0 of `topic`, as a `read_committed` reader sees it.
    fn read_committed(&self, topic: &str) -> Vec<Found> {
        let consumer: BaseConsumer = client_config(&self.servers, "test")
            .set("group.id", "test")
            .set("enable.partition.eof", "true")
            .set("enable.auto.commit", "false")
            .create()
            .expect("consumer");
        let mut list = rdkafka::TopicPartitionList::new();
        list.add_partition_offset(topic, 0, rdkafka::Offset::Beginning).expect("offset");
        consumer.assign(&list).expect("assigned");
        let mut found = Vec::new();
        loop {
            match consumer.poll(Duration::from_secs(30)).expect("the end of the partition") {
                Ok(message) => {
                    let headers: BTreeMap<String, String> = message
                        .headers()
                        .expect("headers")
                        .iter()
                        .map(|header| {
                            let value = header.value.unwrap_or_default();
                            (header.key.to_owned(), String::from_utf8_lossy(value).into_owned())
                        })
                        .collect();
                    let text = |bytes: Option<&[u8]>| bytes.map(|b| String::from_utf8_lossy(b).into_owned());
                    found.push(Found {
                        source_offset: headers[headers::SOURCE_OFFSET].parse().expect("an offset"),
                        key: text(message.key()),
                        value: text(message.payload()),
                        headers,
                    });
                }
                Err(rdkafka::error::KafkaError::PartitionEOF(_)) => return found,
                Err(error) => panic!("{error}"),
            }
        }
    }
}

/// A record of an output topic.
#[derive(Debug)]
struct Found {
    source_offset: i64,
    key: Option<String>,
    value: Option<String>,
    headers: BTreeMap<String, String>,
}

fn count(offsets: impl Iterator<Item = i64>) -> BTreeMap<i64, usize> {
    offsets.fold(BTreeMap::new(), |mut counts, offset| {
        *counts.entry(offset).or_default() += 1;
        counts
    })
}

fn test_server(variable: &str) -> String {
    std::env::var(variable)
        .unwrap_or_else(|_| panic!("{variable} must name a server for this test; `make test` starts it"))
}

fn once(offsets: std::ops::Range<i64>) -> BTreeMap<i64, usize> {
    offsets.map(|offset| (offset, 1)).collect()
}
