//! A pipeline's TOML file: what each key means, its default, and everything that is wrong with the file at once.

use std::time::Duration;

use chrono::DateTime;
use millrace_common::types::{
    DEFAULT_COMMIT_INTERVAL_MS, DEFAULT_WEIGHT, InvalidDefinition, LakeTarget, Problem, RollPolicy,
    SecretReference, StartPosition, TransformDefinition,
};
use millrace_common::units::{parse_bytes, parse_duration};
use millrace_master::Draft;
use millrace_transform::Registry;
use serde_json::{Map, Number, Value};
use toml::de::{DeTable, DeValue};

use super::section::Section;

/// Reads and checks the file's text. `user` submits it.
pub(crate) fn read(text: &str, user: String, transforms: &Registry) -> Result<Draft, InvalidDefinition> {
    let (table, errors) = DeTable::parse_recoverable(text);
    let mut problems: Vec<Problem> = errors.iter().map(|error| syntax_problem(text, error)).collect();
    let root = object(table.get_ref(), "", &mut problems);
    let found = problems.len();
    let draft = draft(root, user, &mut problems);
    if found == 0 {
        // What could not be read at all is told once.
        let told: Vec<String> = problems.iter().map(|problem| problem.key.clone()).collect();
        problems.extend(draft.check(transforms).into_iter().filter(|problem| {
            let lies_in = |inner: &str, outer: &str| inner.starts_with(&format!("{outer}."));
            !told
                .iter()
                .any(|key| *key == problem.key || lies_in(key, &problem.key) || lies_in(&problem.key, key))
        }));
    }
    if problems.is_empty() { Ok(draft) } else { Err(InvalidDefinition(problems)) }
}

fn draft(root: Map<String, Value>, user: String, problems: &mut Vec<Problem>) -> Draft {
    let mut file = Section::new(String::new(), root, problems);
    let mut draft = Draft {
        name: file.needed("name", "the pipeline's name"),
        kafka: String::new(),
        topics: Vec::new(),
        start: StartPosition::Earliest,
        transform: TransformDefinition { kind: "clicks".into(), options: Map::new() },
        duplicate_window: file.number("duplicate_window"),
        enriched_topic: None,
        invalid_topic: String::new(),
        lake: None,
        roll: RollPolicy::default(),
        commit_interval_ms: DEFAULT_COMMIT_INTERVAL_MS,
        max_rate: file.number("max_rate"),
        weight: file.number("weight").unwrap_or_else(|| u64::from(DEFAULT_WEIGHT)),
        user,
    };
    draft.kafka = file.needed("kafka", "HOST:PORT of a broker, or several separated by commas");
    match file.section("source") {
        Some(source) => read_source(source, &mut draft),
        None => file.missing("source", "a table [source] with topics"),
    }
    if let Some(mut transform) = file.section("transform") {
        draft.transform.kind = transform.needed("kind", "the kind of transform, such as \"clicks\"");
        // Its other keys are the kind's own, and checked by it.
        draft.transform.options = transform.rest();
    }
    match file.section("sinks") {
        Some(sinks) => read_sinks(sinks, &mut draft),
        None => {
            file.missing("sinks", "a table [sinks] with invalid_topic, and enriched_topic or [sinks.lake]");
        }
    }
    file.finish();
    draft
}

fn read_source(mut source: Section<'_>, draft: &mut Draft) {
    let accepted = "a list of topics, such as [\"acme.clickstream.raw.events\"]";
    let topics = source.read("topics", accepted, |value| {
        value.as_array()?.iter().map(|topic| topic.as_str().map(str::to_owned)).collect()
    });
    draft.topics = topics.unwrap_or_default();
    draft.start = source.parsed("start", parse_start).unwrap_or_default();
    source.finish();
}

fn parse_start(text: &str) -> Result<StartPosition, String> {
    let wrong = || {
        "expected \"earliest\", \"latest\", or a time with its offset from UTC, such as 2024-01-15T10:30:00Z"
            .to_owned()
    };
    match text {
        "earliest" => Ok(StartPosition::Earliest),
        "latest" => Ok(StartPosition::Latest),
        _ => {
            let at = DateTime::parse_from_rfc3339(text).map_err(|_| wrong())?;
            u64::try_from(at.timestamp_millis()).map(StartPosition::Timestamp).map_err(|_| wrong())
        }
    }
}

fn read_sinks(mut sinks: Section<'_>, draft: &mut Draft) {
    draft.enriched_topic = sinks.text("enriched_topic");
    draft.invalid_topic =
        sinks.needed("invalid_topic", "the topic for records that can't be parsed or enriched");
    draft.commit_interval_ms =
        sinks.parsed("commit_interval", parse_millis).unwrap_or(DEFAULT_COMMIT_INTERVAL_MS);
    if let Some(mut lake) = sinks.section("lake") {
        let url = lake.needed("url", "s3://bucket/prefix or file:///folder");
        let mut target = LakeTarget::new(url);
        target.endpoint = lake.text("endpoint");
        target.region = lake.text("region");
        let reference = |text: &str| text.parse::<SecretReference>();
        if let Some(id) = lake.parsed("access_key_id", reference) {
            target.access_key_id = id;
        }
        if let Some(key) = lake.parsed("secret_access_key", reference) {
            target.secret_access_key = key;
        }
        draft.lake = Some(target);
        let roll = &mut draft.roll;
        roll.max_bytes = lake.parsed("roll_bytes", parse_bytes).unwrap_or(roll.max_bytes);
        roll.max_rows = lake.number("roll_rows").unwrap_or(roll.max_rows);
        roll.max_age_ms = lake.parsed("roll_age", parse_millis).unwrap_or(roll.max_age_ms);
        roll.max_idle_ms = lake.parsed("roll_idle", parse_millis).unwrap_or(roll.max_idle_ms);
        lake.finish();
    }
    sinks.finish();
}

fn parse_millis(text: &str) -> Result<u64, String> {
    parse_duration(text).map(|span: Duration| u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

/// The line, and of its text only what stands before the value: that may be a secret.
fn syntax_problem(text: &str, error: &toml::de::Error) -> Problem {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..at).unwrap_or_default();
    let number = before.matches('\n').count() + 1;
    let line = text.lines().nth(number - 1).unwrap_or_default();
    let shown = line.split_once('=').map_or(line, |(key, _)| key).trim();
    let message = error.message().lines().next().unwrap_or("TOML");
    Problem { key: format!("line {number}"), value: shown.to_owned(), accepted: format!("TOML ({message})") }
}

fn object(table: &DeTable<'_>, prefix: &str, problems: &mut Vec<Problem>) -> Map<String, Value> {
    let mut map = Map::new();
    for (key, value) in table {
        let key = key.get_ref().to_string();
        let path = if prefix.is_empty() { key.clone() } else { format!("{prefix}.{key}") };
        let value = json(value.get_ref(), &path, problems);
        map.insert(key, value);
    }
    map
}

/// Points in time become texts, everything else what it is in JSON.
fn json(value: &DeValue<'_>, path: &str, problems: &mut Vec<Problem>) -> Value {
    let mut refuse = |value: String, accepted: &str| {
        problems.push(Problem { key: path.to_owned(), value, accepted: accepted.to_owned() });
        Value::Null
    };
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Boolean(value) => Value::Bool(*value),
        DeValue::Datetime(at) => Value::String(at.to_string()),
        DeValue::Integer(digits) => {
            let number = i64::from_str_radix(digits.as_str(), digits.radix()).map(Number::from);
            let number =
                number.or_else(|_| u64::from_str_radix(digits.as_str(), digits.radix()).map(Number::from));
            match number {
                Ok(number) => Value::Number(number),
                Err(_) => refuse(digits.as_str().to_owned(), "a number of at most 64 bits"),
            }
        }
        DeValue::Float(digits) => match digits.as_str().parse::<f64>().ok().and_then(Number::from_f64) {
            Some(number) => Value::Number(number),
            None => refuse(digits.as_str().to_owned(), "a finite number"),
        },
        DeValue::Array(items) => {
            Value::Array(items.iter().map(|item| json(item.get_ref(), path, problems)).collect())
        }
        DeValue::Table(table) => Value::Object(object(table, path, problems)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DOCUMENTED: &str = include_str!("../../../../docs/pipelines.md");

    fn read(text: &str) -> Result<Draft, InvalidDefinition> {
        super::read(text, "somebody".into(), &Registry::default())
    }

    fn problems(text: &str) -> Vec<Problem> {
        read(text).expect_err("malformed").0
    }

    fn has(problems: &[Problem], key: &str, accepted: &str) -> bool {
        problems.iter().any(|problem| problem.key == key && problem.accepted.contains(accepted))
    }

    const SMALL: &str = r#"
        name = "clicks"
        kafka = "127.0.0.1:9092"
        [source]
        topics = ["raw"]
        [sinks]
        invalid_topic = "invalid"
        enriched_topic = "enriched"
    "#;

    #[test]
    fn what_is_left_out_has_its_default() {
        let draft = read(SMALL).expect("good");
        assert_eq!(draft.start, StartPosition::Earliest);
        assert_eq!((draft.transform.kind.as_str(), draft.lake), ("clicks", None));
        assert_eq!((draft.commit_interval_ms, draft.duplicate_window, draft.max_rate), (1000, None, None));
        assert_eq!(draft.user, "somebody");
    }

    #[test]
    fn the_documented_file_is_a_good_one_and_names_every_key() {
        let block = DOCUMENTED.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next());
        let text = block.expect("docs/pipelines.md begins with a whole file");
        let draft = read(text).expect("good");
        for key in [
            "name",
            "kafka",
            "duplicate_window",
            "max_rate",
            "weight",
            "topics",
            "start",
            "kind",
            "enriched_topic",
            "invalid_topic",
            "commit_interval",
            "url",
            "endpoint",
            "region",
            "access_key_id",
            "secret_access_key",
            "roll_bytes",
            "roll_rows",
            "roll_age",
            "roll_idle",
        ] {
            assert!(text.lines().any(|line| line.trim_start().starts_with(&format!("{key} ="))), "{key}");
        }
        let lake = draft.lake.expect("lake");
        assert!(lake.endpoint.is_some() && lake.region.is_some());
    }

    #[test]
    fn all_problems_are_told_at_once_each_with_key_value_and_accepted_form() {
        let found = problems(
            r#"
            name = "a b"
            kafka = 9092
            max_rates = 5
            duplicate_window = -1
            [source]
            topics = "raw"
            start = "yesterday"
            [transform]
            kind = "clicks"
            typos = ["click"]
            [sinks]
            commit_interval = "soon"
            [sinks.lake]
            urll = "s3://bucket/prefix"
            roll_rows = 1.5
            roll_age = 60
            colour = "blue"
            "#,
        );
        for (key, accepted) in [
            ("name", "a-z A-Z"),
            ("kafka", "text in quotes"),
            ("max_rates", "did you mean max_rate?"),
            ("duplicate_window", "not negative"),
            ("source.topics", "a list of topics"),
            ("source.start", "earliest"),
            ("transform.typos", "types"),
            ("sinks.invalid_topic", "can't be parsed"),
            ("sinks.commit_interval", "a time like"),
            ("sinks.lake.url", "s3://bucket/prefix"),
            ("sinks.lake.urll", "did you mean url?"),
            ("sinks.lake.roll_rows", "whole number"),
            ("sinks.lake.roll_age", "text in quotes"),
            ("sinks.lake.colour", "one of the keys url, endpoint"),
        ] {
            assert!(has(&found, key, accepted), "{key}: {accepted} is not in {found:#?}");
        }
        assert_eq!(found.len(), 14, "each once: {found:#?}");
    }

    #[test]
    fn what_is_no_toml_is_told_by_its_line() {
        let found = problems("name = \"a\nkafka = = 3\n[source\ntopics = [\"raw\"]\n");
        assert!(found.len() >= 3, "{found:#?}");
        assert!(has(&found, "line 1", "TOML") && has(&found, "line 2", "TOML"), "{found:#?}");
    }

    #[test]
    fn an_empty_file_is_told_what_it_needs() {
        let found = problems("");
        for key in ["name", "kafka", "source", "sinks"] {
            assert!(has(&found, key, ""), "{key} is not in {found:#?}");
        }
    }

    #[test]
    fn start_positions_are_read_in_all_their_forms() {
        let start = |value: &str| {
            let text = SMALL.replace("[\"raw\"]", &format!("[\"raw\"]\nstart = {value}"));
            read(&text).map(|draft| draft.start)
        };
        assert_eq!(start("\"latest\""), Ok(StartPosition::Latest));
        let at = StartPosition::Timestamp(1_705_314_600_000);
        for form in ["2024-01-15T10:30:00Z", "\"2024-01-15T11:30:00+01:00\"", "2024-01-15 10:30:00Z"] {
            assert_eq!(start(form), Ok(at), "{form}");
        }
        for bad in ["2024-01-15T10:30:00", "2024-01-15", "7", "\"1960-01-01T00:00:00Z\""] {
            assert!(start(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_secret_is_never_shown() {
        let lake =
            "[sinks.lake]\nurl = \"s3://b/p\"\nsecret_access_key = \"hunter2\"\naccess_keyid = \"hunter2\"\n";
        let shown = read(&format!("{SMALL}{lake}")).expect_err("a secret's value").to_string();
        assert!(shown.contains("env:NAME or file:/PATH") && !shown.contains("hunter2"), "{shown}");
        let shown = read("secret_access_key = hunter2").expect_err("no TOML").to_string();
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
