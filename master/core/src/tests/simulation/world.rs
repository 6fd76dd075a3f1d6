//! The world: time, the network, the workers' sessions, the master and its store.

use std::collections::BTreeMap;

use millrace_types::{Epoch, Millis, SlotId, WorkerId};

use super::super::support::commit;
use super::model::{Chance, Kafka};
use super::tally::Tally;
use super::worker::{Order, Process, Stopped, Worker};
use crate::{Coordinator, Directive, Event, Record, RecordKey, Rejection, Settings, Step};

/// Model time per step of the loop.
const MOMENT: u64 = 10;

pub(super) enum Message {
    ToMaster(Event),
    ToWorker { incarnation: u64, order: Order },
    EndSession { incarnation: u64, session: u64 },
}

pub(super) struct World {
    pub(super) seed: u64,
    pub(super) verbose: bool,
    pub(super) chance: Chance,
    pub(super) now: u64,
    /// Difference of the master's clock to model time: it jumps forwards, and restarts anywhere.
    pub(super) clock: u64,
    pub(super) settings: Settings,
    pub(super) master: Option<Coordinator>,
    pub(super) master_back_at: u64,
    pub(super) store: BTreeMap<RecordKey, Record>,
    pub(super) next_session: u64,
    pub(super) workers: Vec<Worker>,
    pub(super) next_incarnation: u64,
    pub(super) kafka: Kafka,
    pub(super) network: BTreeMap<(u64, u64), Message>,
    pub(super) sent: u64,
    pub(super) calm: bool,
    /// To whom each epoch was granted, since the store was lost last.
    pub(super) granted: BTreeMap<(SlotId, Epoch), WorkerId>,
    pub(super) highest: BTreeMap<SlotId, Epoch>,
    pub(super) tally: Tally,
}

impl World {
    pub(super) fn new(seed: u64, verbose: bool) -> Self {
        let mut chance = Chance::new(seed);
        let settings = Settings {
            settle: Millis(chance.pick(&[0, 200, 1_000]).unwrap_or(0)),
            grace: Millis(chance.pick(&[0, 500, 2_000]).unwrap_or(0)),
            longest_retry: Millis(4_000),
            balance_interval: Millis(2_000),
            rest: Millis(5_000),
            dead_worker_retention: Millis(chance.pick(&[5_000, 960_000]).unwrap_or(0)),
            ..Settings::default()
        };
        let mut world = Self {
            seed,
            verbose,
            chance,
            now: 0,
            clock: 1_000,
            settings,
            master: None,
            master_back_at: 0,
            store: BTreeMap::new(),
            next_session: 1,
            workers: Vec::new(),
            next_incarnation: 1,
            kafka: Kafka::default(),
            network: BTreeMap::new(),
            sent: 0,
            calm: false,
            granted: BTreeMap::new(),
            highest: BTreeMap::new(),
            tally: Tally::default(),
        };
        for _ in 0..world.chance.between(1, 5) {
            world.add_worker();
        }
        world
    }

    pub(super) fn note(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("seed {} at {:>6}: {}", self.seed, self.now, what());
        }
    }

    pub(super) fn run(mut self) -> Tally {
        let storm = self.chance.between(5_000, 40_000);
        self.start_master();
        self.submit(1);
        while self.now < storm {
            self.moment();
        }
        self.end_faults();
        // A worker's back-off, a lease, and the longest wait of a slot and of a directive that is repeated.
        let until = self.now + 40_000;
        let resumed = self.now + 3_000;
        while self.now < resumed {
            self.moment();
        }
        // Words of halts were still under way.
        self.resume_all();
        while self.now < until {
            self.moment();
        }
        self.check_rest();
        self.tally
    }

    pub(super) fn moment(&mut self) {
        self.now += MOMENT;
        if !self.calm {
            self.fault();
        }
        if self.master.is_none() && self.now >= self.master_back_at {
            self.start_master();
        }
        self.run_workers();
        let later = self.network.split_off(&(self.now + 1, 0));
        for (_, message) in std::mem::replace(&mut self.network, later) {
            self.deliver(message);
        }
        self.reach_deadlines();
    }

    pub(super) fn reach_deadlines(&mut self) {
        for tries in 0.. {
            let due = self.master.as_ref().and_then(Coordinator::next_deadline);
            if due.is_none_or(|due| due.0 > self.master_now()) {
                return;
            }
            assert!(tries < 100, "the deadline {due:?} stays due at {}", self.master_now());
            self.apply(Event::DeadlineReached);
        }
    }

    pub(super) fn master_now(&self) -> u64 {
        self.now + self.clock
    }

    /// A message that gets lost is one that nobody relies on; an end of a stream is always noticed.
    pub(super) fn send(&mut self, message: Message, reliable: bool) {
        let harsh = !self.calm && !reliable;
        if harsh && self.chance.percent(4) {
            return;
        }
        let delay = if harsh && self.chance.percent(5) { 1_500 } else { 40 };
        let at = self.now + self.chance.between(0, delay);
        self.sent += 1;
        if let (true, Message::ToWorker { incarnation, order }) = (harsh && self.chance.percent(3), &message)
        {
            let again = Message::ToWorker { incarnation: *incarnation, order: order.clone() };
            self.network.insert((at + self.chance.between(0, 2_000), self.sent), again);
            self.sent += 1;
        }
        self.network.insert((at, self.sent), message);
    }

    pub(super) fn deliver(&mut self, message: Message) {
        match message {
            Message::ToMaster(event) => self.apply(event),
            Message::ToWorker { incarnation, order } => {
                let Some(index) = self.index_of(incarnation) else { return };
                match self.workers[index].process {
                    Process::Gone => {}
                    Process::Frozen => {
                        // It waits in the socket.
                        self.sent += 1;
                        let at = (self.now + 100, self.sent);
                        self.network.insert(at, Message::ToWorker { incarnation, order });
                    }
                    Process::Up => {
                        let stopped = self.workers[index].take(order, self.now, &mut self.chance);
                        self.tell_stopped(index, stopped.into_iter().collect());
                    }
                }
            }
            Message::EndSession { incarnation, session } => {
                if let Some(index) = self.index_of(incarnation)
                    && self.workers[index].session == Some(session)
                {
                    self.workers[index].session = None;
                    self.workers[index].register_at = self.now + 100;
                }
            }
        }
    }

    pub(super) fn index_of(&self, incarnation: u64) -> Option<usize> {
        self.workers.iter().position(|worker| worker.incarnation == incarnation)
    }

    /// The process that speaks for this worker id now.
    pub(super) fn speaker(&self, id: &WorkerId) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.spec.id == *id && worker.process != Process::Gone)
    }

    pub(super) fn run_workers(&mut self) {
        for index in 0..self.workers.len() {
            if self.workers[index].process != Process::Up {
                continue;
            }
            let failing = if self.calm { 0 } else { 8 };
            let stopped = self.workers[index].work(self.now, &mut self.kafka, &mut self.chance, failing);
            self.tell_stopped(index, stopped);
            let worker = &mut self.workers[index];
            let spec = worker.spec.clone();
            match worker.session {
                Some(session) if self.now >= worker.heartbeat_at => {
                    worker.heartbeat_at = self.now + self.settings.heartbeat.0;
                    let reports = worker.reports();
                    let digest = reports.iter().map(|report| (&report.slot, report.epoch)).collect();
                    let event = Event::Heartbeat {
                        session,
                        worker: spec.id,
                        memory_used_bytes: 1,
                        draining: false,
                        digest,
                        reports,
                    };
                    self.send(Message::ToMaster(event), false);
                }
                None if self.now >= worker.register_at => {
                    worker.register_at = self.now + self.chance.between(100, 2_000);
                    if self.master.is_some() {
                        self.register(index);
                    }
                }
                Some(_) | None => {}
            }
        }
    }

    /// A registration is a question with an answer: both sides know how it ended.
    pub(super) fn register(&mut self, index: usize) {
        let session = self.next_session;
        self.next_session += 1;
        let (spec, running) = (self.workers[index].spec.clone(), self.workers[index].reports());
        let before = self.known_owners();
        self.workers[index].session = Some(session);
        let event = Event::WorkerRegistered { session, spec, running };
        if !self.try_apply(event) && self.workers[index].session == Some(session) {
            self.workers[index].session = None;
        }
        let taken = self.known_owners().into_iter().filter(|(slot, owner)| before.get(slot) != Some(owner));
        self.tally.take_overs += taken.count() as u64;
    }

    pub(super) fn known_owners(&self) -> BTreeMap<SlotId, (WorkerId, Epoch)> {
        let Some(master) = &self.master else { return BTreeMap::new() };
        let views = master.view().slots.into_iter();
        views
            .filter_map(|view| Some((view.slot, view.owner?, view.epoch)))
            .filter(|(slot, owner, epoch)| {
                self.speaker(owner).and_then(|worker| worker.runs(slot)).is_some_and(|runs| runs.0 == *epoch)
            })
            .map(|(slot, owner, epoch)| (slot, (owner, epoch)))
            .collect()
    }

    pub(super) fn tell_stopped(&mut self, index: usize, stopped: Vec<Stopped>) {
        for Stopped { slot, epoch, reason } in stopped {
            match &reason {
                millrace_types::StopReason::Fenced => self.tally.fences += 1,
                millrace_types::StopReason::EpochBehind { .. } => self.tally.epochs_behind += 1,
                millrace_types::StopReason::Halted(_) => self.tally.halts += 1,
                millrace_types::StopReason::Revoked | millrace_types::StopReason::Failed { .. } => {}
            }
            if let Some(session) = self.workers[index].session {
                let worker = self.workers[index].spec.id.clone();
                self.send(
                    Message::ToMaster(Event::SlotStopped { session, worker, slot, epoch, reason }),
                    false,
                );
            }
        }
    }

    pub(super) fn start_master(&mut self) {
        let records: Vec<Record> = self.store.values().cloned().collect();
        // Another process: its clock may begin anywhere.
        self.clock = self.chance.between(0, 1_000_000);
        let now = Millis(self.master_now());
        let restored = Coordinator::restore(self.settings.clone(), records.clone(), now).expect("restorable");
        assert_eq!(sorted(restored.records()), records, "restoring loses nothing");
        self.note(|| format!("the master starts with {} records", records.len()));
        self.master = Some(restored);
        if self.store.is_empty() && self.now > 0 {
            self.submit(1);
        }
    }

    pub(super) fn apply(&mut self, event: Event) {
        self.try_apply(event);
    }

    pub(super) fn try_apply(&mut self, event: Event) -> bool {
        let now = Millis(self.master_now());
        let described = self.verbose.then(|| format!("{event:?}"));
        let Some(master) = &mut self.master else { return false };
        let answer = master.apply(now, event);
        if let Some(described) = described.filter(|text| !text.starts_with("Heartbeat")) {
            self.note(|| format!("{described} -> {:?}", answer.as_ref().map(|step| &step.directives)));
        }
        match answer {
            Ok(step) => {
                self.carry_out(&step);
                true
            }
            Err(rejection) => {
                self.on_rejection(rejection);
                false
            }
        }
    }

    pub(super) fn on_rejection(&mut self, rejection: Rejection) {
        match rejection {
            Rejection::StaleSession { session, worker } => {
                self.tally.stale += 1;
                let incarnation = self.speaker(&worker).map(|worker| worker.incarnation);
                if let Some(incarnation) = incarnation {
                    self.send(Message::EndSession { incarnation, session }, true);
                }
            }
            Rejection::PartitionsGone { .. }
            | Rejection::UnknownPipeline { .. }
            | Rejection::PipelineExists { .. }
            | Rejection::PipelineOver { .. }
            | Rejection::AlreadyPaused { .. }
            | Rejection::NothingToResume { .. }
            | Rejection::IdTaken { .. } => {}
            other => panic!("unexpected: {other}"),
        }
    }

    pub(super) fn carry_out(&mut self, step: &Step) {
        if !self.calm && !step.writes.is_empty() && self.chance.next().is_multiple_of(200) {
            // The commit's outcome is not known: the master starts anew.
            if self.chance.percent(50) {
                commit(&mut self.store, step);
                self.remember(step);
            }
            self.tally.lost_steps += 1;
            self.crash_master();
            return;
        }
        commit(&mut self.store, step);
        self.remember(step);
        // An event without writes is checked now and then: it takes long.
        let check = !step.writes.is_empty() || self.chance.percent(2);
        let Some(master) = self.master.as_ref().filter(|_| check) else {
            return self.send_directives(step);
        };
        let in_store: Vec<Record> = self.store.values().cloned().collect();
        assert_eq!(sorted(master.records()), in_store, "the store holds what memory says");
        self.check_grants();
        self.send_directives(step);
    }

    pub(super) fn send_directives(&mut self, step: &Step) {
        for directive in step.directives.clone() {
            self.send_directive(directive);
        }
    }

    pub(super) fn send_directive(&mut self, directive: Directive) {
        match directive {
            Directive::Grant { worker, session, slot, epoch, definition, deaths, .. } => {
                self.tally.deaths += u64::from(deaths > 0);
                let version = definition.max_rate;
                self.send_order(&worker, session, Order::Grant { slot, epoch, version });
            }
            Directive::Revoke { worker, session, slot, epoch } => {
                self.tally.revokes += 1;
                self.send_order(&worker, session, Order::Revoke { slot, epoch });
            }
            // Its heartbeats hold all reports anyway.
            Directive::ReportAll { .. } => {}
            Directive::Leave { worker, .. } => unreachable!("{worker} was not told to stop"),
            Directive::Probe { worker, .. } => {
                self.tally.drops += 1;
                if self.speaker(&worker).is_none() && self.chance.percent(70) {
                    self.send(Message::ToMaster(Event::ProcessGone { worker }), true);
                }
            }
            Directive::EndSession { worker, session } => {
                if let Some(incarnation) = self.speaker(&worker).map(|worker| worker.incarnation) {
                    self.send(Message::EndSession { incarnation, session }, true);
                }
            }
        }
    }

    pub(super) fn send_order(&mut self, worker: &WorkerId, session: u64, order: Order) {
        let reached =
            self.workers.iter().find(|known| known.spec.id == *worker && known.session == Some(session));
        if let Some(incarnation) = reached.map(|worker| worker.incarnation) {
            self.send(Message::ToWorker { incarnation, order }, false);
        }
    }
}

fn sorted(mut records: Vec<Record>) -> Vec<Record> {
    records.sort_by_key(Record::key);
    records
}
