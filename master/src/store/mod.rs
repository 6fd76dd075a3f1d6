//! Where the master keeps what it must not forget: keys with JSON values, changed by atomic commits.
//!
//! It knows nothing of slots or workers, and it never repairs: what can't be read is refused with the file's name.

#[cfg(test)]
mod contract;
mod etcd;
mod file;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

use millrace_common::shutdown::Shutdown;
use tokio_util::sync::CancellationToken;

use etcd::EtcdStore;
pub(crate) use etcd::Membership;
#[cfg(test)]
pub(crate) use etcd::testing as etcd_testing;
pub use etcd::{EtcdError, EtcdFlags, EtcdLocation, Leader};
pub use file::FileError;
use file::FileStore;

/// The state can't be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error(transparent)]
    Etcd(#[from] EtcdError),
}

impl StoreError {
    /// Whether waiting alone may change it: a folder that can't be read now is not waited for at the start.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::File(_) => false,
            Self::Etcd(error) => error.is_passing(),
        }
    }
}

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
    /// For several masters.
    Etcd(EtcdLocation),
}

impl fmt::Display for StateLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Memory => f.write_str("memory"),
            Self::File(folder) => write!(f, "file:{}", folder.display()),
            Self::Etcd(location) => location.fmt(f),
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
            Some(("etcd", rest)) if rest.starts_with("//") => EtcdLocation::parse(&rest[2..]).map(Self::Etcd),
            _ => Err("expected memory, file:DIR or etcd://HOST:PORT,HOST:PORT,…[/PREFIX]".into()),
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
    Etcd(Box<EtcdStore>),
}

/// What a test makes the next commit do.
#[cfg(test)]
#[derive(Debug, Clone, Copy)]
pub(crate) enum Failure {
    NotWritten,
    WrittenAndUnknown,
}

impl Store {
    /// Forgotten at the end of the process.
    pub(crate) fn memory() -> Self {
        Self(Kind::Memory {
            entries: Entries::new(),
            #[cfg(test)]
            failures: Vec::new(),
        })
    }

    /// Opens the folder, alone: a second master on it is refused.
    pub(crate) async fn file(folder: PathBuf) -> Result<Self, StoreError> {
        let file = blocking(move || FileStore::open(folder)).await?;
        Ok(Self(Kind::File(Arc::new(Mutex::new(file)))))
    }

    /// Asks nothing of etcd yet: see [`Store::load`].
    pub(crate) fn etcd(
        location: EtcdLocation,
        flags: EtcdFlags,
        membership: Membership,
        shutdown: Shutdown,
    ) -> Self {
        Self(Kind::Etcd(Box::new(EtcdStore::new(location, flags, membership, shutdown))))
    }

    /// Cancelled when this master may not write any more; never, if nobody else can.
    pub(crate) fn lost(&self) -> CancellationToken {
        match &self.0 {
            Kind::Etcd(etcd) => etcd.lost().unwrap_or_default(),
            Kind::Memory { .. } | Kind::File(_) => CancellationToken::new(),
        }
    }

    /// Lets another master lead at once.
    pub(crate) async fn resign(&mut self) {
        if let Kind::Etcd(etcd) = &mut self.0 {
            etcd.resign().await;
        }
    }

    /// Everything stored. After a failed commit this tells whether the commit took place. In etcd it takes the
    /// leadership first, or says who has it.
    pub(crate) async fn load(&mut self) -> Result<Entries, StoreError> {
        match &mut self.0 {
            Kind::Memory { entries, .. } => Ok(entries.clone()),
            Kind::File(file) => {
                let file = Arc::clone(file);
                let load = move || file.lock().unwrap_or_else(PoisonError::into_inner).load();
                Ok(blocking(load).await?)
            }
            Kind::Etcd(etcd) => Ok(etcd.load().await?),
        }
    }

    /// Changes all keys or none. After an error the outcome is unknown until [`Store::load`] succeeds.
    pub(crate) async fn commit(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
        match &mut self.0 {
            #[cfg(not(test))]
            Kind::Memory { entries } => change(entries, changes),
            #[cfg(test)]
            Kind::Memory { entries, failures } => match failures.pop() {
                Some(Failure::NotWritten) => return Err(FileError::for_test().into()),
                Some(Failure::WrittenAndUnknown) => {
                    change(entries, changes);
                    return Err(FileError::for_test().into());
                }
                None => change(entries, changes),
            },
            Kind::File(file) => {
                let file = Arc::clone(file);
                let commit = move || file.lock().unwrap_or_else(PoisonError::into_inner).commit(changes);
                blocking(commit).await?;
            }
            Kind::Etcd(etcd) => etcd.commit(changes).await?,
        }
        Ok(())
    }

    #[cfg(test)]
    pub(crate) fn fail_next(&mut self, failure: Failure) {
        match &mut self.0 {
            Kind::Memory { failures, .. } => failures.push(failure),
            Kind::File(_) | Kind::Etcd(_) => panic!("only the store in memory fails on demand"),
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
            assert!(message.contains("expected memory, file:DIR or etcd://"), "{bad}: {message}");
        }
        let etcd = "etcd://one,two:23790,[::1]:2379/a/b/".parse::<StateLocation>().expect("etcd");
        assert_eq!(etcd.to_string(), "etcd://one:2379,two:23790,[::1]:2379/a/b");
        assert_eq!(
            "etcd://one".parse::<StateLocation>().expect("etcd").to_string(),
            "etcd://one:2379/millrace"
        );
        for bad in ["etcd://", "etcd:one", "etcd://one,,two", "etcd://one/a b"] {
            assert!(bad.parse::<StateLocation>().is_err(), "{bad}");
        }
    }
}
