//! What happened when, one JSON object a line, in the run's folder; faults also go to the standard error.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

/// Shared by everybody who has something to tell.
#[derive(Debug, Clone)]
pub(crate) struct Timeline {
    began: Instant,
    file: Arc<Mutex<File>>,
}

impl Timeline {
    pub(crate) fn create(path: &Path) -> io::Result<Self> {
        let file = File::create(path)?;
        Ok(Self { began: Instant::now(), file: Arc::new(Mutex::new(file)) })
    }

    /// Milliseconds since the run began.
    pub(crate) fn ms(&self, at: Instant) -> u64 {
        millis(at.saturating_duration_since(self.began))
    }

    /// Notes something in the file alone. `at` may lie a little back.
    pub(crate) fn note(&self, at: Instant, what: &str, mut detail: Value) {
        if let Value::Object(fields) = &mut detail {
            fields.insert("ms".to_owned(), self.ms(at).into());
            fields.insert("unix_ms".to_owned(), unix_ms().into());
            fields.insert("what".to_owned(), what.into());
        }
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        // The timeline helps people; the verdict does not hang on it.
        let _ = writeln!(file, "{detail}");
    }

    /// Notes something and tells it on the standard error.
    pub(crate) fn say(&self, what: &str, text: &str) {
        let now = Instant::now();
        self.note(now, what, json!({ "text": text }));
        eprintln!("{:>8.1} s  {text}", self.began.elapsed().as_secs_f64());
    }
}

pub(crate) fn millis(span: std::time::Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

fn unix_ms() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, millis)
}
