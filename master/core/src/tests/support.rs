//! A coordinator with a store beside it, as the stories of the other modules drive it.

use std::collections::{BTreeMap, BTreeSet};

use millrace_types::{
    Epoch, LakeTarget, Millis, NextOffset, PipelineDefinition, PipelineId, SlotId, SlotMetrics, SlotPhase,
    SlotReport, StopReason, VERSION, WorkerId, WorkerSpec,
};

use crate::{
    ClusterView, Coordinator, Directive, Event, MAX_WRITES, PipelineView, Record, RecordKey, Rejection,
    Settings, SlotView, Step, WorkerView, Write,
};

pub(super) fn definition(id: &str, topics: usize) -> PipelineDefinition {
    let topics = (0..topics).map(|n| format!("raw.{n}")).collect();
    let id_of = PipelineId::new(id).expect("plain");
    PipelineDefinition {
        lake: Some(LakeTarget::new("file:///lake")),
        ..PipelineDefinition::new(id_of, id, "127.0.0.1:9092", topics, "invalid")
    }
}

pub(super) fn worker_id(name: &str) -> WorkerId {
    WorkerId::new(name).expect("plain")
}

pub(super) fn spec(name: &str, cores: u32) -> WorkerSpec {
    WorkerSpec {
        id: worker_id(name),
        pid: 100,
        host: "127.0.0.1".to_owned(),
        port: 4_000,
        http_port: 4_000,
        cores,
        memory_mib: 1_024,
        zone: None,
        max_slots: 64,
        version: VERSION.to_owned(),
    }
}

pub(super) fn slot(partition: i32) -> SlotId {
    SlotId { pipeline: PipelineId::new("clicks-1").expect("plain"), topic: 0, partition }
}

pub(super) fn report(slot: &SlotId, epoch: Epoch, phase: SlotPhase) -> SlotReport {
    SlotReport { slot: slot.clone(), epoch, phase, metrics: SlotMetrics::default() }
}

/// A report of a slot whose lake stands at `cursor`.
pub(super) fn report_at(slot: &SlotId, epoch: Epoch, phase: SlotPhase, cursor: i64) -> SlotReport {
    let metrics = SlotMetrics { lake_cursor: Some(NextOffset(cursor)), ..SlotMetrics::default() };
    SlotReport { metrics, ..report(slot, epoch, phase) }
}

/// A heartbeat that holds all that the worker runs.
pub(super) fn heard(session: u64, worker: WorkerId, reports: Vec<SlotReport>) -> Event {
    let digest = reports.iter().map(|report| (&report.slot, report.epoch)).collect();
    Event::Heartbeat { session, worker, memory_used_bytes: 1, draining: false, digest, reports }
}

/// Applies a step's writes to a store as one transaction, and checks what holds for each step.
pub(super) fn commit(store: &mut BTreeMap<RecordKey, Record>, step: &Step) {
    assert!(step.writes.len() <= MAX_WRITES, "{} writes in one step", step.writes.len());
    let mut keys = BTreeSet::new();
    for write in &step.writes {
        match write {
            Write::Put(record) => {
                assert!(keys.insert(record.key()), "{} is written twice in one step", record.key());
                store.insert(record.key(), record.clone());
            }
            Write::Delete(key) => {
                assert!(keys.insert(key.clone()), "{key} is written twice in one step");
                store.remove(key);
            }
        }
    }
}

/// A coordinator, its store, and workers that do at once what they are told.
pub(super) struct Cluster {
    pub(super) now: u64,
    pub(super) settings: Settings,
    pub(super) coordinator: Coordinator,
    pub(super) store: BTreeMap<RecordKey, Record>,
    /// What each worker runs.
    pub(super) running: BTreeMap<WorkerId, BTreeMap<SlotId, (Epoch, SlotPhase)>>,
    pub(super) sessions: BTreeMap<WorkerId, u64>,
    /// Workers whose processes were told to stop.
    pub(super) leaving: BTreeSet<WorkerId>,
    /// Of slots whose load is told: records read, and records that came in.
    pub(super) stands: BTreeMap<SlotId, (f64, f64)>,
    next_session: u64,
}

impl Cluster {
    pub(super) fn new(settings: Settings) -> Self {
        let coordinator = Coordinator::restore(settings.clone(), Vec::new(), Millis(0)).expect("empty");
        Self {
            now: 0,
            settings,
            coordinator,
            store: BTreeMap::new(),
            running: BTreeMap::new(),
            sessions: BTreeMap::new(),
            leaving: BTreeSet::new(),
            stands: BTreeMap::new(),
            next_session: 1,
        }
    }

    /// `workers` of one core each, with `slots` shared out and running.
    pub(super) fn started(workers: &[&str], slots: u32) -> Self {
        let mut cluster = Self::new(Settings::default());
        cluster.submit(slots);
        for worker in workers {
            cluster.register(worker);
        }
        cluster.pass(1_000);
        assert_eq!(cluster.owners().len(), slots as usize, "all slots run");
        cluster
    }

    pub(super) fn try_apply(&mut self, event: Event) -> Result<Step, Rejection> {
        let before = self.coordinator.records();
        match self.coordinator.apply(Millis(self.now), event) {
            Ok(step) => {
                commit(&mut self.store, &step);
                if !self.coordinator.is_written() {
                    return Ok(step);
                }
                let in_store: Vec<Record> = self.store.values().cloned().collect();
                let mut in_memory = self.coordinator.records();
                in_memory.sort_by_key(Record::key);
                assert_eq!(in_memory, in_store, "the store holds what memory says");
                Ok(step)
            }
            Err(rejection) => {
                assert_eq!(self.coordinator.records(), before, "a rejected event changes nothing");
                Err(rejection)
            }
        }
    }

    /// Applies an event; the workers do what they are told. Gives the directives back.
    pub(super) fn apply(&mut self, event: Event) -> Vec<Directive> {
        let step = self.try_apply(event).expect("accepted");
        let mut all = step.directives.clone();
        for directive in step.directives {
            all.extend(self.carry_out(directive));
        }
        all
    }

    fn carry_out(&mut self, directive: Directive) -> Vec<Directive> {
        match directive {
            Directive::Grant { worker, slot, epoch, .. } => {
                let runs = self.running.entry(worker).or_default();
                runs.entry(slot).or_insert((epoch, SlotPhase::Opening));
                Vec::new()
            }
            Directive::Revoke { worker, session, slot, epoch } => {
                if self.sessions.get(&worker) != Some(&session) {
                    return Vec::new();
                }
                self.running.entry(worker.clone()).or_default().remove(&slot);
                self.apply(Event::SlotStopped { session, worker, slot, epoch, reason: StopReason::Revoked })
            }
            Directive::Probe { .. }
            | Directive::EndSession { .. }
            | Directive::ReportAll { .. }
            | Directive::Leave { .. } => Vec::new(),
        }
    }

    pub(super) fn submit(&mut self, slots: u32) {
        let definition = Box::new(definition("clicks-1", 1));
        self.apply(Event::PipelineSubmitted { definition, partitions: vec![slots] });
    }

    pub(super) fn register(&mut self, worker: &str) -> Vec<Directive> {
        self.register_spec(spec(worker, 1))
    }

    pub(super) fn register_spec(&mut self, spec: WorkerSpec) -> Vec<Directive> {
        let (worker, session) = (spec.id.clone(), self.next_session);
        self.next_session += 1;
        self.sessions.insert(worker.clone(), session);
        let running = self.reports(&worker);
        self.apply(Event::WorkerRegistered { session, spec, running })
    }

    pub(super) fn reports(&self, worker: &WorkerId) -> Vec<SlotReport> {
        let runs = self.running.get(worker).into_iter().flatten();
        runs.map(|(slot, (epoch, phase))| report(slot, *epoch, *phase)).collect()
    }

    pub(super) fn heartbeat(&mut self, worker: &WorkerId) -> Vec<Directive> {
        let session = self.sessions[worker];
        for (_, phase) in self.running.entry(worker.clone()).or_default().values_mut() {
            *phase = SlotPhase::Running;
        }
        let reports = self.reports(worker);
        let mut event = heard(session, worker.clone(), reports);
        if let Event::Heartbeat { draining, .. } = &mut event {
            *draining = self.leaving.contains(worker);
        }
        self.apply(event)
    }

    /// Lets time pass; workers with a session send heartbeats.
    pub(super) fn pass(&mut self, span: u64) -> Vec<Directive> {
        let quiet: Vec<&str> = Vec::new();
        self.pass_without(span, &quiet)
    }

    /// Lets time pass while `silent` workers say nothing.
    pub(super) fn pass_without(&mut self, span: u64, silent: &[&str]) -> Vec<Directive> {
        let end = self.now + span;
        let mut all = Vec::new();
        while self.now < end {
            self.now = (self.now + 50).min(end);
            while self.coordinator.next_deadline().is_some_and(|due| due.0 <= self.now) {
                all.extend(self.apply(Event::DeadlineReached));
            }
            if self.now.is_multiple_of(self.settings.heartbeat.0) {
                let speaking: Vec<WorkerId> = self.sessions.keys().cloned().collect();
                for worker in speaking.iter().filter(|worker| !silent.contains(&worker.as_str())) {
                    all.extend(self.heartbeat(worker));
                }
            }
        }
        all
    }

    pub(super) fn lose_session(&mut self, worker: &str) -> Vec<Directive> {
        let worker = worker_id(worker);
        let session = self.sessions.remove(&worker).expect("has a session");
        self.apply(Event::SessionLost { session, worker })
    }

    /// The master is killed and starts again on its store; the workers go on and have no session.
    pub(super) fn restart_master(&mut self) {
        let records = self.store.values().cloned().collect();
        self.coordinator =
            Coordinator::restore(self.settings.clone(), records, Millis(self.now)).expect("restorable");
        self.sessions.clear();
    }

    pub(super) fn view(&self) -> ClusterView {
        self.coordinator.view()
    }

    pub(super) fn pipeline(&self, id: &str) -> PipelineView {
        let view = self.view();
        let mut all = view.pipelines.into_iter().chain(view.completed);
        all.find(|view| view.definition.id.as_str() == id).expect("a known pipeline")
    }

    pub(super) fn slot(&self, partition: i32) -> SlotView {
        self.view().slots.into_iter().find(|view| view.slot == slot(partition)).expect("a known slot")
    }

    pub(super) fn worker(&self, name: &str) -> WorkerView {
        self.view().workers.into_iter().find(|view| view.spec.id.as_str() == name).expect("a known worker")
    }

    /// Owner and epoch of each owned slot.
    pub(super) fn owners(&self) -> BTreeMap<i32, (String, Epoch)> {
        let slots = self.view().slots.into_iter();
        slots.filter_map(|view| Some((view.slot.partition, (view.owner?.to_string(), view.epoch)))).collect()
    }
}
