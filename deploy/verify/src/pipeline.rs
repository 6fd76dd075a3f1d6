//! Which pipeline is checked, and the lake that it fills.

use std::time::Duration;

use millrace_common::lake::{self, Lake};
use millrace_common::types::PipelineDefinition;
use serde::Deserialize;

use crate::{Config, Error};

/// Says whose the lake is; the master writes it when a pipeline is submitted.
const KEY: &str = "_millrace/pipeline.json";
const DEADLINE: Duration = Duration::from_secs(10);

/// The definition, by the lake's own word or by the master's, and the opened lake if the pipeline has one.
pub(crate) async fn find(config: &Config) -> Result<(PipelineDefinition, Option<Lake>), Error> {
    let Some(name) = &config.pipeline else {
        let lake = config.open_lake()?;
        return Ok((of_lake(&lake).await?, Some(lake)));
    };
    let definition = of_master(config, name).await?;
    let lake = definition.lake.as_ref().map(|target| lake::open(&config.with_login(target))).transpose()?;
    Ok((definition, lake))
}

async fn of_lake(lake: &Lake) -> Result<PipelineDefinition, Error> {
    let url = || lake.url.clone();
    let found = crate::lake::get(lake, &lake.path(KEY)).await?;
    let json = found.ok_or_else(|| Error::NoPipeline { lake: url(), key: KEY })?;
    serde_json::from_slice(&json).map_err(|error| Error::Definition {
        lake: url(),
        key: KEY,
        reason: error.to_string(),
    })
}

#[derive(Deserialize)]
struct Detail {
    definition: PipelineDefinition,
}

async fn of_master(config: &Config, name: &str) -> Result<PipelineDefinition, Error> {
    let url = format!("{}/api/v1/pipelines/{name}", config.page.trim_end_matches('/'));
    let failed = |reason: String| Error::NoDefinition { pipeline: name.to_owned(), url: url.clone(), reason };
    let asked = async {
        let client = reqwest::Client::builder().timeout(DEADLINE).build()?;
        client.get(&url).send().await?.error_for_status()?.bytes().await
    };
    let body = asked.await.map_err(|error| failed(error.to_string()))?;
    let detail: Detail = serde_json::from_slice(&body).map_err(|error| failed(error.to_string()))?;
    Ok(detail.definition)
}
