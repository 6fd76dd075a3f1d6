//! Steps 2 and 3 of the protocol: fence the predecessor, read the record, claim the slot, roll forward.
//!
//! The order is the point. Nothing is read before the fence, nothing is deleted before the claim, and only what
//! was listed between them is deleted: a slow predecessor can't have anything of ours, nor we of our successor's.

use std::collections::BTreeSet;
use std::time::Duration;

use millrace_common::types::{HaltKind, NextOffset, StopReason};
use tracing::warn;

use super::manifest::Manifest;
use super::publish::{prove_ownership, publish};
use super::record::CommittedRecord;
use super::{Exit, Open, Slot, staging};
use crate::compute::blocking;
use crate::kafka::{KafkaFailure, SlotProducer};

/// Deadline of one call to Kafka while opening.
const KAFKA_DEADLINE: Duration = Duration::from_secs(10);

/// Opens the slot. `opened`: a record must exist.
pub(super) async fn open(slot: &Slot, opened: bool) -> Result<Open, Exit> {
    let producer = fence(slot).await?;
    let found = read_record(slot).await?;
    let record = match found {
        Some(record) if record.epoch > slot.epoch => {
            return Err(Exit::Stop(StopReason::EpochBehind { recorded: record.epoch }));
        }
        Some(record) => CommittedRecord { epoch: slot.epoch, ..record },
        None if opened => {
            return Err(Exit::halt(
                HaltKind::RecordLost,
                format!(
                    "group {} has no committed offset for {}/{} although the slot was opened before: it expired \
                     or was deleted, so it is unknown what the lake holds",
                    slot.definition.group_id(),
                    slot.topic,
                    slot.id.partition
                ),
            ));
        }
        None => CommittedRecord {
            epoch: slot.epoch,
            lake_cursor: first_offset(slot).await?,
            sequence: 0,
            manifest: None,
        },
    };
    let staged =
        slot.persist("listing staged objects", || staging::list_staged(&slot.lake, &slot.id)).await?;
    // The claim: committing the record with our epoch.
    let producer = prove_ownership(slot, &record, producer).await?;
    slot.status.update(|metrics| {
        metrics.lake_cursor = Some(record.lake_cursor);
        metrics.position = Some(record.lake_cursor);
    });
    let producer = roll_forward(slot, &record, producer, staged).await?;
    Ok(Open { producer, record })
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

async fn read_record(slot: &Slot) -> Result<Option<CommittedRecord>, Exit> {
    let attempt = || {
        let (consumer, topic, partition) = (slot.consumer.clone(), slot.topic.clone(), slot.id.partition);
        async move { blocking(move || consumer.committed(&topic, partition, KAFKA_DEADLINE)).await }
    };
    let committed = slot.persist("reading the record", attempt).await?;
    committed
        .map(|committed| CommittedRecord::parse(&committed))
        .transpose()
        .map_err(|error| Exit::halt(HaltKind::RecordDamaged, error.to_string()))
}

/// Where a pipeline that was never opened begins: the first record that the topic still holds.
async fn first_offset(slot: &Slot) -> Result<NextOffset, Exit> {
    let attempt = || {
        let (consumer, topic, partition) = (slot.consumer.clone(), slot.topic.clone(), slot.id.partition);
        async move { blocking(move || consumer.watermarks(&topic, partition, KAFKA_DEADLINE)).await }
    };
    let (low, _) = slot.persist("asking for the first offset", attempt).await?;
    Ok(NextOffset(low))
}

/// Finishes the last manifest's publication, then deletes what was staged and never committed.
async fn roll_forward(
    slot: &Slot,
    record: &CommittedRecord,
    mut producer: SlotProducer,
    staged: Vec<String>,
) -> Result<SlotProducer, Exit> {
    let mut named = BTreeSet::new();
    if let Some(pointer) = &record.manifest {
        let bytes = slot.persist("reading the manifest", || staging::get(&slot.lake, &pointer.key)).await?;
        let Some(bytes) = bytes else {
            prove_ownership(slot, record, producer).await?;
            return Err(Exit::halt(
                HaltKind::ManifestMismatch,
                format!("the record names the manifest {}, which is not in the lake", pointer.key),
            ));
        };
        let manifest = match Manifest::decode(&bytes, pointer) {
            Ok(manifest) => manifest,
            Err(error) => return Err(Exit::halt(HaltKind::ManifestMismatch, error.to_string())),
        };
        if manifest.slot != slot.id
            || manifest.sequence != record.sequence
            || manifest.next_offset != record.lake_cursor
        {
            return Err(Exit::halt(
                HaltKind::ManifestMismatch,
                format!(
                    "the manifest {} is of slot {}, sequence {}, up to offset {}; the record says {}, {}, {}",
                    pointer.key,
                    manifest.slot,
                    manifest.sequence,
                    manifest.next_offset,
                    slot.id,
                    record.sequence,
                    record.lake_cursor
                ),
            ));
        }
        producer = publish(slot, &manifest, record, producer).await?;
        named.insert(pointer.key.clone());
    }
    for key in staged.iter().filter(|key| !named.contains(*key)) {
        slot.persist("deleting a staged object", || staging::delete(&slot.lake, key)).await?;
    }
    Ok(producer)
}
