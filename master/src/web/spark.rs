//! `/json/` in the field names of Spark's standalone master, so that scripts written for it read ours. Memory is in
//! MiB there; a pipeline is an application, a worker both worker and executor.

use std::collections::HashSet;

use chrono::DateTime;
use serde_json::{Map, Value, json};

use super::model::{Cluster, Pipeline, SlotState, Worker, WorkerState};

/// The whole state.
pub(crate) fn master_state(cluster: &Cluster) -> Map<String, Value> {
    let totals = cluster.totals();
    let fields = json!({
        "url": cluster.url,
        "workers": cluster.workers.iter().map(worker).collect::<Vec<_>>(),
        "aliveworkers": totals.alive,
        "cores": totals.cores,
        "coresused": totals.cores_used,
        "memory": totals.memory_mib,
        "memoryused": used_mib(totals.memory_used_bytes),
        "activeapps": cluster.pipelines.iter().map(|pipeline| application(cluster, pipeline)).collect::<Vec<_>>(),
        "completedapps": cluster.completed.iter().map(|pipeline| application(cluster, pipeline)).collect::<Vec<_>>(),
        // There are no drivers.

        "activedrivers": [],
        "completeddrivers": [],
        "status": cluster.status.word(),
    });
    match fields {
        Value::Object(fields) => fields,
        _ => Map::new(),
    }
}

/// `/json/<field>`: that field alone; an unknown one is empty, as in Spark.
pub(crate) fn field(cluster: &Cluster, name: &str) -> Map<String, Value> {
    if name == "clusterutilization" {
        return utilization(cluster);
    }
    let value = master_state(cluster).remove(name).unwrap_or_else(|| Value::String(String::new()));
    Map::from_iter([(name.to_owned(), value)])
}

fn utilization(cluster: &Cluster) -> Map<String, Value> {
    let totals = cluster.totals();
    let memory_used = used_mib(totals.memory_used_bytes);
    let percent = |used: u64, total: u64| (100 * used).checked_div(total).unwrap_or(100);
    Map::from_iter([
        ("waitingDrivers".to_owned(), 0.into()),
        ("cores".to_owned(), totals.cores.into()),
        ("coresused".to_owned(), totals.cores_used.into()),
        ("coresutilization".to_owned(), percent(totals.cores_used.into(), totals.cores.into()).into()),
        ("memory".to_owned(), totals.memory_mib.into()),
        ("memoryused".to_owned(), memory_used.into()),
        ("memoryutilization".to_owned(), percent(memory_used, totals.memory_mib).into()),
    ])
}

fn worker(worker: &Worker) -> Value {
    let memory_used = used_mib(worker.memory_used_bytes);
    json!({
        "id": worker.id,
        "host": worker.host,
        "port": worker.port,
        "webuiaddress": format!("http://{}", worker.address),
        "cores": worker.cores,
        "coresused": worker.cores_used,
        "coresfree": worker.cores.saturating_sub(worker.cores_used),
        "memory": worker.memory_mib,
        "memoryused": memory_used,
        "memoryfree": worker.memory_mib.saturating_sub(memory_used),
        "state": match worker.state {
            WorkerState::Alive => "ALIVE",
            WorkerState::Suspect | WorkerState::Unknown => "UNKNOWN",
            WorkerState::Draining | WorkerState::Drained => "DECOMMISSIONED",
            WorkerState::Dead => "DEAD",
        },
        "lastheartbeat": worker.last_heartbeat_at_ms,
    })
}

fn application(cluster: &Cluster, pipeline: &Pipeline) -> Value {
    let running =
        cluster.slots.iter().filter(|slot| slot.pipeline == pipeline.id && slot.state == SlotState::Running);
    let owners: HashSet<&str> = running.clone().filter_map(|slot| slot.owner.as_deref()).collect();
    let executors: Vec<&Worker> =
        cluster.workers.iter().filter(|worker| owners.contains(worker.id.as_str())).collect();
    let submitted = i64::try_from(pipeline.submitted_at_ms).ok().and_then(DateTime::from_timestamp_millis);
    json!({
        "id": pipeline.id,
        "starttime": pipeline.submitted_at_ms,
        "name": pipeline.name,
        // A slot runs on one core at a time; several pipelines may share a worker's cores.
        "cores": running.count().min(executors.iter().map(|worker| worker.cores_used as usize).sum()),
        "user": pipeline.user,
        "memoryperexecutor": executors.iter().map(|worker| worker.memory_mib).min().unwrap_or(0),
        // As java.util.Date writes it.
        "submitdate": submitted.map(|at| at.format("%a %b %d %H:%M:%S UTC %Y").to_string()),
        "state": pipeline.state,
        "duration": pipeline.duration_ms,
    })
}

/// Whole MiB; a part of one counts, so that use never looks like none.
fn used_mib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 20)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::example::cluster;

    fn has_fields(value: &Value, names: &str) {
        for name in names.split_whitespace() {
            assert!(!value[name].is_null(), "{name} is missing in {value}");
        }
    }

    #[test]
    fn every_field_of_sparks_master_is_there() {
        let state = Value::Object(master_state(&cluster()));
        has_fields(
            &state,
            "url workers aliveworkers cores coresused memory memoryused activeapps completedapps activedrivers \
             completeddrivers status",
        );
        has_fields(
            &state["workers"][0],
            "id host port webuiaddress cores coresused coresfree memory memoryused memoryfree state lastheartbeat",
        );
        has_fields(
            &state["activeapps"][0],
            "id starttime name cores user memoryperexecutor submitdate state duration",
        );
        has_fields(&state["completedapps"][0], "id starttime name cores user submitdate state duration");
        assert_eq!(state["completedapps"][0]["state"], "KILLED");
        assert_eq!(state["activeapps"][0]["cores"], 1);
        assert_eq!(state["status"], "ALIVE");
        assert_eq!(state["activeapps"][0]["submitdate"], "Mon Jan 01 00:00:00 UTC 2024");
    }

    #[test]
    fn only_live_workers_count() {
        let state = master_state(&cluster());
        assert_eq!(state["aliveworkers"], 1);
        assert_eq!(state["cores"], 2);
        assert_eq!(state["coresused"], 1);
        assert_eq!(state["memoryused"], 2);
    }

    #[test]
    fn single_fields_and_utilization_are_served() {
        let cluster = cluster();
        assert_eq!(Value::Object(field(&cluster, "aliveworkers")), json!({"aliveworkers": 1}));
        assert_eq!(Value::Object(field(&cluster, "nonsense")), json!({"nonsense": ""}));
        let utilization = field(&cluster, "clusterutilization");
        assert_eq!(utilization["coresutilization"], 50);
        assert_eq!(utilization["waitingDrivers"], 0);
    }
}
