//! Faults of etcd, and of the way between the leading master and it.

use std::time::{Duration, Instant};

use futures::future::join_all;
use millrace_faultproxy::{Answers, Trouble, Whom};
use millrace_local::Part;

use super::master::{another_leads, leader, stands_by};
use super::process::killed;
use super::worker::{Victim, kill_victim, nobody, way};
use super::{Done, PATIENCE, Scene, bites};
use crate::error::Error;
use crate::recovery::Sink;

const DEADLINE: Duration = Duration::from_secs(1);
/// Smaller answers of etcd's are pings and acknowledgements of them.
const REAL_ANSWER: usize = 40;

/// The member that leads, other than `but`.
async fn leading_member(scene: &Scene<'_>, but: Option<usize>) -> Result<usize, Error> {
    let metrics = scene.cluster.etcd_metrics();
    let looked = tokio::time::timeout(PATIENCE, async {
        loop {
            for (number, url) in metrics.iter().enumerate() {
                if Some(number) != but && leads(url).await {
                    return number;
                }
            }
            tokio::time::sleep(crate::watch::POLL).await;
        }
    });
    let stuck = |_| Error::Stuck { what: "a member of etcd leads".to_owned(), patience: PATIENCE };
    looked.await.map_err(stuck)
}

async fn leads(metrics: &str) -> bool {
    let asked = async {
        let answer = reqwest::get(metrics).await.ok()?;
        Some(answer.text().await.ok()?.lines().any(|line| line == "etcd_server_is_leader 1"))
    };
    tokio::time::timeout(DEADLINE, asked).await.ok().flatten().unwrap_or(false)
}

/// SIGKILL to the leading member, and a new start after a while.
pub(super) async fn kill(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let member = leading_member(scene, None).await?;
    let before = scene.all_slots();
    scene.say(&format!("SIGKILL to the leading member etcd-{member}"));
    let from = Instant::now();
    let exit = scene.cluster.etcd[member].kill().await;
    let next = leading_member(scene, Some(member)).await?;
    scene.hold().await;
    scene.cluster.etcd[member].start().await?;
    let spans = scene.all_recovered(from, before, Sink::Topic).await?;
    scene.until("a master leads", |view| view.leader.is_some()).await?;
    let proof = killed(exit).map(|()| format!("it led, and ended by SIGKILL; etcd-{next} led after it"));
    Ok(Done { victim: format!("etcd-{member}"), proof, spans })
}

/// SIGKILL to all members until no master leads; slots go on meanwhile.
pub(super) async fn kill_all(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let before = scene.all_slots();
    scene.say("SIGKILL to all members");
    let from = Instant::now();
    let exits = join_all(scene.cluster.etcd.iter_mut().map(Part::kill)).await;
    scene.until("no master leads", |view| view.leader.is_none()).await?;
    let alone = scene.all_slots();
    // By nobody's leave.
    let spans = scene.all_recovered(from, before, Sink::Topic).await?;
    scene.all_recovered(Instant::now(), alone, Sink::Topic).await?;
    scene.hold().await;
    let is_alone = scene.watch.now().leader.is_none();
    millrace_local::etcd::start(&mut scene.cluster.etcd).await?;
    scene.until("a master leads again", |view| view.leader.is_some()).await?;
    let proof = exits.into_iter().try_for_each(killed).and_then(|()| {
        if is_alone {
            Ok("all ended by SIGKILL; no master led, and every slot went on committing".to_owned())
        } else {
            Err("a master led although all members were gone".to_owned())
        }
    });
    Ok(Done { victim: "etcd".to_owned(), proof, spans })
}

/// The leading master is cut off from etcd, one way or both, until another one leads.
pub(super) async fn cut(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some((number, pid)) = leader(scene) else { return Ok(nobody()) };
    let way = way(scene.planned.variant);
    let before = scene.all_slots();
    scene.say(&format!("{way:?} cut between the leader master-{number} and etcd"));
    let from = Instant::now();
    let proxies = &scene.cluster.proxies.etcd;
    let cuts: Vec<_> =
        proxies.iter().map(|proxy| proxy.begin(Whom::Process(pid), Trouble::Cut(way))).collect();
    let led = another_leads(scene, number, from, before).await;
    scene.hold().await;
    proxies.iter().zip(&cuts).for_each(|(proxy, cut)| proxy.end(cut));
    let (spans, moved) = led?;
    stands_by(scene, number).await?;
    let proof = match cuts.iter().map(|cut| cut.bites()).sum::<u64>() {
        0 => Err("nothing was held: it does not go by the proxy".to_owned()),
        held => Ok(format!("{held} pieces held; another one led, and it stands by; {moved}")),
    };
    Ok(Done { victim: format!("master-{number}"), proof, spans })
}

/// A worker is killed, so that the leader must write; the answers that etcd gives it are lost.
pub(super) async fn answer_lost(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(victim) = Victim::choose(scene) else { return Ok(nobody()) };
    let Some((number, pid)) = leader(scene) else { return Ok(nobody()) };
    let times = 1 + scene.planned.variant % 2;
    scene.say(&format!("answers of etcd to master-{number} are lost; SIGKILL to {}", victim.name()));
    let lose = Trouble::LoseAnswers { which: Answers::OfBytes(REAL_ANSWER), times };
    let proxies = &scene.cluster.proxies.etcd;
    let active: Vec<_> = proxies.iter().map(|proxy| proxy.begin(Whom::Process(pid), lose)).collect();
    let done = kill_victim(scene, &victim).await;
    // The leader renews its lease in any case.
    bites(|| active.iter().map(|active| active.bites()).sum()).await;
    scene.cluster.proxies.etcd.iter().zip(&active).for_each(|(proxy, active)| proxy.end(active));
    let done = done?;
    let lost: u64 = active.iter().map(|active| active.bites()).sum();
    let proof = match (done.proof, lost) {
        (Err(missing), _) => Err(missing),
        (Ok(_), 0) => Err("no answer came by".to_owned()),
        (Ok(proof), lost) => Ok(format!("{lost} answers were dropped; the worker {proof}")),
    };
    Ok(Done { victim: format!("master-{number} and {}", victim.name()), proof, spans: done.spans })
}
