//! Charts as SVG, made here. Presentation attributes only: the page's policy allows no inline style.

use std::collections::VecDeque;

use maud::{Markup, html};

use super::words;
use crate::web::history::Series;

const WIDTH: f64 = 120.0;
const HEIGHT: f64 = 22.0;

/// A line through `values`, the oldest on the left, from zero to their highest. `label` says what it shows.
pub(in crate::web) fn sparkline<'a>(values: impl IntoIterator<Item = &'a f64>, label: &str) -> Markup {
    let values: Vec<f64> =
        values.into_iter().map(|value| if value.is_finite() { value.max(0.0) } else { 0.0 }).collect();
    if values.len() < 2 {
        return html! { span.quiet { "–" } };
    }
    let highest = values.iter().copied().fold(0.0, f64::max);
    #[allow(clippy::cast_precision_loss, reason = "some hundred points")]
    let step = WIDTH / (values.len() - 1) as f64;
    let mut points = String::with_capacity(values.len() * 10);
    for (index, value) in values.iter().enumerate() {
        #[allow(clippy::cast_precision_loss, reason = "some hundred points")]
        let x = index as f64 * step;
        let y = if highest > 0.0 { HEIGHT - 1.0 - value / highest * (HEIGHT - 2.0) } else { HEIGHT - 1.0 };
        points.push_str(&format!("{x:.0},{y:.0} "));
    }
    html! {
        svg.spark viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } width=(WIDTH) height=(HEIGHT) role="img" aria-label=(label)
            preserveAspectRatio="none" {
            title { (label) }
            polyline points=(points.trim_end()) fill="none" stroke="currentColor" stroke-width="1.4" {}
        }
    }
}

/// What the slots took for their work, the slowest of them at each moment, and how fresh the sinks were.
pub(in crate::web) fn times(history: &Series) -> Markup {
    let one = |name: &str, series: &VecDeque<f64>, label: &str| {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "milliseconds that were whole"
        )]
        let last = series.back().map_or(0, |last| *last as u64);
        html! {
            figure { figcaption { (name) " " strong { @if last > 0 { (words::span(last)) } @else { "–" } } } (sparkline(series, label)) }
        }
    };
    html! {
        (one("Batch", &history.batch_ms, "from the first record of a commit until the commit begins, the slowest partition"))
        (one("Commit", &history.commit_ms, "how long a transaction takes, the slowest partition"))
        (one("Flush", &history.flush_ms, "from closing files until they are in the lake, the slowest partition"))
        (one("Topic p99", &history.topic_freshness_ms, "age of records when the topic holds them, the slowest partition"))
        (one("Lake p99", &history.lake_freshness_ms, "age of records when the lake holds them, the slowest partition"))
    }
}

/// How much of a whole is used, as a bar with its words beside it.
pub(in crate::web) fn meter(used: u64, whole: u64, label: &str) -> Markup {
    html! { meter min="0" max=(whole.max(1)) value=(used.min(whole)) title=(label) aria-label=(label) {} }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_stays_in_its_box_whatever_the_values() {
        let drawn = sparkline(&[0.0, 10.0, f64::NAN, f64::INFINITY, -3.0], "x").into_string();
        assert!(drawn.contains("points=\"0,21 30,1 60,21 90,21 120,21\""), "{drawn}");
        assert!(sparkline(&[0.0, 0.0], "<b>").into_string().contains("&lt;b&gt;"));
        assert!(!sparkline(&[1.0], "x").into_string().contains("svg"));
    }
}
