//! Proxies that stand between a client and a server and do to them what networks and servers do: for tests and for the
//! chaos run. They count what they did, so that a fault that did not happen can be told.
//!
//! [`Proxy`] carries bytes, and knows Kafka's requests where it is told to. It changes no byte of what it passes on.
//! [`S3Proxy`] knows HTTP, and answers as an S3 server does at its worst.

mod connection;
mod frames;
mod owner;
mod proxy;
mod s3;
mod trouble;

pub use frames::Wire;
pub use proxy::Proxy;
pub use s3::{ActiveS3, S3Proxy, S3Trouble};
pub use trouble::{Active, Answers, Trouble, Way, Whom};
