//! What is changed through HTTP: the same as on the command line, and nothing else. Each POST shows the token that this
//! process gave to its own pages, so no other site's page can act in a reader's name.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use schemars::JsonSchema;
use serde::Serialize;

use super::{Answer, Asked, Done};
use crate::pipelines::{self, Wish};
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

pub(super) async fn kill(State(web): Asked, Path(target): Path<String>) -> Answer<Done> {
    pipeline(&web, &target, Wish::Kill).await
}

async fn pipeline(web: &Arc<Web>, target: &str, wish: Wish) -> Answer<Done> {
    let detail = pipelines::fulfil(&web.sources, target, wish).await?;
    Ok(Json(Done { done: format!("pipeline {} is {}", detail.pipeline.id, detail.pipeline.state) }))
}
