//! The world: one queue of what is to happen when, and everybody in it. One thread, no clock of its own: the same plan
//! gives exactly the same run.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};

use millrace_master_core::{Event, RecordBody, Step, Write};
use millrace_types::{Epoch, SlotId, VERSION, WorkerId, WorkerSpec};

use crate::chance::{Chance, mix};
use crate::flaws::Flaw;
use crate::kafka::{Commit, Kafka};
use crate::master::Master;
use crate::network::{Message, Network, Node};
use crate::plan::Plan;
use crate::rules::{Rule, Violation};
use crate::store::Store;
use crate::tally::Tally;
use crate::watch::Fresh;
use crate::worker::Worker;

/// Lines of the story that are kept.
const STORY: usize = 60;

/// Something that is due at a time. What is meant for a process names its incarnation.
#[derive(Debug)]
pub(crate) enum Task {
    /// A step of the plan.
    Act(usize),
    EndFaults,
    /// Whether the cluster has come to rest is looked at.
    Look,
    Deliver {
        to: Node,
        message: Box<Message>,
    },
    Register {
        worker: usize,
        incarnation: u64,
    },
    RegisterBy {
        worker: usize,
        incarnation: u64,
        attempt: u64,
    },
    Beat {
        worker: usize,
        incarnation: u64,
        session: u64,
    },
    Ping {
        worker: usize,
        incarnation: u64,
        session: u64,
    },
    Break {
        worker: usize,
        incarnation: u64,
        session: u64,
    },
    LeaveBy {
        worker: usize,
        incarnation: u64,
    },
    Slot {
        worker: usize,
        incarnation: u64,
        slot: SlotId,
        token: u64,
    },
    LateCommit {
        commit: Box<Commit>,
    },
    StartMaster {
        master: usize,
    },
    Campaign {
        master: usize,
        incarnation: u64,
    },
    KeepAlive {
        master: usize,
        incarnation: u64,
        term: u64,
    },
    Wake {
        master: usize,
        incarnation: u64,
        token: u64,
    },
    WriteBy {
        master: usize,
        incarnation: u64,
        word: u64,
    },
}

pub(crate) struct World<'a> {
    pub(crate) plan: &'a Plan,
    pub(crate) flaw: Option<Flaw>,
    pub(crate) now: u64,
    queue: BTreeMap<(u64, u64), Task>,
    numbers: u64,
    pub(crate) masters: Vec<Master>,
    pub(crate) workers: Vec<Worker>,
    pub(crate) store: Store,
    pub(crate) kafka: Kafka,
    pub(crate) objects_down_until: u64,
    pub(crate) network: Network,
    /// Partitions of each pipeline's topics, as Kafka has them.
    pub(crate) partitions: Vec<Vec<u32>>,
    /// To whom each epoch was granted, since the store was lost last.
    pub(crate) granted: BTreeMap<(SlotId, Epoch), WorkerId>,
    /// The highest epoch that was stored, since then.
    highest: BTreeMap<SlotId, Epoch>,
    pub(crate) stores_lost: u64,
    /// How often a master began to lead.
    pub(crate) leaders: u64,
    pub(crate) fresh: Vec<Fresh>,
    pub(crate) calm: bool,
    /// It has come to rest once: what follows is the plan's ending.
    pub(crate) rested: bool,
    pub(crate) stage: crate::rest::Stage,
    pub(crate) deep_checks: Chance,
    pub(crate) load_noise: Chance,
    pub(crate) tally: Tally,
    pub(crate) found: Option<Violation>,
    over: bool,
    trace: u64,
    /// What happened last, when somebody wants to read it.
    story: Option<Vec<String>>,
}

/// How a run ended.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) violation: Option<Violation>,
    pub(crate) tally: Tally,
    /// Of all that happened, in its order.
    pub(crate) trace: u64,
    pub(crate) story: Vec<String>,
}

/// Runs a plan to its end, or to the first broken rule.
pub(crate) fn run(plan: &Plan, flaw: Option<Flaw>, tell: bool) -> Outcome {
    let mut world = World::new(plan, flaw, tell);
    if let Err(panic) = catch_unwind(AssertUnwindSafe(|| world.run())) {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
        world.breaks(Rule::NoPanic, format!("panic: {}", text.unwrap_or_default()));
    }
    world.tally.simulated = world.now;
    Outcome {
        violation: world.found,
        tally: world.tally,
        trace: world.trace,
        story: world.story.unwrap_or_default(),
    }
}

impl<'a> World<'a> {
    fn new(plan: &'a Plan, flaw: Option<Flaw>, tell: bool) -> Self {
        let seed = plan.seed;
        let workers = (0..).zip(&plan.workers).map(|(number, worker)| {
            let name = format!("w{number}");
            let known = worker.as_ref();
            let spec = WorkerSpec {
                id: WorkerId::new(&name).unwrap_or_else(|error| panic!("{name}: {error}")),
                pid: 0,
                host: "127.0.0.1".to_owned(),
                port: 4_000,
                http_port: 4_001,
                cores: known.map_or(1, |worker| worker.cores),
                memory_mib: 1_024,
                max_slots: known.map_or(1, |worker| worker.max_slots),
                zone: known.and_then(|worker| worker.zone).map(|zone| format!("zone-{zone}")),
                version: VERSION.to_owned(),
            };
            let (speed, drift) = known.map_or((100, 0), |worker| (worker.speed_percent, worker.drift));
            Worker::new(spec, speed, drift, Chance::of(seed, "worker", number))
        });
        let mut world = Self {
            plan,
            flaw,
            now: 0,
            queue: BTreeMap::new(),
            numbers: 1,
            masters: (0..plan.masters).map(|number| Master::new(seed, number)).collect(),
            workers: workers.collect(),
            store: Store::new(flaw == Some(Flaw::StoreComparesNothing)),
            kafka: Kafka::new(flaw == Some(Flaw::NobodyFenced), flaw == Some(Flaw::OldClaimsTaken)),
            objects_down_until: 0,
            network: Network::default(),
            partitions: plan
                .pipelines
                .iter()
                .map(|known| known.as_ref().map_or(vec![1], |known| known.partitions.clone()))
                .collect(),
            granted: BTreeMap::new(),
            highest: BTreeMap::new(),
            stores_lost: 0,
            leaders: 0,
            fresh: Vec::new(),
            calm: false,
            rested: false,
            stage: crate::rest::Stage::default(),
            deep_checks: Chance::of(seed, "deep checks", 0),
            load_noise: Chance::of(seed, "load", 0),
            tally: Tally::default(),
            found: None,
            over: false,
            trace: mix(seed),
            story: tell.then(Vec::new),
        };
        for master in 0..plan.masters {
            world.after(0, Task::StartMaster { master });
        }
        for (number, worker) in plan.workers.iter().enumerate() {
            if let Some(at) = worker.as_ref().and_then(|worker| worker.starts_at) {
                world.after(at, Task::Register { worker: number, incarnation: 0 });
            }
        }
        for (number, step) in plan.steps.iter().enumerate() {
            world.after(step.at, Task::Act(number));
        }
        world.after(plan.storm, Task::EndFaults);
        world
    }

    fn run(&mut self) {
        while self.found.is_none() && !self.over {
            let Some(((at, number), task)) = self.queue.pop_first() else {
                return self.breaks(Rule::NoPanic, "nothing is left to happen".to_owned());
            };
            self.now = at;
            self.tally.events += 1;
            self.trace = mix(self.trace ^ at ^ number.rotate_left(32));
            self.carry_out_task(task);
        }
    }

    pub(crate) fn end(&mut self) {
        self.over = true;
    }

    pub(crate) fn after(&mut self, wait: u64, task: Task) {
        let number = self.next_number();
        self.queue.insert((self.now + wait, number), task);
    }

    pub(crate) fn next_number(&mut self) -> u64 {
        self.numbers += 1;
        self.numbers
    }

    /// The first one counts.
    pub(crate) fn breaks(&mut self, rule: Rule, what: String) {
        let at = self.now;
        self.found.get_or_insert(Violation { rule, at, what });
    }

    pub(crate) fn note(&mut self, what: impl FnOnce() -> String) {
        let now = self.now;
        if let Some(story) = &mut self.story {
            if story.len() >= 2 * STORY {
                story.drain(..STORY);
            }
            story.push(format!("{now:>6} ms  {}", what()));
        }
    }

    pub(crate) fn note_event(&mut self, number: usize, event: &Event, step: &Step) {
        self.trace = step.directives.len() as u64 ^ mix(self.trace ^ step.writes.len() as u64);
        if self.story.is_none() || (step.writes.is_empty() && step.directives.is_empty()) {
            return;
        }
        let directives: Vec<String> =
            step.directives.iter().map(|directive| brief(&format!("{directive:?}"))).collect();
        let text = format!(
            "master {number}: {} -> {} writes, {directives:?}",
            brief(&format!("{event:?}")),
            step.writes.len()
        );
        self.note(|| text);
    }

    fn carry_out_task(&mut self, task: Task) {
        // Whoever is frozen gets to it later, in the same order.
        let of_worker = match &task {
            Task::Register { worker, .. }
            | Task::Beat { worker, .. }
            | Task::Slot { worker, .. }
            | Task::LeaveBy { worker, .. }
            | Task::Deliver { to: Node::Worker(worker), .. } => self.workers[*worker].frozen_until,
            Task::Campaign { master, .. }
            | Task::KeepAlive { master, .. }
            | Task::Wake { master, .. }
            | Task::WriteBy { master, .. }
            | Task::Deliver { to: Node::Master(master), .. } => self.masters[*master].stalled_until,
            _ => 0,
        };
        if of_worker > self.now {
            return self.after(of_worker - self.now, task);
        }
        let current = |world: &Self, master: usize, incarnation: u64| {
            world.masters[master].incarnation == incarnation && !world.masters[master].is_down()
        };
        match task {
            Task::Act(number) => self.act(number),
            Task::EndFaults => self.end_faults(),
            Task::Look => self.look(),
            Task::Deliver { to, message } => self.deliver(to, *message),
            Task::Register { worker, incarnation: 0 } => self.start_worker(worker),
            Task::Register { worker, incarnation } if self.is_current(worker, incarnation) => {
                self.try_to_register(worker, incarnation);
            }
            Task::RegisterBy { worker, incarnation, attempt } => {
                self.attempt_failed(worker, incarnation, attempt, None);
            }
            Task::Beat { worker, incarnation, session } if self.is_current(worker, incarnation) => {
                self.beat(worker, incarnation, session);
            }
            Task::Ping { worker, incarnation, session } if self.is_current(worker, incarnation) => {
                self.ping(worker, session);
            }
            Task::Break { worker, incarnation, session } if self.is_current(worker, incarnation) => {
                self.lose_session(worker, session);
            }
            Task::LeaveBy { worker, incarnation } if self.is_current(worker, incarnation) => {
                self.leave(worker);
            }
            Task::Slot { worker, incarnation, slot, token } if self.is_current(worker, incarnation) => {
                self.work(worker, &slot, token);
            }
            Task::LateCommit { commit } => self.late_commit(&commit),
            Task::StartMaster { master } => self.start_master(master),
            Task::Campaign { master, incarnation } if current(self, master, incarnation) => {
                self.campaign(master, incarnation);
            }
            Task::KeepAlive { master, incarnation, term } if current(self, master, incarnation) => {
                self.keep_alive(master, incarnation, term);
            }
            Task::Wake { master, incarnation, token } if current(self, master, incarnation) => {
                self.wake(master, token);
            }
            Task::WriteBy { master, incarnation, word } if current(self, master, incarnation) => {
                self.write_by(master, word);
            }
            // Of a process that is gone.
            _ => {}
        }
    }

    fn ping(&mut self, worker: usize, session: u64) {
        let Some(current) = self.workers[worker].session.filter(|current| current.number == session) else {
            return;
        };
        let (here, there) = (Node::Worker(worker), Node::Master(current.master));
        let silent = self.masters[current.master].stalled_until > self.now;
        if silent || self.network.is_cut(here, there, self.now) || self.network.is_cut(there, here, self.now)
        {
            self.lose_session(worker, session);
        }
    }

    /// Looks at what a transaction has stored.
    pub(crate) fn check_stored(&mut self, writes: &[Write]) {
        for write in writes {
            let Write::Put(record) = write else { continue };
            let RecordBody::Slots { group, slots } = &record.body else { continue };
            for (partition, stored) in slots {
                let slot =
                    SlotId { pipeline: group.pipeline.clone(), topic: group.topic, partition: *partition };
                let highest = self.highest.entry(slot.clone()).or_default();
                if stored.epoch < *highest {
                    let what = format!("{slot}: epoch {} is stored after {highest}", stored.epoch);
                    return self.breaks(Rule::EpochsRise, what);
                }
                *highest = stored.epoch;
                if stored.opened && self.kafka.recorded(&slot) == Epoch(0) {
                    let what = format!("{slot} is stored as opened, and nobody claimed it");
                    return self.breaks(Rule::StoredFirst, what);
                }
            }
        }
    }

    /// An epoch belongs to one worker, and comes after all that were granted before. Tells whether it is new.
    pub(crate) fn note_grant(
        &mut self,
        number: usize,
        slot: &SlotId,
        epoch: Epoch,
        worker: WorkerId,
    ) -> bool {
        let leads = match &self.masters[number].role {
            crate::master::Role::Leading(leading) => self.store.leads(self.now, leading.term),
            _ => false,
        };
        let of_slot = (slot.clone(), Epoch(0))..=(slot.clone(), Epoch(u64::MAX));
        let last = self.granted.range(of_slot).next_back().map(|((_, last), _)| *last);
        match self.granted.get(&(slot.clone(), epoch)) {
            Some(other) if *other != worker => {
                let what = format!("{slot} at epoch {epoch} is granted to {worker}, and was to {other}");
                self.breaks(Rule::EpochsRise, what);
                false
            }
            Some(_) => false,
            None => {
                // A leader that is deposed and does not know it yet is late, and its worker finds that on record.
                if let Some(last) = last.filter(|last| leads && *last > epoch) {
                    self.breaks(Rule::EpochsRise, format!("{slot}: epoch {epoch} is granted after {last}"));
                }
                self.granted.insert((slot.clone(), epoch), worker);
                true
            }
        }
    }

    /// A leader's grant stands in the store when it is sent.
    pub(crate) fn check_stored_first(
        &mut self,
        number: usize,
        worker: &WorkerId,
        slot: &SlotId,
        epoch: Epoch,
    ) {
        let crate::master::Role::Leading(leading) = &self.masters[number].role else { return };
        if !self.store.leads(self.now, leading.term) {
            return;
        }
        let key = millrace_master_core::RecordKey::slots(&millrace_master_core::SlotGroup::of(slot));
        let stored = match self.store.records.get(&key).map(|record| &record.body) {
            Some(RecordBody::Slots { slots, .. }) => slots.get(&slot.partition),
            Some(_) | None => None,
        };
        if stored.is_none_or(|stored| stored.epoch != epoch || stored.owner.as_ref() != Some(worker)) {
            let what = format!("{slot} at epoch {epoch} is granted to {worker}, but stored is {stored:?}");
            self.breaks(Rule::StoredFirst, what);
        }
    }

    /// The store is empty again: epochs begin anew, and only Kafka remembers.
    pub(crate) fn forget_store(&mut self) {
        self.store.lose();
        self.granted.clear();
        self.highest.clear();
        self.stores_lost += 1;
        self.tally.count("store lost");
    }

    /// Records a second, as the slot's owner measures them.
    pub(crate) fn rate_shown(&self, slot: &SlotId) -> f64 {
        let rate = self.kafka.rate(slot) as f64;
        if self.plan.even {
            return rate;
        }
        // It wavers by a few percent.
        let hash = mix(self.plan.seed ^ (self.now / 700) ^ ((slot.partition as u64) << 40));
        rate * (0.97 + (hash % 60) as f64 / 1_000.0)
    }
}

fn brief(text: &str) -> String {
    let end = text.find("definition: ").unwrap_or(text.len()).min(400);
    text[..end].to_owned()
}
