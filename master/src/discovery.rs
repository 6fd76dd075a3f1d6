//! Watches how many partitions the source topics have, and tells the driver. Makes no topic.

use std::time::Duration;

use millrace_common::backoff::Backoff;
use millrace_common::kafka::partition_counts;
use millrace_common::shutdown::Shutdown;
use millrace_common::types::PipelineDefinition;
use millrace_master_core::Event;
use tracing::warn;

use crate::handle::Handle;
use crate::health::Health;

const EVERY: Duration = Duration::from_secs(30);
/// Name under which the discovery waits in `/readyz`.
const PART: &str = "discovery";

/// Asks at once and then regularly, until the shutdown begins.
pub(crate) async fn watch(
    definition: PipelineDefinition,
    handle: Handle,
    health: Health,
    shutdown: Shutdown,
) {
    let mut backoff = Backoff::new(Duration::from_secs(1), EVERY);
    loop {
        let looked = tokio::select! {
            looked = look(&definition, &handle) => looked,
            () = shutdown.begun() => return,
        };
        let wait = match looked {
            Ok(()) => {
                backoff.reset();
                health.set_ready(PART);
                EVERY
            }
            Err(reason) => {
                let wait = backoff.next_wait();
                if backoff.tries().is_power_of_two() {
                    warn!(pipeline = %definition.id, reason, "the source's partitions are not known, asking again");
                }
                health.set_waiting(PART, reason);
                wait
            }
        };
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = shutdown.begun() => return,
        }
    }
}

async fn look(definition: &PipelineDefinition, handle: &Handle) -> Result<(), String> {
    let topics: Vec<&str> = definition.source.topics.iter().map(String::as_str).collect();
    let counts =
        partition_counts(&definition.bootstrap_servers, &topics).await.map_err(|error| error.to_string())?;
    for (number, topic) in definition.source.topics.iter().enumerate() {
        let Some(count) = counts.get(topic).and_then(|count| u32::try_from(*count).ok()) else {
            return Err(format!("topic {topic} does not exist at {}", definition.bootstrap_servers));
        };
        // A definition with more topics than this is refused when it is submitted.
        let number = u16::try_from(number).unwrap_or(u16::MAX);
        let found = Event::PartitionsFound { pipeline: definition.id.clone(), topic: number, count };
        handle.apply(found).await.map_err(|refused| refused.to_string())?;
    }
    Ok(())
}
