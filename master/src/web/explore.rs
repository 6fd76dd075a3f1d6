//! The pages that ask Kafka, lakes and workers when they are loaded: topics, messages, lakes, bad events, verification.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Form;
use axum::extract::{Path, Query, State};
use axum::response::{Html, IntoResponse, Redirect, Response};
use serde::Deserialize;

use super::api::browse::{self, Place, WhichFile, WhichFolder, WhichKafka};
use super::problem::Problem;
use super::ui::{self, Page, View};
use super::{Web, api};
use crate::browse::{messages, topics};

type Asked = State<Arc<Web>>;

fn shown(web: &Web, page: Result<Page, Problem>) -> Response {
    match page {
        Ok(page) => Html(ui::document(web, &page, None).into_string()).into_response(),
        Err(problem) => ui::problem(web, &problem),
    }
}

pub(super) async fn topics(State(web): Asked, Query(query): Query<BTreeMap<String, String>>) -> Response {
    let page = async {
        let (_, known) = browse::look(&web).await?;
        let topics = topics::list(&web.browse, &known).await?;
        Ok(ui::topics::list(&topics, &View::of(query)))
    };
    shown(&web, page.await)
}

pub(super) async fn topic(
    State(web): Asked,
    Path(topic): Path<String>,
    Query(place): Query<Place>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let page = async {
        let (_, known) = browse::look(&web).await?;
        let wanted = place.wanted(topic.clone())?;
        let detail = topics::detail(&web.browse, &known, &topic, wanted.kafka.as_deref()).await?;
        let read = messages::read(&web.browse, &known, wanted).await?;
        Ok(ui::topics::detail(&detail, &read, &View::of(query)))
    };
    shown(&web, page.await)
}

pub(super) async fn message(
    State(web): Asked,
    Path(place): Path<(String, i32, i64)>,
    Query(which): Query<WhichKafka>,
) -> Response {
    let page = browse::traced(&web, place, which).await.map(|traced| ui::topics::message(&traced));
    shown(&web, page)
}

pub(super) async fn lakes(State(web): Asked) -> Response {
    let page = browse::lakes_of(&web).await.map(|lakes| ui::lake::list(&lakes));
    shown(&web, page)
}

pub(super) async fn lake(
    State(web): Asked,
    Path(target): Path<String>,
    Query(which): Query<WhichFolder>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Response {
    let page = async {
        let folder = browse::folder_of(&web, &target, &which).await?;
        let (_, known) = browse::look(&web).await?;
        let duckdb = crate::browse::lake::duckdb(known.find(&target)?, &folder.lake, &folder.folder);
        Ok(ui::lake::folder(&folder, &duckdb, which.page.unwrap_or(1), &View::of(query)))
    };
    shown(&web, page.await)
}

pub(super) async fn file(
    State(web): Asked,
    Path(target): Path<String>,
    Query(which): Query<WhichFile>,
) -> Response {
    let page = async {
        let file = browse::file_of(&web, &target, &which).await?;
        // A file is shown also while nobody can give its rows.
        let rows = browse::rows_of(&web, &target, &which).await;
        Ok(ui::lake::file(&file, &rows))
    };
    shown(&web, page.await)
}

pub(super) async fn bad_events(State(web): Asked) -> Response {
    let page = browse::bad_of(&web).await.map(|events| ui::bad::page(&events));
    shown(&web, page)
}

#[derive(Debug, Deserialize)]
pub(super) struct Verify {
    pipeline: String,
}

pub(super) async fn begin_verification(State(web): Asked, Form(form): Form<Verify>) -> Response {
    match api::verify(&web, &form.pipeline).await {
        Ok(_) => Redirect::to("/verify").into_response(),
        Err(problem) => ui::problem(&web, &problem),
    }
}
