//! A wall clock that is set back, which librdkafka does not stand: its waits end at a time of the wall clock
//! (`rd_timeout_init_timespec` and `pthread_cond_timedwait`), so one that is under way lasts longer by as much as the clock
//! was set back. A slot would stand still for an hour, and look alive.
//!
//! The process therefore becomes a new one of itself, in place: what it had not committed is redone, as after a crash.

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tracing::error;

/// Time servers correct less than this without a step, and waits may last so much longer.
const BEARABLE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(250);

/// The wall clock against one that nobody sets.
struct Clocks {
    began: Instant,
    /// Milliseconds that the wall clock was ahead of the other one at the last look.
    ahead_ms: i128,
}

impl Clocks {
    fn new() -> Self {
        let began = Instant::now();
        Self { began, ahead_ms: ahead_ms(SystemTime::now(), began.elapsed()) }
    }

    /// By how much the wall clock was set back since the last look, if that is not bearable.
    fn set_back(&mut self, wall: SystemTime, elapsed: Duration) -> Option<Duration> {
        let now = ahead_ms(wall, elapsed);
        let back = u64::try_from(self.ahead_ms - now).map(Duration::from_millis).unwrap_or_default();
        self.ahead_ms = now;
        (back > BEARABLE).then_some(back)
    }
}

fn ahead_ms(wall: SystemTime, elapsed: Duration) -> i128 {
    let millis = |span: Duration| i128::try_from(span.as_millis()).unwrap_or(i128::MAX);
    let wall = wall.duration_since(UNIX_EPOCH).map_or_else(|before| -millis(before.duration()), millis);
    wall - millis(elapsed)
}

/// Watches for it until the process ends.
///
/// # Errors
/// When the thread can't be started.
pub(crate) fn start_over_when_set_back() -> io::Result<()> {
    let watch = || {
        let mut clocks = Clocks::new();
        loop {
            thread::sleep(POLL);
            if let Some(back) = clocks.set_back(SystemTime::now(), clocks.began.elapsed()) {
                error!(
                    seconds = back.as_secs(),
                    "the clock was set back, and waits for Kafka would last as much longer: the process starts over"
                );
                let failure = start_over();
                error!(%failure, "it can't: start it again by hand");
                std::process::abort();
            }
        }
    };
    thread::Builder::new().name("clock".to_owned()).spawn(watch).map(drop)
}

/// Returns only if it fails.
fn start_over() -> io::Error {
    let mut arguments = std::env::args_os();
    // The same program, even if another version has taken its place meanwhile.
    let mut command = Command::new("/proc/self/exe");
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    command.args(arguments).exec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_clock_that_falls_behind_the_other_was_set_back() {
        let at = |seconds: u64| UNIX_EPOCH + Duration::from_secs(seconds);
        let mut clocks = Clocks { began: Instant::now(), ahead_ms: 100_000_000 };
        let mut look = |wall, elapsed| clocks.set_back(at(wall), Duration::from_secs(elapsed));
        assert_eq!(look(100_001, 1), None);
        assert_eq!(look(103_602, 2), None, "an hour ahead, or a night's sleep");
        assert_eq!(look(103_602, 3), None, "a second is bearable");
        assert_eq!(look(100_004, 4), Some(Duration::from_secs(3_599)));
        assert_eq!(look(100_005, 5), None);
    }
}
