//! The rules that no run may break, and how one that did is told.

use std::fmt;

/// What must hold. Each has a flaw that breaks it: see `flaws`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Rule {
    /// Each grant of a slot has a higher epoch than all before it, also across masters.
    EpochsRise,
    /// What a worker is told stands in the store before.
    StoredFirst,
    /// A deposed leader writes nothing.
    DeposedWritesNothing,
    /// What the emitted records restore is what memory holds.
    RestoreEqualsMemory,
    /// No grant to a worker that is dead, silent, drained or leaving.
    GrantsToTheWilling,
    /// Nobody owns more slots than it offers places.
    PlacesSuffice,
    /// No slot is taken from a living owner without its word.
    OwnersAreAsked,
    /// Planned moves under way are bounded, in all and of one worker.
    MovesAreBounded,
    /// A slot that moved is left alone for a while, and at rest nothing moves.
    NoFlapping,
    /// Nobody commits below the record's epoch.
    RecordEpoch,
    /// Every offset is committed once.
    ExactlyOnce,
    /// When faults are over, within a bounded time everything runs that can, drains are done, shares are even.
    ComesToRest,
    /// A join takes at most its fair share, and nothing else moves.
    JoinTakesItsShare,
    /// A departure or a drain moves only its own slots.
    DepartureMovesItsOwn,
    /// Another leader moves nothing.
    LeaderLossMovesNothing,
    /// Facts in any order never break the core: no panic, no refusal of what is right.
    NoPanic,
}

impl Rule {
    #[cfg(test)]
    pub(crate) const ALL: [Self; 16] = [
        Self::EpochsRise,
        Self::StoredFirst,
        Self::DeposedWritesNothing,
        Self::RestoreEqualsMemory,
        Self::GrantsToTheWilling,
        Self::PlacesSuffice,
        Self::OwnersAreAsked,
        Self::MovesAreBounded,
        Self::NoFlapping,
        Self::RecordEpoch,
        Self::ExactlyOnce,
        Self::ComesToRest,
        Self::JoinTakesItsShare,
        Self::DepartureMovesItsOwn,
        Self::LeaderLossMovesNothing,
        Self::NoPanic,
    ];
}

/// A rule that was broken.
#[derive(Debug, Clone)]
pub(crate) struct Violation {
    pub(crate) rule: Rule,
    /// By the world's clock, in milliseconds.
    pub(crate) at: u64,
    pub(crate) what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} is broken at {} ms: {}", self.rule, self.at, self.what)
    }
}
