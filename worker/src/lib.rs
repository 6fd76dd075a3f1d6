//! The worker: registers with the master, runs the slots that it is granted, each from Kafka to its sinks, exactly
//! once. Start reading at `slot`; `kafka` and `lake` are its two ends.

mod budget;
mod compute;
mod flight;
mod heartbeat;
mod kafka;
pub mod lake;
mod leaving;
mod manager;
mod masters;
mod metrics;
mod pipeline_parts;
mod rate;
mod session;
mod slot;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_common::address::parse_host_port;
use millrace_common::http::{self, BindError, Readiness};
use millrace_common::shutdown::Shutdown;
use millrace_common::tls::{AccessError, ClientFlags};
use millrace_common::types::{InvalidId, VERSION, WorkerId, WorkerSpec};
use millrace_common::units::{format_bytes, parse_bytes, parse_duration};
use millrace_transform::Registry;
use tokio::sync::{Notify, mpsc};
use tracing::{error, info, warn};

use crate::budget::{Budget, divide};
use crate::compute::ComputePool;
use crate::leaving::Leaving;
use crate::manager::{Manager, Parts, RunningSlots};
use crate::session::Session;
use crate::slot::Trial;
pub use crate::slot::try_records;

/// The least memory with which a slot can work at all.
const LEAST_MEMORY: u64 = 64 << 20;
/// How long the last commits may take before the process leaves anyway.
const STOP_DEADLINE: Duration = Duration::from_secs(20);

/// A worker: offers cores and memory to a master and runs the slots that it is granted.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  \
    millrace worker --master 127.0.0.1:7077\n  \
    millrace worker --master 127.0.0.1:7077 --cores 2 --memory 2GiB\n  \
    millrace worker --master 127.0.0.1:7077 --zone rack-3 --drain-timeout 60s\n\n\
    The S3 credentials come from AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.\n\
    Everything else the worker learns from the master.")]
pub struct Config {
    /// Where the master listens; several, separated by commas, are tried in turn.
    #[arg(long, env = "MILLRACE_MASTER", value_delimiter = ',', required = true, value_parser = parse_host_port, value_name = "HOST:PORT")]
    pub master: Vec<String>,
    /// Cores to offer: slots' work keeps at most this many busy. By default all of the machine.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub cores: Option<u32>,
    /// Budget of all buffers; when it is reached, open files are flushed early.
    #[arg(long, default_value = "1GiB", value_parser = parse_memory, value_name = "SIZE")]
    pub memory: u64,
    /// Address to listen on.
    #[arg(long, default_value = "127.0.0.1", value_name = "ADDRESS")]
    pub bind: IpAddr,
    /// Port for /healthz, /readyz and /metrics; 0 takes a free one.
    #[arg(long, default_value_t = 0)]
    pub port: u16,
    /// Port for Arrow Flight; 0 takes a free one, which the master tells to whoever asks (`millrace tail`).
    #[arg(long, default_value_t = 0)]
    pub flight_port: u16,
    /// Host name or address under which the master reaches this worker; by default the one it listens on.
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,
    /// Rack or zone that this worker is in: a pipeline's partitions are spread over the zones.
    #[arg(long, value_parser = parse_zone, value_name = "NAME")]
    pub zone: Option<String>,
    /// At SIGTERM or SIGINT, how long the partitions may take to move to other workers before this one commits what it
    /// has and ends; 0s ends at once. A second signal cuts it short.
    #[arg(long, default_value = "20s", value_parser = parse_duration, value_name = "TIME")]
    pub drain_timeout: Duration,
    #[command(flatten)]
    pub access: ClientFlags,
    /// Certificate authorities of those who may read live rows from this worker, PEM; with --tls-certificate alone its
    /// Arrow Flight speaks TLS with everybody.
    #[arg(long, requires = "tls_certificate", help_heading = "Access", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
}

fn parse_zone(text: &str) -> Result<String, String> {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-');
    if text.is_empty() || text.len() > 64 || !text.bytes().all(is_plain) {
        return Err("expected 1 to 64 of a-z A-Z 0-9 . _ -".to_owned());
    }
    Ok(text.to_owned())
}

fn parse_memory(text: &str) -> Result<u64, String> {
    let bytes = parse_bytes(text)?;
    if bytes < LEAST_MEMORY {
        return Err(format!(
            "{} is too little: expected at least {}",
            format_bytes(bytes),
            format_bytes(LEAST_MEMORY)
        ));
    }
    Ok(bytes)
}

/// Why a worker can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("--bind {0} is no address under which others could reach this worker: give --advertise HOST")]
    Nowhere(IpAddr),
    #[error("--advertise can't become part of the worker's id: {0}")]
    Advertise(#[from] InvalidId),
    #[error("the worker's address can't be told: {0}")]
    Address(#[source] std::io::Error),
    #[error("this program's own path can't be told: {0}")]
    Program(#[source] std::io::Error),
}

/// Runs a worker until `shutdown` begins; then lets its slots move to others, commits what is left, and returns.
/// `transforms` are the kinds that its pipelines may name. The program must call [`try_records`] when it is run as
/// `PROGRAM try-records`.
pub async fn run(config: Config, transforms: Registry, shutdown: Shutdown) -> Result<(), Error> {
    for master in &config.master {
        config.access.check(master)?;
    }
    config.access.caller()?;
    if config.bind.is_unspecified() && config.advertise.is_none() {
        return Err(Error::Nowhere(config.bind));
    }
    let flight_address = SocketAddr::new(config.bind, config.flight_port);
    let flight_access = config.access.as_server(config.tls_client_ca.clone());
    let flight_tls = flight_access.tls("the worker's Arrow Flight", flight_address, b"h2")?;
    let token = config.access.token()?;
    let listener = http::bind("the worker", SocketAddr::new(config.bind, config.port), "--port").await?;
    let http_port = listener.local_addr().map_err(Error::Address)?.port();
    let flight_listener = http::bind("the worker's Arrow Flight", flight_address, "--flight-port").await?;
    let port = flight_listener.local_addr().map_err(Error::Address)?.port();
    let cores = config.cores.unwrap_or_else(|| {
        std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1))
    });
    let host = config.advertise.unwrap_or_else(|| config.bind.to_string());
    let division = divide(config.memory, cores);
    let spec = WorkerSpec {
        id: WorkerId::new(format!(
            "worker-{}-{}-{http_port}",
            chrono::Utc::now().format("%Y%m%d%H%M%S"),
            host.replace(':', "-")
        ))?,
        pid: std::process::id(),
        host,
        port,
        http_port,
        cores,
        memory_mib: config.memory >> 20,
        max_slots: division.max_slots,
        zone: config.zone,
        version: VERSION.to_owned(),
    };
    info!(
        worker = %spec.id, pid = spec.pid, http_port, flight_port = port, cores, memory = format_bytes(config.memory),
        max_slots = division.max_slots, fetch_per_slot = format_bytes(division.fetch_bytes_per_slot),
        buffers = format_bytes(division.buffer_bytes), "worker starts"
    );

    // What runs goes on while the slots move away.
    let stop = shutdown.later();
    let leaving = Leaving::default();
    let readiness = Readiness::waiting("the master");
    let budget = Budget::new(division.buffer_bytes);
    let running = RunningSlots::default();
    let changed = Arc::new(Notify::new());
    let (orders, to_carry_out) = mpsc::channel(256);
    let (stopped, to_tell) = mpsc::channel(256);
    let manager = Manager::new(Parts {
        division,
        budget: Arc::clone(&budget),
        compute: ComputePool::new(cores),
        transforms,
        trial: Trial::of_this_program().map_err(Error::Program)?,
        running: running.clone(),
        changed: Arc::clone(&changed),
        stopped,
        shutdown: stop.clone(),
    });

    let flight_metrics = flight::Metrics::default();
    let routes = http::status_routes(
        readiness.clone(),
        Arc::new(metrics::registry(&spec, &running, &budget, &flight_metrics)),
    );
    // The session outlasts the slots' last commits, so that the master sees them as long as they run.
    let session_end = Shutdown::new();
    let shown = running.clone();
    let flight = flight::serve(
        flight::Doors { listener: flight_listener, tls: flight_tls, token },
        Arc::new(move || shown.all()),
        flight_metrics.clone(),
        stop.clone(),
    );
    let session = Session {
        masters: config.master,
        access: config.access,
        spec,
        running: running.clone(),
        budget,
        changed: Arc::clone(&changed),
        orders,
        leaving: leaving.clone(),
        readiness: readiness.clone(),
    };
    let sessions = stop.spawn("session", session.run(to_tell, session_end.clone()));
    let server_end = session_end.clone();
    stop.spawn("http", async move {
        let served = axum::serve(listener, routes)
            .with_graceful_shutdown(async move { server_end.begun().await })
            .await;
        if let Err(error) = served {
            error!(%error, "the status server ended");
        }
    });
    let server_end = session_end.clone();
    stop.spawn("flight", async move {
        // Its streams end when the stop begins; the port stays as long as the process is one of the master's workers.
        tokio::select! {
            served = flight => if let Err(error) = served {
                error!(%error, "the arrow flight server ended");
            },
            () = server_end.begun() => {}
        }
    });
    let managing = stop.spawn("manager", manager.run(to_carry_out));

    tokio::select! {
        () = shutdown.begun() => {
            leaving.drain(&changed, &running, &readiness, config.drain_timeout, &shutdown, &stop).await;
        }
        // A task panicked.
        () = stop.begun() => {}
    }
    stop.begin();
    if tokio::time::timeout(STOP_DEADLINE, managing).await.is_err() {
        warn!("slots did not stop in time: their successors redo what is not committed");
    }
    session_end.begin();
    let _ = sessions.await;
    if !stop.drained(Duration::from_secs(2)).await {
        warn!("tasks still run, leaving");
    }
    info!("worker stopped");
    Ok(())
}
