//! The quarantine of one slot: each record that it holds names a raw record that the transform rejects, once and byte
//! for byte. Pure.

use millrace_common::types::NextOffset;

use super::{Account, Duplicate, Judgement, QuarantineFact, RawFact};
use crate::finding::{FindingKind, Findings};

/// Goes along a slot's raw records in the order of their offsets.
#[derive(Debug)]
pub struct QuarantineAccountant {
    /// For the examples: `topic/partition`.
    place: String,
    /// By offset.
    records: Vec<QuarantineFact>,
    next: usize,
    /// Raw records below are gone.
    gone_until: i64,
    account: Account,
    findings: Findings,
}

impl QuarantineAccountant {
    pub fn new(place: String, mut records: Vec<QuarantineFact>) -> Self {
        records.sort_unstable_by_key(|record| record.offset);
        Self {
            place,
            records,
            next: 0,
            gone_until: i64::MIN,
            account: Account::default(),
            findings: Findings::default(),
        }
    }

    /// The offsets that are set aside, ascending, each once.
    pub fn offsets(&self) -> Vec<i64> {
        let mut offsets: Vec<i64> = self.records.iter().map(|record| record.offset).collect();
        offsets.dedup();
        offsets
    }

    /// The raw topic no longer holds what lies below `offset`.
    pub fn gone_until(&mut self, offset: i64) {
        self.gone_until = self.gone_until.max(offset);
        self.settle_below(offset);
    }

    /// The next raw record.
    pub fn raw(&mut self, record: &RawFact) {
        self.settle_below(record.offset);
        let Some((first, count)) = self.take_below(record.offset + 1) else { return };
        let kind = match record.duplicate {
            Duplicate::Yes => Some(FindingKind::DuplicateKept),
            _ if !first.failed && !record.may_be(Judgement::Rejected) => Some(FindingKind::QuarantinedInVain),
            _ => None,
        };
        if let Some(kind) = kind {
            self.fault(kind, record.offset);
        }
        for index in self.next - count..self.next {
            if self.records[index].bytes != record.bytes {
                self.account.altered += 1;
                self.fault(FindingKind::Altered, record.offset);
            }
        }
    }

    /// `end`: that of the raw partition, taken before all else; `cursor_now`: what the quarantine is committed with,
    /// read after everything else.
    pub fn finish(mut self, end: NextOffset, cursor_now: NextOffset) -> (Account, Findings) {
        self.settle_below(end.0);
        // What came after the end was taken still may not stand there twice.
        while self.take_below(i64::MAX).is_some() {}
        let early = self.records.partition_point(|record| record.offset < cursor_now.0);
        for index in early..self.records.len() {
            self.account.uncommitted += 1;
            self.findings.add(FindingKind::Uncommitted, || {
                format!("{} {}, cursor {cursor_now}, quarantined", self.place, self.records[index].offset)
            });
        }
        (self.account, self.findings)
    }

    /// Judges what lies below `offset` and belongs to no raw record that was handed in.
    fn settle_below(&mut self, offset: i64) {
        while let Some((first, _)) = self.take_below(offset) {
            if first.offset >= self.gone_until {
                self.account.unexplained += 1;
                self.fault(FindingKind::Unexplained, first.offset);
            }
        }
    }

    /// Takes all copies of the lowest offset that is left, if it lies below `limit`: the first, and how many.
    fn take_below(&mut self, limit: i64) -> Option<(QuarantineFact, usize)> {
        let left = &self.records[self.next..];
        let first = *left.first().filter(|record| record.offset < limit)?;
        let count = left.iter().take_while(|record| record.offset == first.offset).count();
        self.next += count;
        for _ in 1..count {
            self.account.duplicates += 1;
            self.fault(FindingKind::Doubled, first.offset);
        }
        Some((first, count))
    }

    fn fault(&mut self, kind: FindingKind, offset: i64) {
        self.findings.add(kind, || format!("{} {offset} in the quarantine", self.place));
    }
}
