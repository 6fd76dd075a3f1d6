//! Hosts on one machine: a network namespace each, with an address of its own on a bridge between them. A host can be
//! cut off in one direction or both.
//!
//! All of it exists in namespaces of the test's own, which end with it: nothing of the machine's network is touched,
//! and nothing is left behind. Needs `ip` and `tc` (iproute2) and `unshare` and `nsenter` (util-linux), and root or a
//! kernel that gives user namespaces to everybody. Packets are dropped by the qdisc `blackhole`, which every kernel
//! with traffic control has.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use millrace_local::Host;
use tokio::process::Command;

use crate::demo::Hand;

/// Set inside the network.
const INSIDE: &str = "MILLRACE_TEST_INSIDE_NETWORK";
const BRIDGE: &str = "lan";
/// Where the test itself is, and whoever types commands.
const DESK: u8 = 254;
/// Runs the rest of its arguments once namespaces can be named: in a folder that nobody else sees.
const NAMED: &str = "mount -t tmpfs tmpfs /run && exec \"$@\"";

fn address(number: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 79, 0, number)
}

/// Runs the test called `test` of this program again, in a network of its own, and waits for its end. True in there,
/// where the work is to be done; false outside, where it has been.
///
/// # Panics
/// When such a network can't be made, or the test failed in there.
pub async fn in_own_network(test: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        return true;
    }
    // SAFETY: geteuid has no effects.
    let is_root = unsafe { libc::geteuid() } == 0;
    let for_everybody: &[&str] = if is_root { &[] } else { &["--user", "--map-root-user"] };
    let enter = || {
        let mut command = Command::new("unshare");
        command.args(for_everybody).args(["--net", "--mount", "--pid", "--fork", "--kill-child"]);
        command.args(["--", "sh", "-c", NAMED, "sh"]).kill_on_drop(true);
        command
    };
    let script = "ip netns add probe && ip link add probe type veth peer name eth0 netns probe && \
                  nsenter --net=/run/netns/probe tc qdisc add dev eth0 root blackhole";
    let tried = enter().args(["sh", "-c", script]).output().await.expect("unshare of util-linux is there");
    assert!(
        tried.status.success(),
        "hosts can't be made on this machine ({}): `make test` needs ip and tc of iproute2, and either root (in a \
         container with the capabilities NET_ADMIN and SYS_ADMIN) or user namespaces for everybody (sysctl \
         user.max_user_namespaces, and kernel.apparmor_restrict_unprivileged_userns=0 where there is AppArmor)",
        String::from_utf8_lossy(&tried.stderr).trim()
    );
    let program = std::env::current_exe().expect("the test's own path");
    let status = enter()
        .arg(program)
        .args(["--exact", test, "--nocapture", "--test-threads=1", "--include-ignored"])
        .env(INSIDE, "1")
        .status()
        .await
        .expect("it starts");
    assert!(status.success(), "{test} failed among its hosts: {status}");
    false
}

/// Which packets of a host are dropped, without a word to anybody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Those that it sends.
    Outbound,
    /// Those that it should get.
    Inbound,
    /// Both: its cable is pulled.
    Both,
}

/// The bridge between the hosts. The test itself is on it too.
#[derive(Debug)]
pub struct Network(());

impl Network {
    /// Makes it; once in a program that is [`in_own_network`].
    pub async fn new() -> Self {
        assert!(std::env::var_os(INSIDE).is_some(), "not in a network of its own");
        run(&["ip", "link", "set", "lo", "up"]).await;
        run(&["ip", "link", "add", BRIDGE, "type", "bridge"]).await;
        run(&["ip", "addr", "add", &format!("{}/24", address(DESK)), "dev", BRIDGE]).await;
        run(&["ip", "link", "set", BRIDGE, "up"]).await;
        Self(())
    }

    /// A host called `name` (ten letters at most) with the address 10.79.0.`number`.
    pub async fn host(&self, name: &str, number: u8) -> NetworkHost {
        let host = NetworkHost {
            port: format!("lan-{name}"),
            address: address(number),
            namespace: Path::new("/run/netns").join(name),
        };
        run(&["ip", "netns", "add", name]).await;
        run(&["ip", "link", "add", &host.port, "type", "veth", "peer", "name", "eth0", "netns", name]).await;
        run(&["ip", "link", "set", &host.port, "master", BRIDGE, "up"]).await;
        host.run(&["ip", "link", "set", "lo", "up"]).await;
        host.run(&["ip", "addr", "add", &format!("{}/24", host.address), "dev", "eth0"]).await;
        host.run(&["ip", "link", "set", "eth0", "up"]).await;
        host
    }
}

/// A host of a [`Network`].
#[derive(Debug)]
pub struct NetworkHost {
    pub address: Ipv4Addr,
    /// Its end of the cable at the bridge.
    port: String,
    namespace: PathBuf,
}

impl NetworkHost {
    /// The same, for a part that runs on it.
    pub fn for_part(&self) -> Host {
        Host { address: self.address, namespace: Some(self.namespace.clone()) }
    }

    /// Starts a command line on it, with its output in the file `log`.
    pub fn start(&self, line: &[&str], log: &Path) -> Hand {
        let enter = ["nsenter".to_owned(), self.enter()];
        let line = enter.into_iter().chain(line.iter().map(|word| (*word).to_owned()));
        Hand::start(&line.collect::<Vec<_>>(), log)
    }

    pub async fn cut(&self, cut: Cut) {
        match cut {
            Cut::Outbound => self.run(&["tc", "qdisc", "replace", "dev", "eth0", "root", "blackhole"]).await,
            Cut::Inbound => {
                run(&["tc", "qdisc", "replace", "dev", &self.port, "root", "blackhole"]).await;
            }
            Cut::Both => run(&["ip", "link", "set", &self.port, "down"]).await,
        }
    }

    /// Takes a cut back.
    pub async fn heal(&self, cut: Cut) {
        match cut {
            Cut::Outbound => self.run(&["tc", "qdisc", "del", "dev", "eth0", "root"]).await,
            Cut::Inbound => run(&["tc", "qdisc", "del", "dev", &self.port, "root"]).await,
            Cut::Both => run(&["ip", "link", "set", &self.port, "up"]).await,
        }
    }

    async fn run(&self, line: &[&str]) {
        run(&[&["nsenter", &self.enter()], line].concat()).await;
    }

    fn enter(&self) -> String {
        format!("--net={}", self.namespace.display())
    }
}

async fn run(line: &[&str]) {
    let output = Command::new(line[0]).args(&line[1..]).output().await;
    let output = output.unwrap_or_else(|error| panic!("{} can't be run: {error}", line.join(" ")));
    assert!(
        output.status.success(),
        "{} ended with {}: {}",
        line.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
