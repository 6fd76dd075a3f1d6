//! The API's description, as OpenAPI 3.1 has it. The answers' forms come from the types that are answered with.

use axum::Json;
use axum::http::Method;
use millrace_common::types::VERSION;
use schemars::generate::SchemaSettings;
use schemars::{JsonSchema, SchemaGenerator};
use serde_json::{Map, Value, json};

use super::browse::LakeRow;
use super::{Done, Scorecard, SlotRow, Summary, WorkerDetail, act};
use crate::browse::bad::BadEvents;
use crate::browse::lake::{File, Folder};
use crate::browse::messages::Messages;
use crate::browse::rows::Rows;
use crate::browse::topics::{Topic, TopicDetail};
use crate::browse::trace::Traced;
use crate::environment::Environment;
use crate::web::history::Series;
use crate::web::model::{Move, Pipeline, PipelineDetail, Worker};
use crate::web::problem::Problem;
use crate::web::verify::Run;
use crate::workers::Plan;

/// A route's description.
struct Operation {
    method: Method,
    path: &'static str,
    summary: &'static str,
    /// Name and meaning of what may stand in the query.
    query: &'static [(&'static str, &'static str)],
    answer: Value,
}

const PART: &[(&str, &str)] = &[
    ("from", "how many entries to leave out first; 0"),
    ("limit", "the most entries; 10000"),
    ("state", "only those in this state"),
    ("pipeline", "only those of the pipeline with this id"),
    ("worker", "only those of the worker with this id"),
];

const KAFKA: &[(&str, &str)] = &[("kafka", "of these bootstrap servers, where several have such a topic")];
const MESSAGES: &[(&str, &str)] = &[
    ("kafka", "of these bootstrap servers, where several have such a topic"),
    ("partition", "the partition's number; 0"),
    ("from", "the first offset"),
    ("at", "instead of an offset a time, RFC 3339"),
    ("limit", "the most messages; 50, at most 500; with 1 the value is whole, up to 2 MiB"),
];
const FOLDER: &[(&str, &str)] =
    &[("folder", "year=YYYY/month=MM/day=DD, or less of it"), ("page", "of a day's files, from 1 on")];
const KEY: &[(&str, &str)] = &[("key", "the file's key below the lake's prefix; needed")];
const ROWS: &[(&str, &str)] =
    &[("key", "the file's key below the lake's prefix; needed"), ("limit", "the most rows; 20, at most 200")];

const SKIP_LOST: &[(&str, &str)] = &[
    ("skip_lost", "the kind of its halt, to go on without what is lost"),
    ("from", "the source offset at which both sinks begin again; needed where the record is lost or damaged"),
];

fn described<T: JsonSchema>(
    generator: &mut SchemaGenerator,
    method: Method,
    path: &'static str,
    summary: &'static str,
    query: &'static [(&'static str, &'static str)],
) -> Operation {
    let answer = generator.subschema_for::<T>().to_value();
    Operation { method, path, summary, query, answer }
}

fn operations(generator: &mut SchemaGenerator) -> Vec<Operation> {
    macro_rules! get {
        ($path:literal, $answer:ty, $summary:literal, $query:expr) => {
            described::<$answer>(generator, Method::GET, $path, $summary, $query)
        };
    }
    macro_rules! post {
        ($path:literal, $answer:ty, $summary:literal $(, $query:expr)?) => {
            described::<$answer>(generator, Method::POST, $path, $summary, [$($query,)? &[]][0])
        };
    }
    vec![
        get!("/api/v1/openapi.json", Map<String, Value>, "This description", &[]),
        get!("/api/v1/cluster", Summary, "The master, the sums over its cluster, and the flow", &[]),
        get!("/api/v1/workers", Vec<Worker>, "Workers, dead ones for a while too", PART),
        get!("/api/v1/workers/{worker}", WorkerDetail, "A worker, its slots and its last two minutes", &[]),
        get!(
            "/api/v1/workers/{worker}/log",
            Vec<String>,
            "The last lines of a worker's log, the oldest first",
            &[]
        ),
        get!(
            "/api/v1/environment",
            Environment,
            "What this master runs on and with; secrets are hidden",
            &[]
        ),
        get!("/api/v1/log", Vec<String>, "The last lines of this master's log, the oldest first", &[]),
        get!("/api/v1/pipelines", Vec<Pipeline>, "Pipelines, completed ones last", &[]),
        get!(
            "/api/v1/pipelines/{pipeline}",
            PipelineDetail,
            "A pipeline by id or name, with its definition and partitions",
            &[]
        ),
        get!("/api/v1/pipelines/{pipeline}/history", Series, "A pipeline's last two minutes", &[]),
        get!("/api/v1/slots", Vec<SlotRow>, "Where each partition stands", PART),
        get!("/api/v1/moves", Vec<Move>, "Slots that changed hands and why, the latest first", PART),
        get!(
            "/api/v1/failovers",
            Vec<Scorecard>,
            "Lost workers and what became of their slots, the latest first",
            &[]
        ),
        get!(
            "/api/v1/rebalance",
            Plan,
            "What would move now for the load's sake, and why; nothing moves",
            &[]
        ),
        get!("/api/v1/topics", Vec<Topic>, "Topics of every Kafka that a pipeline names", &[]),
        get!(
            "/api/v1/topics/{topic}",
            TopicDetail,
            "A topic, its partitions and the groups that read it",
            KAFKA
        ),
        get!(
            "/api/v1/topics/{topic}/messages",
            Messages,
            "Messages of a partition, the last ones unless it is said where they begin",
            MESSAGES
        ),
        get!(
            "/api/v1/topics/{topic}/messages/{partition}/{offset}",
            Traced,
            "One message, and where it went",
            KAFKA
        ),
        get!("/api/v1/lakes", Vec<LakeRow>, "The pipelines' lakes", &[]),
        get!("/api/v1/lakes/{pipeline}", Folder, "A folder of a lake: what lies in it", FOLDER),
        get!("/api/v1/lakes/{pipeline}/file", File, "A file: its footer, its schema, how to read it", KEY),
        get!(
            "/api/v1/lakes/{pipeline}/rows",
            Rows,
            "The first rows of a file, from a worker over Arrow Flight",
            ROWS
        ),
        get!("/api/v1/bad-events", BadEvents, "What the invalid topics hold, by reason and field", &[]),
        get!(
            "/api/v1/verifications",
            Vec<Run>,
            "Verifications since this master began, the latest first",
            &[]
        ),
        post!("/api/v1/verifications/{pipeline}", Run, "Verify the pipeline now; one runs at a time"),
        get!("/api/v1/token", act::Token, "What a POST shows in the header x-millrace-token", &[]),
        post!("/api/v1/rebalance", Plan, "Move now what evens the load out"),
        post!("/api/v1/workers/{worker}/drain", Done, "Move the worker's slots to others, and give it none"),
        post!("/api/v1/workers/{worker}/recommission", Done, "Let a drained worker take slots again"),
        post!("/api/v1/pipelines/{pipeline}/pause", Done, "Stop the pipeline after a last commit"),
        post!(
            "/api/v1/pipelines/{pipeline}/resume",
            Done,
            "Let a paused pipeline, or the halted slots of a running one, go on"
        ),
        post!(
            "/api/v1/pipelines/{pipeline}/slots/{slot}/resume",
            Done,
            "Let one halted slot (as 0-5: number of the source topic, partition) go on",
            SKIP_LOST
        ),
        post!("/api/v1/pipelines/{pipeline}/kill", Done, "End the pipeline after a last commit"),
    ]
}

fn generator() -> SchemaGenerator {
    SchemaSettings::draft2020_12()
        .for_serialize()
        .with(|settings| settings.definitions_path = "/components/schemas".into())
        .into_generator()
}

pub(in crate::web) fn document() -> Value {
    let mut generator = generator();
    let problem = generator.subschema_for::<Problem>().to_value();
    let mut paths: Map<String, Value> = Map::new();
    for operation in operations(&mut generator) {
        let mut parameters: Vec<Value> = operation
            .path
            .split('/')
            .filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
            .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
            .collect();
        parameters.extend(operation.query.iter().map(|(name, meaning)| {
            json!({ "name": name, "in": "query", "description": meaning, "schema": { "type": "string" } })
        }));
        if operation.method == Method::POST {
            parameters.push(json!({
                "name": "x-millrace-token", "in": "header", "required": true,
                "description": "from /api/v1/token", "schema": { "type": "string" }
            }));
        }
        let described = json!({
            "summary": operation.summary,
            "parameters": parameters,
            "responses": {
                "200": {
                    "description": operation.summary,
                    "content": { "application/json": { "schema": operation.answer } }
                },
                "default": {
                    "description": "Why not",
                    "content": { "application/problem+json": { "schema": problem } }
                }
            }
        });
        let methods = paths.entry(operation.path).or_insert_with(|| json!({}));
        methods[operation.method.as_str().to_lowercase()] = described;
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Millrace master",
            "version": VERSION,
            "description": "Times are milliseconds since 1970 UTC, sizes are bytes, cursors are next offsets. A master that \
                stands by sends on to the leader (307)."
        },
        "paths": paths,
        "components": { "schemas": generator.take_definitions(true) }
    })
}

pub(super) async fn serve() -> Json<Value> {
    Json(document())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_description_points_to_is_there() {
        fn references(value: &Value, found: &mut Vec<String>) {
            match value {
                Value::Object(members) => {
                    if let Some(Value::String(place)) = members.get("$ref") {
                        found.push(place.clone());
                    }
                    members.values().for_each(|member| references(member, found));
                }
                Value::Array(items) => items.iter().for_each(|item| references(item, found)),
                _ => {}
            }
        }
        let document = document();
        let mut found = Vec::new();
        references(&document, &mut found);
        assert!(!found.is_empty());
        for place in found {
            let pointer = place.strip_prefix('#').unwrap_or_else(|| panic!("{place} is elsewhere"));
            assert!(document.pointer(pointer).is_some(), "{place} is not there");
        }
    }
}
