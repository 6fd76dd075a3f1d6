//! The lake's prefix belongs to one pipeline for ever: `_millrace/pipeline.json` in it says to which.
//!
//! A second pipeline there, or the same one submitted anew, would write every row twice. Never deletes a claim, nor
//! puts another id in its place; the definition beside the id is kept up to date.

use bytes::Bytes;
use millrace_common::lake::{self, Lake, LakeError};
use millrace_common::types::{LakeTarget, PipelineDefinition, PipelineId};
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode};
use serde::Deserialize;

use crate::lake_probe::{ProbeError, probe};

const KEY: &str = "_millrace/pipeline.json";

/// What is read of a claim: the definition around it may be another version's.
#[derive(Debug, Deserialize)]
struct Claim {
    id: PipelineId,
}

/// The lake can't be used, or can't be asked now.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    #[error(transparent)]
    Open(#[from] LakeError),
    #[error(
        "the lake {url} belongs to pipeline {owner}, not to {pipeline}: its rows would stand there twice; start with \
         the --state that knows {owner}, or give another prefix, or empty this one"
    )]
    Taken { url: String, owner: PipelineId, pipeline: PipelineId },
    #[error(
        "{key} in the lake {url} can't be read ({reason}): expected a pipeline's definition; give another prefix"
    )]
    Unreadable { url: String, key: &'static str, reason: String },
    #[error(
        "the lake {url} no longer holds {KEY} of pipeline {pipeline}: put it and the rows back, or submit a new pipeline \
         with another prefix to read the topic anew"
    )]
    Gone { url: String, pipeline: PipelineId },
    #[error("the bucket of the lake {url} does not exist: make it")]
    NoBucket { url: String },
    #[error(
        "the lake {url} refuses the credentials ({reason}): check what the references to the access key id and the \
         secret access key name on the master's host, by default AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    Credentials { url: String, reason: String },
    #[error("the lake {url} can't be asked: {reason}")]
    Unreachable { url: String, reason: String },
    #[error(transparent)]
    Probe(#[from] ProbeError),
}

impl ClaimError {
    /// Asking again may help.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Probe(error) => error.is_passing(),
            Self::Unreachable { .. } | Self::NoBucket { .. } | Self::Gone { .. } => true,
            Self::Open(_) | Self::Taken { .. } | Self::Unreadable { .. } | Self::Credentials { .. } => false,
        }
    }
}

/// Opens the lake; blocking (folders are made, secrets read).
async fn open(target: &LakeTarget) -> Result<Lake, ClaimError> {
    let target = target.clone();
    let opened = tokio::task::spawn_blocking(move || lake::open(&target)).await;
    Ok(opened.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))?)
}

/// Claims the lake for a pipeline that is about to be admitted, and tries what its workers will do there. Repeating it for the same pipeline is harmless.
pub(crate) async fn claim(definition: &PipelineDefinition) -> Result<(), ClaimError> {
    let Some(target) = &definition.lake else { return Ok(()) };
    let lake = open(target).await?;
    let put = lake.store.put_opts(&lake.path(KEY), json(definition).into(), PutMode::Create.into()).await;
    match put {
        Ok(_) => {}
        Err(StoreError::AlreadyExists { .. }) => replace(&lake, definition).await?,
        Err(StoreError::NotFound { .. }) => return Err(ClaimError::NoBucket { url: lake.url }),
        Err(error) => return Err(failed(&lake, error)),
    }
    Ok(probe(&lake).await?)
}

/// Checks that the lake is still the one of an admitted pipeline, and puts its definition of now there.
pub(crate) async fn renew(definition: &PipelineDefinition) -> Result<(), ClaimError> {
    match &definition.lake {
        Some(target) => replace(&open(target).await?, definition).await,
        None => Ok(()),
    }
}

/// To which pipeline the lake belongs; `None` if to nobody.
pub(crate) async fn owner(target: &LakeTarget) -> Result<Option<PipelineId>, ClaimError> {
    let lake = open(target).await?;
    Ok(stored(&lake).await?.map(|(claim, _)| claim.id))
}

/// The claim in the lake, and its text.
async fn stored(lake: &Lake) -> Result<Option<(Claim, Bytes)>, ClaimError> {
    let bytes = match lake.store.get(&lake.path(KEY)).await {
        Ok(found) => found.bytes().await.map_err(|error| failed(lake, error))?,
        Err(StoreError::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(failed(lake, error)),
    };
    let claim = serde_json::from_slice(&bytes).map_err(|error| ClaimError::Unreadable {
        url: lake.url.clone(),
        key: KEY,
        reason: error.to_string(),
    })?;
    Ok(Some((claim, bytes)))
}

/// Nobody else's claim is ever replaced: a claim that is there keeps its id.
async fn replace(lake: &Lake, definition: &PipelineDefinition) -> Result<(), ClaimError> {
    let (url, pipeline) = (lake.url.clone(), definition.id.clone());
    let Some((claim, text)) = stored(lake).await? else { return Err(ClaimError::Gone { url, pipeline }) };
    if claim.id != pipeline {
        return Err(ClaimError::Taken { url, owner: claim.id, pipeline });
    }
    let json = json(definition);
    if text != json {
        lake.store.put(&lake.path(KEY), json.into()).await.map_err(|error| failed(lake, error))?;
    }
    Ok(())
}

/// The whole definition, so that whoever checks the lake needs nothing else.
fn json(definition: &PipelineDefinition) -> Vec<u8> {
    // Plain fields always have a JSON form.
    serde_json::to_vec_pretty(definition).unwrap_or_else(|error| panic!("plain fields: {error}"))
}

fn failed(lake: &Lake, error: StoreError) -> ClaimError {
    let url = lake.url.clone();
    match error {
        StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. } => {
            ClaimError::Credentials { url, reason: error.to_string() }
        }
        other => ClaimError::Unreachable { url, reason: reason(&other) },
    }
}

/// The store's own words, and the cause at the bottom if they leave it out ("connection refused").
fn reason(error: &StoreError) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    let (words, cause) = (error.to_string(), cause.to_string());
    if words.contains(&cause) { words } else { format!("{words}: {cause}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pipeline(id: &str, folder: &std::path::Path) -> PipelineDefinition {
        let url = format!("file://{}", folder.display());
        PipelineDefinition {
            lake: Some(LakeTarget::new(url)),
            ..PipelineDefinition::new(
                id.parse().expect("id"),
                "clickstream",
                "127.0.0.1:9092",
                vec!["raw".into()],
                "invalid",
            )
        }
    }

    #[tokio::test]
    async fn a_lake_is_claimed_once_and_refused_to_others_with_what_to_do() {
        let folder = tempfile::tempdir().expect("folder");
        let (one, other) =
            (pipeline("clickstream-1", folder.path()), pipeline("clickstream-2", folder.path()));
        claim(&one).await.expect("free");
        claim(&one).await.expect("its own");
        let changed = PipelineDefinition { max_rate: Some(9), ..one.clone() };
        renew(&changed).await.expect("its own");
        let text = std::fs::read_to_string(folder.path().join(KEY)).expect("claim");
        assert!(text.contains("\"max_rate\": 9"), "{text}");
        assert_eq!(owner(one.lake.as_ref().expect("lake")).await.expect("read"), Some(one.id.clone()));
        assert!(matches!(renew(&other).await, Err(ClaimError::Taken { .. })));
        let message = claim(&other).await.expect_err("taken").to_string();
        assert!(message.contains("clickstream-1") && message.contains("another prefix"), "{message}");
    }

    #[tokio::test]
    async fn a_lake_that_was_emptied_or_damaged_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let one = pipeline("clickstream-1", folder.path());
        assert!(matches!(renew(&one).await, Err(ClaimError::Gone { .. })));
        std::fs::create_dir_all(folder.path().join("_millrace")).expect("folder");
        std::fs::write(folder.path().join(KEY), "{}").expect("damage");
        assert!(matches!(claim(&one).await, Err(ClaimError::Unreadable { .. })));
    }
}
