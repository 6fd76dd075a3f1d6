//! Which process of this machine has the other end of a connection, by the kernel's tables below /proc.

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Mutex, PoisonError};

/// How often the table is read until the client is found.
const TRIES: u32 = 10;

/// The client's end of a connection.
#[derive(Debug)]
pub(crate) struct Owner {
    /// Of the client's socket; `None` when it is not on this machine, or gone already.
    inode: Option<u64>,
    /// A socket keeps its process: each is asked for once.
    known: Mutex<HashMap<u32, bool>>,
}

impl Owner {
    pub(crate) fn of(client: SocketAddr) -> Self {
        let read = || fs::read_to_string("/proc/net/tcp").ok().and_then(|table| inode(&table, client));
        // The kernel writes the table piece by piece, and lines are skipped when sockets come and go meanwhile.
        let inode = (0..TRIES).find_map(|_| read());
        Self { inode, known: Mutex::default() }
    }

    pub(crate) fn is(&self, process: u32) -> bool {
        let Some(inode) = self.inode else { return false };
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        *known.entry(process).or_insert_with(|| has_socket(process, inode))
    }
}

/// The inode of the socket with this local address, from the text of `/proc/net/tcp`.
fn inode(table: &str, local: SocketAddr) -> Option<u64> {
    let IpAddr::V4(address) = local.ip() else { return None };
    // The kernel prints the address as one number in the machine's own order.
    let wanted = format!("{:08X}:{:04X}", u32::from_ne_bytes(address.octets()), local.port());
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace();
        (fields.nth(1)? == wanted).then(|| fields.nth(7)?.parse().ok())?
    })
}

fn has_socket(process: u32, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(open) = fs::read_dir(format!("/proc/{process}/fd")) else { return false };
    open.filter_map(Result::ok)
        .filter_map(|entry| fs::read_link(entry.path()).ok())
        .any(|target| target.as_os_str() == wanted.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_other_end_of_a_connection_is_this_processs() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let client =
            tokio::net::TcpStream::connect(listener.local_addr().expect("address")).await.expect("connected");
        let (_server, address) = listener.accept().await.expect("accepted");
        assert_eq!(client.local_addr().expect("address"), address);
        // Other sockets come and go meanwhile.
        let others = std::thread::spawn(|| {
            for _ in 0..2_000 {
                drop(std::net::TcpListener::bind("127.0.0.1:0").expect("listener"));
            }
        });
        for _ in 0..50 {
            let owner = Owner::of(address);
            assert!(owner.is(std::process::id()));
            assert!(!owner.is(1));
        }
        others.join().expect("no panic");
    }
}
