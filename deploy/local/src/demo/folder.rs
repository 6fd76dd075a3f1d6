//! The demo's data folder: known as the demo's own by a mark, used by one demo at a time, and never emptied when it is
//! anybody else's.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

const MARK: &str = ".millrace-demo";

/// What the data in a folder was made with: another Kafka or lake has other data.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Origin {
    pub(crate) kafka: String,
    pub(crate) s3_endpoint: Option<String>,
    pub(crate) lake: String,
}

/// A data folder that this demo holds.
#[derive(Debug)]
pub(crate) struct Folder {
    path: PathBuf,
    /// Locked as long as this demo holds the folder.
    mark: File,
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A child that is just being started still has the handle, and with it the lock: closing ours would not
        // be enough.
        if let Err(error) = self.mark.unlock() {
            tracing::warn!(folder = %self.path.display(), %error, "the data folder can't be unlocked");
        }
    }
}

/// A data folder that can't be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FolderError {
    #[error("--data-dir {} can't be used: {source}", path.display())]
    Io {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("--data-dir {} holds files of others: expected a new or empty folder, or one that a demo made", path.display())]
    Foreign { path: PathBuf },
    #[error("--data-dir {} is in use by another demo: stop that one, or give this one a folder of its own", path.display())]
    Locked { path: PathBuf },
    #[error("--data-dir {} holds the data of {was}, and this demo would use {is}: give it the same flags, another folder, or --fresh", path.display())]
    Other { path: PathBuf, was: String, is: String },
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Kafka at {} and lake {}", self.kafka, self.lake)?;
        match &self.s3_endpoint {
            Some(endpoint) => write!(f, " at {endpoint}"),
            None => Ok(()),
        }
    }
}

impl Folder {
    /// Takes the folder at `path` for data of `origin`, emptied first if it is to be `fresh`.
    pub(crate) fn take(path: &Path, origin: &Origin, fresh: bool) -> Result<Self, FolderError> {
        let failed = |source| FolderError::Io { path: path.to_owned(), source };
        fs::create_dir_all(path).map_err(failed)?;
        let path = path.canonicalize().map_err(failed)?;
        let failed = |source| FolderError::Io { path: path.clone(), source };
        let mark = path.join(MARK);
        if !mark.exists() && fs::read_dir(&path).map_err(failed)?.next().is_some() {
            return Err(FolderError::Foreign { path });
        }
        let mut file = File::options()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(&mark)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(FolderError::Locked { path }),
            Err(TryLockError::Error(error)) => return Err(failed(error)),
        }
        if fresh {
            empty(&path).map_err(failed)?;
        } else {
            let mut text = String::new();
            file.read_to_string(&mut text).map_err(failed)?;
            // An empty mark: a demo that was stopped before it wrote anything.
            match serde_json::from_str::<Origin>(&text) {
                Ok(was) if was != *origin => {
                    return Err(FolderError::Other { path, was: was.to_string(), is: origin.to_string() });
                }
                Err(error) if !text.is_empty() => return Err(failed(error.into())),
                Ok(_) | Err(_) => {}
            }
        }
        let json = serde_json::to_string(origin).map_err(|error| failed(error.into()))?;
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(json.as_bytes()))
            .map_err(failed)?;
        Ok(Self { path, mark: file })
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.path.join("logs").join(format!("{name}.log"))
    }
}

fn empty(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name() == MARK {
            continue;
        }
        if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn origin(kafka: &str) -> Origin {
        Origin { kafka: kafka.to_owned(), s3_endpoint: None, lake: "file:///lake".to_owned() }
    }

    #[test]
    fn a_folder_of_others_is_never_emptied() {
        let folder = tempfile::tempdir().expect("folder");
        let precious = folder.path().join("precious");
        fs::write(&precious, "").expect("write");
        let refused = Folder::take(folder.path(), &origin("a:1"), true);
        assert!(matches!(refused, Err(FolderError::Foreign { .. })), "{refused:?}");
        assert!(precious.exists());
    }

    #[test]
    fn one_demo_at_a_time_and_fresh_removes_what_earlier_ones_left() {
        let parent = tempfile::tempdir().expect("folder");
        let path = parent.path().join("data");
        let first = Folder::take(&path, &origin("a:1"), false).expect("taken");
        fs::create_dir_all(first.join("kafka/data")).expect("made");
        assert!(matches!(Folder::take(&path, &origin("a:1"), true), Err(FolderError::Locked { .. })));
        drop(first);
        let other = Folder::take(&path, &origin("b:1"), false).expect_err("other Kafka").to_string();
        assert!(other.contains("Kafka at a:1") && other.contains("--fresh"), "{other}");
        let again = Folder::take(&path, &origin("a:1"), false).expect("the same flags");
        assert!(again.join("kafka").exists());
        drop(again);
        let fresh = Folder::take(&path, &origin("b:1"), true).expect("fresh");
        assert!(!fresh.join("kafka").exists());
    }
}
