//! A worker's clock jumps by an hour, and back: its wall clock, as when an administrator or a time server sets it.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::worker::{Victim, nobody};
use super::{Done, Scene};
use crate::error::Error;
use crate::recovery::Sink;
use crate::watch::View;

const JUMP: Duration = Duration::from_secs(3_600);

/// Milliseconds since 1970 by this program's own clock.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Forwards or backwards; a while later the clock is right again.
pub(super) async fn jump(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(victim) = Victim::choose(scene) else { return Ok(nobody()) };
    let file = scene.cluster.clock_file(victim.number);
    let set = |seconds: &str| {
        fs::write(&file, seconds).map_err(Error::io(format!("{} can't be written", file.display())))
    };
    let sign = if scene.planned.variant.is_multiple_of(2) { '+' } else { '-' };
    scene.say(&format!("the clock of {} jumps by {sign}{JUMP:?}", victim.name()));
    set(&format!("{sign}{}", JUMP.as_secs()))?;
    // What it commits now carries the wrong time.
    let half = i64::try_from(JUMP.as_millis() / 2).unwrap_or(i64::MAX);
    let is_off = |view: &View| {
        let own = view.slots.iter().filter(|slot| victim.slots.contains_key(&slot.partition));
        own.filter_map(|slot| slot.last_commit_at_ms).any(|at| (at - now_ms()).abs() > half)
    };
    scene.until("a commit of the worker carries the wrong time", is_off).await?;
    scene.hold().await;
    set("+0")?;
    scene.say("it is right again");
    let before = scene.all_slots();
    // S3 refuses what is signed at another time: the lake moves when the clock is right.
    let spans = scene.all_recovered(Instant::now(), before, Sink::Lake).await?;
    let proof = match scene.watch.now().is_alive(victim.pid) {
        true => Ok(format!(
            "a commit carried a time that was off by {sign}{JUMP:?}; it is alive, both sinks move"
        )),
        false => Err("it did not stay alive".to_owned()),
    };
    Ok(Done { victim: victim.name(), proof, spans })
}
