//! Progress on stderr: a bar in a terminal, else a line of the log every few seconds.

use std::io::IsTerminal;
use std::sync::atomic::Ordering;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::Instant;
use tracing::info;

use super::tally::Tally;

pub(super) enum Progress {
    Bar { bar: ProgressBar, goal: Goal, start: Instant },
    Lines { last: (Instant, u64) },
}

/// When the run ends by itself.
#[derive(Debug, Clone, Copy)]
pub(super) enum Goal {
    Events(u64),
    Time(Duration),
    None,
}

impl Progress {
    /// How often to call [`Progress::show`].
    pub(super) fn interval(&self) -> Duration {
        match self {
            Self::Bar { .. } => Duration::from_millis(200),
            Self::Lines { .. } => Duration::from_secs(5),
        }
    }

    pub(super) fn new(goal: Goal) -> Self {
        let start = Instant::now();
        if !std::io::stderr().is_terminal() {
            return Self::Lines { last: (start, 0) };
        }
        let (length, template) = match goal {
            Goal::Events(count) => (Some(count), "{bar:30} {percent:>3} %  {msg}"),
            Goal::Time(span) => {
                (Some(u64::try_from(span.as_millis()).unwrap_or(u64::MAX)), "{bar:30} {percent:>3} %  {msg}")
            }
            Goal::None => (None, "{spinner} {msg}"),
        };
        let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
        bar.set_style(
            ProgressStyle::with_template(template)
                .unwrap_or_else(|error| panic!("a fixed template: {error}")),
        );
        Self::Bar { bar, goal, start }
    }

    pub(super) fn show(&mut self, tally: &Tally) {
        let sent = tally.sent();
        let [ok, invalid, refused, unknown, resent] =
            [&tally.ok, &tally.invalid, &tally.refused, &tally.unknown, &tally.resent]
                .map(|count| count.load(Ordering::Relaxed));
        match self {
            Self::Bar { bar, goal, start } => {
                match goal {
                    Goal::Events(_) => bar.set_position(sent),
                    Goal::Time(_) => {
                        bar.set_position(u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX));
                    }
                    Goal::None => bar.tick(),
                }
                bar.set_message(format!(
                    "sent {sent} · ok {ok} · invalid {invalid} · refused {refused} · unknown {unknown} · resent {resent}"
                ));
            }
            Self::Lines { last } => {
                let now = Instant::now();
                #[expect(
                    clippy::cast_precision_loss,
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "shown rounded"
                )]
                let a_second = ((sent - last.1) as f64 / (now - last.0).as_secs_f64().max(0.001)) as u64;
                *last = (now, sent);
                info!(sent, ok, invalid, refused, unknown, resent, a_second, "sending");
            }
        }
    }

    pub(super) fn end(&self) {
        if let Self::Bar { bar, .. } = self {
            bar.finish_and_clear();
        }
    }
}
