//! The master: registers workers, gives them the partitions, and shows it on a page. The decisions are
//! `millrace-master-core`'s; this crate is its clock, its store and its voice. Start reading at `driver`.

mod config;
mod discovery;
mod driver;
mod grpc;
mod handle;
mod health;
mod kafka_check;
mod lake_claim;
mod metrics;
mod probe;
mod records;
mod setup;
mod snapshot;
mod store;
#[cfg(test)]
mod testing;
mod unowned;
mod web;

use std::time::Duration;

use millrace_common::http::{self, BindError};
use millrace_common::shutdown::Shutdown;
use millrace_common::types::{InvalidId, Millis, PipelineId, VERSION};
use millrace_master_core::{
    Event, InvalidSettings, PipelineRecord, RECORD_VERSION, Record, RecordBody, Settings, SlotView, Stage,
};
use tokio::sync::oneshot;
use tracing::{info, warn};

pub use config::{AnotherPipeline, Config, PipelineConfig};
pub use driver::RestoreFailure;
pub use kafka_check::CheckError;
pub use lake_claim::ClaimError;
pub use records::UnreadableEntry;
pub use setup::SetUpRefusal;
pub use store::{StateLocation, StoreError};

use crate::config::{BUILT_IN, millis};
use crate::driver::{Driver, Parts};
use crate::handle::Handle;
use crate::health::Health;
use crate::metrics::Counters;
use crate::records::Submission;
use crate::setup::BuiltIn;
use crate::snapshot::{Addresses, unix_now_ms};
use crate::store::Store;
use crate::unowned::UnownedOffsets;
use crate::web::Sources;

/// How long tasks may take to end.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Why a master can't run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("--heartbeat-interval, --lease or --grace can't be used: {0}")]
    Settings(#[from] InvalidSettings),
    #[error(transparent)]
    Bind(#[from] BindError),
    #[error("the master's address can't be told: {0}")]
    Address(#[from] std::io::Error),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Entry(#[from] UnreadableEntry),
    #[error(transparent)]
    Restore(#[from] RestoreFailure),
    #[error(transparent)]
    Pipeline(#[from] AnotherPipeline),
    #[error("no id for the pipeline: {0}")]
    PipelineId(#[from] InvalidId),
    #[error(transparent)]
    SetUp(#[from] SetUpRefusal),
}

/// Runs a master until `shutdown` begins. Workers go on without it.
pub async fn run(config: Config, shutdown: Shutdown) -> Result<(), Error> {
    let settings = Settings {
        heartbeat: Millis(millis(config.heartbeat_interval)),
        lease: Millis(millis(config.lease)),
        grace: Millis(millis(config.grace)),
        ..Settings::default()
    };
    settings.check()?;
    let workers_port = http::bind("the master", config.bind, "--bind").await?;
    let page_port = http::bind("the master's page", config.http_bind, "--http-bind").await?;
    let (bound, page_bound) = (workers_port.local_addr()?, page_port.local_addr()?);
    let addresses =
        Addresses { url: format!("millrace://{bound}"), rest_url: format!("http://{page_bound}/api/v1") };

    let mut store = Store::open(&config.state).await?;
    let built_in = built_in(&mut store, &config.pipeline).await?;
    let (BuiltIn::New(definition) | BuiltIn::Known(definition)) = &built_in;
    let what = format!("Kafka at {} and the lake {}", definition.bootstrap_servers, definition.lake_url());
    let health = Health::waiting(setup::PART, &what);
    let counters = Counters::default();
    let started = chrono::Utc::now().format("%Y%m%d%H%M%S");
    let (driver, handle) = Driver::new(Parts {
        store,
        settings,
        master_id: format!("master-{started}-{bound}"),
        health: health.clone(),
        counters: counters.clone(),
        shutdown: shutdown.clone(),
    })
    .await?;
    info!(
        version = VERSION, workers = %bound, page = %format!("http://{page_bound}/"), state = %config.state,
        "master starts"
    );

    let unowned = UnownedOffsets::default();
    let sources = Sources {
        handle: handle.clone(),
        addresses,
        health: health.clone(),
        unowned: unowned.clone(),
        counters,
    };
    shutdown.spawn("driver", driver.run());
    if config.resume_halted {
        shutdown.spawn("resume of halted slots", resume_halted(handle.clone()));
    }
    shutdown.spawn("grpc", grpc::serve(workers_port, handle.clone(), config.lease, shutdown.clone()));
    shutdown.spawn("web", web::serve(page_port, sources, shutdown.clone()));
    shutdown.spawn("offsets of unowned slots", unowned::poll(handle.clone(), unowned, shutdown.clone()));
    let (refuse, refused) = oneshot::channel();
    let parts = (config.pipeline, handle, health, shutdown.clone());
    shutdown.spawn("pipeline", async move {
        let (config, handle, health, shutdown) = parts;
        if let Err(refusal) = admit_and_watch(built_in, config, handle, health, shutdown.clone()).await {
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
        match handle.apply(Event::SlotResumed { slot: slot.clone() }).await {
            Ok(()) => info!(%slot, "halted slot resumed"),
            Err(error) => warn!(%slot, %error, "halted slot not resumed"),
        }
    }
}

async fn admit_and_watch(
    built_in: BuiltIn,
    config: PipelineConfig,
    handle: Handle,
    health: Health,
    shutdown: Shutdown,
) -> Result<(), SetUpRefusal> {
    if setup::set_up(&built_in, &config, &handle, &health, &shutdown).await? {
        let (BuiltIn::New(definition) | BuiltIn::Known(definition)) = built_in;
        discovery::watch(definition, handle, health, shutdown).await;
    }
    Ok(())
}

/// The pipeline that the store holds, with the flags' changes stored; or a new one, whose id is stored first so that
/// a crash before its admission does not leave a claimed lake to an id that nobody knows.
async fn built_in(store: &mut Store, config: &PipelineConfig) -> Result<BuiltIn, Error> {
    let entries = store.load().await?;
    if let Some(stored) = records::pipeline_named(&records::records(&entries)?, BUILT_IN) {
        let definition = config.change(&stored.definition)?;
        if definition != stored.definition {
            info!(pipeline = %definition.id, "the pipeline's addresses or limits have changed");
            // Its slots are given up before any is granted by the new definition.
            let stage = if stored.stage == Stage::Running { Stage::Changing } else { stored.stage };
            let record = PipelineRecord { definition: definition.clone(), stage };
            store.commit(vec![records::put(&pipeline_record(record))]).await?;
        }
        return Ok(BuiltIn::Known(definition));
    }
    let submission = match records::submission(&entries)? {
        Some(submission) => submission,
        None => {
            let random: u32 = rand::random_range(0..1 << 24);
            let pipeline = PipelineId::new(format!("{BUILT_IN}-{random:06x}"))?;
            let submission = Submission { pipeline, submitted_at_ms: unix_now_ms() };
            store.commit(vec![records::put_submission(&submission)]).await?;
            submission
        }
    };
    Ok(BuiltIn::New(config.definition(submission.pipeline, submission.submitted_at_ms)))
}

fn pipeline_record(record: PipelineRecord) -> Record {
    Record { version: RECORD_VERSION, body: RecordBody::Pipeline(Box::new(record)) }
}
