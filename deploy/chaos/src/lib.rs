//! Faults on a real cluster, and the proof that it delivered exactly once all the same.
//!
//! Start reading at `run`. `cluster` is what runs, `inject` what is done to it, `watch` what is seen of it from outside,
//! `check` who judges at the end. Nothing here is trusted that Millrace counts itself.

mod api;
mod check;
mod cluster;
mod config;
mod cursors;
mod error;
mod fault;
mod inject;
mod recovery;
mod report;
mod run;
mod schedule;
mod timeline;
mod watch;

pub use config::Config;
pub use error::Error;
pub use fault::{Fault, Mix};
pub use recovery::{Figures, Spans};
pub use report::{Incident, Report, Summary};
pub use run::run;
pub use schedule::{Planned, schedule};
