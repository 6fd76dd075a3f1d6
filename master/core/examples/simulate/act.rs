//! What happens by the plan: faults, and what people ask for.

use millrace_master_core::{Event, PipelineState, SlotState};
use millrace_types::{LakeTarget, PipelineDefinition, PipelineId, SlotId};

use crate::network::{Node, Weather};
use crate::plan::{Action, Way};
use crate::world::World;

/// Records a second of each slot, where all cost the same: few enough that no worker falls behind.
const EVEN_RATE: i64 = 10;

impl World<'_> {
    pub(crate) fn act(&mut self, number: usize) {
        let action = self.plan.steps[number].action.clone();
        self.note(|| format!("{action:?}"));
        let now = self.now;
        match action {
            Action::StartWorker { worker }
            | Action::KillWorker { worker }
            | Action::StopWorker { worker }
            | Action::FreezeWorker { worker, .. }
            | Action::DropSession { worker }
            | Action::SecondProcess { worker, .. }
            | Action::ClaimSlots { worker }
            | Action::FailSlots { worker, .. }
            | Action::SlowWorker { worker, .. }
                if self.plan.workers[worker].is_none() => {}
            Action::StartWorker { worker } => self.start_worker(worker),
            Action::KillWorker { worker } => {
                if self.workers[worker].is_up() {
                    self.tally.count("workers killed");
                }
                self.kill_worker(worker);
            }
            Action::StopWorker { worker } => self.stop_worker(worker),
            Action::FreezeWorker { worker, span } => {
                if self.workers[worker].is_up() {
                    self.workers[worker].frozen_until = now + span;
                    self.tally.count("workers frozen");
                }
            }
            Action::DropSession { worker } => {
                if let Some(session) = self.workers[worker].session {
                    self.lose_session(worker, session.number);
                }
            }
            Action::SecondProcess { worker, claims, cores } => {
                self.start_second_process(worker, claims, cores);
            }
            Action::ClaimSlots { worker } => self.claim_slots(worker),
            Action::FailSlots { worker, halts, span } => {
                self.workers[worker].fails_until = now + span;
                self.workers[worker].halts = halts;
            }
            Action::SlowWorker { worker, speed_percent } => {
                self.workers[worker].speed_percent = speed_percent;
            }
            Action::CutWorker { worker, master, way, span } if master < self.masters.len() => {
                self.cut(Node::Worker(worker), Node::Master(master), way, span);
                self.watch_connection(worker);
            }
            Action::CutStore { master, way, span } if master < self.masters.len() => {
                self.cut(Node::Store, Node::Master(master), way, span);
            }
            Action::CrashMaster { master, span } if master < self.masters.len() => {
                self.crash_master(master, span);
            }
            Action::CrashAfterWrite { master, span } if master < self.masters.len() => {
                self.masters[master].crashes_after_write = Some(span);
            }
            Action::StallMaster { master, span } if master < self.masters.len() => {
                if !self.masters[master].is_down() {
                    self.masters[master].stalled_until = now + span;
                    self.tally.count("master stalls");
                    for worker in 0..self.workers.len() {
                        if self.workers[worker].session.is_some_and(|session| session.master == master) {
                            self.watch_connection(worker);
                        }
                    }
                }
            }
            Action::StepClock { master, by } if master < self.masters.len() => self.step_clock(master, by),
            Action::LoseAnswer { master } if master < self.masters.len() => {
                self.masters[master].loses_answer = true;
            }
            Action::CutWorker { .. }
            | Action::CutStore { .. }
            | Action::CrashMaster { .. }
            | Action::CrashAfterWrite { .. }
            | Action::StallMaster { .. }
            | Action::StepClock { .. }
            | Action::LoseAnswer { .. } => {}
            Action::StopStore { span } => {
                self.store.down_until = now + span;
                self.tally.count("store outages");
            }
            Action::LoseStore => {
                self.forget_store();
                for master in 0..self.masters.len() {
                    self.crash_master(master, 500);
                }
            }
            Action::StopKafka { span } => {
                self.kafka.down_until = now + span;
                self.tally.count("kafka outages");
            }
            Action::DelayCommits { span } => self.kafka.delays_until = now + span,
            Action::StopObjectStore { span } => {
                self.objects_down_until = now + span;
                self.tally.count("object store outages");
            }
            Action::Weather { lost, twice, late, span } => {
                self.network.weather = Weather { lost, twice, late, until: now + span };
            }
            action => self.ask_for(&action),
        }
    }

    fn cut(&mut self, far: Node, near: Node, way: Way, span: u64) {
        let until = self.now + span;
        if way != Way::FromMaster {
            self.network.cut(far, near, until);
        }
        if way != Way::ToMaster {
            self.network.cut(near, far, until);
        }
        if way != Way::Both {
            self.tally.count("cuts one way");
        }
    }

    /// A person asks the leader, if there is one, and does not ask twice.
    fn ask_for(&mut self, action: &Action) {
        let event = match action {
            Action::Submit { pipeline } => return self.submit(*pipeline),
            Action::Pause { pipeline } => Event::PipelinePaused { pipeline: pipeline_id(*pipeline) },
            Action::Resume { pipeline } => Event::PipelineResumed { pipeline: pipeline_id(*pipeline) },
            Action::KillPipeline { pipeline } => {
                Event::PipelineKilled { pipeline: pipeline_id(*pipeline), at_ms: self.now }
            }
            Action::Resubmit { pipeline, rate, weight } => return self.resubmit(*pipeline, *rate, *weight),
            Action::AddPartitions { pipeline, more } => return self.add_partitions(*pipeline, *more),
            Action::ResumeHalted => return self.resume_halted(),
            Action::Drain { worker } => {
                Event::WorkerDrained { worker: self.workers[*worker].spec.id.clone() }
            }
            Action::Recommission { worker } => {
                Event::WorkerRecommissioned { worker: self.workers[*worker].spec.id.clone() }
            }
            Action::Rebalance => Event::Rebalance,
            Action::Load { pipeline, one_in, percent } => {
                return self.change_load(*pipeline, *one_in, *percent);
            }
            other => unreachable!("{other:?} is no request"),
        };
        self.tell_leader(event);
    }

    pub(crate) fn leader(&self) -> Option<usize> {
        let alive = |master: &usize| {
            let master = &self.masters[*master];
            !master.is_down() && master.stalled_until <= self.now && master.core().is_some()
        };
        (0..self.masters.len()).find(alive)
    }

    pub(crate) fn tell_leader(&mut self, event: Event) {
        if let Some(leader) = self.leader() {
            self.tell_master(leader, event);
        }
    }

    /// Counts what the core took in.
    pub(crate) fn count_event(&mut self, event: &Event) {
        match event {
            Event::PipelinePaused { .. } => self.tally.count("pipelines paused"),
            Event::PipelineResumed { .. } => self.tally.count("pipelines resumed"),
            Event::PipelineKilled { .. } => self.tally.count("pipelines killed"),
            Event::PipelineResubmitted { .. } => self.tally.count("pipelines changed"),
            Event::PartitionsFound { .. } => self.tally.count("partitions added"),
            Event::WorkerDrained { .. } => self.tally.count("drains begun"),
            Event::WorkerRecommissioned { .. } => self.tally.count("drains taken back"),
            Event::Rebalance => self.tally.count("rebalances asked for"),
            Event::WorkerRegistered { running, .. } if !running.is_empty() => {
                self.tally.count("takeovers by workers");
            }
            _ => {}
        }
    }

    fn definition(&self, number: usize) -> Option<PipelineDefinition> {
        let plan = self.plan.pipelines.get(number)?.as_ref()?;
        let topics = (0..plan.partitions.len()).map(|topic| format!("raw.{topic}")).collect();
        let name = if number == 0 { "clicks".to_owned() } else { format!("clicks-{number}") };
        Some(PipelineDefinition {
            lake: Some(LakeTarget::new("file:///lake")),
            weight: plan.weight,
            ..PipelineDefinition::new(pipeline_id(number), &name, "127.0.0.1:9092", topics, "invalid")
        })
    }

    pub(crate) fn submit(&mut self, number: usize) {
        let Some(definition) = self.definition(number) else { return };
        self.feed(number);
        let partitions = self.partitions[number].clone();
        self.tell_leader(Event::PipelineSubmitted { definition: Box::new(definition), partitions });
    }

    pub(crate) fn resubmit(&mut self, number: usize, rate: u64, weight: u32) {
        let Some(definition) = self.definition(number) else { return };
        self.feed(number);
        let definition = Box::new(PipelineDefinition { max_rate: Some(rate), weight, ..definition });
        let partitions = self.partitions[number].clone();
        self.tell_leader(Event::PipelineResubmitted { definition, partitions });
    }

    fn add_partitions(&mut self, number: usize, more: u32) {
        if self.plan.pipelines[number].is_none() {
            return;
        }
        self.partitions[number][0] += more;
        let count = self.partitions[number][0];
        self.feed(number);
        self.tell_leader(Event::PartitionsFound { pipeline: pipeline_id(number), topic: 0, count });
    }

    /// Every partition has records that come in.
    fn feed(&mut self, number: usize) {
        for slot in self.slots_of(number) {
            if !self.kafka.is_fed(&slot) {
                let rate =
                    if self.plan.even { EVEN_RATE } else { self.load_noise.pick(&[20, 100, 200, 200, 800]) };
                self.kafka.feed(&slot, self.now, rate);
            }
        }
    }

    pub(crate) fn slots_of(&self, number: usize) -> Vec<SlotId> {
        let pipeline = pipeline_id(number);
        let topics = (0_u16..).zip(&self.partitions[number]);
        topics
            .flat_map(|(topic, count)| (0..*count as i32).map(move |partition| (topic, partition)))
            .map(|(topic, partition)| SlotId { pipeline: pipeline.clone(), topic, partition })
            .collect()
    }

    fn change_load(&mut self, number: usize, one_in: u64, percent: u64) {
        if self.plan.pipelines[number].is_none() {
            return;
        }
        for slot in self.slots_of(number) {
            if (slot.partition as u64).is_multiple_of(one_in) && self.kafka.is_fed(&slot) {
                let usual = if self.plan.even { EVEN_RATE } else { 200 };
                let rate = (usual * percent as i64 / 100).max(1);
                self.kafka.feed(&slot, self.now, rate);
                self.tally.count("loads changed");
            }
        }
    }

    pub(crate) fn resume_halted(&mut self) {
        let Some(leader) = self.leader() else { return };
        let Some(core) = self.masters[leader].core() else { return };
        let slots = core.view().slots.into_iter().filter(|slot| slot.state == SlotState::Halted);
        for slot in slots.map(|view| view.slot).collect::<Vec<_>>() {
            self.tell_master(leader, Event::SlotResumed { slot, skip_lost: None });
        }
    }

    /// People see to it that the first pipeline runs, and that nothing stays halted; the others stay as they are.
    pub(crate) fn put_right(&mut self) {
        let Some(core) = self.leader().and_then(|leader| self.masters[leader].core()) else { return };
        let view = core.view();
        let numbers: Vec<usize> =
            (0..self.plan.pipelines.len()).filter(|number| self.plan.pipelines[*number].is_some()).collect();
        for (order, number) in numbers.into_iter().enumerate() {
            let id = pipeline_id(number);
            let mut known =
                view.pipelines.iter().chain(&view.completed).filter(|known| known.definition.id == id);
            match known.next().map(|known| known.state) {
                None => self.submit(number),
                Some(PipelineState::Paused) if order == 0 => {
                    self.tell_leader(Event::PipelineResumed { pipeline: id });
                }
                Some(PipelineState::Killed | PipelineState::Killing) if order == 0 => {
                    self.resubmit(number, 1, 1);
                }
                Some(_) => {}
            }
        }
        self.resume_halted();
    }
}

pub(crate) fn pipeline_id(number: usize) -> PipelineId {
    let text = format!("p-{number}");
    PipelineId::new(&text).unwrap_or_else(|error| panic!("{text}: {error}"))
}
