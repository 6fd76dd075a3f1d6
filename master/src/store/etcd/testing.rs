//! Makings for tests on the real etcd that `MILLRACE_TEST_ETCD` names.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use etcd_client::Client;
use millrace_common::shutdown::Shutdown;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{EtcdFlags, EtcdLocation, EtcdStore, Leader, Membership};
use crate::store::{Kind, Store};

pub(crate) const LEASE: Duration = Duration::from_secs(2);

fn endpoints() -> String {
    std::env::var("MILLRACE_TEST_ETCD")
        .expect("MILLRACE_TEST_ETCD must name an etcd for this test; `make test` starts one")
}

/// A place in etcd that no other test has.
pub(crate) struct Prefix {
    pub(super) location: EtcdLocation,
    shutdown: Shutdown,
}

impl Prefix {
    pub(crate) fn new(name: &str) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let text = format!("{}/test/{name}-{}-{number}", endpoints(), std::process::id());
        Self { location: EtcdLocation::parse(&text).expect("a location"), shutdown: Shutdown::new() }
    }

    /// A master's store; it does not lead yet.
    pub(crate) fn store(&self, master: &str) -> Store {
        Store(Kind::Etcd(Box::new(self.etcd_store(master))))
    }

    pub(super) fn etcd_store(&self, master: &str) -> EtcdStore {
        EtcdStore::new(
            self.location.clone(),
            EtcdFlags::default(),
            membership(master, "millrace"),
            self.shutdown.clone(),
        )
    }

    /// The same place, reached by way of `proxy` alone.
    pub(super) fn through(&self, proxy: &Proxy, master: &str) -> EtcdStore {
        let location = EtcdLocation { endpoints: vec![proxy.address.clone()], ..self.location.clone() };
        EtcdStore::new(location, EtcdFlags::default(), membership(master, "millrace"), self.shutdown.clone())
    }

    pub(super) fn of_cluster(&self, cluster: &str) -> EtcdStore {
        let member = membership("other", cluster);
        EtcdStore::new(self.location.clone(), EtcdFlags::default(), member, self.shutdown.clone())
    }

    /// Ends the leadership behind the leader's back.
    pub(crate) async fn depose(&self) {
        let key = format!("{}/leader", self.location.prefix);
        self.client().await.delete(key, None).await.expect("deleted");
    }

    pub(super) async fn client(&self) -> Client {
        Client::connect(&self.location.endpoints, None).await.expect("etcd")
    }
}

fn membership(master: &str, cluster: &str) -> Membership {
    let me = Leader {
        id: master.to_owned(),
        address: format!("{master}:7077"),
        page: format!("http://{master}:18080"),
    };
    Membership { cluster: cluster.to_owned(), me, lease: LEASE }
}

/// Between a master and one member of etcd: can lose answers.
pub(super) struct Proxy {
    pub(super) address: String,
    losing: Arc<AtomicBool>,
    lost: Arc<AtomicU32>,
}

impl Proxy {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("address").to_string();
        let target = endpoints().split(',').next().expect("a member").to_owned();
        let (losing, lost) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
        let proxy = Self { address, losing: Arc::clone(&losing), lost: Arc::clone(&lost) };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(&target).await.expect("etcd");
                tokio::spawn(forward(client, server, Arc::clone(&losing), Arc::clone(&lost)));
            }
        });
        proxy
    }

    /// The next answer is lost, with its connection.
    pub(super) fn lose_next(&self) {
        self.losing.store(true, Ordering::SeqCst);
    }

    pub(super) fn lost(&self) -> u32 {
        self.lost.load(Ordering::SeqCst)
    }
}

async fn forward(client: TcpStream, server: TcpStream, losing: Arc<AtomicBool>, lost: Arc<AtomicU32>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let there = async { drop(tokio::io::copy(&mut from_client, &mut to_server).await) };
    let back = async {
        let mut bytes = vec![0; 1 << 16];
        while let Ok(count @ 1..) = from_server.read(&mut bytes).await {
            // Small frames are pings and acknowledgements of them.
            if count > 60 && losing.swap(false, Ordering::SeqCst) {
                lost.fetch_add(1, Ordering::SeqCst);
                return;
            }
            if to_client.write_all(&bytes[..count]).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        () = there => {}
        () = back => {}
    }
}
