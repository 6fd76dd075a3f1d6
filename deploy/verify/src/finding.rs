//! What can be wrong, counted by kind, with a bounded number of examples each. Pure.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Examples that are kept of each kind.
pub const EXAMPLES: usize = 10;

/// A kind of fault. Every one of them makes the verdict "wrong".
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FindingKind {
    /// A raw record below the lake cursor that is neither in the lake nor quarantined.
    Missing,
    /// Below the topic cursor, and neither on the enriched topic nor quarantined.
    MissingOnTopic,
    /// A further copy of a raw record: in the lake again, quarantined again, or both.
    Doubled,
    /// A further copy on the enriched topic, or one there of a record that is quarantined.
    DoubledOnTopic,
    /// A row, or a quarantined record, whose content is not the raw record's.
    Altered,
    /// An enriched record whose key, or the client's part of its value, is not what the transform makes of the raw record.
    AlteredOnTopic,
    /// A row whose derived columns are not what this version finds out about the event.
    DerivedAltered,
    /// An enriched record whose added member is not what this version finds out about the event.
    DerivedAlteredOnTopic,
    /// A row, or a quarantined record, at an offset where the raw topic has no record.
    Unexplained,
    /// The same of an enriched record, or one whose headers name no source of the pipeline.
    UnexplainedOnTopic,
    /// An enriched record in another partition than its source's.
    Misrouted,
    /// In a sink or quarantined, although a record with the same key came before it within the window.
    DuplicateKept,
    /// In a sink, although the transform leaves it out.
    FilteredKept,
    /// In a sink, although the transform rejects it.
    RejectedKept,
    /// Quarantined, although the transform does not reject it.
    QuarantinedInVain,
    /// A row in another day's folder than its own.
    Misplaced,
    /// A row that names another topic or partition than its file.
    Misfiled,
    /// A row outside the range of its file's flush.
    OutsideRange,
    /// Visible before its commit: at or beyond the lake cursor.
    Uncommitted,
    /// The same on the enriched topic.
    UncommittedOnTopic,
    /// Flushes of one slot that overlap, leave a gap, or contradict each other.
    BrokenChain,
    /// A key and a footer that name different things, or a footer that can't be read.
    FooterDisagrees,
    /// An object below the day folders that can't be read as Parquet.
    Unreadable,
    /// A file that another pipeline, or something else than Millrace, put below the day folders.
    Foreign,
    /// A file of a slot that the pipeline's topics don't have.
    UnknownSlot,
    /// Rows without a committed offset of their slot.
    CursorLost,
    /// A committed offset whose record can't be read.
    RecordDamaged,
    /// Raw records that retention took before the sinks had them.
    Lost,
    /// The committed cursor lies beyond the end of the raw topic, which has lost records.
    CursorBeyondEnd,
}

impl FindingKind {
    /// What is said of one or more of them.
    pub fn describe(self) -> &'static str {
        match self {
            Self::Missing => "missing: below the lake cursor, neither in the lake nor quarantined",
            Self::MissingOnTopic => {
                "missing on the enriched topic: below its cursor, neither there nor quarantined"
            }
            Self::Doubled => "doubled: more than one copy in lake and quarantine",
            Self::DoubledOnTopic => {
                "doubled on the enriched topic: more than one copy there and in quarantine"
            }
            Self::Altered => "altered: the content is not the raw record's",
            Self::AlteredOnTopic => {
                "altered on the enriched topic: not what the transform makes of the raw record"
            }
            Self::DerivedAltered => {
                "derived altered: columns that are not what this version finds out about the event"
            }
            Self::DerivedAlteredOnTopic => {
                "derived altered on the enriched topic: a member that is not what this version finds out"
            }
            Self::Unexplained => "unexplained: no raw record at that offset",
            Self::UnexplainedOnTopic => "unexplained on the enriched topic: no raw record at that offset",
            Self::Misrouted => "misrouted: an enriched record in another partition than its source's",
            Self::DuplicateKept => "duplicate kept: a client duplicate that was not dropped",
            Self::FilteredKept => "filtered kept: in a sink, although the transform leaves it out",
            Self::RejectedKept => "rejected kept: in a sink, although the transform rejects it",
            Self::QuarantinedInVain => "quarantined in vain: the transform does not reject it",
            Self::Misplaced => "misplaced: a row in another day's folder",
            Self::Misfiled => "misfiled: a row of another topic or partition than its file",
            Self::OutsideRange => "outside its range: a row beyond what its file's footer covers",
            Self::Uncommitted => "uncommitted: visible at or beyond the lake cursor",
            Self::UncommittedOnTopic => "uncommitted: visible at or beyond the topic cursor",
            Self::BrokenChain => "broken chain: flushes of a slot that don't follow one another",
            Self::FooterDisagrees => "footer disagrees: key and footer name different things",
            Self::Unreadable => "unreadable: no Parquet file, below the day folders",
            Self::Foreign => "foreign: not a file of this pipeline",
            Self::UnknownSlot => "unknown slot: the topic has no such partition",
            Self::CursorLost => "cursor lost: the lake has files, but Kafka no committed offset",
            Self::RecordDamaged => "record damaged: the committed offset's metadata can't be read",
            Self::Lost => "lost: the raw topic dropped offsets before the sinks had them",
            Self::CursorBeyondEnd => "cursor beyond the end: the raw topic has lost records",
        }
    }
}

/// All faults of one kind.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Finding {
    pub count: u64,
    /// The first ones, for people: at most [`EXAMPLES`].
    pub examples: Vec<String>,
}

/// The faults found so far.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Findings(BTreeMap<FindingKind, Finding>);

impl Findings {
    /// Counts one fault; `example` is only asked while there is room.
    pub fn add(&mut self, kind: FindingKind, example: impl FnOnce() -> String) {
        self.add_many(kind, 1, example);
    }

    /// Counts `count` faults that one example tells of.
    pub fn add_many(&mut self, kind: FindingKind, count: u64, example: impl FnOnce() -> String) {
        if count == 0 {
            return;
        }
        let finding = self.0.entry(kind).or_default();
        finding.count += count;
        if finding.examples.len() < EXAMPLES {
            finding.examples.push(example());
        }
    }

    pub fn count(&self, kind: FindingKind) -> u64 {
        self.0.get(&kind).map_or(0, |finding| finding.count)
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> impl Iterator<Item = (FindingKind, &Finding)> {
        self.0.iter().map(|(kind, finding)| (*kind, finding))
    }

    pub fn merge(&mut self, other: Self) {
        for (kind, finding) in other.0 {
            let mine = self.0.entry(kind).or_default();
            mine.count += finding.count;
            let room = EXAMPLES.saturating_sub(mine.examples.len());
            mine.examples.extend(finding.examples.into_iter().take(room));
        }
    }
}
