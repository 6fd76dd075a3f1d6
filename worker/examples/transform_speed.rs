//! What the transform costs: processor time per event of the check alone and of the whole way from JSON to a
//! hashed Parquet file and to the enriched event, on one thread. Measures; asserts nothing.
//!
//! `cargo run --release -p millrace-worker --example transform_speed`

use std::time::Instant;

use millrace_common::event::{canonical_hash, check};
use millrace_common::types::{Epoch, NextOffset, TransformDefinition};
use millrace_transform::{Output, Registry, SourceRecord, Wants};
use millrace_worker::lake::{LakeBuffer, LakeFormat, Provenance};

const EVENTS: usize = 400_000;
const BATCH: usize = 16_384;
const ROUNDS: usize = 5;
/// 2024-12-01 in milliseconds since 1970.
const RECEIVED: i64 = 1_733_011_200_000;

fn main() {
    let sample: Vec<serde_json::Value> =
        serde_json::from_str(include_str!("../../ingest/sample/events.json")).expect("the sample is JSON");
    let events: Vec<String> = (0..EVENTS)
        .map(|number| {
            let mut event = sample[number % sample.len()].clone();
            event["package_id"] = format!("{number:016x}-{:08x}", number.wrapping_mul(2_654_435_761)).into();
            event["id"] = number.into();
            event["event"]["customer_id"] = (number * 7919 % 100_003).into();
            // One day, as most traffic has.
            event["event"]["timestamp"] = "2024-12-01T10:30:00Z".into();
            event.to_string()
        })
        .collect();
    let bytes: usize = events.iter().map(String::len).sum();
    println!("{EVENTS} events of {} bytes", bytes / EVENTS);
    for _ in 0..ROUNDS {
        measure("check", || events.iter().filter(|json| check(json.as_bytes()).is_ok()).count());
        measure("canonical hash", || {
            events.iter().filter(|json| canonical_hash(json.as_bytes()).is_ok()).count()
        });
        measure("JSON to Parquet", || apply(&events, Wants { rows: true, values: false }));
        measure("JSON to enriched JSON", || apply(&events, Wants { rows: false, values: true }));
        measure("JSON to both", || apply(&events, Wants { rows: true, values: true }));
    }
}

/// Returns the bytes of the files and of the enriched events.
fn apply(events: &[String], wants: Wants) -> usize {
    let definition = TransformDefinition { kind: "clicks".into(), options: serde_json::Map::new() };
    let mut transform = Registry::default().build(&definition).expect("built");
    let provenance = Provenance {
        slot: "clickstream-3f9a2c/0-0".parse().expect("a slot"),
        epoch: Epoch(1),
        topic: "raw.events".to_owned(),
    };
    let mut buffer = LakeBuffer::new(provenance, LakeFormat::new(transform.columns()));
    let mut output = Output::default();
    let mut value_bytes = 0;
    for (number, batch) in events.chunks(BATCH).enumerate() {
        let records: Vec<_> = batch
            .iter()
            .zip((number * BATCH) as i64..)
            .map(|(json, offset)| SourceRecord {
                offset,
                timestamp_ms: RECEIVED,
                value: Some(json.as_bytes()),
                ..SourceRecord::default()
            })
            .collect();
        transform.apply(&records, wants, &mut output);
        value_bytes += output.value_bytes();
        if wants.rows {
            buffer.append(transform.take_rows(), output.rows());
        }
        output.clear(1 << 20);
    }
    let files = buffer.finish(1, NextOffset(0)..NextOffset(events.len() as i64)).expect("files");
    let bytes: usize = files.iter().map(|file| file.bytes.len()).sum();
    println!("  {} files, {} bytes an event in them", files.len(), bytes / events.len());
    bytes + value_bytes
}

fn measure(what: &str, run: impl FnOnce() -> usize) {
    let start = Instant::now();
    let result = run();
    let nanos = start.elapsed().as_nanos() / EVENTS as u128;
    println!("{what}: {nanos} ns an event ({result})");
}
