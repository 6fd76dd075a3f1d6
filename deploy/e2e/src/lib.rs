//! End-to-end tests: real processes on a real Kafka and a real S3 server, killed and frozen on the way.

mod browser;
mod certificates;
mod cluster;
mod demo;
mod etcd;
mod network;
mod parts;
mod receiver;
mod s3proxy;
mod topics;

pub use browser::Browser;
pub use certificates::{Authority, Certified};
pub use cluster::{Cluster, DEFAULT_LEASE};
pub use demo::{Demo, Hand, command_line, cursor, signal};
pub use etcd::Etcd;
pub use network::{Cut, Network, NetworkHost, in_own_network};
pub use parts::{BUCKET, Parts};
pub use receiver::{Receiver, Span};
pub use topics::{TopicRecord, make_topics, produce, read_committed};

use std::path::PathBuf;

/// The binary under test: built before the tests, beside them.
///
/// # Panics
/// When it is not there.
pub fn millrace() -> PathBuf {
    program("millrace")
}

/// The same with a transform that can't stand some records.
///
/// # Panics
/// When it is not there.
pub fn fragile() -> PathBuf {
    program("fragile")
}

fn program(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("the test's own path");
    tests.ancestors().map(|folder| folder.join(name)).find(|candidate| candidate.is_file()).unwrap_or_else(
        || {
            panic!(
                "no {name} beside {}: `cargo build --release -p millrace -p millrace-e2e --bins` makes it",
                tests.display()
            )
        },
    )
}
