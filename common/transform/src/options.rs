//! Reading a transform's options: every problem is found, not only the first.

use std::collections::BTreeMap;

use millrace_common::types::Problem;
use serde_json::{Map, Value};

/// The options of a transform under way to being read. What is not read by the end is unknown.
#[derive(Debug)]
pub struct Options<'a> {
    given: &'a Map<String, Value>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'a> Options<'a> {
    pub fn new(given: &'a Map<String, Value>) -> Self {
        Self { given, known: Vec::new(), problems: Vec::new() }
    }

    /// A list of texts, empty if the key is not there.
    pub fn texts(&mut self, key: &'static str, accepted: &str) -> Vec<String> {
        match self.take(key) {
            None => Vec::new(),
            Some(value) => {
                let texts = value.as_array().and_then(|list| {
                    list.iter().map(|item| item.as_str().map(str::to_owned)).collect::<Option<Vec<_>>>()
                });
                texts.unwrap_or_else(|| {
                    self.problem(key, value, accepted);
                    Vec::new()
                })
            }
        }
    }

    pub fn text(&mut self, key: &'static str, accepted: &str) -> Option<String> {
        let value = self.take(key)?;
        let text = value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
        if text.is_none() {
            self.problem(key, value, accepted);
        }
        text
    }

    /// A table of texts, empty if the key is not there.
    pub fn table(&mut self, key: &'static str, accepted: &str) -> BTreeMap<String, String> {
        match self.take(key) {
            None => BTreeMap::new(),
            Some(value) => {
                let table = value.as_object().and_then(|table| {
                    table
                        .iter()
                        .map(|(name, item)| Some((name.clone(), item.as_str()?.to_owned())))
                        .collect::<Option<BTreeMap<_, _>>>()
                });
                table.unwrap_or_else(|| {
                    self.problem(key, value, accepted);
                    BTreeMap::new()
                })
            }
        }
    }

    /// Notes that the value under `key` can't be taken.
    pub fn problem(&mut self, key: &str, value: impl std::fmt::Display, accepted: impl Into<String>) {
        self.problems.push(Problem {
            key: format!("transform.{key}"),
            value: value.to_string(),
            accepted: accepted.into(),
        });
    }

    /// All problems; keys that nobody asked for are among them.
    pub fn finish(mut self) -> Vec<Problem> {
        let known = self.known.join(", ");
        for (key, value) in self.given {
            if !self.known.contains(&key.as_str()) {
                let accepted = match self.known.is_empty() {
                    true => "no options".to_owned(),
                    false => format!("one of the options {known}"),
                };
                self.problem(key, value, accepted);
            }
        }
        self.problems
    }

    fn take(&mut self, key: &'static str) -> Option<&'a Value> {
        self.known.push(key);
        self.given.get(key)
    }
}
