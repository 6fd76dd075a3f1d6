//! A proxy: where it listens, what troubles are on, and the connections that it carries.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, watch};
use tokio::task::{JoinHandle, JoinSet};

use crate::connection::{self, End, reset};
use crate::frames::Wire;
use crate::owner::Owner;
use crate::trouble::{Active, Trouble, Whom};

/// A TCP proxy for one server. Dropping it closes what it carries.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// What all connections see.
#[derive(Debug)]
pub(crate) struct Shared {
    troubles: Mutex<Vec<Arc<Active>>>,
    /// Changes with them.
    version: watch::Sender<u64>,
    connections: Mutex<HashMap<u64, Arc<Carried>>>,
}

/// A connection that is carried.
#[derive(Debug)]
pub(crate) struct Carried {
    pub(crate) owner: Owner,
    pub(crate) reset: Notify,
}

impl Carried {
    fn is_of(&self, whom: Whom) -> bool {
        match whom {
            Whom::Everybody => true,
            Whom::Process(process) => self.owner.is(process),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// The troubles that are on for a connection.
    pub(crate) fn troubles(&self, carried: &Carried) -> Vec<Arc<Active>> {
        let troubles = lock(&self.troubles);
        troubles.iter().filter(|active| carried.is_of(active.whom)).map(Arc::clone).collect()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }
}

impl Proxy {
    /// Listens on `listen` (port 0 takes a free one) and carries every connection to `target`.
    ///
    /// # Errors
    /// When it can't listen there.
    pub async fn start(listen: SocketAddr, target: SocketAddr, wire: Wire) -> io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            troubles: Mutex::default(),
            version: watch::Sender::default(),
            connections: Mutex::default(),
        });
        let accepting = tokio::spawn(accept(listener, target, wire, Arc::clone(&shared)));
        Ok(Self { address, shared, accepting })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Begins a trouble; it lasts until [`Proxy::end`].
    pub fn begin(&self, whom: Whom, trouble: Trouble) -> Arc<Active> {
        let active = Arc::new(Active::new(whom, trouble));
        lock(&self.shared.troubles).push(Arc::clone(&active));
        self.shared.changed();
        active
    }

    /// Ends a trouble: what it held goes on.
    pub fn end(&self, active: &Arc<Active>) {
        lock(&self.shared.troubles).retain(|other| !Arc::ptr_eq(other, active));
        self.shared.changed();
    }

    /// Resets connections, and drops what they held. Returns how many.
    pub fn reset(&self, whom: Whom) -> usize {
        let connections = lock(&self.shared.connections);
        let hit = connections.values().filter(|carried| carried.is_of(whom));
        hit.map(|carried| carried.reset.notify_one()).count()
    }

    /// How many connections it carries.
    pub fn connections(&self, whom: Whom) -> usize {
        lock(&self.shared.connections).values().filter(|carried| carried.is_of(whom)).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections are tasks of the one that accepts, and end with it.
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, target: SocketAddr, wire: Wire, shared: Arc<Shared>) {
    let mut carrying = JoinSet::new();
    let mut number = 0;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = carrying.join_next() => continue,
        };
        // It was reset before it was taken; or there are no handles left, and the next one waits.
        let Ok((client, address)) = accepted else {
            tokio::task::yield_now().await;
            continue;
        };
        let Ok(here) = client.local_addr() else { continue };
        number += 1;
        let carried = Arc::new(Carried { owner: Owner::of(address, here), reset: Notify::new() });
        let refused = shared.troubles(&carried).into_iter().find(|active| active.trouble == Trouble::Refuse);
        if let Some(refused) = refused {
            refused.bite();
            reset(&client);
            continue;
        }
        lock(&shared.connections).insert(number, Arc::clone(&carried));
        let (number, shared) = (number, Arc::clone(&shared));
        carrying.spawn(async move {
            carry(client, target, wire, &shared, &carried).await;
            lock(&shared.connections).remove(&number);
        });
    }
}

async fn carry(mut client: TcpStream, target: SocketAddr, wire: Wire, shared: &Shared, carried: &Carried) {
    let mut server = match TcpStream::connect(target).await {
        Ok(server) => server,
        Err(_) => {
            reset(&client);
            return;
        }
    };
    // Both ends set it; a proxy must not be slower than the wire.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let mut answers = crate::frames::Frames::new(wire);
    let end = tokio::select! {
        end = connection::carry(&mut client, &mut server, &mut answers, wire, shared, carried) => end,
        () = carried.reset.notified() => End::Reset,
    };
    match end {
        End::Closed => {}
        End::Reset => {
            reset(&client);
            reset(&server);
        }
        End::Late(late) => {
            reset(&client);
            drop(client);
            connection::deliver_late(server, answers, late).await;
        }
    }
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
