//! What masters and workers say to each other: the generated messages, and checked conversions between them and
//! the plain types. Whatever comes off the wire is either exactly right or refused with the field's name.

mod convert;

pub use convert::{ConversionError, Grant, Heartbeat, Register, Revoke, SlotStopped};

/// The generated messages and services of `millrace.v1`.
#[allow(missing_debug_implementations, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("millrace.v1");
}
