//! Faults of Kafka's broker, and of the way between workers and it.

use std::time::{Duration, Instant};

use millrace_faultproxy::{Answers, Trouble, Whom};
use tokio::process::Command;

use super::process::{killed, stopped};
use super::worker::{Victim, nobody, way};
use super::{Done, PATIENCE, Scene, bites};
use crate::error::Error;
use crate::fault::Fault;
use crate::recovery::Sink;

/// API keys of Kafka's protocol.
mod api_key {
    pub(super) const PRODUCE: i16 = 0;
    pub(super) const ADD_PARTITIONS: i16 = 24;
    pub(super) const ADD_OFFSETS: i16 = 25;
    pub(super) const END: i16 = 26;
    pub(super) const COMMIT_OFFSETS: i16 = 28;
}

/// A slot's transaction is ended by the broker after 15 s.
const BEYOND_A_TRANSACTION: Duration = Duration::from_secs(17);

/// SIGKILL to the broker, and a new start after a while.
pub(super) async fn kill(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let before = scene.all_slots();
    let connections = scene.cluster.proxies.kafka.connections(Whom::Everybody);
    scene.say(&format!("SIGKILL to the broker under {connections} connections"));
    let exit = scene.cluster.kafka.kill().await;
    scene.hold().await;
    scene.cluster.kafka.start().await?;
    let spans = scene.all_recovered(Instant::now(), before, Sink::Topic).await?;
    let proof = killed(exit).and_then(|()| match connections {
        0 => Err("nobody was connected to it".to_owned()),
        count => Ok(format!("ended by SIGKILL under {count} connections; every slot commits again")),
    });
    Ok(Done { victim: "Kafka".to_owned(), proof, spans })
}

/// No file of the broker can grow any more, as on a full disk: it ends by itself, and is started again with room.
pub(super) async fn fill_disk(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(pid) = scene.cluster.kafka.pid() else { return Ok(nobody()) };
    let before = scene.all_slots();
    scene.say("the broker's files can't grow any more");
    let limited = Command::new("prlimit").args(["--pid", &pid.to_string(), "--fsize=0:"]).output().await;
    let limited = limited.map_err(Error::io("prlimit can't be run"))?;
    if !limited.status.success() {
        let said = String::from_utf8_lossy(&limited.stderr);
        return Err(Error::SetUp(format!("prlimit ended with {}: {said}", limited.status)));
    }
    let ended = tokio::time::timeout(PATIENCE, scene.cluster.kafka.fails()).await;
    scene.hold().await;
    let exit = scene.cluster.kafka.process().and_then(millrace_local::Process::exit);
    scene.cluster.kafka.kill().await;
    scene.cluster.kafka.start().await?;
    let spans = scene.all_recovered(Instant::now(), before, Sink::Topic).await?;
    let proof = match (ended, exit) {
        (Ok(_), Some(exit)) => {
            Ok(format!("it ended by itself with {}; every slot commits again", exit.status))
        }
        _ => Err(format!("it went on for {PATIENCE:?} without any room")),
    };
    Ok(Done { victim: format!("Kafka (pid {pid})"), proof, spans })
}

/// SIGSTOP to the broker for a while.
pub(super) async fn freeze(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(pid) = scene.cluster.kafka.pid() else { return Ok(nobody()) };
    let before = scene.all_slots();
    scene.say("SIGSTOP to the broker");
    scene.cluster.kafka.signal(libc::SIGSTOP).await;
    let is_stopped = stopped(pid).await;
    scene.hold().await;
    let is_silent = !scene.watch.now().kafka_answers;
    scene.cluster.kafka.signal(libc::SIGCONT).await;
    let spans = scene.all_recovered(Instant::now(), before, Sink::Topic).await?;
    let proof = match is_stopped {
        true if is_silent => Ok("stopped; it answered nothing; every slot commits again".to_owned()),
        // It was too short for a question to run out of time; nothing can be committed by a stopped broker.
        true => Ok("stopped; every slot commits again".to_owned()),
        false => Err("it was not stopped".to_owned()),
    };
    Ok(Done { victim: format!("Kafka (pid {pid})"), proof, spans })
}

/// Lost answers and late requests of a transaction's steps.
pub(super) async fn troubled_steps(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(victim) = Victim::choose(scene) else { return Ok(nobody()) };
    let planned = scene.planned;
    let times = 1 + planned.variant / 7 % 3;
    let lose = |key| Trouble::LoseAnswers { which: Answers::ToKafka(key), times };
    // Some more tries: one whose connection ends before Kafka answers does not count.
    let late = |key| Trouble::LateRequests { api_key: key, by: planned.hold(), times: times + 2 };
    let trouble = match planned.fault {
        Fault::KafkaCommitLost => lose(api_key::END),
        Fault::KafkaLateCommit => late(api_key::END),
        Fault::KafkaLateOffsets => late(api_key::COMMIT_OFFSETS),
        _ => {
            let keys =
                [api_key::PRODUCE, api_key::ADD_PARTITIONS, api_key::ADD_OFFSETS, api_key::COMMIT_OFFSETS];
            lose(keys[usize::try_from(planned.variant).unwrap_or(0) % keys.len()])
        }
    };
    scene.say(&format!("{trouble:?} for {}", victim.name()));
    let proxy = &scene.cluster.proxies.kafka;
    let active = proxy.begin(Whom::Process(victim.pid), trouble);
    let has_bitten = bites(|| active.bites()).await;
    if has_bitten {
        // Those that are left may follow.
        scene.hold().await;
    }
    proxy.end(&active);
    let before = scene.all_slots();
    let spans = scene.all_recovered(Instant::now(), before, Sink::Topic).await?;
    let count = active.bites();
    let proof = match trouble {
        _ if !has_bitten => Err("no such request came by".to_owned()),
        Trouble::LateRequests { .. } => {
            Ok(format!("Kafka answered {count} late requests that nobody waited for"))
        }
        _ => Ok(format!("{count} answers were dropped after the request had been done")),
    };
    Ok(Done { victim: victim.name(), proof, spans })
}

/// Nothing gets through between a worker and Kafka, one way or both.
pub(super) async fn cut(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(victim) = Victim::choose(scene) else { return Ok(nobody()) };
    let way = way(scene.planned.variant);
    let is_long = scene.planned.fault == Fault::KafkaCutLong;
    scene.say(&format!("{way:?} cut between {} and Kafka", victim.name()));
    let proxy = &scene.cluster.proxies.kafka;
    let cut = proxy.begin(Whom::Process(victim.pid), Trouble::Cut(way));
    let has_bitten = bites(|| cut.bites()).await;
    scene.hold().await;
    if is_long {
        tokio::time::sleep(BEYOND_A_TRANSACTION).await;
    }
    // Half of the times what was held is delivered, half of the times it is lost.
    let resets = if (scene.planned.variant / 3).is_multiple_of(2) {
        proxy.reset(Whom::Process(victim.pid))
    } else {
        0
    };
    proxy.end(&cut);
    let before = scene.all_slots();
    let spans = scene.all_recovered(Instant::now(), before, Sink::Topic).await?;
    let proof = if has_bitten {
        Ok(format!("{} pieces were held, {resets} connections reset with them", cut.bites()))
    } else {
        Err("nothing was held: it does not go by the proxy".to_owned())
    };
    Ok(Done { victim: victim.name(), proof, spans })
}

/// All of a worker's connections to Kafka are reset.
pub(super) async fn reset(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(victim) = Victim::choose(scene) else { return Ok(nobody()) };
    let before = scene.all_slots();
    scene.say(&format!("reset of the connections between {} and Kafka", victim.name()));
    let count = scene.cluster.proxies.kafka.reset(Whom::Process(victim.pid));
    let spans = scene.all_recovered(Instant::now(), before, Sink::Topic).await?;
    let proof = match count {
        0 => Err("it had no connection".to_owned()),
        count => Ok(format!("{count} connections were reset")),
    };
    Ok(Done { victim: victim.name(), proof, spans })
}

/// A slow network in front of Kafka for everybody.
pub(super) async fn slow(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let trouble = match scene.planned.variant % 2 {
        0 => Trouble::Delay(Duration::from_millis(20 + u64::from(scene.planned.variant / 2 % 180))),
        _ => Trouble::Bandwidth(200_000),
    };
    scene.say(&format!("{trouble:?} between everybody and Kafka"));
    let active = scene.cluster.proxies.kafka.begin(Whom::Everybody, trouble);
    scene.hold().await;
    scene.cluster.proxies.kafka.end(&active);
    let before = scene.all_slots();
    let spans = scene.all_recovered(Instant::now(), before, Sink::Topic).await?;
    let proof = match active.bites() {
        0 => Err("nothing came by".to_owned()),
        count => Ok(format!("{count} pieces were late")),
    };
    Ok(Done { victim: "everybody".to_owned(), proof, spans })
}
