//! What must hold: at each step, and when the faults are over for long.

use std::collections::{BTreeMap, BTreeSet};

use millrace_types::{Epoch, SlotId, SlotPhase, WorkerId};

use super::worker::Process;
use super::world::World;
use crate::{Directive, PipelineState, SlotState, Step, WorkerState, rebalance};

impl World {
    /// No epoch of a slot is ever granted to two workers, and each new one is higher than all before.
    pub(super) fn remember(&mut self, step: &Step) {
        for directive in &step.directives {
            if let Directive::Grant { worker, slot, epoch, .. } = directive {
                let first = self.granted.entry((slot.clone(), *epoch)).or_insert_with(|| worker.clone());
                assert_eq!(first, worker, "{slot} at epoch {epoch} was granted to another one before");
                let highest = self.highest.entry(slot.clone()).or_default();
                assert!(*epoch >= *highest, "{slot}: epoch {epoch} is granted after {highest}");
                *highest = *epoch;
                self.tally.grants += 1;
            }
        }
    }

    /// Nobody owns more than it carries; nothing is granted to the dead, and nothing unopened is told as opened.
    pub(super) fn check_grants(&self) {
        let Some(master) = &self.master else { return };
        let view = master.view();
        let states: BTreeMap<_, _> = view.workers.iter().map(|worker| (&worker.spec.id, worker)).collect();
        for worker in &view.workers {
            assert!(
                worker.slots.len() <= worker.spec.max_slots as usize,
                "{} owns {} slots, carries {}",
                worker.spec.id,
                worker.slots.len(),
                worker.spec.max_slots
            );
        }
        let idle: BTreeSet<_> = view
            .pipelines
            .iter()
            .filter(|pipeline| matches!(pipeline.state, PipelineState::Paused | PipelineState::Killing))
            .map(|pipeline| &pipeline.definition.id)
            .collect();
        for slot in &view.slots {
            assert!(
                slot.state != SlotState::Granted || !idle.contains(&slot.slot.pipeline),
                "{} is granted, though nobody wants it",
                slot.slot
            );
            if let Some(owner) = &slot.owner {
                assert_ne!(states[owner].state, WorkerState::Dead, "{} is owned by the dead", slot.slot);
            }
            assert!(
                !slot.opened || self.kafka.recorded(&slot.slot) > Epoch(0),
                "{} was never opened",
                slot.slot
            );
            assert_eq!(slot.owner.is_none(), slot.unowned_reason.is_some());
        }
    }

    /// The faults are over for long: each slot that fits runs where it is granted, nothing runs elsewhere, and
    /// the shares are fair.
    pub(super) fn check_rest(&self) {
        let master = self.master.as_ref().expect("a master runs");
        let view = master.view();
        let alive: BTreeSet<&WorkerId> = view
            .workers
            .iter()
            .filter(|worker| worker.state == WorkerState::Alive)
            .map(|worker| &worker.spec.id)
            .collect();
        let up: BTreeSet<&WorkerId> = self
            .workers
            .iter()
            .filter(|worker| worker.process == Process::Up)
            .map(|worker| &worker.spec.id)
            .collect();
        assert_eq!(alive, up, "who is up is alive");
        let room: u64 = view
            .workers
            .iter()
            .filter(|worker| worker.state == WorkerState::Alive)
            .map(|worker| u64::from(worker.spec.max_slots) - worker.slots.len() as u64)
            .sum();
        for view in &view.pipelines {
            assert_ne!(view.state, PipelineState::Killing, "{} is over", view.definition.id);
        }
        let stage_of = |slot: &SlotId| {
            view.pipelines.iter().find(|view| view.definition.id == slot.pipeline).expect("known")
        };
        let mut granted = 0;
        for slot in &view.slots {
            let pipeline = stage_of(&slot.slot);
            if pipeline.state == PipelineState::Paused {
                assert_eq!(slot.owner, None, "{} is paused", slot.slot);
                continue;
            }
            let Some(owner) = &slot.owner else {
                assert_eq!(room, 0, "{} has no owner: {:?}", slot.slot, slot.unowned_reason);
                continue;
            };
            granted += 1;
            assert_eq!(slot.state, SlotState::Granted, "{}", slot.slot);
            let runs = self.speaker(owner).and_then(|worker| worker.runs(&slot.slot));
            assert_eq!(runs, Some((slot.epoch, SlotPhase::Running)), "{} on {owner}", slot.slot);
            let version = self.speaker(owner).and_then(|worker| worker.version(&slot.slot));
            // Who lost the store and submits the pipeline by hand can't know by what its slots go.
            let known = self.tally.lost_stores == 0;
            assert!(!known || version == pipeline.definition.max_rate, "{} goes by an old one", slot.slot);
            assert_eq!(slot.deaths, 0, "{} moves", slot.slot);
            assert!(slot.opened, "{}", slot.slot);
            assert_eq!(self.kafka.recorded(&slot.slot), slot.epoch, "{}", slot.slot);
        }
        let running: usize = self.workers.iter().map(|worker| worker.running_slots().len()).sum();
        assert_eq!(running, granted, "nothing runs that is not granted");
        let owners = view.slots.iter().filter_map(|slot| Some((slot.slot.clone(), slot.owner.clone()?)));
        let current = crate::Assignment { owners: owners.collect() };
        assert_eq!(rebalance(&master.demand(), &current), current, "the shares are fair");
    }
}
