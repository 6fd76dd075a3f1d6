//! Keys of a lake file's footer metadata: with them a file tells where its rows came from. All values are
//! decimal numbers or plain ids.

/// The pipeline's id.
pub const PIPELINE: &str = "millrace.pipeline";
/// `<topic number>-<partition>` within the pipeline.
pub const SLOT: &str = "millrace.slot";
/// Epoch of the grant under which the file was written.
pub const EPOCH: &str = "millrace.epoch";
/// Number of the slot's flush that the file belongs to.
pub const SEQUENCE: &str = "millrace.sequence";
/// First source offset that the flush covers, by all its files together.
pub const FIRST_OFFSET: &str = "millrace.first_offset";
/// Next source offset after the flush: the lake cursor that was committed with it.
pub const NEXT_OFFSET: &str = "millrace.next_offset";
/// Version of Millrace that wrote the file.
pub const VERSION: &str = "millrace.version";
