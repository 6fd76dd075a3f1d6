//! Where a part runs: on the loopback device, or in a network namespace with an address of its own.

use std::net::Ipv4Addr;
use std::path::PathBuf;

/// A host as a part sees it; the default is this machine's loopback device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// What the part listens on and tells others.
    pub address: Ipv4Addr,
    /// The network namespace of that address, as a file (`/run/netns/NAME`); `None` for this process's own.
    pub namespace: Option<PathBuf>,
}

impl Default for Host {
    fn default() -> Self {
        Self { address: Ipv4Addr::LOCALHOST, namespace: None }
    }
}
