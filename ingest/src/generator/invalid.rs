//! Deliberately invalid events, of every kind that the check tells apart and that can be sent over HTTP. Those that
//! are not JSON must go as lines (NDJSON): in an array they would take their neighbours with them.

use millrace_common::event::{LONGEST_PACKAGE_ID, MAX_DEPTH, RESERVED_MEMBER};

/// Kinds that are JSON; those beyond are not.
const JSON_KINDS: u64 = 18;
const KINDS: u64 = JSON_KINDS + 2;

/// What was written.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Written {
    /// The event's `package_id`, if it has one.
    pub(super) package_id: Option<String>,
    pub(super) is_json: bool,
}

/// Writes event `number` of the run, which is wrong in way `kind`: the kinds come again in a circle. No two events are
/// the same.
pub(super) fn write(kind: u64, run: &str, number: u64, timestamp: &str, out: &mut Vec<u8>) -> Written {
    let name = format!("{run}-{number}");
    let id = format!(r#""id":"{name}""#);
    let package_id = format!(r#""package_id":"{name}""#);
    let when = format!(r#""event":{{"timestamp":"{timestamp}","page":"/home"}}"#);
    let usual = format!(r#"{id},"type":"click",{package_id}"#);
    let mut has_id = Some(name.clone());
    let text = match kind % KINDS {
        0 => format!(r#"{{{id},{package_id},{when}}}"#),
        1 => {
            has_id = None;
            format!(r#"{{{id},"type":"click",{when}}}"#)
        }
        2 => {
            has_id = Some(String::new());
            format!(r#"{{{id},"type":"click","package_id":"",{when}}}"#)
        }
        3 => {
            has_id = None;
            format!(r#"{{{id},"type":"click","package_id":{number},{when}}}"#)
        }
        4 => {
            let long = format!("{name}-{}", "x".repeat(LONGEST_PACKAGE_ID));
            let text = format!(r#"{{{id},"type":"click","package_id":"{long}",{when}}}"#);
            has_id = Some(long);
            text
        }
        5 => format!(r#"{{{id},"type":["click"],{package_id},{when}}}"#),
        6 => format!(r#"{{{usual}}}"#),
        7 => format!(r#"{{{usual},"event":"/home"}}"#),
        8 => format!(r#"{{{usual},"event":{{"page":"/home"}}}}"#),
        9 => format!(r#"{{{usual},"event":{{"timestamp":"yesterday"}}}}"#),
        10 => format!(r#"{{"type":"view",{usual},{when}}}"#),
        11 => {
            let deep = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
            format!(r#"{{{usual},{when},"tree":{deep}}}"#)
        }
        12 => format!(r#"{{{usual},{when},"note":"cut \ud83d off"}}"#),
        13 => format!(r#"{{{usual},{when},"size":1e12345678901}}"#),
        14 => format!(r#"{{{usual},{when},"{RESERVED_MEMBER}":{{"country":"XX"}}}}"#),
        15 => format!(r#"{{{id},"type":"",{package_id},{when}}}"#),
        16 => format!(r#"{{{usual},"event":{{"timestamp":{number},"page":"/home"}}}}"#),
        17 => {
            has_id = None;
            format!(r#""{name} is no object""#)
        }
        JSON_KINDS => {
            has_id = None;
            // Cut off.
            format!(r#"{{{usual},"event":{{"timestamp":"{timestamp}","page":"/ho"#)
        }
        _ => {
            has_id = None;
            out.extend_from_slice(format!(r#"{{{usual},{when},"note":"caf"#).as_bytes());
            // Latin 1.
            out.push(0xe9);
            r#""}"#.to_owned()
        }
    };
    out.extend_from_slice(text.as_bytes());
    Written { package_id: has_id, is_json: kind % KINDS < JSON_KINDS }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_common::event::{RejectionCode, check};
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_is_refused_for_its_own_reason() {
        let mut reasons = BTreeSet::new();
        for kind in 0..KINDS {
            let mut event = Vec::new();
            let written = write(kind, "run", 4, "2024-01-15T10:30:00.000Z", &mut event);
            let json = serde_json::from_slice::<&serde_json::value::RawValue>(&event);
            assert_eq!(json.is_ok(), written.is_json, "kind {kind}");
            assert!(!event.contains(&b'\n'), "kind {kind}");
            let rejection = check(&event).expect_err("invalid");
            assert!(reasons.insert((rejection.code, rejection.pointer)), "kind {kind}");
            if written.is_json {
                let text = String::from_utf8(event).expect("UTF-8");
                let named = format!(r#""package_id":"{}""#, written.package_id.as_deref().unwrap_or("?"));
                assert_eq!(text.contains(&named), written.package_id.is_some(), "{text}");
            }
        }
        let codes: BTreeSet<RejectionCode> = reasons.into_iter().map(|(code, _)| code).collect();
        // The others are of records without value, of a pipeline's own definition, and of failures.
        let here = [
            RejectionCode::NotUtf8,
            RejectionCode::NotJson,
            RejectionCode::TooDeep,
            RejectionCode::DuplicateKey,
            RejectionCode::InvalidUnicode,
            RejectionCode::NumberOutOfRange,
            RejectionCode::NotAnObject,
            RejectionCode::MissingField,
            RejectionCode::WrongKind,
            RejectionCode::Empty,
            RejectionCode::TooLong,
            RejectionCode::NotRfc3339,
            RejectionCode::ReservedMember,
        ];
        assert_eq!(codes, here.into_iter().collect());
    }
}
