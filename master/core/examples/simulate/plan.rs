//! What a seed stands for: a cluster, and a schedule of all that happens to it. Nothing of it depends on how the run
//! goes, so that any part can be taken away to see whether the rest still fails.

use std::fmt;

use millrace_master_core::Settings;
use millrace_types::Millis;

use crate::chance::Chance;

/// A cluster and its schedule. Times are milliseconds of the world's clock.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    pub(crate) settings: Settings,
    /// A leader's lease in the store.
    pub(crate) lease: u64,
    pub(crate) masters: usize,
    /// An absent one keeps its number.
    pub(crate) workers: Vec<Option<WorkerPlan>>,
    pub(crate) pipelines: Vec<Option<PipelinePlan>>,
    /// Every slot costs the same, and figures do not waver.
    pub(crate) even: bool,
    /// By time.
    pub(crate) steps: Vec<PlannedStep>,
    /// When the faults end.
    pub(crate) storm: u64,
    pub(crate) ending: Ending,
}

#[derive(Debug, Clone)]
pub(crate) struct WorkerPlan {
    pub(crate) cores: u32,
    pub(crate) max_slots: u32,
    pub(crate) zone: Option<u8>,
    /// What its cores achieve.
    pub(crate) speed_percent: u32,
    /// How much its clock gains, in thousandths.
    pub(crate) drift: i64,
    /// `None`: only when a step starts it.
    pub(crate) starts_at: Option<u64>,
}

#[derive(Debug, Clone)]
pub(crate) struct PipelinePlan {
    /// Of each topic.
    pub(crate) partitions: Vec<u32>,
    pub(crate) weight: u32,
}

#[derive(Debug, Clone)]
pub(crate) struct PlannedStep {
    pub(crate) at: u64,
    pub(crate) action: Action,
}

/// Something that happens. Numbers are those of workers, masters and pipelines; `span` is how long it lasts.
#[derive(Debug, Clone)]
pub(crate) enum Action {
    StartWorker {
        worker: usize,
    },
    KillWorker {
        worker: usize,
    },
    /// SIGTERM: it drains, then ends.
    StopWorker {
        worker: usize,
    },
    FreezeWorker {
        worker: usize,
        span: u64,
    },
    DropSession {
        worker: usize,
    },
    /// Another process registers under its id, says that it runs nothing, or slots that are not its own, and is not heard
    /// of again. Without cores it must be refused.
    SecondProcess {
        worker: usize,
        claims: bool,
        cores: bool,
    },
    /// It says that it runs slots that are not its own, at epochs that were granted to others or to nobody.
    ClaimSlots {
        worker: usize,
    },
    /// What it opens fails, or halts.
    FailSlots {
        worker: usize,
        halts: bool,
        span: u64,
    },
    SlowWorker {
        worker: usize,
        speed_percent: u32,
    },
    CutWorker {
        worker: usize,
        master: usize,
        way: Way,
        span: u64,
    },
    CutStore {
        master: usize,
        way: Way,
        span: u64,
    },
    CrashMaster {
        master: usize,
        span: u64,
    },
    /// Between its next write and the directives that go by it.
    CrashAfterWrite {
        master: usize,
        span: u64,
    },
    StallMaster {
        master: usize,
        span: u64,
    },
    /// By thousandths of a second; backwards when negative.
    StepClock {
        master: usize,
        by: i64,
    },
    /// The store applies its next write, and the answer gets lost.
    LoseAnswer {
        master: usize,
    },
    StopStore {
        span: u64,
    },
    LoseStore,
    StopKafka {
        span: u64,
    },
    /// Commits take effect late, and their answers are lost.
    DelayCommits {
        span: u64,
    },
    StopObjectStore {
        span: u64,
    },
    /// In percent of the messages.
    Weather {
        lost: u64,
        twice: u64,
        late: u64,
        span: u64,
    },
    Submit {
        pipeline: usize,
    },
    Pause {
        pipeline: usize,
    },
    Resume {
        pipeline: usize,
    },
    KillPipeline {
        pipeline: usize,
    },
    Resubmit {
        pipeline: usize,
        rate: u64,
        weight: u32,
    },
    AddPartitions {
        pipeline: usize,
        more: u32,
    },
    ResumeHalted,
    Drain {
        worker: usize,
    },
    Recommission {
        worker: usize,
    },
    Rebalance,
    /// The load of each `one_in`th slot becomes so many percent of what is usual.
    Load {
        pipeline: usize,
        one_in: u64,
        percent: u64,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    ToMaster,
    FromMaster,
    Both,
}

/// What is tried on the cluster when it has come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ending {
    None,
    Join,
    Loss,
    Drain,
    LeaderLoss,
}

impl Plan {
    pub(crate) fn of(seed: u64) -> Self {
        let mut chance = Chance::of(seed, "plan", 0);
        let even = chance.percent(40);
        let masters = chance.pick(&[1, 2, 2, 3, 3]);
        let zones = chance.pick(&[0, 0, 0, 2, 3]);
        let size = chance.pick(&[2, 3, 4, 5, 6, 8]);
        let roomy = chance.percent(60);
        let workers = (0..size + 3)
            .map(|number| {
                Some(WorkerPlan {
                    cores: chance.between(1, 4) as u32,
                    max_slots: if roomy { 64 } else { chance.pick(&[1, 3, 6, 12, 64]) },
                    zone: (zones > 0).then(|| chance.between(1, zones) as u8),
                    speed_percent: if even { 100 } else { chance.pick(&[100, 100, 100, 60, 160]) },
                    drift: chance.pick(&[0, 0, -50, 40, 3]),
                    starts_at: (number < size).then(|| chance.between(0, 1_500)),
                })
            })
            .collect::<Vec<_>>();
        let pipelines = (0..chance.pick(&[1, 1, 2, 3]))
            .map(|_| {
                let topics = chance.pick(&[1, 1, 2]);
                let most = chance.pick(&[2, 6, 12, 20]);
                let partitions = (0..topics).map(|_| chance.between(1, most) as u32).collect();
                Some(PipelinePlan { partitions, weight: chance.pick(&[1, 1, 2, 5]) })
            })
            .collect::<Vec<_>>();
        let mut plan = Self {
            seed,
            settings: settings(&mut chance),
            lease: chance.pick(&[2_000, 4_000]),
            masters,
            workers,
            pipelines,
            even,
            steps: Vec::new(),
            storm: chance.between(4_000, 24_000),
            ending: chance.pick(&[
                Ending::None,
                Ending::Join,
                Ending::Loss,
                Ending::Drain,
                Ending::LeaderLoss,
            ]),
        };
        if plan.ending == Ending::LeaderLoss {
            // A worker needs up to two seconds to find the next leader: with a shorter lease it is too late.
            plan.settings.lease = plan.settings.lease.max(Millis(3_000));
        }
        plan.schedule();
        plan
    }

    fn schedule(&mut self) {
        let mut chance = Chance::of(self.seed, "schedule", 0);
        for pipeline in 0..self.pipelines.len() {
            let at = if pipeline == 0 { 300 } else { chance.between(100, self.storm / 2) };
            self.steps.push(PlannedStep { at, action: Action::Submit { pipeline } });
        }
        // Some worlds are rough, some nearly calm; each prefers a few kinds of trouble.
        let every = chance.pick(&[250, 500, 1_000, 2_500]);
        let kinds: Vec<u64> =
            (0..chance.pick(&[3, 6, 12, 40])).map(|_| chance.between(0, KINDS - 1)).collect();
        let mut at = 600;
        while at < self.storm {
            let kind = if chance.percent(80) { chance.pick(&kinds) } else { chance.between(0, KINDS - 1) };
            let action = self.action(kind, at, &mut chance);
            self.steps.push(PlannedStep { at, action });
            at += chance.between(1, 2 * every);
        }
        self.steps.sort_by_key(|step| step.at);
    }

    fn action(&self, kind: u64, at: u64, chance: &mut Chance) -> Action {
        let worker = chance.index(self.workers.len());
        let master = chance.index(self.masters);
        let pipeline = chance.index(self.pipelines.len());
        let left = self.storm - at;
        let most = |longest: u64| left.min(longest);
        let mut span = {
            let mut spans = Chance::of(chance.next(), "span", at);
            move |longest: u64| spans.between(50, longest.max(50)).min(most(longest))
        };
        match kind {
            0..=2 => Action::StartWorker { worker },
            3 | 4 => Action::KillWorker { worker },
            5 => Action::StopWorker { worker },
            6 => Action::FreezeWorker { worker, span: span(9_000) },
            7 => Action::DropSession { worker },
            8 => Action::FailSlots { worker, span: span(4_000), halts: chance.percent(25) },
            9 => Action::SlowWorker {
                worker,
                speed_percent: if self.even { 100 } else { chance.pick(&[25, 60, 100, 250]) },
            },
            10 | 11 => Action::CutWorker {
                worker,
                master,
                span: span(9_000),
                way: chance.pick(&[Way::ToMaster, Way::FromMaster, Way::Both]),
            },
            12 => Action::CutStore {
                master,
                span: span(9_000),
                way: chance.pick(&[Way::ToMaster, Way::FromMaster, Way::Both]),
            },
            13 | 14 => Action::CrashMaster { master, span: span(6_000) },
            15 => Action::CrashAfterWrite { master, span: span(4_000) },
            16 => Action::StallMaster { master, span: span(9_000) },
            17 => {
                let by = chance.pick(&[-2_000, -300, 100, 1_500, 20_000]);
                Action::StepClock { master, by }
            }
            18 => Action::LoseAnswer { master },
            19 => Action::StopStore { span: span(6_000) },
            20 if chance.percent(10) => Action::LoseStore,
            20 | 21 => Action::StopKafka { span: span(6_000) },
            22 => Action::DelayCommits { span: span(4_000) },
            23 => Action::StopObjectStore { span: span(12_000) },
            24 | 25 => Action::Weather {
                span: span(8_000),
                lost: chance.pick(&[0, 2, 10, 30]),
                twice: chance.pick(&[0, 5, 20]),
                late: chance.pick(&[0, 5, 30]),
            },
            26 => Action::Submit { pipeline },
            27 => Action::Pause { pipeline },
            28 | 29 => Action::Resume { pipeline },
            30 => Action::KillPipeline { pipeline },
            31 | 32 => {
                Action::Resubmit { pipeline, rate: chance.between(1, 3), weight: chance.pick(&[1, 3]) }
            }
            33 => Action::AddPartitions { pipeline, more: chance.between(1, 6) as u32 },
            34 => Action::ResumeHalted,
            35 => Action::Drain { worker },
            36 | 37 => Action::Recommission { worker },
            38 => Action::Rebalance,
            41 => Action::SecondProcess { worker, claims: chance.percent(50), cores: chance.percent(70) },
            42 => Action::ClaimSlots { worker },
            _ => {
                let (one_in, percent) = if self.even {
                    (1, 100)
                } else {
                    (chance.between(1, 5), chance.pick(&[0, 30, 300, 800]))
                };
                Action::Load { pipeline, one_in, percent }
            }
        }
    }
}

const KINDS: u64 = 43;

fn settings(chance: &mut Chance) -> Settings {
    let heartbeat = chance.pick(&[250, 500, 500, 1_000]);
    Settings {
        heartbeat: Millis(heartbeat),
        lease: Millis(heartbeat * chance.pick(&[2, 4, 6])),
        grace: Millis(chance.pick(&[0, 500, 2_000])),
        settle: Millis(chance.pick(&[0, 200, 1_000])),
        moves_at_a_time: chance.pick(&[1, 3, 32]),
        moves_of_a_worker: chance.pick(&[1, 2, 4]),
        dead_worker_retention: Millis(chance.pick(&[5_000, 960_000])),
        first_retry: Millis(500),
        longest_retry: Millis(2_000),
        load_span: Millis(1_500),
        balance_interval: Millis(chance.pick(&[1_000, 2_000])),
        margin_percent: chance.pick(&[20, 20, 40]),
        rest: Millis(chance.pick(&[2_000, 4_000])),
        moves_kept: 64,
        ..Settings::default()
    }
}

impl fmt::Display for Plan {
    /// As people read it: the cluster, then one line for each step.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Settings { heartbeat, lease, grace, settle, moves_at_a_time, moves_of_a_worker, .. } =
            &self.settings;
        writeln!(
            f,
            "seed {}: {} masters (lease {} ms), heartbeat {heartbeat}, lease {lease}, grace {grace}, settle {settle}, \
             moves {moves_at_a_time} and {moves_of_a_worker} a worker, faults until {} ms, then {:?}",
            self.seed, self.masters, self.lease, self.storm, self.ending
        )?;
        for (number, worker) in self.workers.iter().enumerate() {
            let Some(worker) = worker else { continue };
            let zone = worker.zone.map_or_else(String::new, |zone| format!(", zone {zone}"));
            let starts = worker.starts_at.map_or_else(|| "later".to_owned(), |at| format!("at {at} ms"));
            writeln!(
                f,
                "  worker w{number}: {} cores at {} %, {} slots{zone}, clock {:+} ‰, starts {starts}",
                worker.cores, worker.speed_percent, worker.max_slots, worker.drift
            )?;
        }
        for (number, pipeline) in self.pipelines.iter().enumerate() {
            let Some(pipeline) = pipeline else { continue };
            writeln!(
                f,
                "  pipeline p-{number}: partitions {:?}, weight {}",
                pipeline.partitions, pipeline.weight
            )?;
        }
        for step in &self.steps {
            writeln!(f, "  {:>6} ms  {:?}", step.at, step.action)?;
        }
        Ok(())
    }
}
