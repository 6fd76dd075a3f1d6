//! What the pages' buttons do, and what scripts for Spark's master post: the token was checked before. Afterwards the
//! page is shown again.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::problem::Problem;
use super::{Web, ui};
use crate::pipelines::{self, Refusal, Wish};
use crate::workers;

/// The fields of every form.
#[derive(Debug, Deserialize)]
pub(super) struct Fields {
    /// The page to show afterwards.
    #[serde(default)]
    back: String,
}

/// `/act/rebalance`.
pub(super) async fn rebalance(State(web): State<Arc<Web>>, Form(fields): Form<Fields>) -> Response {
    let done = workers::rebalance(&web.sources.handle, true).await.map(drop);
    answer(&web, done, &fields.back)
}

/// `/act/{what}/{target}`.
pub(super) async fn act(
    State(web): State<Arc<Web>>,
    Path((what, target)): Path<(String, String)>,
    Form(fields): Form<Fields>,
) -> Response {
    answer(&web, done(&web, &what, &target).await, &fields.back)
}

async fn done(web: &Web, what: &str, target: &str) -> Result<(), Refusal> {
    let pipeline = async |wish| pipelines::fulfil(&web.sources, target, wish).await.map(drop);
    let worker = async |wish| workers::fulfil(&web.sources.handle, target, wish).await.map(drop);
    match what {
        "pause" => pipeline(Wish::Pause).await,
        "resume" => pipeline(Wish::Resume).await,
        "kill" => pipeline(Wish::Kill).await,
        "drain" => worker(workers::Wish::Drain).await,
        "recommission" => worker(workers::Wish::Recommission).await,
        _ => Err(Refusal::Unknown(format!(
            "{what:?} is nothing to do: expected pause, resume, kill, drain, recommission or rebalance"
        ))),
    }
}

fn answer(web: &Web, done: Result<(), Refusal>, back: &str) -> Response {
    match done {
        Ok(()) => Redirect::to(local(back)).into_response(),
        Err(refusal) => ui::problem(web, &Problem::from(refusal)),
    }
}

/// A path of this master's own; anything else becomes the front page.
fn local(back: &str) -> &str {
    let is_plain = back.starts_with('/')
        && !back.starts_with("//")
        && back.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'\\');
    if is_plain { back } else { "/" }
}

/// What Spark's `/app/kill/` takes.
#[derive(Debug, Deserialize)]
pub(super) struct KillApplication {
    id: String,
    terminate: bool,
}

pub(super) async fn kill_application(
    State(web): State<Arc<Web>>,
    Form(form): Form<KillApplication>,
) -> Result<Redirect, Problem> {
    if form.terminate {
        pipelines::fulfil(&web.sources, &form.id, Wish::Kill).await?;
    }
    Ok(Redirect::to("/"))
}

/// What Spark's `/workers/kill/` takes: it decommissions the workers of a host.
#[derive(Debug, Deserialize)]
pub(super) struct KillWorkers {
    host: String,
}

pub(super) async fn kill_workers(
    State(web): State<Arc<Web>>,
    Form(form): Form<KillWorkers>,
) -> Result<Redirect, Problem> {
    let cluster = web.cluster().await?;
    let on_it: Vec<&str> = cluster
        .workers
        .iter()
        .filter(|worker| worker.host == form.host && worker.state.is_live())
        .map(|worker| worker.id.as_str())
        .collect();
    if on_it.is_empty() {
        let words = format!("no live worker is on host {:?}", form.host);
        return Err(Refusal::Unknown(words).into());
    }
    for id in on_it {
        workers::fulfil(&web.sources.handle, id, workers::Wish::Drain).await?;
    }
    Ok(Redirect::to("/"))
}

#[cfg(test)]
mod tests {
    use super::local;

    #[test]
    fn nobody_is_sent_to_another_site() {
        assert_eq!(local("/workers/a?b=1"), "/workers/a?b=1");
        for far in
            ["//evil.example", "https://evil.example", "/\\evil.example", "", "/a\r\nx: y", "javascript:1"]
        {
            assert_eq!(local(far), "/", "{far:?}");
        }
    }
}
