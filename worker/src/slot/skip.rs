//! How a slot opens without what is lost, once a person has said so. It decides where the sinks go on, and refuses an
//! offset that would double rows.

use millrace_common::record::{CommittedRecord, WindowBounds};
use millrace_common::telemetry::CommitSpans;
use millrace_common::types::{Halt, HaltKind, NextOffset, SkipLost, StopReason};
use tracing::warn;

use super::begin::Log;
use super::lake_end::LakeEnd;
use super::publish::publish;
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
            slot.persist("looking where the slot's rows in the lake end", || LakeEnd::of(lake, &slot.id))
                .await?
        }
        None => LakeEnd::default(),
    };
    let from = match slot.skip_lost {
        Some(SkipLost { halt: seen, from: Some(from) }) if seen == halt.kind => from,
        _ => return Err(Exit::halt(halt.kind, format!("{}; {lake_end}", halt.detail))),
    };
    if let Some(trouble) = &lake_end.trouble {
        return Err(refused(&halt, from, trouble));
    }
    if lake_end.next_offset() > from {
        return Err(refused(&halt, from, &format!("{lake_end}: beginning there would double rows")));
    }
    if from > end || from < NextOffset(0) {
        return Err(refused(&halt, from, &format!("the source ends at {end}")));
    }
    // An owner that is slow may be publishing them at this moment. What else is staged was never committed.
    if let Some(lake) = &slot.lake {
        for manifest in &lake_end.unfinished {
            if let Some(missing) = publish(slot, lake, manifest, &CommitSpans::default()).await? {
                let why = format!(
                    "{missing}; to go on without these rows, remove the manifest of flush {} from \
                    {}",
                    manifest.sequence,
                    staging::staging_prefix(&slot.id)
                );
                return Err(refused(&halt, from, &why));
            }
        }
    }
    warn!(slot = %slot.id, epoch = %slot.epoch, halt = %halt.kind, %from, "a person lets both sinks begin anew");
    let first = CommittedRecord::first(slot.epoch, from, slot.definition.duplicate_window, String::new());
    Ok(CommittedRecord { sequence: lake_end.sequence(), ..first })
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
