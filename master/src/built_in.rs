//! The built-in pipeline `clickstream`, made by the master at its first start, and the changes that flags make in it.
//!
//! What is merely away is waited for and said; what can't become right by waiting is refused.

use std::time::Duration;

use millrace_common::backoff::Backoff;
use millrace_common::kafka::{SetUpError, ensure_topics};
use millrace_common::shutdown::Shutdown;
use millrace_common::types::PipelineDefinition;
use millrace_master_core::{Event, Record, RecordBody, Stage};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::config::{BUILT_IN, PipelineConfig};
use crate::driver::RestoreFailure;
use crate::handle::{Handle, Refused};
use crate::health::Health;
use crate::kafka_check::{self, CheckError};
use crate::lake_claim::{self, ClaimError};
use crate::records;
use crate::store::Store;
use crate::topic_check::{self, Needs, TopicCheckError};
use crate::topics::{self, TopicError};

/// Name under which the set-up waits in `/readyz`.
pub(crate) const PART: &str = "pipeline";

/// The pipeline at the master's start.
#[derive(Debug, Clone)]
pub(crate) enum BuiltIn {
    /// The flags or a person's `kill` say that there is none.
    Absent,
    /// Not admitted yet.
    New,
    /// Restored from the store; its slots are worked on already.
    Known(Box<PipelineDefinition>),
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
    #[error(transparent)]
    Sinks(#[from] TopicError),
    #[error("the pipeline can't be admitted:\n  {0}")]
    Unfit(#[from] TopicCheckError),
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
            Self::Unfit(error) => error.is_passing(),
            Self::Topics(_) | Self::Sinks(_) | Self::Store { .. } => true,
            Self::Submission { .. } => false,
        }
    }
}

/// Looks the pipeline up in what is stored, and stores what the flags change in it.
pub(crate) async fn find(
    store: &mut Store,
    records: &mut [Record],
    config: &PipelineConfig,
) -> Result<BuiltIn, RestoreFailure> {
    for record in records {
        match &mut record.body {
            RecordBody::Pipeline(stored) if stored.definition.name == BUILT_IN => {
                if matches!(stored.stage, Stage::Killed { .. }) {
                    return Ok(BuiltIn::Absent);
                }
                let definition = config.change(&stored.definition)?;
                if definition != stored.definition {
                    info!(pipeline = %definition.id, "the pipeline's addresses or limits have changed");
                    // Its slots are given up before any is granted by the new definition.
                    if stored.stage == Stage::Running {
                        stored.stage = Stage::Changing;
                    }
                    stored.definition = definition.clone();
                    store.commit(vec![records::put(record)]).await?;
                }
                return Ok(BuiltIn::Known(Box::new(definition)));
            }
            RecordBody::Completed(completed) if completed.definition.name == BUILT_IN => {
                info!(pipeline = %completed.definition.id, "it was killed: the master does not make it again");
                return Ok(BuiltIn::Absent);
            }
            _ => {}
        }
    }
    Ok(BuiltIn::New)
}

/// Sets the pipeline up whenever this master begins to lead, until the shutdown begins.
pub(crate) async fn keep(
    mut leading: watch::Receiver<Option<BuiltIn>>,
    config: &PipelineConfig,
    handle: &Handle,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<(), SetUpRefusal> {
    while !shutdown.has_begun() {
        let found = leading.borrow_and_update().clone();
        if let Some(built_in) = &found {
            tokio::select! {
                done = set_up(built_in, config, handle, health, shutdown) => done?,
                Ok(()) = leading.changed() => continue,
            }
        } else {
            // A standby waits for nothing.
            health.set_ready(PART);
        }
        tokio::select! {
            changed = leading.changed() => if changed.is_err() {
                return Ok(());
            },
            () = shutdown.begun() => {}
        }
    }
    Ok(())
}

/// Tries until the pipeline is admitted or the shutdown begins.
async fn set_up(
    built_in: &BuiltIn,
    config: &PipelineConfig,
    handle: &Handle,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<(), SetUpRefusal> {
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    loop {
        let tried = tokio::select! {
            tried = try_once(built_in, config, handle) => tried,
            () = shutdown.begun() => return Ok(()),
        };
        let Err(refusal) = tried else {
            health.set_ready(PART);
            return Ok(());
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
            () = shutdown.begun() => return Ok(()),
        }
    }
}

async fn try_once(built_in: &BuiltIn, config: &PipelineConfig, handle: &Handle) -> Result<(), SetUpRefusal> {
    match built_in {
        BuiltIn::Absent => Ok(()),
        BuiltIn::New => admit(config, handle).await,
        // Its source is never made anew: its cursors would point into other records.
        BuiltIn::Known(definition) => {
            kafka_check::check(&definition.bootstrap_servers).await?;
            lake_claim::renew(definition).await?;
            let servers = &definition.bootstrap_servers;
            let counts = topics::source_counts(servers, &definition.source.topics).await?;
            // An absent source is told by the discovery.
            topics::prepare(definition, counts.map_or(config.partitions, |counts| topics::widest(&counts)))
                .await?;
            Ok(())
        }
    }
}

async fn admit(config: &PipelineConfig, handle: &Handle) -> Result<(), SetUpRefusal> {
    let failed = |refused: Refused| {
        let (pipeline, reason) = (BUILT_IN.to_owned(), refused.to_string());
        match refused {
            Refused::Rejected(_) => SetUpRefusal::Submission { pipeline, reason },
            Refused::Unavailable(_) | Refused::Standby { .. } => SetUpRefusal::Store { pipeline, reason },
        }
    };
    let reserved = handle.reserve(BUILT_IN).await.map_err(failed)?;
    let mut definition = config.definition(reserved.pipeline, reserved.submitted_at_ms);
    kafka_check::check(&definition.bootstrap_servers).await?;
    let sources: Vec<&str> = definition.source.topics.iter().map(String::as_str).collect();
    let found = ensure_topics(&definition.bootstrap_servers, &sources, &[], config.partitions).await?;
    let counts: Vec<i32> =
        sources.iter().map(|topic| found.get(*topic).copied().unwrap_or(config.partitions)).collect();
    let notes = topic_check::check(Needs::from(&definition)).await?;
    notes.iter().for_each(|note| warn!(pipeline = %definition.id, note, "the pipeline's kafka"));
    topics::prepare(&definition, topics::widest(&counts)).await?;
    let partitions = topics::as_event(&counts);
    definition.source.initial_partitions = counts;
    lake_claim::claim(&definition).await?;
    info!(pipeline = %definition.id, lake = definition.lake_url(), "pipeline admitted");
    let event = Event::PipelineSubmitted { definition: Box::new(definition), partitions };
    handle.apply(event).await.map_err(failed)
}
