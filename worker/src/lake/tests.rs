//! What a reader of the lake would miss.

use std::collections::BTreeMap;

use arrow_array::RecordBatch;
use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMillisecondType};
use millrace_common::event::{ClientColumnReader, canonical_hash, column, footer, rebuild, schema};
use millrace_common::types::{Epoch, NextOffset, TransformDefinition};
use millrace_transform::{Output, Registry, SourceRecord, Transform, Verdict, Wants};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use parquet::file::metadata::ParquetMetaData;
use sha2::{Digest, Sha256};

use super::*;

const SAMPLE: &str = include_str!("../../../ingest/sample/events.json");
/// 2024-12-01, when all of the sample's days are over.
const RECEIVED: i64 = 1_733_011_200_000;
const DAY_MS: i64 = 86_400_000;

/// A transform and the buffer of its rows.
struct Lake {
    transform: Box<dyn Transform>,
    buffer: LakeBuffer,
}

impl std::ops::Deref for Lake {
    type Target = LakeBuffer;
    fn deref(&self) -> &LakeBuffer {
        &self.buffer
    }
}

fn buffer() -> Lake {
    let definition = TransformDefinition {
        kind: "clicks".into(),
        // A country needs a database: without one the column is not there.
        options: serde_json::Map::new(),
    };
    let transform = Registry::default().build(&definition).expect("built");
    let provenance = Provenance {
        slot: "clickstream-3f9a2c/0-5".parse().expect("slot"),
        epoch: Epoch(7),
        topic: "raw.events".to_owned(),
    };
    Lake { buffer: LakeBuffer::new(provenance, LakeFormat::new(transform.columns())), transform }
}

fn append(lake: &mut Lake, offset: i64, json: &str) -> Day {
    append_at(lake, offset, RECEIVED, json)
}

/// Appends one event and tells the day that its row went to.
fn append_at(lake: &mut Lake, offset: i64, timestamp_ms: i64, json: &str) -> Day {
    let record =
        SourceRecord { offset, timestamp_ms, value: Some(json.as_bytes()), ..SourceRecord::default() };
    let mut output = Output::default();
    lake.transform.apply(&[record], Wants { rows: true, values: false }, &mut output);
    assert!(matches!(output.verdicts(), [Verdict::Kept(_)]), "{:?}: {json}", output.verdicts());
    let before = lake.buffer.rows_by_day();
    lake.buffer.append(lake.transform.take_rows(), output.rows());
    let after = lake.buffer.rows_by_day();
    let grown = after.into_iter().find(|(day, rows)| before.get(day).copied().unwrap_or(0) < *rows);
    grown.expect("a day with one more row").0
}

fn finish(lake: &mut Lake, range: std::ops::Range<i64>) -> Vec<FinishedFile> {
    lake.buffer.finish(3, NextOffset(range.start)..NextOffset(range.end)).expect("files")
}

fn sample() -> Vec<String> {
    let events: Vec<serde_json::Value> = serde_json::from_str(SAMPLE).expect("the sample is an array");
    events.iter().map(ToString::to_string).collect()
}

fn event_at(timestamp: &str) -> String {
    format!(r#"{{"type":"click","package_id":"p","event":{{"timestamp":"{timestamp}"}}}}"#)
}

fn read(file: &FinishedFile) -> (ParquetMetaData, RecordBatch) {
    let builder = ParquetRecordBatchReaderBuilder::try_new(file.bytes.clone()).expect("a Parquet file");
    let metadata = builder.metadata().as_ref().clone();
    let rows = usize::try_from(file.rows).expect("rows");
    let mut reader = builder.with_batch_size(rows).build().expect("reader");
    let batch = reader.next().expect("rows").expect("a batch");
    assert!(reader.next().is_none());
    (metadata, batch)
}

fn texts(batch: &RecordBatch, name: &str) -> Vec<Option<String>> {
    let array = batch.column_by_name(name).unwrap_or_else(|| panic!("no column {name}"));
    array.as_string::<i32>().iter().map(|text| text.map(str::to_owned)).collect()
}

#[test]
fn the_sample_comes_back_from_parquet_with_its_days_and_hashes() {
    let mut buffer = buffer();
    let sample = sample();
    assert!(sample.len() >= 30, "{}", sample.len());
    for (index, json) in sample.iter().enumerate() {
        append(&mut buffer, 100 + 2 * index as i64, json);
    }
    assert_eq!((buffer.rows(), buffer.rows_unplaced()), (sample.len() as u64, 0));
    let files = finish(&mut buffer, 90..1000);
    assert_eq!((buffer.rows(), buffer.buffered_bytes()), (0, 0));

    let mut found = BTreeMap::new();
    for file in &files {
        assert_eq!(file.sha256, <[u8; 32]>::from(Sha256::digest(&file.bytes)));
        let (_, batch) = read(file);
        let offsets =
            batch.column_by_name(column::KAFKA_OFFSET).expect("offsets").as_primitive::<Int64Type>();
        assert_eq!(offsets.value(0), file.first_offset);
        assert_eq!(NextOffset::after(offsets.value(batch.num_rows() - 1)), file.next_offset);
        let events = batch.column_by_name(column::EVENT_TIME).expect("times");
        let events = events.as_primitive::<TimestampMillisecondType>();
        let reader = ClientColumnReader::new(&batch).expect("client columns");
        for row in 0..batch.num_rows() {
            assert_eq!(Day::of(events.value(row), RECEIVED), file.day);
            let rebuilt = rebuild(&reader.row(row)).expect("an event");
            found.insert(offsets.value(row), canonical_hash(rebuilt.as_bytes()).expect("hash"));
        }
    }
    let expected: BTreeMap<i64, [u8; 32]> = sample
        .iter()
        .enumerate()
        .map(|(index, json)| (100 + 2 * index as i64, canonical_hash(json.as_bytes()).expect("hash")))
        .collect();
    assert_eq!(found, expected);
    let days: Vec<String> = files.iter().map(|file| file.day.to_string()).collect();
    assert_eq!(days.first().map(String::as_str), Some("year=2024/month=01/day=15"));
    assert!(days.contains(&"year=2024/month=02/day=29".to_owned()), "{days:?}");
}

#[test]
fn a_file_has_the_columns_the_footer_and_the_enrichment() {
    let mut buffer = buffer();
    let json = r#"{"id":7,"type":"view","package_id":"é-1","event":{"timestamp":"2024-01-15T10:30:00Z","customer_id":12345,
        "ip":"2001:db8::1","page":"https://Shop.Example/a%20b?utm_source=news%20letter&utm_term=x#y",
        "user_agent":"Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)","colour":"red"}}"#;
    append(&mut buffer, 42, json);
    append_at(&mut buffer, 43, RECEIVED, &event_at("2024-01-15T23:59:59.999Z"));
    let files = finish(&mut buffer, 40..50);
    assert_eq!(files.len(), 1);
    let (metadata, batch) = read(&files[0]);

    let names = |schema: &arrow_schema::Schema| {
        schema
            .fields()
            .iter()
            .map(|field| (field.name().clone(), field.data_type().clone(), field.is_nullable()))
            .collect::<Vec<_>>()
    };
    let expected = names(&schema()).into_iter().filter(|(name, ..)| name != column::COUNTRY);
    assert_eq!(names(&batch.schema()), expected.collect::<Vec<_>>());
    for (name, first, second) in [
        (column::KAFKA_TOPIC, Some("raw.events"), Some("raw.events")),
        (column::PACKAGE_ID, Some("é-1"), Some("p")),
        (column::TYPE, Some("view"), Some("click")),
        ("ip", Some("2001:db8::1"), None),
        (column::PAGE_HOST, Some("shop.example"), None),
        (column::PAGE_PATH, Some("/a%20b"), None),
        ("utm_source", Some("news letter"), None),
        ("utm_medium", None, None),
        ("utm_term", Some("x"), None),
        (column::BROWSER, Some("Googlebot"), None),
        (column::DEVICE_CATEGORY, Some("crawler"), None),
        (column::EXTRA, Some(r#"{"event":{"colour":"red"}}"#), None),
    ] {
        let expected = [first, second].map(|text| text.map(str::to_owned));
        assert_eq!(texts(&batch, name), expected, "{name}");
    }
    let partitions = batch.column_by_name(column::KAFKA_PARTITION).expect("partitions");
    assert_eq!(partitions.as_primitive::<Int32Type>().values(), &[5, 5]);
    let received = batch.column_by_name(column::RECEIVED_TIME).expect("received");
    assert_eq!(received.as_primitive::<TimestampMillisecondType>().values(), &[RECEIVED, RECEIVED]);
    let bots: Vec<Option<bool>> =
        batch.column_by_name(column::IS_BOT).expect("bots").as_boolean().iter().collect();
    assert_eq!(bots, [Some(true), None]);

    let footer: BTreeMap<String, String> = metadata
        .file_metadata()
        .key_value_metadata()
        .expect("footer metadata")
        .iter()
        .map(|pair| (pair.key.clone(), pair.value.clone().unwrap_or_default()))
        .collect();
    let expected = [
        (footer::PIPELINE, "clickstream-3f9a2c"),
        (footer::SLOT, "0-5"),
        (footer::EPOCH, "7"),
        (footer::SEQUENCE, "3"),
        (footer::FIRST_OFFSET, "40"),
        (footer::NEXT_OFFSET, "50"),
        (footer::VERSION, millrace_common::types::VERSION),
    ];
    assert_eq!(footer, expected.map(|(key, value)| (key.to_owned(), value.to_owned())).into());

    for column in metadata.row_group(0).columns() {
        let name = column.column_path().string();
        let prunes = ["kafka_offset", "event_time", "type", "customer_id"].contains(&name.as_str());
        assert_eq!(column.statistics().is_some(), prunes, "{name}");
    }
}

#[test]
fn a_row_lies_in_its_own_day_or_is_unplaced() {
    let mut buffer = buffer();
    for (timestamp, received, folder) in [
        ("2000-01-01T00:00:00Z", RECEIVED, "year=2000/month=01/day=01"),
        ("1999-12-31T23:59:59.999Z", RECEIVED, "year=__HIVE"),
        ("2024-12-02T23:59:59Z", RECEIVED + DAY_MS - 1, "year=2024/month=12/day=02"),
        ("2024-12-03T00:00:00Z", RECEIVED + DAY_MS - 1, "year=__HIVE"),
        ("2024-12-03T00:00:00Z", RECEIVED + DAY_MS, "year=2024/month=12/day=03"),
        ("2016-12-31T23:59:60Z", RECEIVED, "year=2016/month=12/day=31"),
        ("2024-01-01T01:30:00+02:00", RECEIVED, "year=2023/month=12/day=31"),
        ("2024-01-15T10:30:00Z", -1, "year=__HIVE"),
    ] {
        let day = append_at(&mut buffer, 0, received, &event_at(timestamp));
        assert!(day.to_string().starts_with(folder), "{timestamp} lies in {day}");
    }
    assert_eq!(buffer.rows_unplaced(), 3);
}

#[test]
fn the_65th_day_of_a_flush_is_unplaced() {
    let mut buffer = buffer();
    let day = |number: i64| {
        let time = chrono::DateTime::from_timestamp_millis(RECEIVED - number * DAY_MS).expect("time");
        event_at(&time.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    };
    // An unplaced row before them takes no day's place.
    assert_eq!(append(&mut buffer, 0, &event_at("1980-01-01T00:00:00Z")), Day::Unplaced);
    for number in 0..64 {
        assert_ne!(append(&mut buffer, 1 + number, &day(number)), Day::Unplaced, "{number}");
    }
    assert_eq!(append(&mut buffer, 65, &day(64)), Day::Unplaced);
    assert_ne!(append(&mut buffer, 66, &day(63)), Day::Unplaced);
    assert!(buffer.buffered_bytes() < 4 << 20, "64 late rows hold {} bytes", buffer.buffered_bytes());
    let files = finish(&mut buffer, 0..67);
    assert_eq!(files.len(), 65);
    assert_eq!(files.iter().map(|file| file.rows).sum::<u64>(), 67);

    assert_ne!(append(&mut buffer, 67, &day(64)), Day::Unplaced, "the next flush opens its own days");
}

#[test]
fn rows_beyond_a_chunk_keep_their_order_and_are_counted() {
    let records = 40_000;
    let fill = |buffer: &mut Lake| {
        let mut most = 0;
        for offset in 0..records {
            let json = format!(
                r#"{{"type":"click","package_id":"p{offset}","event":{{"timestamp":"2024-01-15T10:30:00Z","page":"/{}"}}}}"#,
                offset * 7919 % 10_007
            );
            append(buffer, offset, &json);
            most = most.max(buffer.buffered_bytes());
        }
        most
    };
    let mut first = buffer();
    let held = fill(&mut first);
    let files = finish(&mut first, 0..records);
    assert!(held > files[0].bytes.len() as u64, "{held} bytes held, the file has {}", files[0].bytes.len());
    let (_, batch) = read(&files[0]);
    let offsets = batch.column_by_name(column::KAFKA_OFFSET).expect("offsets").as_primitive::<Int64Type>();
    assert!(offsets.values().iter().copied().eq(0..records));
    let ids = texts(&batch, column::PACKAGE_ID);
    assert!(ids.iter().enumerate().all(|(row, id)| id.as_deref() == Some(&*format!("p{row}"))));

    let mut second = buffer();
    fill(&mut second);
    assert_eq!(
        finish(&mut second, 0..records)[0].sha256,
        files[0].sha256,
        "the same records give the same file"
    );
}

#[test]
fn large_events_do_not_gather_in_the_builders() {
    let mut buffer = buffer();
    for offset in 0..64 {
        let noise: String = (0..1 << 20)
            .map(|at: u32| char::from(b'a' + (at.wrapping_mul(2_654_435_761) >> 24) as u8 % 26))
            .collect();
        let json = format!(
            r#"{{"type":"click","package_id":"p","event":{{"timestamp":"2024-01-15T10:30:00Z","page":"{noise}","colour":"{noise}"}}}}"#
        );
        append(&mut buffer, offset, &json);
    }
    // 64 events of 2 MiB, of which at most a chunk of 8 MiB waits uncompressed, in columns that grow by doubling.
    assert!(buffer.buffered_bytes() < 100 << 20, "{}", buffer.buffered_bytes());
    assert_eq!(finish(&mut buffer, 0..64)[0].rows, 64);
}

#[test]
fn a_flush_without_rows_has_no_files() {
    let mut buffer = buffer();
    assert!(finish(&mut buffer, 0..5).is_empty());
}

#[test]
fn rows_outside_the_flush_are_an_error() {
    let mut buffer = buffer();
    append(&mut buffer, 5, &event_at("2024-01-15T10:30:00Z"));
    let error = buffer.buffer.finish(1, NextOffset(6)..NextOffset(9)).expect_err("outside");
    assert!(error.to_string().contains("offsets 5 to 6"), "{error}");
    assert_eq!(buffer.rows(), 0);
}

#[test]
fn the_latest_rows_are_kept_over_small_batches_and_flushes() {
    let mut lake = buffer();
    let event = event_at("2024-01-01T00:00:00Z");
    for offset in 0..1500 {
        append(&mut lake, offset, &event);
        if offset == 1400 {
            finish(&mut lake, 0..1401);
        }
    }
    let latest = lake.latest().expect("rows");
    let offsets = latest["kafka_offset"].as_primitive::<Int64Type>().values();
    assert_eq!(offsets.to_vec(), (500..1500).collect::<Vec<_>>());
}

#[test]
fn few_large_rows_are_kept_instead_of_a_thousand() {
    let mut lake = buffer();
    let page = "x".repeat(300_000);
    let event = format!(
        r#"{{"type":"click","package_id":"p","event":{{"timestamp":"2024-01-15T10:30:00Z","page":"/{page}"}}}}"#
    );
    for offset in 0..50 {
        append(&mut lake, offset, &event);
        assert!(lake.latest_bytes() < 3 << 20, "{} bytes for looking", lake.latest_bytes());
    }
    let latest = lake.latest().expect("rows");
    let offsets = latest["kafka_offset"].as_primitive::<Int64Type>().values().to_vec();
    assert!((2..10).contains(&offsets.len()) && offsets.last() == Some(&49), "{offsets:?}");
}
