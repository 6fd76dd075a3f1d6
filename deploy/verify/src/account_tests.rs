//! The accounting of a made-up slot: clean when nothing is wrong, and every injected fault found and no other.

use millrace_common::types::NextOffset;
use proptest::prelude::*;

use crate::account::{
    Account, Accountant, Duplicate, Fingerprint, Judgement, QuarantineFact, RawFact, RowFact, Sink, SlotFacts,
};
use crate::finding::{FindingKind, Findings};

/// A raw record and where it is. Offsets rise by the gaps between them: markers and aborted records.
#[derive(Debug, Clone)]
struct Log {
    records: Vec<RawFact>,
    cursor: i64,
    end: i64,
}

impl Log {
    fn rows(&self) -> Vec<RowFact> {
        let events = self.records.iter().filter(|raw| raw.offset < self.cursor);
        events.filter_map(|raw| Some(RowFact { offset: raw.offset, content: event(raw)?, file: 0 })).collect()
    }

    fn quarantined(&self) -> Vec<QuarantineFact> {
        let rejected = self.records.iter().filter(|raw| raw.offset < self.cursor && event(raw).is_none());
        rejected.map(|raw| QuarantineFact { offset: raw.offset, bytes: raw.bytes, failed: true }).collect()
    }

    fn account(&self, rows: Vec<RowFact>, quarantined: Vec<QuarantineFact>) -> (Account, Findings) {
        let mut accountant = self.accountant(rows, quarantined);
        accountant.raw_done();
        accountant.finish(NextOffset(self.cursor), NextOffset(self.cursor))
    }

    fn accountant(&self, rows: Vec<RowFact>, quarantined: Vec<QuarantineFact>) -> Accountant {
        let mut accountant = Accountant::new(SlotFacts {
            sink: Sink::Lake,
            tells_of_quarantine: true,
            place: "raw/0".into(),
            rows,
            quarantined,
            cursor: NextOffset(self.cursor),
            end: NextOffset(self.end),
            files: vec!["a.parquet".into()],
        });
        self.records.iter().for_each(|raw| accountant.raw(raw.clone()));
        accountant
    }
}

/// A raw record that the transform keeps as `event`, or rejects.
fn raw_fact(offset: i64, event: Option<Fingerprint>) -> RawFact {
    let judgement = match event {
        Some(row) => Judgement::Kept { row, enriched: row, client: row.short() },
        None => Judgement::Rejected,
    };
    RawFact {
        offset,
        bytes: offset.cast_unsigned() * 31,
        duplicate: Duplicate::No,
        judgements: vec![judgement],
    }
}

fn event(raw: &RawFact) -> Option<Fingerprint> {
    match raw.judgements[0] {
        Judgement::Kept { row, .. } => Some(row),
        Judgement::Filtered | Judgement::Rejected => None,
    }
}

fn content(number: i64) -> Fingerprint {
    let mut hash = [1; 32];
    hash[..8].copy_from_slice(&number.to_be_bytes());
    Fingerprint::new(&hash, number)
}

fn log() -> impl Strategy<Value = Log> {
    let record = (1i64..4, prop::bool::weighted(0.9));
    (0i64..1000, prop::collection::vec(record, 2..60), 0.1f64..1.0).prop_map(|(start, records, done)| {
        let mut offset = start;
        let records: Vec<RawFact> = records
            .into_iter()
            .map(|(gap, valid)| {
                offset += gap;
                let event = valid.then(|| content(offset));
                raw_fact(offset, event)
            })
            .collect();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss)]
        let last = ((records.len() as f64 * done) as usize).max(1) - 1;
        let cursor = records[last].offset + 1;
        Log { records, cursor, end: offset + 3 }
    })
}

fn assert_sums(account: &Account) {
    let places = account.in_lake + account.quarantined + account.in_flight + account.missing;
    assert_eq!(account.raw_records, places, "{account:?}");
}

/// The findings are `count` of `kind` and nothing else.
fn assert_only(findings: &Findings, kind: FindingKind, count: u64) {
    let found: Vec<_> = findings.iter().map(|(kind, finding)| (kind, finding.count)).collect();
    assert_eq!(found, [(kind, count)], "{findings:?}");
}

proptest! {
    #[test]
    fn a_slot_without_fault_is_clean(log in log()) {
        let (account, findings) = log.account(log.rows(), log.quarantined());
        prop_assert!(findings.is_empty(), "{findings:?}");
        assert_sums(&account);
        prop_assert_eq!(account.raw_records, log.records.len() as u64);
        let below = log.records.iter().filter(|raw| raw.offset < log.cursor).count() as u64;
        prop_assert_eq!(account.in_lake + account.quarantined, below);
    }

    #[test]
    fn a_lost_row_or_quarantined_record_is_missing(log in log(), pick: prop::sample::Index) {
        let (mut rows, mut quarantined) = (log.rows(), log.quarantined());
        let index = pick.index(rows.len() + quarantined.len());
        let offset = if index < rows.len() {
            rows.remove(index).offset
        } else {
            quarantined.remove(index - rows.len()).offset
        };
        let (account, findings) = log.account(rows, quarantined);
        assert_only(&findings, FindingKind::Missing, 1);
        assert_sums(&account);
        prop_assert_eq!(account.missing, 1);
        let example = &findings.iter().next().expect("finding").1.examples[0];
        prop_assert_eq!(example, &format!("raw/0 {offset}"));
    }

    #[test]
    fn a_further_copy_anywhere_is_doubled(log in log(), pick: prop::sample::Index, copies in 1usize..4, into_lake: bool) {
        let (mut rows, mut quarantined) = (log.rows(), log.quarantined());
        let index = pick.index(rows.len() + quarantined.len());
        if let Some(row) = rows.get(index).copied() {
            if into_lake {
                rows.extend(vec![row; copies]);
            } else {
                let raw = log.records.iter().find(|raw| raw.offset == row.offset).expect("raw");
                quarantined.extend(vec![QuarantineFact { offset: raw.offset, bytes: raw.bytes, failed: true }; copies]);
            }
        } else {
            let record = quarantined[index - rows.len()];
            quarantined.extend(vec![record; copies]);
        }
        let (account, findings) = log.account(rows, quarantined);
        assert_only(&findings, FindingKind::Doubled, copies as u64);
        assert_sums(&account);
        prop_assert_eq!(account.duplicates, copies as u64);
    }

    #[test]
    fn other_content_is_altered(log in log(), pick: prop::sample::Index, gone_bad: bool) {
        let (mut rows, mut quarantined) = (log.rows(), log.quarantined());
        let index = pick.index(rows.len() + quarantined.len());
        let in_lake = rows.len();
        match rows.get_mut(index) {
            Some(row) if gone_bad => row.content = Fingerprint::NO_EVENT,
            Some(row) => row.content = content(row.offset + 1_000_000),
            None => quarantined[index - in_lake].bytes += 1,
        }
        let (account, findings) = log.account(rows, quarantined);
        assert_only(&findings, FindingKind::Altered, 1);
        assert_sums(&account);
    }

    #[test]
    fn a_row_where_no_record_is_is_unexplained(log in log(), before in 1i64..5) {
        let mut rows = log.rows();
        let offset = log.records[0].offset - before;
        rows.push(RowFact { offset, content: content(offset), file: 0 });
        let (account, findings) = log.account(rows, log.quarantined());
        assert_only(&findings, FindingKind::Unexplained, 1);
        assert_sums(&account);
    }

    #[test]
    fn what_is_visible_before_its_commit_is_found(log in log(), in_quarantine: bool) {
        let (mut rows, mut quarantined) = (log.rows(), log.quarantined());
        let early: Vec<RawFact> =
            log.records.iter().cloned().filter(|raw| raw.offset >= log.cursor).collect();
        for raw in &early {
            if in_quarantine || event(raw).is_none() {
                quarantined.push(QuarantineFact { offset: raw.offset, bytes: raw.bytes, failed: true });
            } else if let Some(content) = event(raw) {
                rows.push(RowFact { offset: raw.offset, content, file: 0 });
            }
        }
        let (account, findings) = log.account(rows, quarantined);
        assert_sums(&account);
        if early.is_empty() {
            prop_assert!(findings.is_empty());
        } else {
            assert_only(&findings, FindingKind::Uncommitted, early.len() as u64);
        }
    }

    #[test]
    fn what_retention_took_is_proven_by_ranges_only(log in log(), pick: prop::sample::Index, double: bool) {
        let low = log.records[pick.index(log.records.len())].offset.min(log.cursor);
        let mut rows = log.rows();
        let first_is_gone = rows.first().is_some_and(|row| row.offset < low);
        if double && first_is_gone {
            rows.push(rows[0]);
        }
        let mut accountant = Accountant::new(SlotFacts {
            sink: Sink::Lake,
            tells_of_quarantine: true,
            place: "raw/0".into(),
            rows,
            quarantined: log.quarantined(),
            cursor: NextOffset(log.cursor),
            end: NextOffset(log.end),
            files: Vec::new(),
        });
        accountant.gone_until(low);
        for raw in log.records.iter().filter(|raw| raw.offset >= low) {
            accountant.raw(raw.clone());
        }
        let (account, findings) = accountant.finish(NextOffset(log.cursor), NextOffset(log.cursor));
        assert_sums(&account);
        let gone = log.records.iter().filter(|raw| raw.offset < low).count() as u64;
        prop_assert_eq!(account.proven_by_ranges_only, gone);
        if double && first_is_gone {
            assert_only(&findings, FindingKind::Doubled, 1);
        } else {
            prop_assert!(findings.is_empty(), "{findings:?}");
        }
    }

    #[test]
    fn rows_that_are_published_late_are_not_missing(log in log(), from: prop::sample::Index, again: bool) {
        let mut rows = log.rows();
        prop_assume!(!rows.is_empty());
        let mut late = rows.split_off(from.index(rows.len()));
        if again {
            late.extend(rows.first().copied());
        }
        late.iter_mut().for_each(|row| row.file = 1);
        let doubled = u64::from(again && !rows.is_empty());
        let mut accountant = log.accountant(rows, log.quarantined());
        accountant.raw_done();
        accountant.late_rows(vec!["b.parquet".into()], late);
        prop_assert_eq!(accountant.pending().count(), 0);
        let (account, findings) = accountant.finish(NextOffset(log.cursor), NextOffset(log.cursor));
        assert_sums(&account);
        prop_assert_eq!(findings.count(FindingKind::Doubled), doubled);
        prop_assert_eq!(findings.iter().count() as u64, doubled);
    }

    #[test]
    fn while_the_pipeline_runs_newer_rows_are_no_fault(log in log(), ahead in 0usize..10) {
        // The cursor moved on to the end, and beyond, after it was first read.
        let mut rows = log.rows();
        let mut quarantined = log.quarantined();
        for raw in log.records.iter().filter(|raw| raw.offset >= log.cursor).take(ahead) {
            match event(raw) {
                Some(content) => rows.push(RowFact { offset: raw.offset, content, file: 0 }),
                None => quarantined.push(QuarantineFact { offset: raw.offset, bytes: raw.bytes, failed: true }),
            }
        }
        rows.push(RowFact { offset: log.end + 5, content: content(log.end + 5), file: 0 });
        let (account, findings) = {
            let accountant = log.accountant(rows, quarantined);
            accountant.finish(NextOffset(log.end + 6), NextOffset(log.end + 6))
        };
        prop_assert!(findings.is_empty(), "{findings:?}");
        assert_sums(&account);
    }
}

#[test]
fn the_time_of_receipt_is_part_of_the_content() {
    let hash = [5; 32];
    assert_eq!(Fingerprint::new(&hash, 7), Fingerprint::new(&hash, 7));
    assert_ne!(Fingerprint::new(&hash, 7), Fingerprint::new(&hash, 8));
    assert_eq!(Fingerprint::new(&hash, -1), Fingerprint::new(&hash, -2), "no time is no time");
}
