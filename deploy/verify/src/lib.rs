//! `millrace verify`: accounts for every offset of a pipeline's raw topics.
//!
//! It believes none of the pipeline's counters and manifests: it lists the lake, reads footers and rows, reads
//! the topics as a `read_committed` reader does, and compares. It writes nothing anywhere.

pub mod account;
mod chain;
mod columns;
mod config;
mod enriched;
mod error;
pub mod finding;
mod judge;
mod kafka;
mod lake;
mod ledger;
mod pipeline;
mod pool;
mod progress;
mod quarantine;
mod report;
mod slot;
mod value;
mod verify;

pub use config::Config;
pub use error::Error;
pub use ledger::{LedgerFault, LedgerReport};
pub use progress::Progress;
pub use report::{PartitionAccount, Report};
pub use verify::{check, run};
