//! Faults of the leading master.

use std::time::Instant;

use super::process::{killed, stopped};
use super::worker::nobody;
use super::{Done, PATIENCE, Scene};
use crate::error::Error;
use crate::recovery::{Before, Recovery, Sink, Spans};
use crate::timeline::millis;
use crate::watch::View;

/// The leader: its number and its process id.
pub(super) fn leader(scene: &Scene<'_>) -> Option<(usize, u32)> {
    let number = scene.watch.now().leader?;
    Some((number, scene.cluster.masters.get(number)?.pid()?))
}

/// SIGKILL to the leader, and a new start once another one leads. Slots must not notice.
pub(super) async fn kill(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some((number, pid)) = leader(scene) else { return Ok(nobody()) };
    let before = scene.all_slots();
    scene.say(&format!("SIGKILL to the leader master-{number} (pid {pid})"));
    let from = Instant::now();
    let exit = scene.cluster.masters[number].kill().await;
    let (spans, moved) = another_leads(scene, number, from, before).await?;
    scene.cluster.masters[number].start().await?;
    let proof = killed(exit).map(|()| format!("it led, and ended by SIGKILL; another one leads; {moved}"));
    Ok(Done { victim: format!("master-{number}"), proof, spans })
}

/// SIGSTOP to the leader until another one leads, then SIGCONT: two leaders for a moment.
pub(super) async fn freeze(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some((number, pid)) = leader(scene) else { return Ok(nobody()) };
    let before = scene.all_slots();
    scene.say(&format!("SIGSTOP to the leader master-{number} (pid {pid})"));
    let from = Instant::now();
    scene.cluster.masters[number].signal(libc::SIGSTOP).await;
    let is_stopped = stopped(pid).await;
    let led = another_leads(scene, number, from, before).await;
    scene.cluster.masters[number].signal(libc::SIGCONT).await;
    let (spans, moved) = led?;
    stands_by(scene, number).await?;
    let proof = if is_stopped {
        Ok(format!("stopped until another one led; thawed it stands by; {moved}"))
    } else {
        Err("it was not stopped".to_owned())
    };
    Ok(Done { victim: format!("master-{number}"), proof, spans })
}

/// Waits until another master leads and all slots go on; how many of them have changed hands all the same.
pub(super) async fn another_leads(
    scene: &Scene<'_>,
    deposed: usize,
    from: Instant,
    before: Before,
) -> Result<(Spans, String), Error> {
    let leads = |view: &View| view.leader.is_some_and(|leader| leader != deposed);
    let detected = scene.until("another master leads", leads).await?;
    let is_known = |view: &View| {
        let alive = scene.cluster.workers.iter().filter_map(millrace_local::Part::pid);
        leads(view) && alive.into_iter().all(|pid| view.is_alive(pid))
    };
    scene.until("all workers are registered with it", is_known).await?;
    let spans = scene.recovered(Recovery::in_place(from, before.clone(), Sink::Topic)).await?;
    let view = scene.watch.now();
    let moved = before
        .iter()
        .filter(|(partition, before)| view.cursors(**partition).is_some_and(|now| now.epoch != before.epoch));
    let moved = format!("{} of {} slots have a new epoch", moved.count(), before.len());
    Ok((Spans { detected_ms: Some(millis(detected - from)), ..spans }, moved))
}

/// Waits until a deposed leader says that it stands by.
pub(super) async fn stands_by(scene: &Scene<'_>, number: usize) -> Result<(), Error> {
    let waited = tokio::time::timeout(PATIENCE, async {
        while scene.pages.status(number).await.as_deref() != Some("STANDBY") {
            tokio::time::sleep(crate::watch::POLL).await;
        }
    });
    let stuck = |_| Error::Stuck { what: format!("master-{number} stands by"), patience: PATIENCE };
    waited.await.map_err(stuck)
}
