//! What the demo says: a live line in a terminal, plain lines otherwise.

use std::io::Write;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};

/// Between two plain lines of progress.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// Standard output, for people.
#[derive(Debug)]
pub(crate) struct Screen {
    started: Instant,
    /// In a terminal only.
    line: Option<ProgressBar>,
    last_plain: Mutex<Option<Instant>>,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let line = ProgressBar::new_spinner();
        let line = (!line.is_hidden()).then_some(line);
        if let Some(line) = &line {
            // The template is a constant; without it the default one shows.
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                line.set_style(style);
            }
        }
        Self { started: Instant::now(), line, last_plain: Mutex::new(None) }
    }

    /// A line that stays. Nobody may be reading any more; the demo goes on all the same.
    pub(crate) fn say(&self, text: impl AsRef<str>) {
        let write = || writeln!(std::io::stdout(), "{}", text.as_ref()).unwrap_or_default();
        match &self.line {
            Some(line) => line.suspend(write),
            None => write(),
        }
    }

    /// How things stand: replaces the last such line in a terminal, else a line every few seconds.
    pub(crate) fn progress(&self, text: &str) {
        let seconds = self.started.elapsed().as_secs();
        let text = format!("{:02}:{:02} {text}", seconds / 60, seconds % 60);
        match &self.line {
            Some(line) => {
                line.set_message(text);
                line.tick();
            }
            None => {
                let mut last = self.last_plain.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                if last.is_none_or(|last| last.elapsed() >= PLAIN_EVERY) {
                    *last = Some(Instant::now());
                    self.say(text);
                }
            }
        }
    }

    /// Takes the live line away.
    pub(crate) fn clear(&self) {
        if let Some(line) = &self.line {
            line.finish_and_clear();
        }
    }
}
