//! What people ask of pipelines that are known: shown, paused, resumed, killed. Submitting is in `admission`.

use millrace_common::types::{PipelineId, SkipLost, SlotId};
use millrace_master_core::{Event, PipelineView, Rejection};

use tracing::info;

use crate::handle::{Look, Refused};
use crate::snapshot::{self, unix_now_ms};
use crate::sources::Sources;
use crate::web::model::{Pipeline, PipelineDetail};
use crate::workers;

/// Why a person does not get what they asked for, of a pipeline or a worker; the text is ready to be shown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refusal {
    /// It can't be meant so.
    #[error("{0}")]
    Usage(String),
    /// There is no such pipeline or worker.
    #[error("{0}")]
    Unknown(String),
    /// Not as things stand.
    #[error("{0}")]
    Now(String),
    /// Asking again may help.
    #[error("{0}")]
    Unavailable(String),
    /// Another master is to be asked: `host:port` of the leader.
    #[error("{words}")]
    Standby { words: String, leader: Option<String> },
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        let words = refused.to_string();
        match refused {
            Refused::Unavailable(_) => Self::Unavailable(words),
            Refused::Standby { leader } => {
                Self::Standby { words, leader: leader.map(|leader| leader.address) }
            }
            Refused::Rejected(
                Rejection::UnknownPipeline { .. }
                | Rejection::UnknownWorker { .. }
                | Rejection::UnknownSlot { .. },
            ) => Self::Unknown(words),
            Refused::Rejected(_) => Self::Now(words),
        }
    }
}

/// What a person wants a pipeline to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    Pause,
    Resume,
    Kill,
}

/// All pipelines, completed ones last.
pub(crate) async fn list(sources: &Sources) -> Result<Vec<Pipeline>, Refusal> {
    let (mut pipelines, completed) = snapshot::pipelines(&sources.handle.look().await?, sources);
    pipelines.extend(completed);
    Ok(pipelines)
}

/// The pipeline whose id or name is `target`.
pub(crate) async fn describe(sources: &Sources, target: &str) -> Result<PipelineDetail, Refusal> {
    let look = sources.handle.look().await?;
    let view = find(&look, target)?;
    Ok(snapshot::pipeline(view, &look, sources))
}

/// Does as wished; the pipeline right after it.
pub(crate) async fn fulfil(sources: &Sources, target: &str, wish: Wish) -> Result<PipelineDetail, Refusal> {
    let look = sources.handle.look().await?;
    let found = find(&look, target).map(|view| view.definition.id.clone());
    let pipeline = match (found, wish) {
        (Err(unknown), Wish::Kill) => return Err(worker_named(&look, target).unwrap_or(unknown)),
        (found, _) => found?,
    };
    sources.handle.apply(event(&pipeline, wish)).await?;
    describe(sources, pipeline.as_str()).await
}

/// Lets a halted slot go on.
pub(crate) async fn resume_slot(
    sources: &Sources,
    slot: SlotId,
    skip_lost: Option<SkipLost>,
) -> Result<(), Refusal> {
    sources.handle.apply(Event::SlotResumed { slot: slot.clone(), skip_lost }).await?;
    info!(%slot, ?skip_lost, "a person's wish for a halted slot");
    Ok(())
}

fn event(pipeline: &PipelineId, wish: Wish) -> Event {
    let pipeline = pipeline.clone();
    match wish {
        Wish::Pause => Event::PipelinePaused { pipeline },
        Wish::Resume => Event::PipelineResumed { pipeline },
        Wish::Kill => Event::PipelineKilled { pipeline, at_ms: unix_now_ms() },
    }
}

/// By id, else by name: names are unique among the pipelines that are kept.
pub(crate) fn find<'a>(look: &'a Look, target: &str) -> Result<&'a PipelineView, Refusal> {
    let all = || look.view.pipelines.iter().chain(&look.view.completed);
    let by_id = all().find(|view| view.definition.id.as_str() == target);
    by_id.or_else(|| all().find(|view| view.definition.name == target)).ok_or_else(|| {
        let names: Vec<&str> = all().map(|view| view.definition.name.as_str()).collect();
        let known = if names.is_empty() { "none is".to_owned() } else { names.join(", ") };
        Refusal::Unknown(format!("no pipeline has the id or name {target:?}; known: {known}"))
    })
}

/// The refusal for somebody who takes a worker for a pipeline.
fn worker_named(look: &Look, target: &str) -> Option<Refusal> {
    let worker = workers::find(look, target).ok()?;
    let (id, pid, host) = (&worker.spec.id, worker.spec.pid, &worker.spec.host);
    Some(Refusal::Usage(format!(
        "{target} is worker {id}, and `millrace kill` takes a pipeline. A worker is a process: on {host} type\n  \
         kill {pid}       its partitions go to others, a few at a time, then it ends\n  \
         kill -9 {pid}    it is gone at once; others take its partitions over within a second"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{sources, submitted, worker};
    use millrace_master_core::PipelineState;

    #[tokio::test]
    async fn a_pipeline_is_found_by_id_and_by_name_and_does_as_wished() {
        let (sources, _shutdown) = sources().await;
        sources.handle.apply(submitted()).await.expect("submitted");
        for target in ["clickstream", "clickstream-0a1b2c"] {
            assert_eq!(describe(&sources, target).await.expect("known").pipeline.state, "WAITING");
        }
        let state =
            async |wish| fulfil(&sources, "clickstream", wish).await.map(|detail| detail.pipeline.state);
        assert_eq!(state(Wish::Pause).await, Ok("PAUSED"));
        let twice = state(Wish::Pause).await.expect_err("twice");
        assert!(matches!(&twice, Refusal::Now(words) if words.contains("paused already")), "{twice}");
        assert_eq!(state(Wish::Resume).await, Ok("WAITING"));
        assert_eq!(state(Wish::Kill).await, Ok("KILLED"), "nobody had a slot of it");
        let over = state(Wish::Resume).await.expect_err("over");
        assert!(over.to_string().contains("--resume"), "{over}");
        let listed = list(&sources).await.expect("list");
        assert_eq!(listed[0].state, PipelineState::Killed.as_str());
        assert!(listed[0].killed_at_ms.is_some());
    }

    #[tokio::test]
    async fn what_is_not_known_is_answered_with_what_is() {
        let (sources, _shutdown) = sources().await;
        let none = describe(&sources, "views").await.expect_err("unknown");
        assert!(none.to_string().contains("known: none is"), "{none}");
        sources.handle.apply(submitted()).await.expect("submitted");
        let unknown = fulfil(&sources, "views", Wish::Kill).await.expect_err("unknown");
        assert!(matches!(&unknown, Refusal::Unknown(words) if words.contains("clickstream")), "{unknown}");
    }

    #[tokio::test]
    async fn killing_a_worker_is_explained() {
        let (sources, _shutdown) = sources().await;
        let link = crate::testing::link(8);
        sources.handle.register(worker("worker-1", 1), Vec::new(), link.0).await.expect("registered");
        for target in ["worker-1", "42"] {
            let refused = fulfil(&sources, target, Wish::Kill).await.expect_err("a worker");
            assert!(matches!(&refused, Refusal::Usage(words) if words.contains("kill -9 42")), "{refused}");
        }
        assert!(matches!(fulfil(&sources, "42", Wish::Pause).await, Err(Refusal::Unknown(_))));
    }
}
