//! Watches how many partitions the source topics of all pipelines have, and tells the driver of more. Before that the
//! enriched topic is extended. Makes no source topic; an absent or a smaller one is said and never acted upon.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_common::shutdown::Shutdown;
use millrace_common::types::{PipelineDefinition, PipelineId};
use millrace_master_core::{Event, PipelineState};
use tracing::{info, warn};

use crate::handle::{Handle, Refused};
use crate::topics;

/// What is wrong with a pipeline's topics. Cheap to clone; all clones show the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Troubles(Arc<Mutex<BTreeMap<PipelineId, String>>>);

impl Troubles {
    pub(crate) fn get(&self, pipeline: &PipelineId) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(pipeline).cloned()
    }

    /// True if it is news.
    fn set(&self, pipeline: &PipelineId, trouble: Option<&str>) -> bool {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match trouble {
            Some(text) => all.insert(pipeline.clone(), text.to_owned()),
            None => all.remove(pipeline),
        };
        before.as_deref() != trouble
    }

    fn keep(&self, pipelines: &[PipelineId]) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|id, _| pipelines.contains(id));
    }
}

/// Looks at once and then regularly, until the shutdown begins.
pub(crate) async fn watch(handle: Handle, troubles: Troubles, every: Duration, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = look_at_all(&handle, &troubles) => {}
            () = shutdown.begun() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            () = shutdown.begun() => return,
        }
    }
}

async fn look_at_all(handle: &Handle, troubles: &Troubles) {
    // A driver that does not answer is said elsewhere.
    let Ok(look) = handle.look().await else { return };
    let mut known = vec![Vec::new(); look.view.pipelines.len()];
    for (counts, view) in known.iter_mut().zip(&look.view.pipelines) {
        counts.resize(view.definition.source.topics.len(), 0_i32);
        for slot in look.view.slots.iter().filter(|slot| slot.slot.pipeline == view.definition.id) {
            if let Some(count) = counts.get_mut(usize::from(slot.slot.topic)) {
                *count += 1;
            }
        }
    }
    let mut ids = Vec::new();
    for (view, known) in look.view.pipelines.iter().zip(known) {
        if view.state == PipelineState::Killing {
            continue;
        }
        let pipeline = &view.definition.id;
        ids.push(pipeline.clone());
        let trouble = look_at(&view.definition, &known, handle).await.err();
        if troubles.set(pipeline, trouble.as_deref()) {
            match trouble {
                Some(reason) => {
                    warn!(%pipeline, reason, "the source's partitions are not what they should be");
                }
                None => info!(%pipeline, "the source's partitions are known again"),
            }
        }
    }
    troubles.keep(&ids);
}

/// `known`: partitions of each source topic, by the driver.
async fn look_at(definition: &PipelineDefinition, known: &[i32], handle: &Handle) -> Result<(), String> {
    let servers = &definition.bootstrap_servers;
    let counts = topics::source_counts(servers, &definition.source.topics)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|absent| {
            let absent = absent.join(", ");
            format!("topic {absent} does not exist at {servers} any more: nothing is read from it until it is back")
        })?;
    let grown = counts.iter().zip(known).any(|(count, known)| count > known);
    if grown {
        let notes = topics::prepare(definition, topics::widest(&counts));
        for note in notes.await.map_err(|error| error.to_string())? {
            info!(pipeline = %definition.id, note, "sinks follow their source");
        }
    }
    for ((number, count), known) in (0u16..).zip(topics::as_event(&counts)).zip(known) {
        if i64::from(count) == i64::from(*known) {
            continue;
        }
        let found = Event::PartitionsFound { pipeline: definition.id.clone(), topic: number, count };
        match handle.apply(found).await {
            Ok(()) => {
                info!(pipeline = %definition.id, topic = number, partitions = count, "partitions added");
            }
            Err(Refused::Rejected(rejection)) => return Err(rejection.to_string()),
            Err(Refused::Standby { .. }) => {}
            Err(Refused::Unavailable(reason)) => return Err(reason),
        }
    }
    Ok(())
}
