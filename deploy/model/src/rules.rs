//! What must hold in every state. Judged from outside: by what readers see and what Kafka and the store hold, never by
//! what a worker believes.

use crate::bounds::Bound;
use crate::state::{Content, MANIFEST, Offsets, Record, State, span};

/// A rule, and what it means that it is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rule {
    TopicOnce,
    QuarantineOnce,
    LakeOnce,
    OneVerdict,
    SinksAgree,
    NotBeforeCommit,
    NothingLost,
    RecordKeepsItsObjects,
    CursorsOnlyRise,
    LakeNotBeyondTopic,
    OneOwnerPerEpoch,
    ChainOfFlushes,
    NoHaltWithoutCause,
    CanFinish,
}

impl Rule {
    /// Those that a single state breaks; what readers see first.
    const SEEN: [Self; 13] = [
        Self::TopicOnce,
        Self::QuarantineOnce,
        Self::LakeOnce,
        Self::OneVerdict,
        Self::SinksAgree,
        Self::NothingLost,
        Self::NotBeforeCommit,
        Self::RecordKeepsItsObjects,
        Self::CursorsOnlyRise,
        Self::LakeNotBeyondTopic,
        Self::OneOwnerPerEpoch,
        Self::ChainOfFlushes,
        Self::NoHaltWithoutCause,
    ];

    pub fn text(self) -> &'static str {
        match self {
            Self::TopicOnce => "a record is on the enriched topic at most once",
            Self::QuarantineOnce => "a record is in quarantine at most once",
            Self::LakeOnce => "no reader of the lake sees a row twice, nor bytes that no manifest named",
            Self::OneVerdict => "a quarantined record is in no sink",
            Self::SinksAgree => "below the lake cursor the lake has the records that the enriched topic has",
            Self::NotBeforeCommit => "nothing is visible at or beyond a cursor",
            Self::NothingLost => "below a cursor nothing is missing, or its staged file is there and named",
            Self::RecordKeepsItsObjects => "the manifest that the record names is there, and unaltered",
            Self::CursorsOnlyRise => "neither a cursor nor the sequence nor the epoch goes back",
            Self::LakeNotBeyondTopic => "the lake cursor is not beyond the topic cursor",
            Self::OneOwnerPerEpoch => "one owner commits under an epoch",
            Self::ChainOfFlushes => "flushes follow one another without gap or overlap",
            Self::NoHaltWithoutCause => "a slot halts only for a cause",
            Self::CanFinish => "without further faults the end can still be reached",
        }
    }
}

/// A set of rules.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Broken(u16);

impl Broken {
    pub(crate) fn note(&mut self, rule: Rule) {
        self.0 |= 1 << rule as u16;
    }

    /// `wanted` if it is broken; without a wish, the first that is.
    pub(crate) fn find(self, wanted: Option<Rule>) -> Option<Rule> {
        let is_broken = |rule: &Rule| self.0 >> *rule as u16 & 1 == 1;
        wanted.map_or_else(|| Rule::SEEN.into_iter().find(is_broken), |rule| Some(rule).filter(is_broken))
    }
}

/// The rules that `state` breaks; `CanFinish` is no matter of one state.
pub(crate) fn broken(state: &State, bound: &Bound) -> Broken {
    let mut broken = state.broken;
    let record = state.committed().unwrap_or_default();
    judge_lake(state, &mut broken);
    judge_agreement(state, bound, &record, &mut broken);
    judge_loss(state, bound, &record, &mut broken);
    broken
}

/// Rows under the final keys.
pub(crate) fn visible_rows(state: &State) -> Offsets {
    state.store.files.iter().flatten().fold(0, |seen, content| match content {
        Content::Rows { rows, .. } => seen | rows,
        Content::Nothing | Content::Foreign => seen,
    })
}

fn judge_lake(state: &State, broken: &mut Broken) {
    let mut seen: Offsets = 0;
    for content in state.store.files.iter().flatten() {
        match content {
            Content::Nothing => {}
            Content::Foreign => broken.note(Rule::LakeOnce),
            Content::Rows { rows, .. } => {
                if seen & rows != 0 {
                    broken.note(Rule::LakeOnce);
                }
                seen |= rows;
            }
        }
    }
}

/// Offsets that no sink need have: the changed definition drops the first one.
fn droppable(state: &State) -> Offsets {
    u8::from(state.master.definition > 0)
}

fn judge_agreement(state: &State, bound: &Bound, record: &Record, broken: &mut Broken) {
    let (kafka, rows) = (&state.kafka, visible_rows(state));
    if kafka.invalid & (kafka.enriched | rows) != 0 {
        broken.note(Rule::OneVerdict);
    }
    if record.lake > record.topic {
        broken.note(Rule::LakeNotBeyondTopic);
    }
    if kafka.expired && kafka.record.is_none() && kafka.pending.is_none() {
        // A committed offset that is lost says nothing any more.
        return;
    }
    let (below_topic, below_lake) = (span(0, record.topic), span(0, record.lake));
    if (kafka.enriched | kafka.invalid) & !below_topic != 0 || rows & !below_lake != 0 {
        broken.note(Rule::NotBeforeCommit);
    }
    let in_lake = (rows | in_manifest(state, record)) & below_lake;
    let on_topic = kafka.enriched & below_lake;
    if bound.has_topic && in_lake != on_topic {
        broken.note(if on_topic & !in_lake != 0 { Rule::NothingLost } else { Rule::SinksAgree });
    }
}

fn judge_loss(state: &State, bound: &Bound, record: &Record, broken: &mut Broken) {
    let kafka = &state.kafka;
    if record.manifest.is_some() {
        let flush = state.flush(record.manifest);
        if !flush.holds(MANIFEST) || flush.replaced >> MANIFEST & 1 == 1 {
            broken.note(Rule::RecordKeepsItsObjects);
        }
    }
    let fallback = kafka.invalid | droppable(state);
    let in_lake = visible_rows(state) | in_manifest(state, record) | fallback;
    let on_topic = kafka.enriched | fallback;
    if span(0, record.lake) & !in_lake != 0 || bound.has_topic && span(0, record.topic) & !on_topic != 0 {
        broken.note(Rule::NothingLost);
    }
}

/// Rows of the files that the record's manifest names and that are still staged.
fn in_manifest(state: &State, record: &Record) -> Offsets {
    let flush = state.flush(record.manifest);
    (0u8..).zip(flush.files()).fold(0, |rows, (file, of_file)| {
        let staged = flush.holds(file) && flush.replaced >> file & 1 == 0;
        if staged { rows | of_file } else { rows }
    })
}

/// Whether everything is where it belongs.
pub(crate) fn is_finished(state: &State, bound: &Bound) -> bool {
    if state.kafka.expired && state.kafka.record.is_none() && state.kafka.pending.is_none() {
        // Halted for a cause; nothing can be done without a person.
        return true;
    }
    let all = span(0, bound.records);
    let done = all & !(state.kafka.invalid | droppable(state));
    let level = |record: Record| record.topic == bound.records && record.lake == bound.records;
    state.kafka.pending.is_none()
        && state.kafka.record.is_some_and(level)
        && visible_rows(state) & done == done
        && (!bound.has_topic || state.kafka.enriched & done == done)
}

/// Takes a new record over, and notes what goes back.
pub(crate) fn follows(before: &Record, after: &Record) -> Option<Rule> {
    let rises = after.topic >= before.topic
        && after.lake >= before.lake
        && after.sequence >= before.sequence
        && after.epoch >= before.epoch;
    (!rises).then_some(Rule::CursorsOnlyRise)
}
