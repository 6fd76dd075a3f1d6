//! A known pipeline that is submitted again: what may change in it, and what may not.

use millrace_common::types::{PipelineDefinition, Problem, StartPosition};
use millrace_transform::Registry;

use super::Draft;

/// The pipeline `stored` as `draft` has it now, or everything in which it would be another one: what it reads and
/// where its results lie stays for ever.
pub(crate) fn change(
    stored: &PipelineDefinition,
    draft: &Draft,
    registry: &Registry,
) -> Result<PipelineDefinition, Vec<Problem>> {
    let none = || "none".to_owned();
    let kept = [
        ("source.topics", stored.source.topics.join(", "), draft.topics.join(", ")),
        ("source.start", start(stored.source.start), start(draft.start)),
        (
            "sinks.enriched_topic",
            stored.enriched_topic.clone().unwrap_or_else(none),
            draft.enriched_topic.clone().unwrap_or_else(none),
        ),
        ("sinks.invalid_topic", stored.invalid_topic.clone(), draft.invalid_topic.clone()),
        (
            "sinks.lake.url",
            stored.lake.as_ref().map_or_else(none, |lake| lake.url.clone()),
            draft.lake.as_ref().map_or_else(none, |lake| lake.url.trim_end_matches('/').to_owned()),
        ),
        ("transform.kind", stored.transform.kind.clone(), draft.transform.kind.clone()),
    ];
    let problems: Vec<Problem> = kept
        .into_iter()
        .filter(|(_, stored, given)| stored != given)
        .map(|(key, stored, given)| Problem {
            key: key.into(),
            value: given,
            accepted: format!("{stored}, as it was submitted: it never changes"),
        })
        .collect();
    if !problems.is_empty() {
        return Err(problems);
    }
    let initial_partitions = stored.source.initial_partitions.clone();
    let mut changed =
        draft.definition(stored.id.clone(), stored.submitted_at_ms, initial_partitions, registry);
    changed.name.clone_from(&stored.name);
    changed.user.clone_from(&stored.user);
    changed.earlier_transforms.clone_from(&stored.earlier_transforms);
    if changed.transform != stored.transform {
        changed.earlier_transforms.retain(|earlier| *earlier != stored.transform);
        changed.earlier_transforms.push(stored.transform.clone());
    }
    // A slot that still stands in a stretch of one that is forgotten halts and names it.
    let forgotten = changed.earlier_transforms.len().saturating_sub(EARLIER_TRANSFORMS);
    changed.earlier_transforms.drain(..forgotten);
    Ok(changed)
}

fn start(start: StartPosition) -> String {
    match start {
        StartPosition::Earliest => "earliest".into(),
        StartPosition::Latest => "latest".into(),
        StartPosition::Timestamp(at_ms) => crate::snapshot::date_time(at_ms),
    }
}

/// Definitions of the transform that a pipeline remembers: every grant carries them.
const EARLIER_TRANSFORMS: usize = 32;

#[cfg(test)]
mod tests {
    use super::super::tests::draft;
    use super::*;
    use millrace_common::types::LakeTarget;

    fn stored() -> PipelineDefinition {
        draft().definition("clicks-0a1b2c".parse().expect("id"), 7, vec![6], &Registry::default())
    }

    #[test]
    fn limits_addresses_and_options_may_change() {
        let mut other = draft();
        other.kafka = "other:9092".into();
        other.roll.max_age_ms = 5;
        other.max_rate = Some(9);
        other.commit_interval_ms = 50;
        other.duplicate_window = Some(3);
        other.user = "another".into();
        other.transform.options.insert("types".into(), serde_json::json!(["click"]));
        let lake = LakeTarget::new("file:///lake/");
        other.lake = Some(LakeTarget { endpoint: Some("http://s3:9000".into()), ..lake });
        let changed = change(&stored(), &other, &Registry::default()).expect("may change");
        assert_eq!((changed.id, changed.user.as_str()), (stored().id, "somebody"));
        assert_eq!((changed.duplicate_window, changed.max_rate), (3, Some(9)));
        assert_eq!(changed.source, stored().source);
        assert_eq!(changed.earlier_transforms, [stored().transform]);
    }

    #[test]
    fn the_same_file_changes_nothing() {
        assert_eq!(change(&stored(), &draft(), &Registry::default()), Ok(stored()));
    }

    #[test]
    fn what_it_reads_and_where_its_results_lie_stays() {
        let mut other = draft();
        other.topics = vec!["other".into()];
        other.start = StartPosition::Timestamp(1_705_314_600_000);
        other.enriched_topic = None;
        other.invalid_topic = "elsewhere".into();
        other.lake = None;
        other.transform.kind = "raw".into();
        let problems = change(&stored(), &other, &Registry::default()).expect_err("another pipeline");
        assert_eq!(problems.len(), 6);
        assert_eq!(problems[1].value, "2024-01-15T10:30:00.000Z");
        assert!(problems[4].accepted.contains("file:///lake"), "{problems:?}");
    }
}
