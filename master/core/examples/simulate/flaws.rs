//! Flaws that can be switched on, each of which breaks one rule: a rule that no flaw breaks may not be checked at all.

use std::collections::BTreeMap;

use millrace_master_core::{
    Coordinator, Directive, Event, Record, RecordBody, Settings, SlotGroup, SlotRecord, Step, WorkerState,
    Write,
};
use millrace_types::{Epoch, Millis, SlotId, WorkerId};

#[cfg(test)]
use crate::rules::Rule;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Flaw {
    EpochNotRaised,
    RestoreForgetsSlot,
    DirectivesBeforeWrites,
    StoreComparesNothing,
    WriteForgotten,
    DrainNotHeard,
    GrantToTheDead,
    OnePlaceTooMany,
    SlotTakenUnasked,
    MovesUnbounded,
    NoRest,
    OldClaimsTaken,
    NobodyFenced,
    RevokesNotSent,
    NothingRepeated,
    GreedyJoiner,
    LossMovesOthers,
    RestartMovesSlots,
    SecondPipelineRefused,
}

impl Flaw {
    pub(crate) const ALL: [Self; 19] = [
        Self::EpochNotRaised,
        Self::RestoreForgetsSlot,
        Self::DirectivesBeforeWrites,
        Self::StoreComparesNothing,
        Self::WriteForgotten,
        Self::DrainNotHeard,
        Self::GrantToTheDead,
        Self::OnePlaceTooMany,
        Self::SlotTakenUnasked,
        Self::MovesUnbounded,
        Self::NoRest,
        Self::OldClaimsTaken,
        Self::NobodyFenced,
        Self::RevokesNotSent,
        Self::NothingRepeated,
        Self::GreedyJoiner,
        Self::LossMovesOthers,
        Self::RestartMovesSlots,
        Self::SecondPipelineRefused,
    ];

    /// The rule that it breaks.
    #[cfg(test)]
    pub(crate) fn breaks(self) -> Rule {
        match self {
            Self::EpochNotRaised | Self::RestoreForgetsSlot => Rule::EpochsRise,
            Self::DirectivesBeforeWrites => Rule::StoredFirst,
            Self::StoreComparesNothing => Rule::DeposedWritesNothing,
            Self::WriteForgotten => Rule::RestoreEqualsMemory,
            Self::DrainNotHeard | Self::GrantToTheDead => Rule::GrantsToTheWilling,
            Self::OnePlaceTooMany => Rule::PlacesSuffice,
            Self::SlotTakenUnasked => Rule::OwnersAreAsked,
            Self::MovesUnbounded => Rule::MovesAreBounded,
            Self::NoRest => Rule::NoFlapping,
            Self::OldClaimsTaken => Rule::RecordEpoch,
            Self::NobodyFenced => Rule::ExactlyOnce,
            Self::RevokesNotSent | Self::NothingRepeated => Rule::ComesToRest,
            Self::GreedyJoiner => Rule::JoinTakesItsShare,
            Self::LossMovesOthers => Rule::DepartureMovesItsOwn,
            Self::RestartMovesSlots => Rule::LeaderLossMovesNothing,
            Self::SecondPipelineRefused => Rule::NoPanic,
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|flaw| format!("{flaw:?}") == name)
    }

    /// The settings that the core gets, in place of those that it should.
    pub(crate) fn distort_settings(self, settings: &mut Settings) {
        match self {
            Self::MovesUnbounded => (settings.moves_at_a_time, settings.moves_of_a_worker) = (1_000, 1_000),
            Self::NoRest => (settings.rest, settings.margin_percent) = (Millis(0), 0),
            _ => {}
        }
    }

    /// The records that a new leader reads, in place of those that are stored.
    pub(crate) fn distort_records(self, records: &mut [Record]) {
        if self != Self::RestoreForgetsSlot {
            return;
        }
        for record in records {
            if let RecordBody::Slots { slots, .. } = &mut record.body
                && let Some(slot) = slots.values_mut().next()
            {
                *slot = SlotRecord::default();
            }
        }
    }

    /// What the core is told in place of `event`; `None`: nothing. `rested`: the cluster was at rest before.
    pub(crate) fn distort_event(self, event: Event, rested: bool) -> Option<Event> {
        match (self, event) {
            (Self::DrainNotHeard, Event::WorkerDrained { .. }) => None,
            (Self::OnePlaceTooMany, Event::WorkerRegistered { session, mut spec, running }) => {
                spec.max_slots += 1;
                Some(Event::WorkerRegistered { session, spec, running })
            }
            (Self::GreedyJoiner, Event::WorkerRegistered { session, mut spec, running }) => {
                spec.cores *= if rested { 16 } else { 1 };
                Some(Event::WorkerRegistered { session, spec, running })
            }
            (Self::SecondPipelineRefused, Event::PipelineSubmitted { mut definition, partitions }) => {
                "clicks".clone_into(&mut definition.name);
                Some(Event::PipelineSubmitted { definition, partitions })
            }
            (_, event) => Some(event),
        }
    }

    /// Changes what the core wants to be done.
    pub(crate) fn distort_step(
        self,
        step: &mut Step,
        core: &Coordinator,
        known: &BTreeMap<(SlotId, Epoch), WorkerId>,
    ) {
        let is_known = |slot: &SlotId, epoch: Epoch| known.contains_key(&(slot.clone(), epoch));
        match self {
            Self::EpochNotRaised => {
                regrant(step, |slot, epoch, _| {
                    if !is_known(slot, *epoch) && epoch.0 > 1 {
                        epoch.0 -= 1;
                    }
                });
            }
            Self::GrantToTheDead => {
                let dead = core.view().workers.into_iter().find(|worker| worker.state == WorkerState::Dead);
                if let Some(dead) = dead {
                    regrant(step, |slot, epoch, worker| {
                        if !is_known(slot, *epoch) {
                            *worker = dead.spec.id.clone();
                        }
                    });
                }
            }
            Self::WriteForgotten => {
                let slots = |write: &Write| matches!(write, Write::Put(record) if matches!(record.body, RecordBody::Slots { .. }));
                if step.writes.len() > 1
                    && let Some(at) = step.writes.iter().rposition(slots)
                {
                    step.writes.remove(at);
                }
            }
            Self::RevokesNotSent => {
                step.directives.retain(|directive| !matches!(directive, Directive::Revoke { .. }));
            }
            Self::NothingRepeated => step.directives.retain(|directive| match directive {
                Directive::Grant { slot, epoch, .. } => !is_known(slot, *epoch),
                _ => true,
            }),
            _ => {}
        }
    }
}

/// Changes grants, and the records that say the same.
fn regrant(step: &mut Step, change: impl Fn(&SlotId, &mut Epoch, &mut WorkerId)) {
    for directive in &mut step.directives {
        let Directive::Grant { worker, slot, epoch, .. } = directive else { continue };
        let before = *epoch;
        change(slot, epoch, worker);
        for write in &mut step.writes {
            let Write::Put(record) = write else { continue };
            let RecordBody::Slots { group, slots } = &mut record.body else { continue };
            if *group == SlotGroup::of(slot)
                && let Some(stored) = slots.get_mut(&slot.partition)
                && stored.epoch == before
            {
                stored.epoch = *epoch;
                stored.owner = Some(worker.clone());
            }
        }
    }
}
