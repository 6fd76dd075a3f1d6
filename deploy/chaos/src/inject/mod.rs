//! Doing one fault: to whom, how, and by what it is known that it happened. Each returns only when the cluster has
//! recovered, or says that it has not.

mod worker;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use millrace_local::Part;

use crate::cluster::Cluster;
use crate::error::Error;
use crate::fault::Fault;
use crate::recovery::{Before, Recovery, Spans};
use crate::schedule::Planned;
use crate::timeline::{Timeline, millis};
use crate::watch::{View, Watch};

/// A cluster that needs longer than this to recover is stuck, however slow the machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(180);

/// What a fault hits, and what tells of it.
pub(crate) struct Scene<'a> {
    pub(crate) cluster: &'a mut Cluster,
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
        self.until("slots commit and have caught up after the fault", |view| {
            recovery.see(view, Instant::now())
        })
        .await?;
        Ok(recovery.spans())
    }
}

/// These partitions as they are.
fn before(view: &View, partitions: impl IntoIterator<Item = i32>) -> BTreeMap<i32, Before> {
    let cursors = partitions.into_iter().filter_map(|partition| Some((partition, view.cursors(partition)?)));
    cursors
        .map(|(partition, cursors)| (partition, Before { epoch: cursors.epoch, topic: cursors.topic }))
        .collect()
}

/// What a part writes to its log from now on.
struct LogMark<'a> {
    path: &'a Path,
    from: u64,
}

impl<'a> LogMark<'a> {
    fn of(part: &'a Part) -> Self {
        let path = part.program().log.as_path();
        Self { path, from: fs::metadata(path).map_or(0, |metadata| metadata.len()) }
    }

    fn lines(&self) -> Vec<String> {
        let bytes = fs::read(self.path).unwrap_or_default();
        let new = bytes.get(usize::try_from(self.from).unwrap_or(usize::MAX)..).unwrap_or_default();
        String::from_utf8_lossy(new).lines().map(str::to_owned).collect()
    }
}
