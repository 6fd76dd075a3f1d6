//! What is wrong with a draft, all of it at once: each key, its value, and what is accepted.

use millrace_common::address::{parse_servers, parse_topic};
use millrace_common::types::{LakeTarget, PipelineId, Problem};
use millrace_transform::Registry;

use super::Draft;

/// Longest name: an id is the name, a hyphen and six digits.
const LONGEST_NAME: usize = 41;
/// A greater share than that is all there is.
const LARGEST_WEIGHT: u64 = 1_000;
/// Files are made in memory.
const LARGEST_FILE: u64 = 4 << 30;
const MOST_ROWS: u64 = 1_000_000_000;
const FASTEST_RATE: u64 = 1_000_000_000;
/// The source must keep what is not in the lake yet, and a takeover reads it again.
const LONGEST_ROLL_MS: u64 = 24 * 3_600_000;
/// What was taken in waits in memory until its commit.
const LONGEST_INTERVAL_MS: u64 = 3_600_000;
/// Its keys are held in memory, 40 bytes each.
const LARGEST_WINDOW: u64 = 100_000_000;

impl Draft {
    /// Everything that is wrong with it; nothing if it can be admitted as far as it goes by itself.
    pub fn check(&self, registry: &Registry) -> Vec<Problem> {
        let mut problems = Problems(Vec::new());
        let name_fits = self.name.len() <= LONGEST_NAME && PipelineId::new(self.name.as_str()).is_ok();
        problems.unless(name_fits, "name", &self.name, || {
            format!("1 to {LONGEST_NAME} of a-z A-Z 0-9 . _ -, not starting with . or -")
        });
        problems.parsed("kafka", &self.kafka, parse_servers);
        self.check_topics(&mut problems);
        match &self.lake {
            Some(lake) => check_lake(lake, &mut problems),
            None => problems.unless(self.enriched_topic.is_some(), "sinks", "nothing", || {
                "at least one of enriched_topic and [sinks.lake]".into()
            }),
        }
        for (key, value, most) in [
            ("sinks.lake.roll_bytes", self.roll.max_bytes, LARGEST_FILE),
            ("sinks.lake.roll_rows", self.roll.max_rows, MOST_ROWS),
            ("max_rate", self.max_rate.unwrap_or(1), FASTEST_RATE),
            ("weight", self.weight, LARGEST_WEIGHT),
        ] {
            let (value, fits) = (value.to_string(), (1..=most).contains(&value));
            problems.unless(fits, key, &value, || format!("1 to {most}"));
        }
        for (key, value, most) in [
            ("sinks.commit_interval", self.commit_interval_ms, LONGEST_INTERVAL_MS),
            ("sinks.lake.roll_age", self.roll.max_age_ms, LONGEST_ROLL_MS),
            ("sinks.lake.roll_idle", self.roll.max_idle_ms, LONGEST_ROLL_MS),
        ] {
            let (value, fits) = (format!("{value}ms"), (1..=most).contains(&value));
            problems.unless(fits, key, &value, || format!("1ms to {}h", most / 3_600_000));
        }
        if let Some(window) = self.duplicate_window {
            problems.unless(window <= LARGEST_WINDOW, "duplicate_window", &window.to_string(), || {
                format!("0 to {LARGEST_WINDOW}")
            });
        }
        problems.0.extend(registry.check(&self.transform));
        problems.0
    }

    fn check_topics(&self, problems: &mut Problems) {
        problems.unless(!self.topics.is_empty(), "source.topics", "nothing", || {
            "at least one topic, such as [\"acme.clickstream.raw.events\"]".into()
        });
        problems.unless(self.topics.len() <= usize::from(u16::MAX), "source.topics", "too many", || {
            format!("at most {} topics", u16::MAX)
        });
        for (index, topic) in self.topics.iter().enumerate() {
            problems.parsed("source.topics", topic, parse_topic);
            problems.unless(!self.topics[..index].contains(topic), "source.topics", topic, || {
                "each topic once".into()
            });
        }
        problems.parsed("sinks.invalid_topic", &self.invalid_topic, parse_topic);
        let other = || "a topic that is not a source: what goes in would come out again".to_owned();
        problems.unless(
            !self.topics.contains(&self.invalid_topic),
            "sinks.invalid_topic",
            &self.invalid_topic,
            other,
        );
        if let Some(enriched) = &self.enriched_topic {
            problems.parsed("sinks.enriched_topic", enriched, parse_topic);
            problems.unless(!self.topics.contains(enriched), "sinks.enriched_topic", enriched, other);
            problems.unless(*enriched != self.invalid_topic, "sinks.enriched_topic", enriched, || {
                "another topic than sinks.invalid_topic".into()
            });
        }
    }
}

fn check_lake(lake: &LakeTarget, problems: &mut Problems) {
    for (key, value, parse) in [
        ("sinks.lake.url", Some(&lake.url), parse_lake as fn(&str) -> Result<String, String>),
        ("sinks.lake.endpoint", lake.endpoint.as_ref(), parse_endpoint),
    ] {
        let Some(value) = value else { continue };
        match url::Url::parse(value) {
            Ok(url) if !url.username().is_empty() || url.password().is_some() => {
                problems.unless(false, key, "(not shown)", || {
                    "an address without user and password: name secrets by access_key_id and secret_access_key".into()
                });
            }
            _ => problems.parsed(key, value, parse),
        }
    }
    if let Some(region) = &lake.region {
        problems.unless(!region.is_empty(), "sinks.lake.region", region, || {
            "a region such as eu-west-1, or no such key".into()
        });
    }
}

struct Problems(Vec<Problem>);

impl Problems {
    fn unless(&mut self, right: bool, key: &str, value: &str, accepted: impl FnOnce() -> String) {
        if !right {
            self.0.push(Problem { key: key.into(), value: value.into(), accepted: accepted() });
        }
    }

    fn parsed(&mut self, key: &str, value: &str, parse: impl Fn(&str) -> Result<String, String>) {
        if let Err(expected) = parse(value) {
            let accepted = expected.strip_prefix("expected ").unwrap_or(&expected).to_owned();
            self.0.push(Problem { key: key.into(), value: value.into(), accepted });
        }
    }
}

/// A lake's URL without a slash at its end.
pub(crate) fn parse_lake(text: &str) -> Result<String, String> {
    let wrong = || "expected s3://bucket/prefix or file:///folder/prefix".to_owned();
    let url = url::Url::parse(text).map_err(|_| wrong())?;
    let is_lake = match url.scheme() {
        "s3" => url.host_str().is_some_and(|bucket| !bucket.is_empty()),
        "file" => url.to_file_path().is_ok(),
        _ => false,
    };
    if is_lake && url.query().is_none() && url.fragment().is_none() {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err(wrong())
    }
}

/// An S3 server's address without a slash at its end.
pub(crate) fn parse_endpoint(text: &str) -> Result<String, String> {
    match url::Url::parse(text) {
        Ok(url) if matches!(url.scheme(), "http" | "https") && url.host_str().is_some() => {
            Ok(text.trim_end_matches('/').to_owned())
        }
        _ => Err("expected http://host:port or https://host:port".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::draft;
    use super::*;

    #[test]
    fn a_good_draft_has_no_problem() {
        assert_eq!(draft().check(&Registry::default()), []);
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let mut bad = draft();
        bad.name = "a b".into();
        bad.kafka = "nowhere".into();
        bad.topics = vec!["raw".into(), "raw".into(), "in valid".into()];
        bad.enriched_topic = Some("raw".into());
        bad.invalid_topic = "raw".into();
        bad.roll.max_rows = 0;
        bad.max_rate = Some(0);
        bad.weight = 0;
        bad.commit_interval_ms = 0;
        bad.transform.kind = "clickz".into();
        bad.lake = Some(LakeTarget { endpoint: Some("here".into()), ..LakeTarget::new("gs://x") });
        let keys: Vec<String> =
            bad.check(&Registry::default()).into_iter().map(|problem| problem.key).collect();
        for key in [
            "name",
            "kafka",
            "source.topics",
            "sinks.enriched_topic",
            "sinks.invalid_topic",
            "sinks.commit_interval",
            "sinks.lake.url",
            "sinks.lake.endpoint",
            "sinks.lake.roll_rows",
            "max_rate",
            "weight",
            "transform.kind",
        ] {
            assert!(keys.iter().any(|found| found == key), "{key} is not among {keys:?}");
        }
    }

    #[test]
    fn a_pipeline_needs_a_sink() {
        let mut none = draft();
        (none.enriched_topic, none.lake) = (None, None);
        let problems = none.check(&Registry::default());
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].key, "sinks");
    }

    #[test]
    fn a_secret_in_an_address_is_refused_and_not_shown() {
        let mut leaky = draft();
        leaky.lake = Some(LakeTarget::new("s3://key:hunter2@bucket/prefix"));
        let problems = leaky.check(&Registry::default());
        assert_eq!(problems.len(), 1);
        assert!(!format!("{problems:?}").contains("hunter2"), "{problems:?}");
    }
}
