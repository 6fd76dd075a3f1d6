//! Ports of the loopback device: whether one is free, and blocks of them for clusters side by side.

use std::fs::File;
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener};

use millrace_common::port_holder::port_holder;

/// A port that something is going to listen on, and the flag that moves it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortUse {
    pub port: u16,
    pub flag: &'static str,
}

/// A port that can't be had.
#[derive(Debug, thiserror::Error)]
#[error("{name} can't listen on 127.0.0.1:{port}: {reason}; {flag} moves it")]
pub struct PortError {
    name: String,
    port: u16,
    flag: &'static str,
    reason: String,
}

/// Checks that `name` can listen on each of `ports`.
///
/// # Errors
/// The first port that is taken: by which process, and which flag moves it.
pub fn check(name: &str, ports: &[PortUse]) -> Result<(), PortError> {
    for PortUse { port, flag } in ports.iter().copied() {
        if let Err(error) = TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)) {
            let reason = match (error.kind(), port_holder(port)) {
                (io::ErrorKind::AddrInUse, Some(holder)) => format!("{holder} holds it"),
                _ => error.to_string(),
            };
            return Err(PortError { name: name.to_owned(), port, flag, reason });
        }
    }
    Ok(())
}

/// A row of free ports below Linux's ephemeral range, kept apart from other holders of such blocks on this machine
/// for as long as it lives.
#[derive(Debug)]
pub struct PortBlock {
    first: u16,
    /// Locked as long as the block is held.
    lock: File,
}

impl Drop for PortBlock {
    fn drop(&mut self) {
        // A child that is just being started still has the handle, and with it the lock: closing ours would not
        // be enough. When this fails the block is merely free a little later.
        let _ = self.lock.unlock();
    }
}

impl PortBlock {
    /// How many ports a block has.
    pub const SIZE: u16 = 40;
    const RANGE: std::ops::Range<u16> = 20_000..32_000;

    /// Finds a block of which every port is free.
    ///
    /// # Errors
    /// When every block is taken, or its lock file can't be made in the system's temporary folder.
    pub fn find() -> io::Result<Self> {
        let blocks = (Self::RANGE.end - Self::RANGE.start) / Self::SIZE;
        // Processes begin their search at different places.
        let start = u16::try_from(std::process::id() % u32::from(blocks)).unwrap_or(0);
        for step in 0..blocks {
            let first = Self::RANGE.start + (start + step) % blocks * Self::SIZE;
            let lock = File::options()
                .create(true)
                .truncate(false)
                .write(true)
                .open(std::env::temp_dir().join(format!("millrace-ports-{first}.lock")))?;
            if lock.try_lock().is_err() {
                continue;
            }
            let is_free = |port| TcpListener::bind(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port)).is_ok();
            if (first..first + Self::SIZE).all(is_free) {
                return Ok(Self { first, lock });
            }
        }
        Err(io::Error::other(format!("no block of {} free ports in {:?}", Self::SIZE, Self::RANGE)))
    }

    /// The `index`-th port of the block.
    ///
    /// # Panics
    /// When `index` is not below [`PortBlock::SIZE`]: a mistake of the caller's.
    pub fn port(&self, index: u16) -> u16 {
        assert!(index < Self::SIZE, "port {index} of a block of {}", Self::SIZE);
        self.first + index
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_names_its_holder_and_the_flag() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("listener");
        let port = listener.local_addr().expect("address").port();
        let message =
            check("Kafka", &[PortUse { port, flag: "--kafka-port" }]).expect_err("taken").to_string();
        let expected = format!("(pid {}) holds it; --kafka-port moves it", std::process::id());
        assert!(message.contains(&expected), "{message}");
    }

    #[test]
    fn two_blocks_share_no_port() {
        let (one, other) = (PortBlock::find().expect("block"), PortBlock::find().expect("block"));
        assert!(one.port(0).abs_diff(other.port(0)) >= PortBlock::SIZE);
    }
}
