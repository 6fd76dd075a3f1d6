//! An etcd that a test may kill.

use millrace_local::{Part, PortBlock, PortUse, etcd};
use tempfile::TempDir;

/// Named where a port is taken; the tests choose free ones.
const FLAG: &str = "a test of its own";

/// The members, each a process.
#[derive(Debug)]
pub struct Etcd {
    members: Vec<Part>,
    settings: etcd::Settings,
    _ports: PortBlock,
    _folder: TempDir,
}

impl Etcd {
    /// Starts it and waits until it answers.
    ///
    /// # Panics
    /// When it can't be had.
    pub async fn start() -> Self {
        Self::start_with(3, None, &[]).await
    }

    /// The same with so many members, TLS, and further arguments.
    ///
    /// # Panics
    /// When it can't be had.
    pub async fn start_with(members: u16, tls: Option<etcd::Tls>, arguments: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let ports = PortBlock::find().expect("free ports");
        let port = |index| PortUse { port: ports.port(index), flag: FLAG };
        let settings = etcd::Settings {
            folder: folder.path().to_owned(),
            ports: (0..members).map(|number| (port(number), port(number + members))).collect(),
            tls,
            arguments: arguments.iter().map(|argument| (*argument).to_owned()).collect(),
        };
        let mut members = etcd::prepare(&settings).await.expect("etcd");
        etcd::start(&mut members).await.expect("etcd");
        Self { members, settings, _ports: ports, _folder: folder }
    }

    pub fn endpoints(&self) -> String {
        self.settings.endpoints()
    }

    /// SIGKILL.
    pub async fn kill(&mut self, member: usize) {
        self.members[member].kill().await;
    }

    /// Starts again what does not run, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub async fn restart(&mut self) {
        etcd::start(&mut self.members).await.expect("etcd");
    }
}
