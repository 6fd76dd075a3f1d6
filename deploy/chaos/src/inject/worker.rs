//! Faults of workers: killed, frozen and thawed.

use std::os::unix::process::ExitStatusExt;
use std::time::Instant;

use millrace_local::{Exit, Part};

use super::{Done, LogMark, Scene, before};
use crate::error::Error;
use crate::recovery::{Recovery, Spans};
use crate::watch::View;

/// A worker that runs slots: its number, its process id, and its partitions.
struct Victim {
    number: usize,
    pid: u32,
    partitions: Vec<i32>,
}

impl Victim {
    fn name(&self) -> String {
        format!("worker-{} (pid {}, partitions {:?})", self.number, self.pid, self.partitions)
    }

    /// The planned one of those that run slots.
    fn choose(scene: &Scene<'_>, view: &View) -> Option<Self> {
        let workers = scene.cluster.workers.iter().enumerate();
        let mut busy: Vec<Self> = workers
            .filter_map(|(number, part)| {
                let pid = part.pid()?;
                let partitions = view.runs(pid);
                (!partitions.is_empty()).then_some(Self { number, pid, partitions })
            })
            .collect();
        let chosen = scene.planned.pick(busy.len())?;
        Some(busy.swap_remove(chosen))
    }
}

fn nobody() -> Done {
    Done {
        victim: "nobody".to_owned(),
        proof: Err("no worker runs slots".to_owned()),
        spans: Spans::default(),
    }
}

/// Whether it ended by SIGKILL.
pub(super) fn killed(exit: Option<Exit>) -> Result<(), String> {
    match exit {
        Some(exit) if exit.status.signal() == Some(libc::SIGKILL) => Ok(()),
        Some(exit) => Err(format!("it ended with {} instead of SIGKILL", exit.status)),
        None => Err("it did not run".to_owned()),
    }
}

/// SIGKILL, and the same worker again once others have its slots.
pub(super) async fn kill(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let view = scene.watch.now();
    let Some(victim) = Victim::choose(scene, &view) else { return Ok(nobody()) };
    scene.say(&format!("SIGKILL to {}", victim.name()));
    let lost = before(&view, victim.partitions.iter().copied());
    let from = Instant::now();
    let exit = scene.cluster.workers[victim.number].kill().await;
    let spans = scene.recovered(Recovery::of_lost_worker(from, lost, victim.pid)).await?;
    scene.cluster.workers[victim.number].launch().await?;
    let proof = killed(exit).map(|()| {
        format!("ended by SIGKILL with {} running slots; others commit them", victim.partitions.len())
    });
    Ok(Done { victim: victim.name(), proof, spans })
}

/// SIGSTOP until others have committed its slots, then SIGCONT: whatever it was doing must come to nothing.
pub(super) async fn freeze(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let view = scene.watch.now();
    let Some(victim) = Victim::choose(scene, &view) else { return Ok(nobody()) };
    scene.say(&format!("SIGSTOP to {}", victim.name()));
    let lost = before(&view, victim.partitions.iter().copied());
    let from = Instant::now();
    scene.cluster.workers[victim.number].signal(libc::SIGSTOP).await;
    let is_stopped = stopped(victim.pid).await;
    let spans = scene.recovered(Recovery::of_lost_worker(from, lost.clone(), victim.pid)).await?;
    tokio::time::sleep(scene.planned.hold()).await;

    let worker = &scene.cluster.workers[victim.number];
    let log = LogMark::of(worker);
    scene.say(&format!("SIGCONT to worker-{}, {:.1} s later", victim.number, from.elapsed().as_secs_f64()));
    worker.signal(libc::SIGCONT).await;
    scene.until("the thawed worker is alive again", |view| view.is_alive(victim.pid)).await?;
    let fenced = fenced(scene, worker, &log, &lost).await?;
    let proof = if is_stopped { fenced } else { Err("it was not stopped".to_owned()) };
    Ok(Done { victim: victim.name(), proof, spans })
}

/// Waits until the kernel shows the process as stopped; false if it has gone.
async fn stopped(pid: u32) -> bool {
    loop {
        // The state follows the name, which stands in brackets and may hold anything.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        match stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()) {
            Some("T") => return true,
            Some("Z" | "X") | None => return false,
            Some(_) => tokio::time::sleep(crate::watch::POLL).await,
        }
    }
}

/// Waits until a deposed owner has stopped all of its old slots; whether Kafka's fence was what told it.
async fn fenced(
    scene: &Scene<'_>,
    worker: &Part,
    log: &LogMark<'_>,
    lost: &std::collections::BTreeMap<i32, crate::recovery::Before>,
) -> Result<Result<String, String>, Error> {
    let stops = || {
        let lines = log.lines();
        let of = |partition: i32, epoch: u64| {
            let (slot, epoch) = (format!("-{partition} "), format!("epoch={epoch} "));
            let mut stops = lines.iter().filter(|line| line.contains("slot stopped"));
            stops.find(|line| line.contains(&slot) && line.contains(&epoch)).cloned()
        };
        lost.iter().filter_map(|(partition, before)| of(*partition, before.epoch)).collect::<Vec<_>>()
    };
    scene.until("the thawed worker gives up its old slots", |_| stops().len() == lost.len()).await?;
    let stops = stops();
    let fenced = stops.iter().filter(|line| line.contains("reason=Fenced")).count();
    Ok(if worker.pid().is_none() {
        Err("it did not survive".to_owned())
    } else if fenced == 0 {
        Err(format!("none of its {} old slots was fenced: {stops:?}", stops.len()))
    } else {
        Ok(format!("came back alive; {fenced} of its {} old slots were fenced by Kafka", stops.len()))
    })
}
