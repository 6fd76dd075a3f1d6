//! What the check shows while it runs: a bar in a terminal, plain lines elsewhere, both on stderr.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two plain lines of the same stage.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// Steps done and to do; a step is a raw record or a row.
#[derive(Debug)]
pub struct Progress(Shown);

#[derive(Debug)]
enum Shown {
    Nowhere,
    Bar(ProgressBar),
    Lines(Mutex<Lines>),
}

#[derive(Debug)]
struct Lines {
    stage: String,
    done: u64,
    total: u64,
    last: Instant,
}

impl Progress {
    /// For callers that show something of their own.
    pub fn hidden() -> Self {
        Self(Shown::Nowhere)
    }

    pub fn on_stderr() -> Self {
        if !std::io::stderr().is_terminal() {
            let lines = Lines { stage: String::new(), done: 0, total: 0, last: Instant::now() };
            return Self(Shown::Lines(Mutex::new(lines)));
        }
        let bar = ProgressBar::new(0);
        if let Ok(style) =
            ProgressStyle::with_template("{bar:30} {percent:>3}% {pos}/{len} {per_sec} eta {eta}  {msg}")
        {
            bar.set_style(style);
        }
        bar.enable_steady_tick(Duration::from_millis(200));
        Self(Shown::Bar(bar))
    }

    pub(crate) fn expect(&self, steps: u64) {
        match &self.0 {
            Shown::Nowhere => {}
            Shown::Bar(bar) => bar.set_length(steps),
            Shown::Lines(lines) => lock(lines).total = steps,
        }
    }

    pub(crate) fn stage(&self, text: &str) {
        match &self.0 {
            Shown::Nowhere => {}
            Shown::Bar(bar) => bar.set_message(text.to_owned()),
            Shown::Lines(lines) => {
                let mut lines = lock(lines);
                if lines.stage != text {
                    text.clone_into(&mut lines.stage);
                    lines.print();
                }
            }
        }
    }

    pub(crate) fn advance(&self, steps: u64) {
        match &self.0 {
            Shown::Nowhere => {}
            Shown::Bar(bar) => bar.inc(steps),
            Shown::Lines(lines) => {
                let mut lines = lock(lines);
                lines.done += steps;
                if lines.last.elapsed() > LINE_EVERY {
                    lines.print();
                }
            }
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&self) {
        if let Shown::Bar(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

impl Lines {
    fn print(&mut self) {
        eprintln!("verify: {} ({} of about {})", self.stage, self.done, self.total);
        self.last = Instant::now();
    }
}

/// Figures for people: whoever panicked half way did them no harm.
fn lock(lines: &Mutex<Lines>) -> std::sync::MutexGuard<'_, Lines> {
    lines.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
