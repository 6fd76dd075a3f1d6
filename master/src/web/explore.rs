//! The pages that ask Kafka, lakes, workers and this process when they are loaded: topics, messages, lakes, bad events,
//! logs. While one is looked at it asks again now and then.

use std::sync::Arc;

use axum::Form;
use axum::extract::{Query, State};
use axum::http::{StatusCode, Uri};
use axum::response::{IntoResponse, Redirect, Response};
use millrace_common::telemetry::tail;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::api::browse::{self, Place, WhichFile, WhichFolder, WhichKafka};
use super::problem::Problem;
use super::ui::{self, Page, View};
use super::{Web, api};
use crate::browse::{messages, topics};
use crate::environment::Environment;
use crate::pipelines::Refusal;

/// The page at `place`, of those that ask; `None` if it is none of them. `parts`: of its path, decoded.
pub(super) async fn page(
    web: &Web,
    place: &Uri,
    parts: &[&str],
    view: &View,
) -> Option<Result<Page, Problem>> {
    Some(match *parts {
        ["topics"] => topics(web, view).await,
        ["topics", topic] => one_topic(web, place, topic, view).await,
        ["topics", topic, partition, offset] => message(web, place, (topic, partition, offset)).await,
        ["lakes"] => browse::lakes_of(web).await.map(|lakes| ui::lake::list(&lakes)),
        ["lakes", target] => lake(web, place, target, view).await,
        ["lakes", target, "file"] => file(web, place, target).await,
        ["bad-events"] => browse::bad_of(web).await.map(|events| ui::bad::page(&events)),
        ["workers", worker, "log"] => {
            let lines = browse::log_of(web, worker).await;
            match lines {
                Err(problem) if problem.code() == StatusCode::NOT_FOUND => Err(problem),
                lines => Ok(ui::process::log(Some(worker), lines.as_deref())),
            }
        }
        ["log"] => Ok(ui::process::log(None, Ok(&tail::lines()))),
        ["environment"] => Ok(ui::process::environment(&Environment::of_this_process())),
        _ => return None,
    })
}

/// What the address says behind its question mark.
fn asked<T: DeserializeOwned>(place: &Uri) -> Result<T, Problem> {
    let query = Query::try_from_uri(place);
    query.map(|Query(asked)| asked).map_err(|error| Refusal::Usage(error.body_text()).into())
}

async fn topics(web: &Web, view: &View) -> Result<Page, Problem> {
    let (_, known) = browse::look(web).await?;
    let topics = topics::list(&web.browse, &known).await?;
    Ok(ui::topics::list(&topics, view))
}

async fn one_topic(web: &Web, place: &Uri, topic: &str, view: &View) -> Result<Page, Problem> {
    let (_, known) = browse::look(web).await?;
    let wanted = asked::<Place>(place)?.wanted(topic.to_owned())?;
    let detail = topics::detail(&web.browse, &known, topic, wanted.kafka.as_deref()).await?;
    let read = messages::read(&web.browse, &known, wanted).await?;
    Ok(ui::topics::detail(&detail, &read, view))
}

async fn message(
    web: &Web,
    place: &Uri,
    (topic, partition, offset): (&str, &str, &str),
) -> Result<Page, Problem> {
    let refused = |name: &str, text: &str| {
        Problem::from(Refusal::Usage(format!("{name} = {text:?}: expected a whole number")))
    };
    let partition = partition.parse().map_err(|_| refused("partition", partition))?;
    let offset = offset.parse().map_err(|_| refused("offset", offset))?;
    let which = asked::<WhichKafka>(place)?;
    let traced = browse::traced(web, (topic.to_owned(), partition, offset), which).await?;
    Ok(ui::topics::message(&traced))
}

async fn lake(web: &Web, place: &Uri, target: &str, view: &View) -> Result<Page, Problem> {
    let which: WhichFolder = asked(place)?;
    let folder = browse::folder_of(web, target, &which).await?;
    let (_, known) = browse::look(web).await?;
    let duckdb = crate::browse::lake::duckdb(known.find(target)?, &folder.lake, &folder.folder);
    Ok(ui::lake::folder(&folder, &duckdb, which.page.unwrap_or(1), view))
}

async fn file(web: &Web, place: &Uri, target: &str) -> Result<Page, Problem> {
    let which: WhichFile = asked(place)?;
    let file = browse::file_of(web, target, &which).await?;
    // A file is shown also while nobody can give its rows.
    let rows = browse::rows_of(web, target, &which).await;
    Ok(ui::lake::file(&file, &rows))
}

#[derive(Debug, Deserialize)]
pub(super) struct Verify {
    pipeline: String,
}

pub(super) async fn begin_verification(State(web): State<Arc<Web>>, Form(form): Form<Verify>) -> Response {
    match api::verify(&web, &form.pipeline).await {
        Ok(_) => Redirect::to("/verify").into_response(),
        Err(problem) => ui::problem(&web, &problem),
    }
}
