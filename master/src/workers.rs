//! What people ask of workers that are known: drained, and recommissioned.

use millrace_master_core::{Event, WorkerView};

use crate::handle::{Handle, Look};
use crate::pipelines::Refusal;

/// What a person wants a worker to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Give its slots to others, and get none.
    Drain,
    /// Take slots again.
    Recommission,
}

/// Does as wished; the worker right after it, and the moment of that.
pub(crate) async fn fulfil(handle: &Handle, target: &str, wish: Wish) -> Result<(WorkerView, Look), Refusal> {
    let worker = find(&handle.look().await?, target)?.spec.id.clone();
    let event = match wish {
        Wish::Drain => Event::WorkerDrained { worker: worker.clone() },
        Wish::Recommission => Event::WorkerRecommissioned { worker: worker.clone() },
    };
    handle.apply(event).await?;
    let look = handle.look().await?;
    Ok((find(&look, worker.as_str())?.clone(), look))
}

/// By id, else by process id, which must be one worker's alone.
pub(crate) fn find<'a>(look: &'a Look, target: &str) -> Result<&'a WorkerView, Refusal> {
    let workers = &look.view.workers;
    if let Some(worker) = workers.iter().find(|worker| worker.spec.id.as_str() == target) {
        return Ok(worker);
    }
    let pid = target.parse::<u32>().ok();
    let ids = |found: &[&WorkerView]| {
        found.iter().map(|worker| worker.spec.id.as_str()).collect::<Vec<_>>().join(", ")
    };
    let found: Vec<&WorkerView> = workers.iter().filter(|worker| Some(worker.spec.pid) == pid).collect();
    match found.as_slice() {
        [worker] => Ok(worker),
        [] => {
            let all: Vec<&WorkerView> = workers.iter().collect();
            let known = if all.is_empty() { "none is".to_owned() } else { ids(&all) };
            Err(Refusal::Unknown(format!("no worker has the id or process id {target:?}; known: {known}")))
        }
        several => Err(Refusal::Usage(format!(
            "several workers have the process id {target}: {}; name one of them",
            ids(several)
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{link, sources, worker};
    use millrace_master_core::WorkerState;

    #[tokio::test]
    async fn a_worker_is_drained_and_recommissioned_by_id_or_pid() {
        let (sources, _shutdown) = sources().await;
        let handle = &sources.handle;
        let none = fulfil(handle, "42", Wish::Drain).await.expect_err("unknown");
        assert!(matches!(&none, Refusal::Unknown(words) if words.contains("known: none is")), "{none}");
        handle.register(worker("worker-1", 1), Vec::new(), link(8).0).await.expect("registered");
        let state = async |target, wish| fulfil(handle, target, wish).await.map(|(worker, _)| worker.state);
        assert_eq!(state("42", Wish::Drain).await.expect("known"), WorkerState::Drained);
        assert_eq!(state("worker-1", Wish::Recommission).await.expect("known"), WorkerState::Alive);
        let refused = state("worker-1", Wish::Recommission).await.expect_err("not drained");
        assert!(
            matches!(&refused, Refusal::Now(words) if words.contains("nothing to take back")),
            "{refused}"
        );
        handle.register(worker("worker-2", 1), Vec::new(), link(8).0).await.expect("registered");
        let refused = state("42", Wish::Drain).await.expect_err("two");
        assert!(
            matches!(&refused, Refusal::Usage(words) if words.contains("worker-1, worker-2")),
            "{refused}"
        );
    }
}
