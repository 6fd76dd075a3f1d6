//! The slot's record: all of its progress, kept by Kafka as the metadata string of the committed offset of the
//! pipeline's group. Pure: text in, text out.

use millrace_common::types::{Epoch, NextOffset};
use serde::{Deserialize, Serialize};

use crate::kafka::CommittedOffset;

/// The broker refuses metadata of 4096 bytes and more.
const LONGEST: usize = 4000;
const VERSION: u32 = 1;

/// Where the last lake manifest lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ManifestPointer {
    /// Key below the lake's prefix.
    pub(crate) key: String,
    /// SHA-256 of the manifest's bytes, in hex.
    pub(crate) sha256: String,
}

/// A slot's progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CommittedRecord {
    /// Epoch of the owner that wrote it.
    pub(crate) epoch: Epoch,
    /// Next offset of the lake: everything below is decided.
    pub(crate) lake_cursor: NextOffset,
    /// How many manifests were committed so far.
    pub(crate) sequence: u64,
    /// The last of them; `None` before the first.
    pub(crate) manifest: Option<ManifestPointer>,
}

/// A record that can't be taken for what was written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum RecordError {
    #[error("the record {text:?} can't be read: {reason}")]
    Unreadable { text: String, reason: String },
    #[error("the record has version {found}, this worker reads up to {VERSION}: run a newer millrace")]
    Newer { found: u32 },
    #[error("the record says lake cursor {cursor}, but its committed offset is {offset}")]
    Contradiction { cursor: NextOffset, offset: i64 },
}

/// As it stands in the metadata string; short names, for the broker takes 4000 bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    epoch: Epoch,
    lake: NextOffset,
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest: Option<ManifestPointer>,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl CommittedRecord {
    /// The committed offset: the lake cursor, since the pipeline has no topic sink.
    pub(crate) fn offset(&self) -> i64 {
        self.lake_cursor.0
    }

    /// The metadata string, plain ASCII.
    pub(crate) fn metadata(&self) -> String {
        let text = Text {
            version: VERSION,
            epoch: self.epoch,
            lake: self.lake_cursor,
            sequence: self.sequence,
            manifest: self.manifest.clone(),
        };
        let metadata = serde_json::to_string(&text).unwrap_or_else(|error| panic!("plain fields: {error}"));
        assert!(
            metadata.is_ascii() && metadata.len() <= LONGEST,
            "a record is short ASCII, since keys are: {metadata}"
        );
        metadata
    }

    pub(crate) fn parse(committed: &CommittedOffset) -> Result<Self, RecordError> {
        let unreadable = |reason: String| RecordError::Unreadable {
            text: String::from_utf8_lossy(&committed.metadata).chars().take(200).collect(),
            reason,
        };
        let version: VersionOnly =
            serde_json::from_slice(&committed.metadata).map_err(|error| unreadable(error.to_string()))?;
        if version.version > VERSION {
            return Err(RecordError::Newer { found: version.version });
        }
        let text: Text =
            serde_json::from_slice(&committed.metadata).map_err(|error| unreadable(error.to_string()))?;
        if text.lake.0 != committed.offset {
            return Err(RecordError::Contradiction { cursor: text.lake, offset: committed.offset });
        }
        Ok(Self {
            epoch: text.epoch,
            lake_cursor: text.lake,
            sequence: text.sequence,
            manifest: text.manifest,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn committed(record: &CommittedRecord) -> CommittedOffset {
        CommittedOffset { offset: record.offset(), metadata: record.metadata().into_bytes() }
    }

    proptest! {
        #[test]
        fn a_record_reads_back(epoch in 0..u64::MAX, cursor in 0..i64::MAX, sequence in 0..u64::MAX, pointed: bool) {
            let manifest = pointed.then(|| ManifestPointer { key: "_staging/p-1/0-0/ab.json".into(), sha256: "0".repeat(64) });
            let record = CommittedRecord { epoch: Epoch(epoch), lake_cursor: NextOffset(cursor), sequence, manifest };
            prop_assert_eq!(CommittedRecord::parse(&committed(&record)), Ok(record));
        }

        #[test]
        fn foreign_metadata_is_refused_and_never_panics(metadata: Vec<u8>, offset: i64) {
            let parsed = CommittedRecord::parse(&CommittedOffset { offset, metadata });
            prop_assert!(parsed.is_err());
        }
    }

    #[test]
    fn a_record_that_contradicts_its_offset_or_comes_from_a_newer_build_is_refused() {
        let record =
            CommittedRecord { epoch: Epoch(1), lake_cursor: NextOffset(5), sequence: 0, manifest: None };
        let mut wrong = committed(&record);
        wrong.offset = 6;
        assert!(matches!(CommittedRecord::parse(&wrong), Err(RecordError::Contradiction { .. })));
        wrong.metadata = br#"{"version":9,"anything":1}"#.to_vec();
        assert_eq!(CommittedRecord::parse(&wrong), Err(RecordError::Newer { found: 9 }));
    }
}
