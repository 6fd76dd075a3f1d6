//! The coordinator: facts in, writes and directives out. What each fact means is in `liveness` and `drain` (workers),
//! `pipelines`, `reports` and `grants` (slots), of the store in `restore`. Who should have which slot is `plan`'s.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use millrace_types::{Epoch, HaltKind, Millis, PipelineId, SkipLost, SlotId, WorkerId};

use crate::backlog::{Backlog, Dirty};
use crate::history::{History, MoveReason};
use crate::index::Waiting;
use crate::load::LEAST_LOAD;
use crate::plan::{Moved, Queues};
use crate::record::{
    CompletedRecord, MAX_STEP_BYTES, MAX_WRITES, PipelineRecord, RECORD_VERSION, Record, RecordBody,
    RecordKey, RestoreError, SlotGroup,
};
use crate::state::{Completed, Hold, Life, Pipeline, Slot, Worker};
use crate::timers::{Timer, Timers};
use crate::{Directive, Event, Rejection, Settings, Step, Write};

/// The scheduler's whole state.
///
/// Time is an argument: milliseconds of a clock that never steps back. A shell that shows dates starts it at
/// Unix time and lets it run with the monotonic clock.
#[derive(Debug)]
pub struct Coordinator {
    pub(crate) settings: Settings,
    pub(crate) now: Millis,
    /// Those with slots, killed ones that are being given up too.
    pub(crate) pipelines: BTreeMap<PipelineId, Pipeline>,
    pub(crate) completed: BTreeMap<PipelineId, Completed>,
    pub(crate) workers: BTreeMap<WorkerId, Worker>,
    pub(crate) slots: BTreeMap<SlotId, Slot>,
    pub(crate) history: History,
    /// Something changed that may call for grants or revocations.
    pub(crate) replan: bool,
    /// A slot with a home may be grantable now.
    pub(crate) grants_due: bool,
    pub(crate) waiting: Waiting,
    /// Workers that did not get their share yet.
    pub(crate) joiners: BTreeSet<WorkerId>,
    pub(crate) draining: BTreeSet<WorkerId>,
    /// Pipelines whose slots were all given up, as was asked.
    pub(crate) given_up: BTreeSet<PipelineId>,
    /// Where slots keep failing, and until when they stay away.
    pub(crate) avoiding: BTreeMap<SlotId, (WorkerId, Millis)>,
    /// Slots that moved a while ago.
    pub(crate) moved: BTreeMap<SlotId, Moved>,
    /// Moves that were decided and wait for their turn.
    pub(crate) planned: Queues,
    /// The same, of draining workers.
    pub(crate) drains: Queues,
    /// What a slot of unknown load counts for.
    pub(crate) average_load: u64,
    pub(crate) timers: Timers,
    /// Slots that were seen open, which is stored with others of this moment, and when.
    pub(crate) newly_opened: BTreeSet<SlotId>,
    pub(crate) note_opened_at: Option<Millis>,
    /// Until when joins are gathered before shares are evened out.
    pub(crate) settle_at: Option<Millis>,
    /// When the load is looked at next, and was last.
    pub(crate) balance_at: Option<Millis>,
    pub(crate) balanced_at: Millis,
    /// The load is to be evened out: by time, or because a person said so, resting slots too.
    pub(crate) balance_due: Option<Balance>,
    /// No worker is declared dead before: this master itself stalled, and their messages wait to be read.
    pub(crate) patience_until: Millis,
    pub(crate) backlog: Backlog,
    pub(crate) directives: Vec<Directive>,
}

/// Why the load is evened out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Balance {
    Timely,
    Asked,
}

impl Coordinator {
    /// The state that the store's records hold; an empty store is a new cluster. Every worker in it has a full
    /// lease to register again and go on with its slots.
    pub fn restore(settings: Settings, records: Vec<Record>, now: Millis) -> Result<Self, RestoreError> {
        settings.check()?;
        let mut coordinator = Self {
            now,
            pipelines: BTreeMap::new(),
            completed: BTreeMap::new(),
            workers: BTreeMap::new(),
            slots: BTreeMap::new(),
            history: History::new(settings.moves_kept, settings.losses_kept),
            replan: true,
            grants_due: true,
            waiting: Waiting::default(),
            joiners: BTreeSet::new(),
            draining: BTreeSet::new(),
            given_up: BTreeSet::new(),
            avoiding: BTreeMap::new(),
            moved: BTreeMap::new(),
            planned: Queues::new(),
            drains: Queues::new(),
            average_load: LEAST_LOAD,
            timers: Timers::default(),
            newly_opened: BTreeSet::new(),
            note_opened_at: None,
            settle_at: Some(now.plus(settings.settle)),
            balance_at: None,
            balanced_at: now,
            balance_due: None,
            patience_until: now,
            backlog: Backlog::default(),
            directives: Vec::new(),
            settings,
        };
        coordinator.take_records(records)?;
        if !coordinator.slots.is_empty() {
            // No load is stored. Until it was watched for long enough, a look would take all slots for equal, and
            // undo what an earlier master did by knowing better.
            let heard_by = now.plus(coordinator.settings.lease);
            coordinator.balance_at = Some(heard_by.plus(coordinator.settings.load_span));
        }
        Ok(coordinator)
    }

    /// Takes a fact in. A rejected one has changed nothing. A `now` before the last one counts as the last one.
    pub fn apply(&mut self, now: Millis, event: Event) -> Result<Step, Rejection> {
        self.check(&event)?;
        let leaving = match &event {
            Event::Heartbeat { worker, draining: true, .. } => Some(worker.clone()),
            _ => None,
        };
        let now = self.now.max(now);
        self.forgive_own_stall(now);
        self.now = now;
        match event {
            Event::PipelineSubmitted { definition, partitions } => {
                self.add_pipeline(*definition, partitions);
            }
            Event::PipelineResubmitted { definition, partitions } => {
                self.resubmit(*definition, partitions);
            }
            Event::PipelinePaused { pipeline } => self.pause(&pipeline),
            Event::PipelineResumed { pipeline } => self.resume_pipeline(&pipeline),
            Event::PipelineKilled { pipeline, at_ms } => self.kill(&pipeline, at_ms),
            Event::PartitionsFound { pipeline, topic, count } => {
                self.add_slots(&pipeline, topic, count, &MoveReason::PartitionsAdded);
            }
            Event::WorkerRegistered { session, spec, running } => self.register(session, spec, running),
            Event::Heartbeat { worker, memory_used_bytes, draining, digest, reports, .. } => {
                self.hear(&worker, memory_used_bytes);
                self.note_leaving(&worker, draining);
                self.take_heartbeat(&worker, digest, reports);
            }
            Event::WorkerDrained { worker } => self.drain(&worker),
            Event::WorkerRecommissioned { worker } => self.recommission(&worker),
            Event::Rebalance => self.rebalance_now(),
            Event::SessionLost { session, worker } => self.lose_session(session, &worker),
            Event::ProcessGone { worker } => self.lose_process(&worker),
            Event::SlotStopped { worker, slot, epoch, reason, .. } => {
                self.slot_stopped(&worker, &slot, epoch, reason);
            }
            Event::SlotResumed { slot, skip_lost } => self.resume(&slot, skip_lost),
            Event::DeadlineReached => {}
        }
        self.reach_deadlines();
        self.assign();
        if let Some(worker) = leaving {
            self.let_go(&worker);
        }
        if self.balance_at.is_none() && !self.workers.is_empty() && !self.slots.is_empty() {
            self.balance_at = Some(self.now.plus(self.settings.balance_interval));
        }
        Ok(self.take_step())
    }

    /// When [`Event::DeadlineReached`] is due, if nothing else comes before. It may find nothing to do.
    pub fn next_deadline(&self) -> Option<Millis> {
        let now = (!self.backlog.is_empty() || !self.given_up.is_empty()).then_some(self.now);
        self.timers
            .first()
            .into_iter()
            .chain(self.note_opened_at)
            .chain(self.settle_at)
            .chain(self.balance_at)
            .chain(now)
            .min()
    }

    /// Whether the store holds all that is in memory, if each step was committed: what does not fit into one step
    /// comes with the next ones, which are due at once.
    pub fn is_written(&self) -> bool {
        self.backlog.is_empty()
    }

    /// Everything that the store holds now, if each step was committed.
    pub fn records(&self) -> Vec<Record> {
        let groups: BTreeSet<SlotGroup> = self.slots.keys().map(SlotGroup::of).collect();
        let pipelines = self.pipelines.keys().chain(self.completed.keys()).cloned().map(Dirty::Pipeline);
        let workers = self.workers.keys().cloned().map(Dirty::Worker);
        pipelines
            .chain(workers)
            .chain(groups.into_iter().map(Dirty::Slots))
            .filter_map(|dirty| self.body_of(&dirty))
            .map(|body| Record { version: RECORD_VERSION, body })
            .collect()
    }

    /// A deadline that passed long ago means that nobody called: the silence since then is this master's own.
    fn forgive_own_stall(&mut self, now: Millis) {
        if self.next_deadline().is_some_and(|due| now > due.plus(self.settings.heartbeat)) {
            self.patience_until = now.plus(Millis(self.settings.heartbeat.0.saturating_mul(2)));
        }
    }

    fn check(&self, event: &Event) -> Result<(), Rejection> {
        match event {
            Event::PipelineSubmitted { definition, partitions } => {
                self.check_submission(definition, partitions)
            }
            Event::PipelineResubmitted { definition, partitions } => {
                self.check_resubmission(definition, partitions)
            }
            Event::PipelinePaused { pipeline } => self.check_pause(pipeline),
            Event::PipelineResumed { pipeline } => self.check_resume(pipeline),
            Event::PipelineKilled { pipeline, .. } => self.check_kill(pipeline),
            Event::PartitionsFound { pipeline, topic, count } => {
                self.check_partitions(pipeline, *topic, *count)
            }
            Event::WorkerRegistered { spec, .. } => self.check_registration(spec),
            Event::Heartbeat { session, worker, .. } | Event::SlotStopped { session, worker, .. } => {
                let current = self.workers.get(worker).and_then(|known| known.session);
                if current == Some(*session) {
                    Ok(())
                } else {
                    Err(Rejection::StaleSession { worker: worker.clone(), session: *session })
                }
            }
            Event::SlotResumed { slot, skip_lost } => self.check_slot_resume(slot, *skip_lost),
            Event::WorkerDrained { worker } => self.check_drain(worker),
            Event::WorkerRecommissioned { worker } => self.check_recommission(worker),
            Event::SessionLost { .. }
            | Event::ProcessGone { .. }
            | Event::Rebalance
            | Event::DeadlineReached => Ok(()),
        }
    }

    fn check_slot_resume(&self, id: &SlotId, skip_lost: Option<SkipLost>) -> Result<(), Rejection> {
        let slot = || id.clone();
        let known = self.slots.get(id).ok_or_else(|| Rejection::UnknownSlot { slot: slot() })?;
        let halt = known.halt.as_ref().ok_or_else(|| Rejection::NotHalted { slot: slot() })?.kind;
        let Some(SkipLost { halt: seen, from }) = skip_lost else { return Ok(()) };
        if seen != halt {
            return Err(Rejection::OtherHalt { slot: slot(), halt, seen });
        }
        match (halt, from) {
            (HaltKind::TransformChanged | HaltKind::RecordRefused, _) => {
                Err(Rejection::NothingLost { slot: slot(), halt })
            }
            (HaltKind::RecordLost | HaltKind::RecordDamaged, None) => {
                Err(Rejection::FromMissing { slot: slot(), halt })
            }
            (HaltKind::OffsetsLost | HaltKind::ManifestMismatch, Some(from)) => {
                Err(Rejection::FromUnused { slot: slot(), halt, from })
            }
            (HaltKind::RecordLost | HaltKind::RecordDamaged, Some(_))
            | (HaltKind::OffsetsLost | HaltKind::ManifestMismatch, None) => Ok(()),
        }
    }

    pub(crate) fn resume(&mut self, id: &SlotId, skip_lost: Option<SkipLost>) {
        let since = self.now;
        // What is still to be noted of its last run must not void this word.
        if self.newly_opened.contains(id) {
            self.note_opened();
        }
        self.change_slot(id, |slot| {
            slot.halt = None;
            slot.skip_lost = skip_lost;
            slot.failures = 0;
            let (reason, from) = (MoveReason::Operator { what: "resumed".to_owned() }, None);
            slot.hold = Hold::Free { from, home: None, since, reason, urgent: true };
        });
        self.touch(id);
        self.replan = true;
    }

    /// What happens by the passing of time alone.
    fn reach_deadlines(&mut self) {
        while let Some(timer) = self.timers.pop(self.now) {
            match timer {
                Timer::Worker(id) => self.look_after(&id),
                Timer::Slot(id) => self.end_waits(&id),
            }
        }
        if self.note_opened_at.is_some_and(|at| at <= self.now) {
            self.note_opened();
        }
        self.settle_pipelines();
        if self.settle_at.is_some_and(|at| at <= self.now) {
            self.settle_at = None;
            self.replan = true;
            self.grants_due = true;
        }
        if self.balance_at.is_some_and(|at| at <= self.now) {
            self.balance_at = None;
            self.look_at_load(Balance::Timely);
        }
    }

    fn end_waits(&mut self, id: &SlotId) {
        let now = self.now;
        let waited = self.slots.get(id).is_some_and(|slot| slot.retry_at.is_some_and(|at| at <= now));
        if waited {
            self.change_slot(id, |slot| slot.retry_at = None);
            self.grants_due = true;
            self.replan = true;
        }
        if self.avoiding.get(id).is_some_and(|(_, until)| *until <= now) {
            self.avoiding.remove(id);
            self.replan = true;
        }
    }

    /// The slot's record is to be written.
    pub(crate) fn touch(&mut self, slot: &SlotId) {
        self.backlog.insert(Dirty::Slots(SlotGroup::of(slot)));
    }

    fn body_of(&self, dirty: &Dirty) -> Option<RecordBody> {
        Some(match dirty {
            Dirty::Pipeline(id) => match self.pipelines.get(id) {
                Some(pipeline) => RecordBody::Pipeline(Box::new(PipelineRecord {
                    definition: (*pipeline.definition).clone(),
                    stage: pipeline.stage,
                })),
                None => {
                    let completed = self.completed.get(id)?;
                    RecordBody::Completed(Box::new(CompletedRecord {
                        definition: (*completed.definition).clone(),
                        killed_at_ms: completed.killed_at_ms,
                        slots: completed.slots.clone(),
                    }))
                }
            },
            Dirty::Worker(id) => {
                let worker = self.workers.get(id)?;
                RecordBody::Worker {
                    spec: worker.spec.clone(),
                    dead: worker.life == Life::Dead,
                    drained: worker.drain.asked,
                }
            }
            Dirty::Slots(group) => {
                let (first, last) = group.partitions();
                let at =
                    |partition| SlotId { pipeline: group.pipeline.clone(), topic: group.topic, partition };
                let slots: BTreeMap<_, _> = self
                    .slots
                    .range(at(first)..=at(last))
                    .map(|(id, slot)| (id.partition, slot.record()))
                    .collect();
                if slots.is_empty() {
                    return None;
                }
                RecordBody::Slots { group: group.clone(), slots }
            }
        })
    }

    /// Directives wait until all is stored that they go by.
    fn take_step(&mut self) -> Step {
        let mut writes = Vec::new();
        let mut bytes = 0;
        while writes.len() < MAX_WRITES
            && bytes < MAX_STEP_BYTES
            && let Some(dirty) = self.backlog.pop()
        {
            writes.push(match (self.body_of(&dirty), dirty) {
                (Some(body), _) => {
                    bytes += body.size_estimate();
                    Write::Put(Record { version: RECORD_VERSION, body })
                }
                (None, Dirty::Pipeline(id)) => Write::Delete(RecordKey::pipeline(&id)),
                (None, Dirty::Worker(id)) => Write::Delete(RecordKey::worker(&id)),
                (None, Dirty::Slots(group)) => Write::Delete(RecordKey::slots(&group)),
            });
        }
        let directives =
            if self.backlog.is_empty() { std::mem::take(&mut self.directives) } else { Vec::new() };
        Step { writes, directives }
    }

    pub(crate) fn revoke_directive(&mut self, worker: &WorkerId, slot: &SlotId, epoch: Epoch) {
        if let Some(session) = self.workers.get(worker).and_then(Worker::reachable) {
            let (worker, slot) = (worker.clone(), slot.clone());
            self.directives.push(Directive::Revoke { worker, session, slot, epoch });
        }
    }

    pub(crate) fn grant_directive(&mut self, worker: &WorkerId, slot: &SlotId) {
        let (Some(session), Some(pipeline), Some(known)) = (
            self.workers.get(worker).and_then(Worker::reachable),
            self.pipelines.get(&slot.pipeline),
            self.slots.get(slot),
        ) else {
            return;
        };
        self.directives.push(Directive::Grant {
            worker: worker.clone(),
            session,
            slot: slot.clone(),
            epoch: known.epoch,
            opened: known.opened,
            definition: Arc::clone(&pipeline.definition),
            deaths: known.deaths,
            skip_lost: known.skip_lost,
        });
    }
}
