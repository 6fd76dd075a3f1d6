//! `millrace drain` and `recommission`: take a worker's partitions from it while it runs on, and let it have some again.

use std::time::Duration;

use millrace_proto::v1::master_client::MasterClient;
use millrace_proto::v1::{
    DrainWorkerRequest, ListWorkersRequest, RecommissionWorkerRequest, WorkerSpec, WorkerStatus,
};
use tonic::transport::Channel;

use crate::ask::{Error, Masters};

const DEADLINE: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(500);

/// Which worker is drained.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    millrace drain worker-20260101120000-127.0.0.1-43210\n  \
    millrace drain 4711 --no-wait\n  \
    millrace recommission 4711\n\n\
    The worker's process goes on until it is stopped. `kill PID` (SIGTERM) drains a worker by itself before it ends.")]
pub(crate) struct Drain {
    /// The worker's id or process id, as `millrace workers` shows them.
    #[arg(value_name = "ID|PID")]
    worker: String,
    #[command(flatten)]
    masters: Masters,
    /// Return at once; the drain goes on.
    #[arg(long)]
    no_wait: bool,
}

/// Which worker takes partitions again.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Recommission {
    /// The worker's id or process id.
    #[arg(value_name = "ID|PID")]
    worker: String,
    #[command(flatten)]
    masters: Masters,
}

/// Asks for the drain and waits until the worker holds nothing. What it waits for is told on stderr.
pub(crate) async fn drain(Drain { worker, masters, no_wait }: Drain) -> Result<(), Error> {
    let request = DrainWorkerRequest { worker };
    let question = async |mut master: MasterClient<Channel>| master.drain_worker(request.clone()).await;
    let mut status = known(masters.ask(DEADLINE, question).await?.worker)?;
    let WorkerSpec { id, pid, .. } = status.worker.clone().unwrap_or_default();
    let mut told = String::new();
    while status.state != "DRAINED" && !no_wait {
        if status.waiting_for != told {
            told.clone_from(&status.waiting_for);
            eprintln!("worker {id} waits for {told}");
        }
        tokio::time::sleep(POLL).await;
        let question =
            async |mut master: MasterClient<Channel>| master.list_workers(ListWorkersRequest {}).await;
        let workers = masters.ask(DEADLINE, question).await?.workers;
        let found =
            workers.into_iter().find(|status| status.worker.as_ref().is_some_and(|worker| worker.id == id));
        status = found.ok_or_else(|| Error::Refused(format!("worker {id} is not known any more")))?;
        match status.state.as_str() {
            "DEAD" => return Err(Error::Refused(format!("worker {id} died; its partitions go to others"))),
            "ALIVE" => return Err(Error::Refused(format!("worker {id} was recommissioned meanwhile"))),
            _ => {}
        }
    }
    println!("worker {id} is {}", status.state);
    if status.state == "DRAINED" {
        println!("end it with: kill {pid}; let it work again with: millrace recommission {id}");
    }
    Ok(())
}

/// Takes a drain back.
pub(crate) async fn recommission(Recommission { worker, masters }: Recommission) -> Result<(), Error> {
    let request = RecommissionWorkerRequest { worker };
    let question =
        async |mut master: MasterClient<Channel>| master.recommission_worker(request.clone()).await;
    let status = known(masters.ask(DEADLINE, question).await?.worker)?;
    let WorkerSpec { id, .. } = status.worker.unwrap_or_default();
    println!("worker {id} is {} and takes partitions", status.state);
    Ok(())
}

fn known(worker: Option<WorkerStatus>) -> Result<WorkerStatus, Error> {
    worker.ok_or_else(|| Error::unreadable("no worker in the answer"))
}
