//! The stream behind a page that is looked at: each second its parts are made anew, of pages that ask
//! others each few seconds, and those that changed are sent.

use std::collections::HashMap;
use std::convert::Infallible;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{StatusCode, Uri};
use axum::response::sse::{Event, KeepAlive};
use axum::response::{IntoResponse, Response, Sse};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::Web;
use super::model::Cluster;
use super::problem::Problem;
use super::ui::{self, Live, Page};
use crate::handle::Refused;
use crate::snapshot;

/// Streams at a time; a page beyond them reloads itself.
pub(super) const STREAMS: usize = 64;
/// Parts that wait for a slow reader: more are not made.
const QUEUE: usize = 16;
/// A reader that takes nothing for this long is gone.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two times that a page is made which asks others.
const ASKING: Duration = Duration::from_secs(5);

/// Where the parts of the page at `place` are streamed.
pub(super) fn address(place: &Uri) -> String {
    match place.query() {
        Some(query) => format!("/live{}?{query}", place.path()),
        None => format!("/live{}", place.path()),
    }
}

pub(super) async fn stream(State(web): State<Arc<Web>>, request: Request) -> Result<Response, Problem> {
    let asked = request.uri().path_and_query().map_or("/", |place| place.as_str());
    let place: Uri = asked
        .strip_prefix("/live")
        .and_then(|place| place.parse().ok())
        .ok_or_else(|| ui::not_found(request.uri().path()))?;
    // A page that is none is answered now, not within the stream.
    let page = web.page(&*web.cluster_or_standby().await?, &place).await?;
    if page.live == Live::Never {
        return Err(ui::not_found(request.uri().path()));
    }
    let seat = Arc::clone(&web.streams).try_acquire_owned().map_err(|_| {
        let detail = format!("{STREAMS} pages are looked at already: this one can be loaded again by hand");
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too many pages are live", detail)
    })?;
    let (events, received) = mpsc::channel::<Result<Event, Infallible>>(QUEUE);
    let shutdown = web.shutdown.clone();
    let end = shutdown.clone();
    shutdown.spawn(format!("live page {}", place.path()), async move {
        let _seat = seat;
        tokio::select! {
            () = end.begun() => {}
            () = send(&web, &place, &events) => {}
        }
    });
    Ok(Sse::new(ReceiverStream::new(received)).keep_alive(KeepAlive::default()).into_response())
}

/// Until the reader is gone.
async fn send(web: &Web, place: &Uri, events: &mpsc::Sender<Result<Event, Infallible>>) {
    let mut moments = web.history.moments();
    let mut sent: HashMap<&'static str, u64> = HashMap::new();
    loop {
        let moment = moments.borrow_and_update().clone();
        let mut pause = Duration::ZERO;
        if let Some(moment) = moment {
            let made = tokio::select! {
                () = events.closed() => return,
                made = made(web, moment, place) => made,
            };
            let changes = match made {
                Ok(page) => {
                    pause = if page.live == Live::Asking { ASKING } else { Duration::ZERO };
                    changes(page, &mut sent)
                }
                Err(words) => {
                    pause = ASKING;
                    trouble(&words)
                }
            };
            for event in changes {
                let given = tokio::time::timeout(PATIENCE, events.send(Ok(event))).await;
                if !matches!(given, Ok(Ok(()))) {
                    return;
                }
            }
        }
        let next = async {
            tokio::time::sleep(pause).await;
            moments.changed().await
        };
        tokio::select! {
            () = events.closed() => return,
            changed = next => if changed.is_err() { return },
        }
    }
}

/// The page of this moment, or why there is none.
async fn made(web: &Web, moment: Result<Arc<Cluster>, Refused>, place: &Uri) -> Result<Page, String> {
    let cluster = match moment {
        Ok(cluster) => cluster,
        Err(Refused::Standby { leader }) => Arc::new(snapshot::standby(leader.as_ref(), &web.sources)),
        Err(error) => return Err(error.to_string()),
    };
    web.page(&cluster, place).await.map_err(|problem| problem.detail)
}

/// The parts that are not as they were sent before.
fn changes(page: Page, sent: &mut HashMap<&'static str, u64>) -> Vec<Event> {
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
