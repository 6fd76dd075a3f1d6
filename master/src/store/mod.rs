//! Where the master keeps what it must not forget: keys with JSON values, changed by atomic commits.
//!
//! It knows nothing of slots or workers, and it never repairs: what can't be read is refused with the file's name.

mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use file::FileStore;
pub use file::StoreError;

/// Everything that is stored: JSON texts by key.
pub(crate) type Entries = BTreeMap<String, String>;

/// One key's new value; `None` removes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Change {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
}

fn change(entries: &mut Entries, changes: Vec<Change>) {
    for Change { key, value } in changes {
        match value {
            Some(value) => entries.insert(key, value),
            None => entries.remove(&key),
        };
    }
}

/// Where the state lies: the value of `--state`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StateLocation {
    /// Forgotten at the end of the process.
    Memory,
    File(PathBuf),
}

impl fmt::Display for StateLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::File(folder) => write!(f, "file:{}", folder.display()),
        }
    }
}

impl FromStr for StateLocation {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "memory" => Ok(Self::Memory),
            Some(("file", folder)) if !folder.is_empty() => {
                // `file:///folder` is meant as well as `file:folder`.
                Ok(Self::File(PathBuf::from(folder.strip_prefix("//").unwrap_or(folder))))
            }
            Some(("etcd", _)) => Err("etcd is not supported yet: use file:DIR".into()),
            _ => Err("expected memory or file:DIR".into()),
        }
    }
}

/// The store. A commit returns when its changes outlive the process (or, in memory, at once).
#[derive(Debug)]
pub(crate) struct Store(Kind);

#[derive(Debug)]
enum Kind {
    Memory {
        entries: Entries,
        #[cfg(test)]
        failures: Vec<Failure>,
    },
    /// Locked only on blocking threads, by one caller at a time.
    File(Arc<Mutex<FileStore>>),
}

/// What a test makes the next commit do.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failure {
    NotWritten,
    WrittenAndUnknown,
}

impl Store {
    /// Opens the store, alone: a second master on the same folder is refused.
    pub(crate) async fn open(location: &StateLocation) -> Result<Self, StoreError> {
        match location {
            StateLocation::Memory => Ok(Self(Kind::Memory {
                entries: Entries::new(),
                #[cfg(test)]
                failures: Vec::new(),
            })),
            StateLocation::File(folder) => {
                let folder = folder.clone();
                let file = blocking(move || FileStore::open(folder)).await?;
                Ok(Self(Kind::File(Arc::new(Mutex::new(file)))))
            }
        }
    }

    /// Everything stored. After a failed commit this tells whether the commit took place.
    pub(crate) async fn load(&mut self) -> Result<Entries, StoreError> {
        match &mut self.0 {
            Kind::Memory { entries, .. } => Ok(entries.clone()),
            Kind::File(file) => {
                let file = Arc::clone(file);
                blocking(move || file.lock().unwrap_or_else(PoisonError::into_inner).load()).await
            }
        }
    }

    /// Changes all keys or none. After an error the outcome is unknown until [`Store::load`] succeeds.
    pub(crate) async fn commit(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
        match &mut self.0 {
            #[cfg(not(test))]
            Kind::Memory { entries } => change(entries, changes),
            #[cfg(test)]
            Kind::Memory { entries, failures } => match failures.pop() {
                Some(Failure::NotWritten) => return Err(StoreError::for_test()),
                Some(Failure::WrittenAndUnknown) => {
                    change(entries, changes);
                    return Err(StoreError::for_test());
                }
                None => change(entries, changes),
            },
            Kind::File(file) => {
                let file = Arc::clone(file);
                return blocking(move || file.lock().unwrap_or_else(PoisonError::into_inner).commit(changes))
                    .await;
            }
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn fail_next(&mut self, failure: Failure) {
        match &mut self.0 {
            Kind::Memory { failures, .. } => failures.push(failure),
            Kind::File(_) => panic!("only the store in memory fails on demand"),
        }
    }
}

/// Runs blocking work off the runtime; a panic in it goes on in the caller.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(ended) => std::panic::resume_unwind(ended.into_panic()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locations_are_read_and_bad_ones_say_what_is_accepted() {
        assert_eq!("memory".parse(), Ok(StateLocation::Memory));
        assert_eq!("file:state".parse(), Ok(StateLocation::File("state".into())));
        assert_eq!("file:///var/x".parse(), Ok(StateLocation::File("/var/x".into())));
        for bad in ["", "file:", "disk", "memory:x"] {
            let message = bad.parse::<StateLocation>().expect_err("refused");
            assert!(message.contains("expected memory or file:DIR"), "{bad}: {message}");
        }
        assert!("etcd://host".parse::<StateLocation>().expect_err("refused").contains("use file:DIR"));
    }
}
