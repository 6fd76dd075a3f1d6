//! What the transform costs: processor time per event of the check alone and of the whole way from JSON to a
//! hashed Parquet file, on one thread. Measures; asserts nothing.
//!
//! `cargo run --release -p millrace-worker --example transform_speed`

use std::time::Instant;

use millrace_common::event::{canonical_hash, check};
use millrace_common::types::{Epoch, NextOffset};
use millrace_worker::transform::{LakeBuffer, Provenance, SourceRecord};

const EVENTS: usize = 400_000;
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
        measure("JSON to Parquet", || to_parquet(&events));
    }
}

/// Returns the bytes of the files.
fn to_parquet(events: &[String]) -> usize {
    let mut buffer = LakeBuffer::new(Provenance {
        slot: "clickstream-3f9a2c/0-0".parse().expect("a slot"),
        epoch: Epoch(1),
        topic: "raw.events".to_owned(),
    });
    for (offset, json) in events.iter().enumerate() {
        let record = SourceRecord {
            offset: offset as i64,
            timestamp_ms: RECEIVED,
            key: None,
            value: Some(json.as_bytes()),
        };
        buffer.append(&record).expect("an event");
    }
    let held = buffer.buffered_bytes();
    let files = buffer.finish(1, NextOffset(0)..NextOffset(events.len() as i64)).expect("files");
    let bytes: usize = files.iter().map(|file| file.bytes.len()).sum();
    println!("  {} files, {} bytes an event, {held} bytes held before", files.len(), bytes / events.len());
    bytes
}

fn measure(what: &str, work: impl FnOnce() -> usize) {
    let started = Instant::now();
    let result = std::hint::black_box(work());
    println!("{what}: {} ns an event ({result})", started.elapsed().as_nanos() / EVENTS as u128);
}
