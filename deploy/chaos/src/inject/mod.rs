//! Doing one fault: to whom, how, and by what it is known that it happened. Each returns only when the cluster has
//! recovered, or says that it has not.

mod clock;
mod etcd;
mod foreign;
mod kafka;
mod log;
mod master;
mod process;
mod store;
mod worker;

use std::time::{Duration, Instant};

use crate::api::Pages;
use crate::cluster::Cluster;
use crate::error::Error;
use crate::fault::Fault;
use crate::recovery::{Before, Recovery, Sink, Spans};
use crate::schedule::Planned;
use crate::timeline::{Timeline, millis};
use crate::watch::{View, Watch};

/// A cluster that needs longer than this to recover is stuck, however slow the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// What a fault hits, and what tells of it.
pub(crate) struct Scene<'a> {
    pub(crate) cluster: &'a mut Cluster,
    pub(crate) pages: &'a Pages,
    pub(crate) watch: &'a Watch,
    pub(crate) timeline: &'a Timeline,
    pub(crate) planned: &'a Planned,
}

/// What was done.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) victim: String,
    /// By what it is known that the fault happened; an error says what is missing.
    pub(crate) proof: Result<String, String>,
    pub(crate) spans: Spans,
}

/// Does the planned fault.
///
/// # Errors
/// When the cluster does not recover, or what was killed can't be started again.
pub(crate) async fn inject(scene: &mut Scene<'_>) -> Result<Done, Error> {
    scene.watch.forget_pauses();
    let mut done = match scene.planned.fault {
        Fault::WorkerKill => worker::kill(scene).await,
        Fault::WorkerFreeze => worker::freeze(scene).await,
        Fault::WorkerThaw => worker::thaw(scene).await,
        Fault::WorkerDrain => worker::drain(scene).await,
        Fault::WorkerPartition => worker::partition(scene).await,
        Fault::WorkerClock => clock::jump(scene).await,
        Fault::BrokerKill => kafka::kill(scene).await,
        Fault::BrokerFreeze => kafka::freeze(scene).await,
        Fault::BrokerDiskFull => kafka::fill_disk(scene).await,
        Fault::ForeignTransaction => foreign::transaction(scene).await,
        Fault::KafkaCommitLost
        | Fault::KafkaAnswerLost
        | Fault::KafkaLateCommit
        | Fault::KafkaLateOffsets => kafka::troubled_steps(scene).await,
        Fault::KafkaCut | Fault::KafkaCutLong => kafka::cut(scene).await,
        Fault::KafkaReset => kafka::reset(scene).await,
        Fault::KafkaSlow => kafka::slow(scene).await,
        Fault::S3Kill => store::kill(scene).await,
        Fault::S3SlowDown | Fault::S3Applied | Fault::S3Slow | Fault::S3Conflict | Fault::S3CopyError => {
            store::burst(scene).await
        }
        Fault::S3Cut => store::cut(scene).await,
        Fault::MasterKill => master::kill(scene).await,
        Fault::MasterFreeze => master::freeze(scene).await,
        Fault::EtcdKill => etcd::kill(scene).await,
        Fault::EtcdKillAll => etcd::kill_all(scene).await,
        Fault::EtcdCut => etcd::cut(scene).await,
        Fault::EtcdAnswerLost => etcd::answer_lost(scene).await,
        Fault::CollectorKill => collector_kill(scene).await,
    }?;
    done.spans.longest_pause_ms = Some(millis(scene.watch.now().longest_pause()));
    Ok(done)
}

impl Scene<'_> {
    /// Tells what is done now.
    fn say(&self, what: &str) {
        let planned = self.planned;
        self.timeline.say("fault", &format!("{:>4} {}: {what}", planned.cycle, planned.fault));
    }

    /// Waits until `reached`.
    async fn until(&self, what: &str, reached: impl FnMut(&View) -> bool) -> Result<Instant, Error> {
        let waited = self.watch.until(PATIENCE, reached).await;
        waited.ok_or_else(|| Error::Stuck { what: what.to_owned(), patience: PATIENCE })
    }

    /// Waits until all is as before.
    async fn recovered(&self, mut recovery: Recovery) -> Result<Spans, Error> {
        let what = "the slots commit and have caught up after the fault";
        self.until(what, |view| recovery.see(view, Instant::now())).await?;
        Ok(recovery.spans())
    }

    /// The same for all slots, where they are; counted from `from`.
    async fn all_recovered(&self, from: Instant, before: Before, sink: Sink) -> Result<Spans, Error> {
        self.recovered(Recovery::in_place(from, before, sink)).await
    }

    /// All slots as they are.
    fn all_slots(&self) -> Before {
        let view = self.watch.now();
        before(&view, view.partitions.keys().copied())
    }

    async fn hold(&self) {
        tokio::time::sleep(self.planned.hold()).await;
    }
}

/// These partitions as they are.
fn before(view: &View, partitions: impl IntoIterator<Item = i32>) -> Before {
    partitions.into_iter().filter_map(|partition| Some((partition, view.cursors(partition)?))).collect()
}

/// Waits until `counted` is above zero; whether it came to that.
async fn bites(counted: impl Fn() -> u64) -> bool {
    let bitten = async {
        while counted() == 0 {
            tokio::time::sleep(crate::watch::POLL).await;
        }
    };
    tokio::time::timeout(PATIENCE, bitten).await.is_ok()
}

/// SIGKILL to the collector while events arrive. What it had not answered is sent again.
async fn collector_kill(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let ends = |view: &View| view.partitions.values().map(|partition| partition.end).sum::<i64>();
    let end = ends(&scene.watch.now());
    scene.until("events arrive", |view| ends(view) > end).await?;
    let exit = scene.cluster.collector.kill().await;
    scene.say("SIGKILL to the collector");
    scene.hold().await;
    scene.cluster.collector.start().await?;
    let before = scene.all_slots();
    let spans = scene.all_recovered(Instant::now(), before, Sink::Topic).await?;
    let proof = process::killed(exit)
        .map(|()| "ended by SIGKILL while events arrived; slots went on after".to_owned());
    Ok(Done { victim: "collector".to_owned(), proof, spans })
}
