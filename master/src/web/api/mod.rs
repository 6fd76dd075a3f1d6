//! `/api/v1`: all that the pages show, as JSON. Each route stands here, and is described in `openapi`; a test compares
//! the two.

mod act;
pub(super) mod browse;
pub(super) mod openapi;

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use axum::routing::{MethodRouter, get, post};
use millrace_common::telemetry::tail;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::Web;
use super::flow::Flow;
use super::history::Series;
use super::model::{Cluster, Failover, MasterStatus, Move, Pipeline, PipelineDetail, Slot, Totals, Worker};
use super::problem::Problem;
use super::verify::Run;
use crate::environment::Environment;
use crate::pipelines::{self, Refusal};
use crate::workers::{self, Plan};

pub(super) use act::token;

/// The most entries in one answer of a list that is paged.
const MOST: usize = 10_000;

pub(super) type Answer<T> = Result<Json<T>, Problem>;
type Asked = State<Arc<Web>>;

/// The routes of the API by their paths. A path that is read and acted upon stands there twice.
pub(super) fn routes() -> Vec<(&'static str, MethodRouter<Arc<Web>>)> {
    vec![
        ("/api/v1/openapi.json", get(openapi::serve)),
        ("/api/v1/cluster", get(summary)),
        ("/api/v1/workers", get(workers_list)),
        ("/api/v1/workers/{worker}", get(worker)),
        ("/api/v1/workers/{worker}/log", get(browse::log)),
        ("/api/v1/environment", get(environment)),
        ("/api/v1/log", get(log)),
        ("/api/v1/pipelines", get(pipelines_list)),
        ("/api/v1/pipelines/{pipeline}", get(pipeline)),
        ("/api/v1/pipelines/{pipeline}/history", get(pipeline_history)),
        ("/api/v1/slots", get(slots)),
        ("/api/v1/moves", get(moves)),
        ("/api/v1/failovers", get(failovers)),
        ("/api/v1/rebalance", get(plan)),
        ("/api/v1/topics", get(browse::topics)),
        ("/api/v1/topics/{topic}", get(browse::topic)),
        ("/api/v1/topics/{topic}/messages", get(browse::messages)),
        ("/api/v1/topics/{topic}/messages/{partition}/{offset}", get(browse::message)),
        ("/api/v1/lakes", get(browse::lakes)),
        ("/api/v1/lakes/{pipeline}", get(browse::folder)),
        ("/api/v1/lakes/{pipeline}/file", get(browse::file)),
        ("/api/v1/lakes/{pipeline}/rows", get(browse::rows)),
        ("/api/v1/bad-events", get(browse::bad_events)),
        ("/api/v1/verifications", get(verifications)),
        ("/api/v1/verifications/{pipeline}", post(begin_verification)),
        ("/api/v1/token", get(act::token_of)),
        ("/api/v1/rebalance", post(act::rebalance)),
        ("/api/v1/workers/{worker}/drain", post(act::drain)),
        ("/api/v1/workers/{worker}/recommission", post(act::recommission)),
        ("/api/v1/pipelines/{pipeline}/pause", post(act::pause)),
        ("/api/v1/pipelines/{pipeline}/resume", post(act::resume)),
        ("/api/v1/pipelines/{pipeline}/slots/{slot}/resume", post(act::resume_slot)),
        ("/api/v1/pipelines/{pipeline}/kill", post(act::kill)),
    ]
}

/// The master and the sums over its cluster.
#[derive(Debug, Serialize, JsonSchema)]
struct Summary {
    url: String,
    rest_url: String,
    status: MasterStatus,
    /// URL of the leader's page, if this master stands by.
    leader: Option<String>,
    /// What the master waits for.
    waiting_for: Option<String>,
    /// What is unsafe about how this page can be reached.
    warning: Option<&'static str>,
    at_ms: u64,
    version: &'static str,
    workers: Totals,
    pipelines_running: usize,
    pipelines_completed: usize,
    slots: usize,
    slots_running: usize,
    slots_halted: usize,
    lag: u64,
    records_per_second: f64,
    /// The way from the raw topics to the sinks.
    flow: Flow,
}

async fn summary(State(web): Asked) -> Answer<Summary> {
    let cluster = web.cluster().await?;
    let running = |pipeline: &Pipeline| pipeline.slots_running;
    Ok(Json(Summary {
        url: cluster.url.clone(),
        rest_url: cluster.rest_url.clone(),
        status: cluster.status,
        leader: cluster.leader.clone(),
        waiting_for: cluster.waiting_for.clone(),
        warning: web.guard.warning(),
        at_ms: cluster.at_ms,
        version: millrace_common::types::VERSION,
        workers: cluster.totals(),
        pipelines_running: cluster.pipelines.len(),
        pipelines_completed: cluster.completed.len(),
        slots: cluster.slots.len(),
        slots_running: cluster.pipelines.iter().map(running).sum(),
        slots_halted: cluster.pipelines.iter().map(|pipeline| pipeline.slots_halted).sum(),
        lag: cluster.pipelines.iter().filter_map(|pipeline| pipeline.lag).fold(0, u64::saturating_add),
        records_per_second: cluster
            .pipelines
            .iter()
            .fold(0.0, |sum, pipeline| sum + pipeline.records_per_second),
        flow: web.history.flow(),
    }))
}

/// A part of a list.
#[derive(Debug, Deserialize)]
struct Part {
    #[serde(default)]
    from: usize,
    limit: Option<usize>,
    pipeline: Option<String>,
    worker: Option<String>,
    state: Option<String>,
}

impl Part {
    fn of<T: Clone>(&self, all: &[T], is_wanted: impl Fn(&T) -> bool) -> Vec<T> {
        let limit = self.limit.unwrap_or(MOST).min(MOST);
        all.iter().filter(|entry| is_wanted(entry)).skip(self.from).take(limit).cloned().collect()
    }
}

/// Whether a filter that may be absent lets the value through.
fn is(wanted: Option<&String>, value: &str) -> bool {
    wanted.is_none_or(|wanted| wanted == value)
}

async fn workers_list(State(web): Asked, Query(part): Query<Part>) -> Answer<Vec<Worker>> {
    let cluster = web.cluster().await?;
    Ok(Json(part.of(&cluster.workers, |worker| is(part.state.as_ref(), worker.state.word()))))
}

/// Where a partition stands, and whether it catches up.
#[derive(Debug, Serialize, JsonSchema)]
struct SlotRow {
    #[serde(flatten)]
    slot: Slot,
    /// How fast its lag falls, in records a second; negative while it grows, `None` until it was looked at twice.
    lag_falls_per_second: Option<f64>,
}

async fn slots(State(web): Asked, Query(part): Query<Part>) -> Answer<Vec<SlotRow>> {
    let cluster = web.cluster().await?;
    let wanted = part.of(&cluster.slots, |slot| {
        is(part.pipeline.as_ref(), &slot.pipeline)
            && is(part.state.as_ref(), slot.state.word())
            && is(part.worker.as_ref(), slot.owner.as_deref().unwrap_or_default())
    });
    let row = |slot: Slot| SlotRow { lag_falls_per_second: web.history.fall(&slot.slot), slot };
    Ok(Json(wanted.into_iter().map(row).collect()))
}

async fn moves(State(web): Asked, Query(part): Query<Part>) -> Answer<Vec<Move>> {
    let cluster = web.cluster().await?;
    Ok(Json(part.of(&cluster.moves, |moved| {
        part.worker.as_ref().is_none_or(|worker| moved.to == *worker || moved.from.as_ref() == Some(worker))
            && part.pipeline.as_ref().is_none_or(|id| moved.slot.split('/').next() == Some(id))
    })))
}

/// A lost worker with what was watched since.
#[derive(Debug, Clone, PartialEq, Serialize, JsonSchema)]
pub(super) struct Scorecard {
    #[serde(flatten)]
    pub(super) failover: Failover,
    /// When the new owners had read all that had come until the loss; `None` until then, and for losses before this
    /// master began.
    pub(super) caught_up_at_ms: Option<u64>,
    /// Records that the lost worker had read and not committed: about as many were read again.
    pub(super) replayed: u64,
}

pub(super) fn scorecards(web: &Web, cluster: &Cluster) -> Vec<Scorecard> {
    let card = |failover: &Failover| {
        let score = web.history.score(failover);
        Scorecard {
            failover: failover.clone(),
            caught_up_at_ms: score.caught_up_at_ms,
            replayed: score.replayed,
        }
    };
    cluster.failovers.iter().map(card).collect()
}

async fn failovers(State(web): Asked) -> Answer<Vec<Scorecard>> {
    let cluster = web.cluster().await?;
    Ok(Json(scorecards(&web, &cluster)))
}

/// A worker with its slots and its last two minutes.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct WorkerDetail {
    #[serde(flatten)]
    pub(super) worker: Worker,
    pub(super) running: Vec<Slot>,
    pub(super) history: Series,
}

/// The worker `id`, which need not be alive.
pub(super) fn worker_detail(web: &Web, cluster: &Cluster, id: &str) -> Result<WorkerDetail, Problem> {
    let worker = cluster.workers.iter().find(|worker| worker.id == id).ok_or_else(|| {
        Problem::from(Refusal::Unknown(format!(
            "no worker has the id {id:?}: it may have been lost more than a few minutes ago; /api/v1/workers has those \
             that are known"
        )))
    })?;
    let own = cluster.slots.iter().filter(|slot| slot.owner.as_deref() == Some(id));
    Ok(WorkerDetail {
        worker: worker.clone(),
        running: own.cloned().collect(),
        history: web.history.worker(id),
    })
}

async fn worker(State(web): Asked, Path(id): Path<String>) -> Answer<WorkerDetail> {
    let cluster = web.cluster().await?;
    worker_detail(&web, &cluster, &id).map(Json)
}

/// Those with slots, then the completed ones.
async fn pipelines_list(State(web): Asked) -> Answer<Vec<Pipeline>> {
    let cluster = web.cluster().await?;
    Ok(Json(cluster.pipelines.iter().chain(&cluster.completed).cloned().collect()))
}

async fn pipeline(State(web): Asked, Path(target): Path<String>) -> Answer<PipelineDetail> {
    Ok(Json(pipelines::describe(&web.sources, &target).await?))
}

async fn pipeline_history(State(web): Asked, Path(target): Path<String>) -> Answer<Series> {
    let (_, known) = browse::look(&web).await?;
    Ok(Json(web.history.pipeline(known.find(&target)?.id.as_str())))
}

async fn environment() -> Json<Environment> {
    Json(Environment::of_this_process())
}

/// The last lines of this process, the oldest first.
async fn log() -> Json<Vec<String>> {
    Json(tail::lines())
}

async fn plan(State(web): Asked) -> Answer<Plan> {
    Ok(Json(workers::rebalance(&web.sources.handle, false).await?))
}

async fn verifications(State(web): Asked) -> Json<Vec<Run>> {
    Json(web.verifications.runs())
}

/// Starts a verification of the pipeline, by id or name.
pub(super) async fn verify(web: &Web, target: &str) -> Result<Run, Problem> {
    let (_, known) = browse::look(web).await?;
    Ok(web.verifications.begin(known.find(target)?, &web.shutdown)?)
}

async fn begin_verification(State(web): Asked, Path(target): Path<String>) -> Answer<Run> {
    verify(&web, &target).await.map(Json)
}

/// A POST was done.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Done {
    pub(super) done: String,
}
