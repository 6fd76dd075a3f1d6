//! The click event: the check that collector and worker share, its canonical hash, its row in the lake, and
//! the way back from the row to what the client sent.
//!
//! What is promised: for every `json` that [`check`] accepts, the row's client columns and `extra` rebuild a
//! document with the same [`canonical_hash`]. Nothing here does IO, reads a clock, or panics on bad input.

mod canonical;
mod check;
mod columns;
pub mod day;
mod field;
pub mod footer;
mod members;
mod number;
mod rebuild;
mod rejection;
mod scan;
#[cfg(test)]
mod tests;
mod time;

pub use canonical::{canonical_hash, canonical_json};
pub use check::{Event, check};
pub use columns::{ClientColumns, ColumnValue, column, schema, time_type};
pub use field::{FIELDS, Field, FieldKind, IP, PAGE, REFERRER, USER_AGENT};
pub use members::{Member, members};
pub use rebuild::{ClientColumnReader, RebuildError, rebuild};
pub use rejection::{Rejection, RejectionCode};

/// The longest `package_id`, in bytes of UTF-8: it becomes the key of the record.
pub const LONGEST_PACKAGE_ID: usize = 256;
/// The member of an enriched event that holds what was found out about it; an event that has one is refused.
pub const RESERVED_MEMBER: &str = "millrace";
/// The most levels of objects and arrays, the event itself included.
pub const MAX_DEPTH: usize = 100;
