//! The coordinator: takes events, keeps the cluster's state, says what to store and what to tell.

use std::collections::BTreeSet;
use std::sync::Arc;

use millrace_types::{
    Epoch, Millis, PipelineDefinition, PipelineId, SlotId, SlotReport, VERSION, WorkerId, WorkerSpec,
};

use crate::event::{Directive, Event, Rejection, Step, Write};
use crate::history::{History, LossCause, MoveReason};
use crate::record::{
    MAX_SLOT_RECORDS, RECORD_VERSION, Record, RecordBody, RestoreError, SLOTS_PER_RECORD, SlotGroup,
    SlotRecord,
};
use crate::settings::Settings;
use crate::state::{Holding, Life, Pipeline, Pipelines, Slot, Slots, Vacancy, Worker, Workers};

/// No worker ever reaches this epoch by grants; one that reports more is wrong or means harm.
const MOST_EPOCH: Epoch = Epoch(u64::MAX / 2);

/// The scheduler's whole state. One task of the shell owns it.
#[derive(Debug, Clone, PartialEq)]
pub struct Coordinator {
    pub(crate) settings: Settings,
    pub(crate) pipelines: Pipelines,
    pub(crate) workers: Workers,
    pub(crate) slots: Slots,
    pub(crate) history: History,
    /// Slots and workers whose records must be written with this step.
    pub(crate) dirty: BTreeSet<SlotId>,
    pub(crate) dirty_workers: BTreeSet<WorkerId>,
    /// Free slots are to be granted with this step.
    pub(crate) place_now: bool,
    /// When the load is to be evened out, and who joined since the last time.
    pub(crate) even_out_at: Option<Millis>,
    pub(crate) joined: BTreeSet<WorkerId>,
    pub(crate) last_apply: Millis,
}

impl Coordinator {
    /// The coordinator as its records tell. Every known worker gets a full lease to come back; its slots stay with
    /// it meanwhile.
    ///
    /// # Errors
    /// Settings that contradict each other, or records that don't fit together.
    pub fn restore(settings: Settings, records: Vec<Record>, now: Millis) -> Result<Self, RestoreError> {
        settings.check()?;
        let mut restored = Self {
            history: History::new(&settings),
            settings,
            pipelines: Pipelines::new(),
            workers: Workers::new(),
            slots: Slots::new(),
            dirty: BTreeSet::new(),
            dirty_workers: BTreeSet::new(),
            place_now: true,
            even_out_at: None,
            joined: BTreeSet::new(),
            last_apply: now,
        };
        let mut keys = BTreeSet::new();
        let mut groups = Vec::new();
        for record in records {
            let key = record.key();
            if record.version > RECORD_VERSION {
                return Err(RestoreError::Version { key, version: record.version });
            }
            if !keys.insert(key.clone()) {
                return Err(RestoreError::Twice { key });
            }
            match record.body {
                RecordBody::Pipeline(definition) => {
                    let partitions = vec![0; definition.source_topics.len()];
                    let pipeline = Pipeline { definition: Arc::from(definition), partitions };
                    restored.pipelines.insert(pipeline.definition.id.clone(), pipeline);
                }
                RecordBody::Worker { spec, dead } => restored.restore_worker(spec, dead, now),
                RecordBody::Slots { group, slots } => groups.push((key, group, slots)),
            }
        }
        for (key, group, slots) in groups {
            for (partition, entry) in slots {
                let id = SlotId { pipeline: group.pipeline.clone(), topic: group.topic, partition };
                restored
                    .restore_slot(&group, id, entry, now)
                    .map_err(|problem| RestoreError::Damaged { key: key.clone(), problem })?;
            }
        }
        Ok(restored)
    }

    fn restore_worker(&mut self, spec: WorkerSpec, dead: bool, now: Millis) {
        let life = if dead { Life::Dead } else { Life::Unknown { until: now.plus(self.settings.lease) } };
        let worker = Worker { session: None, life, since: now, last_heard: None, memory_used_bytes: 0, spec };
        self.workers.insert(worker.spec.id.clone(), worker);
    }

    fn restore_slot(
        &mut self,
        group: &SlotGroup,
        id: SlotId,
        entry: SlotRecord,
        now: Millis,
    ) -> Result<(), String> {
        if id.partition < 0 || SlotGroup::of(&id) != *group {
            return Err(format!("partition {} does not belong here", id.partition));
        }
        let pipeline = self
            .pipelines
            .get_mut(&id.pipeline)
            .ok_or_else(|| format!("pipeline {} is missing", id.pipeline))?;
        let count = pipeline
            .partitions
            .get_mut(usize::from(id.topic))
            .ok_or_else(|| format!("the pipeline has no topic number {}", id.topic))?;
        *count = (*count).max(id.partition.unsigned_abs() + 1);
        let mut slot = Slot::new(MoveReason::MasterRestarted, now);
        slot.epoch = entry.epoch;
        slot.opened = entry.opened;
        slot.halt = entry.halt;
        match entry.owner {
            Some(worker) if self.workers.get(&worker).is_some_and(|known| known.life != Life::Dead) => {
                slot.holding = Holding::Granted { worker, sent_at: None };
            }
            from => slot.vacancy.from = from,
        }
        self.slots.insert(id, slot);
        Ok(())
    }

    /// Takes one event at `now`, which never goes back (an earlier one counts as the last).
    ///
    /// # Errors
    /// The event is refused and has changed nothing.
    pub fn apply(&mut self, now: Millis, event: Event) -> Result<Step, Rejection> {
        let now = now.max(self.last_apply);
        self.check_event(&event)?;
        self.forgive_own_absence(now, &event);
        self.last_apply = now;
        let mut step = Step::default();
        self.take(now, event, &mut step);
        self.check_lives(now, &mut step);
        self.end_retries(now);
        // While workers are joining, free slots wait with the rest: else the first one gets everything.
        match self.even_out_at {
            Some(at) if at <= now => {
                self.even_out_at = None;
                self.place_now = false;
                self.place(now, true, &mut step);
            }
            None if self.place_now => {
                self.place_now = false;
                self.place(now, false, &mut step);
            }
            Some(_) | None => {}
        }
        self.write_dirty(&mut step);
        Ok(step)
    }

    /// Refuses what must not change anything.
    fn check_event(&self, event: &Event) -> Result<(), Rejection> {
        match event {
            Event::PipelineSubmitted { definition, partitions } => {
                self.check_pipeline(definition, partitions)
            }
            Event::PartitionsFound { pipeline, topic, count } => {
                self.check_partitions(pipeline, *topic, *count)
            }
            Event::WorkerRegistered { spec, running, .. } => {
                self.check_worker(spec)?;
                check_epochs(&spec.id, running)
            }
            Event::Heartbeat { session, worker, reports, .. } => {
                self.check_session(worker, *session)?;
                check_epochs(worker, reports)
            }
            Event::SlotStopped { session, worker, .. } => self.check_session(worker, *session),
            Event::SlotResumed { slot } => match self.slots.get(slot) {
                None => Err(Rejection::UnknownSlot { slot: slot.clone() }),
                Some(known) if known.halt.is_none() => Err(Rejection::NotHalted { slot: slot.clone() }),
                Some(_) => Ok(()),
            },
            Event::SessionLost { .. } | Event::ProcessGone { .. } | Event::DeadlineReached => Ok(()),
        }
    }

    fn check_pipeline(&self, definition: &PipelineDefinition, partitions: &[u32]) -> Result<(), Rejection> {
        let pipeline = definition.id.clone();
        let topics = definition.source_topics.len();
        if partitions.len() != topics {
            return Err(Rejection::PartitionCounts { pipeline, given: partitions.len(), topics });
        }
        if let Some((topic, _)) =
            definition.source_topics.iter().zip(partitions).find(|(_, count)| **count == 0)
        {
            return Err(Rejection::NoPartitions { pipeline, topic: topic.clone() });
        }
        if self
            .pipelines
            .get(&pipeline)
            .is_some_and(|known| known.definition.source_topics != definition.source_topics)
        {
            return Err(Rejection::PipelineExists { pipeline });
        }
        let others = self.pipelines.iter().filter(|(id, _)| **id != pipeline);
        let counts = others.flat_map(|(_, pipeline)| &pipeline.partitions).chain(partitions);
        self.check_records(&pipeline, counts)
    }

    fn check_records<'a>(
        &self,
        pipeline: &PipelineId,
        counts: impl Iterator<Item = &'a u32>,
    ) -> Result<(), Rejection> {
        let records = counts.map(|count| count.div_ceil(SLOTS_PER_RECORD) as usize).sum();
        if records > MAX_SLOT_RECORDS {
            return Err(Rejection::TooManySlots {
                pipeline: pipeline.clone(),
                records,
                per_record: SLOTS_PER_RECORD,
                most: MAX_SLOT_RECORDS,
            });
        }
        Ok(())
    }

    fn check_partitions(&self, id: &PipelineId, topic: u16, count: u32) -> Result<(), Rejection> {
        let Some(pipeline) = self.pipelines.get(id) else {
            return Err(Rejection::UnknownPipeline { pipeline: id.clone() });
        };
        let index = usize::from(topic);
        let Some(known) = pipeline.partitions.get(index) else {
            let topics = pipeline.partitions.len();
            return Err(Rejection::UnknownTopic { pipeline: id.clone(), topic, topics });
        };
        if count < *known {
            return Err(Rejection::PartitionsGone {
                pipeline: id.clone(),
                topic: pipeline.definition.source_topics[index].clone(),
                count,
                known: *known,
            });
        }
        let mut counts: Vec<u32> =
            self.pipelines.values().flat_map(|pipeline| pipeline.partitions.clone()).collect();
        counts.push(count - known);
        self.check_records(id, counts.iter())
    }

    fn check_worker(&self, spec: &WorkerSpec) -> Result<(), Rejection> {
        let worker = spec.id.clone();
        for (key, value) in [("cores", u64::from(spec.cores)), ("slots", u64::from(spec.max_slots))] {
            if value == 0 {
                return Err(Rejection::Offer { worker, key, value, expected: "at least 1" });
            }
        }
        if series(&spec.version) != series(VERSION) {
            return Err(Rejection::Version { worker, version: spec.version.clone(), master: VERSION });
        }
        match self.workers.get(&worker) {
            Some(known) if known.spec.pid != spec.pid && known.life == Life::Alive => {
                Err(Rejection::IdTaken { worker, registered_pid: known.spec.pid, pid: spec.pid })
            }
            _ => Ok(()),
        }
    }

    fn check_session(&self, worker: &WorkerId, session: u64) -> Result<(), Rejection> {
        if self.workers.get(worker).is_some_and(|known| known.session == Some(session)) {
            Ok(())
        } else {
            Err(Rejection::StaleSession { worker: worker.clone(), session })
        }
    }

    /// Takes an event that was checked.
    fn take(&mut self, now: Millis, event: Event, step: &mut Step) {
        match event {
            Event::PipelineSubmitted { definition, partitions } => {
                self.submit(now, *definition, partitions, step);
            }
            Event::PartitionsFound { pipeline, topic, count } => {
                self.add_slots(now, &pipeline, topic, count, &MoveReason::PartitionsAdded);
            }
            Event::WorkerRegistered { session, spec, running } => {
                self.register(now, session, spec, &running, step);
            }
            Event::Heartbeat { session, worker, memory_used_bytes, reports } => {
                self.heard(now, &worker);
                if let Some(known) = self.workers.get_mut(&worker) {
                    known.memory_used_bytes = memory_used_bytes;
                }
                self.take_reports(now, &worker, session, &reports, step);
            }
            Event::SessionLost { session, worker } => self.session_lost(now, &worker, session, step),
            Event::ProcessGone { worker } => self.process_gone(now, &worker),
            Event::SlotStopped { worker, slot, epoch, reason, .. } => {
                self.heard(now, &worker);
                self.slot_stopped(now, &worker, &slot, epoch, reason);
            }
            Event::SlotResumed { slot } => {
                if let Some(known) = self.slots.get_mut(&slot) {
                    known.halt = None;
                    let reason = MoveReason::Operator { what: "resumed".into() };
                    known.vacancy = Vacancy { reason, since: now, ..known.vacancy.clone() };
                    self.dirty.insert(slot);
                    self.place_now = true;
                }
            }
            Event::DeadlineReached => {}
        }
    }

    fn heard(&mut self, now: Millis, worker: &WorkerId) {
        let Some(known) = self.workers.get_mut(worker) else { return };
        known.last_heard = Some(now);
        if known.life != Life::Alive {
            // Frozen, declared dead, thawed.
            known.life = Life::Alive;
            known.since = now;
            self.dirty_workers.insert(worker.clone());
            self.join(now, worker);
        }
    }

    /// Somebody joined: the load is evened out shortly, together with whoever else joins until then.
    fn join(&mut self, now: Millis, worker: &WorkerId) {
        self.joined.insert(worker.clone());
        self.even_out_at.get_or_insert(now.plus(self.settings.settle));
    }

    fn submit(&mut self, now: Millis, definition: PipelineDefinition, partitions: Vec<u32>, step: &mut Step) {
        let id = definition.id.clone();
        let before = self.pipelines.get(&id).map(|known| known.partitions.clone());
        let body = RecordBody::Pipeline(Box::new(definition.clone()));
        step.writes.push(Write::Put(Record { version: RECORD_VERSION, body }));
        let known = before.unwrap_or_else(|| vec![0; partitions.len()]);
        self.pipelines.insert(id.clone(), Pipeline { definition: Arc::new(definition), partitions: known });
        for (topic, count) in (0..).zip(partitions) {
            self.add_slots(now, &id, topic, count, &MoveReason::PipelineSubmitted);
        }
    }

    fn add_slots(&mut self, now: Millis, pipeline: &PipelineId, topic: u16, count: u32, reason: &MoveReason) {
        let Some(known) = self.pipelines.get_mut(pipeline) else { return };
        let Some(known) = known.partitions.get_mut(usize::from(topic)) else { return };
        for partition in *known..count {
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            let id = SlotId { pipeline: pipeline.clone(), topic, partition };
            self.slots.insert(id.clone(), Slot::new(reason.clone(), now));
            self.dirty.insert(id);
            self.place_now = true;
        }
        *known = (*known).max(count);
    }

    fn register(
        &mut self,
        now: Millis,
        session: u64,
        spec: WorkerSpec,
        running: &[SlotReport],
        step: &mut Step,
    ) {
        let id = spec.id.clone();
        let replaced = self.workers.get(&id).is_some_and(|known| known.spec.pid != spec.pid);
        if replaced && self.workers.get(&id).is_some_and(|known| known.life != Life::Dead) {
            self.declare_dead(now, &id, LossCause::Replaced);
        }
        let known = self.workers.get(&id);
        if let Some(old) = known.and_then(|known| known.session).filter(|old| *old != session) {
            step.directives.push(Directive::EndSession { worker: id.clone(), session: old });
        }
        let is_dead = known.is_some_and(|known| known.life == Life::Dead);
        if is_dead || known.is_none_or(|known| known.spec != spec) {
            self.dirty_workers.insert(id.clone());
        }
        // One that comes back with what it had changes nobody's load.
        let joins = is_dead || known.is_none();
        let since = known.filter(|known| known.life == Life::Alive).map_or(now, |known| known.since);
        let memory_used_bytes = known.map_or(0, |known| known.memory_used_bytes);
        let worker = Worker {
            session: Some(session),
            life: Life::Alive,
            since,
            last_heard: Some(now),
            memory_used_bytes,
            spec,
        };
        self.workers.insert(id.clone(), worker);
        if joins {
            self.join(now, &id);
        }
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
    }

    /// The records of everything that changed; slots by whole groups.
    fn write_dirty(&mut self, step: &mut Step) {
        for worker in std::mem::take(&mut self.dirty_workers) {
            if let Some(known) = self.workers.get(&worker) {
                let body = RecordBody::Worker { spec: known.spec.clone(), dead: known.life == Life::Dead };
                step.writes.push(Write::Put(Record { version: RECORD_VERSION, body }));
            }
        }
        let groups: BTreeSet<SlotGroup> = std::mem::take(&mut self.dirty).iter().map(SlotGroup::of).collect();
        for group in groups {
            let first = i32::try_from(group.number * SLOTS_PER_RECORD).unwrap_or(i32::MAX);
            let last = first.saturating_add_unsigned(SLOTS_PER_RECORD);
            let id = |partition| SlotId { pipeline: group.pipeline.clone(), topic: group.topic, partition };
            let slots = self
                .slots
                .range(id(first)..id(last))
                .map(|(id, slot)| {
                    let entry = SlotRecord {
                        epoch: slot.epoch,
                        opened: slot.opened,
                        owner: slot.owner().cloned(),
                        halt: slot.halt.clone(),
                    };
                    (id.partition, entry)
                })
                .collect();
            let body = RecordBody::Slots { group, slots };
            step.writes.push(Write::Put(Record { version: RECORD_VERSION, body }));
        }
    }

    /// When [`Event::DeadlineReached`] is due at the latest: at least once a heartbeat, so that a longer silence
    /// shows that the master itself was away.
    pub fn next_deadline(&self) -> Option<Millis> {
        let tick = self.last_apply.plus(self.settings.heartbeat);
        [Some(tick), self.next_death(), self.next_retry(), self.even_out_at].into_iter().flatten().min()
    }
}

fn check_epochs(worker: &WorkerId, reports: &[SlotReport]) -> Result<(), Rejection> {
    match reports.iter().find(|report| report.epoch > MOST_EPOCH) {
        None => Ok(()),
        Some(report) => Err(Rejection::Epoch {
            worker: worker.clone(),
            slot: report.slot.clone(),
            epoch: report.epoch,
            most: MOST_EPOCH,
        }),
    }
}

/// Versions of one series understand each other: they differ only in the last number.
fn series(version: &str) -> Option<&str> {
    version.rsplit_once('.').map(|(series, _)| series)
}
