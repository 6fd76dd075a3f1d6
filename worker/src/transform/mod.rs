//! From raw records to finished Parquet files: parse, enrich, lay out by day. CPU only: it runs on the compute
//! pool, and refuses all IO, clocks and channels. The same records always give the same rows.

mod buffer;
mod day_file;
mod page;
mod rows;
#[cfg(test)]
mod tests;
mod user_agent;

pub use buffer::{FinishError, FinishedFile, LakeBuffer, MAX_OPEN_DAYS, Provenance, SourceRecord};
pub use millrace_common::event::day::{Day, final_key};
