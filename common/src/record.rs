//! The slot's record: all of its progress, kept by Kafka as the metadata string of the committed offset of the
//! pipeline's group. Pure: text in, text out.

use serde::{Deserialize, Serialize};

use crate::types::{Epoch, NextOffset};

/// The broker refuses metadata of 4096 bytes and more.
const LONGEST: usize = 4000;
const VERSION: u32 = 2;

/// Where the last lake manifest lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManifestPointer {
    /// Key below the lake's prefix.
    pub key: String,
    /// SHA-256 of the manifest's bytes, in hex.
    pub sha256: String,
}

/// How far back the duplicate rule looks: a record is a client duplicate if its key occurs among the `size` offsets
/// before it, at `floor` or later. Changes only when the cursors are equal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowBounds {
    /// Zero turns the rule off.
    pub size: u64,
    pub floor: NextOffset,
}

impl WindowBounds {
    /// The first offset whose key counts for the record at `offset`.
    pub fn reaches_back_to(&self, offset: i64) -> NextOffset {
        let size = i64::try_from(self.size).unwrap_or(i64::MAX);
        NextOffset(offset.saturating_sub(size)).max(self.floor)
    }
}

/// A slot's progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommittedRecord {
    /// Epoch of the owner that wrote it.
    pub epoch: Epoch,
    /// Next offset of the topic sink; that of the lake where the pipeline has no topic sink.
    pub topic_cursor: NextOffset,
    /// Next offset of the lake, never beyond the topic cursor; equal to it where the pipeline has no lake.
    pub lake_cursor: NextOffset,
    /// How many manifests were committed so far.
    pub sequence: u64,
    /// The last of them; `None` before the first.
    pub manifest: Option<ManifestPointer>,
    pub window: WindowBounds,
    /// Fingerprint of the transform that judged what lies between the cursors, as hex digits.
    pub transform: String,
    /// The offsets between the cursors that were quarantined.
    pub rejected: OffsetRanges,
}

/// A record that can't be taken for what was written.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    #[error("the record {text:?} can't be read: {reason}")]
    Unreadable { text: String, reason: String },
    #[error("the record has version {found}, this millrace reads up to {VERSION}: run a newer one")]
    Newer { found: u32 },
    #[error("the record says cursor {cursor}, but its committed offset is {offset}")]
    Contradiction { cursor: NextOffset, offset: i64 },
}

/// As it stands in the metadata string; short, for the broker takes 4000 bytes.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Text {
    version: u32,
    epoch: Epoch,
    topic: NextOffset,
    lake: NextOffset,
    sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    manifest: Option<ManifestPointer>,
    window: (u64, NextOffset),
    transform: String,
    /// Counted from the lake cursor: how many offsets are not rejected, how many are, and so on.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    rejected: Vec<i64>,
}

/// The first form, of pipelines with a lake alone.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FirstText {
    #[serde(rename = "version")]
    _version: u32,
    epoch: Epoch,
    lake: NextOffset,
    sequence: u64,
    #[serde(default)]
    manifest: Option<ManifestPointer>,
}

#[derive(Deserialize)]
struct VersionOnly {
    version: u32,
}

impl CommittedRecord {
    /// The record of a slot that begins at `start`.
    pub fn first(epoch: Epoch, start: NextOffset, window_size: u64, transform: String) -> Self {
        Self {
            epoch,
            topic_cursor: start,
            lake_cursor: start,
            sequence: 0,
            manifest: None,
            window: WindowBounds { size: window_size, floor: start },
            transform,
            rejected: OffsetRanges::default(),
        }
    }

    /// The committed offset that the record belongs to.
    pub fn offset(&self) -> i64 {
        self.topic_cursor.0
    }

    /// Whether both sinks stand at the same offset.
    pub fn is_level(&self) -> bool {
        self.topic_cursor == self.lake_cursor
    }

    /// The metadata string, plain ASCII.
    ///
    /// # Panics
    /// When it is longer than a broker takes: the rejected ranges must be kept short.
    pub fn metadata(&self) -> String {
        let metadata = self.text();
        assert!(fits(&metadata), "a record is short ASCII: {metadata}");
        metadata
    }

    fn text(&self) -> String {
        let text = Text {
            version: VERSION,
            epoch: self.epoch,
            topic: self.topic_cursor,
            lake: self.lake_cursor,
            sequence: self.sequence,
            manifest: self.manifest.clone(),
            window: (self.window.size, self.window.floor),
            transform: self.transform.clone(),
            rejected: self.rejected.steps_from(self.lake_cursor),
        };
        serde_json::to_string(&text).unwrap_or_else(|error| panic!("plain fields: {error}"))
    }

    /// Reads the metadata of the committed offset `offset`.
    ///
    /// # Errors
    /// Metadata that no Millrace wrote, of a newer one, or that contradicts its offset.
    pub fn parse(offset: i64, metadata: &[u8]) -> Result<Self, RecordError> {
        let unreadable = |reason: String| RecordError::Unreadable {
            text: String::from_utf8_lossy(metadata).chars().take(200).collect(),
            reason,
        };
        let version: VersionOnly =
            serde_json::from_slice(metadata).map_err(|error| unreadable(error.to_string()))?;
        let record = match version.version {
            1 => {
                let text: FirstText =
                    serde_json::from_slice(metadata).map_err(|error| unreadable(error.to_string()))?;
                let record = Self::first(text.epoch, text.lake, 0, String::new());
                Self { sequence: text.sequence, manifest: text.manifest, ..record }
            }
            VERSION => {
                let text: Text =
                    serde_json::from_slice(metadata).map_err(|error| unreadable(error.to_string()))?;
                let rejected = OffsetRanges::of_steps(text.lake, &text.rejected).map_err(unreadable)?;
                if text.lake > text.topic || rejected.end().is_some_and(|end| end > text.topic) {
                    return Err(unreadable(format!(
                        "the lake cursor {} or a rejected offset lies beyond the topic cursor {}",
                        text.lake, text.topic
                    )));
                }
                Self {
                    epoch: text.epoch,
                    topic_cursor: text.topic,
                    lake_cursor: text.lake,
                    sequence: text.sequence,
                    manifest: text.manifest,
                    window: WindowBounds { size: text.window.0, floor: text.window.1 },
                    transform: text.transform,
                    rejected,
                }
            }
            found => return Err(RecordError::Newer { found }),
        };
        if record.topic_cursor.0 != offset {
            return Err(RecordError::Contradiction { cursor: record.topic_cursor, offset });
        }
        // The next commit writes most of it back.
        if !fits(&record.text()) {
            return Err(unreadable(format!(
                "it is no ASCII, or would be written with more than {LONGEST} bytes"
            )));
        }
        Ok(record)
    }
}

/// Whether a broker takes `metadata`, and gives it back as it was.
fn fits(metadata: &str) -> bool {
    metadata.is_ascii() && metadata.len() <= LONGEST
}

/// A set of offsets, as ranges that neither touch nor overlap, in their order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OffsetRanges(Vec<(i64, i64)>);

impl OffsetRanges {
    /// Adds an offset that is not below any in the set.
    ///
    /// # Panics
    /// At one that is: dropping it would make a rejected record a row.
    pub fn push(&mut self, offset: i64) {
        assert!(
            self.0.last().is_none_or(|(_, end)| offset >= end - 1),
            "offset {offset} comes after {:?}",
            self.0.last()
        );
        match self.0.last_mut() {
            Some((_, end)) if *end == offset => *end = offset + 1,
            Some((_, end)) if *end > offset => {}
            _ => self.0.push((offset, offset + 1)),
        }
    }

    pub fn contains(&self, offset: i64) -> bool {
        let after = self.0.partition_point(|(start, _)| *start <= offset);
        after > 0 && offset < self.0[after - 1].1
    }

    /// Forgets all offsets below `start`.
    pub fn forget_below(&mut self, start: NextOffset) {
        self.0.retain_mut(|(from, end)| {
            *from = (*from).max(start.0);
            *from < *end
        });
    }

    /// How many offsets are in the set.
    pub fn count(&self) -> u64 {
        self.0.iter().map(|(start, end)| end.abs_diff(*start)).sum()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Behind the last offset.
    pub fn end(&self) -> Option<NextOffset> {
        self.0.last().map(|(_, end)| NextOffset(*end))
    }

    /// Bytes that the ranges take in a record whose lake cursor is `start`.
    pub fn text_length(&self, start: NextOffset) -> usize {
        self.steps_from(start).iter().map(|step| step.to_string().len() + 1).sum()
    }

    fn steps_from(&self, start: NextOffset) -> Vec<i64> {
        let mut at = start.0;
        let mut steps = Vec::with_capacity(2 * self.0.len());
        for (from, end) in &self.0 {
            steps.extend([from - at, end - from]);
            at = *end;
        }
        steps
    }

    fn of_steps(start: NextOffset, steps: &[i64]) -> Result<Self, String> {
        let wrong = || format!("its rejected ranges {steps:?} are no pairs of distance and length");
        let (pairs, []) = steps.as_chunks::<2>() else { return Err(wrong()) };
        let mut at = start.0;
        let mut ranges = Vec::with_capacity(pairs.len());
        for [gap, length] in pairs {
            // Ranges that touch would have been one.
            let sound = *length > 0 && *gap >= i64::from(!ranges.is_empty());
            let from = at.checked_add(*gap).filter(|_| sound).ok_or_else(wrong)?;
            at = from.checked_add(*length).ok_or_else(wrong)?;
            ranges.push((from, at));
        }
        Ok(Self(ranges))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn record(start: i64, steps: &[(u16, u16)]) -> CommittedRecord {
        let mut record =
            CommittedRecord::first(Epoch(3), NextOffset(start), 100_000, "00112233aabbccdd".into());
        let mut at = start;
        for (gap, length) in steps {
            at += i64::from(*gap) + 1;
            for _ in 0..=*length % 5 {
                record.rejected.push(at);
                at += 1;
            }
        }
        record.topic_cursor = NextOffset(at + 7);
        record
    }

    proptest! {
        #[test]
        fn a_record_reads_back(start in 0..i64::MAX / 2, steps in proptest::collection::vec(any::<(u16, u16)>(), 0..100), sequence: u64, pointed: bool) {
            let mut record = record(start, &steps);
            record.sequence = sequence;
            record.manifest = pointed.then(|| ManifestPointer { key: "_staging/p-1/0-0/ab.json".into(), sha256: "0".repeat(64) });
            prop_assert_eq!(CommittedRecord::parse(record.offset(), record.metadata().as_bytes()), Ok(record));
        }

        #[test]
        fn foreign_metadata_is_refused_and_never_panics(metadata: Vec<u8>, offset: i64) {
            prop_assert!(CommittedRecord::parse(offset, &metadata).is_err());
        }

        #[test]
        fn a_record_with_any_ranges_is_read_or_refused(lake: i64, topic: i64, rejected: Vec<i64>) {
            let text = format!(
                r#"{{"version":2,"epoch":1,"topic":{topic},"lake":{lake},"sequence":0,"window":[5,{lake}],"transform":"0","rejected":{rejected:?}}}"#
            );
            if let Ok(record) = CommittedRecord::parse(topic, text.as_bytes()) {
                prop_assert!(record.lake_cursor <= record.topic_cursor);
                prop_assert!(record.rejected.end().is_none_or(|end| end <= record.topic_cursor));
            }
        }

        #[test]
        fn ranges_are_the_set_of_their_offsets(offsets in proptest::collection::btree_set(0..300i64, 0..100), below in 0..300i64) {
            let mut ranges = OffsetRanges::default();
            for offset in &offsets {
                ranges.push(*offset);
            }
            prop_assert_eq!(ranges.count(), offsets.len() as u64);
            for offset in 0..300 {
                prop_assert_eq!(ranges.contains(offset), offsets.contains(&offset));
            }
            ranges.forget_below(NextOffset(below));
            for offset in 0..300 {
                prop_assert_eq!(ranges.contains(offset), offset >= below && offsets.contains(&offset));
            }
        }
    }

    #[test]
    fn records_of_the_first_form_are_read() {
        let text = br#"{"version":1,"epoch":4,"lake":9,"sequence":2}"#;
        let record = CommittedRecord::parse(9, text).expect("a record");
        assert_eq!((record.topic_cursor, record.lake_cursor), (NextOffset(9), NextOffset(9)));
        assert_eq!(record.window, WindowBounds { size: 0, floor: NextOffset(9) });
    }

    #[test]
    fn a_record_that_contradicts_its_offset_or_comes_from_a_newer_build_is_refused() {
        let record = record(5, &[]);
        let metadata = record.metadata();
        let wrong = CommittedRecord::parse(record.offset() + 1, metadata.as_bytes());
        assert!(matches!(wrong, Err(RecordError::Contradiction { .. })));
        let newer = CommittedRecord::parse(6, br#"{"version":9,"anything":1}"#);
        assert_eq!(newer, Err(RecordError::Newer { found: 9 }));
    }

    #[test]
    fn a_record_that_could_not_be_written_again_is_refused() {
        let text = |transform: &str| {
            format!(
                r#"{{"version":2,"epoch":1,"topic":6,"lake":6,"sequence":0,"window":[0,0],"transform":"{transform}"}}"#
            )
        };
        let parse = |transform: &str| CommittedRecord::parse(6, text(transform).as_bytes());
        assert!(parse("00").is_ok());
        for wrong in ["ü".to_owned(), "\\u00fc".to_owned(), "0".repeat(LONGEST)] {
            assert!(matches!(parse(&wrong), Err(RecordError::Unreadable { .. })), "{wrong}");
        }
    }

    #[test]
    fn the_window_looks_back_no_further_than_its_floor() {
        let window = WindowBounds { size: 10, floor: NextOffset(95) };
        assert_eq!(window.reaches_back_to(100), NextOffset(95));
        assert_eq!(window.reaches_back_to(200), NextOffset(190));
        assert_eq!(WindowBounds { size: u64::MAX, floor: NextOffset(0) }.reaches_back_to(5), NextOffset(0));
    }
}
