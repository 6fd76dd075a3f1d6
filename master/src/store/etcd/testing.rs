//! Makings for tests on the real etcd that `MILLRACE_TEST_ETCD` names.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use etcd_client::Client;
use millrace_common::shutdown::Shutdown;
use millrace_faultproxy::{Active, Answers, Proxy, Trouble, Whom, Wire};

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
        let location = EtcdLocation { endpoints: vec![proxy.address().to_string()], ..self.location.clone() };
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

/// Smaller answers of etcd's are pings and acknowledgements of them.
const REAL_ANSWER: usize = 61;

/// Between a master and one member of etcd.
pub(super) async fn proxy() -> Proxy {
    let member = endpoints().split(',').next().expect("a member").parse().expect("an address");
    Proxy::start(([127, 0, 0, 1], 0).into(), member, Wire::Bytes).await.expect("a port")
}

/// The next answer is lost, with its connection.
pub(super) fn lose_next(proxy: &Proxy) -> Arc<Active> {
    let which = Answers::OfBytes(REAL_ANSWER);
    proxy.begin(Whom::Everybody, Trouble::LoseAnswers { which, times: 1 })
}
