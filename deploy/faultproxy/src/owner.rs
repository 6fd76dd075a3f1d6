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
    /// Of the connection from `client` to `server`, as both are seen here.
    pub(crate) fn of(client: SocketAddr, server: SocketAddr) -> Self {
        let read =
            || fs::read_to_string("/proc/net/tcp").ok().and_then(|table| inode(&table, client, server));
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

/// The inode of the socket with these addresses, from the text of `/proc/net/tcp`. One local port may have connections to
/// several places, and those that have ended stand there for a while with the inode 0.
fn inode(table: &str, local: SocketAddr, remote: SocketAddr) -> Option<u64> {
    let (local, remote) = (shown(local)?, shown(remote)?);
    table.lines().skip(1).find_map(|line| {
        let mut fields = line.split_whitespace().skip(1);
        let is_it = fields.next()? == local && fields.next()? == remote;
        let inode = is_it.then(|| fields.nth(6)?.parse().ok())?;
        inode.filter(|inode| *inode != 0)
    })
}

/// The kernel prints an address as one number in the machine's own order.
fn shown(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port()))
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
            let owner = Owner::of(address, listener.local_addr().expect("address"));
            assert!(owner.is(std::process::id()));
            assert!(!owner.is(1));
        }
        others.join().expect("no panic");
    }

    #[test]
    fn a_port_with_several_connections_and_ended_ones_is_told_apart() {
        let line = |remote: &str, inode: u32| {
            format!(
                "   1: 0100007F:A001 0200007F:{remote} 01 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0"
            )
        };
        let table = ["header".to_owned(), line("1111", 7), line("2222", 0), line("2222", 8)].join("\n");
        let (local, remote) =
            (SocketAddr::from(([127, 0, 0, 1], 0xA001)), SocketAddr::from(([127, 0, 0, 2], 0x2222)));
        assert_eq!(inode(&table, local, remote), Some(8));
        assert_eq!(inode(&table, remote, local), None);
    }
}
