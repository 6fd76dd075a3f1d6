use arrow_array::Array;
use arrow_array::cast::AsArray;
use arrow_array::types::TimestampMillisecondType;
use serde_json::Map;

use crate::{Kind, Output, SourceRecord, Verdict, Wants, raw::Raw};

#[test]
fn every_record_is_kept_as_it_is() {
    let mut raw = Raw.build(&Map::new()).expect("built");
    let records = [
        SourceRecord {
            offset: 3,
            timestamp_ms: 1_000,
            key: Some(b"k"),
            value: Some(b"\xff\x00"),
            headers: vec![("a", Some(b"1")), ("a", None)],
        },
        SourceRecord { offset: 5, timestamp_ms: -1, ..SourceRecord::default() },
    ];
    let mut output = Output::default();
    raw.apply(&records, Wants { rows: true, values: true }, &mut output);
    let values: Vec<_> = output
        .verdicts()
        .iter()
        .map(|verdict| match verdict {
            Verdict::Kept(kept) => output.value(kept),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(values, [Some(b"\xff\x00".as_slice()), None]);
    assert_eq!(output.rows().iter().map(|row| row.time_ms).collect::<Vec<_>>(), [Some(1_000), None]);

    let rows = raw.take_rows().expect("rows");
    for (column, array) in raw.columns().iter().zip(&rows) {
        assert_eq!(column.field.data_type(), array.data_type(), "{}", column.name());
        assert_eq!(array.len(), 2);
    }
    assert_eq!(rows[0].as_primitive::<TimestampMillisecondType>().value(0), 1_000);
    assert!(rows[0].is_null(1) && rows[1].is_null(1) && rows[2].is_null(1));
    assert_eq!(rows[2].as_binary::<i32>().value(0), b"\xff\x00");
    let headers = rows[3].as_list::<i32>();
    assert_eq!((headers.value(0).len(), headers.value(1).len()), (2, 0));
    let first = headers.value(0);
    assert_eq!(first.as_struct().column(0).as_string::<i32>().value(1), "a");
    assert!(first.as_struct().column(1).is_null(1));
    assert!(raw.take_rows().expect("rows").iter().all(|array| array.is_empty()));
}

#[test]
fn options_are_refused() {
    let options = serde_json::json!({ "types": ["click"] });
    let problems = Raw.check(options.as_object().expect("an object"));
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].key, "transform.types");
}
