//! Step 6 of the protocol up to its commit: finished files and their manifest are staged under fresh random keys. No
//! transaction is open meanwhile, and nothing of it is visible to anybody.

use std::ops::Range;

use bytes::Bytes;
use millrace_common::lake::Lake;
use millrace_common::record::ManifestPointer;
use millrace_common::telemetry::{CommitSpans, RecordTraces, TRACES};
use millrace_common::types::NextOffset;
use tracing::info_span;

use super::intake::Products;
use super::roll::RollReason;
use super::{Exit, Slot, staging};
use crate::lake::{FinishedFile, final_key};
use millrace_common::manifest::{Manifest, ManifestFile};

/// What a flush is about to stage.
pub(super) struct Flush {
    pub(super) reason: Option<RollReason>,
    pub(super) sequence: u64,
    /// From the lake cursor before it to the one after it.
    pub(super) range: Range<NextOffset>,
    pub(super) files: Vec<FinishedFile>,
    /// What the flush's transaction takes along where the pipeline has no topic sink.
    pub(super) products: Products,
    /// Of records in the files.
    pub(super) traces: RecordTraces,
}

/// A staged flush, to be committed and then published.
pub(super) struct Staged {
    pub(super) reason: Option<RollReason>,
    pub(super) manifest: Manifest,
    pub(super) pointer: ManifestPointer,
    pub(super) products: Products,
    /// From the first upload to the last publication, in the traces of the records.
    pub(super) spans: CommitSpans,
}

impl Staged {
    pub(super) fn rows(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.rows).sum()
    }
}

pub(super) async fn stage(slot: &Slot, lake: &Lake, flush: Flush) -> Result<Staged, Exit> {
    let spans = flush.traces.begin(|| {
        let (sequence, cursor) = (flush.sequence, flush.range.end);
        info_span!(target: TRACES, "flush", slot = %slot.id, epoch = %slot.epoch, sequence, %cursor)
    });
    let mut files = Vec::with_capacity(flush.files.len());
    for (number, file) in flush.files.into_iter().enumerate() {
        let sha256 = hex::encode(file.sha256);
        let staged_key = staging::staged_key(&slot.id, "parquet");
        slot.persist("staging a file", || staging::put(lake, &staged_key, file.bytes.clone(), &sha256))
            .await?;
        files.push(ManifestFile {
            final_key: final_key(&file.day, &slot.id, flush.range.start, number),
            staged_key,
            bytes: file.bytes.len() as u64,
            sha256,
            rows: file.rows,
            first_offset: file.first_offset,
            next_offset: file.next_offset,
        });
    }
    let manifest = Manifest::new(slot.id.clone(), slot.epoch, flush.sequence, flush.range, files);
    let (bytes, pointer) = manifest.encode(staging::staged_key(&slot.id, "json"));
    let bytes = Bytes::from(bytes);
    slot.persist("staging the manifest", || staging::put(lake, &pointer.key, bytes.clone(), &pointer.sha256))
        .await?;
    Ok(Staged { reason: flush.reason, manifest, pointer, products: flush.products, spans })
}
