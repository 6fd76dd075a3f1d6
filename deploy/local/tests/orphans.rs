//! Children end with the process that started them, even when that one gets no chance to stop them.

use std::os::unix::process::ExitStatusExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use millrace_local::{Process, Program};

const FOLDER: &str = "MILLRACE_TEST_FOLDER";
/// A wait longer than this is a hang, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_killed_parent_leaves_no_child_behind() {
    let folder = tempfile::tempdir().expect("folder");
    let mut parent = Command::new(std::env::current_exe().expect("this program"))
        .args(["--ignored", "--exact", "the_parent"])
        .env(FOLDER, folder.path())
        .spawn()
        .expect("starts");
    let told = folder.path().join("pid");
    let pid = until("the child runs", || std::fs::read_to_string(&told).ok()?.parse::<u32>().ok());
    parent.kill().expect("killed");
    assert_eq!(parent.wait().expect("ended").signal(), Some(libc::SIGKILL));
    until("the child has ended", || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/stat"));
        // Gone, or a zombie that nobody has reaped yet.
        status.map_or(true, |status| status.contains(") Z ")).then_some(())
    });
}

fn until<T>(what: &str, mut reached: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(value) = reached() {
            return value;
        }
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[tokio::test]
#[ignore = "the process that the test above kills"]
async fn the_parent() {
    let folder = PathBuf::from(std::env::var_os(FOLDER).expect("started by the test above"));
    let program = Program::new("child", "sleep", folder.join("log")).argument("600");
    let child = Process::start(&program).await.expect("starts");
    let told = folder.join("pid.part");
    std::fs::write(&told, child.pid().to_string()).expect("written");
    std::fs::rename(&told, folder.join("pid")).expect("named");
    child.ended().await;
}
