//! `millrace workers`: asks a master for its workers and prints them, one a line.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::units::format_bytes;
use millrace_proto::v1::master_client::MasterClient;
use millrace_proto::v1::{ListWorkersRequest, SlotPhase, SlotReport, WorkerStatus};
use tonic::transport::Channel;

use crate::ask::{Error, Masters};
use crate::table::table;

const DEADLINE: Duration = Duration::from_secs(5);

/// Which master is asked, and how its answer is shown.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  millrace workers --master 127.0.0.1:7077\n  millrace workers --json")]
pub(crate) struct Config {
    #[command(flatten)]
    masters: Masters,
    /// Print a JSON array instead of a table.
    #[arg(long)]
    json: bool,
}

/// Prints the workers of the first master that answers.
pub(crate) async fn run(config: Config) -> Result<(), Error> {
    let question = async |mut master: MasterClient<Channel>| master.list_workers(ListWorkersRequest {}).await;
    let workers = config.masters.ask(DEADLINE, question).await?.workers;
    if config.json {
        println!("{:#}", serde_json::Value::from_iter(workers.iter().map(object)));
    } else {
        print!("{}", listed(&workers));
    }
    Ok(())
}

fn listed(workers: &[WorkerStatus]) -> String {
    let mut text = table(["ID", "PID", "STATE", "CORES", "MEMORY", "PARTITIONS"], workers.iter().map(row));
    if workers.is_empty() {
        text.push_str("no worker has registered\n");
    }
    text
}

/// A worker in the words of `/api/v1/workers`.
fn object(status: &WorkerStatus) -> serde_json::Value {
    let worker = status.worker.clone().unwrap_or_default();
    let slots = status.slots.iter().map(|report| {
        let slot = report.slot.clone().unwrap_or_default();
        format!("{}/{}-{}", slot.pipeline, slot.topic, slot.partition)
    });
    serde_json::json!({
        "id": worker.id,
        "pid": worker.pid,
        "state": status.state,
        "cores": worker.cores,
        "memory_mib": worker.memory_mib,
        "memory_used_bytes": status.memory_used_bytes,
        "slots": slots.collect::<Vec<_>>(),
        "heartbeat_age_ms": status.last_heartbeat_age_ms,
        "idle_reason": (!status.idle_reason.is_empty()).then_some(&status.idle_reason),
        "waiting_for": (!status.waiting_for.is_empty()).then_some(&status.waiting_for),
        "zone": (!worker.zone.is_empty()).then_some(worker.zone),
    })
}

fn row(status: &WorkerStatus) -> [String; 6] {
    let worker = status.worker.clone().unwrap_or_default();
    [
        worker.id,
        worker.pid.to_string(),
        status.state.clone(),
        worker.cores.to_string(),
        format!(
            "{} of {}",
            format_bytes(status.memory_used_bytes),
            format_bytes(worker.memory_mib.saturating_mul(1 << 20))
        ),
        match status.slots.as_slice() {
            [] => status.idle_reason.clone(),
            slots if status.waiting_for.is_empty() => partitions(slots),
            slots => format!("{} waiting for {}", partitions(slots), status.waiting_for),
        },
    ]
}

/// `0 3 4(opening)`; behind the topic's number where there is more than one.
fn partitions(slots: &[SlotReport]) -> String {
    let mut by_place = BTreeMap::new();
    for report in slots {
        let slot = report.slot.clone().unwrap_or_default();
        by_place.insert((slot.pipeline, slot.topic, slot.partition), report.phase());
    }
    let is_plain = by_place.keys().all(|(pipeline, topic, _)| {
        by_place.keys().next().is_some_and(|(first, number, _)| first == pipeline && number == topic)
    });
    let places = by_place.iter().map(|((pipeline, topic, partition), phase)| {
        let place = if is_plain { partition.to_string() } else { format!("{pipeline}/{topic}-{partition}") };
        match phase {
            SlotPhase::Opening => format!("{place}(opening)"),
            SlotPhase::Revoking => format!("{place}(revoking)"),
            SlotPhase::Running | SlotPhase::Unspecified => place,
        }
    });
    places.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_proto::v1::{SlotId, WorkerSpec};

    #[test]
    fn a_worker_is_listed_with_its_partitions_and_an_idle_one_with_the_reason() {
        let slot = |partition, phase: SlotPhase| SlotReport {
            slot: Some(SlotId { pipeline: "clickstream-1".into(), topic: 0, partition }),
            phase: phase.into(),
            ..Default::default()
        };
        let busy = WorkerStatus {
            worker: Some(WorkerSpec {
                id: "worker-1".into(),
                pid: 42,
                cores: 2,
                memory_mib: 2048,
                ..Default::default()
            }),
            state: "ALIVE".into(),
            memory_used_bytes: 1 << 20,
            slots: vec![slot(10, SlotPhase::Running), slot(2, SlotPhase::Opening)],
            ..Default::default()
        };
        let idle = WorkerStatus { idle_reason: "6 partitions, 6 other workers".into(), ..Default::default() };
        let text = listed(&[busy, idle]);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 3);
        assert!(
            lines[1].starts_with("worker-1  42   ALIVE  2      1.0 MiB of 2.0 GiB  2(opening) 10"),
            "{text}"
        );
        assert!(lines[2].ends_with("6 partitions, 6 other workers"), "{text}");
    }
}
