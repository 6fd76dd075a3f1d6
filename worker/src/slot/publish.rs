//! Step 7 of the protocol: the committed manifest's staged objects become files of the lake.
//!
//! Safe to repeat and safe to race: a final key only ever gets the bytes that the manifest names. Nothing else
//! writes or deletes below the day folders.

use millrace_common::types::{HaltKind, StopReason};
use tracing::debug;

use super::manifest::{Manifest, ManifestFile};
use super::record::CommittedRecord;
use super::staging::{self, Found};
use super::{Exit, Slot};
use crate::compute::blocking;
use crate::kafka::{SlotProducer, TransactionError};

/// Publishes every file of `manifest`, whose pointer `record` holds. Gives the producer back for the next commit.
pub(super) async fn publish(
    slot: &Slot,
    manifest: &Manifest,
    record: &CommittedRecord,
    mut producer: SlotProducer,
) -> Result<SlotProducer, Exit> {
    for file in &manifest.files {
        let published = slot.persist("publishing a file of the lake", || publish_file(slot, file)).await?;
        if !published {
            let detail = format!(
                "the record names {} of manifest {}, but neither it nor {} with {} bytes and SHA-256 {} is in the lake",
                file.staged_key, manifest.sequence, file.final_key, file.bytes, file.sha256
            );
            producer = prove_ownership(slot, record, producer).await?;
            // Ours, and still not there.
            if !slot.persist("publishing a file of the lake", || publish_file(slot, file)).await? {
                drop(producer);
                return Err(Exit::halt(HaltKind::ManifestMismatch, detail));
            }
        }
        slot.persist("deleting a staged object", || staging::delete(&slot.lake, &file.staged_key)).await?;
        debug!(slot = %slot.id, key = file.final_key, rows = file.rows, "file published");
    }
    Ok(producer)
}

/// False when neither the source nor a match is there.
async fn publish_file(slot: &Slot, file: &ManifestFile) -> object_store::Result<bool> {
    let compare = || staging::compare(&slot.lake, &file.final_key, file.bytes, &file.sha256);
    if compare().await? == Found::Match {
        return Ok(true);
    }
    if !staging::copy(&slot.lake, &file.staged_key, &file.final_key).await? {
        // Somebody else may have published and deleted it in between.
        return Ok(compare().await? == Found::Match);
    }
    // A copy can answer 200 with an error in its body.
    match compare().await? {
        Found::Match => Ok(true),
        Found::Nothing | Found::Other => Err(object_store::Error::Generic {
            store: "lake",
            source: format!("{} is not what was copied to it", file.final_key).into(),
        }),
    }
}

/// Commits the record unchanged: only its owner can. A deposed owner stops silently here, for its successor may
/// rightly have deleted what it looks for.
pub(super) async fn prove_ownership(
    slot: &Slot,
    record: &CommittedRecord,
    producer: SlotProducer,
) -> Result<SlotProducer, Exit> {
    let (topic, partition) = (slot.topic.clone(), slot.id.partition);
    let (offset, metadata) = (record.offset(), record.metadata());
    blocking(move || {
        producer.commit((&topic, partition), offset, &metadata, None).map(|()| producer).map_err(exit_of)
    })
    .await
}

/// What a transaction without a certain commit means for the slot.
pub(super) fn exit_of(error: TransactionError) -> Exit {
    match error {
        TransactionError::Fenced(_) => Exit::Stop(StopReason::Fenced),
        TransactionError::Doubt(detail) => Exit::Doubt(detail),
    }
}
