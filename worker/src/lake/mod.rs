//! From a transform's rows to finished Parquet files, laid out by day. CPU only: it runs on the compute pool, and
//! refuses all IO, clocks and channels. The same rows always give the same files.

mod buffer;
mod day_file;
mod format;
mod recent;
#[cfg(test)]
mod tests;

pub use buffer::{FinishError, FinishedFile, LakeBuffer, MAX_OPEN_DAYS, Provenance};
pub use format::LakeFormat;
pub use millrace_common::event::day::{Day, final_key};
