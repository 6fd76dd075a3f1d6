//! The last lines of this process' log, in memory: for its page, when somebody looks. Plain text, as logged; no line is
//! kept that the filter leaves out.

use std::collections::VecDeque;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing_subscriber::fmt::MakeWriter;

/// Lines that are kept.
pub const LINES: usize = 200;
/// Of one line; what is beyond is cut.
const LONGEST: usize = 4 << 10;

static KEPT: Mutex<VecDeque<String>> = Mutex::new(VecDeque::new());

/// The last lines, the oldest first.
pub fn lines() -> Vec<String> {
    kept().iter().cloned().collect()
}

fn kept() -> MutexGuard<'static, VecDeque<String>> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner)
}

fn keep(kept: &mut VecDeque<String>, bytes: &[u8]) {
    let text = String::from_utf8_lossy(&bytes[..bytes.len().min(LONGEST)]);
    let line = text.trim_end();
    if line.is_empty() {
        return;
    }
    if kept.len() == LINES {
        kept.pop_front();
    }
    kept.push_back(line.to_owned());
}

/// Takes the lines in: one `write` each, as the log's layer does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Keep;

impl io::Write for Keep {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        keep(&mut kept(), bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Keep {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        Self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_and_long_ones_are_cut() {
        let mut kept = VecDeque::new();
        for number in 0..=LINES {
            keep(&mut kept, format!("line {number}\n").as_bytes());
        }
        assert_eq!((kept.len(), kept[0].as_str()), (LINES, "line 1"));
        keep(&mut kept, &[b'x'; 10_000]);
        keep(&mut kept, b"\n");
        assert_eq!(kept.back().map(String::len), Some(LONGEST));
    }
}
