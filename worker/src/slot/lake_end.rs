//! Up to which offset a slot's rows are in the lake, or will be, when no record tells: by the last file's own footer, and by
//! the manifests that are still staged. Changes nothing.

use std::collections::BTreeMap;
use std::fmt::Display;

use futures::TryStreamExt;
use millrace_common::event::footer;
use millrace_common::lake::Lake;
use millrace_common::lake_key::FileKey;
use millrace_common::types::{Epoch, NextOffset, SlotId};
use object_store::ObjectStore;
use parquet::arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions};

use super::manifest::Manifest;
use super::staging;

#[derive(Debug, Default)]
pub(super) struct LakeEnd {
    /// The last file that is published.
    last: Option<LastFile>,
    /// Flushes that were committed, or may have been, and maybe not wholly published; in their order.
    pub(super) unfinished: Vec<Manifest>,
    /// Why it can't be told.
    pub(super) trouble: Option<String>,
}

#[derive(Debug, PartialEq, Eq)]
struct LastFile {
    key: String,
    epoch: Epoch,
    sequence: u64,
    first_offset: NextOffset,
    next_offset: NextOffset,
}

impl LakeEnd {
    /// To be asked after the fence: nobody commits a flush of the slot meanwhile, though one may be publishing.
    pub(super) async fn of(lake: &Lake, slot: &SlotId) -> object_store::Result<Self> {
        let manifests = match staged_manifests(lake, slot).await? {
            Ok(manifests) => manifests,
            Err(trouble) => return Ok(Self { trouble: Some(trouble), ..Self::default() }),
        };
        // After the manifests: a flush that is published between the two looks is found by both.
        let last = match last_file(lake, slot).await? {
            Ok(last) => last,
            Err(trouble) => return Ok(Self { trouble: Some(trouble), ..Self::default() }),
        };
        Ok(match unfinished(last.as_ref(), manifests) {
            Ok(unfinished) => Self { last, unfinished, trouble: None },
            Err(trouble) => Self { last, unfinished: Vec::new(), trouble: Some(trouble) },
        })
    }

    /// The first offset of which the lake holds no rows and gets none.
    pub(super) fn next_offset(&self) -> NextOffset {
        let staged = self.unfinished.last().map(|manifest| manifest.next_offset);
        staged.or_else(|| Some(self.last.as_ref()?.next_offset)).unwrap_or_default()
    }

    /// Of the last flush.
    pub(super) fn sequence(&self) -> u64 {
        let staged = self.unfinished.last().map(|manifest| manifest.sequence);
        staged.or_else(|| Some(self.last.as_ref()?.sequence)).unwrap_or_default()
    }
}

impl Display for LakeEnd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(trouble) = &self.trouble {
            return f.write_str(trouble);
        }
        match &self.last {
            None => f.write_str("the lake holds no file of the slot")?,
            Some(last) => write!(
                f,
                "the lake holds the slot's rows up to offset {} (not included), by {}",
                last.next_offset, last.key
            )?,
        }
        let staged = self
            .unfinished
            .iter()
            .filter(|manifest| self.last.as_ref().is_none_or(|last| manifest.sequence > last.sequence));
        for manifest in staged {
            write!(
                f,
                "; flush {} of offsets {} to {} (not included) is staged and, as it may have been committed, will be published",
                manifest.sequence, manifest.first_offset, manifest.next_offset
            )?;
        }
        Ok(())
    }
}

/// Which of the staged manifests may be of committed flushes.
fn unfinished(last: Option<&LastFile>, manifests: Vec<Manifest>) -> Result<Vec<Manifest>, String> {
    let mut by_sequence: BTreeMap<u64, Manifest> = BTreeMap::new();
    for manifest in manifests {
        let counts = last.is_none_or(|last| {
            let of_last = (manifest.epoch, manifest.first_offset) == (last.epoch, last.first_offset);
            manifest.sequence > last.sequence || manifest.sequence == last.sequence && of_last
        });
        if !counts {
            continue;
        }
        match by_sequence.get(&manifest.sequence) {
            Some(other) if other.epoch == manifest.epoch => {
                return Err(format!(
                    "two staged manifests are of flush {} and epoch {}, and which of them was committed is unknown: \
                     remove the other one",
                    manifest.sequence, manifest.epoch
                ));
            }
            // The later owner would have published what the earlier one committed before it staged any of its own.
            Some(other) if other.epoch > manifest.epoch => {}
            _ => drop(by_sequence.insert(manifest.sequence, manifest)),
        }
    }
    let mut end = NextOffset::default();
    for manifest in by_sequence.values() {
        if let Some(last) = last.filter(|last| last.sequence < manifest.sequence) {
            end = end.max(last.next_offset);
        }
        if manifest.first_offset < end {
            return Err(format!(
                "the staged manifest of flush {} begins at offset {}, but the slot's flushes before it end at {end}: \
                 remove it if it was never committed",
                manifest.sequence, manifest.first_offset
            ));
        }
        end = manifest.next_offset;
    }
    Ok(by_sequence.into_values().collect())
}

async fn staged_manifests(lake: &Lake, slot: &SlotId) -> object_store::Result<Result<Vec<Manifest>, String>> {
    let mut manifests = Vec::new();
    for key in staging::list_staged(lake, slot).await?.iter().filter(|key| key.ends_with(".json")) {
        // Who published it has deleted it: its files are found in the lake.
        let Some(bytes) = staging::get(lake, key).await? else { continue };
        match Manifest::read(&bytes, key) {
            Ok(manifest) if manifest.slot == *slot => manifests.push(manifest),
            Ok(manifest) => {
                return Ok(Err(format!("the manifest at {key} is of slot {}: remove it", manifest.slot)));
            }
            Err(error) => return Ok(Err(format!("{error}: repair or remove it"))),
        }
    }
    Ok(Ok(manifests))
}

async fn last_file(lake: &Lake, slot: &SlotId) -> object_store::Result<Result<Option<LastFile>, String>> {
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
    let Some(last) = last else { return Ok(Ok(None)) };
    let key = last.as_str().to_owned();
    let unreadable =
        |reason: &str| format!("the slot's last file in the lake, {key}, can't be read: {reason}");
    let Some(bytes) = staging::get(lake, &key).await? else { return Ok(Err(unreadable("it is gone"))) };
    let metadata = match ArrowReaderMetadata::load(&bytes, ArrowReaderOptions::new()) {
        Ok(metadata) => metadata,
        Err(error) => return Ok(Err(unreadable(&error.to_string()))),
    };
    let number = |name: &str| {
        let pairs = metadata.metadata().file_metadata().key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == name)?.value.as_ref()?.parse::<u64>().ok()
    };
    let offset = |name: &str| i64::try_from(number(name)?).ok().map(NextOffset);
    let read = || {
        Some(LastFile {
            key: key.clone(),
            epoch: Epoch(number(footer::EPOCH)?),
            sequence: number(footer::SEQUENCE)?,
            first_offset: offset(footer::FIRST_OFFSET)?,
            next_offset: offset(footer::NEXT_OFFSET)?,
        })
    };
    Ok(read().map(Some).ok_or_else(|| unreadable("its footer does not tell its offsets")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn last(epoch: u64, sequence: u64, range: std::ops::Range<i64>) -> LastFile {
        LastFile {
            key: "k".into(),
            epoch: Epoch(epoch),
            sequence,
            first_offset: NextOffset(range.start),
            next_offset: NextOffset(range.end),
        }
    }

    fn manifest(epoch: u64, sequence: u64, range: std::ops::Range<i64>) -> Manifest {
        let slot = "clickstream-1/0-3".parse().expect("slot");
        Manifest::new(
            slot,
            Epoch(epoch),
            sequence,
            NextOffset(range.start)..NextOffset(range.end),
            Vec::new(),
        )
    }

    fn sequences(last: Option<&LastFile>, manifests: Vec<Manifest>) -> Result<Vec<(u64, u64)>, String> {
        let found = unfinished(last, manifests)?;
        Ok(found.iter().map(|manifest| (manifest.epoch.0, manifest.sequence)).collect())
    }

    #[test]
    fn what_may_have_been_committed_is_finished_and_nothing_else() {
        assert_eq!(sequences(None, vec![]), Ok(vec![]));
        assert_eq!(sequences(None, vec![manifest(1, 1, 0..10)]), Ok(vec![(1, 1)]));
        // The last file's own flush may have other files that are still staged.
        let before = vec![manifest(2, 4, 30..40), manifest(2, 3, 20..30), manifest(1, 2, 10..20)];
        assert_eq!(sequences(Some(&last(2, 3, 20..30)), before), Ok(vec![(2, 3), (2, 4)]));
        // Staged late by an owner whose successor has published this flush, or has staged it too.
        assert_eq!(sequences(Some(&last(2, 3, 20..30)), vec![manifest(1, 3, 20..25)]), Ok(vec![]));
        let rivals = vec![manifest(1, 4, 30..35), manifest(3, 4, 30..40)];
        assert_eq!(sequences(Some(&last(1, 3, 20..30)), rivals), Ok(vec![(3, 4)]));
    }

    #[test]
    fn what_is_not_clear_is_left_to_a_person() {
        let twins = vec![manifest(2, 4, 30..35), manifest(2, 4, 30..40)];
        assert!(sequences(Some(&last(2, 3, 20..30)), twins).is_err_and(|why| why.contains("two staged")));
        let within = sequences(Some(&last(2, 3, 20..30)), vec![manifest(2, 4, 20..40)]);
        assert!(within.is_err_and(|why| why.contains("end at 30")));
        let overlap = vec![manifest(2, 4, 30..40), manifest(2, 5, 35..45)];
        assert!(sequences(None, overlap).is_err_and(|why| why.contains("begins at offset 35")));
    }
}
