//! Faults of the S3 server, and of the way between workers and it.

use std::time::{Duration, Instant};

use millrace_faultproxy::{S3Trouble, Trouble, Whom};

use super::process::killed;
use super::worker::{Victim, nobody, way};
use super::{Done, Scene, bites};
use crate::error::Error;
use crate::fault::Fault;
use crate::recovery::Sink;

/// SIGKILL to the server, and a new start after a while.
pub(super) async fn kill(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let before = scene.all_slots();
    let connections = scene.cluster.proxies.s3.connections(Whom::Everybody);
    scene.say(&format!("SIGKILL to the S3 server under {connections} connections"));
    let exit = scene.cluster.s3.kill().await;
    scene.hold().await;
    scene.cluster.s3.start().await?;
    let spans = scene.all_recovered(Instant::now(), before, Sink::Lake).await?;
    let proof = killed(exit).and_then(|()| match connections {
        0 => Err("nobody was connected to it".to_owned()),
        count => Ok(format!("ended by SIGKILL under {count} connections; every lake cursor moves again")),
    });
    Ok(Done { victim: "S3".to_owned(), proof, spans })
}

/// The server answers otherwise than it should, for a while and until it has hit something.
pub(super) async fn burst(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let variant = scene.planned.variant;
    let trouble = match scene.planned.fault {
        Fault::S3SlowDown => S3Trouble::SlowDown,
        Fault::S3Applied => S3Trouble::AppliedButFailed,
        Fault::S3Slow => S3Trouble::Slow(Duration::from_millis(100 + u64::from(variant % 1_900))),
        Fault::S3CopyError => S3Trouble::OkWithError,
        _ if variant.is_multiple_of(2) => S3Trouble::Conflict,
        _ => S3Trouble::PreconditionFailed,
    };
    scene.say(&format!("{trouble:?} from the S3 server"));
    let active = scene.cluster.proxies.s3_server.begin(trouble);
    scene.hold().await;
    let has_bitten = bites(|| active.bites()).await;
    scene.cluster.proxies.s3_server.end();
    let before = scene.all_slots();
    let spans = scene.all_recovered(Instant::now(), before, Sink::Lake).await?;
    let proof = if has_bitten {
        Ok(format!("{} requests were hit", active.bites()))
    } else {
        Err("no such request came by".to_owned())
    };
    Ok(Done { victim: "S3".to_owned(), proof, spans })
}

/// Nothing gets through between a worker and the server, one way or both.
pub(super) async fn cut(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(victim) = Victim::choose(scene) else { return Ok(nobody()) };
    let way = way(scene.planned.variant);
    scene.say(&format!("{way:?} cut between {} and S3", victim.name()));
    let proxy = &scene.cluster.proxies.s3;
    let cut = proxy.begin(Whom::Process(victim.pid), Trouble::Cut(way));
    let has_bitten = bites(|| cut.bites()).await;
    scene.hold().await;
    let resets = if (scene.planned.variant / 3).is_multiple_of(2) {
        proxy.reset(Whom::Process(victim.pid))
    } else {
        0
    };
    proxy.end(&cut);
    let before = scene.all_slots();
    let spans = scene.all_recovered(Instant::now(), before, Sink::Lake).await?;
    let proof = if has_bitten {
        Ok(format!("{} pieces were held, {resets} connections reset with them", cut.bites()))
    } else {
        Err("nothing was held: it does not go by the proxy".to_owned())
    };
    Ok(Done { victim: victim.name(), proof, spans })
}
