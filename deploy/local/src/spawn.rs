//! Starting child processes that die with this one, even when this one is killed. Decides nothing about them.

use std::io;
use std::process::Stdio;
use std::sync::OnceLock;
use std::sync::mpsc;

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::oneshot;

struct Request {
    command: Command,
    runtime: Handle,
    reply: oneshot::Sender<io::Result<Child>>,
}

/// Starts `command` in a process group of its own (so that a terminal's Ctrl-C reaches this process alone, which
/// stops its children in order), without standard input, and with SIGKILL as its fate when this process ends.
///
/// # Errors
/// When the program can't be started.
pub(crate) async fn spawn(mut command: Command) -> io::Result<Child> {
    command.stdin(Stdio::null()).process_group(0);
    let parent = std::process::id();
    // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl, getppid and the making of an
    // error from a number are.
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have ended before the line above.
            if libc::getppid().unsigned_abs() == parent {
                Ok(())
            } else {
                Err(io::Error::from_raw_os_error(libc::ESRCH))
            }
        });
    }
    let (reply, answer) = oneshot::channel();
    let request = Request { command, runtime: Handle::current(), reply };
    spawner().send(request).map_err(|_| ended())?;
    answer.await.map_err(|_| ended())?
}

fn ended() -> io::Error {
    io::Error::other("the thread that starts processes has ended")
}

/// The kernel sends the death signal when the *thread* that forked ends, not the process: so one thread that lives
/// as long as the process does all the forking.
fn spawner() -> &'static mpsc::SyncSender<Request> {
    static SPAWNER: OnceLock<mpsc::SyncSender<Request>> = OnceLock::new();
    SPAWNER.get_or_init(|| {
        let (sender, requests) = mpsc::sync_channel::<Request>(16);
        std::thread::spawn(move || {
            for Request { mut command, runtime, reply } in requests {
                let _inside = runtime.enter();
                // Nobody waits any more: dropping the child leaves it to the death signal.
                drop(reply.send(command.spawn()));
            }
        });
        sender
    })
}
