//! A master process around the core, as the real driver is: it campaigns for the leadership, restores, commits each
//! step's writes in one transaction, and only then sends the step's directives. Whatever its state, time goes on
//! by its own clock, which drifts and steps, and it may stall.

use std::collections::{BTreeMap, VecDeque};

use millrace_master_core::{Coordinator, Event, MoveReason, Settings, Step};
use millrace_types::{Millis, SlotReport, WorkerSpec};

use crate::chance::Chance;
use crate::flaws::Flaw;
use crate::network::{Answer, Ask, Message, Node};
use crate::rules::Rule;
use crate::store::Written;
use crate::watch::Watch;
use crate::world::{Task, World};

/// How often a standby looks whether it may lead, how long a call of the store takes at most.
const STANDBY: u64 = 500;
const CALL: u64 = 1_000;

#[derive(Debug)]
pub(crate) struct Clock {
    base: u64,
    drift: i64,
}

impl Clock {
    pub(crate) fn now(&self, world: u64) -> u64 {
        let drifted = world as i64 * self.drift / 1_000;
        (self.base + world).saturating_add_signed(drifted)
    }
}

/// A worker that waits for the answer to its registration.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asker {
    pub(crate) worker: usize,
    pub(crate) incarnation: u64,
    pub(crate) attempt: u64,
}

#[derive(Debug)]
enum Incoming {
    Event(Event),
    Register { asker: Asker, spec: WorkerSpec, running: Vec<SlotReport> },
}

/// A step whose writes are under way.
#[derive(Debug)]
pub(crate) struct Pending {
    word: u64,
    writes_whole: bool,
    step: Step,
    asker: Option<(Asker, u64)>,
    since: u64,
}

#[derive(Debug)]
pub(crate) struct Leading {
    pub(crate) term: u64,
    revision: u64,
    pub(crate) core: Coordinator,
    pub(crate) watch: Watch,
    inbox: VecDeque<Incoming>,
    pub(crate) pending: Option<Pending>,
    /// Which process holds each session.
    pub(crate) sessions: BTreeMap<u64, (usize, u64)>,
}

#[derive(Debug)]
pub(crate) enum Role {
    Standby {
        leader: Option<usize>,
    },
    /// `word`: of the question that it waits for an answer to.
    Loading {
        term: u64,
        word: u64,
    },
    Leading(Box<Leading>),
}

#[derive(Debug)]
pub(crate) struct Master {
    pub(crate) incarnation: u64,
    /// Until when the process is not there.
    pub(crate) down_until: Option<u64>,
    pub(crate) stalled_until: u64,
    pub(crate) clock: Clock,
    pub(crate) role: Role,
    /// When the store heard it last, by its clock.
    alive_at: u64,
    waking: u64,
    pub(crate) crashes_after_write: Option<u64>,
    pub(crate) loses_answer: bool,
    chance: Chance,
}

impl Master {
    pub(crate) fn new(seed: u64, number: usize) -> Self {
        let mut chance = Chance::of(seed, "master", number as u64);
        let clock = Clock { base: chance.between(0, 1_000_000), drift: chance.pick(&[0, 0, 20, -30]) };
        Self {
            incarnation: 0,
            down_until: Some(0),
            stalled_until: 0,
            clock,
            role: Role::Standby { leader: None },
            alive_at: 0,
            waking: 0,
            crashes_after_write: None,
            loses_answer: false,
            chance,
        }
    }

    pub(crate) fn is_down(&self) -> bool {
        self.down_until.is_some()
    }

    pub(crate) fn core(&self) -> Option<&Coordinator> {
        match &self.role {
            Role::Leading(leading) => Some(&leading.core),
            Role::Standby { .. } | Role::Loading { .. } => None,
        }
    }

    /// What its core believes is not all stored.
    pub(crate) fn is_writing(&self) -> bool {
        matches!(&self.role, Role::Leading(leading) if leading.pending.is_some())
    }

    fn term(&self) -> Option<u64> {
        match &self.role {
            Role::Standby { .. } => None,
            Role::Loading { term, .. } => Some(*term),
            Role::Leading(leading) => Some(leading.term),
        }
    }
}

impl World<'_> {
    pub(crate) fn start_master(&mut self, number: usize) {
        let master = &mut self.masters[number];
        if master.down_until.take().is_none() {
            return;
        }
        master.incarnation += 1;
        // Another process, another clock.
        master.clock.base = master.chance.between(0, 1_000_000);
        master.role = Role::Standby { leader: None };
        let incarnation = master.incarnation;
        self.after(10, Task::Campaign { master: number, incarnation });
    }

    pub(crate) fn crash_master(&mut self, number: usize, span: u64) {
        if self.masters[number].is_down() {
            return;
        }
        self.tally.count("master crashes");
        self.note(|| format!("master {number} is gone for {span} ms"));
        self.end_sessions(number);
        let master = &mut self.masters[number];
        master.down_until = Some(self.now + span);
        master.stalled_until = 0;
        master.crashes_after_write = None;
        master.role = Role::Standby { leader: None };
        self.after(span, Task::StartMaster { master: number });
    }

    pub(crate) fn step_clock(&mut self, number: usize, by: i64) {
        let master = &mut self.masters[number];
        master.clock.base = master.clock.base.saturating_add_signed(by);
        self.tally.count(if by < 0 { "clock steps back" } else { "clock steps forward" });
        self.schedule_wake(number);
    }

    /// All streams of this process end.
    fn end_sessions(&mut self, number: usize) {
        let Role::Leading(leading) = &mut self.masters[number].role else { return };
        for (session, (worker, incarnation)) in std::mem::take(&mut leading.sessions) {
            let message = Message::End { incarnation, session };
            self.send(Node::Master(number), Node::Worker(worker), message, true);
        }
    }

    fn ask(&mut self, number: usize, ask: Ask) {
        let incarnation = self.masters[number].incarnation;
        let message = Message::Ask { master: number, incarnation, ask };
        self.send(Node::Master(number), Node::Store, message, false);
    }

    /// The standby's timer.
    pub(crate) fn campaign(&mut self, number: usize, incarnation: u64) {
        match self.masters[number].role {
            Role::Standby { .. } => self.ask(number, Ask::Campaign),
            Role::Loading { term, .. } => self.ask_for_records(number, term),
            Role::Leading(_) => {}
        }
        self.after(STANDBY, Task::Campaign { master: number, incarnation });
    }

    fn ask_for_records(&mut self, number: usize, term: u64) {
        let word = self.next_number();
        self.masters[number].role = Role::Loading { term, word };
        self.ask(number, Ask::Sequence { term, word });
    }

    pub(crate) fn keep_alive(&mut self, number: usize, incarnation: u64, term: u64) {
        let master = &mut self.masters[number];
        if master.term() != Some(term) {
            return;
        }
        let asked = master.clock.now(self.now);
        if asked >= master.alive_at + self.plan.lease {
            return self.step_down(number, None);
        }
        self.ask(number, Ask::KeepAlive { term, asked });
        self.after(self.plan.lease / 4, Task::KeepAlive { master: number, incarnation, term });
    }

    fn step_down(&mut self, number: usize, leader: Option<usize>) {
        self.note(|| format!("master {number} stands by"));
        self.end_sessions(number);
        self.masters[number].role = Role::Standby { leader };
    }

    /// Begins anew from the store, for what was written is not known.
    fn recover(&mut self, number: usize, term: u64) {
        self.note(|| format!("master {number} restores"));
        self.end_sessions(number);
        self.ask_for_records(number, term);
    }

    pub(crate) fn take_answer(&mut self, number: usize, answer: Answer) {
        let master = &mut self.masters[number];
        let incarnation = master.incarnation;
        match (&master.role, answer) {
            (Role::Standby { .. }, Answer::Leads { term, asked }) => {
                master.alive_at = asked;
                self.after(self.plan.lease / 4, Task::KeepAlive { master: number, incarnation, term });
                self.ask_for_records(number, term);
            }
            (Role::Standby { .. }, Answer::Follows { leader }) => {
                master.role = Role::Standby { leader: Some(leader) };
            }
            (_, Answer::Kept { term, asked }) if master.term() == Some(term) => {
                master.alive_at = master.alive_at.max(asked);
            }
            (_, Answer::NotKept { term }) if master.term() == Some(term) => self.step_down(number, None),
            (Role::Loading { term: mine, word: asked }, Answer::Sequence { term, word, revision: after })
                if *mine == term && *asked == word =>
            {
                let word = self.next_number();
                self.masters[number].role = Role::Loading { term, word };
                self.ask(number, Ask::Load { term, word, after });
            }
            (
                Role::Loading { term: mine, word: asked },
                Answer::Loaded { term, word, revision, records, whole },
            ) if *mine == term && *asked == word => {
                self.lead(number, term, revision, records, whole);
            }
            (Role::Leading(leading), Answer::Written { word, written }) => {
                if leading.pending.as_ref().is_none_or(|pending| pending.word != word) {
                    return;
                }
                let term = leading.term;
                match written {
                    Written::Done | Written::DoneBefore => self.written(number),
                    Written::Deposed => self.step_down(number, None),
                    Written::Overtaken => self.recover(number, term),
                }
            }
            _ => {}
        }
    }

    fn lead(
        &mut self,
        number: usize,
        term: u64,
        revision: u64,
        mut records: Vec<millrace_master_core::Record>,
        whole: bool,
    ) {
        let now = Millis(self.masters[number].clock.now(self.now));
        let stored = records.iter().map(|record| (record.key(), record.clone())).collect();
        let watch = Watch::new(self.plan.settings.clone(), &records, now);
        let mut settings: Settings = self.plan.settings.clone();
        if let Some(flaw) = self.flaw {
            flaw.distort_records(&mut records);
            flaw.distort_settings(&mut settings);
        }
        self.note(|| format!("master {number} leads in term {term}, with {} records", records.len()));
        let core = match Coordinator::restore(settings, records, now) {
            Ok(core) => core,
            Err(error) => return self.breaks(Rule::RestoreEqualsMemory, format!("not restored: {error}")),
        };
        let difference = crate::watch::difference(core.records(), &stored);
        if let Some(what) = difference.filter(|_| whole && self.flaw != Some(Flaw::RestoreForgetsSlot)) {
            return self.breaks(Rule::RestoreEqualsMemory, format!("restored and stored differ: {what}"));
        }
        if self.leaders > 0 {
            self.tally.count("another leader after a loss");
        }
        self.leaders += 1;
        self.masters[number].role = Role::Leading(Box::new(Leading {
            term,
            revision,
            core,
            watch,
            inbox: VecDeque::new(),
            pending: None,
            sessions: BTreeMap::new(),
        }));
        if self.flaw == Some(Flaw::RestartMovesSlots) && self.rested {
            let view = self.masters[number].core().map(Coordinator::view);
            let busy = view.and_then(|view| view.workers.into_iter().find(|worker| !worker.slots.is_empty()));
            if let Some(worker) = busy.map(|worker| worker.spec.id) {
                self.tell_master(number, Event::WorkerDrained { worker });
            }
        }
        self.schedule_wake(number);
    }

    /// Sets the alarm for the core's next deadline.
    fn schedule_wake(&mut self, number: usize) {
        let token = self.next_number();
        let master = &mut self.masters[number];
        let local = master.clock.now(self.now);
        let Role::Leading(leading) = &master.role else { return };
        if leading.pending.is_some() {
            return;
        }
        let Some(due) = leading.core.next_deadline() else { return };
        master.waking = token;
        let wait = due.0.saturating_sub(local);
        // Whole milliseconds of a clock that may be slower or faster: a little early is looked at again.
        let wait = if wait == 0 { 0 } else { wait * 1_000 / (1_000 + master.clock.drift) as u64 + 1 };
        let incarnation = master.incarnation;
        self.after(wait, Task::Wake { master: number, incarnation, token });
    }

    pub(crate) fn wake(&mut self, number: usize, token: u64) {
        let master = &self.masters[number];
        let local = master.clock.now(self.now);
        if master.waking != token {
            return;
        }
        let Role::Leading(leading) = &master.role else { return };
        if leading.pending.is_none() && leading.core.next_deadline().is_some_and(|due| due.0 <= local) {
            self.tell_master(number, Event::DeadlineReached);
        } else {
            self.schedule_wake(number);
        }
    }

    pub(crate) fn take_registration(
        &mut self,
        number: usize,
        worker: usize,
        incarnation: u64,
        attempt: u64,
        spec: WorkerSpec,
        running: Vec<SlotReport>,
    ) {
        let asker = Asker { worker, incarnation, attempt };
        if self.masters[number].is_down() {
            return self.attempt_failed(worker, incarnation, attempt, None);
        }
        match &mut self.masters[number].role {
            Role::Leading(leading) => {
                leading.inbox.push_back(Incoming::Register { asker, spec, running });
                self.serve(number);
            }
            Role::Standby { leader } => {
                let leader = *leader;
                self.refuse(number, asker, leader);
            }
            Role::Loading { .. } => self.refuse(number, asker, None),
        }
    }

    pub(crate) fn refuse(&mut self, number: usize, asker: Asker, leader: Option<usize>) {
        let Asker { worker, incarnation, attempt } = asker;
        let leader = leader.filter(|leader| *leader != number);
        let message = Message::Refused { incarnation, attempt, leader };
        self.send(Node::Master(number), Node::Worker(worker), message, true);
    }

    pub(crate) fn tell_master(&mut self, number: usize, event: Event) {
        if let Role::Leading(leading) = &mut self.masters[number].role {
            if let Event::SessionLost { session, .. } = &event {
                leading.sessions.remove(session);
            }
            leading.inbox.push_back(Incoming::Event(event));
            self.serve(number);
        }
    }

    /// Takes in what waits, one after the other, until a write is under way.
    fn serve(&mut self, number: usize) {
        loop {
            let Role::Leading(leading) = &mut self.masters[number].role else { return };
            if leading.pending.is_some() || self.found.is_some() {
                return;
            }
            let Some(incoming) = leading.inbox.pop_front() else { break };
            match incoming {
                Incoming::Event(event) => self.apply(number, &event, None),
                Incoming::Register { asker, spec, running } => {
                    let session = self.next_number();
                    let Role::Leading(leading) = &mut self.masters[number].role else { return };
                    leading.sessions.insert(session, (asker.worker, asker.incarnation));
                    let event = Event::WorkerRegistered { session, spec, running };
                    self.apply(number, &event, Some((asker, session)));
                }
            }
        }
        self.schedule_wake(number);
    }

    fn apply(&mut self, number: usize, event: &Event, asker: Option<(Asker, u64)>) {
        let deep = self.deep_checks.percent(8);
        let master = &mut self.masters[number];
        let now = Millis(master.clock.now(self.now));
        let Role::Leading(leading) = &mut master.role else { return };
        leading.watch.note(now, leading.core.next_deadline(), event);
        let told = match self.flaw {
            Some(flaw) => flaw.distort_event(event.clone(), self.rested),
            None => Some(event.clone()),
        };
        let Some(told) = told else { return leading.watch.accepted(event) };
        let mut step = match leading.core.apply(now, told) {
            Ok(step) => step,
            Err(rejection) => return self.rejected(number, rejection, asker),
        };
        leading.watch.accepted(event);
        if let Some(flaw) = self.flaw {
            flaw.distort_step(&mut step, &leading.core, &self.granted);
        }
        let checked = leading.watch.check(&step, &leading.core, deep);
        let writes_whole = leading.core.is_written();
        self.count_event(event);
        self.note_event(number, event, &step);
        match checked {
            Err((rule, what)) => return self.breaks(rule, what),
            Ok(fresh) => {
                for grant in fresh {
                    match &grant.reason {
                        Some(MoveReason::Uneven { .. }) => self.tally.count("moves for the load"),
                        Some(MoveReason::FairShare { .. }) => self.tally.count("moves for the places"),
                        _ => {}
                    }
                    self.fresh.push(grant);
                }
            }
        }
        if step.writes.is_empty() {
            self.carry_out(number, step, asker);
        } else {
            if self.flaw == Some(Flaw::DirectivesBeforeWrites) {
                let directives = std::mem::take(&mut step.directives);
                self.carry_out(number, Step { writes: Vec::new(), directives }, None);
            }
            let word = self.next_number();
            let since = self.now;
            let Role::Leading(leading) = &mut self.masters[number].role else { return };
            leading.pending = Some(Pending { word, writes_whole, step, asker, since });
            self.write(number);
        }
    }

    /// Sends the pending write, again after each time without an answer.
    fn write(&mut self, number: usize) {
        let master = &self.masters[number];
        let incarnation = master.incarnation;
        let Role::Leading(leading) = &master.role else { return };
        let Some(pending) = &leading.pending else { return };
        let (term, after, word) = (leading.term, leading.revision, pending.word);
        let (writes, whole) = (pending.step.writes.clone(), pending.writes_whole);
        self.ask(number, Ask::Write { term, after, word, writes, whole });
        self.after(CALL, Task::WriteBy { master: number, incarnation, word });
    }

    pub(crate) fn write_by(&mut self, number: usize, word: u64) {
        let Role::Leading(leading) = &self.masters[number].role else { return };
        let Some(pending) = leading.pending.as_ref().filter(|pending| pending.word == word) else { return };
        if self.now >= pending.since + self.plan.lease {
            let term = leading.term;
            self.recover(number, term);
        } else {
            self.write(number);
        }
    }

    fn written(&mut self, number: usize) {
        let Role::Leading(leading) = &mut self.masters[number].role else { return };
        let Some(Pending { step, asker, .. }) = leading.pending.take() else { return };
        leading.revision += 1;
        self.carry_out(number, step, asker);
        self.serve(number);
    }
}
