//! Proxies that stand between a client and a server and do to them what networks and servers do: for tests and for the
//! chaos run. They count what they did, so that a fault that did not happen can be told.
//!
//! [`Proxy`] carries bytes, and knows Kafka's requests where it is told to. It changes no byte of what it passes on.

mod connection;
mod frames;
mod owner;
mod proxy;
mod trouble;

pub use frames::Wire;
pub use proxy::Proxy;
pub use trouble::{Active, Answers, Trouble, Way, Whom};
