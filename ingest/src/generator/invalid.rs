//! Deliberately invalid events, of every kind that the check tells apart. All are JSON: a body that is not JSON
//! would take its neighbours with it.

use std::io::Write;

use millrace_common::event::{LONGEST_PACKAGE_ID, MAX_DEPTH};
use rand::RngExt;
use rand::rngs::StdRng;

const KINDS: u8 = 13;

/// Writes event `number` of the run, which is wrong in one of [`KINDS`] ways. No two are the same.
pub(super) fn write(random: &mut StdRng, run: &str, number: u64, timestamp: &str, out: &mut Vec<u8>) {
    write_kind(random.random_range(0..KINDS), run, number, timestamp, out);
}

fn write_kind(kind: u8, run: &str, number: u64, timestamp: &str, out: &mut Vec<u8>) {
    let id = format!(r#""id":"{run}-{number}""#);
    let package_id = format!(r#""package_id":"{run}-{number}""#);
    let when = format!(r#""event":{{"timestamp":"{timestamp}","page":"/home"}}"#);
    let text = match kind {
        0 => format!(r#"{{{id},{package_id},{when}}}"#),
        1 => format!(r#"{{{id},"type":"click",{when}}}"#),
        2 => format!(r#"{{{id},"type":"click","package_id":"",{when}}}"#),
        3 => format!(r#"{{{id},"type":"click","package_id":{number},{when}}}"#),
        4 => {
            let long = "x".repeat(LONGEST_PACKAGE_ID);
            format!(r#"{{{id},"type":"click","package_id":"{run}-{number}-{long}",{when}}}"#)
        }
        5 => format!(r#"{{{id},"type":["click"],{package_id},{when}}}"#),
        6 => format!(r#"{{{id},"type":"click",{package_id}}}"#),
        7 => format!(r#"{{{id},"type":"click",{package_id},"event":"/home"}}"#),
        8 => format!(r#"{{{id},"type":"click",{package_id},"event":{{"page":"/home"}}}}"#),
        9 => format!(r#"{{{id},"type":"click",{package_id},"event":{{"timestamp":"yesterday"}}}}"#),
        10 => format!(r#"{{{id},"type":"click","type":"view",{package_id},{when}}}"#),
        11 => {
            let deep = format!("{}{}", "[".repeat(MAX_DEPTH), "]".repeat(MAX_DEPTH));
            format!(r#"{{{id},"type":"click",{package_id},{when},"tree":{deep}}}"#)
        }
        _ => format!(r#""{run}-{number} is no object""#),
    };
    // Writing to memory can't fail.
    let _ = out.write_all(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_common::event::check;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_is_json_and_refused_for_its_own_reason() {
        let mut reasons = BTreeSet::new();
        for kind in 0..KINDS {
            let mut event = Vec::new();
            write_kind(kind, "run", 4, "2024-01-15T10:30:00.000Z", &mut event);
            serde_json::from_slice::<serde::de::IgnoredAny>(&event).expect("JSON");
            let rejection = check(&event).expect_err("invalid");
            assert!(reasons.insert((rejection.code, rejection.pointer)), "kind {kind}");
        }
    }
}
