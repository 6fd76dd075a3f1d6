//! A pipeline's topics, committed offset and lake, as a worker would leave them: the same transform makes rows and
//! enriched values, the rest is written by hand.

mod page;

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_array::{ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray};
use arrow_schema::{DataType, Field, Schema};
use millrace_common::event::{column, footer};
use millrace_common::headers;
use millrace_common::kafka::{client_config, ensure_topics};
use millrace_common::ledger::Entry;
use millrace_common::record::{CommittedRecord, WindowBounds};
use millrace_common::types::{
    Epoch, LakeTarget, NextOffset, PipelineDefinition, PipelineId, StartPosition, TransformDefinition,
};
use millrace_transform::{Output, Registry, SourceRecord, Verdict, Wants};
use millrace_verify::Config;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

pub(crate) use self::page::serve_definition;

pub(crate) const DAY: &str = "year=2024/month=01/day=15";
/// What the collector refused.
pub(crate) const REFUSED: &[u8] = b"{\"type\":\"page_view\"}";
/// What a worker quarantined.
const POISON: &[u8] = b"not json";
pub(crate) const POISON_OFFSET: i64 = 12;
/// Sent again under the same id, one offset later.
pub(crate) const REPEATED: i64 = 24;
pub(crate) const REPEAT: i64 = 25;
/// Of another type than all others.
pub(crate) const CLICK: i64 = 26;
const RECEIVED_MS: i64 = 1_705_314_700_000;
/// The end of what is committed; five more records follow.
pub(crate) const CURSOR: i64 = 35;
/// Four aborted records and their marker.
const ABORTED: Range<i64> = 15..20;
const DEADLINE: Duration = Duration::from_secs(30);

/// The event at `offset` of partition 0.
pub(crate) fn event(offset: i64) -> String {
    let kind = if offset == CLICK { "click" } else { "page_view" };
    let offset = if offset == REPEAT { REPEATED } else { offset };
    format!(
        "{{\"type\":\"{kind}\",\"package_id\":\"id-{offset}\",\"event\":{{\"timestamp\":\"2024-01-15T10:30:00.5Z\",\
         \"page\":\"https://shop.example/home?utm_source=mail\",\"price\":1.50,\"customer_id\":{offset}}}}} "
    )
}

/// What the pipeline is.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) transform: &'static str,
    /// In JSON.
    pub(crate) options: &'static str,
    pub(crate) has_lake: bool,
    pub(crate) has_topic: bool,
    pub(crate) window: u64,
    /// The first record that the pipeline reads.
    pub(crate) start: i64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            transform: "clicks",
            options: "{}",
            has_lake: true,
            has_topic: false,
            window: 100_000,
            start: 0,
        }
    }
}

/// A record of the enriched or of the invalid topic.
#[derive(Debug, Clone)]
pub(crate) struct Sent {
    pub(crate) partition: i32,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Vec<u8>,
    pub(crate) headers: Vec<(&'static str, String)>,
}

impl Sent {
    /// The source offset that its headers name.
    pub(crate) fn source(&self) -> i64 {
        let header = self.headers.iter().find(|(name, _)| *name == headers::SOURCE_OFFSET);
        header.map_or(-1, |(_, offset)| offset.parse().expect("a number"))
    }

    pub(crate) fn set_header(&mut self, name: &'static str, value: impl Into<String>) {
        self.headers.retain(|(known, _)| *known != name);
        self.headers.push((name, value.into()));
    }

    pub(crate) fn replace(&mut self, from: &str, to: &str) {
        let text = String::from_utf8(self.value.clone()).expect("text");
        assert!(text.contains(from), "{text}");
        self.value = text.replace(from, to).into_bytes();
    }
}

type TestProducer = ThreadedProducer<DefaultProducerContext>;

pub(crate) struct Scene {
    setup: Setup,
    name: String,
    definition: PipelineDefinition,
    folder: tempfile::TempDir,
    /// Keys of the two files of partition 0.
    pub(crate) files: Vec<String>,
    producer: TestProducer,
}

impl Scene {
    /// Partition 0: offsets 0..15, an aborted transaction, 15 more below the cursor, five beyond it. Partition 1 has
    /// three records and no commit.
    pub(crate) async fn new(setup: Setup) -> Self {
        let servers = std::env::var("MILLRACE_TEST_KAFKA").unwrap_or_else(|_| {
            panic!("MILLRACE_TEST_KAFKA is not set: expected host:port of a Kafka for tests")
        });
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_nanos();
        let name = format!("verify-{}-{nanos}", std::process::id());
        let raw = format!("{name}.raw");
        // Kafka would take records of another year out at once.
        let admin: AdminClient<DefaultClientContext> =
            client_config(&servers, "test").create().expect("an admin client");
        let topic = NewTopic::new(&raw, 2, TopicReplication::Fixed(1)).set("retention.ms", "-1");
        let made = admin.create_topics([&topic], &AdminOptions::new()).await.expect("an answer");
        for topic in made {
            topic.expect("raw topic");
        }
        let folder = tempfile::tempdir().expect("folder");
        let id = PipelineId::new(format!("p-{:x}", nanos % (1 << 40))).expect("id");
        let mut definition = PipelineDefinition::new(id, "p", &servers, vec![raw], "");
        definition.transform = TransformDefinition {
            kind: setup.transform.to_owned(),
            options: serde_json::from_str(setup.options).expect("options"),
        };
        definition.duplicate_window = setup.window;
        definition.lake =
            setup.has_lake.then(|| LakeTarget::new(format!("file://{}", folder.path().display())));
        if setup.start > 0 {
            definition.source.start = StartPosition::Latest;
            definition.source.initial_partitions = vec![2];
        }
        let producer: TestProducer = client_config(&servers, "test").create().expect("producer");
        let mut scene = Self { setup, name, definition, folder, files: Vec::new(), producer };
        (0..ABORTED.start).for_each(|offset| scene.send_raw(&scene.producer, 0, Some(offset)));
        scene.producer.flush(DEADLINE).expect("flush");
        scene.abort();
        (ABORTED.end..CURSOR + 5).for_each(|offset| scene.send_raw(&scene.producer, 0, Some(offset)));
        (0..3).for_each(|offset| scene.send_raw(&scene.producer, 1, Some(offset)));
        scene.producer.flush(DEADLINE).expect("flush");
        scene.commit();
        scene.set_aside(|_| ()).await;
        if scene.setup.has_topic {
            scene.enrich(|_| ()).await;
        }
        if scene.setup.has_lake {
            scene.files = vec![scene.key(scene.setup.start), scene.key(10)];
            scene.put(&scene.files[0], &scene.file(1, scene.setup.start..10, event));
            scene.put(&scene.files[1], &scene.file(2, 10..CURSOR, event));
        }
        scene
    }

    pub(crate) fn config(&self) -> Config {
        Config {
            pipeline: None,
            page: String::new(),
            lake: format!("file://{}", self.folder.path().display()),
            s3_endpoint: None,
            s3_region: None,
            kafka: None,
            ledger: None,
            derived: false,
            settle: Duration::from_millis(1),
            json: false,
        }
    }

    pub(crate) fn definition(&self) -> &PipelineDefinition {
        &self.definition
    }

    /// Changes the definition, as a pipeline that is resumed with another file does.
    pub(crate) fn redefine(&mut self, change: impl FnOnce(&mut PipelineDefinition)) {
        change(&mut self.definition);
        self.put("_millrace/pipeline.json", &serde_json::to_vec(&self.definition).expect("json"));
    }

    pub(crate) fn key(&self, start: i64) -> String {
        format!("{DAY}/{}-0-0-{start}-0.parquet", self.definition.id)
    }

    /// Offsets of partition 0 that have a record, below the cursor.
    fn raw_offsets(&self) -> impl Iterator<Item = i64> + use<> {
        (self.setup.start..CURSOR).filter(|offset| !ABORTED.contains(offset))
    }

    /// Those whose records are in the sinks.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = i64> + use<> {
        let drops_repeats = self.setup.window > 0;
        let is_kept = move |offset: &i64| !(drops_repeats && *offset == REPEAT);
        let kept: Vec<i64> = self.raw_offsets().filter(is_kept).collect();
        let verdicts = self.transformed(&kept, event).1;
        kept.into_iter().zip(verdicts).filter(|(_, value)| value.is_some()).map(|(offset, _)| offset)
    }

    pub(crate) fn ledger(&self, entries: &[Entry]) -> PathBuf {
        let path = self.folder.path().join("_ledger");
        std::fs::write(&path, entries.iter().map(Entry::line).collect::<String>()).expect("ledger");
        path
    }

    pub(crate) fn put(&self, key: &str, bytes: &[u8]) {
        let path = self.folder.path().join(key);
        std::fs::create_dir_all(path.parent().expect("folder")).expect("folder");
        // Visible at once and whole, as an object is.
        let staged = self.folder.path().join("_staged");
        std::fs::write(&staged, bytes).expect("write");
        std::fs::rename(staged, path).expect("rename");
    }

    /// Removes an object and returns it.
    pub(crate) fn take(&self, key: &str) -> Vec<u8> {
        let path = self.folder.path().join(key);
        let bytes = std::fs::read(&path).expect("read");
        std::fs::remove_file(path).expect("remove");
        bytes
    }

    pub(crate) fn file(&self, sequence: u64, range: Range<i64>, json: impl Fn(i64) -> String) -> Vec<u8> {
        self.file_of(self.definition.id.as_str(), sequence, range, json)
    }

    /// A file of partition 0 with a row for each event in `range` that is kept.
    pub(crate) fn file_of(
        &self,
        pipeline: &str,
        sequence: u64,
        range: Range<i64>,
        json: impl Fn(i64) -> String,
    ) -> Vec<u8> {
        let beyond = CURSOR.max(range.start)..range.end;
        let offsets: Vec<i64> =
            self.offsets().filter(|offset| range.contains(offset)).chain(beyond).collect();
        self.file_with(pipeline, sequence, range, &offsets, json)
    }

    /// A file of partition 0 whose rows are at `offsets`.
    pub(crate) fn file_with(
        &self,
        pipeline: &str,
        sequence: u64,
        range: Range<i64>,
        offsets: &[i64],
        json: impl Fn(i64) -> String,
    ) -> Vec<u8> {
        let batch = self.transformed(offsets, json).0;
        let mut writer = ArrowWriter::try_new(Vec::new(), batch.schema(), None).expect("writer");
        writer.write(&batch).expect("rows");
        for (key, value) in [
            (footer::PIPELINE, pipeline.to_owned()),
            (footer::SLOT, "0-0".to_owned()),
            (footer::EPOCH, "1".to_owned()),
            (footer::SEQUENCE, sequence.to_string()),
            (footer::FIRST_OFFSET, range.start.to_string()),
            (footer::NEXT_OFFSET, range.end.to_string()),
        ] {
            writer.append_key_value_metadata(KeyValue::new(key.to_owned(), value));
        }
        writer.into_inner().expect("file")
    }

    /// The rows of those records of `offsets` that are kept, and the enriched value of each that is.
    fn transformed(
        &self,
        offsets: &[i64],
        json: impl Fn(i64) -> String,
    ) -> (RecordBatch, Vec<Option<Vec<u8>>>) {
        let mut transform = Registry::default().build(&self.definition.transform).expect("a transform");
        let values: Vec<Vec<u8>> = offsets.iter().map(|offset| raw_value(*offset, &json)).collect();
        let keys: Vec<String> = offsets.iter().map(|offset| raw_key(*offset)).collect();
        let records: Vec<SourceRecord<'_>> = (0..offsets.len())
            .map(|index| SourceRecord {
                offset: offsets[index],
                timestamp_ms: RECEIVED_MS,
                key: Some(keys[index].as_bytes()),
                value: Some(&values[index]),
                headers: vec![RAW_HEADER],
            })
            .collect();
        let mut output = Output::default();
        transform.apply(&records, Wants { rows: true, values: true }, &mut output);
        let value = |verdict: &Verdict| match verdict {
            Verdict::Kept(kept) => output.value(kept).map(<[u8]>::to_vec),
            Verdict::Filtered | Verdict::Rejected(_) => None,
        };
        let values = output.verdicts().iter().map(value).collect();
        let rows: Vec<i64> = output.rows().iter().map(|place| place.offset).collect();
        let mut fields = vec![
            Arc::new(Field::new(column::KAFKA_TOPIC, DataType::Utf8, false)),
            Arc::new(Field::new(column::KAFKA_PARTITION, DataType::Int32, false)),
            Arc::new(Field::new(column::KAFKA_OFFSET, DataType::Int64, false)),
        ];
        let mut columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from(vec![self.raw(); rows.len()])),
            Arc::new(Int32Array::from_value(0, rows.len())),
            Arc::new(Int64Array::from(rows)),
        ];
        fields.extend(transform.columns().iter().map(|column| column.field.clone()));
        columns.extend(transform.take_rows().expect("rows"));
        (RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("batch"), values)
    }

    /// Takes what lies below `offset` out of a partition 0, as retention does.
    pub(crate) async fn forget(&self, topic: &str, offset: i64) {
        let admin: AdminClient<DefaultClientContext> =
            client_config(self.servers(), "test").create().expect("an admin client");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, 0, Offset::Offset(offset)).expect("offset");
        let done = admin.delete_records(&list, &AdminOptions::new()).await.expect("an answer");
        done.elements().iter().for_each(|element| element.error().expect("records are gone"));
    }

    pub(crate) fn raw(&self) -> &str {
        &self.definition.source.topics[0]
    }

    fn servers(&self) -> &str {
        &self.definition.bootstrap_servers
    }

    fn send_raw(&self, producer: &TestProducer, partition: i32, offset: Option<i64>) {
        let value = offset.map_or(b"aborted".to_vec(), |offset| raw_value(offset, event));
        let key = raw_key(offset.unwrap_or(-1));
        let (name, text) = RAW_HEADER;
        let header = OwnedHeaders::new().insert(Header { key: name, value: text });
        let record = BaseRecord::to(self.raw())
            .partition(partition)
            .key(&key)
            .payload(&value)
            .headers(header)
            .timestamp(RECEIVED_MS);
        producer.send(record).map_err(|(error, _)| error).expect("send");
    }

    /// Leaves records that no `read_committed` reader sees.
    fn abort(&self) {
        let producer: TestProducer = client_config(self.servers(), "test")
            .set("transactional.id", format!("{}.test", self.definition.id))
            .create()
            .expect("producer");
        producer.init_transactions(DEADLINE).expect("init");
        producer.begin_transaction().expect("begin");
        // The last offset is the marker's.
        (ABORTED.start..ABORTED.end - 1).for_each(|_| self.send_raw(&producer, 0, None));
        producer.flush(DEADLINE).expect("flush");
        producer.abort_transaction(DEADLINE).expect("abort");
    }

    fn source_headers(&self, offset: i64) -> Vec<(&'static str, String)> {
        vec![
            (headers::SOURCE_TOPIC, self.raw().to_owned()),
            (headers::SOURCE_PARTITION, "0".to_owned()),
            (headers::SOURCE_OFFSET, offset.to_string()),
        ]
    }

    /// What a worker sets aside of the record at `offset`.
    pub(crate) fn quarantined(&self, offset: i64) -> Sent {
        let mut headers = self.source_headers(offset);
        headers.push((headers::ORIGIN, headers::ORIGIN_WORKER.to_owned()));
        headers.push((headers::PIPELINE, self.definition.id.to_string()));
        headers.push((headers::REASON, "not_json".to_owned()));
        Sent {
            partition: 0,
            key: Some(raw_key(offset).into_bytes()),
            value: raw_value(offset, event),
            headers,
        }
    }

    /// Gives the pipeline an invalid topic with what it should hold, but for `change`.
    pub(crate) async fn set_aside(&mut self, change: impl FnOnce(&mut Vec<Sent>)) {
        let origin = (headers::ORIGIN, headers::ORIGIN_COLLECTOR.to_owned());
        let refused = Sent { partition: 0, key: None, value: REFUSED.to_vec(), headers: vec![origin] };
        let mut records = vec![refused];
        if self.setup.transform == "clicks" {
            records.push(self.quarantined(POISON_OFFSET));
        }
        change(&mut records);
        let topic = self.new_topic("invalid", 1, &records).await;
        self.redefine(|definition| definition.invalid_topic = topic);
    }

    /// Gives the pipeline an enriched topic with what it should hold, but for `change`.
    pub(crate) async fn enrich(&mut self, change: impl FnOnce(&mut Vec<Sent>)) {
        let offsets: Vec<i64> = self.offsets().collect();
        let values = self.transformed(&offsets, event).1;
        let mut records: Vec<Sent> = offsets
            .into_iter()
            .zip(values)
            .map(|(offset, value)| Sent {
                partition: 0,
                key: Some(raw_key(offset).into_bytes()),
                value: value.expect("a value"),
                headers: self.source_headers(offset),
            })
            .collect();
        change(&mut records);
        let topic = self.new_topic("enriched", 3, &records).await;
        self.redefine(|definition| definition.enriched_topic = Some(topic));
    }

    async fn new_topic(&self, kind: &str, partitions: i32, records: &[Sent]) -> String {
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_nanos();
        let topic = format!("{}.{kind}.{nanos}", self.name);
        ensure_topics(self.servers(), &[&topic], &[&topic], partitions).await.expect("a topic");
        for sent in records {
            let headers = sent.headers.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
                headers.insert(Header { key, value: Some(value) })
            });
            let mut record = BaseRecord::<[u8], [u8]>::to(&topic)
                .partition(sent.partition)
                .payload(&sent.value)
                .headers(headers);
            record.key = sent.key.as_deref();
            self.producer.send(record).map_err(|(error, _)| error).expect("send");
        }
        self.producer.flush(DEADLINE).expect("flush");
        topic
    }

    fn commit(&self) {
        let consumer: BaseConsumer = client_config(self.servers(), "test")
            .set("group.id", self.definition.group_id())
            .create()
            .expect("consumer");
        let start = NextOffset(self.setup.start);
        let record = CommittedRecord {
            topic_cursor: NextOffset(CURSOR),
            lake_cursor: NextOffset(CURSOR),
            window: WindowBounds { size: self.setup.window, floor: start },
            ..CommittedRecord::first(Epoch(1), start, self.setup.window, String::new())
        };
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(self.raw(), 0, Offset::Offset(record.offset())).expect("offset");
        list.find_partition(self.raw(), 0).expect("a partition").set_metadata(record.metadata());
        consumer.commit(&list, CommitMode::Sync).expect("commit");
    }
}

/// A header of every raw record.
const RAW_HEADER: (&str, Option<&[u8]>) = ("traceparent", Some(b"00-1-2-01"));

fn raw_key(offset: i64) -> String {
    format!("id-{}", if offset == REPEAT { REPEATED } else { offset })
}

fn raw_value(offset: i64, json: impl Fn(i64) -> String) -> Vec<u8> {
    if offset == POISON_OFFSET { POISON.to_vec() } else { json(offset).into_bytes() }
}
