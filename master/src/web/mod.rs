//! HTTP: the status page, `/json/` as Spark's master has it, `/api/v1`, and the routes that every process has.
//! It only reads; nothing can be changed through it.

pub(crate) mod model;
mod page;
mod spark;

#[cfg(test)]
mod example;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::get;
use axum::{Json, Router};
use millrace_common::http::status_routes;
use millrace_common::shutdown::Shutdown;
use serde::Serialize;
use tokio::net::TcpListener;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::timeout::TimeoutLayer;
use tracing::warn;

use crate::handle::Refused;
use crate::metrics::{self, Latest};
use crate::pipelines;
use crate::pipelines::Refusal;
use crate::snapshot;
use crate::sources::Sources;
use crate::store::Leader;
use model::Cluster;

const DEADLINE: Duration = Duration::from_secs(10);
/// Requests under way; more wait for their turn.
const REQUESTS: usize = 64;

#[derive(Debug)]
struct Web {
    sources: Sources,
    latest: Latest,
}

impl Web {
    async fn cluster(&self) -> Result<Arc<Cluster>, Problem> {
        let look = self.sources.handle.look().await;
        let cluster = look.map(|look| Arc::new(snapshot::cluster(&look, &self.sources)));
        self.latest.set(cluster.as_ref().ok().cloned());
        cluster.map_err(Problem::from)
    }

    /// What page and `/json/` show: a standby shows itself.
    async fn cluster_or_standby(&self) -> Result<Arc<Cluster>, Problem> {
        match self.cluster().await {
            Err(Problem { standby: Some(leader), .. }) => {
                Ok(Arc::new(snapshot::standby(leader.as_ref().as_ref(), &self.sources)))
            }
            other => other,
        }
    }
}

impl From<Refused> for Problem {
    fn from(refused: Refused) -> Self {
        let problem =
            Self::new(StatusCode::SERVICE_UNAVAILABLE, "the cluster can't be seen", refused.to_string());
        match refused {
            Refused::Standby { leader } => Self { standby: Some(Box::new(leader)), ..problem },
            Refused::Rejected(_) | Refused::Unavailable(_) => problem,
        }
    }
}

/// Serves until the shutdown begins.
pub(crate) async fn serve(listener: TcpListener, sources: Sources, shutdown: Shutdown) {
    let end = shutdown.clone();
    let served =
        axum::serve(listener, routes(sources)).with_graceful_shutdown(async move { end.begun().await }).await;
    if let Err(error) = served {
        warn!(%error, "the status page closed");
        shutdown.begin();
    }
}

fn routes(sources: Sources) -> Router {
    let latest = Latest::default();
    let registry = Arc::new(metrics::registry(&sources.counters, latest.clone()));
    let common = status_routes(sources.health.readiness(), registry);
    let web = Arc::new(Web { sources, latest });
    let redirecting = Arc::clone(&web);
    Router::new()
        .route("/", get(show_page))
        .route("/style.css", get(style))
        .route("/json", get(spark_state))
        .route("/json/", get(spark_state))
        .route("/json/{field}", get(spark_field))
        .route("/api/v1/workers", get(|web| part(web, |cluster| Json(&cluster.workers).into_response())))
        .route("/api/v1/slots", get(|web| part(web, |cluster| Json(&cluster.slots).into_response())))
        .route("/api/v1/pipelines", get(show_pipelines))
        .route("/api/v1/pipelines/{pipeline}", get(show_pipeline))
        .route("/api/v1/moves", get(|web| part(web, |cluster| Json(&cluster.moves).into_response())))
        .route("/api/v1/failovers", get(|web| part(web, |cluster| Json(&cluster.failovers).into_response())))
        .fallback(unknown)
        .method_not_allowed_fallback(only_reading)
        .with_state(Arc::clone(&web))
        .merge(common.layer(from_fn_with_state(web, look_for_metrics)))
        .layer(from_fn_with_state(Arc::clone(&redirecting), redirect_to_leader))
        .layer(map_response(security_headers))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, DEADLINE))
        .layer(GlobalConcurrencyLimitLayer::new(REQUESTS))
}

async fn show_page(State(web): State<Arc<Web>>) -> Result<Html<String>, Problem> {
    Ok(Html(page::page(&*web.cluster_or_standby().await?).into_string()))
}

async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], page::STYLE)
}

async fn spark_state(State(web): State<Arc<Web>>) -> Result<Response, Problem> {
    Ok(Json(spark::master_state(&*web.cluster_or_standby().await?)).into_response())
}

async fn spark_field(State(web): State<Arc<Web>>, Path(name): Path<String>) -> Result<Response, Problem> {
    Ok(Json(spark::field(&*web.cluster_or_standby().await?, &name)).into_response())
}

async fn part(State(web): State<Arc<Web>>, pick: fn(&Cluster) -> Response) -> Result<Response, Problem> {
    Ok(pick(&*web.cluster().await?))
}

/// Those with slots, then the completed ones.
async fn show_pipelines(State(web): State<Arc<Web>>) -> Result<Response, Problem> {
    let cluster = web.cluster().await?;
    Ok(Json(cluster.pipelines.iter().chain(&cluster.completed).collect::<Vec<_>>()).into_response())
}

async fn show_pipeline(State(web): State<Arc<Web>>, Path(target): Path<String>) -> Result<Response, Problem> {
    match pipelines::describe(&web.sources, &target).await {
        Ok(detail) => Ok(Json(detail).into_response()),
        Err(refusal) => {
            let status = match refusal {
                Refusal::Unknown(_) => StatusCode::NOT_FOUND,
                Refusal::Usage(_) | Refusal::Now(_) | Refusal::Unavailable(_) | Refusal::Standby { .. } => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
            };
            Err(Problem::new(status, "the pipeline can't be shown", refusal.to_string()))
        }
    }
}

/// A standby answers what only the leader knows with the leader's address.
async fn redirect_to_leader(State(web): State<Arc<Web>>, request: Request, next: Next) -> Response {
    if request.uri().path().starts_with("/api/")
        && let Err(Refused::Standby { leader: Some(leader) }) = web.sources.handle.look().await
    {
        let place = request.uri().path_and_query().map_or("/", |place| place.as_str());
        return Redirect::temporary(&format!("{}{place}", leader.page)).into_response();
    }
    next.run(request).await
}

/// The gauges show the cluster of now, or nothing.
async fn look_for_metrics(State(web): State<Arc<Web>>, request: Request, next: Next) -> Response {
    if request.uri().path() == "/metrics" {
        // Kept by the look itself; the counters are told in any case.
        let _ = web.cluster().await;
    }
    next.run(request).await
}

async fn unknown(request: Request) -> Problem {
    let detail = format!("there is nothing at {}; try / or /api/v1/workers", request.uri().path());
    Problem::new(StatusCode::NOT_FOUND, "not found", detail)
}

async fn only_reading(request: Request) -> Problem {
    let detail = format!("{} is not possible here, only GET", request.method());
    Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method not allowed", detail)
}

async fn security_headers(mut response: Response) -> Response {
    let headers = response.headers_mut();
    let mut set = |name, value| headers.insert(name, HeaderValue::from_static(value));
    set(
        header::CONTENT_SECURITY_POLICY,
        "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    );
    set(header::X_CONTENT_TYPE_OPTIONS, "nosniff");
    set(header::REFERRER_POLICY, "no-referrer");
    set(header::CACHE_CONTROL, "no-store");
    response
}

/// An error as RFC 9457 has it.
#[derive(Debug, Serialize)]
struct Problem {
    title: &'static str,
    status: u16,
    detail: String,
    /// The master stands by, and who leads.
    #[serde(skip)]
    standby: Option<Box<Option<Leader>>>,
}

impl Problem {
    fn new(status: StatusCode, title: &'static str, detail: String) -> Self {
        Self { title, status: status.as_u16(), detail, standby: None }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, [(header::CONTENT_TYPE, "application/problem+json")], Json(self)).into_response()
    }
}
