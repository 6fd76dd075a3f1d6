//! Where a slot begins, and with which rules: decisions about the record that was found. Pure.
//!
//! The transform and the duplicate rule may change only when both sinks stand at the same offset. Until then what
//! lies between the cursors is done by the rules that its first half was done by.

use millrace_common::event::canonical_json;
use millrace_common::record::{CommittedRecord, WindowBounds};
use millrace_common::types::{NextOffset, PipelineDefinition, TransformDefinition};
use sha2::{Digest, Sha256};

/// What must be known of a slot's log besides its record.
#[derive(Debug, Clone, Copy)]
pub(super) struct Log {
    /// The first offset that the source still holds.
    pub(super) first: NextOffset,
}

/// How the slot goes on.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Plan {
    pub(super) record: CommittedRecord,
    pub(super) transform: TransformDefinition,
    /// Go no further than the topic cursor: the definition has changed.
    pub(super) only_levels: bool,
    /// Where reading begins: at the slower sink's cursor, less what the duplicate rule looks back to and the log holds.
    pub(super) read_from: NextOffset,
}

/// Why the slot can't go on without a person.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error(
        "offsets {lake} to {topic} are on the enriched topic by the transform {fingerprint}, which neither the pipeline \
         nor one of its earlier definitions has: resume the pipeline with the transform that it had"
    )]
    TransformUnknown { lake: NextOffset, topic: NextOffset, fingerprint: String },
    #[error(
        "offsets {lake} to {topic} are on the enriched topic and not in the lake yet, and which of them are client \
         duplicates depends on offsets from {needed} on, but the source begins at {first}: its retention is too short \
         for duplicate_window = {window}; resume the pipeline with duplicate_window = 0 to go on without them"
    )]
    WindowLost { lake: NextOffset, topic: NextOffset, needed: NextOffset, first: NextOffset, window: u64 },
}

/// What tells one transform's definition from another: the same for the same kind and options, however written.
pub(super) fn fingerprint(transform: &TransformDefinition) -> String {
    let json = serde_json::to_vec(transform).unwrap_or_else(|error| panic!("plain fields: {error}"));
    // A definition came as JSON or TOML, so it has a canonical form.
    let canonical = canonical_json(&json).unwrap_or_else(|error| panic!("JSON was just written: {error}"));
    hex::encode(&Sha256::digest(canonical)[..8])
}

/// Decides how a slot with `record` goes on under `definition`.
pub(super) fn plan(
    record: CommittedRecord,
    definition: &PipelineDefinition,
    log: Log,
) -> Result<Plan, Refusal> {
    let current = fingerprint(&definition.transform);
    if record.is_level() {
        let window = level_window(&record, definition.duplicate_window, log);
        let record = CommittedRecord { window, transform: current, ..record };
        let (transform, read_from) = (definition.transform.clone(), needed_from(&record));
        return Ok(Plan { record, transform, only_levels: false, read_from });
    }
    let needed = needed_from(&record);
    // Who turned the rule off has been told, and goes on with what the log still holds.
    if needed < log.first && definition.duplicate_window > 0 {
        return Err(Refusal::WindowLost {
            lake: record.lake_cursor,
            topic: record.topic_cursor,
            needed,
            first: log.first,
            window: record.window.size,
        });
    }
    // Nothing below the cursor is lost by beginning at the log's start; what is missing from the cursor on is found out.
    let read_from = needed.max(log.first.min(record.lake_cursor));
    if record.transform == current {
        let only_levels = record.window.size != definition.duplicate_window;
        return Ok(Plan { record, transform: definition.transform.clone(), only_levels, read_from });
    }
    let earlier = definition.earlier_transforms.iter().rev();
    match earlier.into_iter().find(|transform| fingerprint(transform) == record.transform) {
        Some(transform) => Ok(Plan { transform: transform.clone(), record, only_levels: true, read_from }),
        None => Err(Refusal::TransformUnknown {
            lake: record.lake_cursor,
            topic: record.topic_cursor,
            fingerprint: record.transform,
        }),
    }
}

/// The first offset that must be taken in before the slower sink goes on.
fn needed_from(record: &CommittedRecord) -> NextOffset {
    let cursor = record.lake_cursor.min(record.topic_cursor);
    record.window.reaches_back_to(cursor.0).min(cursor)
}

/// The window of a record whose sinks are level: it may change, and reaches back no further than the log.
pub(super) fn level_window(record: &CommittedRecord, size: u64, log: Log) -> WindowBounds {
    let cursor = record.topic_cursor;
    let floor = match record.window.size == size {
        true => record.window.floor.max(log.first.min(cursor)),
        // Another rule looks at what comes after the old one only.
        false => cursor,
    };
    WindowBounds { size, floor }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_common::types::Epoch;
    use serde_json::json;

    fn definition(types: &[&str], window: u64) -> PipelineDefinition {
        let mut definition =
            PipelineDefinition::new("p-1".parse().expect("id"), "p", "k:1", vec!["raw".into()], "invalid");
        definition.transform.options.insert("types".into(), json!(types));
        definition.duplicate_window = window;
        definition
    }

    fn record(lake: i64, topic: i64, definition: &PipelineDefinition) -> CommittedRecord {
        let first = CommittedRecord::first(Epoch(1), NextOffset(0), 100, fingerprint(&definition.transform));
        CommittedRecord { lake_cursor: NextOffset(lake), topic_cursor: NextOffset(topic), ..first }
    }

    const WHOLE: Log = Log { first: NextOffset(0) };

    #[test]
    fn a_changed_definition_begins_where_the_sinks_are_level() {
        let (old, mut new) = (definition(&["a"], 100), definition(&["b"], 200));
        new.earlier_transforms = vec![old.transform.clone()];
        let plan_level = plan(record(50, 50, &old), &new, WHOLE).expect("a plan");
        assert_eq!((plan_level.transform, plan_level.only_levels), (new.transform.clone(), false));
        assert_eq!(plan_level.record.transform, fingerprint(&new.transform));
        assert_eq!(plan_level.record.window, WindowBounds { size: 200, floor: NextOffset(50) });

        let uneven = plan(record(40, 50, &old), &new, WHOLE).expect("a plan");
        assert_eq!((uneven.transform, uneven.only_levels), (old.transform.clone(), true));
        assert_eq!(uneven.record, record(40, 50, &old));

        new.earlier_transforms.clear();
        let refused = plan(record(40, 50, &old), &new, WHOLE).expect_err("refused");
        assert!(matches!(refused, Refusal::TransformUnknown { .. }), "{refused}");
    }

    #[test]
    fn a_changed_window_alone_waits_for_level_sinks_too() {
        let (old, new) = (definition(&["a"], 100), definition(&["a"], 7));
        assert!(plan(record(40, 50, &old), &new, WHOLE).expect("a plan").only_levels);
        assert!(!plan(record(40, 50, &old), &old, WHOLE).expect("a plan").only_levels);
    }

    #[test]
    fn a_log_that_no_longer_holds_the_window_raises_the_floor_or_halts() {
        let definition = definition(&["a"], 100);
        let log = Log { first: NextOffset(950) };
        let level = plan(record(1000, 1000, &definition), &definition, log).expect("a plan");
        assert_eq!(level.record.window, WindowBounds { size: 100, floor: NextOffset(950) });
        let uneven = plan(record(990, 1000, &definition), &definition, log).expect_err("refused");
        assert!(uneven.to_string().contains("duplicate_window = 0"), "{uneven}");
        let off = PipelineDefinition { duplicate_window: 0, ..definition.clone() };
        let told = plan(record(990, 1000, &definition), &off, log).expect("a plan");
        assert_eq!(
            (told.only_levels, told.read_from),
            (true, NextOffset(950)),
            "read what the log still holds"
        );
        let gone =
            plan(record(990, 1000, &definition), &off, Log { first: NextOffset(995) }).expect("a plan");
        assert_eq!(gone.read_from, NextOffset(990), "what the lake needs is asked for, and found lost");
        let later = Log { first: NextOffset(890) };
        assert!(plan(record(990, 1000, &definition), &definition, later).is_ok());
    }

    #[test]
    fn the_same_options_have_the_same_fingerprint_in_any_order() {
        let one: TransformDefinition =
            serde_json::from_str(r#"{"kind":"clicks","options":{"a":1,"b":[2]}}"#).expect("definition");
        let other: TransformDefinition =
            serde_json::from_str(r#"{"options":{"b":[2],"a":1.0},"kind":"clicks"}"#).expect("definition");
        assert_eq!(fingerprint(&one), fingerprint(&other));
        assert_ne!(
            fingerprint(&one),
            fingerprint(&TransformDefinition { kind: "raw".into(), ..one.clone() })
        );
    }
}
