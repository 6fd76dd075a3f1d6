//! What a user of `clicks` would miss.

use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use millrace_common::event::RejectionCode;
use serde_json::{Value, json};

use super::Clicks;
use crate::{Kind, Output, SourceRecord, Transform, Verdict, Wants};

const RECEIVED: i64 = 1_733_011_200_000;

fn clicks(options: &Value) -> Box<dyn Transform> {
    let options = options.as_object().expect("a table");
    let kind = Clicks::default();
    assert_eq!(kind.check(options), []);
    kind.build(options).expect("built")
}

/// The enriched value of each event, or why there is none.
fn apply(transform: &mut dyn Transform, events: &[&str]) -> Vec<Result<String, Option<RejectionCode>>> {
    let records: Vec<_> = events
        .iter()
        .enumerate()
        .map(|(offset, event)| SourceRecord {
            offset: offset as i64,
            timestamp_ms: RECEIVED,
            value: Some(event.as_bytes()),
            ..SourceRecord::default()
        })
        .collect();
    let mut output = Output::default();
    transform.apply(&records, Wants { rows: true, values: true }, &mut output);
    let verdicts = output.verdicts().iter().map(|verdict| match verdict {
        Verdict::Kept(kept) => {
            Ok(String::from_utf8(output.value(kept).expect("a value").to_vec()).expect("text"))
        }
        Verdict::Filtered => Err(None),
        Verdict::Rejected(rejection) => Err(Some(rejection.code)),
    });
    verdicts.collect()
}

const EVENT: &str = r#"{ "id": 1, "type":"click","package_id":"p-1", "event":{"timestamp":"2024-01-15T10:30:00Z",
 "page":"https://shop.example/a\"b?utm_source=news&q=1","ip":"1.2.3.4","customer_id":7,"colour":"r\u0065d"} }
"#;

#[test]
fn the_enriched_event_is_the_clients_bytes_and_one_member() {
    let mut transform = clicks(&json!({}));
    let value = apply(&mut *transform, &[EVENT]).remove(0).expect("kept");
    let sent = EVENT.trim_end();
    assert!(value.starts_with(&sent[..sent.len() - 1]), "{value}");
    let parsed: Value = serde_json::from_str(&value).expect("JSON");
    assert_eq!(parsed["millrace"]["event_time"], "2024-01-15T10:30:00.000Z");
    assert_eq!(parsed["millrace"]["received_time"], "2024-12-01T00:00:00.000Z");
    assert_eq!(parsed["millrace"]["page_host"], "shop.example");
    assert_eq!(parsed["millrace"]["page_path"], "/a\"b");
    assert_eq!(parsed["millrace"]["utm_source"], "news");
    assert!(parsed["millrace"].get("browser").is_none(), "{value}");
}

#[test]
fn events_of_other_types_are_filtered_and_bad_ones_rejected() {
    let mut transform = clicks(&json!({ "types": ["purchase"] }));
    let taken =
        br#"{"type":"purchase","package_id":"p","millrace":1,"event":{"timestamp":"2024-01-15T10:30:00Z"}}"#;
    let taken = std::str::from_utf8(taken).expect("text");
    let verdicts = apply(&mut *transform, &[EVENT, "{", taken]);
    assert_eq!(
        verdicts,
        [Err(None), Err(Some(RejectionCode::NotJson)), Err(Some(RejectionCode::ReservedMember))]
    );
    assert!(transform.take_rows().expect("rows").iter().all(|array| array.is_empty()));
}

#[test]
fn members_are_dropped_and_renamed_in_both_sinks() {
    let options =
        json!({ "drop": ["ip", "colour"], "rename": { "customer_id": "shopper" }, "enrichers": [] });
    let mut transform = clicks(&options);
    let value = apply(&mut *transform, &[EVENT]).remove(0).expect("kept");
    let parsed: Value = serde_json::from_str(&value).expect("JSON");
    let event = parsed["event"].as_object().expect("an object");
    assert_eq!(event.keys().collect::<Vec<_>>(), ["page", "shopper", "timestamp"]);
    assert_eq!(event["shopper"], 7);
    assert_eq!(parsed["id"], 1);

    let rows = transform.take_rows().expect("rows");
    let column = |name: &str| {
        let index = transform.columns().iter().position(|column| column.name() == name);
        index.map(|index| &rows[index])
    };
    assert_eq!(column("shopper").expect("a column").as_primitive::<Int64Type>().value(0), 7);
    for gone in ["ip", "customer_id", "browser", "page_host", "is_bot"] {
        assert!(column(gone).is_none(), "{gone}");
    }
    assert!(column("extra").expect("a column").is_null(0), "a dropped member is in no column");
}

#[test]
fn a_renamed_member_never_stands_twice() {
    let mut transform = clicks(&json!({ "rename": { "customer_id": "colour" } }));
    assert_eq!(apply(&mut *transform, &[EVENT]), [Err(Some(RejectionCode::NameTaken))]);
}

#[test]
fn all_problems_of_the_options_are_told_at_once() {
    let options = json!({
        "type": ["click"], "drop": ["timestamp"], "rename": { "customer_id": "event_time", "colour": "Farbe" },
        "enrichers": ["page", "weather", "country"], "own_hosts": "shop.example",
    });
    let problems = Clicks::default().check(options.as_object().expect("a table"));
    let keys: Vec<_> = problems.iter().map(|problem| problem.key.as_str()).collect();
    for expected in [
        "transform.type",
        "transform.drop",
        "transform.rename.customer_id",
        "transform.rename.colour",
        "transform.enrichers",
        "transform.own_hosts",
    ] {
        assert!(keys.contains(&expected), "{expected} in {keys:?}");
    }
    assert_eq!(keys.iter().filter(|key| **key == "transform.rename.colour").count(), 2);
    assert_eq!(keys.iter().filter(|key| **key == "transform.enrichers").count(), 2);
}

#[test]
fn rows_and_columns_agree() {
    for options in [json!({}), json!({ "drop": ["page", "price"], "enrichers": ["user_agent"] })] {
        let mut transform = clicks(&options);
        apply(&mut *transform, &[EVENT, EVENT]);
        let rows = transform.take_rows().expect("rows");
        assert_eq!(rows.len(), transform.columns().len());
        for (column, array) in transform.columns().iter().zip(&rows) {
            assert_eq!(column.field.data_type(), array.data_type(), "{}", column.name());
            assert_eq!(array.len(), 2, "{}", column.name());
            assert!(column.field.is_nullable() || array.null_count() == 0, "{}", column.name());
        }
    }
}
