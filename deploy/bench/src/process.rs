//! What the operating system counts of a process.

use anyhow::{Context, anyhow};

/// Processor time is told in ticks, of which Linux has this many a second on every common machine.
const TICKS_PER_SECOND: f64 = 100.0;

/// Processor seconds that `pid` and all its threads have used, in user and in kernel mode.
pub(crate) fn cpu_seconds(pid: u32) -> anyhow::Result<f64> {
    let path = format!("/proc/{pid}/stat");
    let stat = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let ticks =
        cpu_ticks(&stat).ok_or_else(|| anyhow!("{path} is {stat:?}, expected ticks in fields 14 and 15"))?;
    #[expect(clippy::cast_precision_loss, reason = "ticks of one process")]
    let ticks = ticks as f64;
    Ok(ticks / TICKS_PER_SECOND)
}

/// utime and stime of a line of `/proc/PID/stat`.
fn cpu_ticks(stat: &str) -> Option<u64> {
    // The name may hold anything, spaces and brackets too.
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_ascii_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

/// Resident memory of a process, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Memory {
    pub(crate) resident: u64,
    /// The most that it ever was.
    pub(crate) peak: u64,
}

pub(crate) fn memory(pid: u32) -> anyhow::Result<Memory> {
    let path = format!("/proc/{pid}/status");
    let status = std::fs::read_to_string(&path).with_context(|| path.clone())?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<u64>().ok());
        kib.map(|kib| kib << 10).ok_or_else(|| anyhow!("{path} has no {name}; the process has ended"))
    };
    Ok(Memory { resident: field("VmRSS:")?, peak: field("VmHWM:")? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ticks_are_found_behind_any_name() {
        let stat = "7 (a) b (c) S 1 7 7 0 -1 4194304 1 2 3 4 250 50 9 9 20 0 3 0 100";
        assert_eq!(cpu_ticks(stat), Some(300));
        assert_eq!(cpu_ticks("7 (a) S 1"), None);
    }

    #[test]
    fn this_process_uses_memory() {
        let memory = memory(std::process::id()).expect("status");
        assert!(memory.resident > 0 && memory.peak >= memory.resident);
    }
}
