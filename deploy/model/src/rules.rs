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
    pub const ALL: [Self; 14] = [
        Self::TopicOnce,
        Self::QuarantineOnce,
        Self::LakeOnce,
        Self::OneVerdict,
        Self::SinksAgree,
        Self::NotBeforeCommit,
        Self::NothingLost,
        Self::RecordKeepsItsObjects,
        Self::CursorsOnlyRise,
        Self::LakeNotBeyondTopic,
        Self::OneOwnerPerEpoch,
        Self::ChainOfFlushes,
        Self::NoHaltWithoutCause,
        Self::CanFinish,
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

/// The first rule that `state` breaks, `CanFinish` aside.
pub(crate) fn broken(state: &State, bound: &Bound) -> Option<Rule> {
    state.broken.or_else(|| {
        let record = state.committed().unwrap_or_default();
        lake_once(state).or_else(|| agreement(state, bound, &record)).or_else(|| loss(state, bound, &record))
    })
}

/// Rows under the final keys.
pub(crate) fn visible_rows(state: &State) -> Offsets {
    state.store.files.iter().flatten().fold(0, |seen, content| match content {
        Content::Rows { rows, .. } => seen | rows,
        Content::Nothing | Content::Foreign => seen,
    })
}

fn lake_once(state: &State) -> Option<Rule> {
    let mut seen: Offsets = 0;
    for content in state.store.files.iter().flatten() {
        match content {
            Content::Nothing => {}
            Content::Foreign => return Some(Rule::LakeOnce),
            Content::Rows { rows, .. } if seen & rows != 0 => return Some(Rule::LakeOnce),
            Content::Rows { rows, .. } => seen |= rows,
        }
    }
    None
}

/// Offsets that no sink need have: the changed definition drops the first one.
fn droppable(state: &State) -> Offsets {
    u8::from(state.master.definition > 0)
}

fn agreement(state: &State, bound: &Bound, record: &Record) -> Option<Rule> {
    let (kafka, rows) = (&state.kafka, visible_rows(state));
    if kafka.invalid & (kafka.enriched | rows) != 0 {
        return Some(Rule::OneVerdict);
    }
    if record.lake > record.topic {
        return Some(Rule::LakeNotBeyondTopic);
    }
    // A committed offset that expired says nothing any more.
    let known = kafka.record.is_some() || kafka.pending.is_some() || !kafka.expired;
    let (below_topic, below_lake) = (span(0, record.topic), span(0, record.lake));
    let ahead = kafka.enriched & !below_topic != 0 || rows & !below_lake != 0 || kafka.invalid & !below_topic != 0;
    if known && ahead {
        return Some(Rule::NotBeforeCommit);
    }
    let in_lake = rows | in_manifest(state, record);
    if bound.has_topic && in_lake & below_lake != kafka.enriched & below_lake && known {
        let lost = kafka.enriched & below_lake & !in_lake;
        return Some(if lost != 0 { Rule::NothingLost } else { Rule::SinksAgree });
    }
    None
}

fn loss(state: &State, bound: &Bound, record: &Record) -> Option<Rule> {
    let kafka = &state.kafka;
    if record.manifest.is_some() {
        let flush = state.flush(record.manifest);
        if !flush.holds(MANIFEST) || flush.replaced >> MANIFEST & 1 == 1 {
            return Some(Rule::RecordKeepsItsObjects);
        }
    }
    let fallback = kafka.invalid | droppable(state);
    let in_lake = visible_rows(state) | in_manifest(state, record) | fallback;
    let on_topic = kafka.enriched | fallback;
    let lake_lacks = span(0, record.lake) & !in_lake != 0;
    let topic_lacks = bound.has_topic && span(0, record.topic) & !on_topic != 0;
    (lake_lacks || topic_lacks).then_some(Rule::NothingLost)
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
