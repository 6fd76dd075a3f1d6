//! The lake's prefix belongs to one pipeline for ever: `_millrace/pipeline.json` in it says to which.
//!
//! A second pipeline there, or the same one submitted anew, would write every row twice. Never deletes or replaces a
//! claim.

use millrace_common::lake::{self, Lake, LakeError};
use millrace_common::types::{LakeTarget, PipelineDefinition, PipelineId};
use object_store::{Error as StoreError, ObjectStore, ObjectStoreExt, PutMode, PutPayload};
use serde::Deserialize;

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
         the --state that knows {owner}, or give another --lake prefix, or empty this one"
    )]
    Taken { url: String, owner: PipelineId, pipeline: PipelineId },
    #[error(
        "{key} in the lake {url} can't be read ({reason}): expected a pipeline's definition; give another --lake prefix"
    )]
    Unreadable { url: String, key: &'static str, reason: String },
    #[error(
        "the lake {url} no longer holds {KEY} of pipeline {pipeline}: put it and the rows back, or start with a new \
         --state and another --lake prefix to read the topic anew"
    )]
    Gone { url: String, pipeline: PipelineId },
    #[error("the bucket of the lake {url} does not exist: make it")]
    NoBucket { url: String },
    #[error(
        "the lake {url} refuses the credentials ({reason}): check what --s3-access-key-id and \
         --s3-secret-access-key name, by default AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    )]
    Credentials { url: String, reason: String },
    #[error("the lake {url} can't be asked: {reason}")]
    Unreachable { url: String, reason: String },
}

impl ClaimError {
    /// Asking again may help.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::NoBucket { .. } | Self::Gone { .. })
    }
}

/// Opens the lake; blocking (folders are made, secrets read).
async fn open(target: &LakeTarget) -> Result<Lake, ClaimError> {
    let target = target.clone();
    let opened = tokio::task::spawn_blocking(move || lake::open(&target)).await;
    Ok(opened.unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))?)
}

/// Claims the lake for a pipeline that is about to be admitted. Repeating it for the same pipeline is harmless.
pub(crate) async fn claim(definition: &PipelineDefinition) -> Result<(), ClaimError> {
    let Some(target) = &definition.lake else { return Ok(()) };
    let lake = open(target).await?;
    // The whole definition, so that whoever checks the lake needs nothing else. Plain fields always have a JSON form.
    let json = serde_json::to_vec_pretty(definition).unwrap_or_else(|error| panic!("plain fields: {error}"));
    let put = lake.store.put_opts(&lake.path(KEY), PutPayload::from(json), PutMode::Create.into()).await;
    match put {
        Ok(_) => Ok(()),
        Err(StoreError::AlreadyExists { .. }) => compare(&lake, &definition.id).await,
        Err(StoreError::NotFound { .. }) => Err(ClaimError::NoBucket { url: lake.url }),
        Err(error) => Err(failed(&lake, error)),
    }
}

/// Checks that the lake is still the one of an admitted pipeline.
pub(crate) async fn check(definition: &PipelineDefinition) -> Result<(), ClaimError> {
    let Some(target) = &definition.lake else { return Ok(()) };
    compare(&open(target).await?, &definition.id).await
}

async fn compare(lake: &Lake, pipeline: &PipelineId) -> Result<(), ClaimError> {
    let bytes = match lake.store.get(&lake.path(KEY)).await {
        Ok(found) => found.bytes().await.map_err(|error| failed(lake, error))?,
        Err(StoreError::NotFound { .. }) => {
            return Err(ClaimError::Gone { url: lake.url.clone(), pipeline: pipeline.clone() });
        }
        Err(error) => return Err(failed(lake, error)),
    };
    let claim: Claim = serde_json::from_slice(&bytes).map_err(|error| ClaimError::Unreadable {
        url: lake.url.clone(),
        key: KEY,
        reason: error.to_string(),
    })?;
    if claim.id == *pipeline {
        Ok(())
    } else {
        Err(ClaimError::Taken { url: lake.url.clone(), owner: claim.id, pipeline: pipeline.clone() })
    }
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
        check(&one).await.expect("its own");
        let message = claim(&other).await.expect_err("taken").to_string();
        assert!(message.contains("clickstream-1") && message.contains("--lake prefix"), "{message}");
    }

    #[tokio::test]
    async fn a_lake_that_was_emptied_or_damaged_is_told() {
        let folder = tempfile::tempdir().expect("folder");
        let one = pipeline("clickstream-1", folder.path());
        assert!(matches!(check(&one).await, Err(ClaimError::Gone { .. })));
        std::fs::create_dir_all(folder.path().join("_millrace")).expect("folder");
        std::fs::write(folder.path().join(KEY), "{}").expect("damage");
        assert!(matches!(claim(&one).await, Err(ClaimError::Unreadable { .. })));
    }
}
