//! Faults of workers: killed, frozen and thawed, drained, cut off from the masters.

use std::time::Instant;

use millrace_faultproxy::{Trouble, Way, Whom};
use millrace_local::Part;

use super::log::{LogMark, slot_stopped};
use super::process::{killed, stopped};
use super::{Done, PATIENCE, Scene, before};
use crate::error::Error;
use crate::recovery::{Before, Recovery, Spans};
use crate::watch::View;

/// A worker that runs slots: its number, its process id, and its slots.
pub(super) struct Victim {
    pub(super) number: usize,
    pub(super) pid: u32,
    pub(super) slots: Before,
}

impl Victim {
    pub(super) fn name(&self) -> String {
        let partitions: Vec<i32> = self.slots.keys().copied().collect();
        format!("worker-{} (pid {}, partitions {partitions:?})", self.number, self.pid)
    }

    /// The planned one of those that run slots.
    pub(super) fn choose(scene: &Scene<'_>) -> Option<Self> {
        let view = scene.watch.now();
        let workers = scene.cluster.workers.iter().enumerate();
        let mut busy: Vec<Self> = workers
            .filter_map(|(number, part)| {
                let pid = part.pid()?;
                let slots = before(&view, view.runs(pid));
                (!slots.is_empty()).then_some(Self { number, pid, slots })
            })
            .collect();
        let chosen = scene.planned.pick(busy.len())?;
        Some(busy.swap_remove(chosen))
    }

    fn part<'a>(&self, scene: &'a Scene<'_>) -> &'a Part {
        &scene.cluster.workers[self.number]
    }

    /// Its slots go to others, counted from `from`.
    fn loses_slots(&self, from: Instant) -> Recovery {
        Recovery::of_lost_worker(from, self.slots.clone(), self.pid)
    }
}

/// What is said when no worker runs slots: the fault could not bite.
pub(super) fn nobody() -> Done {
    Done {
        victim: "nobody".to_owned(),
        proof: Err("no worker runs slots".to_owned()),
        spans: Spans::default(),
    }
}

/// SIGKILL, and the same worker again once others have its slots.
pub(super) async fn kill(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(victim) = Victim::choose(scene) else { return Ok(nobody()) };
    scene.say(&format!("SIGKILL to {}", victim.name()));
    kill_victim(scene, &victim).await
}

pub(super) async fn kill_victim(scene: &mut Scene<'_>, victim: &Victim) -> Result<Done, Error> {
    let from = Instant::now();
    let exit = scene.cluster.workers[victim.number].kill().await;
    let spans = scene.recovered(victim.loses_slots(from)).await?;
    scene.cluster.workers[victim.number].launch().await?;
    let proof = killed(exit)
        .map(|()| format!("ended by SIGKILL with {} running slots; others commit them", victim.slots.len()));
    Ok(Done { victim: victim.name(), proof, spans })
}

/// SIGSTOP until others have committed its slots, then SIGCONT: whatever it was doing must come to nothing.
pub(super) async fn freeze(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(victim) = Victim::choose(scene) else { return Ok(nobody()) };
    scene.say(&format!("SIGSTOP to {}", victim.name()));
    let from = Instant::now();
    victim.part(scene).signal(libc::SIGSTOP).await;
    let is_stopped = stopped(victim.pid).await;
    let spans = scene.recovered(victim.loses_slots(from)).await?;
    scene.hold().await;

    let log = LogMark::of(victim.part(scene));
    scene.say(&format!("SIGCONT to worker-{}, {:.1} s later", victim.number, from.elapsed().as_secs_f64()));
    victim.part(scene).signal(libc::SIGCONT).await;
    scene.until("the thawed worker is alive again", |view| view.is_alive(victim.pid)).await?;
    let gave_up = gave_up(scene, &victim, &log).await?;
    let proof = if is_stopped { gave_up.was_fenced() } else { Err("it was not stopped".to_owned()) };
    Ok(Done { victim: victim.name(), proof, spans })
}

/// SIGSTOP until the master has granted its slots to others, then SIGCONT at once: old and new owner at the same time.
pub(super) async fn thaw(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(victim) = Victim::choose(scene) else { return Ok(nobody()) };
    scene.say(&format!("SIGSTOP to {}", victim.name()));
    let from = Instant::now();
    let log = LogMark::of(victim.part(scene));
    victim.part(scene).signal(libc::SIGSTOP).await;
    let is_stopped = stopped(victim.pid).await;
    let is_granted = |view: &View| {
        victim.slots.iter().any(|(partition, before)| {
            view.slot(*partition).is_some_and(|slot| slot.epoch > before.epoch && slot.owner.is_some())
        })
    };
    scene.until("its slots are granted to others", is_granted).await?;
    victim.part(scene).signal(libc::SIGCONT).await;
    let view = scene.watch.now();
    scene.say(&format!("SIGCONT to worker-{}, {:.1} s later", victim.number, from.elapsed().as_secs_f64()));
    let committed = victim.slots.iter().filter(|(partition, before)| {
        view.cursors(**partition).is_some_and(|now| now.epoch > before.epoch && now.topic > before.topic)
    });
    let committed = committed.count();
    let spans = scene.recovered(victim.loses_slots(from)).await?;
    scene.until("the thawed worker is alive again", |view| view.is_alive(victim.pid)).await?;
    let gave_up = gave_up(scene, &victim, &log).await?;
    let proof = if !is_stopped {
        Err("it was not stopped".to_owned())
    } else if committed == victim.slots.len() {
        Err("all new owners had committed before it was thawed".to_owned())
    } else {
        gave_up.is_alive.then_some(()).ok_or_else(|| "it did not survive".to_owned()).map(|()| {
            format!(
                "thawed before {} of its slots' new owners had committed; {gave_up}",
                victim.slots.len() - committed
            )
        })
    };
    Ok(Done { victim: victim.name(), proof, spans })
}

/// SIGTERM: it hands its slots over and ends.
pub(super) async fn drain(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(victim) = Victim::choose(scene) else { return Ok(nobody()) };
    scene.say(&format!("SIGTERM to {}", victim.name()));
    let from = Instant::now();
    let worker = victim.part(scene);
    worker.signal(libc::SIGTERM).await;
    let Some(process) = worker.process() else { return Ok(nobody()) };
    let ended = tokio::time::timeout(PATIENCE, process.ended()).await;
    let exit =
        ended.map_err(|_| Error::Stuck { what: "a drained worker ends".to_owned(), patience: PATIENCE })?;
    let took = from.elapsed();
    let spans = scene.recovered(victim.loses_slots(from)).await?;
    scene.cluster.workers[victim.number].launch().await?;
    let proof = if exit.status.success() {
        Ok(format!(
            "handed {} slots over and ended in order after {:.1} s",
            victim.slots.len(),
            took.as_secs_f64()
        ))
    } else {
        Err(format!("it ended with {}", exit.status))
    };
    Ok(Done { victim: victim.name(), proof, spans })
}

/// Nothing gets through between the worker and any master, until others have committed its slots.
pub(super) async fn partition(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(victim) = Victim::choose(scene) else { return Ok(nobody()) };
    let way = way(scene.planned.variant);
    scene.say(&format!("{way:?} cut between {} and the masters", victim.name()));
    let log = LogMark::of(victim.part(scene));
    let from = Instant::now();
    let proxies = &scene.cluster.proxies.masters;
    let cuts: Vec<_> =
        proxies.iter().map(|proxy| proxy.begin(Whom::Process(victim.pid), Trouble::Cut(way))).collect();
    let recovered = scene.recovered(victim.loses_slots(from)).await;
    scene.hold().await;
    proxies.iter().zip(&cuts).for_each(|(proxy, cut)| proxy.end(cut));
    let spans = recovered?;
    let held: u64 = cuts.iter().map(|cut| cut.bites()).sum();
    scene.until("the worker is alive again", |view| view.is_alive(victim.pid)).await?;
    let gave_up = gave_up(scene, &victim, &log).await?;
    let proof = match gave_up.was_fenced() {
        Ok(_) if held == 0 => Err("nothing was held: it does not go by the proxy".to_owned()),
        Ok(proof) => Ok(format!("{held} pieces held; {proof}")),
        Err(missing) => Err(missing),
    };
    Ok(Done { victim: victim.name(), proof, spans })
}

/// Which way is cut.
pub(super) fn way(variant: u32) -> Way {
    match variant % 3 {
        0 => Way::Requests,
        1 => Way::Answers,
        _ => Way::Both,
    }
}

/// How a deposed owner gave up its old slots.
struct GaveUp {
    slots: usize,
    fenced: usize,
    is_alive: bool,
    said: Vec<String>,
}

impl GaveUp {
    fn was_fenced(&self) -> Result<String, String> {
        if !self.is_alive {
            Err("it did not survive".to_owned())
        } else if self.fenced == 0 {
            Err(format!("none of its {} old slots was fenced: {:?}", self.slots, self.said))
        } else {
            Ok(self.to_string())
        }
    }
}

impl std::fmt::Display for GaveUp {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "came back alive; {} of its {} old slots were fenced by Kafka", self.fenced, self.slots)
    }
}

/// Waits until a deposed owner has stopped all of its old slots.
async fn gave_up(scene: &Scene<'_>, victim: &Victim, log: &LogMark) -> Result<GaveUp, Error> {
    let said = || {
        let lines = log.lines();
        let stops =
            victim.slots.iter().map(|(partition, before)| slot_stopped(&lines, *partition, before.epoch));
        stops.flatten().cloned().collect::<Vec<_>>()
    };
    scene.until("the deposed worker gives up its old slots", |_| said().len() == victim.slots.len()).await?;
    let said = said();
    Ok(GaveUp {
        slots: said.len(),
        fenced: said.iter().filter(|line| line.contains("reason=Fenced")).count(),
        is_alive: victim.part(scene).pid() == Some(victim.pid),
        said,
    })
}
