//! A worker's clock jumps forward, by an hour or by ten minutes, and back again: its wall clock, as when an administrator or
//! a time server sets it.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::worker::{Victim, nobody};
use super::{Done, Scene};
use crate::error::Error;
use crate::recovery::Sink;
use crate::watch::View;

/// S3 refuses what is signed more than a quarter of an hour from its own time.
const REFUSED: Duration = Duration::from_secs(3_600);
const ACCEPTED: Duration = Duration::from_secs(600);

/// Milliseconds since 1970 by this program's own clock.
fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Forward, and right again a while later.
pub(super) async fn jump(scene: &mut Scene<'_>) -> Result<Done, Error> {
    let Some(victim) = Victim::choose(scene) else { return Ok(nobody()) };
    let Some(registered) = scene.watch.now().worker(victim.pid).map(|worker| worker.id.clone()) else {
        return Ok(nobody());
    };
    let jump = if scene.planned.variant.is_multiple_of(2) { REFUSED } else { ACCEPTED };
    let file = scene.cluster.clock_file(victim.number);
    let set = |seconds: u64| {
        fs::write(&file, format!("+{seconds}"))
            .map_err(Error::io(format!("{} can't be written", file.display())))
    };
    scene.say(&format!("the clock of {} jumps by {jump:?}", victim.name()));
    set(jump.as_secs())?;
    let half = i64::try_from(jump.as_millis() / 2).unwrap_or(i64::MAX);
    let is_off = |view: &View| {
        let own = view.slots.iter().filter(|slot| victim.slots.contains_key(&slot.partition));
        own.filter_map(|slot| slot.last_commit_at_ms).any(|at| (at - now_ms()).abs() > half)
    };
    scene.until("a commit of the worker carries the wrong time", is_off).await?;
    scene.hold().await;
    let before = scene.all_slots();
    let back = Instant::now();
    set(0)?;
    scene.say("it is right again");
    // S3 may have refused for so long that the lake moves only now.
    let spans = scene.all_recovered(back, before, Sink::Lake).await?;
    let stayed =
        scene.watch.now().worker(victim.pid).is_some_and(|now| now.is_alive() && now.id == registered);
    let proof = match stayed {
        true => {
            Ok(format!("a commit carried a time that was off by {jump:?}; the master never lost the worker"))
        }
        false => Err("the master lost the worker".to_owned()),
    };
    Ok(Done { victim: victim.name(), proof, spans })
}
