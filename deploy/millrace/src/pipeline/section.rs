//! Reading one table of a file key by key: what is wrong is noted and the reading goes on, so that every problem is
//! found at once. A key that nobody asks for is a problem too.

use millrace_common::types::Problem;
use serde_json::{Map, Value};

/// What a problem shows in a secret's place.
pub(crate) const NOT_SHOWN: &str = "(not shown)";

/// A table of the file under way to being read.
#[derive(Debug)]
pub(crate) struct Section<'a> {
    /// `sinks.lake.`, or nothing for the file itself.
    prefix: String,
    given: Map<String, Value>,
    known: Vec<&'static str>,
    problems: &'a mut Vec<Problem>,
}

impl<'a> Section<'a> {
    pub(crate) fn new(prefix: String, given: Map<String, Value>, problems: &'a mut Vec<Problem>) -> Self {
        Self { prefix, given, known: Vec::new(), problems }
    }

    /// The table below `key`; `None` if it is not there.
    pub(crate) fn section(&mut self, key: &'static str) -> Option<Section<'_>> {
        let given = match self.take(key)? {
            Value::Object(given) => given,
            other => {
                self.problem(key, &other, &format!("a table: [{}{key}]", self.prefix));
                return None;
            }
        };
        Some(Section::new(format!("{}{key}.", self.prefix), given, self.problems))
    }

    /// A value of its own form; `accepted` says which.
    pub(crate) fn read<T>(
        &mut self,
        key: &'static str,
        accepted: &str,
        read: impl FnOnce(&Value) -> Option<T>,
    ) -> Option<T> {
        let value = self.take(key)?;
        let found = read(&value);
        if found.is_none() {
            self.problem(key, &value, accepted);
        }
        found
    }

    pub(crate) fn text(&mut self, key: &'static str) -> Option<String> {
        self.read(key, "a text in quotes", |value| value.as_str().map(str::to_owned))
    }

    /// A text that must be there.
    pub(crate) fn needed(&mut self, key: &'static str, accepted: &str) -> String {
        if !self.given.contains_key(key) {
            self.missing(key, accepted);
        }
        self.text(key).unwrap_or_default()
    }

    pub(crate) fn number(&mut self, key: &'static str) -> Option<u64> {
        self.read(key, "a whole number that is not negative", Value::as_u64)
    }

    /// A text that `parse` understands.
    pub(crate) fn parsed<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&str) -> Result<T, String>,
    ) -> Option<T> {
        let value = self.take(key)?;
        let read = match value.as_str() {
            Some(text) => parse(text),
            None => Err("expected a text in quotes".to_owned()),
        };
        read.map_err(|expected| {
            self.problem(key, &value, expected.strip_prefix("expected ").unwrap_or(&expected));
        })
        .ok()
    }

    /// Everything that was not asked for.
    pub(crate) fn rest(&mut self) -> Map<String, Value> {
        std::mem::take(&mut self.given)
    }

    pub(crate) fn missing(&mut self, key: &str, accepted: &str) {
        self.problem(key, &Value::String("nothing".into()), accepted);
    }

    /// Notes the keys that nobody asked for, each with the known one that comes nearest.
    pub(crate) fn finish(mut self) {
        for (key, value) in std::mem::take(&mut self.given) {
            let nearest = self
                .known
                .iter()
                .map(|known| (strsim::damerau_levenshtein(known, &key), *known))
                .min()
                .filter(|(distance, known)| *distance <= 1 + known.len() / 4);
            let accepted = match nearest {
                Some((_, known)) => format!("a known key: did you mean {known}?"),
                None => format!("one of the keys {}", self.known.join(", ")),
            };
            self.problem(&key, &value, &accepted);
        }
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.given.remove(key)
    }

    fn problem(&mut self, key: &str, value: &Value, accepted: &str) {
        let key = format!("{}{key}", self.prefix);
        let is_secret = ["access_key", "secret", "password", "token"].iter().any(|word| key.contains(word));
        let value = match value {
            _ if is_secret => NOT_SHOWN.to_owned(),
            Value::String(text) => text.clone(),
            Value::Object(_) => "a table".to_owned(),
            other => other.to_string(),
        };
        self.problems.push(Problem { key, value, accepted: accepted.to_owned() });
    }
}
