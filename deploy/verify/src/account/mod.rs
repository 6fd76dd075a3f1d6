//! The accounting of one sink of one slot: every raw offset is exactly one of in the sink, quarantined, a client
//! duplicate, filtered, in flight or, which is wrong, missing. Pure: facts go in, an account and findings come out; it
//! refuses all IO and clocks.
//!
//! A row or enriched record costs 32 bytes while its slot is accounted, a raw record none unless nothing accounts for
//! it.

mod accountants;
mod fact;
mod set_aside;
mod sum;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;

use millrace_common::types::NextOffset;

pub use self::accountants::{Accountants, CursorsNow};
use self::fact::Excuse;
pub use self::fact::{Duplicate, Fingerprint, Judgement, Made, QuarantineFact, RawFact, RowFact};
pub use self::set_aside::QuarantineAccountant;
pub use self::sum::Account;
use crate::finding::{FindingKind, Findings};

/// Which of a pipeline's sinks is accounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sink {
    Lake,
    Topic,
}

/// Where a raw record is, as far as one sink tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    InSink,
    Quarantined,
    /// Rightly in no sink.
    LeftOut,
    /// The sink has not come so far, or no longer goes back so far.
    Undecided,
    /// Nowhere, as yet.
    Nowhere,
}

/// What was collected about a slot's sink before the raw records are read.
#[derive(Debug)]
pub struct SlotFacts {
    pub sink: Sink,
    /// For the examples: `topic/partition`.
    pub place: String,
    pub rows: Vec<RowFact>,
    /// Offsets that are quarantined, ascending, each once.
    pub quarantined: Arc<[i64]>,
    /// Raw records below it came before the pipeline's start.
    pub start: NextOffset,
    /// The sink no longer holds what it had of the records below.
    pub sink_gone_until: NextOffset,
    /// The newest flush that is visible ends there; what lies beyond may be about to be published.
    pub published_until: NextOffset,
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
            (Sink::Topic, FindingKind::DerivedAltered) => FindingKind::DerivedAlteredOnTopic,
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
    is_quarantined: bool,
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
    /// Records below the cursor that are in no sink, and not surely left out of it.
    pending: Vec<RawFact>,
}

impl Accountant {
    pub fn new(mut facts: SlotFacts) -> Self {
        facts.rows.sort_unstable_by_key(|row| (row.offset, row.file));
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
    pub fn raw(&mut self, record: &RawFact) -> Place {
        if record.offset >= self.facts.end.0 {
            return Place::Undecided;
        }
        self.settle_below(record.offset, false);
        let copies = self.copies_below(record.offset + 1);
        if copies.is_none() && record.offset < self.facts.start.0 {
            self.account.before_start += 1;
            return Place::Undecided;
        }
        self.account.raw_records += 1;
        if let Some(copies) = copies {
            return self.compare(record, &copies);
        }
        if record.offset >= self.facts.cursor.0 {
            self.account.in_flight += 1;
            return Place::Undecided;
        }
        let is_sure = record.is_surely_left_out();
        if record.offset < self.facts.sink_gone_until.0 && !is_sure {
            self.account.topic_gone += 1;
            return Place::Undecided;
        }
        match record.excuse() {
            Some(excuse) if is_sure || record.offset < self.facts.published_until.0 => {
                self.leave_out(excuse);
                Place::LeftOut
            }
            _ => {
                self.pending.push(record.clone());
                Place::Nowhere
            }
        }
    }

    /// Offsets below the cursor that nothing accounts for so far, ascending.
    pub fn pending(&self) -> impl DoubleEndedIterator<Item = i64> {
        self.pending.iter().filter(|record| record.excuse().is_none()).map(|record| record.offset)
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

    /// The account. `cursor_now` is the sink's cursor, read after everything else.
    pub fn finish(mut self, cursor_now: NextOffset) -> (Account, Findings) {
        self.raw_done();
        for record in std::mem::take(&mut self.pending) {
            if let Some(excuse) = record.excuse() {
                self.leave_out(excuse);
                continue;
            }
            self.account.missing += 1;
            let kind = self.facts.kind(FindingKind::Missing);
            self.findings.add(kind, || format!("{} {}", self.facts.place, record.offset));
        }
        let uncommitted = self.facts.kind(FindingKind::Uncommitted);
        let rows = &self.facts.rows[self.facts.rows.partition_point(|row| row.offset < cursor_now.0)..];
        for row in rows {
            self.account.uncommitted += 1;
            self.findings.add(uncommitted, || {
                let (place, file) = (&self.facts.place, self.facts.file(row.file));
                format!("{place} {}, cursor {cursor_now}, in {file}", row.offset)
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

    fn leave_out(&mut self, excuse: Excuse) {
        match excuse {
            Excuse::Duplicate => self.account.client_duplicates += 1,
            Excuse::Filtered => self.account.filtered += 1,
        }
    }

    /// Judges what lies below `offset` and belongs to no raw record that was handed in.
    fn settle_below(&mut self, offset: i64, gone: bool) {
        while let Some(copies) = self.copies_below(offset) {
            self.judge_copies(&copies);
            if gone || copies.offset < self.gone_until {
                self.account.proven_by_ranges_only += 1;
            } else if !copies.rows.is_empty() {
                self.unexplained(copies.offset, |facts| whereabouts(facts, &copies));
            }
        }
    }

    /// Takes all copies of the lowest offset that is left, if it lies below `limit`.
    fn copies_below(&mut self, limit: i64) -> Option<Copies> {
        let rows = &self.facts.rows[self.next_row..];
        let quarantined = self.facts.quarantined[self.next_quarantined..].first().copied();
        let lowest = [rows.first().map(|row| row.offset), quarantined];
        let offset = lowest.into_iter().flatten().min().filter(|offset| *offset < limit)?;
        let count = rows.iter().take_while(|row| row.offset == offset).count();
        let copies = Copies {
            offset,
            rows: self.next_row..self.next_row + count,
            is_quarantined: quarantined == Some(offset),
        };
        self.next_row = copies.rows.end;
        self.next_quarantined += usize::from(copies.is_quarantined);
        Some(copies)
    }

    fn has_copy(&self, offset: i64) -> bool {
        self.facts.rows.binary_search_by_key(&offset, |row| row.offset).is_ok()
            || self.facts.quarantined.binary_search(&offset).is_ok()
    }

    fn compare(&mut self, record: &RawFact, copies: &Copies) -> Place {
        self.judge_copies(copies);
        if copies.rows.is_empty() {
            self.account.quarantined += 1;
            return Place::Quarantined;
        }
        self.account.in_lake += 1;
        if record.duplicate == Duplicate::Yes {
            self.fault(FindingKind::DuplicateKept, record.offset, |facts| whereabouts(facts, copies));
        }
        for index in copies.rows.clone() {
            let row = self.facts.rows[index];
            let vain = [Judgement::Filtered, Judgement::Rejected].map(|judgement| record.may_be(judgement));
            match vain {
                [true, _] if !record.may_be_kept() => self.fault_in(FindingKind::FilteredKept, &row),
                [_, true] if !record.may_be_kept() => self.fault_in(FindingKind::RejectedKept, &row),
                _ => self.compare_row(record, &row),
            }
        }
        Place::InSink
    }

    fn compare_row(&mut self, record: &RawFact, row: &RowFact) {
        let sink = self.facts.sink;
        let right = record.judgements.iter().filter_map(|judgement| match judgement {
            Judgement::Kept { row, .. } if sink == Sink::Lake => Some(*row),
            Judgement::Kept { enriched, .. } => Some(*enriched),
            Judgement::Filtered | Judgement::Rejected => None,
        });
        let mut same_content = right.filter(|made| made.content == row.content).peekable();
        if row.content == Fingerprint::NO_EVENT || same_content.peek().is_none() {
            self.account.altered += 1;
            self.fault_in(FindingKind::Altered, row);
        } else if !same_content.any(|made| made == row.made()) {
            self.account.derived_altered += 1;
            self.fault_in(FindingKind::DerivedAltered, row);
        }
    }

    fn judge_copies(&mut self, copies: &Copies) {
        if copies.rows.is_empty() {
            return;
        }
        for _ in 1..copies.rows.len() + usize::from(copies.is_quarantined) {
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

    fn fault_in(&mut self, kind: FindingKind, row: &RowFact) {
        self.fault(kind, row.offset, |facts| facts.file(row.file).to_owned());
    }

    fn fault(&mut self, kind: FindingKind, offset: i64, whereabouts: impl FnOnce(&SlotFacts) -> String) {
        let facts = &self.facts;
        self.findings.add(facts.kind(kind), || format!("{} {offset} in {}", facts.place, whereabouts(facts)));
    }
}

fn whereabouts(facts: &SlotFacts, copies: &Copies) -> String {
    let rows = facts.rows[copies.rows.clone()].iter().map(|row| facts.file(row.file));
    rows.chain(copies.is_quarantined.then_some("the quarantine")).collect::<Vec<_>>().join(" and ")
}
