//! What masters and workers say to each other: the generated messages, and checked conversions between them and
//! the plain types. Whatever comes off the wire is either exactly right or refused with the field's name.

pub mod channel;
mod convert;

pub use convert::{ConversionError, Grant, Heartbeat, Register, Revoke, SlotStopped, slot_id};

/// The generated messages and services of `millrace.v1`.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("millrace.v1");
}

/// Metadata of a standby's refusal: `host:port` of the master that leads.
const LEADER: &str = "millrace-leader";

/// The refusal of a master that stands by, in `words`. `leader`: `host:port` of the one that leads, if that is known.
pub fn standby_status(words: String, leader: Option<&str>) -> tonic::Status {
    let mut status = tonic::Status::unavailable(words);
    if let Some(Ok(leader)) = leader.map(str::parse) {
        status.metadata_mut().insert(LEADER, leader);
    }
    status
}

/// Where a master that stands by says that the leader is.
pub fn leader_of(status: &tonic::Status) -> Option<String> {
    status.metadata().get(LEADER)?.to_str().ok().map(str::to_owned)
}
