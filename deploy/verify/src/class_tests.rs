//! Every raw offset is in exactly one class, whichever sinks the pipeline has, and a fault in each class is found for
//! what it is.

use millrace_common::types::NextOffset;
use proptest::prelude::*;

use crate::account::{
    Account, Accountant, Duplicate, Fingerprint, Judgement, QuarantineFact, RawFact, RowFact, Sink, SlotFacts,
};
use crate::finding::{FindingKind, Findings};

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Kept,
    Filtered,
    Rejected,
    /// Set aside because the transform failed on it.
    Failed,
    Duplicate,
    /// A repeat of a time whose rules nobody remembers: dropped, or kept.
    OldDuplicate(bool),
}

#[derive(Debug, Clone)]
struct Slot {
    classes: Vec<Class>,
    /// Lake and topic cursor.
    cursors: (i64, i64),
}

fn enriched(offset: i64) -> Fingerprint {
    Fingerprint::of_bytes(&offset.to_le_bytes())
}

fn row(offset: i64) -> Fingerprint {
    Fingerprint::of_bytes(&(offset + 1_000_000).to_le_bytes())
}

const CLIENT: u32 = 77;

impl Slot {
    fn raw(&self) -> Vec<RawFact> {
        let fact = |(offset, class): (i64, &Class)| {
            let judgement = match class {
                Class::Filtered => Judgement::Filtered,
                Class::Rejected => Judgement::Rejected,
                _ => Judgement::Kept { row: row(offset), enriched: enriched(offset), client: CLIENT },
            };
            let duplicate = match class {
                Class::Duplicate => Duplicate::Yes,
                Class::OldDuplicate(_) => Duplicate::Perhaps,
                _ => Duplicate::No,
            };
            RawFact { offset, bytes: offset.cast_unsigned(), duplicate, judgements: vec![judgement] }
        };
        (0..).zip(&self.classes).map(fact).collect()
    }

    fn offsets(&self, below: i64, wanted: impl Fn(Class) -> bool) -> impl Iterator<Item = i64> {
        (0..)
            .zip(&self.classes)
            .filter(move |(offset, class)| *offset < below && wanted(**class))
            .map(|(offset, _)| offset)
    }

    fn rows(&self) -> Vec<RowFact> {
        let kept = |class| matches!(class, Class::Kept | Class::OldDuplicate(true));
        let row_fact = |offset| RowFact { offset, content: row(offset), file: 0 };
        self.offsets(self.cursors.0, kept).map(row_fact).collect()
    }

    fn records(&self) -> Vec<RowFact> {
        let kept = |class| matches!(class, Class::Kept | Class::OldDuplicate(true));
        let record = |offset| RowFact { offset, content: enriched(offset), file: CLIENT };
        self.offsets(self.cursors.1, kept).map(record).collect()
    }

    fn quarantined(&self) -> Vec<QuarantineFact> {
        let fact = |offset: i64| {
            let failed = self.classes[usize::try_from(offset).expect("small")] == Class::Failed;
            QuarantineFact { offset, bytes: offset.cast_unsigned(), failed }
        };
        self.offsets(self.cursors.1, |class| matches!(class, Class::Rejected | Class::Failed))
            .map(fact)
            .collect()
    }

    /// Accounts as a pipeline with both sinks is, or with one of them.
    fn account(
        &self,
        rows: Option<Vec<RowFact>>,
        records: Option<Vec<RowFact>>,
        quarantined: &[QuarantineFact],
    ) -> (Account, Findings) {
        let (mut account, mut findings) = (Account::default(), Findings::default());
        let has_lake = rows.is_some();
        let sinks = [(Sink::Lake, rows, self.cursors.0), (Sink::Topic, records, self.cursors.1)];
        for (sink, facts, cursor) in sinks {
            let Some(facts) = facts else { continue };
            let mut accountant = Accountant::new(SlotFacts {
                sink,
                tells_of_quarantine: sink == Sink::Lake || !has_lake,
                place: "raw/0".into(),
                rows: facts,
                quarantined: quarantined.to_vec(),
                cursor: NextOffset(cursor),
                end: NextOffset(self.classes.len() as i64),
                files: vec!["a.parquet".into()],
            });
            self.raw().into_iter().for_each(|raw| accountant.raw(raw));
            accountant.raw_done();
            // What lies between the cursors was quarantined with the topic's commit.
            let (of_sink, found) = accountant.finish(NextOffset(cursor), NextOffset(self.cursors.1));
            match sink {
                Sink::Lake => account.add(&of_sink),
                Sink::Topic => account.add_topic(&of_sink, !has_lake),
            }
            findings.merge(found);
        }
        (account, findings)
    }

    fn sound(&self) -> (Account, Findings) {
        self.account(Some(self.rows()), Some(self.records()), &self.quarantined())
    }
}

fn slot() -> impl Strategy<Value = Slot> {
    let class = prop_oneof![
        4 => Just(Class::Kept),
        1 => Just(Class::Filtered),
        1 => Just(Class::Rejected),
        1 => Just(Class::Failed),
        1 => Just(Class::Duplicate),
        1 => any::<bool>().prop_map(Class::OldDuplicate),
    ];
    (prop::collection::vec(class, 1..60), 0.0f64..1.0, 0.0f64..1.0).prop_map(|(classes, lake, topic)| {
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss)]
        let at = |share: f64| (classes.len() as f64 * share) as i64;
        let cursors = (at(lake.min(topic)), at(lake.max(topic)));
        Slot { classes, cursors }
    })
}

fn found(findings: &Findings) -> Vec<(FindingKind, u64)> {
    findings.iter().map(|(kind, finding)| (kind, finding.count)).collect()
}

proptest! {
    #[test]
    fn every_offset_is_in_exactly_one_class(slot in slot()) {
        let quarantined = slot.quarantined();
        let both = slot.sound();
        let lake_only = slot.account(Some(slot.rows()), None, &quarantined);
        let topic_only = slot.account(None, Some(slot.records()), &quarantined);
        for (account, findings) in [&both, &lake_only, &topic_only] {
            prop_assert!(findings.is_empty(), "{findings:?}");
            let is_topic_only = std::ptr::eq(account, &topic_only.0);
            let delivered = if is_topic_only { account.on_topic } else { account.in_lake };
            let classes = delivered + account.quarantined + account.client_duplicates + account.filtered
                + account.in_flight + account.missing;
            prop_assert_eq!(account.raw_records, classes, "{:?}", account);
        }
        prop_assert_eq!(both.0.on_topic, slot.records().len() as u64);
        prop_assert_eq!(topic_only.0.on_topic, slot.records().len() as u64);
    }

    #[test]
    fn what_is_gone_from_one_sink_is_missing_there(slot in slot(), index: prop::sample::Index) {
        let (mut rows, mut records) = (slot.rows(), slot.records());
        prop_assume!(rows.iter().any(|row| slot.classes[row.offset as usize] == Class::Kept));
        rows.retain(|row| slot.classes[row.offset as usize] == Class::Kept);
        let gone = rows[index.index(rows.len())].offset;
        rows = slot.rows();
        rows.retain(|row| row.offset != gone);
        let (account, findings) = slot.account(Some(rows), Some(slot.records()), &slot.quarantined());
        prop_assert_eq!(found(&findings), [(FindingKind::Missing, 1)]);
        prop_assert_eq!((account.missing, account.topic_missing), (1, 0));
        records.retain(|record| record.offset != gone);
        let (account, findings) = slot.account(Some(slot.rows()), Some(records), &slot.quarantined());
        prop_assert_eq!(found(&findings), [(FindingKind::MissingOnTopic, 1)]);
        prop_assert_eq!((account.missing, account.topic_missing), (0, 1));
    }
}

const ALL: [Class; 5] = [Class::Kept, Class::Filtered, Class::Rejected, Class::Failed, Class::Duplicate];

fn whole() -> Slot {
    Slot { classes: ALL.to_vec(), cursors: (5, 5) }
}

#[test]
fn each_class_that_is_damaged_is_told_by_name() {
    let slot = whole();
    assert!(slot.sound().1.is_empty());
    let faults = |rows: &[i64], records: &[i64], quarantined: &[i64]| {
        let more = |facts: Vec<RowFact>, offsets: &[i64], content: fn(i64) -> Fingerprint| {
            let added =
                offsets.iter().map(|offset| RowFact { offset: *offset, content: content(*offset), file: 0 });
            facts.into_iter().chain(added).collect::<Vec<_>>()
        };
        let mut quarantine = slot.quarantined();
        quarantine.extend(quarantined.iter().map(|offset| QuarantineFact {
            offset: *offset,
            bytes: offset.cast_unsigned(),
            failed: false,
        }));
        let (rows, records) = (more(slot.rows(), rows, row), more(slot.records(), records, enriched));
        found(&slot.account(Some(rows), Some(records), &quarantine).1)
    };
    use FindingKind as Kind;
    assert_eq!(faults(&[0], &[], &[]), [(Kind::Doubled, 1)], "a row twice");
    assert_eq!(faults(&[], &[0], &[]), [(Kind::DoubledOnTopic, 1)], "an enriched record twice");
    assert_eq!(faults(&[1], &[], &[]), [(Kind::FilteredKept, 1)], "a filtered record in the lake");
    assert_eq!(faults(&[], &[1], &[]), [(Kind::FilteredKept, 1)], "a filtered record on the topic");
    assert_eq!(
        faults(&[2], &[], &[]),
        [(Kind::Doubled, 1), (Kind::Altered, 1)],
        "a rejected record in the lake and quarantined"
    );
    assert_eq!(faults(&[4], &[], &[]), [(Kind::DuplicateKept, 1)], "a client duplicate in the lake");
    assert_eq!(faults(&[], &[4], &[]), [(Kind::DuplicateKept, 1)], "a client duplicate on the topic");
    assert_eq!(faults(&[], &[], &[2]), [(Kind::Doubled, 1)], "quarantined twice");
    assert_eq!(
        faults(&[], &[], &[0]),
        [(Kind::Doubled, 1), (Kind::DoubledOnTopic, 1), (Kind::QuarantinedInVain, 1)],
        "delivered and quarantined"
    );
    assert_eq!(faults(&[9], &[], &[]), [(Kind::Uncommitted, 1)], "beyond the cursor");
    assert_eq!(faults(&[], &[9], &[]), [(Kind::UncommittedOnTopic, 1)], "beyond the topic cursor");
}

#[test]
fn an_enriched_record_is_altered_only_if_the_clients_part_is() {
    let slot = whole();
    let with = |content, file| {
        let records = vec![RowFact { offset: 0, content, file }];
        slot.account(Some(slot.rows()), Some(records), &slot.quarantined())
    };
    let (account, findings) = with(enriched(3), CLIENT);
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!(account.derived_otherwise, 1);
    let (account, findings) = with(enriched(3), CLIENT + 1);
    assert_eq!(found(&findings), [(FindingKind::AlteredOnTopic, 1)]);
    assert_eq!(account.topic_altered, 1);
}
