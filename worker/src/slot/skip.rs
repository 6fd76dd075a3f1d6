//! How a slot opens without what is lost, once a person has said so. It decides where the sinks go on, and refuses an
//! offset that would double rows.

use std::fmt::Display;

use futures::TryStreamExt;
use millrace_common::event::footer;
use millrace_common::lake::Lake;
use millrace_common::lake_key::FileKey;
use millrace_common::record::{CommittedRecord, WindowBounds};
use millrace_common::types::{Halt, HaltKind, NextOffset, SkipLost, SlotId, StopReason};
use object_store::ObjectStore;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};
use tracing::warn;

use super::begin::Log;
use super::{Exit, Slot, staging};

/// The record of a slot whose record is lost or damaged, which is what `exit` says: both sinks begin where a person
/// wants it. Any other `exit` is given back, and so is this one without such a word.
pub(super) async fn begin_anew(slot: &Slot, exit: Exit, end: NextOffset) -> Result<CommittedRecord, Exit> {
    let Exit::Stop(StopReason::Halted(halt)) = exit else { return Err(exit) };
    if !matches!(halt.kind, HaltKind::RecordLost | HaltKind::RecordDamaged) {
        return Err(Exit::halt(halt.kind, halt.detail));
    }
    let lake_end = match &slot.lake {
        Some(lake) => {
            slot.persist("looking where the slot's files in the lake end", || lake_end(lake, &slot.id))
                .await?
        }
        None => LakeEnd::Nothing,
    };
    let from = match slot.skip_lost {
        Some(SkipLost { halt: seen, from: Some(from) }) if seen == halt.kind => from,
        _ => return Err(Exit::halt(halt.kind, format!("{}; {lake_end}", halt.detail))),
    };
    let sequence = match &lake_end {
        LakeEnd::Nothing => 0,
        LakeEnd::File { sequence, next_offset, .. } if *next_offset <= from => *sequence,
        LakeEnd::File { .. } | LakeEnd::Unreadable { .. } => {
            return Err(refused(&halt, from, &format!("{lake_end}: beginning there could double rows")));
        }
    };
    if from > end || from < NextOffset(0) {
        return Err(refused(&halt, from, &format!("the source ends at {end}")));
    }
    warn!(slot = %slot.id, epoch = %slot.epoch, halt = %halt.kind, %from, "a person lets both sinks begin anew");
    let first = CommittedRecord::first(slot.epoch, from, slot.definition.duplicate_window, String::new());
    Ok(CommittedRecord { sequence, ..first })
}

fn refused(halt: &Halt, from: NextOffset, why: &str) -> Exit {
    Exit::halt(halt.kind, format!("{}; --from {from} was refused: {why}", halt.detail))
}

/// The record of a slot that goes on without the offsets which the source no longer holds. Its last manifest must be
/// published: the new record may not name it.
pub(super) fn beyond_lost(record: CommittedRecord, log: Log) -> CommittedRecord {
    let lake_cursor = record.lake_cursor.max(log.first);
    let topic_cursor = record.topic_cursor.max(lake_cursor);
    let mut rejected = record.rejected;
    rejected.forget_below(lake_cursor);
    let floor = record.window.floor.max(log.first.min(lake_cursor));
    CommittedRecord {
        lake_cursor,
        topic_cursor,
        manifest: record.manifest.filter(|_| lake_cursor == record.lake_cursor),
        window: WindowBounds { floor, ..record.window },
        rejected,
        ..record
    }
}

/// Where a slot's files in the lake end.
#[derive(Debug, PartialEq, Eq)]
enum LakeEnd {
    Nothing,
    File { key: String, sequence: u64, next_offset: NextOffset },
    Unreadable { key: String, reason: String },
}

impl Display for LakeEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Nothing => f.write_str("the lake holds no file of the slot"),
            Self::File { key, next_offset, .. } => {
                write!(
                    f,
                    "the lake holds the slot's rows up to offset {next_offset} (not included), by {key}"
                )
            }
            Self::Unreadable { key, reason } => {
                write!(f, "the slot's last file in the lake, {key}, can't be read: {reason}")
            }
        }
    }
}

/// Reads it from the last file's own footer: the lake is asked, for nothing else is known.
async fn lake_end(lake: &Lake, slot: &SlotId) -> object_store::Result<LakeEnd> {
    let numbers = (u64::from(slot.topic), u64::try_from(slot.partition).unwrap_or_default());
    let skip = if lake.prefix.as_ref().is_empty() { 0 } else { lake.prefix.as_ref().len() + 1 };
    let last = lake
        .store
        .list(Some(&lake.prefix))
        .try_fold(None, |last: Option<FileKey>, object| async move {
            let found = object.location.as_ref().get(skip..).and_then(FileKey::parse);
            let found = found.filter(|key| *key.pipeline() == slot.pipeline && key.slot() == numbers);
            Ok(last.into_iter().chain(found).max_by_key(FileKey::start_offset))
        })
        .await?;
    let Some(last) = last else { return Ok(LakeEnd::Nothing) };
    let key = last.as_str().to_owned();
    let Some(bytes) = staging::get(lake, &key).await? else {
        return Ok(LakeEnd::Unreadable { key, reason: "it is gone".to_owned() });
    };
    let metadata = match ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new()) {
        Ok(metadata) => metadata,
        Err(error) => return Ok(LakeEnd::Unreadable { key, reason: error.to_string() }),
    };
    let value = |name: &str| {
        let pairs = metadata.metadata().file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == name)?.value.clone()
    };
    let sequence = value(footer::SEQUENCE).and_then(|text| text.parse().ok());
    let next_offset = value(footer::NEXT_OFFSET).and_then(|text| text.parse().ok()).map(NextOffset);
    Ok(match sequence.zip(next_offset) {
        Some((sequence, next_offset)) => LakeEnd::File { key, sequence, next_offset },
        None => LakeEnd::Unreadable { key, reason: "its footer does not tell its offsets".to_owned() },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_common::record::{ManifestPointer, OffsetRanges};
    use millrace_common::types::Epoch;

    fn record(lake: i64, topic: i64) -> CommittedRecord {
        let mut rejected = OffsetRanges::default();
        (lake + 1..topic).step_by(2).for_each(|offset| rejected.push(offset));
        let first = CommittedRecord::first(Epoch(1), NextOffset(0), 100, "aa".into());
        let manifest = Some(ManifestPointer { key: "k".into(), sha256: "0".repeat(64) });
        CommittedRecord {
            lake_cursor: NextOffset(lake),
            topic_cursor: NextOffset(topic),
            manifest,
            rejected,
            ..first
        }
    }

    fn log(first: i64) -> Log {
        Log { first: NextOffset(first) }
    }

    #[test]
    fn what_the_source_still_holds_is_not_skipped() {
        let record = record(40, 50);
        let next = beyond_lost(record.clone(), log(30));
        assert_eq!(
            next,
            CommittedRecord { window: WindowBounds { size: 100, floor: NextOffset(30) }, ..record }
        );
    }

    #[test]
    fn each_sink_skips_only_what_it_lacks() {
        let between = beyond_lost(record(40, 50), log(45));
        assert_eq!((between.lake_cursor, between.topic_cursor), (NextOffset(45), NextOffset(50)));
        assert_eq!((between.rejected.count(), between.manifest), (3, None), "45, 47 and 49 stay rejected");
        assert_eq!(between.window.floor, NextOffset(45));
        let both = beyond_lost(record(40, 50), log(60));
        assert_eq!((both.lake_cursor, both.topic_cursor), (NextOffset(60), NextOffset(60)));
        assert!(both.is_level() && both.rejected.is_empty());
    }
}
