//! The store in a folder: a log of commits, each on a line with its checksum, replaced as a whole when it has grown.
//!
//! A line that a crash left half written was never acknowledged and is dropped; a damaged line with others behind it
//! is refused. A lock on the folder keeps a second master out.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};
use tracing::{info, warn};

use super::{Change, Entries, change};

const LOG: &str = "state.log";
const TEMPORARY: &str = "state.log.new";
const LOCK: &str = "lock";
const MAGIC: &str = "millrace-state";
/// Raised when an older master could not read what this one writes.
const VERSION: u32 = 1;
/// A log is replaced by what it amounts to when it is longer than this and mostly outdated.
const LONG_LOG: u64 = 1 << 20;

/// The state can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error(
        "the state folder {} is in use by {holder}: two masters can't share it; stop the other or give this one \
         another --state",
        folder.display()
    )]
    Locked { folder: PathBuf, holder: String },
    #[error("{} can't be {action}: {source}", path.display())]
    Io {
        path: PathBuf,
        action: &'static str,
        #[source]
        source: io::Error,
    },
    #[error(
        "{} is damaged at line {line} ({reason}): restore the file from a copy, or move the folder away and start \
         with a new --state and an empty --lake",
        path.display()
    )]
    Damaged { path: PathBuf, line: usize, reason: String },
    #[error(
        "{} has format {found}, this master knows up to {VERSION}: start the newer millrace that wrote it",
        path.display()
    )]
    Newer { path: PathBuf, found: u32 },
    #[error("{} is in doubt after a failed write and must be read anew", path.display())]
    Doubt { path: PathBuf },
}

impl FileError {
    #[cfg(test)]
    pub(super) fn for_test() -> Self {
        Self::Doubt { path: "test".into() }
    }
}

#[derive(Debug)]
pub(super) struct FileStore {
    folder: PathBuf,
    /// Holds the lock for as long as it is open.
    _lock: File,
    open: Option<Log>,
}

/// A log that is known to hold exactly `entries`.
#[derive(Debug)]
struct Log {
    file: File,
    bytes: u64,
    entries: Entries,
    live_bytes: u64,
}

impl FileStore {
    pub(super) fn open(folder: PathBuf) -> Result<Self, FileError> {
        fs::create_dir_all(&folder).map_err(failed(&folder, "made"))?;
        let lock = take_lock(&folder)?;
        let mut store = Self { folder, _lock: lock, open: None };
        store.load()?;
        Ok(store)
    }

    /// Reads the log as it lies on the disk and makes that durable, so that what is returned stays true.
    pub(super) fn load(&mut self) -> Result<Entries, FileError> {
        self.open = None;
        let path = self.folder.join(LOG);
        let text = match File::open(&path) {
            Ok(mut file) => {
                let mut text = Vec::new();
                file.read_to_end(&mut text).map_err(failed(&path, "read"))?;
                Some(text)
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed(&path, "read")(error)),
        };
        let entries = text.map_or(Ok(Entries::new()), |text| read(&path, &text))?;
        let log = replace(&self.folder, entries)?;
        let entries = log.entries.clone();
        self.open = Some(log);
        Ok(entries)
    }

    pub(super) fn commit(&mut self, changes: Vec<Change>) -> Result<(), FileError> {
        let path = self.folder.join(LOG);
        // Taken out, so that an error on the way leaves the log in doubt.
        let mut log = self.open.take().ok_or_else(|| FileError::Doubt { path: path.clone() })?;
        let line = line(&changes);
        log.file
            .write_all(line.as_bytes())
            .and_then(|()| log.file.sync_data())
            .map_err(failed(&path, "written"))?;
        log.bytes += line.len() as u64;
        change(&mut log.entries, changes);
        if log.bytes > LONG_LOG && log.bytes > 4 * log.live_bytes {
            log = replace(&self.folder, log.entries)?;
            info!(file = %path.display(), bytes = log.bytes, "state log shortened");
        }
        self.open = Some(log);
        Ok(())
    }
}

fn take_lock(folder: &Path) -> Result<File, FileError> {
    let path = folder.join(LOCK);
    let mut lock = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(failed(&path, "opened"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut pid = String::new();
            let holder = match lock.read_to_string(&mut pid) {
                Ok(_) if !pid.trim().is_empty() => format!("process {}", pid.trim()),
                _ => "another process".to_owned(),
            };
            return Err(FileError::Locked { folder: folder.to_owned(), holder });
        }
        Err(TryLockError::Error(error)) => return Err(failed(&path, "locked")(error)),
    }
    lock.set_len(0)
        .and_then(|()| writeln!(lock, "{}", std::process::id()))
        .map_err(failed(&path, "written"))?;
    Ok(lock)
}

/// Replaces the log by one commit that amounts to `entries`: written aside, synced, then renamed.
fn replace(folder: &Path, entries: Entries) -> Result<Log, FileError> {
    let (path, temporary) = (folder.join(LOG), folder.join(TEMPORARY));
    let changes: Vec<Change> =
        entries.iter().map(|(key, value)| Change { key: key.clone(), value: Some(value.clone()) }).collect();
    let mut text = format!("{MAGIC} {VERSION}\n");
    if !changes.is_empty() {
        text.push_str(&line(&changes));
    }
    let mut file = File::create(&temporary).map_err(failed(&temporary, "made"))?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(failed(&temporary, "written"))?;
    fs::rename(&temporary, &path).map_err(failed(&path, "replaced"))?;
    // Without this the rename itself could be forgotten.
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed(folder, "synced"))?;
    let bytes = text.len() as u64;
    Ok(Log { file, bytes, entries, live_bytes: bytes })
}

fn failed(path: &Path, action: &'static str) -> impl Fn(io::Error) -> FileError {
    let path = path.to_owned();
    move |source| FileError::Io { path: path.clone(), action, source }
}

/// `<first 16 hex digits of the SHA-256> <JSON>\n`; JSON text has no line breaks of its own.
fn line(changes: &[Change]) -> String {
    // Plain texts always have a JSON form.
    let json = serde_json::to_string(changes).unwrap_or_else(|error| panic!("plain texts: {error}"));
    format!("{} {json}\n", checksum(&json))
}

fn checksum(json: &str) -> String {
    hex::encode(&Sha256::digest(json.as_bytes())[..8])
}

fn read(path: &Path, bytes: &[u8]) -> Result<Entries, FileError> {
    let damaged =
        |line, reason: &str| FileError::Damaged { path: path.to_owned(), line, reason: reason.into() };
    let mut lines = bytes.split_inclusive(|byte| *byte == b'\n').enumerate().peekable();
    let header = lines.next().and_then(|(_, line)| std::str::from_utf8(line).ok()).unwrap_or_default();
    let version: u32 = header
        .strip_suffix('\n')
        .and_then(|header| header.strip_prefix(MAGIC)?.strip_prefix(' ')?.parse().ok())
        .ok_or_else(|| damaged(1, "this is no state log of millrace"))?;
    if version > VERSION {
        return Err(FileError::Newer { path: path.to_owned(), found: version });
    }
    let mut entries = Entries::new();
    while let Some((index, line)) = lines.next() {
        match read_line(line) {
            Ok(changes) => change(&mut entries, changes),
            // The commit was never acknowledged: nobody acted on it.
            Err(reason) if lines.peek().is_none() => {
                warn!(file = %path.display(), line = index + 1, reason, "last commit half written, dropping it");
            }
            Err(reason) => return Err(damaged(index + 1, reason)),
        }
    }
    Ok(entries)
}

fn read_line(line: &[u8]) -> Result<Vec<Change>, &'static str> {
    let text = std::str::from_utf8(line).map_err(|_| "it is not UTF-8")?;
    let text = text.strip_suffix('\n').ok_or("it has no end")?;
    let (sum, json) = text.split_once(' ').ok_or("it has no checksum")?;
    if checksum(json) != sum {
        return Err("its checksum is wrong");
    }
    serde_json::from_str(json).map_err(|_| "it is no list of changes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: &str, value: &str) -> Vec<Change> {
        vec![Change { key: key.into(), value: Some(value.into()) }]
    }

    fn folder_with_two_commits() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("folder");
        let mut store = FileStore::open(folder.path().into()).expect("store");
        store.commit(put("a", "1")).expect("commit");
        store.commit(put("b", "2")).expect("commit");
        let log = folder.path().join(LOG);
        (folder, log)
    }

    #[test]
    fn what_was_committed_is_there_after_a_restart() {
        let (folder, _) = folder_with_two_commits();
        let mut store = FileStore::open(folder.path().into()).expect("store");
        store.commit(vec![Change { key: "a".into(), value: None }]).expect("commit");
        drop(store);
        let entries = FileStore::open(folder.path().into()).expect("store").load().expect("entries");
        assert_eq!(entries, Entries::from([("b".into(), "2".into())]));
    }

    #[test]
    fn a_half_written_last_commit_is_dropped_whole() {
        let (folder, log) = folder_with_two_commits();
        let whole = fs::read(&log).expect("log");
        let last = whole.iter().rposition(|byte| *byte == b'[').expect("json");
        for cut in last..whole.len() {
            fs::write(&log, &whole[..cut]).expect("torn");
            let entries = FileStore::open(folder.path().into()).expect("store").load().expect("entries");
            assert_eq!(entries, Entries::from([("a".into(), "1".into())]), "cut at {cut}");
        }
    }

    #[test]
    fn a_damaged_commit_with_others_behind_it_is_refused_by_name() {
        let (folder, log) = folder_with_two_commits();
        let text = fs::read_to_string(&log).expect("log").replacen("\"a\"", "\"x\"", 1);
        fs::write(&log, text).expect("damage");
        let message = FileStore::open(folder.path().into()).expect_err("refused").to_string();
        assert!(message.contains("state.log is damaged at line 2"), "{message}");
        assert!(message.contains("restore the file"), "{message}");
    }

    #[test]
    fn something_else_and_a_newer_format_are_refused() {
        let (folder, log) = folder_with_two_commits();
        fs::write(&log, "hello\n").expect("write");
        assert!(matches!(FileStore::open(folder.path().into()), Err(FileError::Damaged { line: 1, .. })));
        fs::write(&log, "").expect("write");
        assert!(matches!(FileStore::open(folder.path().into()), Err(FileError::Damaged { line: 1, .. })));
        fs::write(&log, "millrace-state 2\n").expect("write");
        assert!(matches!(FileStore::open(folder.path().into()), Err(FileError::Newer { found: 2, .. })));
    }

    #[test]
    fn a_second_master_is_kept_out_and_told_who_holds_the_folder() {
        let folder = tempfile::tempdir().expect("folder");
        let first = FileStore::open(folder.path().into()).expect("store");
        let message = FileStore::open(folder.path().into()).expect_err("locked").to_string();
        assert!(message.contains(&format!("process {}", std::process::id())), "{message}");
        drop(first);
        FileStore::open(folder.path().into()).expect("free again");
    }

    #[test]
    fn a_long_log_is_shortened_and_says_the_same() {
        let folder = tempfile::tempdir().expect("folder");
        let mut store = FileStore::open(folder.path().into()).expect("store");
        let value = "x".repeat(100_000);
        for commit in 0..30 {
            store.commit(put("key", &format!("{value}{commit}"))).expect("commit");
        }
        let bytes = fs::metadata(folder.path().join(LOG)).expect("log").len();
        assert!(bytes < 2 * LONG_LOG, "{bytes}");
        assert_eq!(store.load().expect("entries")["key"], format!("{value}29"));
    }
}
