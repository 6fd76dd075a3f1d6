//! The coordinator: takes events, keeps the cluster's state, says what to store and what to tell.

use std::collections::{BTreeMap, BTreeSet};

use millrace_types::{Millis, PipelineDefinition, PipelineId, SlotId, SlotReport, VERSION, WorkerSpec};

use crate::event::{Event, Rejection, Step};
use crate::history::History;
use crate::record::{Record, RestoreError, SlotEntry, Write, group_of, partitions_of};
use crate::state::{Holding, Life, Pipeline, Slot, Slots, Worker, Workers};
use crate::{MoveReason, Settings};

/// The scheduler's whole state. One task owns it.
#[derive(Debug, Clone, PartialEq)]
pub struct Coordinator {
    pub(crate) settings: Settings,
    pub(crate) pipelines: BTreeMap<PipelineId, Pipeline>,
    pub(crate) workers: Workers,
    pub(crate) slots: Slots,
    pub(crate) history: History,
    /// Slots whose stored part must be written with this step.
    pub(crate) dirty: BTreeSet<SlotId>,
    /// Free slots are to be granted with this step.
    pub(crate) place_now: bool,
    /// When the load is to be evened out.
    pub(crate) even_out_at: Option<Millis>,
    pub(crate) last_apply: Millis,
}

impl Coordinator {
    /// The coordinator as its records tell. Every known worker gets a full lease to come back; its slots stay with
    /// it meanwhile.
    ///
    /// # Errors
    /// Records that don't fit together.
    pub fn restore(settings: Settings, records: Vec<Record>, now: Millis) -> Result<Self, RestoreError> {
        let mut restored = Self {
            settings,
            pipelines: BTreeMap::new(),
            workers: BTreeMap::new(),
            slots: BTreeMap::new(),
            history: History::default(),
            dirty: BTreeSet::new(),
            place_now: true,
            even_out_at: None,
            last_apply: now,
        };
        let mut groups = Vec::new();
        for record in records {
            match record {
                Record::Pipeline { definition, partitions } => restored.add_pipeline(definition, partitions),
                Record::Worker { spec } => {
                    let reason = "not heard of since the master started".to_owned();
                    let worker = Worker {
                        session: None,
                        life: Life::Suspect { until: now.plus(settings.lease), reason },
                        last_heard: now,
                        memory_used_bytes: 0,
                        spec,
                    };
                    restored.workers.insert(worker.spec.id.clone(), worker);
                }
                Record::Slots { .. } => groups.push(record),
            }
        }
        for record in groups {
            let key = record.key();
            let Record::Slots { pipeline, topic, group, slots } = record else { continue };
            if !restored.pipelines.contains_key(&pipeline) {
                return Err(RestoreError::SlotsWithoutPipeline { pipeline, key });
            }
            for (partition, entry) in slots {
                if !partitions_of(group).contains(&partition) {
                    return Err(RestoreError::Misplaced { partition, key });
                }
                let id = SlotId { pipeline: pipeline.clone(), topic, partition };
                restored.restore_slot(id, entry);
            }
        }
        Ok(restored)
    }

    fn restore_slot(&mut self, id: SlotId, entry: SlotEntry) {
        let holding = match entry.owner {
            Some(worker) if self.workers.contains_key(&worker) => Holding::Granted { worker, sent_at: None },
            Some(worker) => Holding::Free {
                after: Some((worker, MoveReason::WorkerLost("not known to this master".into()))),
            },
            None => Holding::Free { after: None },
        };
        let slot = Slot { epoch: entry.epoch, opened: entry.opened, holding, ..Slot::new() };
        self.slots.insert(id, slot);
    }

    /// Takes one event at `now`, which never goes back.
    ///
    /// # Errors
    /// The event is refused; what time brought about is in the next step.
    pub fn apply(&mut self, now: Millis, event: Event) -> Result<Step, Rejection> {
        let now = now.max(self.last_apply);
        self.forgive_own_absence(now, &event);
        self.last_apply = now;
        let mut step = Step::default();
        self.take(now, event, &mut step)?;
        self.check_lives(now, &mut step);
        if self.next_retry().is_some_and(|retry| retry <= now) {
            self.place_now = true;
        }
        // While workers are joining, free slots wait with the rest: else the first one gets everything.
        match self.even_out_at {
            Some(at) if at <= now => {
                self.even_out_at = None;
                self.place_now = false;
                self.place(now, true, &mut step);
            }
            Some(_) => {}
            None if self.place_now => {
                self.place_now = false;
                self.place(now, false, &mut step);
            }
            None => {}
        }
        self.write_dirty(&mut step);
        Ok(step)
    }

    fn take(&mut self, now: Millis, event: Event, step: &mut Step) -> Result<(), Rejection> {
        match event {
            Event::PipelineSubmitted { definition, partitions } => {
                if self.pipelines.contains_key(&definition.id) {
                    return Err(Rejection::DuplicatePipeline { pipeline: definition.id });
                }
                let id = definition.id.clone();
                self.add_pipeline(definition, partitions);
                self.write_pipeline(&id, step);
                self.place_now = true;
            }
            Event::PipelineChanged { definition } => {
                let id = definition.id.clone();
                let known = self.pipelines.get_mut(&id);
                known.ok_or_else(|| Rejection::UnknownPipeline { pipeline: id.clone() })?.definition =
                    definition;
                self.write_pipeline(&id, step);
            }
            Event::PartitionsFound { pipeline, topic, count } => {
                self.partitions_found(&pipeline, topic, count, step)?;
            }
            Event::WorkerRegistered { session, spec, running } => {
                self.register(now, session, spec, &running, step)?;
            }
            Event::Heartbeat { session, worker, memory_used_bytes, reports } => {
                let known = self.workers.get_mut(&worker).filter(|known| known.session == Some(session));
                let Some(known) = known else { return Err(Rejection::UnknownSession { worker }) };
                known.last_heard = now;
                known.memory_used_bytes = memory_used_bytes;
                if known.life != Life::Alive {
                    // Frozen, declared dead, thawed.
                    known.life = Life::Alive;
                    self.joined(now);
                }
                self.take_reports(now, &worker, session, &reports, step);
            }
            Event::SessionLost { session, worker } => self.session_lost(now, &worker, session, step),
            Event::ProcessGone { worker } => self.process_gone(now, &worker),
            Event::SlotStopped { session, worker, slot, epoch, reason } => {
                let known = self.workers.get_mut(&worker).filter(|known| known.session == Some(session));
                let Some(known) = known else { return Err(Rejection::UnknownSession { worker }) };
                known.last_heard = now;
                self.slot_stopped(now, &worker, &slot, epoch, reason);
            }
            Event::DeadlineReached => {}
        }
        Ok(())
    }

    fn register(
        &mut self,
        now: Millis,
        session: u64,
        spec: WorkerSpec,
        running: &[SlotReport],
        step: &mut Step,
    ) -> Result<(), Rejection> {
        let id = spec.id.clone();
        if spec.cores == 0 {
            return Err(Rejection::NoCores { worker: id });
        }
        if spec.max_slots == 0 {
            return Err(Rejection::NoSlots { worker: id });
        }
        if compatible(&spec.version) != compatible(VERSION) {
            return Err(Rejection::Version { worker: id, found: spec.version, expected: VERSION.to_owned() });
        }
        let known = self.workers.get(&id);
        if let Some(known) = known.filter(|known| known.spec.pid != spec.pid && known.life == Life::Alive) {
            return Err(Rejection::DuplicateWorker { worker: id, pid: known.spec.pid });
        }
        if known.is_none_or(|known| known.spec != spec) {
            step.writes.push(Write::Put(Box::new(Record::Worker { spec: spec.clone() })));
        }
        // One that comes back with what it had changes nobody's load.
        if known.is_none_or(|known| matches!(known.life, Life::Dead { .. })) {
            self.joined(now);
        }
        let memory_used_bytes = known.map_or(0, |known| known.memory_used_bytes);
        let worker =
            Worker { spec, session: Some(session), life: Life::Alive, last_heard: now, memory_used_bytes };
        self.workers.insert(id.clone(), worker);
        // Whatever was sent through an earlier connection may not have arrived.
        for slot in self.slots.values_mut() {
            match &mut slot.holding {
                Holding::Granted { worker, sent_at } | Holding::Revoking { worker, sent_at, .. }
                    if *worker == id =>
                {
                    *sent_at = None;
                }
                _ => {}
            }
        }
        self.take_reports(now, &id, session, running, step);
        self.place_now = true;
        Ok(())
    }

    /// Somebody joined: the load is evened out shortly, together with whoever else joins until then.
    fn joined(&mut self, now: Millis) {
        self.even_out_at.get_or_insert(now.plus(self.settings.settle));
    }

    fn add_pipeline(&mut self, definition: PipelineDefinition, partitions: Vec<u32>) {
        let id = definition.id.clone();
        for (topic, count) in (0_u16..).zip(&partitions) {
            self.add_slots(&id, topic, *count);
        }
        self.pipelines.insert(id, Pipeline { definition, partitions });
    }

    fn add_slots(&mut self, pipeline: &PipelineId, topic: u16, count: u32) {
        for partition in 0..i32::try_from(count).unwrap_or(i32::MAX) {
            let id = SlotId { pipeline: pipeline.clone(), topic, partition };
            self.slots.entry(id).or_insert_with(Slot::new);
        }
    }

    fn partitions_found(
        &mut self,
        pipeline: &PipelineId,
        topic: u16,
        count: u32,
        step: &mut Step,
    ) -> Result<(), Rejection> {
        let known = self.pipelines.get_mut(pipeline);
        let known = known.ok_or_else(|| Rejection::UnknownPipeline { pipeline: pipeline.clone() })?;
        match known.partitions.get_mut(usize::from(topic)) {
            Some(partitions) if *partitions < count => *partitions = count,
            _ => return Ok(()),
        }
        self.add_slots(pipeline, topic, count);
        self.write_pipeline(pipeline, step);
        self.place_now = true;
        Ok(())
    }

    fn write_pipeline(&self, id: &PipelineId, step: &mut Step) {
        if let Some(Pipeline { definition, partitions }) = self.pipelines.get(id) {
            step.writes.push(Write::Put(Box::new(Record::Pipeline {
                definition: definition.clone(),
                partitions: partitions.clone(),
            })));
        }
    }

    /// The records of all slots that changed, whole groups at a time.
    fn write_dirty(&mut self, step: &mut Step) {
        let groups: BTreeSet<_> = std::mem::take(&mut self.dirty).iter().map(group_of).collect();
        for (pipeline, topic, group) in groups {
            let id = |partition| SlotId { pipeline: pipeline.clone(), topic, partition };
            let range = partitions_of(group);
            let slots = self
                .slots
                .range(id(range.start)..id(range.end))
                .map(|(id, slot)| {
                    let entry =
                        SlotEntry { epoch: slot.epoch, owner: slot.owner().cloned(), opened: slot.opened };
                    (id.partition, entry)
                })
                .collect();
            step.writes.push(Write::Put(Box::new(Record::Slots { pipeline, topic, group, slots })));
        }
    }

    /// When [`Event::DeadlineReached`] is due at the latest. At least once a heartbeat, so that a longer silence
    /// shows that the master itself was away.
    pub fn next_deadline(&self) -> Option<Millis> {
        let tick = self.last_apply.plus(self.settings.heartbeat);
        [Some(tick), self.next_death(), self.next_retry(), self.even_out_at].into_iter().flatten().min()
    }
}

/// Versions that differ only in the last number understand each other.
fn compatible(version: &str) -> Option<&str> {
    version.rsplit_once('.').map(|(series, _)| series)
}
