//! Steps 2 and 3 of the protocol: fence the predecessor, read the record, claim the slot, roll forward.
//!
//! The order is the point. Nothing is read before the fence, nothing is deleted before the claim, and only what
//! was listed between them is deleted: a slow predecessor can't have anything of ours, nor we of our successor's.

use millrace_common::lake::Lake;
use millrace_common::record::CommittedRecord;
use millrace_common::telemetry::CommitSpans;
use millrace_common::types::{
    HaltKind, NextOffset, SkipLost, StartPosition, StopReason, TransformDefinition,
};
use millrace_transform::Transform;
use tracing::warn;

use super::begin::{Log, Refusal, plan};
use super::commit::prove_ownership;
use super::manifest::Manifest;
use super::publish::publish;
use super::{Claimed, Exit, KAFKA_DEADLINE, Open, Slot, skip, staging};
use crate::compute::blocking;
use crate::kafka::{KafkaFailure, SlotProducer};

/// Opens the slot. `opened`: a record must exist.
pub(super) async fn open(slot: &Slot, opened: bool) -> Result<Open, Exit> {
    let producer = fence(slot).await?;
    let (first, end) = watermarks(slot).await?;
    let found = match read_record(slot, opened).await {
        Ok(found) => found,
        Err(exit) => Some(skip::begin_anew(slot, exit, end).await?),
    };
    let record = match found {
        Some(record) if record.epoch > slot.epoch => {
            return Err(Exit::Stop(StopReason::EpochBehind { recorded: record.epoch }));
        }
        Some(record) => CommittedRecord { epoch: slot.epoch, ..record },
        None => {
            let start = start(slot, first, end).await?;
            CommittedRecord::first(slot.epoch, start, slot.definition.duplicate_window, String::new())
        }
    };
    let log = Log { first };
    let (producer, record) = match slot.skip_lost {
        // The last manifest's files come first: the record that goes beyond what is lost no longer names it.
        Some(SkipLost { halt: HaltKind::OffsetsLost, .. }) => {
            let claimed = claim(slot, Claimed { producer, record }).await?;
            let record = skip::beyond_lost(claimed.record, log);
            warn!(slot = %slot.id, epoch = %slot.epoch, topic_cursor = %record.topic_cursor,
                lake_cursor = %record.lake_cursor, "a person lets the slot go on without the offsets that are lost");
            (claimed.producer, record)
        }
        _ => (producer, record),
    };
    let plan = plan(record, &slot.definition, log).map_err(|refusal| {
        let kind = match refusal {
            Refusal::TransformUnknown { .. } => HaltKind::TransformChanged,
            Refusal::WindowLost { .. } => HaltKind::OffsetsLost,
        };
        Exit::halt(kind, refusal.to_string())
    })?;
    let transform = build(slot, &plan.transform).await?;
    let claimed = claim(slot, Claimed { producer, record: plan.record }).await?;
    Ok(Open { claimed, transform, only_levels: plan.only_levels, read_from: plan.read_from })
}

/// The claim, which is the commit of the record with our epoch, and what may be done only after it.
async fn claim(slot: &Slot, claimed: Claimed) -> Result<Claimed, Exit> {
    let staged = match &slot.lake {
        Some(lake) => slot.persist("listing staged objects", || staging::list_staged(lake, &slot.id)).await?,
        None => Vec::new(),
    };
    let claimed = prove_ownership(slot, claimed).await?;
    slot.status.claimed(&claimed.record, slot.lake.is_some(), slot.definition.enriched_topic.is_some());
    match &slot.lake {
        Some(lake) => roll_forward(slot, lake, claimed, staged).await,
        None => Ok(claimed),
    }
}

/// Builds the transform off the runtime: it may read files.
async fn build(slot: &Slot, definition: &TransformDefinition) -> Result<Box<dyn Transform>, Exit> {
    let (transforms, definition) = (slot.transforms.clone(), definition.clone());
    blocking(move || transforms.build(&definition))
        .await
        .map_err(|error| Exit::Stop(StopReason::Failed { detail: error.to_string() }))
}

async fn fence(slot: &Slot) -> Result<SlotProducer, Exit> {
    let attempt = || {
        let servers = slot.definition.bootstrap_servers.clone();
        let (transactional_id, group_id) = (slot.transactional_id(), slot.definition.group_id());
        async move {
            blocking(move || {
                let producer = SlotProducer::new(&servers, &transactional_id, &group_id)
                    .map_err(|error| error.to_string())?;
                match producer.fence(KAFKA_DEADLINE) {
                    Ok(()) => Ok(Ok(producer)),
                    Err(failure) if failure.source.is_fence() => Ok(Err(failure)),
                    Err(failure) => Err(failure.to_string()),
                }
            })
            .await
        }
    };
    let fenced: Result<SlotProducer, KafkaFailure> = slot.persist("fencing the predecessor", attempt).await?;
    fenced.map_err(|failure| {
        warn!(slot = %slot.id, epoch = %slot.epoch, %failure, "another owner was faster");
        Exit::Stop(StopReason::Fenced)
    })
}

/// `None` only of a slot that was never opened.
async fn read_record(slot: &Slot, opened: bool) -> Result<Option<CommittedRecord>, Exit> {
    let attempt = || {
        let (consumer, topic, partition) = (slot.consumer.clone(), slot.topic.clone(), slot.id.partition);
        async move { blocking(move || consumer.committed(&topic, partition, KAFKA_DEADLINE)).await }
    };
    let committed = slot.persist("reading the record", attempt).await?;
    if committed.is_none() && opened {
        return Err(Exit::halt(
            HaltKind::RecordLost,
            format!(
                "group {} has no committed offset for {}/{} although the slot was opened before: it expired or was \
                 deleted, so it is unknown what the sinks hold",
                slot.definition.group_id(),
                slot.topic,
                slot.id.partition
            ),
        ));
    }
    committed
        .map(|committed| CommittedRecord::parse(committed.offset, &committed.metadata))
        .transpose()
        .map_err(|error| Exit::halt(HaltKind::RecordDamaged, error.to_string()))
}

/// The first offset that the source holds, and its end.
async fn watermarks(slot: &Slot) -> Result<(NextOffset, NextOffset), Exit> {
    let attempt = || {
        let (consumer, topic, partition) = (slot.consumer.clone(), slot.topic.clone(), slot.id.partition);
        async move { blocking(move || consumer.watermarks(&topic, partition, KAFKA_DEADLINE)).await }
    };
    let (first, end) = slot.persist("asking for the ends of the partition", attempt).await?;
    Ok((NextOffset(first), NextOffset(end)))
}

/// Where a slot that was never opened begins.
async fn start(slot: &Slot, first: NextOffset, end: NextOffset) -> Result<NextOffset, Exit> {
    match slot.definition.source.start_of(usize::from(slot.id.topic), slot.id.partition) {
        StartPosition::Earliest => Ok(first),
        StartPosition::Latest => Ok(end),
        StartPosition::Timestamp(time_ms) => {
            let time_ms = i64::try_from(time_ms).unwrap_or(i64::MAX);
            let attempt = || {
                let (consumer, topic, partition) =
                    (slot.consumer.clone(), slot.topic.clone(), slot.id.partition);
                async move {
                    blocking(move || consumer.offset_of_time(&topic, partition, time_ms, KAFKA_DEADLINE))
                        .await
                }
            };
            slot.persist("asking for the offset of the start time", attempt).await.map(NextOffset)
        }
    }
}

/// Finishes the last manifest's publication, then deletes what was staged and never committed.
async fn roll_forward(
    slot: &Slot,
    lake: &Lake,
    claimed: Claimed,
    staged: Vec<String>,
) -> Result<Claimed, Exit> {
    let (mut claimed, mismatch) = publish_last(slot, lake, claimed).await?;
    if let Some(mismatch) = mismatch {
        if slot.skip_lost.is_none_or(|skip| skip.halt != HaltKind::ManifestMismatch) {
            return Err(Exit::halt(HaltKind::ManifestMismatch, mismatch));
        }
        warn!(slot = %slot.id, epoch = %slot.epoch, mismatch, "a person lets the slot go on without what is lost of its \
            last manifest");
        claimed.record.manifest = None;
        claimed = prove_ownership(slot, claimed).await?;
    }
    let named = claimed.record.manifest.as_ref().map(|pointer| pointer.key.as_str());
    for key in staged.iter().filter(|key| Some(key.as_str()) != named) {
        slot.persist("deleting a staged object", || staging::delete(lake, key)).await?;
    }
    Ok(claimed)
}

/// Publishes what the last manifest names. Says what is wrong with it, if the slot's owner can't go on for it.
async fn publish_last(slot: &Slot, lake: &Lake, claimed: Claimed) -> Result<(Claimed, Option<String>), Exit> {
    let record = &claimed.record;
    let Some(pointer) = record.manifest.clone() else { return Ok((claimed, None)) };
    let bytes = slot.persist("reading the manifest", || staging::get(lake, &pointer.key)).await?;
    let Some(bytes) = bytes else {
        let claimed = prove_ownership(slot, claimed).await?;
        let mismatch = format!("the record names the manifest {}, which is not in the lake", pointer.key);
        return Ok((claimed, Some(mismatch)));
    };
    let manifest = match Manifest::decode(&bytes, &pointer) {
        Ok(manifest) => manifest,
        Err(error) => return Ok((claimed, Some(error.to_string()))),
    };
    if manifest.slot != slot.id
        || manifest.sequence != record.sequence
        || manifest.next_offset != record.lake_cursor
    {
        let mismatch = format!(
            "the manifest {} is of slot {}, sequence {}, up to offset {}; the record says {}, {}, {}",
            pointer.key,
            manifest.slot,
            manifest.sequence,
            manifest.next_offset,
            slot.id,
            record.sequence,
            record.lake_cursor
        );
        return Ok((claimed, Some(mismatch)));
    }
    if publish(slot, lake, &manifest, &CommitSpans::default()).await?.is_none() {
        return Ok((claimed, None));
    }
    let claimed = prove_ownership(slot, claimed).await?;
    // Ours, and maybe still not there.
    let missing = publish(slot, lake, &manifest, &CommitSpans::default()).await?;
    Ok((claimed, missing))
}
