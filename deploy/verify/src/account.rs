//! The accounting of one sink of one slot: every raw offset is exactly one of in the sink, quarantined, a client
//! duplicate, filtered, in flight or, which is wrong, missing. Pure: facts go in, an account and findings come out; it
//! refuses all IO and clocks.
//!
//! A row or enriched record costs 32 bytes while its slot is accounted, a raw record none unless nothing accounts for
//! it.

use std::ops::Range;

use millrace_common::types::NextOffset;
use serde::{Deserialize, Serialize};

use crate::finding::{FindingKind, Findings};

/// 128 bits that stand for an event and the time of its receipt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fingerprint([u64; 2]);

impl Fingerprint {
    /// Of a row from which no event can be rebuilt: equal to nothing, not even to itself in the accounting.
    pub const NO_EVENT: Self = Self([0, 0]);

    /// `canonical_hash` as [`millrace_common::event::canonical_hash`] gives it; `received_ms` is Kafka's
    /// timestamp, negative if there is none.
    pub fn new(canonical_hash: &[u8; 32], received_ms: i64) -> Self {
        let (first, rest) = canonical_hash.split_at(8);
        let word = |bytes: &[u8]| bytes.iter().fold(0u64, |word, byte| word << 8 | u64::from(*byte));
        // The constant is odd, so two times of the same event never give the same fingerprint.
        let received = received_ms.max(-1).cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Self([word(first), word(&rest[..8]) ^ received])
    }
}

impl Fingerprint {
    /// Of any bytes, within this process.
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(STATES.map(|state| state.hash_one(bytes)))
    }

    /// Of a record's key and value, within this process.
    pub fn of_record(key: Option<&[u8]>, value: Option<&[u8]>) -> Self {
        Self(STATES.map(|state| state.hash_one((key, value))))
    }

    /// 32 bits of it.
    pub fn short(self) -> u32 {
        u32::try_from(self.0[0] >> 32).unwrap_or(u32::MAX)
    }
}

const STATES: [ahash::RandomState; 2] =
    [ahash::RandomState::with_seeds(3, 29, 53, 101), ahash::RandomState::with_seeds(7, 31, 61, 89)];

/// Which of a pipeline's sinks is accounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    Lake,
    Topic,
}

/// A row of the lake, or a record of the enriched topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowFact {
    pub offset: i64,
    pub content: Fingerprint,
    /// Of a row: the index of its file, for the examples. Of an enriched record: what stands for the client's part of
    /// it, without what was found out.
    pub file: u32,
}

/// What the documentation promises.
const _: () = assert!(size_of::<RowFact>() == 32);

/// A quarantined record that names this slot as its source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuarantineFact {
    /// The source offset that its header names.
    pub offset: i64,
    /// Hash of its key and value.
    pub bytes: u64,
    /// It was set aside because the transform, or the process, failed on it: no verdict that can be recomputed.
    pub failed: bool,
}

/// Whether a record is a client duplicate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Duplicate {
    No,
    Yes,
    /// Its key came before it, but below the window's floor, where other rules held that nobody remembers.
    Perhaps,
}

/// What one of the pipeline's transforms makes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Judgement {
    Kept {
        /// What the lake's row must be.
        row: Fingerprint,
        /// What the enriched record must be, and what stands for the client's part of it.
        enriched: Fingerprint,
        client: u32,
    },
    Filtered,
    Rejected,
}

/// A record of the raw topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RawFact {
    pub offset: i64,
    /// Hash of its key and value.
    pub bytes: u64,
    pub duplicate: Duplicate,
    /// By the pipeline's transform, and by those that it had before.
    pub judgements: Vec<Judgement>,
}

impl RawFact {
    fn may_be_kept(&self) -> bool {
        self.judgements.iter().any(|judgement| matches!(judgement, Judgement::Kept { .. }))
    }

    fn may_be(&self, judgement: Judgement) -> bool {
        self.judgements.contains(&judgement)
    }
}

/// Where the records of a slot, or of all, are. The first seven are the accounting: the first is the sum of the
/// others (of the one of the two sinks that is there, or of the lake) and `missing`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Account {
    /// Records that the raw topic holds, up to the end that was taken at the start.
    pub raw_records: u64,
    /// Zero for a pipeline without lake.
    pub in_lake: u64,
    /// Zero for a pipeline without topic sink.
    pub on_topic: u64,
    pub quarantined: u64,
    pub client_duplicates: u64,
    pub filtered: u64,
    /// At or beyond the cursor and nowhere yet.
    pub in_flight: u64,
    pub missing: u64,
    /// Copies beyond the first, in lake and quarantine.
    pub duplicates: u64,
    pub altered: u64,
    pub unexplained: u64,
    /// Rows, or quarantined records, at or beyond the lake cursor.
    pub uncommitted: u64,
    /// All rows that were read, also those of records that are gone or came after the end.
    pub lake_rows: u64,
    /// The same of the enriched topic.
    pub topic_records: u64,
    /// Faults of the enriched topic, where there is a lake beside it.
    pub topic_missing: u64,
    pub topic_duplicates: u64,
    pub topic_altered: u64,
    pub topic_unexplained: u64,
    pub topic_uncommitted: u64,
    /// Enriched records of which the client's part is right, and what was found out is not what this version finds.
    pub derived_otherwise: u64,
    /// Of these, in hive's default partition.
    pub unplaced: u64,
    /// Rows and quarantined records whose raw record is gone by retention: proven by the files' ranges only.
    pub proven_by_ranges_only: u64,
    /// Offsets that are gone from the raw topic and lie between the files' ranges: nothing proves them.
    pub unproven: u64,
}

impl Account {
    /// Adds the account of the enriched topic; where it is the only sink, the whole account is its.
    pub fn add_topic(&mut self, topic: &Self, is_only_sink: bool) {
        if is_only_sink {
            self.add(topic);
            return;
        }
        self.on_topic += topic.on_topic;
        self.topic_records += topic.topic_records;
        self.topic_missing += topic.missing;
        self.topic_duplicates += topic.duplicates;
        self.topic_altered += topic.altered;
        self.topic_unexplained += topic.unexplained;
        self.topic_uncommitted += topic.uncommitted;
        self.derived_otherwise += topic.derived_otherwise;
    }

    pub fn add(&mut self, other: &Self) {
        self.raw_records += other.raw_records;
        self.in_lake += other.in_lake;
        self.quarantined += other.quarantined;
        self.client_duplicates += other.client_duplicates;
        self.filtered += other.filtered;
        self.in_flight += other.in_flight;
        self.missing += other.missing;
        self.duplicates += other.duplicates;
        self.altered += other.altered;
        self.unexplained += other.unexplained;
        self.uncommitted += other.uncommitted;
        self.lake_rows += other.lake_rows;
        self.on_topic += other.on_topic;
        self.topic_records += other.topic_records;
        self.topic_missing += other.topic_missing;
        self.topic_duplicates += other.topic_duplicates;
        self.topic_altered += other.topic_altered;
        self.topic_unexplained += other.topic_unexplained;
        self.topic_uncommitted += other.topic_uncommitted;
        self.derived_otherwise += other.derived_otherwise;
        self.unplaced += other.unplaced;
        self.proven_by_ranges_only += other.proven_by_ranges_only;
        self.unproven += other.unproven;
    }
}

/// What was collected about a slot's sink before the raw records are read.
#[derive(Debug)]
pub struct SlotFacts {
    pub sink: Sink,
    /// Faults of the quarantine are told here; of a pipeline's two sinks only one does.
    pub tells_of_quarantine: bool,
    /// For the examples: `topic/partition`.
    pub place: String,
    pub rows: Vec<RowFact>,
    pub quarantined: Vec<QuarantineFact>,
    /// The sink's cursor, read before anything else.
    pub cursor: NextOffset,
    /// The end of the raw partition, taken after the cursor.
    pub end: NextOffset,
    /// The files' names, by their index in [`RowFact`].
    pub files: Vec<String>,
}

impl SlotFacts {
    fn file(&self, index: u32) -> &str {
        match self.sink {
            Sink::Topic => "the enriched topic",
            Sink::Lake => self.files.get(index as usize).map_or("an unknown file", String::as_str),
        }
    }

    fn kind(&self, in_lake: FindingKind) -> FindingKind {
        match (self.sink, in_lake) {
            (Sink::Lake, kind) => kind,
            (Sink::Topic, FindingKind::Missing) => FindingKind::MissingOnTopic,
            (Sink::Topic, FindingKind::Doubled) => FindingKind::DoubledOnTopic,
            (Sink::Topic, FindingKind::Altered) => FindingKind::AlteredOnTopic,
            (Sink::Topic, FindingKind::Unexplained) => FindingKind::UnexplainedOnTopic,
            (Sink::Topic, FindingKind::Uncommitted) => FindingKind::UncommittedOnTopic,
            (Sink::Topic, kind) => kind,
        }
    }
}

/// All copies of one offset.
#[derive(Debug)]
struct Copies {
    offset: i64,
    rows: Range<usize>,
    quarantined: Range<usize>,
}

impl Copies {
    fn count(&self) -> usize {
        self.rows.len() + self.quarantined.len()
    }
}

/// Goes through a slot's raw records in the order of their offsets.
#[derive(Debug)]
pub struct Accountant {
    facts: SlotFacts,
    next_row: usize,
    next_quarantined: usize,
    /// Raw records below are gone.
    gone_until: i64,
    account: Account,
    findings: Findings,
    /// Records below the cursor that nothing accounts for so far.
    pending: Vec<RawFact>,
}

impl Accountant {
    pub fn new(mut facts: SlotFacts) -> Self {
        facts.rows.sort_unstable_by_key(|row| (row.offset, row.file));
        facts.quarantined.sort_unstable_by_key(|record| record.offset);
        if !facts.tells_of_quarantine {
            facts.quarantined.dedup_by_key(|record| record.offset);
        }
        Self {
            account: Account::default(),
            facts,
            next_row: 0,
            next_quarantined: 0,
            gone_until: i64::MIN,
            findings: Findings::default(),
            pending: Vec::new(),
        }
    }

    /// The raw topic no longer holds what lies below `offset`. Records below that were handed in stay judged.
    pub fn gone_until(&mut self, offset: i64) {
        self.settle_below(offset.min(self.facts.end.0), true);
        self.gone_until = self.gone_until.max(offset);
    }

    /// The next raw record. Those at or beyond the end are not part of the account.
    pub fn raw(&mut self, record: RawFact) {
        if record.offset >= self.facts.end.0 {
            return;
        }
        self.settle_below(record.offset, false);
        self.account.raw_records += 1;
        let found = self.copies_below(record.offset + 1);
        match found {
            Some(copies) => self.compare(&record, &copies),
            None if record.offset >= self.facts.cursor.0 => self.account.in_flight += 1,
            None if record.duplicate != Duplicate::No => self.account.client_duplicates += 1,
            None if record.may_be(Judgement::Filtered) => self.account.filtered += 1,
            None => self.pending.push(record),
        }
    }

    /// Offsets below the cursor that nothing accounts for so far, ascending.
    pub fn pending(&self) -> impl DoubleEndedIterator<Item = i64> {
        self.pending.iter().map(|record| record.offset)
    }

    /// Says that all raw records were handed in.
    pub fn raw_done(&mut self) {
        self.settle_below(self.facts.end.0, false);
        // What came after the end was taken is only counted, but still may not stand there twice.
        while let Some(copies) = self.copies_below(i64::MAX) {
            self.judge_copies(&copies);
        }
    }

    /// Rows that were published after the first look, in files whose indices follow those that are known. Call
    /// after [`Accountant::raw_done`].
    pub fn late_rows(&mut self, files: Vec<String>, mut rows: Vec<RowFact>) {
        self.facts.files.extend(files);
        rows.sort_unstable_by_key(|row| (row.offset, row.file));
        let pending = std::mem::take(&mut self.pending);
        let mut found = vec![false; pending.len()];
        for copies in rows.chunk_by(|one, other| one.offset == other.offset) {
            let offset = copies[0].offset;
            let mut known = self.has_copy(offset);
            if let Ok(index) = pending.binary_search_by_key(&offset, |record| record.offset) {
                found[index] = true;
                self.account.in_lake += 1;
                for row in copies {
                    self.compare_row(&pending[index], row);
                }
            } else if !known && offset >= self.gone_until && offset < self.facts.cursor.0 {
                self.unexplained(offset, |facts| facts.file(copies[0].file).to_owned());
            }
            for row in copies {
                if std::mem::replace(&mut known, true) {
                    self.double(offset, |facts| facts.file(row.file).to_owned());
                }
            }
        }
        let still = pending.into_iter().zip(found).filter(|(_, found)| !found);
        self.pending = still.map(|(record, _)| record).collect();
        self.facts.rows.append(&mut rows);
        self.facts.rows.sort_unstable_by_key(|row| (row.offset, row.file));
        self.next_row = self.facts.rows.len();
    }

    /// The account. `cursor_now` is the sink's cursor, `quarantined_now` that of the sink whose commits take along what
    /// is quarantined; both were read after everything else.
    pub fn finish(mut self, cursor_now: NextOffset, quarantined_now: NextOffset) -> (Account, Findings) {
        self.raw_done();
        let (missing, uncommitted) =
            (self.facts.kind(FindingKind::Missing), self.facts.kind(FindingKind::Uncommitted));
        for record in std::mem::take(&mut self.pending) {
            self.account.missing += 1;
            self.findings.add(missing, || format!("{} {}", self.facts.place, record.offset));
        }
        let rows = &self.facts.rows[self.facts.rows.partition_point(|row| row.offset < cursor_now.0)..];
        for row in rows {
            self.account.uncommitted += 1;
            self.findings.add(uncommitted, || {
                format!(
                    "{} {}, cursor {cursor_now}, in {}",
                    self.facts.place,
                    row.offset,
                    self.facts.file(row.file)
                )
            });
        }
        let quarantined = self.facts.quarantined.iter().filter(|_| self.facts.tells_of_quarantine);
        for record in quarantined.filter(|record| record.offset >= quarantined_now.0) {
            self.account.uncommitted += 1;
            self.findings.add(FindingKind::Uncommitted, || {
                format!("{} {}, cursor {quarantined_now}, quarantined", self.facts.place, record.offset)
            });
        }
        let (records, mut account) = (self.facts.rows.len() as u64, self.account);
        match self.facts.sink {
            Sink::Lake => account.lake_rows = records,
            Sink::Topic => {
                account.topic_records = records;
                account.on_topic = std::mem::take(&mut account.in_lake);
            }
        }
        (account, self.findings)
    }

    /// Judges what lies below `offset` and belongs to no raw record that was handed in.
    fn settle_below(&mut self, offset: i64, gone: bool) {
        while let Some(copies) = self.copies_below(offset) {
            self.judge_copies(&copies);
            if gone || copies.offset < self.gone_until {
                self.account.proven_by_ranges_only += 1;
            } else {
                self.unexplained(copies.offset, |facts| whereabouts(facts, &copies));
            }
        }
    }

    /// Takes all copies of the lowest offset that is left, if it lies below `limit`.
    fn copies_below(&mut self, limit: i64) -> Option<Copies> {
        let rows = &self.facts.rows[self.next_row..];
        let quarantined = &self.facts.quarantined[self.next_quarantined..];
        let lowest = [rows.first().map(|row| row.offset), quarantined.first().map(|record| record.offset)];
        let offset = lowest.into_iter().flatten().min().filter(|offset| *offset < limit)?;
        let row_count = rows.iter().take_while(|row| row.offset == offset).count();
        let quarantined_count = quarantined.iter().take_while(|record| record.offset == offset).count();
        let copies = Copies {
            offset,
            rows: self.next_row..self.next_row + row_count,
            quarantined: self.next_quarantined..self.next_quarantined + quarantined_count,
        };
        self.next_row = copies.rows.end;
        self.next_quarantined = copies.quarantined.end;
        Some(copies)
    }

    fn has_copy(&self, offset: i64) -> bool {
        self.facts.rows.binary_search_by_key(&offset, |row| row.offset).is_ok()
            || self.facts.quarantined.binary_search_by_key(&offset, |record| record.offset).is_ok()
    }

    fn compare(&mut self, record: &RawFact, copies: &Copies) {
        if copies.rows.is_empty() {
            self.account.quarantined += 1;
        } else {
            self.account.in_lake += 1;
        }
        self.judge_copies(copies);
        if record.duplicate == Duplicate::Yes {
            self.fault(FindingKind::DuplicateKept, record.offset, |facts| whereabouts(facts, copies));
        }
        let is_filtered = !record.may_be_kept() && record.may_be(Judgement::Filtered);
        for index in copies.rows.clone() {
            let row = self.facts.rows[index];
            if is_filtered {
                self.fault(FindingKind::FilteredKept, record.offset, |facts| facts.file(row.file).to_owned());
            } else {
                self.compare_row(record, &row);
            }
        }
        if !self.facts.tells_of_quarantine {
            return;
        }
        for index in copies.quarantined.clone() {
            let fact = self.facts.quarantined[index];
            if !fact.failed && !record.may_be(Judgement::Rejected) {
                self.fault(FindingKind::QuarantinedInVain, record.offset, |_| "the quarantine".to_owned());
            }
            if fact.bytes != record.bytes {
                self.account.altered += 1;
                self.findings.add(FindingKind::Altered, || {
                    format!("{} {}, quarantined", self.facts.place, record.offset)
                });
            }
        }
    }

    fn compare_row(&mut self, record: &RawFact, row: &RowFact) {
        let sink = self.facts.sink;
        let is_right = record.judgements.iter().any(|judgement| match judgement {
            Judgement::Kept { row: right, .. } if sink == Sink::Lake => *right == row.content,
            Judgement::Kept { enriched, .. } if sink == Sink::Topic => *enriched == row.content,
            _ => false,
        });
        if is_right && row.content != Fingerprint::NO_EVENT {
            return;
        }
        let is_clients = |judgement: &Judgement| matches!(judgement, Judgement::Kept { client, .. } if *client == row.file);
        if sink == Sink::Topic && record.judgements.iter().any(is_clients) {
            self.account.derived_otherwise += 1;
            return;
        }
        self.account.altered += 1;
        self.fault(FindingKind::Altered, row.offset, |facts| facts.file(row.file).to_owned());
    }

    fn judge_copies(&mut self, copies: &Copies) {
        for _ in 1..copies.count() {
            self.double(copies.offset, |facts| whereabouts(facts, copies));
        }
    }

    fn double(&mut self, offset: i64, whereabouts: impl FnOnce(&SlotFacts) -> String) {
        self.account.duplicates += 1;
        self.fault(FindingKind::Doubled, offset, whereabouts);
    }

    fn unexplained(&mut self, offset: i64, whereabouts: impl FnOnce(&SlotFacts) -> String) {
        self.account.unexplained += 1;
        self.fault(FindingKind::Unexplained, offset, whereabouts);
    }

    fn fault(&mut self, kind: FindingKind, offset: i64, whereabouts: impl FnOnce(&SlotFacts) -> String) {
        let facts = &self.facts;
        self.findings.add(facts.kind(kind), || format!("{} {offset} in {}", facts.place, whereabouts(facts)));
    }
}

fn whereabouts(facts: &SlotFacts, copies: &Copies) -> String {
    let rows = facts.rows[copies.rows.clone()].iter().map(|row| facts.file(row.file));
    let quarantined = copies.quarantined.clone().map(|_| "the quarantine");
    rows.chain(quarantined).collect::<Vec<_>>().join(" and ")
}
