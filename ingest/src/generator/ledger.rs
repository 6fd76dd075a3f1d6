//! The ledger on disk: written batch by batch as the events' fates are known, so that a killed generator loses at
//! most what it was about to write.
//!
//! One line an event, its last word: `ok`, `invalid`, or `unknown` when nobody said. What is surely nowhere (refused,
//! not stored, never sent) has none. Only an invalid event has an `unknown` line more for each send of it that was not
//! answered: the invalid topic has no duplicate rule, so that each of them may lie there.

use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use millrace_common::event::canonical_hash;
use millrace_common::ledger::{Answer, Entry};
use millrace_common::shutdown::Shutdown;
use sha2::{Digest, Sha256};
use tokio::fs::File;
use tokio::io::AsyncWriteExt;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use super::delivery::Fate;
use super::source::{Batch, Sent};

/// Batches' lines that wait to be written.
const WAITING: usize = 64;

/// A ledger that can't be kept.
#[derive(Debug, thiserror::Error)]
#[error("--ledger {} can't be written: {source}", path.display())]
pub struct LedgerError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// Where the entries go; nowhere without `--ledger`. Clones write to the same file.
#[derive(Debug, Clone)]
pub(super) struct Ledger(Option<mpsc::Sender<String>>);

/// Tells how the writing ended, once every clone of the ledger is gone.
#[derive(Debug)]
pub(super) struct Written(Option<oneshot::Receiver<Result<(), LedgerError>>>);

impl Ledger {
    pub(super) fn none() -> (Self, Written) {
        (Self(None), Written(None))
    }

    /// Appends to the ledger at `path`, which is made if absent. When it can't be written any more, `stop` is
    /// cancelled: events that no ledger knows are of no use.
    pub(super) async fn open(
        path: &Path,
        shutdown: &Shutdown,
        stop: CancellationToken,
    ) -> Result<(Self, Written), LedgerError> {
        let path = path.to_owned();
        let error = |path: &Path, source| LedgerError { path: path.to_owned(), source };
        let to_open = path.clone();
        let opened = tokio::task::spawn_blocking(move || open(&to_open))
            .await
            .unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()));
        let file = opened.map_err(|source| error(&path, source))?;
        let (sender, lines) = mpsc::channel(WAITING);
        let (ended, written) = oneshot::channel();
        shutdown.spawn("ledger", async move {
            let result = write_all(File::from_std(file), lines).await;
            if result.is_err() {
                stop.cancel();
            }
            // Nobody asks when the generator failed otherwise.
            let _ = ended.send(result.map_err(|source| error(&path, source)));
        });
        Ok((Self(Some(sender)), Written(Some(written))))
    }

    /// Writes the entries of the events of `batch` whose fate is known.
    pub(super) async fn note(&self, batch: &Batch, fates: &[Option<Fate>]) {
        let Some(lines) = &self.0 else { return };
        let mut text = String::with_capacity(160 * fates.len());
        for (sent, fate) in batch.events.iter().zip(fates) {
            if let Some(fate) = fate {
                write_lines(&batch.body[sent.place.clone()], sent, fate, &mut text);
            }
        }
        if !text.is_empty() {
            // When the writer has failed, the run stops and says so.
            let _ = lines.send(text).await;
        }
    }
}

impl Written {
    pub(super) async fn result(self) -> Result<(), LedgerError> {
        match self.0 {
            // Without a result the writer panicked, which has stopped the process.
            Some(written) => written.await.unwrap_or(Ok(())),
            None => Ok(()),
        }
    }
}

fn write_lines(bytes: &[u8], sent: &Sent, fate: &Fate, out: &mut String) {
    let as_sent = || -> [u8; 32] { Sha256::digest(bytes).into() };
    let canonical = || canonical_hash(bytes).unwrap_or_else(|_| as_sent());
    let (answer, sha256, doubts) = match fate {
        Fate::Ok => (Answer::Ok, canonical(), 0),
        Fate::Invalid { .. } => (Answer::Invalid, as_sent(), sent.doubts),
        Fate::Unknown if sent.facts.is_some() => (Answer::Unknown, canonical(), 0),
        // The last send is one of the doubts.
        Fate::Unknown => (Answer::Unknown, as_sent(), sent.doubts.saturating_sub(1)),
        Fate::NotStored | Fate::Refused | Fate::NotSent => return,
    };
    let entry = |answer| Entry { package_id: sent.package_id.clone(), sha256, answer };
    out.push_str(&entry(answer).line());
    for _ in 0..doubts {
        out.push_str(&entry(Answer::Unknown).line());
    }
}

/// Opens the ledger for appending, behind its last whole line.
fn open(path: &Path) -> io::Result<std::fs::File> {
    let mut file = std::fs::File::options().read(true).append(true).create(true).open(path)?;
    let length = file.metadata()?.len();
    let whole = whole_lines(&mut file, length)?;
    if whole < length {
        warn!(ledger = %path.display(), bytes = length - whole, "the ledger's last line was cut off, leaving it out");
        file.set_len(whole)?;
    }
    Ok(file)
}

/// Where the last line feed of `file` ends.
fn whole_lines(file: &mut std::fs::File, length: u64) -> io::Result<u64> {
    let mut chunk = [0; 4096];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(chunk.len() as u64);
        let piece = &mut chunk[..usize::try_from(end - start).unwrap_or(0)];
        file.seek(SeekFrom::Start(start))?;
        file.read_exact(piece)?;
        if let Some(at) = piece.iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

async fn write_all(mut file: File, mut lines: mpsc::Receiver<String>) -> io::Result<()> {
    while let Some(mut text) = lines.recv().await {
        while let Ok(more) = lines.try_recv() {
            text.push_str(&more);
        }
        file.write_all(text.as_bytes()).await?;
        // To the kernel, so that it outlives this process.
        file.flush().await?;
    }
    file.sync_all().await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::facts::Facts;
    use millrace_common::ledger::each_entry;

    fn batch() -> Batch {
        let valid = r#"{"type":"a","package_id":"b","event":{"timestamp":"2024-01-15T10:30:00Z"}}"#;
        let body = format!("[{valid},{{}},{{ }},7]");
        let sent = |start: usize, length: usize| Sent { place: start..start + length, ..Sent::default() };
        let facts = Facts { kind: 0, page: None, visit: None, time_ms: 0, quantity: 0, revenue_cents: 0 };
        let next = valid.len() + 2;
        let events = vec![
            Sent { package_id: Some("b".to_owned()), facts: Some(facts), doubts: 3, ..sent(1, valid.len()) },
            Sent { doubts: 1, ..sent(next, 2) },
            Sent { doubts: 2, ..sent(next + 3, 3) },
            sent(next + 7, 1),
        ];
        Batch { body: body.into(), events, ..Batch::default() }
    }

    fn invalid() -> Option<Fate> {
        Some(Fate::Invalid { code: "empty".to_owned() })
    }

    #[tokio::test]
    async fn entries_are_appended_behind_the_last_whole_line() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("ledger.jsonl");
        let old = Entry { package_id: Some("old".into()), sha256: [1; 32], answer: Answer::Ok };
        std::fs::write(&path, old.line() + &"x".repeat(9000)).expect("write");
        let shutdown = Shutdown::new();
        let (ledger, written) =
            Ledger::open(&path, &shutdown, CancellationToken::new()).await.expect("opened");
        ledger.note(&batch(), &[Some(Fate::Ok), invalid(), Some(Fate::Unknown), None]).await;
        ledger.note(&batch(), &[None, Some(Fate::Refused), Some(Fate::NotStored), Some(Fate::NotSent)]).await;
        ledger.note(&batch(), &[Some(Fate::Unknown), None, None, None]).await;
        drop(ledger);
        written.result().await.expect("written");
        let mut entries = Vec::new();
        each_entry(&path, |entry| entries.push(entry.clone())).expect("read");
        let raw =
            |bytes: &[u8], answer| Entry { package_id: None, sha256: Sha256::digest(bytes).into(), answer };
        let canonical =
            canonical_hash(br#"{"event":{"timestamp":"2024-01-15T10:30:00Z"},"package_id":"b","type":"a"}"#);
        let sha256 = canonical.expect("JSON");
        let valid = |answer| Entry { package_id: Some("b".into()), sha256, answer };
        let expected = [
            old,
            valid(Answer::Ok),
            raw(b"{}", Answer::Invalid),
            raw(b"{}", Answer::Unknown),
            raw(b"{ }", Answer::Unknown),
            raw(b"{ }", Answer::Unknown),
            valid(Answer::Unknown),
        ];
        assert_eq!(entries, expected);
    }

    #[tokio::test]
    async fn a_full_disk_stops_the_run_and_is_told() {
        let (shutdown, stop) = (Shutdown::new(), CancellationToken::new());
        let (ledger, written) =
            Ledger::open(Path::new("/dev/full"), &shutdown, stop.clone()).await.expect("opened");
        ledger.note(&batch(), &[invalid(), invalid(), invalid(), invalid()]).await;
        stop.cancelled().await;
        drop(ledger);
        let message = written.result().await.expect_err("full").to_string();
        assert!(message.starts_with("--ledger /dev/full can't be written"), "{message}");
    }
}
