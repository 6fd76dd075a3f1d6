//! The master: registers workers, gives them the partitions, and shows it on a page. The decisions are
//! `millrace-master-core`'s; this crate is its clock, its store and its voice. Start reading at `driver`.

mod admission;
mod browse;
mod built_in;
mod config;
mod discovery;
mod draft;
mod driver;
mod environment;
mod grpc;
mod handle;
mod health;
mod kafka_check;
mod lake_claim;
mod lake_probe;
mod metrics;
mod pipelines;
mod probe;
mod records;
mod snapshot;
mod sources;
mod store;
#[cfg(test)]
mod testing;
mod topic_check;
mod topics;
mod unowned;
mod vitals;
mod web;
mod workers;

use std::net::SocketAddr;
use std::time::Duration;

use millrace_common::http::{self, BindError};
use millrace_common::shutdown::Shutdown;
use millrace_common::tls::{AccessError, ClientFlags};
use millrace_common::types::{InvalidId, Millis, PipelineId, VERSION};
use millrace_master_core::{Event, InvalidSettings, Settings, SlotView};
use millrace_transform::Registry;
use tokio::sync::oneshot;
use tracing::{info, warn};

pub use built_in::SetUpRefusal;
pub use config::{AnotherPipeline, Config, PipelineConfig};
pub use draft::Draft;
pub use driver::RestoreFailure;
pub use kafka_check::CheckError;
pub use lake_claim::ClaimError;
pub use lake_probe::ProbeError;
pub use records::UnreadableEntry;
pub use store::{EtcdError, EtcdFlags, EtcdLocation, FileError, Leader, StateLocation, StoreError};
pub use topic_check::TopicCheckError;
pub use topics::TopicError;
pub use web::logins::LoginsError;

use crate::admission::Admission;
use crate::browse::Browse;
use crate::config::{BUILT_IN, millis};
use crate::discovery::Troubles;
use crate::driver::{Driver, Parts};
use crate::handle::Handle;
use crate::health::Health;
use crate::metrics::Counters;
use crate::snapshot::Addresses;
use crate::sources::Sources;
use crate::store::{Membership, Store};
use crate::unowned::UnownedOffsets;
use crate::vitals::Vitals;
use crate::web::logins::Logins;
use crate::web::{Guard, Verifications};

/// How long tasks may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Why a master can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("--heartbeat-interval, --lease or --grace can't be used: {0}")]
    Settings(#[from] InvalidSettings),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error(
        "--bind {0} is no address under which workers and other masters could reach this one: give --advertise HOST"
    )]
    Nowhere(SocketAddr),
    #[error("the master's address can't be told: {0}")]
    Address(#[from] std::io::Error),
    #[error(transparent)]
    Logins(#[from] LoginsError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Restore(#[from] RestoreFailure),
    #[error("no id for the pipeline: {0}")]
    PipelineId(#[from] InvalidId),
    #[error(transparent)]
    SetUp(#[from] SetUpRefusal),
}

/// Runs a master until `shutdown` begins. Workers go on without it. `transforms`: the kinds that pipelines may name.
pub async fn run(config: Config, transforms: Registry, shutdown: Shutdown) -> Result<(), Error> {
    let settings = Settings {
        heartbeat: Millis(millis(config.heartbeat_interval)),
        lease: Millis(millis(config.lease)),
        grace: Millis(millis(config.grace)),
        ..Settings::default()
    };
    settings.check()?;
    let logins = config.ui_auth.as_deref().map(Logins::read).transpose()?;
    if config.bind.ip().is_unspecified() && config.advertise.is_none() {
        return Err(Error::Nowhere(config.bind));
    }
    let tls = config.access.tls("the master", config.bind, grpc::PROTOCOL)?;
    let token = config.access.token()?;
    let workers_port = http::bind("the master", config.bind, "--bind").await?;
    let page_port = http::bind("the master's page", config.http_bind, "--http-bind").await?;
    let (bound, page_bound) = (workers_port.local_addr()?, page_port.local_addr()?);
    let advertised = config.advertised(bound, page_bound);
    let addresses = Addresses {
        url: format!("millrace://{}", advertised.0),
        rest_url: format!("http://{}/api/v1", advertised.1),
    };

    let started = chrono::Utc::now().format("%Y%m%d%H%M%S");
    let master_id = format!("master-{started}-{bound}");
    let store = match config.state.clone() {
        StateLocation::Memory => Store::memory(),
        StateLocation::File(folder) => Store::file(folder).await?,
        StateLocation::Etcd(location) => {
            let me = Leader {
                id: format!("{master_id}-{:06x}", rand::random_range(0..1 << 24)),
                address: advertised.0,
                page: format!("http://{}", advertised.1),
            };
            let membership = Membership { cluster: config.cluster, me, lease: config.leader_lease };
            Store::etcd(location, config.etcd, membership, shutdown.clone())
        }
    };
    let built_in = (!config.no_pipeline).then(|| config.pipeline.clone());
    let planned = config.pipeline.definition(PipelineId::new(BUILT_IN)?, 0);
    let what = format!("Kafka at {} and the lake {}", planned.bootstrap_servers, planned.lake_url());
    let health = Health::waiting(built_in::PART, &what);
    let counters = Counters::default();
    let (driver, handle) = Driver::new(Parts {
        store,
        settings,
        master_id,
        built_in,
        health: health.clone(),
        counters: counters.clone(),
        shutdown: shutdown.clone(),
    })
    .await?;
    info!(
        version = VERSION, workers = %bound, page = %format!("http://{page_bound}/"), state = %config.state,
        "master starts"
    );

    // As whoever asks a worker's Arrow Flight: with this master's own certificate and the cluster's token.
    let worker_access = ClientFlags {
        tls_ca: config.access.tls_client_ca.clone(),
        tls_certificate: config.access.tls_certificate.clone(),
        tls_key: config.access.tls_key.clone(),
        token: config.access.token.clone(),
        insecure: config.access.insecure,
    };
    let asks_logins = logins.is_some();
    let guard = Guard::new(logins, config.advertise.into_iter().collect(), page_bound.ip().is_loopback());
    if let Some(warning) = guard.warning() {
        warn!(page = %page_bound, "{warning}");
    }
    let unowned = UnownedOffsets::default();
    let troubles = Troubles::default();
    let own = (!config.no_pipeline).then_some(BUILT_IN);
    let admission = Admission::new(handle.clone(), transforms, own);
    let leading = driver.leading();
    let sources = Sources {
        handle: handle.clone(),
        addresses,
        health: health.clone(),
        unowned: unowned.clone(),
        troubles: troubles.clone(),
        counters,
        vitals: Vitals::default(),
    };
    shutdown.spawn("driver", driver.run());
    if config.resume_halted {
        shutdown.spawn("resume of halted slots", resume_halted(handle.clone()));
    }
    let doors = grpc::Doors { listener: workers_port, tls, token, lease: config.lease };
    shutdown.spawn("grpc", grpc::serve(doors, sources.clone(), admission, shutdown.clone()));
    let browse = Browse::new(worker_access);
    let verifications = Verifications::new(format!("http://{page_bound}"), asks_logins);
    let page = web::Parts { sources, guard, browse, verifications };
    shutdown.spawn("web", web::serve(page_port, page, shutdown.clone()));
    shutdown.spawn("offsets of unowned slots", unowned::poll(handle.clone(), unowned, shutdown.clone()));
    let every = config.metadata_refresh;
    shutdown.spawn("discovery", discovery::watch(handle.clone(), troubles, every, shutdown.clone()));
    let (refuse, refused) = oneshot::channel();
    let parts = (config.pipeline, handle, health, shutdown.clone());
    shutdown.spawn("pipeline", async move {
        let (config, handle, health, shutdown) = parts;
        if let Err(refusal) = built_in::keep(leading, &config, &handle, &health, &shutdown).await {
            let _ = refuse.send(refusal);
            shutdown.begin();
        }
    });

    shutdown.begun().await;
    if !shutdown.drained(STOP_DEADLINE).await {
        warn!("tasks still run, leaving");
    }
    info!("master stopped");
    // Without a refusal the sender was dropped unused.
    refused.await.map_or(Ok(()), |refusal| Err(refusal.into()))
}

/// Lets every slot that was halted before this start be granted again; it halts anew if its cause is still there.
async fn resume_halted(handle: Handle) {
    let halted = match handle.look().await {
        Ok(look) => look.view.slots.into_iter().filter(|slot| slot.halt.is_some()),
        Err(error) => return warn!(%error, "halted slots can't be resumed"),
    };
    for SlotView { slot, .. } in halted {
        match handle.apply(Event::SlotResumed { slot: slot.clone(), skip_lost: None }).await {
            Ok(()) => info!(%slot, "halted slot resumed"),
            Err(error) => warn!(%slot, %error, "halted slot not resumed"),
        }
    }
}
