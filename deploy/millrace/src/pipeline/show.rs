//! Pipelines as text. The figures come from the master as they are.

use chrono::DateTime;
use millrace_common::types::{PipelineDefinition, StartPosition};
use millrace_common::units::format_bytes;
use millrace_proto::v1::PipelineStage;
use serde::Deserialize;

use crate::table::table;

/// A pipeline, as `/api/v1/pipelines` tells it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Pipeline {
    id: String,
    name: String,
    state: String,
    waiting_for: Option<String>,
    user: String,
    submitted_at_ms: u64,
    killed_at_ms: Option<u64>,
    duration_ms: u64,
    slots: usize,
    slots_running: usize,
    lag: Option<u64>,
    records_per_second: f64,
}

/// One with all that is known of it, as `/api/v1/pipelines/ID` tells it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Detail {
    #[serde(flatten)]
    pipeline: Pipeline,
    definition: PipelineDefinition,
    partitions: Vec<Partition>,
}

#[derive(Debug, Clone, Deserialize)]
struct Partition {
    topic: String,
    partition: i32,
    owner: Option<String>,
    epoch: u64,
    state: String,
    topic_cursor: Option<i64>,
    lake_cursor: Option<i64>,
    end: Option<i64>,
    lag: Option<u64>,
    records_per_second: f64,
    waiting_for: Option<String>,
    halt: Option<Halt>,
}

#[derive(Debug, Clone, Deserialize)]
struct Halt {
    kind: String,
    detail: String,
}

/// A line each.
pub(crate) fn pipelines(pipelines: &[Pipeline]) -> String {
    let row = |pipeline: &Pipeline| {
        [
            pipeline.id.clone(),
            pipeline.name.clone(),
            pipeline.state.clone(),
            format!("{} of {} running", pipeline.slots_running, pipeline.slots),
            number(pipeline.lag),
            format!("{:.0}", pipeline.records_per_second),
            time(pipeline.submitted_at_ms),
            duration(pipeline.duration_ms),
            pipeline.waiting_for.clone().unwrap_or_default(),
        ]
    };
    let header =
        ["ID", "NAME", "STATE", "PARTITIONS", "LAG", "RECORDS/S", "SUBMITTED", "DURATION", "WAITING FOR"];
    let mut text = table(header, pipelines.iter().map(row));
    if pipelines.is_empty() {
        text.push_str("no pipeline was submitted; submit one with: millrace submit FILE.toml\n");
    }
    text
}

/// A line for each setting, then a line for each partition.
pub(crate) fn detail(detail: &Detail) -> String {
    let Detail { pipeline, definition, partitions } = detail;
    let mut text = String::new();
    for (what, value) in settings(pipeline, definition) {
        text.push_str(format!("{what:<18}{value}").trim_end());
        text.push('\n');
    }
    if partitions.is_empty() {
        return text;
    }
    let row = |slot: &Partition| {
        let halted = slot.halt.as_ref().map(|halt| format!("halted ({}): {}", halt.kind, halt.detail));
        [
            format!("{}/{}", slot.topic, slot.partition),
            slot.state.clone(),
            slot.owner.clone().unwrap_or_else(|| "nobody".into()),
            slot.epoch.to_string(),
            number(slot.topic_cursor),
            number(slot.lake_cursor),
            number(slot.end),
            number(slot.lag),
            format!("{:.0}", slot.records_per_second),
            halted.or_else(|| slot.waiting_for.clone()).unwrap_or_default(),
        ]
    };
    let header = [
        "PARTITION",
        "STATE",
        "OWNER",
        "EPOCH",
        "TOPIC CURSOR",
        "LAKE CURSOR",
        "END",
        "LAG",
        "RECORDS/S",
        "WAITING FOR",
    ];
    text.push('\n');
    text + &table(header, partitions.iter().map(row))
}

fn settings(pipeline: &Pipeline, definition: &PipelineDefinition) -> Vec<(&'static str, String)> {
    let state = match &pipeline.waiting_for {
        Some(reason) => format!("{} (waiting for: {reason})", pipeline.state),
        None => pipeline.state.clone(),
    };
    let start = match definition.source.start {
        StartPosition::Earliest => "earliest".to_owned(),
        StartPosition::Latest => "latest".to_owned(),
        StartPosition::Timestamp(at_ms) => time(at_ms),
    };
    let options = serde_json::Value::Object(definition.transform.options.clone());
    let mut settings = vec![
        ("id", pipeline.id.clone()),
        ("name", pipeline.name.clone()),
        ("state", state),
        ("submitted", format!("{} by {}", time(pipeline.submitted_at_ms), pipeline.user)),
        ("duration", duration(pipeline.duration_ms)),
        ("kafka", definition.bootstrap_servers.clone()),
        ("source", format!("{}, from {start}", definition.source.topics.join(", "))),
        ("transform", format!("{} {options}", definition.transform.kind)),
        ("duplicate window", format!("{} offsets", definition.duplicate_window)),
        ("max rate", definition.max_rate.map_or("none".into(), |rate| format!("{rate} records/s a worker"))),
        ("weight", definition.weight.to_string()),
        ("invalid topic", definition.invalid_topic.clone()),
    ];
    if let Some(at_ms) = pipeline.killed_at_ms {
        settings.insert(4, ("killed", time(at_ms)));
    }
    if let Some(topic) = &definition.enriched_topic {
        let commits = format!("{topic}, a commit every {} ms", definition.commit_interval_ms);
        settings.push(("enriched topic", commits));
    }
    if let Some(lake) = &definition.lake {
        let roll = &definition.roll;
        settings.push(("lake", lake.url.clone()));
        if let Some(endpoint) = &lake.endpoint {
            settings.push(("lake's server", endpoint.clone()));
        }
        if lake.url.starts_with("s3:") {
            settings.push(("lake's secrets", format!("{}, {}", lake.access_key_id, lake.secret_access_key)));
        }
        let limits = [
            format_bytes(roll.max_bytes),
            format!("{} rows", roll.max_rows),
            format!("{} old", duration(roll.max_age_ms)),
            format!("{} idle", duration(roll.max_idle_ms)),
        ];
        settings.push(("files roll at", limits.join(", ")));
    }
    if !definition.earlier_transforms.is_empty() {
        settings.push(("earlier settings", format!("{} transforms", definition.earlier_transforms.len())));
    }
    settings
}

/// What a change has come to so far.
pub(crate) fn stage(stage: &PipelineStage) -> String {
    match stage.waiting_for.as_str() {
        "" => format!("pipeline {} is {}", stage.id, stage.state),
        reason => format!("pipeline {} is {}, waiting for: {reason}", stage.id, stage.state),
    }
}

fn number(value: Option<impl std::fmt::Display>) -> String {
    value.map_or("–".to_owned(), |value| value.to_string())
}

fn time(at_ms: u64) -> String {
    i64::try_from(at_ms)
        .ok()
        .and_then(DateTime::from_timestamp_millis)
        .map_or("–".to_owned(), |at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string())
}

/// `750 ms`, `4 s`, `3 min`, `2 h`, `5 d`: the largest unit that leaves at least 1.
fn duration(ms: u64) -> String {
    let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")];
    let unit = units.iter().find(|(factor, _)| ms >= *factor);
    unit.map_or("0 ms".to_owned(), |(factor, name)| format!("{} {name}", ms / factor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_common::types::LakeTarget;

    fn pipeline() -> Pipeline {
        Pipeline {
            id: "clicks-0a1b2c".into(),
            name: "clicks".into(),
            state: "RUNNING".into(),
            waiting_for: None,
            user: "somebody".into(),
            submitted_at_ms: 1_705_314_600_000,
            killed_at_ms: None,
            duration_ms: 7_300_000,
            slots: 6,
            slots_running: 5,
            lag: Some(12),
            records_per_second: 3.0,
        }
    }

    #[test]
    fn pipelines_are_listed_and_a_waiting_one_with_its_reason() {
        let waiting = Pipeline {
            state: "WAITING".into(),
            waiting_for: Some("no worker is alive".into()),
            lag: None,
            ..pipeline()
        };
        let text = pipelines(&[pipeline(), waiting]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].contains("RUNNING  5 of 6 running  12   3          2024-01-15T10:30:00Z  2 h"),
            "{text}"
        );
        assert!(lines[2].ends_with("no worker is alive"), "{text}");
        assert!(pipelines(&[]).contains("millrace submit FILE.toml"));
    }

    #[test]
    fn a_description_tells_settings_and_partitions() {
        let id = "clicks-0a1b2c".parse().expect("id");
        let definition = PipelineDefinition {
            lake: Some(LakeTarget::new("s3://bucket/clicks")),
            enriched_topic: Some("enriched".into()),
            ..PipelineDefinition::new(id, "clicks", "127.0.0.1:9092", vec!["raw".into()], "invalid")
        };
        let halted = Partition {
            topic: "raw".into(),
            partition: 3,
            owner: None,
            epoch: 7,
            state: "halted".into(),
            topic_cursor: None,
            lake_cursor: Some(5),
            end: Some(9),
            lag: Some(4),
            records_per_second: 0.0,
            waiting_for: None,
            halt: Some(Halt { kind: "offsets_lost".into(), detail: "5 to 8 are gone".into() }),
        };
        let killed = Pipeline { state: "KILLED".into(), killed_at_ms: Some(1_705_314_601_000), ..pipeline() };
        let text = detail(&Detail { pipeline: killed, definition, partitions: vec![halted] });
        for words in [
            "killed            2024-01-15T10:30:01Z",
            "source            raw, from earliest",
            "lake's secrets    env:AWS_ACCESS_KEY_ID, env:AWS_SECRET_ACCESS_KEY",
            "enriched, a commit every 1000 ms",
            "128.0 MiB, 5000000 rows, 1 min old, 30 s idle",
            "raw/3",
            "halted (offsets_lost): 5 to 8 are gone",
        ] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
    }
}
