//! Steps 6 and 7 of the protocol: stage the finished files and the manifest, commit, publish.

use bytes::Bytes;
use millrace_common::types::NextOffset;
use tracing::info;

use super::manifest::{Manifest, ManifestFile};
use super::publish::{exit_of, publish};
use super::record::CommittedRecord;
use super::roll::RollReason;
use super::{Exit, Open, Slot, staging};
use crate::compute::blocking;
use crate::kafka::InvalidRecord;
use crate::transform::{FinishedFile, final_key};

/// Everything that one flush makes durable.
pub(super) struct Flush {
    pub(super) reason: Option<RollReason>,
    /// The new lake cursor.
    pub(super) next: NextOffset,
    pub(super) files: Vec<FinishedFile>,
    pub(super) invalid: Vec<InvalidRecord>,
}

/// Runs the flush. Until its one transaction commits, nothing of it is visible to anybody.
pub(super) async fn run(slot: &Slot, open: Open, flush: Flush) -> Result<Open, Exit> {
    let Open { producer, record } = open;
    let sequence = record.sequence + 1;
    let range = record.lake_cursor..flush.next;
    let start = range.start;
    let mut files = Vec::with_capacity(flush.files.len());
    for (number, file) in flush.files.into_iter().enumerate() {
        let sha256 = hex::encode(file.sha256);
        let staged_key = staging::staged_key(&slot.id, "parquet");
        slot.persist("staging a file", || staging::put(&slot.lake, &staged_key, file.bytes.clone(), &sha256))
            .await?;
        files.push(ManifestFile {
            final_key: final_key(&file.day, &slot.id, start, number),
            staged_key,
            bytes: file.bytes.len() as u64,
            sha256,
            rows: file.rows,
            first_offset: file.first_offset,
            next_offset: file.next_offset,
        });
    }
    let manifest = Manifest::new(slot.id.clone(), slot.epoch, sequence, range, files);
    let (bytes, pointer) = manifest.encode(staging::staged_key(&slot.id, "json"));
    let bytes = Bytes::from(bytes);
    slot.persist("staging the manifest", || {
        staging::put(&slot.lake, &pointer.key, bytes.clone(), &pointer.sha256)
    })
    .await?;

    let previous = record.manifest;
    let record =
        CommittedRecord { epoch: slot.epoch, lake_cursor: flush.next, sequence, manifest: Some(pointer) };
    let quarantined = flush.invalid.len() as u64;
    let producer = {
        let (topic, partition) = (slot.topic.clone(), slot.id.partition);
        let (invalid_topic, invalid_partition) =
            (slot.definition.invalid_topic.clone(), slot.invalid_partition);
        let (offset, metadata) = (record.offset(), record.metadata());
        blocking(move || {
            let invalid = (!flush.invalid.is_empty()).then_some((
                invalid_topic.as_str(),
                invalid_partition,
                flush.invalid.as_slice(),
            ));
            producer.commit((&topic, partition), offset, &metadata, invalid).map(|()| producer)
        })
        .await
        .map_err(exit_of)?
    };
    let rows = manifest.files.iter().map(|file| file.rows).sum();
    slot.status.committed(record.lake_cursor, rows, quarantined);

    let producer = publish(slot, &manifest, &record, producer).await?;
    if let Some(previous) = previous {
        slot.persist("deleting the previous manifest", || staging::delete(&slot.lake, &previous.key)).await?;
    }
    if let Some(last) = manifest.files.last() {
        slot.status.update(|metrics| metrics.last_object = Some(last.final_key.clone()));
    }
    info!(
        slot = %slot.id, epoch = %slot.epoch, sequence, rows, quarantined, files = manifest.files.len(),
        cursor = %record.lake_cursor, reason = ?flush.reason, "flushed"
    );
    Ok(Open { producer, record })
}
