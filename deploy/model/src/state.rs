//! One state of the model, in plain small values. What may happen to it stands in the other modules.

use crate::rules::{Broken, Rule};

/// Source records at most.
pub(crate) const MOST_RECORDS: usize = 4;
/// Workers at most.
pub(crate) const MOST_WORKERS: usize = 3;
/// Flushes that somebody still refers to, at most.
pub(crate) const FLUSHES: usize = 8;
/// Of a flush's objects in the staging prefix: two files and the manifest.
pub(crate) const MANIFEST: u8 = 2;

/// A set of source offsets, as bits.
pub(crate) type Offsets = u8;

/// The offsets from `start` to before `end`.
pub(crate) fn span(start: u8, end: u8) -> Offsets {
    (start..end).fold(0, |set, offset| set | 1 << offset)
}

/// Names a flush (its manifest and its files): a random key's stand-in, valid within one state.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct FlushId(u8);

impl FlushId {
    pub(crate) const NONE: Self = Self(0);

    pub(crate) fn of(index: usize) -> Self {
        Self(u8::try_from(index + 1).unwrap_or(u8::MAX))
    }

    pub(crate) fn index(self) -> Option<usize> {
        (self.0 > 0).then(|| usize::from(self.0 - 1))
    }

    pub(crate) fn is_some(self) -> bool {
        self.0 > 0
    }
}

/// `CommittedRecord` of `common/src/record.rs`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Record {
    pub(crate) epoch: u8,
    pub(crate) topic: u8,
    pub(crate) lake: u8,
    pub(crate) sequence: u8,
    pub(crate) manifest: FlushId,
    pub(crate) rejected: Offsets,
    pub(crate) transform: u8,
}

/// Where a worker stands with the slot.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Phase {
    /// Not part of this bound.
    #[default]
    Absent,
    /// Runs, and has no grant of the slot.
    Idle,
    Fence,
    Read,
    List,
    Claim,
    GetManifest,
    /// The manifest was not there: the owner halts, a deposed one stops.
    ProveManifest,
    RollForward,
    Collect,
    Work,
    /// Halted without a cause: always a violation.
    Halted,
}

/// The next step of a transaction under way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Step {
    #[default]
    None,
    /// TxnOffsetCommit, with the record.
    Offsets,
    End,
    /// Of the mutant that keeps the cursor elsewhere.
    ExternalCursor,
}

/// The next step of a file's publication.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Publish {
    #[default]
    Compare,
    Copy,
    /// The source was not there.
    CompareAgain,
    CompareCopy,
    DeleteStaged,
    DeletePrevious,
    /// Neither source nor match.
    Missing,
}

/// A transaction that a worker's commit has begun.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Commit {
    pub(crate) step: Step,
    pub(crate) record: Record,
    /// The flush that it decides.
    pub(crate) flush: FlushId,
    /// A request was sent again without an answer to the first.
    pub(crate) doubt: bool,
    /// It proves the ownership before a missing file is looked for again.
    pub(crate) proof: bool,
}

/// A publication under way.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Publication {
    pub(crate) flush: FlushId,
    pub(crate) file: u8,
    pub(crate) step: Publish,
    pub(crate) previous: FlushId,
    /// Ownership was proven since something was missing.
    pub(crate) proven: bool,
}

/// A worker with what it holds in memory of the slot: `Slot`, `Claimed` and `Work` of `worker/src/slot`.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Worker {
    pub(crate) phase: Phase,
    pub(crate) build: u8,
    pub(crate) epoch: u8,
    pub(crate) opened: bool,
    pub(crate) definition: u8,
    /// Its producer is the newest of the transactional id.
    pub(crate) current: bool,
    /// What the open transaction holds is its own.
    pub(crate) in_transaction: bool,
    /// The last record committed is its own.
    pub(crate) committed_last: bool,
    /// As read, then as committed.
    pub(crate) record: Record,
    /// What its LIST showed: for each flush, which objects.
    pub(crate) listed: [u8; FLUSHES],
    pub(crate) position: u8,
    pub(crate) topic_from: u8,
    pub(crate) lake_from: u8,
    pub(crate) stops_at_topic: bool,
    /// Offsets that were rejected, as far as they still matter.
    pub(crate) rejected: Offsets,
    pub(crate) flushed_to: u8,
    /// Being staged, and the object to be put next.
    pub(crate) staging: FlushId,
    pub(crate) next_put: u8,
    /// Staged, and waits for its commit.
    pub(crate) staged: FlushId,
    pub(crate) publication: Publication,
    pub(crate) commit: Commit,
}

/// The manifest of a flush, and which of its objects lie in the staging prefix.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Flush {
    pub(crate) used: bool,
    pub(crate) sequence: u8,
    pub(crate) start: u8,
    pub(crate) end: u8,
    pub(crate) rows: Offsets,
    pub(crate) build: u8,
    pub(crate) present: u8,
    /// Objects that another owner's upload has replaced (of a mutant).
    pub(crate) replaced: u8,
}

/// A request that Kafka gets late, of the newest producer. Those of older ones are refused and mean nothing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LateKafka {
    #[default]
    None,
    Offsets(Record),
    End,
}

/// A request that the store gets late.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LateStore {
    #[default]
    None,
    Put(FlushId, u8),
    Copy(FlushId, u8),
    Delete(FlushId, u8),
}

/// The transaction that Kafka has open for the transactional id.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Transaction {
    pub(crate) open: bool,
    pub(crate) enriched: Offsets,
    pub(crate) invalid: Offsets,
    pub(crate) record: Option<Record>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Kafka {
    pub(crate) transaction: Transaction,
    pub(crate) record: Option<Record>,
    /// Committed, and not applied by the group's coordinator yet: a stable read waits for it.
    pub(crate) pending: Option<Record>,
    /// What a `read_committed` reader of the enriched topic sees.
    pub(crate) enriched: Offsets,
    /// The same of the invalid topic.
    pub(crate) invalid: Offsets,
    pub(crate) late: [LateKafka; 2],
    /// A record lies there of no transaction, which no end will ever come for (of a mutant).
    pub(crate) hanging: bool,
    /// The committed offset has expired once.
    pub(crate) expired: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Store {
    pub(crate) flushes: [Flush; FLUSHES],
    /// Contents under the final keys: two files for each start offset.
    pub(crate) files: [[Content; 2]; MOST_RECORDS],
    pub(crate) late: LateStore,
}

/// Bytes of a file in the lake. Equal values have equal hashes.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Content {
    #[default]
    Nothing,
    Rows {
        rows: Offsets,
        build: u8,
    },
    /// Of a replaced object: whatever else.
    Foreign,
}

/// What the master's store holds of the slot.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Master {
    pub(crate) epoch: u8,
    pub(crate) opened: bool,
    pub(crate) definition: u8,
    /// It lost its store once: it may grant an epoch twice.
    pub(crate) forgot: bool,
}

/// Faults that may still happen.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Faults {
    /// SIGKILL.
    pub(crate) crashes: u8,
    /// Grants to another worker while the owner lives: frozen, cut off, or just slow.
    pub(crate) moves: u8,
    /// Answers lost, requests sent again or late: to Kafka.
    pub(crate) kafka: u8,
    /// The same to the store; and copies that answer 200 with an error.
    pub(crate) store: u8,
    /// Transaction time-outs, and late fences of nobody.
    pub(crate) expiries: u8,
    /// Workers that start with the new build.
    pub(crate) builds: u8,
    /// Changes of the transform's definition.
    pub(crate) definitions: u8,
    /// Losses of the committed offset.
    pub(crate) record_losses: u8,
    /// The master's store falls back to its beginning.
    pub(crate) forgets: u8,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct State {
    pub(crate) workers: [Worker; MOST_WORKERS],
    pub(crate) kafka: Kafka,
    pub(crate) store: Store,
    pub(crate) master: Master,
    pub(crate) faults: Faults,
    /// What steps have broken.
    pub(crate) broken: Broken,
}

impl State {
    /// The record as it stands once everything committed is applied.
    pub(crate) fn committed(&self) -> Option<Record> {
        self.kafka.pending.or(self.kafka.record)
    }

    pub(crate) fn flush(&self, id: FlushId) -> Flush {
        id.index().map_or_else(Flush::default, |index| self.store.flushes[index])
    }

    pub(crate) fn break_rule(&mut self, rule: Rule) {
        self.broken.note(rule);
    }
}

impl Flush {
    /// Rows of each of its files: the first build makes a file of even and one of odd offsets, as of two days; the new one
    /// puts all in one.
    pub(crate) fn files(&self) -> Vec<Offsets> {
        let parts = if self.build == 0 { vec![self.rows & 0x55, self.rows & 0xaa] } else { vec![self.rows] };
        parts.into_iter().filter(|rows| *rows != 0).collect()
    }

    pub(crate) fn content(&self, file: u8) -> Content {
        let rows = self.files().get(usize::from(file)).copied().unwrap_or(0);
        Content::Rows { rows, build: self.build }
    }

    pub(crate) fn holds(&self, object: u8) -> bool {
        self.present >> object & 1 == 1
    }
}
