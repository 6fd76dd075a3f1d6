//! A pipeline's topics, committed offset and lake, as a worker would leave them.

use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arrow_array::builder::{Float64Builder, Int64Builder, StringBuilder};
use arrow_array::{
    ArrayRef, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray, new_null_array,
};
use millrace_common::event::{ColumnValue, FIELDS, FieldKind, check, column, footer, schema};
use millrace_common::headers;
use millrace_common::kafka::{client_config, ensure_topics};
use millrace_common::ledger::Entry;
use millrace_common::types::{LakeTarget, PipelineDefinition, PipelineId};
use millrace_verify::Config;
use parquet::arrow::ArrowWriter;
use parquet::file::metadata::KeyValue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer};
use rdkafka::message::{Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::{Offset, TopicPartitionList};

pub(crate) const DAY: &str = "year=2024/month=01/day=15";
/// What the collector refused.
pub(crate) const REFUSED: &[u8] = b"{\"type\":\"page_view\"}";
/// What a worker quarantined.
const POISON: &[u8] = b"not json";
const POISON_OFFSET: i64 = 12;
const RECEIVED_MS: i64 = 1_705_314_700_000;
const DEADLINE: Duration = Duration::from_secs(30);

/// The event at `offset` of partition 0.
pub(crate) fn event(offset: i64) -> String {
    format!(
        "{{\"type\":\"page_view\",\"package_id\":\"id-{offset}\",\"event\":{{\"timestamp\":\"2024-01-15T10:30:00.5Z\",\
         \"page\":\"/home\",\"price\":1.50,\"customer_id\":{offset}}}}}"
    )
}

type TestProducer = ThreadedProducer<DefaultProducerContext>;

pub(crate) struct Scene {
    servers: String,
    pipeline: String,
    raw: String,
    folder: tempfile::TempDir,
    /// Keys of the two files of partition 0.
    pub(crate) files: Vec<String>,
    pub(crate) cursor: i64,
    aborted: Range<i64>,
}

impl Scene {
    /// Partition 0: offsets 0..15, an aborted transaction, 15 more below the cursor, five beyond it.
    pub(crate) async fn new() -> Self {
        let servers = std::env::var("MILLRACE_TEST_KAFKA").unwrap_or_else(|_| {
            panic!("MILLRACE_TEST_KAFKA is not set: expected host:port of a Kafka for tests")
        });
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).expect("clock").as_nanos();
        let name = format!("verify-{}-{nanos}", std::process::id());
        let (raw, invalid) = (format!("{name}.raw"), format!("{name}.invalid"));
        ensure_topics(&servers, &[&raw], &[], 2).await.expect("raw topic");
        ensure_topics(&servers, &[&invalid], &[&invalid], 1).await.expect("invalid topic");
        let mut scene = Self {
            pipeline: format!("p-{:x}", nanos % (1 << 40)),
            servers,
            raw,
            folder: tempfile::tempdir().expect("folder"),
            files: Vec::new(),
            cursor: 0,
            aborted: 0..0,
        };
        scene.write_pipeline(&invalid);
        let producer: TestProducer = client_config(&scene.servers, "test").create().expect("producer");
        let value =
            |offset| if offset == POISON_OFFSET { POISON.to_vec() } else { event(offset).into_bytes() };
        (0..15).for_each(|offset| scene.send_raw(&producer, 0, &value(offset)));
        producer.flush(DEADLINE).expect("flush");
        scene.abort(4);
        // Four aborted records and their marker.
        scene.aborted = 15..20;
        scene.cursor = 35;
        (20..40).for_each(|offset| scene.send_raw(&producer, 0, &value(offset)));
        (0..3).for_each(|offset| scene.send_raw(&producer, 1, &value(offset)));
        scene.quarantine(&producer, &invalid);
        producer.flush(DEADLINE).expect("flush");
        scene.commit();
        scene.files = vec![scene.key(0), scene.key(10)];
        scene.put(&scene.files[0], &scene.file(1, 0..10, event));
        scene.put(&scene.files[1], &scene.file(2, 10..35, event));
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

    pub(crate) fn key(&self, start: i64) -> String {
        format!("{DAY}/{}-0-0-{start}-0.parquet", self.pipeline)
    }

    /// Offsets of partition 0 whose events are in the lake.
    pub(crate) fn offsets(&self) -> impl Iterator<Item = i64> {
        let aborted = self.aborted.clone();
        (0..self.cursor).filter(move |offset| *offset != POISON_OFFSET && !aborted.contains(offset))
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
        self.file_of(&self.pipeline, sequence, range, json)
    }

    /// A file of partition 0 with a row for each event in `range`.
    pub(crate) fn file_of(
        &self,
        pipeline: &str,
        sequence: u64,
        range: Range<i64>,
        json: impl Fn(i64) -> String,
    ) -> Vec<u8> {
        let (poison, aborted) = (POISON_OFFSET, self.aborted.clone());
        let offsets: Vec<i64> =
            range.clone().filter(|offset| *offset != poison && !aborted.contains(offset)).collect();
        let events: Vec<String> = offsets.iter().map(|offset| json(*offset)).collect();
        let mut writer = ArrowWriter::try_new(Vec::new(), schema(), None).expect("writer");
        writer.write(&self.rows(&offsets, &events)).expect("rows");
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

    fn rows(&self, offsets: &[i64], events: &[String]) -> RecordBatch {
        let events: Vec<_> = events.iter().map(|json| check(json.as_bytes()).expect("event")).collect();
        let mut scratch = vec![String::new(); events.len()];
        let rows: Vec<_> =
            events.iter().zip(&mut scratch).map(|(event, scratch)| event.columns(scratch)).collect();
        let count = rows.len();
        let texts = |text: &dyn Fn(usize) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values((0..count).map(text)))
        };
        let times = |time: &dyn Fn(usize) -> i64| -> ArrayRef {
            Arc::new(TimestampMillisecondArray::from_iter_values((0..count).map(time)).with_timezone("UTC"))
        };
        let columns = schema()
            .fields()
            .iter()
            .map(|field| match field.name().as_str() {
                column::KAFKA_TOPIC => texts(&|_| self.raw.clone()),
                column::KAFKA_PARTITION => Arc::new(Int32Array::from_value(0, count)),
                column::KAFKA_OFFSET => Arc::new(Int64Array::from(offsets.to_vec())),
                column::RECEIVED_TIME => times(&|_| RECEIVED_MS),
                column::EVENT_TIME => times(&|index| rows[index].event_time_ms),
                column::PACKAGE_ID => texts(&|index| rows[index].package_id.to_string()),
                column::TYPE => texts(&|index| rows[index].kind.to_string()),
                column::EXTRA => {
                    let mut builder = StringBuilder::new();
                    rows.iter().for_each(|row| builder.append_option(row.extra));
                    Arc::new(builder.finish())
                }
                name => match FIELDS.iter().position(|field| field.name == name) {
                    Some(index) => {
                        field_column(rows.iter().map(|row| &row.fields[index]), FIELDS[index].kind)
                    }
                    None => new_null_array(field.data_type(), count),
                },
            })
            .collect();
        RecordBatch::try_new(schema(), columns).expect("batch")
    }

    fn write_pipeline(&self, invalid: &str) {
        let id = PipelineId::new(self.pipeline.clone()).expect("id");
        let definition = PipelineDefinition {
            lake: Some(LakeTarget::new(self.config().lake)),
            ..PipelineDefinition::new(id, "p", &self.servers, vec![self.raw.clone()], invalid)
        };
        self.put("_millrace/pipeline.json", &serde_json::to_vec(&definition).expect("json"));
    }

    fn send_raw(&self, producer: &TestProducer, partition: i32, value: &[u8]) {
        let record =
            BaseRecord::<(), [u8]>::to(&self.raw).partition(partition).payload(value).timestamp(RECEIVED_MS);
        producer.send(record).map_err(|(error, _)| error).expect("send");
    }

    /// Leaves records that no `read_committed` reader sees.
    fn abort(&self, count: usize) {
        let producer: TestProducer = client_config(&self.servers, "test")
            .set("transactional.id", format!("{}.test", self.pipeline))
            .create()
            .expect("producer");
        producer.init_transactions(DEADLINE).expect("init");
        producer.begin_transaction().expect("begin");
        (0..count).for_each(|_| self.send_raw(&producer, 0, b"aborted"));
        producer.flush(DEADLINE).expect("flush");
        producer.abort_transaction(DEADLINE).expect("abort");
    }

    fn quarantine(&self, producer: &TestProducer, invalid: &str) {
        let source = [
            (headers::ORIGIN, headers::ORIGIN_WORKER.to_owned()),
            (headers::PIPELINE, self.pipeline.clone()),
            (headers::SOURCE_TOPIC, self.raw.clone()),
            (headers::SOURCE_PARTITION, "0".to_owned()),
            (headers::SOURCE_OFFSET, POISON_OFFSET.to_string()),
        ];
        let source = source.iter().fold(OwnedHeaders::new(), |headers, (key, value)| {
            headers.insert(Header { key, value: Some(value) })
        });
        let collector = OwnedHeaders::new()
            .insert(Header { key: headers::ORIGIN, value: Some(headers::ORIGIN_COLLECTOR) });
        for (value, headers) in [(POISON, source), (REFUSED, collector)] {
            let record = BaseRecord::<(), [u8]>::to(invalid).payload(value).headers(headers);
            producer.send(record).map_err(|(error, _)| error).expect("send");
        }
    }

    fn commit(&self) {
        let consumer: BaseConsumer = client_config(&self.servers, "test")
            .set("group.id", format!("millrace.{}", self.pipeline))
            .create()
            .expect("consumer");
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.raw, 0, Offset::Offset(self.cursor)).expect("offset");
        consumer.commit(&list, CommitMode::Sync).expect("commit");
    }
}

fn field_column<'a>(values: impl Iterator<Item = &'a Option<ColumnValue<'a>>>, kind: FieldKind) -> ArrayRef {
    match kind {
        FieldKind::Integer => {
            let mut builder = Int64Builder::new();
            values.for_each(|value| match value {
                Some(ColumnValue::Integer(integer)) => builder.append_value(*integer),
                _ => builder.append_null(),
            });
            Arc::new(builder.finish())
        }
        FieldKind::Number => {
            let mut builder = Float64Builder::new();
            values.for_each(|value| match value {
                Some(ColumnValue::Number(float)) => builder.append_value(*float),
                _ => builder.append_null(),
            });
            Arc::new(builder.finish())
        }
        FieldKind::Text => {
            let mut builder = StringBuilder::new();
            values.for_each(|value| match value {
                Some(ColumnValue::Text(text)) => builder.append_value(text),
                _ => builder.append_null(),
            });
            Arc::new(builder.finish())
        }
    }
}
