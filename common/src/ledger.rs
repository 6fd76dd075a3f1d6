//! The generator's ledger, which `millrace verify` compares with the lake: one JSON object a line,
//! `{"package_id":"…","sha256":"…","answer":"ok"}`. Pure form and reading; who writes it decides when.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// What the collector said of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    Ok,
    Invalid,
    /// Nothing: the event may be there once or not at all.
    Unknown,
}

/// An event that was sent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    /// `None` if what was sent has none.
    pub package_id: Option<String>,
    /// [`crate::event::canonical_hash`] of the event; for [`Answer::Invalid`] the SHA-256 of the bytes that were sent.
    #[serde(with = "hex::serde")]
    pub sha256: [u8; 32],
    pub answer: Answer,
}

impl Entry {
    /// The entry's line, with its line feed.
    pub fn line(&self) -> String {
        let mut line = serde_json::to_string(self).unwrap_or_else(|error| panic!("plain fields: {error}"));
        line.push('\n');
        line
    }
}

/// A ledger that can't be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Io(#[from] std::io::Error),
    #[error(
        "line {number} is no entry ({reason}), expected {{\"package_id\":\"…\",\"sha256\":\"64 hex digits\",\"answer\":\"ok\"}}"
    )]
    Line { number: u64, reason: String },
}

/// Hands each entry of the ledger at `path` to `take`, in order. A last line without line feed is left out: its
/// writer was stopped, or is writing it.
pub fn each_entry(path: &Path, mut take: impl FnMut(&Entry)) -> Result<(), ReadError> {
    let mut reader = BufReader::new(File::open(path)?);
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        reader.read_until(b'\n', &mut line)?;
        if line.last() != Some(&b'\n') {
            break;
        }
        let entry = serde_json::from_slice(&line)
            .map_err(|error| ReadError::Line { number, reason: error.to_string() })?;
        take(&entry);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_read_back_and_a_line_that_was_cut_is_left_out() {
        let entry = |package_id: Option<&str>, answer| Entry {
            package_id: package_id.map(str::to_owned),
            sha256: [7; 32],
            answer,
        };
        let entries = [
            entry(Some("a \"b\""), Answer::Ok),
            entry(None, Answer::Invalid),
            entry(Some("c"), Answer::Unknown),
        ];
        let file = tempfile::NamedTempFile::new().expect("file");
        let mut text: String = entries.iter().map(Entry::line).collect();
        text.push_str("{\"package_id\":\"d\",\"sha2");
        std::fs::write(file.path(), &text).expect("write");
        let mut read = Vec::new();
        each_entry(file.path(), |entry| read.push(entry.clone())).expect("read");
        assert_eq!(read, entries);
        text.push('\n');
        std::fs::write(file.path(), &text).expect("write");
        let error = each_entry(file.path(), |_| ()).expect_err("line 4").to_string();
        assert!(error.contains("line 4"), "{error}");
    }
}
