//! HTTP: the pages, their live streams, `/api/v1`, `/json/` as Spark's master has it, and the routes that every process
//! has. What may be changed through it stands in `api::act` and `forms`.

mod api;
mod explore;
mod flow;
mod forms;
mod guard;
mod history;
mod live;
pub(crate) mod logins;
pub(crate) mod model;
mod problem;
mod spark;
mod ui;
pub(crate) mod verify;

#[cfg(test)]
mod example;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::Router;
use axum::extract::{Path, Query, Request, State};
use axum::http::{HeaderValue, StatusCode, Uri, header};
use axum::middleware::{Next, from_fn_with_state, map_response};
use axum::response::{Html, IntoResponse, Redirect, Response};
use axum::routing::{get, post};
use millrace_common::http::status_routes;
use millrace_common::shutdown::Shutdown;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower_http::timeout::TimeoutLayer;
use tracing::warn;

use crate::browse::Browse;
use crate::handle::Refused;
use crate::metrics::{self, Latest};
use crate::pipelines::Refusal;
use crate::snapshot;
use crate::sources::Sources;
use crate::workers;
pub(crate) use guard::Guard;
use history::History;
use model::Cluster;
use problem::Problem;
use ui::{Live, Page, View};
pub(crate) use verify::Verifications;

/// Of an answer; a page may ask Kafka and a lake.
const DEADLINE: Duration = Duration::from_secs(20);
/// Requests under way; more wait for their turn.
const REQUESTS: usize = 64;

#[derive(Debug)]
struct Web {
    sources: Sources,
    latest: Latest,
    guard: Guard,
    history: History,
    browse: Browse,
    verifications: Verifications,
    /// Places for pages that are looked at.
    streams: Arc<Semaphore>,
    shutdown: Shutdown,
}

/// What the pages are made with.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) sources: Sources,
    pub(crate) guard: Guard,
    pub(crate) browse: Browse,
    pub(crate) verifications: Verifications,
}

impl Web {
    fn new(parts: Parts, shutdown: Shutdown) -> Self {
        let Parts { sources, guard, browse, verifications } = parts;
        Self {
            sources,
            latest: Latest::default(),
            guard,
            history: History::default(),
            browse,
            verifications,
            streams: Arc::new(Semaphore::new(live::STREAMS)),
            shutdown,
        }
    }

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

    /// The page at `place`, a path with its query.
    async fn page(&self, cluster: &Cluster, place: &Uri) -> Result<Page, Problem> {
        let Query(query) =
            Query::try_from_uri(place).map_err(|error| Problem::from(Refusal::Usage(error.body_text())))?;
        let view = View::of(query);
        let parts: Vec<String> = place.path().trim_matches('/').split('/').map(ui::decoded).collect();
        let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
        if let Some(page) = ui::page(self, cluster, &parts, &view) {
            return page;
        }
        explore::page(self, place, &parts, &view).await.unwrap_or_else(|| Err(ui::not_found(place.path())))
    }
}

/// Serves until the shutdown begins.
pub(crate) async fn serve(listener: TcpListener, parts: Parts, shutdown: Shutdown) {
    let end = shutdown.clone();
    let web = Arc::new(Web::new(parts, shutdown.clone()));
    let history = web.history.clone().keep(web.sources.clone(), shutdown.clone());
    shutdown.spawn("history", history);
    let (handle, browse) = (web.sources.handle.clone(), web.browse.clone());
    shutdown.spawn("invalid topics", web.history.clone().watch_invalid(handle, browse, shutdown.clone()));
    let served =
        axum::serve(listener, routes(web)).with_graceful_shutdown(async move { end.begun().await }).await;
    if let Err(error) = served {
        warn!(%error, "the status page closed");
        shutdown.begin();
    }
}

fn routes(web: Arc<Web>) -> Router {
    let registry = Arc::new(metrics::registry(&web.sources.counters, web.latest.clone()));
    let common = status_routes(web.sources.health.readiness(), registry);
    let mut router = Router::new()
        .route("/", get(show_page))
        .route("/workers/{worker}", get(show_page))
        .route("/workers/{worker}/log", get(show_page))
        .route("/pipelines/{pipeline}", get(show_page))
        .route("/rebalance", get(show_rebalance))
        .route("/verify", get(show_page))
        .route("/topics", get(show_page))
        .route("/topics/{topic}", get(show_page))
        .route("/topics/{topic}/{partition}/{offset}", get(show_page))
        .route("/lakes", get(show_page))
        .route("/lakes/{pipeline}", get(show_page))
        .route("/lakes/{pipeline}/file", get(show_page))
        .route("/bad-events", get(show_page))
        .route("/environment", get(show_page))
        .route("/log", get(show_page))
        .route("/act/verify", post(explore::begin_verification))
        .route("/live/", get(live::stream))
        .route("/live/{*page}", get(live::stream))
        .route("/act/rebalance", post(forms::rebalance))
        .route("/act/{what}/{target}", post(forms::act))
        .route("/style.css", get(|| file("text/css; charset=utf-8", ui::STYLE)))
        .route("/page.js", get(|| file("text/javascript; charset=utf-8", ui::SCRIPT)))
        .route("/icon.svg", get(|| file("image/svg+xml", include_str!("ui/icon.svg"))))
        .route("/json", get(spark_state))
        .route("/json/", get(spark_state))
        .route("/json/{field}", get(spark_field))
        .route("/app/kill", post(forms::kill_application))
        .route("/app/kill/", post(forms::kill_application))
        .route("/workers/kill", post(forms::kill_workers))
        .route("/workers/kill/", post(forms::kill_workers));
    for (path, handler) in api::routes() {
        router = router.route(path, handler);
    }
    router
        .fallback(unknown)
        .method_not_allowed_fallback(another_method)
        .with_state(Arc::clone(&web))
        .merge(common.layer(from_fn_with_state(Arc::clone(&web), look_for_metrics)))
        .layer(from_fn_with_state(Arc::clone(&web), redirect_to_leader))
        .layer(from_fn_with_state(web, guard::check))
        .layer(map_response(security_headers))
        .layer(TimeoutLayer::with_status_code(StatusCode::SERVICE_UNAVAILABLE, DEADLINE))
        .layer(GlobalConcurrencyLimitLayer::new(REQUESTS))
}

async fn show_page(State(web): State<Arc<Web>>, request: Request) -> Response {
    let place = request.uri();
    let shown = async {
        let cluster = web.cluster_or_standby().await?;
        web.page(&cluster, place).await
    };
    match shown.await {
        Ok(page) => {
            let live = (page.live != Live::Never).then(|| live::address(place));
            Html(ui::document(&web, &page, live.as_deref()).into_string()).into_response()
        }
        Err(problem) => ui::problem(&web, &problem),
    }
}

/// What would move now: asked for at each load.
async fn show_rebalance(State(web): State<Arc<Web>>) -> Response {
    match workers::rebalance(&web.sources.handle, false).await {
        Ok(plan) => {
            let page = ui::rebalance::page(&web, &plan);
            Html(ui::document(&web, &page, None).into_string()).into_response()
        }
        Err(refusal) => ui::problem(&web, &refusal.into()),
    }
}

async fn file(kind: &'static str, text: &'static str) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, kind)], text)
}

async fn spark_state(State(web): State<Arc<Web>>) -> Result<Response, Problem> {
    Ok(Json(spark::master_state(&*web.cluster_or_standby().await?)).into_response())
}

async fn spark_field(State(web): State<Arc<Web>>, Path(name): Path<String>) -> Result<Response, Problem> {
    Ok(Json(spark::field(&*web.cluster_or_standby().await?, &name)).into_response())
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
    ui::not_found(request.uri().path())
}

async fn another_method(request: Request) -> Problem {
    let detail = format!("{} is not possible here: /api/v1/openapi.json tells what is", request.method());
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
