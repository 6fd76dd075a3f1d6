//! Room for connections: each takes a file descriptor, and shells give a process few to begin with.

use tracing::warn;

/// Files, topics' connections, the listener and what else the process has open.
/// Connections that are turned away have one for a moment, too: see `serve`.
const OTHERS: u64 = 512;

/// Raises the process's limit of open files as far as `connections` need and it is allowed; says so if that is too
/// little.
pub(super) fn make_room_for(connections: u32) {
    let wanted = u64::from(connections) + OTHERS;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the call fills the structure that it is given, which lives on this stack.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 || limit.rlim_cur >= wanted {
        return;
    }
    limit.rlim_cur = wanted.min(limit.rlim_max);
    // SAFETY: the call only reads the structure.
    let raised = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limit) } == 0;
    if !raised || limit.rlim_cur < wanted {
        warn!(
            wanted,
            allowed = limit.rlim_max,
            "fewer connections than --max-connections can be open: raise the limit of open files (ulimit -n)"
        );
    }
}
