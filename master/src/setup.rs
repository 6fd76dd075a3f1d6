//! Admitting the built-in pipeline: Kafka that verifies transactions, a lake of its own, topics that exist.
//!
//! What is merely away is waited for and said; what can't become right by waiting is refused.

use std::time::Duration;

use millrace_common::backoff::Backoff;
use millrace_common::kafka::{SetUpError, ensure_topics};
use millrace_common::shutdown::Shutdown;
use millrace_common::types::PipelineDefinition;
use millrace_master_core::Event;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::PipelineConfig;
use crate::handle::{Handle, Refused};
use crate::health::Health;
use crate::kafka_check::{self, CheckError};
use crate::lake_claim::{self, ClaimError};

/// Name under which the set-up waits in `/readyz`.
pub(crate) const PART: &str = "pipeline";

/// The pipeline at the master's start.
#[derive(Debug)]
pub(crate) enum BuiltIn {
    /// Not admitted yet.
    New(PipelineDefinition),
    /// Restored from the store; its slots are worked on already.
    Known(PipelineDefinition),
}

/// The pipeline can't be admitted.
#[derive(Debug, thiserror::Error)]
pub enum SetUpRefusal {
    #[error(transparent)]
    Kafka(#[from] CheckError),
    #[error(transparent)]
    Lake(#[from] ClaimError),
    #[error(transparent)]
    Topics(#[from] SetUpError),
    #[error("pipeline {pipeline} is refused: {reason}")]
    Submission { pipeline: String, reason: String },
    #[error("pipeline {pipeline} can't be stored now: {reason}")]
    Store { pipeline: String, reason: String },
}

impl SetUpRefusal {
    /// Trying again may help.
    fn is_passing(&self) -> bool {
        match self {
            Self::Kafka(error) => error.is_passing(),
            Self::Lake(error) => error.is_passing(),
            Self::Topics(_) | Self::Store { .. } => true,
            Self::Submission { .. } => false,
        }
    }
}

/// Tries until the pipeline is admitted; `false` if the shutdown began before.
pub(crate) async fn set_up(
    built_in: &BuiltIn,
    config: &PipelineConfig,
    handle: &Handle,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<bool, SetUpRefusal> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let tried = tokio::select! {
            tried = try_once(built_in, config, handle) => tried,
            () = shutdown.begun() => return Ok(false),
        };
        let Err(refusal) = tried else {
            health.set_ready(PART);
            return Ok(true);
        };
        if !refusal.is_passing() {
            return Err(refusal);
        }
        health.set_waiting(PART, refusal.to_string());
        let retry = Instant::now() + backoff.next_wait();
        if backoff.tries().is_power_of_two() {
            warn!(reason = %refusal, tries = backoff.tries(), "pipeline not admitted yet, trying again");
        }
        tokio::select! {
            () = tokio::time::sleep_until(retry) => {}
            () = shutdown.begun() => return Ok(false),
        }
    }
}

async fn try_once(built_in: &BuiltIn, config: &PipelineConfig, handle: &Handle) -> Result<(), SetUpRefusal> {
    let (BuiltIn::New(definition) | BuiltIn::Known(definition)) = built_in;
    kafka_check::check(&definition.bootstrap_servers).await?;
    let mut topics = vec![definition.invalid_topic.as_str()];
    topics.extend(definition.enriched_topic.as_deref());
    match built_in {
        BuiltIn::New(_) => {
            lake_claim::claim(definition).await?;
            topics.extend(definition.source.topics.iter().map(String::as_str));
        }
        // A known pipeline's source is never made anew: its cursors would point into other records.
        BuiltIn::Known(_) => {
            lake_claim::check(definition).await?;
        }
    }
    topics.sort_unstable();
    topics.dedup();
    let counts = ensure_topics(
        &definition.bootstrap_servers,
        &topics,
        Some(definition.invalid_topic.as_str()),
        config.partitions,
    )
    .await?;
    if let BuiltIn::New(definition) = built_in {
        let count = |topic: &String| counts.get(topic).copied().unwrap_or(0);
        let partitions =
            definition.source.topics.iter().map(|topic| u32::try_from(count(topic)).unwrap_or(0)).collect();
        let mut definition = definition.clone();
        definition.source.initial_partitions = definition.source.topics.iter().map(count).collect();
        let event = Event::PipelineSubmitted { definition: Box::new(definition.clone()), partitions };
        handle.apply(event).await.map_err(|refused| {
            let (pipeline, reason) = (definition.id.to_string(), refused.to_string());
            match refused {
                Refused::Rejected(_) => SetUpRefusal::Submission { pipeline, reason },
                Refused::Unavailable(_) => SetUpRefusal::Store { pipeline, reason },
            }
        })?;
        info!(pipeline = %definition.id, lake = definition.lake_url(), "pipeline admitted");
    }
    Ok(())
}
