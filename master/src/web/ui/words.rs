//! How values are told: human units with the exact value on hover, and the names and colours of states, which stand
//! here alone.

use maud::{Markup, html};
use millrace_common::units::format_bytes;

/// How a state looks, beside its word: never by colour alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tone {
    Good,
    Fair,
    Bad,
    Over,
}

impl Tone {
    fn class(self) -> &'static str {
        match self {
            Self::Good => "state good",
            Self::Fair => "state fair",
            Self::Bad => "state bad",
            Self::Over => "state over",
        }
    }

    fn sign(self) -> &'static str {
        match self {
            Self::Good => "●",
            Self::Fair => "◐",
            Self::Bad => "✕",
            Self::Over => "○",
        }
    }
}

/// Every state of masters, workers, pipelines and slots: its word, its look, its meaning.
const STATES: [(&str, Tone, &str); 21] = [
    ("ALIVE", Tone::Good, "heard, and able to work"),
    ("RECOVERING", Tone::Fair, "restarted: known workers have time to come back"),
    ("STANDBY", Tone::Over, "another master leads"),
    ("SUSPECT", Tone::Fair, "its session broke: it keeps its slots for the grace"),
    ("UNKNOWN", Tone::Fair, "not heard since this master began: it keeps its slots for the lease"),
    ("DRAINING", Tone::Fair, "its slots go to others, a few at a time"),
    ("DRAINED", Tone::Over, "it has no slots and gets none"),
    ("DEAD", Tone::Bad, "lost: its slots go to others"),
    ("WAITING", Tone::Fair, "it should run, and no worker has a slot of it"),
    ("RUNNING", Tone::Good, "workers have slots of it"),
    ("PAUSED", Tone::Over, "a person paused it"),
    ("KILLING", Tone::Fair, "a person killed it: workers make a last commit"),
    ("KILLED", Tone::Over, "a person killed it, and it is over"),
    ("free", Tone::Fair, "nobody has it"),
    ("granted", Tone::Fair, "its worker was told, and has not answered yet"),
    ("opening", Tone::Fair, "its worker fences the one before, and claims it"),
    ("running", Tone::Good, "its worker reads and commits"),
    ("revoking", Tone::Fair, "its worker gives it up after a last commit"),
    ("halted", Tone::Bad, "it can't go on without a person"),
    ("clean", Tone::Good, "every offset is accounted for, exactly once"),
    ("wrong", Tone::Bad, "something is missing, doubled or altered"),
];

/// A state's word with its look; a word that is none of them stands plainly.
pub(in crate::web) fn state(word: &str) -> Markup {
    match STATES.iter().find(|(known, ..)| *known == word) {
        Some((word, tone, meaning)) => html! {
            span class=(tone.class()) title=(meaning) { span aria-hidden="true" { (tone.sign()) } " " (word) }
        },
        None => html! { span { (word) } },
    }
}

/// A count with thin spaces between thousands.
pub(in crate::web) fn count(value: impl TryInto<i128>) -> String {
    let Ok(value) = value.try_into() else { return "–".to_owned() };
    let digits = value.unsigned_abs().to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3 + 1);
    if value < 0 {
        text.push('-');
    }
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push('\u{202f}');
        }
        text.push(digit);
    }
    text
}

/// A count that may be unknown.
pub(in crate::web) fn maybe(value: Option<impl TryInto<i128>>) -> String {
    value.map_or("–".to_owned(), count)
}

/// A big number in few characters: `12.3 k`; the exact one on hover.
pub(in crate::web) fn short(value: u64) -> Markup {
    #[allow(clippy::cast_precision_loss, reason = "three digits are shown")]
    let scaled = |unit: u64| value as f64 / unit as f64;
    let text = match value {
        0..10_000 => return html! { (count(value)) },
        10_000..1_000_000 => format!("{:.1} k", scaled(1_000)),
        1_000_000..1_000_000_000 => format!("{:.1} M", scaled(1_000_000)),
        _ => format!("{:.1} G", scaled(1_000_000_000)),
    };
    html! { span title=(count(value)) { (text) } }
}

pub(in crate::web) fn bytes(value: u64) -> Markup {
    html! { span title={ (count(value)) " bytes" } { (format_bytes(value)) } }
}

/// A rate; tenths only where they tell something.
pub(in crate::web) fn rate(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    if value > 0.0 && value < 9.95 {
        return format!("{value:.1}");
    }
    #[allow(clippy::cast_possible_truncation, reason = "a float becomes the nearest integer there is")]
    count(value.round() as i64)
}

/// A span as people say it: `730 ms`, `4.2 s`, `3 min`.
pub(in crate::web) fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..7_200_000 => format!("{} min", ms / 60_000),
        7_200_000..172_800_000 => format!("{} h", ms / 3_600_000),
        _ => format!("{} d", ms / 86_400_000),
    }
}

/// A point in time: the clock's, and how long ago on hover.
pub(in crate::web) fn time(at_ms: u64, now_ms: u64) -> Markup {
    let parsed = i64::try_from(at_ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
    let Some(at) = parsed else { return html! { "–" } };
    let format = if now_ms.abs_diff(at_ms) < 86_400_000 { "%H:%M:%S" } else { "%Y-%m-%d %H:%M" };
    let exact = at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
    html! { time datetime=(exact) title=(exact) { (at.format(format)) } }
}

/// A point in time as the time that has passed since; the clock's on hover.
pub(in crate::web) fn ago(at_ms: u64, now_ms: u64) -> Markup {
    let parsed = i64::try_from(at_ms).ok().and_then(chrono::DateTime::from_timestamp_millis);
    let Some(at) = parsed else { return html! { "–" } };
    let exact = at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string();
    html! { time datetime=(exact) title=(exact) { (span(now_ms.saturating_sub(at_ms))) " ago" } }
}

/// A line of a summary.
pub(in crate::web) fn term(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::model::{MasterStatus, SlotState, WorkerState};

    #[test]
    fn every_state_has_a_word_a_look_and_a_meaning() {
        let states =
            WorkerState::ALL.map(WorkerState::word).into_iter().chain(SlotState::ALL.map(SlotState::word));
        let master =
            [MasterStatus::Alive, MasterStatus::Recovering, MasterStatus::Standby].map(MasterStatus::word);
        for word in states.chain(master).chain(["WAITING", "RUNNING", "PAUSED", "KILLING", "KILLED"]) {
            let shown = state(word).into_string();
            assert!(shown.contains("state ") && shown.contains("title=") && shown.contains(word), "{shown}");
        }
        assert_eq!(state("<b>").into_string(), "<span>&lt;b&gt;</span>");
    }

    #[test]
    fn numbers_are_told_in_human_units() {
        assert_eq!(count(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(count(-1_234), "-1\u{202f}234");
        assert_eq!(count(999), "999");
        assert_eq!(rate(0.04), "0.0");
        assert_eq!(rate(12_345.6), "12\u{202f}346");
        assert_eq!(rate(f64::NAN), "–");
        assert_eq!(
            [span(730), span(4_250), span(200_000), span(9_000_000)],
            ["730 ms", "4.2 s", "3 min", "2 h"]
        );
        assert!(short(12_345).into_string().contains("12.3 k"));
    }
}
