//! Enriched values, taken apart into the client's bytes and the member that was added. Pure.

use std::collections::BTreeMap;

use millrace_common::event::RESERVED_MEMBER;
use serde::de::IgnoredAny;

use crate::account::{Fingerprint, Made};

/// How enriched values are compared.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Values {
    /// The transform adds a member of what it found out; otherwise a value is compared as a whole.
    pub(crate) finds_out: bool,
    /// That member is compared too.
    pub(crate) derived: bool,
}

impl Values {
    /// What stands for an enriched record.
    pub(crate) fn of(self, key: Option<&[u8]>, value: Option<&[u8]>) -> Made {
        match value.filter(|_| self.finds_out).and_then(split) {
            Some((client, member)) => Made {
                content: client_content(key, client),
                derived: if self.derived { Fingerprint::of(member).short() } else { 0 },
            },
            None => Made::of(Fingerprint::of((key, value))),
        }
    }

    /// What must stand for the enriched record of a raw one to which only the member was added.
    pub(crate) fn of_client(key: Option<&[u8]>, value: Option<&[u8]>) -> Made {
        let client = value.map(<[u8]>::trim_ascii_end).and_then(|json| json.strip_suffix(b"}"));
        Made::of(client.map_or(Fingerprint::NO_EVENT, |client| client_content(key, client)))
    }
}

/// Apart from all values that were not taken apart.
fn client_content(key: Option<&[u8]>, client: &[u8]) -> Fingerprint {
    Fingerprint::of(("client", key, client))
}

/// The client's event up to where its closing brace was, and what was added there.
fn split(value: &[u8]) -> Option<(&[u8], &[u8])> {
    const BEFORE: &[u8] = b",\"";
    const BEHIND: &[u8] = b"\":{";
    let name = RESERVED_MEMBER.as_bytes();
    let is_mark = |at: &usize| {
        let rest = &value[*at..];
        let rest = rest.strip_prefix(BEFORE).and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest.starts_with(BEHIND))
    };
    // Within the member's own texts the mark's quotation marks would be escaped.
    let at = (0..value.len()).rev().find(is_mark)?;
    let (client, member) = value.split_at(at);
    is_one_object(member.strip_prefix(b",")?).then_some((client, member))
}

/// Whether `member`, a name and its value up to the event's own closing brace, is a single one, and its value an object.
fn is_one_object(member: &[u8]) -> bool {
    let alone = [b"{", member].concat();
    let parsed = serde_json::from_slice::<BTreeMap<String, BTreeMap<String, IgnoredAny>>>(&alone);
    parsed.is_ok_and(|members| members.len() == 1)
}

/// An enriched event as the client sent it; `None` if nothing was added to it.
pub(crate) fn client_event(value: &[u8]) -> Option<Vec<u8>> {
    split(value).map(|(client, _)| [client, b"}"].concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clients_part_is_what_was_there_before() {
        let part =
            |value: &str| client_event(value.as_bytes()).map(|part| String::from_utf8(part).expect("text"));
        assert_eq!(part(r#"{"a":1,"millrace":{"os":"x"}}"#).as_deref(), Some(r#"{"a":1}"#));
        assert_eq!(part(r#"{"a":"\",\"millrace\":{","b":2}"#), None);
        assert_eq!(
            part(r#"{"a":{"b":1,"millrace":{}},"millrace":{"os":"x"}}"#).as_deref(),
            Some(r#"{"a":{"b":1,"millrace":{}}}"#)
        );
    }

    #[test]
    fn only_the_added_member_may_differ_and_it_only_if_nobody_asks() {
        let raw = br#"{"a": 1, "b":2}  "#;
        let key = Some(&b"k"[..]);
        let right: &[u8] = br#"{"a": 1, "b":2,"millrace":{"os":"x"}}"#;
        for derived in [false, true] {
            let values = Values { finds_out: true, derived };
            let content = |key, value: &[u8]| values.of(key, Some(value)).content;
            let wanted = Values::of_client(key, Some(raw)).content;
            assert_eq!(content(key, right), wanted);
            assert_eq!(content(key, br#"{"a": 1, "b":2,"millrace":{}}"#), wanted);
            assert_ne!(content(None, right), wanted, "another key");
            assert_ne!(content(key, br#"{"a":1, "b":2,"millrace":{"os":"x"}}"#), wanted, "a space is gone");
            assert_ne!(content(key, br#"{"a": 1, "b":2}"#), wanted, "nothing was added");
            assert_ne!(
                content(key, br#"{"a": 1, "b":2,"c":3,"millrace":{"os":"x"}}"#),
                wanted,
                "two members"
            );
            let behind = br#"{"a": 1, "b":2,"millrace":{"os":"x"},"c":{"d":1}}"#;
            assert_ne!(content(key, behind), wanted, "a member behind it");
            let broken = br#"{"a": 1, "b":2,"millrace":{"os":"x}}"#;
            assert_ne!(content(key, broken), wanted, "no JSON");
            let other = values.of(key, Some(br#"{"a": 1, "b":2,"millrace":{"os":"y"}}"#));
            assert_eq!(other == values.of(key, Some(right)), !derived);
        }
        let whole = Values { finds_out: false, derived: false };
        let other: &[u8] = br#"{"a": 1, "b":2,"millrace":{"os":"y"}}"#;
        assert_ne!(whole.of(key, Some(right)), whole.of(key, Some(other)));
        assert_ne!(whole.of(key, None), whole.of(key, Some(b"")));
    }
}
