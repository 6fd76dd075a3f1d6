//! A pipeline as a person describes it, before it has an id: what a file says, what is wrong with it, and what becomes
//! of it. Asks nobody: whether topics and lake are there is found out in `admission`.

mod change;
mod check;

use millrace_common::types::{
    DEFAULT_WEIGHT, LakeTarget, PipelineDefinition, PipelineId, RollPolicy, Source, StartPosition,
    TransformDefinition,
};
use millrace_transform::Registry;
use serde::{Deserialize, Serialize};

pub(crate) use change::change;
pub(crate) use check::{parse_endpoint, parse_lake};

/// What a file says, with its defaults filled in. On the wire it is JSON; a field that this build does not know is
/// refused, never ignored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Draft {
    pub name: String,
    /// `host:port[,host:port…]`.
    pub kafka: String,
    pub topics: Vec<String>,
    pub start: StartPosition,
    pub transform: TransformDefinition,
    /// `None`: the default of the transform's kind.
    pub duplicate_window: Option<u64>,
    pub enriched_topic: Option<String>,
    pub invalid_topic: String,
    pub lake: Option<LakeTarget>,
    pub roll: RollPolicy,
    pub commit_interval_ms: u64,
    pub max_rate: Option<u64>,
    /// Its share of the workers' places, when there are fewer of those than slots.
    #[serde(default = "default_weight")]
    pub weight: u64,
    /// Who submits it.
    pub user: String,
}

impl Draft {
    /// The pipeline `id`, whose source topics have `initial_partitions` each.
    pub(crate) fn definition(
        &self,
        id: PipelineId,
        submitted_at_ms: u64,
        initial_partitions: Vec<i32>,
        registry: &Registry,
    ) -> PipelineDefinition {
        let source = Source { topics: self.topics.clone(), start: self.start, initial_partitions };
        PipelineDefinition {
            source,
            transform: self.transform.clone(),
            duplicate_window: self.window(registry),
            enriched_topic: self.enriched_topic.clone(),
            lake: self
                .lake
                .clone()
                .map(|lake| LakeTarget { url: lake.url.trim_end_matches('/').to_owned(), ..lake }),
            roll: self.roll,
            commit_interval_ms: self.commit_interval_ms,
            max_rate: self.max_rate,
            // `check` has seen to its range.
            weight: u32::try_from(self.weight).unwrap_or(u32::MAX),
            submitted_at_ms,
            user: self.user.clone(),
            ..PipelineDefinition::new(id, &self.name, &self.kafka, Vec::new(), &self.invalid_topic)
        }
    }

    fn window(&self, registry: &Registry) -> u64 {
        self.duplicate_window.unwrap_or_else(|| registry.default_duplicate_window(&self.transform))
    }
}

fn default_weight() -> u64 {
    u64::from(DEFAULT_WEIGHT)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn draft() -> Draft {
        Draft {
            name: "clicks".into(),
            kafka: "127.0.0.1:9092".into(),
            topics: vec!["raw".into()],
            start: StartPosition::Earliest,
            transform: TransformDefinition { kind: "clicks".into(), options: serde_json::Map::new() },
            duplicate_window: None,
            enriched_topic: Some("enriched".into()),
            invalid_topic: "invalid".into(),
            lake: Some(LakeTarget::new("file:///lake")),
            roll: RollPolicy::default(),
            commit_interval_ms: 1000,
            max_rate: None,
            weight: 1,
            user: "somebody".into(),
        }
    }

    #[test]
    fn a_draft_becomes_a_pipeline_with_the_window_of_its_kind() {
        let registry = Registry::default();
        let id = || "clicks-0a1b2c".parse().expect("id");
        let pipeline = draft().definition(id(), 7, vec![6], &registry);
        assert_eq!((pipeline.duplicate_window, pipeline.submitted_at_ms), (100_000, 7));
        assert_eq!(pipeline.source.initial_partitions, [6]);
        let mut raw = draft();
        raw.transform.kind = "raw".into();
        assert_eq!(raw.definition(id(), 7, vec![6], &registry).duplicate_window, 0);
        raw.duplicate_window = Some(5);
        assert_eq!(raw.definition(id(), 7, vec![6], &registry).duplicate_window, 5);
    }

    #[test]
    fn a_draft_of_another_version_is_refused_by_the_fields_name() {
        let mut json = serde_json::to_value(draft()).expect("json");
        json["colour"] = "blue".into();
        let refused = serde_json::from_value::<Draft>(json).expect_err("unknown").to_string();
        assert!(refused.contains("colour"), "{refused}");
    }
}
