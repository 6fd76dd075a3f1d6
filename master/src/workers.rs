//! What people ask of workers: one drained or recommissioned, the load of all evened out.

use millrace_master_core::{Event, PlannedMove, RebalancePlan, WorkerLoad, WorkerView};
use schemars::JsonSchema;
use serde::Serialize;

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

/// What would move now, and why; with `apply` it does.
pub(crate) async fn rebalance(handle: &Handle, apply: bool) -> Result<Plan, Refusal> {
    let RebalancePlan { moves, workers } = handle.plan().await?;
    if apply {
        handle.apply(Event::Rebalance).await?;
    }
    let row = |planned: PlannedMove| PlanRow {
        slot: planned.slot.to_string(),
        from: planned.from.map(String::from),
        to: planned.to.map(String::from),
        load_millicores: planned.load_millicores,
        reason: planned.reason.to_string(),
    };
    Ok(Plan { moves: moves.into_iter().map(row).collect(), workers })
}

/// A plan as the command line reads it.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Plan {
    pub(crate) moves: Vec<PlanRow>,
    #[schemars(with = "Vec<serde_json::Map<String, serde_json::Value>>")]
    pub(crate) workers: Vec<WorkerLoad>,
}

#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct PlanRow {
    pub(crate) slot: String,
    pub(crate) from: Option<String>,
    /// `None`: no worker has a place for it.
    pub(crate) to: Option<String>,
    pub(crate) load_millicores: u64,
    pub(crate) reason: String,
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
