//! What a process writes to its log after a moment.

use std::fs;
use std::path::{Path, PathBuf};

use millrace_local::Part;

/// A place in a log.
#[derive(Debug)]
pub(super) struct LogMark {
    path: PathBuf,
    from: u64,
}

impl LogMark {
    /// Its end as it is now.
    pub(super) fn of(part: &Part) -> Self {
        Self::at(&part.program().log)
    }

    fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), from: fs::metadata(path).map_or(0, |metadata| metadata.len()) }
    }

    /// The lines that have come since.
    pub(super) fn lines(&self) -> Vec<String> {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let new = bytes.get(usize::try_from(self.from).unwrap_or(usize::MAX)..).unwrap_or_default();
        String::from_utf8_lossy(new).lines().map(str::to_owned).collect()
    }
}

/// Where a slot of this partition and epoch says why it stopped.
pub(super) fn slot_stopped(lines: &[String], partition: i32, epoch: u64) -> Option<&String> {
    let (slot, epoch) = (format!("-{partition}"), format!("epoch={epoch}"));
    lines.iter().find(|line| {
        let mut words = line.split_whitespace();
        line.contains("slot stopped")
            && words.any(|word| word.starts_with("slot=") && word.ends_with(&slot))
            && line.split_whitespace().any(|word| word == epoch)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slots_end_is_found_by_partition_and_epoch() {
        let lines = [
            "2026-01-01T00:00:00Z  INFO millrace_worker::slot: slot stopped slot=clicks-1a2b3c/0-11 epoch=2 reason=Fenced",
            "2026-01-01T00:00:00Z  INFO millrace_worker::slot: slot stopped slot=clicks-1a2b3c/0-1 epoch=22 reason=Revoked",
            "2026-01-01T00:00:00Z  INFO millrace_worker::slot: slot stopped slot=clicks-1a2b3c/0-1 epoch=2 reason=Fenced",
        ]
        .map(str::to_owned);
        assert_eq!(slot_stopped(&lines, 1, 2), Some(&lines[2]));
        assert_eq!(slot_stopped(&lines, 1, 22), Some(&lines[1]));
        assert_eq!(slot_stopped(&lines, 11, 22), None);
    }
}
