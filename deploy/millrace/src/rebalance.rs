//! `millrace rebalance`: what the master would move to even out the load, and why; with `--apply` it does.

use std::time::Duration;

use millrace_proto::channel::Access;
use millrace_proto::v1::RebalanceRequest;
use millrace_proto::v1::master_client::MasterClient;
use serde::Deserialize;
use serde_json::Value;

use crate::ask::{Error, Masters};
use crate::table::table;

const DEADLINE: Duration = Duration::from_secs(10);

/// Whether anything moves, and how it is shown.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    millrace rebalance --dry-run\n  \
    millrace rebalance --apply\n\n\
    The master evens the load out by itself; --apply does not wait for its time, nor for partitions that moved lately.")]
#[group(id = "what", required = true, multiple = false, args = ["dry_run", "apply"])]
pub(crate) struct Config {
    /// Show the plan, move nothing.
    #[arg(long)]
    dry_run: bool,
    /// Show the plan, and begin with it.
    #[arg(long)]
    apply: bool,
    #[command(flatten)]
    masters: Masters,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Deserialize)]
struct Plan {
    moves: Vec<Move>,
    workers: Vec<Worker>,
}

#[derive(Debug, Deserialize)]
struct Move {
    slot: String,
    from: Option<String>,
    to: Option<String>,
    load_millicores: u64,
    reason: String,
}

#[derive(Debug, Deserialize)]
struct Worker {
    worker: String,
    cores: u32,
    speed_percent: u32,
    slots_before: usize,
    slots_after: usize,
    millicores_before: u64,
    millicores_after: u64,
}

/// Prints the plan.
pub(crate) async fn run(config: Config) -> Result<(), Error> {
    let request = RebalanceRequest { apply: config.apply };
    let question = async |mut master: MasterClient<Access>| master.rebalance(request).await;
    let json = config.masters.ask(DEADLINE, question).await?.plan_json;
    if config.json {
        println!("{:#}", serde_json::from_str::<Value>(&json).map_err(Error::unreadable)?);
    } else {
        print!("{}", shown(&serde_json::from_str(&json).map_err(Error::unreadable)?, config.apply));
    }
    Ok(())
}

fn shown(plan: &Plan, applied: bool) -> String {
    let cores = |millicores: u64| format!("{}.{:02}", millicores / 1000, millicores % 1000 / 10);
    let nobody = || "-".to_owned();
    let moves = plan.moves.iter().map(|planned| {
        [
            planned.slot.clone(),
            planned.from.clone().unwrap_or_else(nobody),
            planned.to.clone().unwrap_or_else(nobody),
            cores(planned.load_millicores),
            planned.reason.clone(),
        ]
    });
    let workers = plan.workers.iter().map(|worker| {
        [
            worker.worker.clone(),
            worker.cores.to_string(),
            format!("{} %", worker.speed_percent),
            format!("{} -> {}", worker.slots_before, worker.slots_after),
            format!("{} -> {}", cores(worker.millicores_before), cores(worker.millicores_after)),
        ]
    });
    let mut text = table(["WORKER", "CORES", "SPEED", "PARTITIONS", "LOAD IN CORES"], workers);
    if plan.moves.is_empty() {
        return text + "nothing is to move\n";
    }
    text.push('\n');
    text += &table(["PARTITION", "FROM", "TO", "LOAD", "WHY"], moves);
    text += if applied {
        "these moves begin now, a few at a time\n"
    } else {
        "nothing was moved: --apply does it\n"
    };
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plan_is_shown_with_reasons_and_loads() {
        let json = r#"{"moves":[{"slot":"p-1/0-3","from":"a","to":"b","load_millicores":1250,"reason":"the load was uneven"}],
            "workers":[{"worker":"a","cores":2,"speed_percent":100,"slots_before":4,"slots_after":3,
            "millicores_before":2500,"millicores_after":1250}]}"#;
        let text = shown(&serde_json::from_str(json).expect("a plan"), false);
        for part in ["p-1/0-3", "1.25", "the load was uneven", "4 -> 3", "2.50 -> 1.25", "--apply does it"] {
            assert!(text.contains(part), "{part}: {text}");
        }
        let nothing = Plan { moves: Vec::new(), workers: Vec::new() };
        assert!(shown(&nothing, true).contains("nothing is to move"));
    }
}
