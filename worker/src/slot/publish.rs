//! Step 7 of the protocol: the committed manifest's staged objects become files of the lake.
//!
//! Safe to repeat and safe to race: a final key only ever gets the bytes that the manifest names. Nothing else
//! writes or deletes below the day folders.

use millrace_common::lake::Lake;
use millrace_common::telemetry::{CommitSpans, TRACES};
use tracing::{debug, info, info_span};

use super::flush::Staged;
use super::manifest::{Manifest, ManifestFile};
use super::staging::{self, Found};
use super::{Exit, Slot};

/// A committed flush of which a file is neither where it was staged nor where it belongs.
pub(super) struct Unpublished {
    pub(super) staged: Staged,
    pub(super) missing: String,
}

/// Step 7 of the protocol for a flush that was just committed, and the end of the manifest before it.
pub(super) async fn publish_flush(
    slot: &Slot,
    staged: Staged,
    previous: Option<String>,
) -> Result<Option<Unpublished>, Exit> {
    let Some(lake) = &slot.lake else { return Ok(None) };
    if let Some(missing) = publish(slot, lake, &staged.manifest, &staged.spans).await? {
        return Ok(Some(Unpublished { staged, missing }));
    }
    if let Some(previous) = previous {
        slot.persist("deleting the previous manifest", || staging::delete(lake, &previous)).await?;
    }
    let manifest = &staged.manifest;
    if let Some(last) = manifest.files.last() {
        slot.status.update(|metrics| metrics.last_object = Some(last.final_key.clone()));
    }
    info!(
        slot = %slot.id, epoch = %slot.epoch, sequence = manifest.sequence, rows = staged.rows(),
        files = manifest.files.len(), cursor = %manifest.next_offset, reason = ?staged.reason, "flushed"
    );
    Ok(None)
}

/// Publishes every file of `manifest` that can be. Returns what is missing when neither the source nor a match of a file is
/// there: then only the slot's owner has a reason to halt, and who it is must be proven first. `spans` are the flush's.
pub(super) async fn publish(
    slot: &Slot,
    lake: &Lake,
    manifest: &Manifest,
    spans: &CommitSpans,
) -> Result<Option<String>, Exit> {
    let mut missing = None;
    for file in &manifest.files {
        let spans = spans.within(file.first_offset..file.next_offset.0, || {
            let (key, bytes, rows) = (file.final_key.as_str(), file.bytes, file.rows);
            info_span!(target: TRACES, "publish", slot = %slot.id, lake = lake.url, key, bytes, rows)
        });
        let published = slot.persist("publishing a file of the lake", || publish_file(lake, file)).await?;
        if !published {
            spans.fail("the file is neither staged nor published");
            missing.get_or_insert_with(|| {
                format!(
                    "the record names {} of manifest {}, with {} rows of offsets {} to {} (not included), but neither it \
                     nor {} with {} bytes and SHA-256 {} is in the lake",
                    file.staged_key,
                    manifest.sequence,
                    file.rows,
                    file.first_offset,
                    file.next_offset,
                    file.final_key,
                    file.bytes,
                    file.sha256
                )
            });
            continue;
        }
        slot.persist("deleting a staged object", || staging::delete(lake, &file.staged_key)).await?;
        debug!(slot = %slot.id, key = file.final_key, rows = file.rows, "file published");
    }
    Ok(missing)
}

/// False when neither the source nor a match is there.
async fn publish_file(lake: &Lake, file: &ManifestFile) -> object_store::Result<bool> {
    let compare = || staging::compare(lake, &file.final_key, file.bytes, &file.sha256);
    if compare().await? == Found::Match {
        return Ok(true);
    }
    if !staging::copy(lake, &file.staged_key, &file.final_key).await? {
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
