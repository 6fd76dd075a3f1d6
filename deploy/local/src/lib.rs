//! A cluster on one machine: the real parts (Apache Kafka, an S3 server, etcd) as child processes, and the demo that runs
//! the whole job on them. The end-to-end tests start, kill and restart the same parts.
//!
//! Children die with the process that started them, also when it is killed.

pub mod demo;
pub mod etcd;
pub mod kafka;
pub mod ports;
pub mod s3;

mod get;
mod host;
mod part;
mod probe;
mod process;
mod spawn;

pub use get::{fake_clock, lake_reader};
pub use host::Host;
pub use part::{Part, PartError};
pub use ports::{PortBlock, PortUse};
pub use probe::Probe;
pub use process::{Exit, Process, Program};
