//! The manifest of one flush: which staged objects become which files of the lake. Pure.

use millrace_common::types::{Epoch, NextOffset, SlotId};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use millrace_common::record::ManifestPointer;

const VERSION: u32 = 1;

/// One file of a flush.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestFile {
    /// Where readers will find it, below the lake's prefix.
    pub(crate) final_key: String,
    /// Where it was uploaded, below the lake's prefix.
    pub(crate) staged_key: String,
    pub(crate) bytes: u64,
    /// Of the file's bytes, in hex.
    pub(crate) sha256: String,
    pub(crate) rows: u64,
    pub(crate) first_offset: i64,
    pub(crate) next_offset: NextOffset,
}

/// One flush of a slot. A range without rows has no files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) version: u32,
    pub(crate) slot: SlotId,
    pub(crate) epoch: Epoch,
    pub(crate) sequence: u64,
    /// The range that the flush decides: from the lake cursor before it…
    pub(crate) first_offset: NextOffset,
    /// …to the lake cursor after it.
    pub(crate) next_offset: NextOffset,
    pub(crate) files: Vec<ManifestFile>,
}

/// A manifest that is not the one that was committed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ManifestError {
    #[error("the manifest at {key} has SHA-256 {found}, the record says {expected}")]
    Altered { key: String, found: String, expected: String },
    #[error("the manifest at {key} can't be read: {reason}")]
    Unreadable { key: String, reason: String },
}

impl Manifest {
    pub(crate) fn new(
        slot: SlotId,
        epoch: Epoch,
        sequence: u64,
        range: std::ops::Range<NextOffset>,
        files: Vec<ManifestFile>,
    ) -> Self {
        Self {
            version: VERSION,
            slot,
            epoch,
            sequence,
            first_offset: range.start,
            next_offset: range.end,
            files,
        }
    }

    /// The bytes to store under `key`, and the pointer to them.
    pub(crate) fn encode(&self, key: String) -> (Vec<u8>, ManifestPointer) {
        let bytes = serde_json::to_vec_pretty(self).unwrap_or_else(|error| panic!("plain fields: {error}"));
        let sha256 = hex::encode(Sha256::digest(&bytes));
        (bytes, ManifestPointer { key, sha256 })
    }

    /// The manifest that `pointer` names, if `bytes` are it.
    pub(crate) fn decode(bytes: &[u8], pointer: &ManifestPointer) -> Result<Self, ManifestError> {
        let found = hex::encode(Sha256::digest(bytes));
        if found != pointer.sha256 {
            return Err(ManifestError::Altered {
                key: pointer.key.clone(),
                found,
                expected: pointer.sha256.clone(),
            });
        }
        Self::read(bytes, &pointer.key)
    }

    /// The manifest at `key`, which no record vouches for.
    pub(crate) fn read(bytes: &[u8], key: &str) -> Result<Self, ManifestError> {
        let unreadable = |reason: String| ManifestError::Unreadable { key: key.to_owned(), reason };
        let manifest: Self = serde_json::from_slice(bytes).map_err(|error| unreadable(error.to_string()))?;
        if manifest.version > VERSION {
            return Err(unreadable(format!(
                "it has version {}, this worker reads up to {VERSION}: run a newer millrace",
                manifest.version
            )));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_reads_back_and_a_changed_byte_is_noticed() {
        let manifest = Manifest::new(
            "clickstream-1/0-3".parse().expect("slot"),
            Epoch(2),
            7,
            NextOffset(10)..NextOffset(20),
            vec![ManifestFile {
                final_key: "year=2024/month=01/day=01/clickstream-1-0-3-10-0.parquet".into(),
                staged_key: "_staging/clickstream-1/0-3/ab.parquet".into(),
                bytes: 3,
                sha256: "00".into(),
                rows: 10,
                first_offset: 10,
                next_offset: NextOffset(20),
            }],
        );
        let (mut bytes, pointer) = manifest.encode("_staging/clickstream-1/0-3/cd.json".into());
        assert_eq!(Manifest::decode(&bytes, &pointer).expect("manifest"), manifest);
        bytes[20] ^= 1;
        assert!(matches!(Manifest::decode(&bytes, &pointer), Err(ManifestError::Altered { .. })));
    }
}
