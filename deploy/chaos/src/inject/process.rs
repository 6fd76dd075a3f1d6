//! What is known of a process that was signalled.

use std::fs;
use std::os::unix::process::ExitStatusExt;

use millrace_local::Exit;

/// Whether it ended by SIGKILL.
pub(super) fn killed(exit: Option<Exit>) -> Result<(), String> {
    match exit {
        Some(exit) if exit.status.signal() == Some(libc::SIGKILL) => Ok(()),
        Some(exit) => Err(format!("it ended with {} instead of SIGKILL", exit.status)),
        None => Err("it did not run".to_owned()),
    }
}

/// Waits until the kernel shows the process as stopped; false if it has gone.
pub(super) async fn stopped(pid: u32) -> bool {
    loop {
        // The state follows the name, which stands in brackets and may hold anything.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
        match stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().next()) {
            Some("T") => return true,
            Some("Z" | "X") | None => return false,
            Some(_) => tokio::time::sleep(crate::watch::POLL).await,
        }
    }
}
