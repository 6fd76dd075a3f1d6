//! Topics, messages, lakes and bad events as JSON.

use axum::Json;
use axum::extract::{Path, Query, State};
use chrono::{DateTime, NaiveDateTime};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Answer, Asked};
use crate::browse::Known;
use crate::browse::bad::{self, BadEvents};
use crate::browse::lake::{File, Folder};
use crate::browse::log;
use crate::browse::messages::{self, From, Messages, Wanted};
use crate::browse::rows::{self, Rows};
use crate::browse::topics::{self, Topic, TopicDetail};
use crate::browse::trace::{self, Traced};
use crate::handle::Look;
use crate::pipelines::Refusal;
use crate::web::Web;
use crate::web::problem::Problem;

/// Messages of an answer, unless it is asked for more.
const MESSAGES: usize = 50;

pub(in crate::web) async fn look(web: &Web) -> Result<(Look, Known), Problem> {
    let look = web.sources.handle.look().await?;
    let all = look.view.pipelines.iter().chain(&look.view.completed);
    let known = Known(all.map(|view| view.definition.clone()).collect());
    Ok((look, known))
}

#[derive(Debug, Default, Deserialize)]
pub(in crate::web) struct WhichKafka {
    kafka: Option<String>,
}

pub(super) async fn topics(State(web): Asked) -> Answer<Vec<Topic>> {
    let (_, known) = look(&web).await?;
    Ok(Json(topics::list(&web.browse, &known).await?))
}

pub(super) async fn topic(
    State(web): Asked,
    Path(topic): Path<String>,
    Query(which): Query<WhichKafka>,
) -> Answer<TopicDetail> {
    let (_, known) = look(&web).await?;
    Ok(Json(topics::detail(&web.browse, &known, &topic, which.kafka.as_deref()).await?))
}

/// Which messages are asked for. Empty fields, as forms send them, are none.
#[derive(Debug, Default, Deserialize)]
pub(in crate::web) struct Place {
    kafka: Option<String>,
    #[serde(default)]
    pub(in crate::web) partition: String,
    /// An offset.
    #[serde(default)]
    pub(in crate::web) from: String,
    /// A time, RFC 3339 or without offset UTC.
    #[serde(default)]
    pub(in crate::web) at: String,
    #[serde(default)]
    pub(in crate::web) limit: String,
}

impl Place {
    pub(in crate::web) fn wanted(self, topic: String) -> Result<Wanted, Refusal> {
        let number = |name: &str, text: &str| -> Result<Option<i64>, Refusal> {
            let text = text.trim();
            if text.is_empty() {
                return Ok(None);
            }
            let refused = || Refusal::Usage(format!("{name} = {text:?}: expected a whole number"));
            text.parse().map(Some).map_err(|_| refused())
        };
        let partition = number("partition", &self.partition)?.unwrap_or(0);
        let from = match (number("from", &self.from)?, self.at.trim()) {
            (Some(offset), _) => From::Offset(offset),
            (None, "") => From::End,
            (None, at) => From::Time(time(at)?),
        };
        Ok(Wanted {
            topic,
            kafka: self.kafka.filter(|kafka| !kafka.is_empty()),
            partition: i32::try_from(partition).map_err(|_| {
                Refusal::Usage(format!("partition = {partition}: expected a partition's number"))
            })?,
            from,
            limit: number("limit", &self.limit)?
                .map_or(MESSAGES, |limit| usize::try_from(limit).unwrap_or(MESSAGES)),
        })
    }
}

/// Milliseconds since 1970 UTC.
fn time(text: &str) -> Result<i64, Refusal> {
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Ok(at.timestamp_millis());
    }
    ["%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d %H:%M:%S", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
        .map(|at| at.and_utc().timestamp_millis())
        .ok_or_else(|| Refusal::Usage(format!("at = {text:?}: expected a time like 2024-01-15T10:30:00Z")))
}

pub(super) async fn messages(
    State(web): Asked,
    Path(topic): Path<String>,
    Query(place): Query<Place>,
) -> Answer<Messages> {
    let (_, known) = look(&web).await?;
    Ok(Json(messages::read(&web.browse, &known, place.wanted(topic)?).await?))
}

pub(in crate::web) async fn traced(
    web: &Web,
    (topic, partition, offset): (String, i32, i64),
    which: WhichKafka,
) -> Result<Traced, Problem> {
    let (look, known) = look(web).await?;
    let wanted = Wanted { topic, kafka: which.kafka, partition, from: From::Offset(offset), limit: 1 };
    Ok(trace::message(&web.browse, &known, &look.view, wanted).await?)
}

pub(super) async fn message(
    State(web): Asked,
    Path(place): Path<(String, i32, i64)>,
    Query(which): Query<WhichKafka>,
) -> Answer<Traced> {
    traced(&web, place, which).await.map(Json)
}

/// A pipeline's lake.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(in crate::web) struct LakeRow {
    pub(in crate::web) pipeline: String,
    pub(in crate::web) name: String,
    pub(in crate::web) lake: String,
}

pub(in crate::web) async fn lakes_of(web: &Web) -> Result<Vec<LakeRow>, Problem> {
    let (_, known) = look(web).await?;
    let row = |pipeline: &millrace_common::types::PipelineDefinition| {
        let lake = pipeline.lake.as_ref()?.url.clone();
        Some(LakeRow { pipeline: pipeline.id.to_string(), name: pipeline.name.clone(), lake })
    };
    Ok(known.0.iter().filter_map(row).collect())
}

pub(super) async fn lakes(State(web): Asked) -> Answer<Vec<LakeRow>> {
    lakes_of(&web).await.map(Json)
}

#[derive(Debug, Default, Deserialize)]
pub(in crate::web) struct WhichFolder {
    #[serde(default)]
    pub(in crate::web) folder: String,
    /// Counts from 1.
    #[serde(default)]
    pub(in crate::web) page: Option<usize>,
}

pub(in crate::web) async fn folder_of(
    web: &Web,
    target: &str,
    which: &WhichFolder,
) -> Result<Folder, Problem> {
    let (_, known) = look(web).await?;
    let page = which.page.unwrap_or(1).saturating_sub(1);
    Ok(web.browse.folder(known.find(target)?, which.folder.trim_matches('/'), page).await?)
}

pub(super) async fn folder(
    State(web): Asked,
    Path(target): Path<String>,
    Query(which): Query<WhichFolder>,
) -> Answer<Folder> {
    folder_of(&web, &target, &which).await.map(Json)
}

#[derive(Debug, Deserialize)]
pub(in crate::web) struct WhichFile {
    pub(in crate::web) key: String,
    pub(in crate::web) limit: Option<usize>,
}

pub(in crate::web) async fn file_of(web: &Web, target: &str, which: &WhichFile) -> Result<File, Problem> {
    let (_, known) = look(web).await?;
    Ok(web.browse.file(known.find(target)?, &which.key).await?)
}

pub(super) async fn file(
    State(web): Asked,
    Path(target): Path<String>,
    Query(which): Query<WhichFile>,
) -> Answer<File> {
    file_of(&web, &target, &which).await.map(Json)
}

pub(in crate::web) async fn rows_of(web: &Web, target: &str, which: &WhichFile) -> Result<Rows, Problem> {
    let (look, known) = look(web).await?;
    let limit = which.limit.unwrap_or(20);
    Ok(rows::of_file(&web.browse, &look.view, known.find(target)?, &which.key, limit).await?)
}

pub(super) async fn rows(
    State(web): Asked,
    Path(target): Path<String>,
    Query(which): Query<WhichFile>,
) -> Answer<Rows> {
    rows_of(&web, &target, &which).await.map(Json)
}

/// The last lines of a worker's log, the oldest first.
pub(in crate::web) async fn log_of(web: &Web, worker: &str) -> Result<Vec<String>, Problem> {
    let (look, _) = look(web).await?;
    let known = look.view.workers.iter().find(|known| known.spec.id.as_str() == worker);
    let known = known.ok_or_else(|| {
        Refusal::Unknown(format!("no worker has the id {worker:?}: /api/v1/workers has those that are known"))
    })?;
    Ok(log::of_worker(&web.browse, &known.spec).await?)
}

pub(super) async fn log(State(web): Asked, Path(worker): Path<String>) -> Answer<Vec<String>> {
    log_of(&web, &worker).await.map(Json)
}

pub(in crate::web) async fn bad_of(web: &Web) -> Result<BadEvents, Problem> {
    let (_, known) = look(web).await?;
    Ok(bad::events(&web.browse, &known).await?)
}

pub(super) async fn bad_events(State(web): Asked) -> Answer<BadEvents> {
    bad_of(&web).await.map(Json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_asked_for_by_offset_or_time() {
        let place = |from: &str, at: &str| Place { from: from.into(), at: at.into(), ..Place::default() };
        let from = |from: &str, at: &str| place(from, at).wanted("t".into()).map(|wanted| wanted.from);
        assert_eq!(from("", ""), Ok(From::End));
        assert_eq!(from("12", "2024-01-15T10:30"), Ok(From::Offset(12)));
        for at in
            ["2024-01-15T10:30:00Z", "2024-01-15T11:30:00+01:00", "2024-01-15T10:30", "2024-01-15 10:30:00"]
        {
            assert_eq!(from("", at), Ok(From::Time(1_705_314_600_000)), "{at}");
        }
        for (bad, at) in [("x", ""), ("", "yesterday"), ("99999999999999999999", "")] {
            let refused = from(bad, at).expect_err("bad").to_string();
            assert!(refused.contains("expected"), "{refused}");
        }
    }
}
