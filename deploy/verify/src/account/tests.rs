//! The accounting of a made-up slot: every raw offset in exactly one class, whichever sinks the pipeline has, and a fault
//! in each class found for what it is, and no other.

use millrace_common::types::NextOffset;
use proptest::prelude::*;

use super::{
    Account, Accountant, Accountants, CursorsNow, Duplicate, Fingerprint, Judgement, Made,
    QuarantineAccountant, QuarantineFact, RawFact, RowFact, Sink, SlotFacts,
};
use crate::finding::FindingKind as Kind;
use crate::finding::Findings;

/// What becomes of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Kept,
    Filtered,
    Rejected,
    /// Set aside because the transform failed on it.
    Failed,
    Duplicate,
    /// A repeat of a time whose rules nobody remembers: kept, or not.
    OldDuplicate(bool),
    /// Judged while the pipeline may have had another transform, which leaves it out: kept, or not.
    EitherTransform(bool),
}

impl Class {
    fn is_in_sinks(self) -> bool {
        matches!(self, Self::Kept | Self::OldDuplicate(true) | Self::EitherTransform(true))
    }

    fn is_quarantined(self) -> bool {
        matches!(self, Self::Rejected | Self::Failed)
    }
}

/// A slot's raw log. Offsets rise by the gaps between them: markers and aborted records.
#[derive(Debug, Clone)]
struct Slot {
    log: Vec<(i64, Class)>,
    lake_cursor: i64,
    topic_cursor: i64,
}

/// What there is to see of it. A sink that the pipeline does not have is `None`.
#[derive(Debug, Clone)]
struct Seen {
    rows: Option<Vec<RowFact>>,
    records: Option<Vec<RowFact>>,
    quarantined: Vec<QuarantineFact>,
    /// Rows that are published after the first look.
    late: Vec<RowFact>,
    /// Raw records below are gone.
    low: i64,
    start: i64,
    topic_gone_until: i64,
}

fn made(sink: Sink, offset: i64) -> Made {
    Made { content: Fingerprint::of((sink == Sink::Lake, offset)), derived: 7 }
}

fn fact(sink: Sink, offset: i64) -> RowFact {
    RowFact::new(offset, made(sink, offset), 0)
}

fn set_aside(offset: i64) -> QuarantineFact {
    QuarantineFact { offset, bytes: offset.cast_unsigned(), failed: false }
}

fn raw_fact(offset: i64, class: Class) -> RawFact {
    let kept = Judgement::Kept { row: made(Sink::Lake, offset), enriched: made(Sink::Topic, offset) };
    let judgements = match class {
        Class::Filtered => vec![Judgement::Filtered],
        Class::Rejected => vec![Judgement::Rejected],
        Class::Failed => Vec::new(),
        Class::EitherTransform(_) => vec![Judgement::Filtered, kept],
        Class::Kept | Class::Duplicate | Class::OldDuplicate(_) => vec![kept],
    };
    let duplicate = match class {
        Class::Duplicate => Duplicate::Yes,
        Class::OldDuplicate(_) => Duplicate::Perhaps,
        _ => Duplicate::No,
    };
    RawFact { offset, bytes: offset.cast_unsigned(), duplicate, judgements }
}

impl Slot {
    fn end(&self) -> i64 {
        self.log.last().map_or(0, |(offset, _)| offset + 3)
    }

    fn offsets(&self, below: i64, is_wanted: impl Fn(Class) -> bool) -> Vec<i64> {
        let wanted = self.log.iter().filter(|(offset, class)| *offset < below && is_wanted(*class));
        wanted.map(|(offset, _)| *offset).collect()
    }

    fn seen(&self) -> Seen {
        let of_sink = |sink, cursor| {
            let offsets = self.offsets(cursor, Class::is_in_sinks);
            Some(offsets.into_iter().map(|offset| fact(sink, offset)).collect())
        };
        let quarantined =
            self.log.iter().filter(|(offset, class)| *offset < self.topic_cursor && class.is_quarantined());
        let quarantined = quarantined
            .map(|(offset, class)| QuarantineFact { failed: *class == Class::Failed, ..set_aside(*offset) });
        Seen {
            rows: of_sink(Sink::Lake, self.lake_cursor),
            records: of_sink(Sink::Topic, self.topic_cursor),
            quarantined: quarantined.collect(),
            late: Vec::new(),
            low: 0,
            start: 0,
            topic_gone_until: 0,
        }
    }

    fn account(&self, seen: &Seen) -> (Account, Findings) {
        let now = CursorsNow { lake: NextOffset(self.lake_cursor), topic: NextOffset(self.topic_cursor) };
        self.account_until(seen, now)
    }

    /// `now`: the cursors when everything was read.
    fn account_until(&self, seen: &Seen, now: CursorsNow) -> (Account, Findings) {
        let quarantine = QuarantineAccountant::new("raw/0".into(), seen.quarantined.clone());
        let quarantined: std::sync::Arc<[i64]> = quarantine.offsets().into();
        let published_until = seen.rows.iter().flatten().map(|row| row.offset + 1).max().unwrap_or(0);
        let accountant = |sink: Sink, rows: &Vec<RowFact>| {
            Accountant::new(SlotFacts {
                sink,
                place: "raw/0".into(),
                rows: rows.clone(),
                quarantined: quarantined.clone(),
                start: NextOffset(seen.start),
                sink_gone_until: NextOffset(if sink == Sink::Topic { seen.topic_gone_until } else { 0 }),
                published_until: NextOffset(if sink == Sink::Topic { i64::MAX } else { published_until }),
                cursor: NextOffset(if sink == Sink::Topic { self.topic_cursor } else { self.lake_cursor }),
                end: NextOffset(self.end()),
                files: vec!["a.parquet".into()],
            })
        };
        let mut accountants = Accountants {
            lake: seen.rows.as_ref().map(|rows| accountant(Sink::Lake, rows)),
            topic: seen.records.as_ref().map(|records| accountant(Sink::Topic, records)),
            quarantine,
        };
        accountants.gone_until(seen.low);
        let held = self.log.iter().filter(|(offset, _)| *offset >= seen.low);
        held.for_each(|(offset, class)| accountants.raw(raw_fact(*offset, *class)));
        accountants.raw_done();
        if let Some(lake) = accountants.lake.as_mut().filter(|_| !seen.late.is_empty()) {
            lake.late_rows(vec!["b.parquet".into()], seen.late.clone());
            assert_eq!(lake.pending().count(), 0);
        }
        let (account, findings) = accountants.finish(NextOffset(self.end()), now);
        self.assert_sums(seen, &account);
        (account, findings)
    }

    /// No offset is in none or two of the classes.
    fn assert_sums(&self, seen: &Seen, account: &Account) {
        let held = self.log.iter().filter(|(offset, _)| *offset >= seen.low).count() as u64;
        assert_eq!(account.raw_records + account.before_start, held, "{account:?}");
        let delivered = if seen.rows.is_some() { account.in_lake } else { account.on_topic };
        let elsewhere = account.quarantined + account.client_duplicates + account.filtered;
        let rest = account.in_flight + account.missing;
        let gone = if seen.rows.is_some() { 0 } else { account.topic_gone };
        assert_eq!(account.raw_records, delivered + elsewhere + rest + gone, "{account:?}");
    }

    /// The kinds of what is found, each with its count.
    fn found(&self, seen: &Seen) -> Vec<(Kind, u64)> {
        kinds(&self.account(seen).1)
    }
}

fn kinds(findings: &Findings) -> Vec<(Kind, u64)> {
    findings.iter().map(|(kind, finding)| (kind, finding.count)).collect()
}

fn slot() -> impl Strategy<Value = Slot> {
    let class = prop_oneof![
        6 => Just(Class::Kept),
        1 => Just(Class::Filtered),
        1 => Just(Class::Rejected),
        1 => Just(Class::Failed),
        1 => Just(Class::Duplicate),
        1 => any::<bool>().prop_map(Class::OldDuplicate),
        1 => any::<bool>().prop_map(Class::EitherTransform),
    ];
    let records = prop::collection::vec((1i64..4, class), 1..60);
    (0i64..1000, records, any::<prop::sample::Index>(), any::<prop::sample::Index>()).prop_map(
        |(start, records, one, other)| {
            let mut offset = start;
            let log: Vec<(i64, Class)> = records
                .into_iter()
                .map(|(gap, class)| {
                    offset += gap;
                    (offset, class)
                })
                .collect();
            let cursor = |index: prop::sample::Index| log[index.index(log.len())].0 + 1;
            let (one, other) = (cursor(one), cursor(other));
            Slot { lake_cursor: one.min(other), topic_cursor: one.max(other), log }
        },
    )
}

proptest! {
    #[test]
    fn every_offset_is_in_exactly_one_class(slot in slot()) {
        let both = slot.seen();
        let lake_only = Seen { records: None, ..both.clone() };
        let topic_only = Seen { rows: None, ..both.clone() };
        for seen in [&both, &lake_only, &topic_only] {
            let (account, findings) = slot.account(seen);
            prop_assert!(findings.is_empty(), "{:?} {:?}", seen, findings);
            let count = |cursor, wanted: &dyn Fn(Class) -> bool| slot.offsets(cursor, wanted).len() as u64;
            let cursor = if seen.rows.is_some() { slot.lake_cursor } else { slot.topic_cursor };
            prop_assert_eq!(account.quarantined, count(slot.topic_cursor, &Class::is_quarantined));
            let duplicates = |class| matches!(class, Class::Duplicate | Class::OldDuplicate(false));
            prop_assert_eq!(account.client_duplicates, count(cursor, &duplicates));
            let filtered = |class| matches!(class, Class::Filtered | Class::EitherTransform(false));
            prop_assert_eq!(account.filtered, count(cursor, &filtered));
            prop_assert_eq!(account.lake_rows, seen.rows.as_ref().map_or(0, Vec::len) as u64);
            prop_assert_eq!(account.topic_records, seen.records.as_ref().map_or(0, Vec::len) as u64);
            prop_assert_eq!(account.on_topic, account.topic_records);
        }
    }

    #[test]
    fn what_one_sink_lacks_and_should_have_is_missing_there(slot in slot(), pick: prop::sample::Index) {
        // The rows of the lake have records on the topic, which tell of those whose fate nobody remembers.
        let seen = slot.seen();
        let rows = seen.rows.clone().expect("rows");
        prop_assume!(!rows.is_empty());
        let gone = rows[pick.index(rows.len())];
        let without = |facts: &Option<Vec<RowFact>>| {
            facts.as_ref().map(|facts| facts.iter().copied().filter(|fact| fact.offset != gone.offset).collect())
        };
        let (account, findings) = slot.account(&Seen { rows: without(&seen.rows), ..seen.clone() });
        prop_assert_eq!(kinds(&findings), [(Kind::Missing, 1)]);
        prop_assert_eq!((account.missing, account.topic_missing), (1, 0));
        let example = &findings.iter().next().expect("finding").1.examples[0];
        prop_assert_eq!(example, &format!("raw/0 {}", gone.offset));
        let (account, findings) = slot.account(&Seen { records: without(&seen.records), ..seen.clone() });
        let class = slot.log.iter().find(|(offset, _)| *offset == gone.offset).expect("raw").1;
        match class {
            // The topic says that it was left out, so it should not be in the lake.
            Class::OldDuplicate(_) => prop_assert_eq!(kinds(&findings), [(Kind::DuplicateKept, 1)]),
            Class::EitherTransform(_) => prop_assert_eq!(kinds(&findings), [(Kind::FilteredKept, 1)]),
            _ => {
                prop_assert_eq!(kinds(&findings), [(Kind::MissingOnTopic, 1)]);
                prop_assert_eq!((account.missing, account.topic_missing), (0, 1));
            }
        }
    }

    #[test]
    fn every_further_copy_counts(slot in slot(), pick: prop::sample::Index, copies in 1usize..4) {
        let mut seen = slot.seen();
        let offsets: Vec<i64> = seen.rows.iter().flatten().map(|row| row.offset).collect();
        prop_assume!(!offsets.is_empty());
        let offset = offsets[pick.index(offsets.len())];
        seen.rows.as_mut().expect("rows").extend(vec![fact(Sink::Lake, offset); copies]);
        let (account, findings) = slot.account(&seen);
        prop_assert_eq!(kinds(&findings), [(Kind::Doubled, copies as u64)]);
        prop_assert_eq!(account.duplicates, copies as u64);
    }

    #[test]
    fn what_retention_took_is_proven_by_ranges_only(slot in slot(), pick: prop::sample::Index, double: bool) {
        let mut seen = slot.seen();
        seen.low = slot.log[pick.index(slot.log.len())].0.min(slot.lake_cursor);
        let rows = seen.rows.as_mut().expect("rows");
        let doubled = double && rows.first().is_some_and(|row| row.offset < seen.low);
        if doubled {
            rows.push(rows[0]);
        }
        let gone = |class: Class| class.is_in_sinks() || class.is_quarantined();
        let expected = slot.offsets(seen.low, gone).len() as u64;
        let (account, findings) = slot.account(&seen);
        prop_assert_eq!(account.proven_by_ranges_only, expected);
        prop_assert_eq!(kinds(&findings), if doubled { vec![(Kind::Doubled, 1)] } else { Vec::new() });
    }

    #[test]
    fn rows_that_are_published_late_are_not_missing(slot in slot(), from: prop::sample::Index, again: bool, alone: bool) {
        let mut seen = slot.seen();
        if alone {
            seen.records = None;
        }
        let rows = seen.rows.as_mut().expect("rows");
        prop_assume!(!rows.is_empty());
        seen.late = rows.split_off(from.index(rows.len()));
        let doubled = again && !rows.is_empty();
        if doubled {
            seen.late.push(rows[0]);
        }
        seen.late.iter_mut().for_each(|row| row.file = 1);
        let count = (rows.len() + seen.late.len()) as u64;
        let (account, findings) = slot.account(&seen);
        prop_assert_eq!(kinds(&findings), if doubled { vec![(Kind::Doubled, 1)] } else { Vec::new() });
        prop_assert_eq!((account.lake_rows, account.in_lake), (count, count - u64::from(doubled)));
    }

    #[test]
    fn while_the_pipeline_runs_newer_copies_are_no_fault(slot in slot(), ahead in 0usize..10) {
        // The cursors moved on after they were first read, to the end and beyond.
        let beyond = slot.log.iter().filter(|(offset, _)| *offset >= slot.topic_cursor).take(ahead);
        let topic_cursor = beyond.last().map_or(slot.topic_cursor, |(offset, _)| offset + 1);
        let mut seen = Slot { lake_cursor: topic_cursor, topic_cursor, log: slot.log.clone() }.seen();
        let newest = slot.end() + 5;
        for (sink, facts) in [(Sink::Lake, &mut seen.rows), (Sink::Topic, &mut seen.records)] {
            facts.as_mut().expect("a sink").push(fact(sink, newest));
        }
        let at = |cursor| CursorsNow { lake: NextOffset(cursor), topic: NextOffset(cursor) };
        let (_, findings) = slot.account_until(&seen, at(newest + 1));
        prop_assert!(findings.is_empty(), "{findings:?}");
        let (_, findings) = slot.account_until(&seen, at(newest));
        prop_assert_eq!(kinds(&findings), [(Kind::Uncommitted, 1), (Kind::UncommittedOnTopic, 1)]);
    }

    #[test]
    fn what_came_before_the_start_is_in_no_class(slot in slot(), pick: prop::sample::Index) {
        let mut seen = slot.seen();
        seen.start = slot.log[pick.index(slot.log.len())].0.min(slot.lake_cursor);
        for facts in [&mut seen.rows, &mut seen.records].into_iter().flatten() {
            facts.retain(|fact| fact.offset >= seen.start);
        }
        seen.quarantined.retain(|fact| fact.offset >= seen.start);
        let (account, findings) = slot.account(&seen);
        prop_assert!(findings.is_empty(), "{findings:?}");
        prop_assert_eq!(account.before_start, slot.offsets(seen.start, |_| true).len() as u64);
    }

    #[test]
    fn what_the_enriched_topic_no_longer_holds_is_not_missing(slot in slot(), pick: prop::sample::Index, with_lake: bool) {
        let mut seen = slot.seen();
        seen.topic_gone_until = slot.log[pick.index(slot.log.len())].0.min(slot.topic_cursor);
        let records = seen.records.as_mut().expect("records");
        records.retain(|record| record.offset >= seen.topic_gone_until);
        if !with_lake {
            seen.rows = None;
        }
        let perhaps = |class| matches!(class, Class::OldDuplicate(_) | Class::EitherTransform(_));
        let gone = slot.offsets(seen.topic_gone_until, |class| class == Class::Kept || perhaps(class));
        let (account, findings) = slot.account(&seen);
        prop_assert!(findings.is_empty(), "{findings:?}");
        prop_assert_eq!(account.topic_gone, gone.len() as u64);
    }
}

/// One record of each class below both cursors, a marker at offset 6, and a record in flight.
fn whole() -> Slot {
    use Class::{Duplicate, Failed, Filtered, Kept, Rejected};
    let classes = [Kept, Filtered, Rejected, Failed, Duplicate, Kept];
    let log = (0..).zip(classes).chain([(7, Kept)]).collect();
    Slot { log, lake_cursor: 7, topic_cursor: 7 }
}

const KEPT: i64 = 0;
const FILTERED: i64 = 1;
const REJECTED: i64 = 2;
const FAILED: i64 = 3;
const DUPLICATE: i64 = 4;
const MARKER: i64 = 6;
const IN_FLIGHT: i64 = 7;

#[test]
fn each_class_that_is_damaged_is_told_by_name() {
    let slot = whole();
    let sound = slot.seen();
    assert_eq!(slot.found(&sound), []);
    let with = |change: &dyn Fn(&mut Seen)| {
        let mut seen = sound.clone();
        change(&mut seen);
        slot.found(&seen)
    };
    let rows = |change: &dyn Fn(&mut Vec<RowFact>)| with(&|seen| change(seen.rows.as_mut().expect("rows")));
    let records =
        |change: &dyn Fn(&mut Vec<RowFact>)| with(&|seen| change(seen.records.as_mut().expect("records")));
    let quarantined = |change: &dyn Fn(&mut Vec<QuarantineFact>)| with(&|seen| change(&mut seen.quarantined));
    let more = |sink, offset| {
        let add = move |facts: &mut Vec<RowFact>| facts.push(fact(sink, offset));
        if sink == Sink::Lake { rows(&add) } else { records(&add) }
    };
    let aside = |offset| quarantined(&|facts| facts.push(set_aside(offset)));

    assert_eq!(rows(&|rows| rows.truncate(rows.len() - 1)), [(Kind::Missing, 1)], "a row is gone");
    assert_eq!(more(Sink::Lake, KEPT), [(Kind::Doubled, 1)], "a row twice");
    let other = Fingerprint::of("other");
    assert_eq!(rows(&|rows| rows[0].content = other), [(Kind::Altered, 1)], "a row differs");
    let bad = |rows: &mut Vec<RowFact>| rows[0].content = Fingerprint::NO_EVENT;
    assert_eq!(rows(&bad), [(Kind::Altered, 1)], "a row rebuilds no event");
    assert_eq!(rows(&|rows| rows[0].derived += 1), [(Kind::DerivedAltered, 1)], "derived columns differ");
    assert_eq!(more(Sink::Lake, DUPLICATE), [(Kind::DuplicateKept, 1)], "a client duplicate in the lake");
    assert_eq!(more(Sink::Lake, FILTERED), [(Kind::FilteredKept, 1)], "a filtered record in the lake");
    let both = [(Kind::Doubled, 1), (Kind::RejectedKept, 1)];
    assert_eq!(more(Sink::Lake, REJECTED), both, "quarantined and in the lake");
    let both = [(Kind::Doubled, 1), (Kind::Altered, 1)];
    assert_eq!(more(Sink::Lake, FAILED), both, "set aside, and in the lake");
    assert_eq!(more(Sink::Lake, MARKER), [(Kind::Unexplained, 1)], "a row of no record");
    assert_eq!(more(Sink::Lake, IN_FLIGHT), [(Kind::Uncommitted, 1)], "a row beyond the cursor");

    assert_eq!(records(&|records| records.truncate(records.len() - 1)), [(Kind::MissingOnTopic, 1)]);
    assert_eq!(more(Sink::Topic, KEPT), [(Kind::DoubledOnTopic, 1)]);
    assert_eq!(records(&|records| records[0].content = other), [(Kind::AlteredOnTopic, 1)]);
    assert_eq!(records(&|records| records[0].derived += 1), [(Kind::DerivedAlteredOnTopic, 1)]);
    assert_eq!(more(Sink::Topic, DUPLICATE), [(Kind::DuplicateKept, 1)]);
    assert_eq!(more(Sink::Topic, FILTERED), [(Kind::FilteredKept, 1)]);
    assert_eq!(more(Sink::Topic, REJECTED), [(Kind::DoubledOnTopic, 1), (Kind::RejectedKept, 1)]);
    assert_eq!(more(Sink::Topic, MARKER), [(Kind::UnexplainedOnTopic, 1)]);
    assert_eq!(more(Sink::Topic, IN_FLIGHT), [(Kind::UncommittedOnTopic, 1)]);

    assert_eq!(
        quarantined(&|facts| facts.truncate(facts.len() - 1)),
        [(Kind::Missing, 1), (Kind::MissingOnTopic, 1)]
    );
    assert_eq!(aside(REJECTED), [(Kind::Doubled, 1)], "quarantined twice");
    assert_eq!(quarantined(&|facts| facts[0].bytes += 1), [(Kind::Altered, 1)], "quarantined bytes differ");
    let in_vain = [(Kind::Doubled, 1), (Kind::DoubledOnTopic, 1), (Kind::QuarantinedInVain, 1)];
    assert_eq!(aside(KEPT), in_vain, "quarantined although valid, and delivered");
    let instead = with(&|seen| {
        seen.rows.as_mut().expect("rows").remove(0);
        seen.records.as_mut().expect("records").remove(0);
        seen.quarantined.push(set_aside(KEPT));
    });
    assert_eq!(instead, [(Kind::QuarantinedInVain, 1)], "quarantined although valid");
    assert_eq!(aside(FILTERED), [(Kind::QuarantinedInVain, 1)]);
    assert_eq!(aside(DUPLICATE), [(Kind::DuplicateKept, 1)]);
    assert_eq!(aside(MARKER), [(Kind::Unexplained, 1)]);
    let early = [(Kind::QuarantinedInVain, 1), (Kind::Uncommitted, 1)];
    assert_eq!(aside(IN_FLIGHT), early, "quarantined before its commit");
}

#[test]
fn what_is_quarantined_goes_by_the_topics_cursor() {
    let log = vec![(0, Class::Kept), (1, Class::Rejected), (2, Class::Kept)];
    let slot = Slot { log, lake_cursor: 1, topic_cursor: 3 };
    let (account, findings) = slot.account(&slot.seen());
    assert!(findings.is_empty(), "{findings:?}");
    assert_eq!((account.in_lake, account.quarantined, account.in_flight), (1, 1, 1));
    assert_eq!((account.on_topic, account.topic_in_flight), (2, 0));
}
