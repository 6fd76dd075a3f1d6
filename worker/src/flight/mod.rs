//! Arrow Flight: committed files of the lakes and the latest rows of the slots, read only.
//!
//! A ticket names either a file below the day folders of a lake whose slots run here, or a slot that runs here;
//! nothing else can be reached, and every other verb of Flight is refused. Streams are few, bounded in time, and have
//! a task each, so that a client that stops reading holds nothing for long.

mod describe;
mod files;
mod latest;
mod metrics;
mod service;
mod stream;
#[cfg(test)]
mod tests;
mod ticket;

pub(crate) use metrics::Metrics;
pub(crate) use service::{Doors, serve};
