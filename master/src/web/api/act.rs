//! What is changed through HTTP: the same as on the command line, and nothing else. Each POST shows the token that this
//! process gave to its own pages, so no other site's page can act in a reader's name.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, Query, State};
use millrace_common::types::{HaltKind, InvalidId, NextOffset, SkipLost, SlotId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answer, Asked, Done};
use crate::pipelines::{self, Refusal, Wish};
use crate::web::Web;
use crate::workers::{self, Plan};

/// What a POST shows, in the header `x-millrace-token` or the form field `token`.
#[derive(Debug, Serialize, JsonSchema)]
pub(super) struct Token {
    token: String,
}

/// Other origins can't read it: no answer allows them to.
pub(super) async fn token_of(State(web): Asked) -> Json<Token> {
    Json(Token { token: token(&web) })
}

pub(in crate::web) fn token(web: &Web) -> String {
    web.guard.page_token().to_owned()
}

pub(super) async fn rebalance(State(web): Asked) -> Answer<Plan> {
    Ok(Json(workers::rebalance(&web.sources.handle, true).await?))
}

pub(super) async fn drain(State(web): Asked, Path(target): Path<String>) -> Answer<Done> {
    worker(&web, &target, workers::Wish::Drain).await
}

pub(super) async fn recommission(State(web): Asked, Path(target): Path<String>) -> Answer<Done> {
    worker(&web, &target, workers::Wish::Recommission).await
}

async fn worker(web: &Arc<Web>, target: &str, wish: workers::Wish) -> Answer<Done> {
    let (worker, _) = workers::fulfil(&web.sources.handle, target, wish).await?;
    Ok(Json(Done { done: format!("worker {} is {}", worker.spec.id, worker.state.as_str()) }))
}

pub(super) async fn pause(State(web): Asked, Path(target): Path<String>) -> Answer<Done> {
    pipeline(&web, &target, Wish::Pause).await
}

pub(super) async fn resume(State(web): Asked, Path(target): Path<String>) -> Answer<Done> {
    pipeline(&web, &target, Wish::Resume).await
}

/// How a halted slot goes on.
#[derive(Debug, Deserialize)]
pub(super) struct SlotResume {
    /// The halt whose loss is skipped.
    skip_lost: Option<HaltKind>,
    /// The source offset at which both sinks begin again.
    from: Option<i64>,
}

pub(super) async fn resume_slot(
    State(web): Asked,
    Path((target, local)): Path<(String, String)>,
    Query(asked): Query<SlotResume>,
) -> Answer<Done> {
    let look = web.sources.handle.look().await.map_err(Refusal::from)?;
    let pipeline = pipelines::find(&look, &target)?.definition.id.clone();
    let slot: SlotId = format!("{pipeline}/{local}")
        .parse()
        .map_err(|error: InvalidId| Refusal::Usage(error.to_string()))?;
    let from = asked.from.map(NextOffset);
    let skip_lost = asked.skip_lost.map(|halt| SkipLost { halt, from });
    if skip_lost.is_none() && from.is_some() {
        return Err(Refusal::Usage("from has a meaning only beside skip_lost".to_owned()).into());
    }
    pipelines::resume_slot(&web.sources, slot.clone(), skip_lost).await?;
    Ok(Json(Done { done: format!("slot {slot} goes on") }))
}

pub(super) async fn kill(State(web): Asked, Path(target): Path<String>) -> Answer<Done> {
    pipeline(&web, &target, Wish::Kill).await
}

async fn pipeline(web: &Arc<Web>, target: &str, wish: Wish) -> Answer<Done> {
    let detail = pipelines::fulfil(&web.sources, target, wish).await?;
    Ok(Json(Done { done: format!("pipeline {} is {}", detail.pipeline.id, detail.pipeline.state) }))
}
