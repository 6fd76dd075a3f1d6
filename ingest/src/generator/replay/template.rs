//! One event of a file: its text, where its ids stand in it, and what the ground truth counts of it.

use std::collections::HashMap;
use std::io::Write;
use std::ops::Range;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::generator::facts::{Facts, Names, Visit};

/// An id longer than this is replaced instead of lengthened, so that it stays within what the check allows.
const LONGEST_KEPT_ID: usize = 200;

#[derive(Debug)]
pub(super) struct Template {
    pub(super) text: Box<str>,
    /// Right if the event is valid, but for the time, which the check reads.
    pub(super) facts: Facts,
    /// In the order of the text.
    ids: Vec<Id>,
}

#[derive(Debug)]
enum Id {
    Number(Range<usize>),
    /// With its quotes.
    Text(Range<usize>),
}

/// The texts that the events of a file have in common.
#[derive(Debug, Default)]
pub(super) struct Known {
    types: Numbered,
    pages: Numbered,
    sessions: Numbered,
}

#[derive(Debug, Default)]
struct Numbered(HashMap<String, usize>);

impl Numbered {
    fn number(&mut self, text: &str) -> usize {
        let next = self.0.len();
        *self.0.entry(text.to_owned()).or_insert(next)
    }

    fn in_order(self) -> Vec<String> {
        let mut texts: Vec<(usize, String)> =
            self.0.into_iter().map(|(text, number)| (number, text)).collect();
        texts.sort_unstable();
        texts.into_iter().map(|(_, text)| text).collect()
    }
}

impl Known {
    pub(super) fn names(self) -> Names {
        Names {
            types: self.types.in_order(),
            pages: self.pages.in_order(),
            sessions: self.sessions.in_order(),
            run: String::new(),
        }
    }
}

impl Template {
    pub(super) fn new(text: &str, known: &mut Known) -> Self {
        #[derive(Deserialize)]
        struct Ids<'a> {
            #[serde(borrow)]
            id: Option<&'a RawValue>,
            #[serde(borrow)]
            package_id: Option<&'a RawValue>,
        }
        // What is no object, or has an id twice, is sent as it stands.
        let found: Option<Ids<'_>> = serde_json::from_str(text).ok();
        let place = |value: &RawValue| {
            let start = value.get().as_ptr().addr() - text.as_ptr().addr();
            start..start + value.get().len()
        };
        let mut ids = Vec::new();
        if let Some(Ids { id, package_id }) = found {
            for value in [id, package_id].into_iter().flatten() {
                match value.get().as_bytes() {
                    // An empty one is invalid, and stays so.
                    [b'"', _, .., b'"'] => ids.push(Id::Text(place(value))),
                    [b'0'..=b'9' | b'-', ..] if id.is_some_and(|id| std::ptr::eq(id, value)) => {
                        ids.push(Id::Number(place(value)));
                    }
                    _ => {}
                }
            }
        }
        ids.sort_by_key(|id| match id {
            Id::Number(place) | Id::Text(place) => place.start,
        });
        Self { text: text.into(), facts: facts(text, known), ids }
    }

    pub(super) fn write_fresh(&self, run: &str, number: u64, pass: u64, out: &mut Vec<u8>) {
        let mut done = 0;
        for id in &self.ids {
            let (Id::Number(place) | Id::Text(place)) = id;
            out.extend_from_slice(&self.text.as_bytes()[done..place.start]);
            done = place.end;
            // Writing to memory can't fail.
            let _ = match id {
                Id::Number(_) => write!(out, "{}", number + 1),
                Id::Text(_) if place.len() > LONGEST_KEPT_ID => write!(out, "\"{run}-{number}\""),
                Id::Text(_) => write!(out, "{}-{run}-{pass}\"", &self.text[place.start..place.end - 1]),
            };
        }
        out.extend_from_slice(&self.text.as_bytes()[done..]);
    }
}

/// What stands in the event, by a JSON reader that the pipeline does not use.
fn facts(text: &str, known: &mut Known) -> Facts {
    let json: Value = serde_json::from_str(text).unwrap_or_default();
    let inner = &json["event"];
    let kind = json["type"].as_str().unwrap_or_default();
    let quantity = inner["quantity"].as_i64().unwrap_or(0);
    #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, reason = "an amount of money")]
    let revenue_cents = match inner["price"].as_f64() {
        Some(price) if kind == "purchase" => (price * quantity as f64 * 100.0).round() as i64,
        _ => 0,
    };
    Facts {
        kind: known.types.number(kind),
        page: inner["page"].as_str().map(|page| known.pages.number(path(page))),
        visit: inner["session_id"]
            .as_str()
            .map(|session| Visit { session: known.sessions.number(session) as u64, total: None }),
        time_ms: 0,
        quantity,
        revenue_cents,
    }
}

/// The path of a page: of an address the part behind the host, without query and fragment.
fn path(page: &str) -> &str {
    let page = page.split(['?', '#']).next().unwrap_or(page);
    let behind_scheme = page
        .strip_prefix("https://")
        .or_else(|| page.strip_prefix("http://"))
        .or_else(|| page.strip_prefix("//"));
    match behind_scheme {
        Some(address) => address.find('/').map_or("/", |slash| &address[slash..]),
        None => page,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_without_host_query_and_fragment() {
        for (page, expected) in [
            ("/home", "/home"),
            ("/home?a=/b#c", "/home"),
            ("/home#c?d", "/home"),
            ("https://shop.example.com", "/"),
            ("https://shop.example.com?x=/y", "/"),
            ("http://shop.example.com:80/a/b?c", "/a/b"),
            ("//shop.example.com/a", "/a"),
            ("", ""),
        ] {
            assert_eq!(path(page), expected, "{page}");
        }
    }

    #[test]
    fn facts_are_read_from_the_text() {
        let mut known = Known::default();
        let text = r#"{"type":"purchase","event":{"page":"https://a.example/x?y","session_id":"s","quantity":3,"price":19.99}}"#;
        let first = Template::new(r#"{"type":"view"}"#, &mut known).facts;
        let facts = Template::new(text, &mut known).facts;
        let again = Template::new(text, &mut known).facts;
        assert_eq!((facts.quantity, facts.revenue_cents), (3, 5_997));
        assert_eq!(facts, again);
        assert_eq!((first.page, first.visit, first.revenue_cents), (None, None, 0));
        let names = known.names();
        assert_eq!(names.types[facts.kind], "purchase");
        assert_eq!(names.pages[facts.page.expect("a page")], "/x");
        assert_eq!(names.session(facts.visit.expect("a session").session), "s");
    }
}
