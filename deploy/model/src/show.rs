//! A counterexample as text: one line for each step, with what it changed where readers and successors look.

use std::fmt::Write as _;

use crate::bounds::Bound;
use crate::explore::Counterexample;
use crate::rules::visible_rows;
use crate::state::{Offsets, Record, State};

/// The way to the broken rule.
pub fn show(counterexample: &Counterexample, bound: &Bound) -> String {
    let mut text = String::new();
    let mut before = String::new();
    for (number, (action, state)) in (1..).zip(&counterexample.way) {
        let who = action
            .worker
            .map_or_else(String::new, |worker| format!("worker {} ", char::from(b'A' + worker as u8)));
        let mark = if action.is_fault { '!' } else { ' ' };
        // Writing to text can't fail.
        let _ = writeln!(text, "{number:>3} {mark} {who}{}  [{}]", action.what, action.code);
        let now = visible(state, bound);
        if now != before {
            let _ = writeln!(text, "        {now}");
            before = now;
        }
    }
    let _ = writeln!(text, "broken: {:?}: {}", counterexample.rule, counterexample.rule.text());
    text
}

fn visible(state: &State, bound: &Bound) -> String {
    let record = state.committed().map_or_else(|| "none".to_owned(), |record| show_record(&record));
    let topic = if bound.has_topic {
        format!("topic {} ", show_offsets(state.kafka.enriched))
    } else {
        String::new()
    };
    let (invalid, rows) = (show_offsets(state.kafka.invalid), show_offsets(visible_rows(state)));
    format!("record: {record}; {topic}quarantine {invalid} lake {rows}")
}

fn show_record(record: &Record) -> String {
    let Record { epoch, topic, lake, sequence, rejected, .. } = record;
    let mut text = format!("epoch {epoch}, topic cursor {topic}, lake cursor {lake}, sequence {sequence}");
    if *rejected != 0 {
        let _ = write!(text, ", rejected {}", show_offsets(*rejected));
    }
    text
}

fn show_offsets(offsets: Offsets) -> String {
    let list: Vec<String> =
        (0..8).filter(|offset| offsets >> offset & 1 == 1).map(|o| o.to_string()).collect();
    format!("{{{}}}", list.join(" "))
}
