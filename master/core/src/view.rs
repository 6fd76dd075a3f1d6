//! The cluster as page, REST and CLI show it: plain data, made from the state on demand. Decides nothing.
//!
//! All `*_at` of type [`Millis`] are points in time of the clock that drives the coordinator.

use millrace_types::{
    Epoch, Halt, Millis, PipelineDefinition, PipelineId, SkipLost, SlotId, SlotReport, WorkerId, WorkerSpec,
};
use serde::Serialize;

use crate::Coordinator;
use crate::history::{Loss, Move};
use crate::record::Stage;
use crate::state::{Hold, Life, Pipeline, Slot, Worker};

/// Everything that people may see.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterView {
    /// The `now` of the last event.
    pub at: Millis,
    /// By id; dead ones stay for a while.
    pub workers: Vec<WorkerView>,
    /// By pipeline, topic and partition.
    pub slots: Vec<SlotView>,
    /// Those with slots, by id.
    pub pipelines: Vec<PipelineView>,
    /// The latest first.
    pub completed: Vec<PipelineView>,
    /// Oldest first.
    pub moves: Vec<Move>,
    /// Oldest first.
    pub losses: Vec<Loss>,
}

/// What a pipeline does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PipelineState {
    /// It should run, and no worker has a slot of it.
    Waiting,
    /// Workers have slots of it.
    Running,
    /// A person paused it; workers may still be giving slots up.
    Paused,
    /// A person killed it, and workers are still giving slots up.
    Killing,
    /// A person killed it, and it is over.
    Killed,
}

impl PipelineState {
    /// As page and command line show it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "WAITING",
            Self::Running => "RUNNING",
            Self::Paused => "PAUSED",
            Self::Killing => "KILLING",
            Self::Killed => "KILLED",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PipelineView {
    pub definition: PipelineDefinition,
    pub state: PipelineState,
    /// Partitions of all its source topics.
    pub slots: usize,
    /// Why not all of its slots have an owner, or what is to happen before it is in its state; `None` when nothing
    /// is waited for.
    pub waiting_for: Option<String>,
    /// When it was killed, in milliseconds since 1970 UTC.
    pub killed_at_ms: Option<u64>,
}

/// What the master thinks of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum WorkerState {
    /// It has a session and is heard.
    Alive,
    /// Its session dropped; it keeps its slots for the grace.
    Suspect,
    /// Known from the store and not heard since this master began; it keeps its slots for a lease.
    Unknown,
    /// Its slots go to others, a few at a time, and it gets none.
    Draining,
    /// It gets no slots, and has none.
    Drained,
    /// Lost; its slots go to others.
    Dead,
}

impl WorkerState {
    /// As the page shows it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Alive => "ALIVE",
            Self::Suspect => "SUSPECT",
            Self::Unknown => "UNKNOWN",
            Self::Draining => "DRAINING",
            Self::Drained => "DRAINED",
            Self::Dead => "DEAD",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct WorkerView {
    pub spec: WorkerSpec,
    pub state: WorkerState,
    /// When its last message came; `None` when this master never heard it.
    pub last_heard_at: Option<Millis>,
    /// When it got into its state.
    pub since: Millis,
    pub memory_used_bytes: u64,
    /// The slots granted to it, those being revoked too.
    pub slots: Vec<SlotId>,
    /// Why a live worker has no slot.
    pub idle_reason: Option<String>,
    /// What a draining worker waits for.
    pub waiting_for: Option<String>,
    /// Load of the slots that it has or is to get, per core, in percent of a core of usual speed.
    pub load_percent: u32,
    /// What its cores achieve, in percent of what is usual here; 100 until that is known.
    pub speed_percent: u32,
}

/// Where a slot stands for the master.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum SlotState {
    Free,
    Granted,
    Revoking,
    Halted,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct SlotView {
    pub slot: SlotId,
    /// Name of its source topic.
    pub topic: String,
    pub state: SlotState,
    pub owner: Option<WorkerId>,
    /// The highest epoch granted so far.
    pub epoch: Epoch,
    pub opened: bool,
    /// The owner's last report at this epoch: phase and figures.
    pub report: Option<SlotReport>,
    /// Figures of the last owner that reported any; kept while the slot has no owner or a new one that is
    /// silent yet.
    pub last_report: Option<SlotReport>,
    pub halt: Option<Halt>,
    /// A person's word that it may open without what is lost, until it has.
    pub skip_lost: Option<SkipLost>,
    /// Owners in a row that were lost since its cursors last moved.
    pub deaths: u32,
    /// Why it has no owner.
    pub unowned_reason: Option<String>,
}

impl Coordinator {
    /// The cluster as it stands after the last event.
    pub fn view(&self) -> ClusterView {
        ClusterView {
            at: self.now,
            workers: self.workers.iter().map(|(id, worker)| self.view_worker(id, worker)).collect(),
            slots: self.slots.iter().map(|(id, slot)| self.view_slot(id, slot)).collect(),
            pipelines: self.pipelines.iter().map(|(id, pipeline)| self.view_pipeline(id, pipeline)).collect(),
            completed: self.view_completed(),
            moves: self.history.moves(),
            losses: self.history.losses(),
        }
    }

    fn view_pipeline(&self, id: &PipelineId, pipeline: &Pipeline) -> PipelineView {
        let owned = pipeline.owned;
        let held = || counted(owned, "partition");
        let (state, waiting_for) = match pipeline.stage {
            Stage::Running if owned > 0 => (PipelineState::Running, self.why_some_are_idle(id)),
            Stage::Running => (PipelineState::Waiting, self.why_nothing_runs(id)),
            Stage::Changing if owned > 0 => {
                (PipelineState::Running, Some(format!("{} to be given up before it goes on", held())))
            }
            Stage::Changing => (PipelineState::Waiting, None),
            Stage::Paused if owned > 0 => {
                (PipelineState::Paused, Some(format!("the last commit of {}", held())))
            }
            Stage::Paused => (PipelineState::Paused, None),
            Stage::Killed { .. } => (PipelineState::Killing, Some(format!("the last commit of {}", held()))),
        };
        let killed_at_ms = match pipeline.stage {
            Stage::Killed { at_ms } => Some(at_ms),
            Stage::Running | Stage::Changing | Stage::Paused => None,
        };
        PipelineView {
            definition: (*pipeline.definition).clone(),
            state,
            slots: self.slots_of(id).count(),
            waiting_for,
            killed_at_ms,
        }
    }

    fn why_some_are_idle(&self, id: &PipelineId) -> Option<String> {
        let idle = self.slots_of(id).filter(|(_, slot)| slot.owner().is_none()).count();
        let reason = self.why_nothing_runs(id).filter(|_| idle > 0)?;
        Some(format!("{} without owner: {reason}", counted(idle, "partition")))
    }

    /// The reason that most people need first: of a slot that is not halted, if there is one.
    fn why_nothing_runs(&self, id: &PipelineId) -> Option<String> {
        let idle = self.slots_of(id).filter(|(_, slot)| slot.owner().is_none());
        let slot = idle.min_by_key(|(_, slot)| slot.halt.is_some());
        slot.map(|(id, slot)| self.unowned_reason(id, slot))
    }

    fn view_completed(&self) -> Vec<PipelineView> {
        let mut completed: Vec<PipelineView> = self
            .completed
            .values()
            .map(|completed| PipelineView {
                definition: (*completed.definition).clone(),
                state: PipelineState::Killed,
                slots: completed.slots.iter().map(Vec::len).sum(),
                waiting_for: None,
                killed_at_ms: Some(completed.killed_at_ms),
            })
            .collect();
        completed.sort_by_key(|view| std::cmp::Reverse(view.killed_at_ms));
        completed
    }

    fn view_worker(&self, id: &WorkerId, worker: &Worker) -> WorkerView {
        let slots: Vec<SlotId> = worker.holds.iter().cloned().collect();
        let idle = worker.life == Life::Alive && slots.is_empty();
        WorkerView {
            spec: worker.spec.clone(),
            state: match worker.life {
                Life::Alive if worker.is_draining() && slots.is_empty() => WorkerState::Drained,
                Life::Alive if worker.is_draining() => WorkerState::Draining,
                Life::Alive => WorkerState::Alive,
                Life::Suspect { .. } => WorkerState::Suspect,
                Life::Unknown { .. } => WorkerState::Unknown,
                Life::Dead => WorkerState::Dead,
            },
            last_heard_at: worker.last_heard,
            since: worker.since,
            memory_used_bytes: worker.memory_used_bytes,
            idle_reason: idle.then(|| self.idle_reason(id, worker)),
            waiting_for: self.drain_waits_for(id, worker),
            load_percent: self.load_percent(worker),
            speed_percent: worker.speed,
            slots,
        }
    }

    fn idle_reason(&self, id: &WorkerId, worker: &Worker) -> String {
        if worker.drain.leaving {
            return "its process was told to stop".to_owned();
        }
        if worker.drain.asked {
            return format!("it is drained: `millrace recommission {id}` lets it take slots again");
        }
        if self.slots.is_empty() {
            return "no pipeline is submitted".to_owned();
        }
        let coming = worker.intended.len();
        if coming > 0 {
            return format!("{} on the way to it", counted(coming, "slot"));
        }
        if self.settle_at.is_some() {
            return "it has just joined: shares are evened out in a moment".to_owned();
        }
        let running = || {
            self.pipelines.iter().filter(|(_, pipeline)| pipeline.stage == Stage::Running).map(|(id, _)| id)
        };
        if running().next().is_none() {
            return "every pipeline is paused".to_owned();
        }
        let owners = self.workers.values().filter(|worker| !worker.holds.is_empty()).count();
        let wanted: usize = self.workers.values().map(|worker| worker.intended.len()).sum();
        if wanted == 0 && self.waiting.unplaced.is_empty() {
            let halted = running().flat_map(|id| self.slots_of(id)).count();
            return format!("{} halted: none can run", counted(halted, "slot"));
        }
        format!("{} on {}: none is left", counted(wanted, "slot"), counted(owners, "worker"))
    }

    fn view_slot(&self, id: &SlotId, slot: &Slot) -> SlotView {
        let topics = self.pipelines.get(&id.pipeline).map(|pipeline| &pipeline.definition.source.topics);
        let owner = slot.owner().cloned();
        SlotView {
            slot: id.clone(),
            topic: topics.and_then(|topics| topics.get(usize::from(id.topic))).cloned().unwrap_or_default(),
            state: match slot.hold {
                Hold::Free { .. } if slot.halt.is_some() => SlotState::Halted,
                Hold::Free { .. } => SlotState::Free,
                Hold::Granted { .. } => SlotState::Granted,
                Hold::Revoking { .. } => SlotState::Revoking,
            },
            epoch: slot.epoch,
            opened: slot.opened,
            report: slot.report.clone().filter(|report| owner.is_some() && report.epoch == slot.epoch),
            last_report: slot.report.clone(),
            halt: slot.halt.clone(),
            skip_lost: slot.skip_lost,
            deaths: slot.deaths,
            unowned_reason: owner.is_none().then(|| self.unowned_reason(id, slot)),
            owner,
        }
    }

    fn unowned_reason(&self, id: &SlotId, slot: &Slot) -> String {
        match self.pipelines.get(&id.pipeline).map(|pipeline| pipeline.stage) {
            Some(Stage::Paused) => return "the pipeline is paused".to_owned(),
            Some(Stage::Killed { .. }) => return "the pipeline was killed".to_owned(),
            Some(Stage::Changing) => {
                return "the pipeline goes on when every partition was given up".to_owned();
            }
            Some(Stage::Running) | None => {}
        }
        if let Some(halt) = &slot.halt {
            return format!("halted: {}", halt.detail);
        }
        if let Some(at) = slot.retry_at {
            let wait = at.since(self.now);
            return format!(
                "it stopped {} in a row: tried again in {wait}",
                counted(slot.failures as usize, "time")
            );
        }
        if self.settle_at.is_some() && self.workers.values().any(|worker| worker.life == Life::Alive) {
            return "workers are joining: granted in a moment".to_owned();
        }
        if let Hold::Free { home: Some(home), .. } = &slot.hold {
            return format!("it goes to {home} as soon as that gave another slot up");
        }
        self.why_no_place(&id.pipeline)
    }

    /// Why a slot of the pipeline finds no worker, and what it would take.
    fn why_no_place(&self, id: &PipelineId) -> String {
        let alive = || self.workers.values().filter(|worker| worker.life == Life::Alive);
        let (workers, places) =
            alive().filter(|worker| !worker.is_draining()).fold((0, 0_u64), |(workers, places), worker| {
                (workers + 1, places + u64::from(worker.spec.max_slots))
            });
        if workers == 0 && alive().next().is_some() {
            return "every worker is drained: add one, or recommission one".to_owned();
        }
        if workers == 0 {
            return "no worker is alive".to_owned();
        }
        let verb = if workers == 1 { "carries" } else { "carry" };
        let carry = format!(
            "{} {verb} at most {}",
            counted(workers, "worker"),
            counted(usize::try_from(places).unwrap_or(usize::MAX), "slot")
        );
        let sharing = self.pipelines.values().filter(|pipeline| pipeline.stage == Stage::Running).count();
        let without = self.waiting.unplaced.len();
        if sharing <= 1 {
            return format!("{carry}: add a worker or memory");
        }
        let Some(pipeline) = self.pipelines.get(id) else { return carry };
        format!(
            "{carry}, shared by {sharing} pipelines; this one, of weight {}, has {}: it takes {} more for all, or a \
             greater weight for this one",
            pipeline.definition.weight,
            counted(pipeline.owned, "place"),
            counted(without, "place"),
        )
    }
}

pub(crate) fn counted(count: usize, what: &str) -> String {
    if count == 1 { format!("1 {what}") } else { format!("{count} {what}s") }
}
