//! The stream behind a page that is looked at: each second its parts are made anew, and those that changed are sent.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, Request, State};
use axum::http::StatusCode;
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Web;
use super::model::Cluster;
use super::problem::Problem;
use super::ui::{self, View};
use crate::handle::Refused;
use crate::snapshot;

/// Streams at a time; a page beyond them reloads itself.
pub(super) const STREAMS: usize = 64;
/// Parts that wait for a slow reader: more are not made.
const QUEUE: usize = 16;
/// A reader that takes nothing for this long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Where the parts of the page at `path` are streamed.
pub(super) fn address(path: &str, query: Option<&str>) -> String {
    match query {
        Some(query) => format!("/live{path}?{query}"),
        None => format!("/live{path}"),
    }
}

pub(super) async fn stream(
    State(web): State<Arc<Web>>,
    Query(query): Query<std::collections::BTreeMap<String, String>>,
    request: Request,
) -> Result<Response, Problem> {
    let path = request.uri().path().strip_prefix("/live").unwrap_or_default().to_owned();
    let view = View::of(query);
    // A page that is none is answered now, not within the stream.
    ui::page(&web, &*web.cluster_or_standby().await?, &path, &view)?;
    let place = Arc::clone(&web.streams).try_acquire_owned().map_err(|_| {
        let detail = format!("{STREAMS} pages are looked at already: this one can be loaded again by hand");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many pages are live", detail)
    })?;
    let (events, received) = mpsc::channel::<Result<Event, Infallible>>(QUEUE);
    let shutdown = web.shutdown.clone();
    let end = shutdown.clone();
    shutdown.spawn(format!("live page {path}"), async move {
        let _place = place;
        tokio::select! {
            () = end.begun() => {}
            () = send(&web, &path, &view, &events) => {}
        }
    });
    Ok(Sse::new(ReceiverStream::new(received)).keep_alive(KeepAlive::default()).into_response())
}

/// Until the reader is gone.
async fn send(web: &Web, path: &str, view: &View, events: &mpsc::Sender<Result<Event, Infallible>>) {
    let mut moments = web.history.moments();
    let mut sent: HashMap<&'static str, u64> = HashMap::new();
    loop {
        let moment = moments.borrow_and_update().clone();
        if let Some(moment) = moment {
            for event in changes(web, moment, path, view, &mut sent) {
                let given = tokio::time::timeout(PATIENCE, events.send(Ok(event))).await;
                if !matches!(given, Ok(Ok(()))) {
                    return;
                }
            }
        }
        tokio::select! {
            () = events.closed() => return,
            changed = moments.changed() => if changed.is_err() { return },
        }
    }
}

fn changes(
    web: &Web,
    moment: Result<Arc<Cluster>, Refused>,
    path: &str,
    view: &View,
    sent: &mut HashMap<&'static str, u64>,
) -> Vec<Event> {
    let cluster = match moment {
        Ok(cluster) => cluster,
        Err(Refused::Standby { leader }) => Arc::new(snapshot::standby(leader.as_ref(), &web.sources)),
        Err(error) => return trouble(&error.to_string()),
    };
    let page = match ui::page(web, &cluster, path, view) {
        Ok(page) => page,
        Err(problem) => return trouble(&problem.detail),
    };
    let mut events = Vec::new();
    for part in page.parts {
        let html = ui::rendered(&part).into_string();
        let mut hasher = DefaultHasher::new();
        html.hash(&mut hasher);
        let hash = hasher.finish();
        if sent.insert(part.id, hash) == Some(hash) {
            continue;
        }
        let data = serde_json::json!({ "id": part.id, "html": html });
        events.push(Event::default().event("part").data(data.to_string()));
    }
    events
}

/// As JSON, which has no line ends of its own.
fn trouble(words: &str) -> Vec<Event> {
    vec![Event::default().event("trouble").data(serde_json::Value::from(words).to_string())]
}
