//! Why a run could not be made, or not to its end.

use std::io;
use std::time::Duration;

/// A run without a verdict. What it found wrong is in the report, not here.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{what}: {source}")]
    Io {
        what: String,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    SetUp(String),
    #[error("not within {} s: {what}", .patience.as_secs())]
    Stuck { what: String, patience: Duration },
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
