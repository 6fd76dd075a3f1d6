//! End-to-end tests: real processes on a real Kafka and a real S3 server, killed and frozen on the way.

mod demo;
mod parts;
mod receiver;
mod s3proxy;

pub use demo::{Demo, Hand, command_line, cursor, signal};
pub use parts::{BUCKET, Parts};
pub use receiver::{Receiver, Span};

use std::path::PathBuf;

/// The binary under test: built before the tests, beside them.
///
/// # Panics
/// When it is not there.
pub fn millrace() -> PathBuf {
    let tests = std::env::current_exe().expect("the test's own path");
    tests
        .ancestors()
        .map(|folder| folder.join("millrace"))
        .find(|candidate| candidate.is_file())
        .unwrap_or_else(|| {
            panic!("no millrace beside {}: `cargo build --release -p millrace` makes it", tests.display())
        })
}
