//! Names of the headers on records of the invalid and the enriched topic.

/// Stable code of the rejection, for example `not_json`.
pub const REASON: &str = "millrace-reason";
/// JSON pointer of the offending place; empty for the whole record.
pub const POINTER: &str = "millrace-pointer";
/// What was found and what was expected, for people.
pub const MESSAGE: &str = "millrace-message";
/// Who set the record aside: [`ORIGIN_COLLECTOR`] or [`ORIGIN_WORKER`].
pub const ORIGIN: &str = "millrace-origin";
pub const ORIGIN_COLLECTOR: &str = "collector";
/// A quarantined record.
pub const ORIGIN_WORKER: &str = "worker";

/// Only on quarantined records: whose it is.
pub const PIPELINE: &str = "millrace-pipeline";
/// On quarantined and on enriched records: where the record came from.
pub const SOURCE_TOPIC: &str = "millrace-source-topic";
pub const SOURCE_PARTITION: &str = "millrace-source-partition";
pub const SOURCE_OFFSET: &str = "millrace-source-offset";
