//! End-to-end tests: real processes on a real Kafka and a real S3 server, killed and frozen on the way.

mod parts;

pub use parts::{BUCKET, Parts};
