//! Who leads: the master whose key `leader` exists. The key goes with its lease, which the leader keeps alive.
//!
//! What a master believes of its own leadership is a hint that saves work: each write compares the key itself.

use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, KeyValue, PutOptions, Txn, TxnOp};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

use super::calls::call;
use super::location::EtcdLocation;
use super::{EtcdError, EtcdStore, first_found, json, parse};

/// A master, as its fellows, workers and people find it: the value of the key `leader`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leader {
    /// Of one process: never used again.
    pub id: String,
    /// `host:port` for workers and the command line.
    pub address: String,
    /// URL of its page, without a trailing slash.
    pub page: String,
}

/// A span of leadership of this master. Dropped when it ends.
#[derive(Debug)]
pub(super) struct Term {
    pub(super) lease: i64,
    /// The leader key's creation: no other term has the same.
    pub(super) created: i64,
    /// The sequence key's last change by this master.
    pub(super) sequence: i64,
    pub(super) lost: CancellationToken,
}

impl Drop for Term {
    fn drop(&mut self) {
        self.lost.cancel();
    }
}

impl Term {
    /// True while the leader key is this term's.
    pub(super) fn compare(&self, leader_key: String) -> Compare {
        Compare::create_revision(leader_key, CompareOp::Equal, self.created)
    }
}

impl EtcdStore {
    /// Leads from here on, or finds out who does.
    pub(super) async fn lead(&mut self) -> Result<(), EtcdError> {
        let (key, location) = (self.key("leader"), self.location.clone());
        let answer = call(&location, "who leads", self.client().await?.get(key.clone(), None)).await?;
        let known = answer.kvs().first();
        if let Some(term) = &self.term {
            if !term.lost.is_cancelled() && known.is_some_and(|known| known.create_revision() == term.created)
            {
                return Ok(());
            }
            self.term = None;
        }
        match known {
            Some(known) => self.follow_or_adopt(&key, known),
            None => self.campaign(key).await,
        }
    }

    /// The key may be this master's own: the answer to its campaign was lost.
    fn follow_or_adopt(&mut self, key: &str, known: &KeyValue) -> Result<(), EtcdError> {
        let leader: Leader = parse(key, known)?;
        if leader != self.membership.me {
            return Err(EtcdError::Standby { leader: Some(leader) });
        }
        self.begin_term(known.lease(), known.create_revision(), Instant::now());
        Ok(())
    }

    async fn campaign(&mut self, key: String) -> Result<(), EtcdError> {
        let (location, me) = (self.location.clone(), json(&self.membership.me));
        let seconds = i64::try_from(self.membership.lease.as_secs()).unwrap_or(i64::MAX);
        let asked = Instant::now();
        let client = self.client().await?;
        let lease = call(&location, "a lease", client.lease_grant(seconds, None)).await?.id();
        let txn = Txn::new()
            .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.clone(), me, Some(PutOptions::new().with_lease(lease)))])
            .or_else([TxnOp::get(key.clone(), None)]);
        let answer = call(&location, "the leadership", client.txn(txn)).await?;
        if answer.succeeded() {
            let created = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            self.begin_term(lease, created, asked);
            return Ok(());
        }
        if let Err(error) = call(&location, "the end of a lease", client.lease_revoke(lease)).await {
            debug!(%error, "an unused lease ends by itself");
        }
        let leader = first_found(&answer.op_responses()).map(|known| parse(&key, &known)).transpose()?;
        Err(EtcdError::Standby { leader })
    }

    /// `asked`: when the lease was surely alive.
    fn begin_term(&mut self, lease: i64, created: i64, asked: Instant) {
        info!(master = self.membership.me.id, term = created, "this master leads");
        let lost = CancellationToken::new();
        self.term = Some(Term { lease, created, sequence: 0, lost: lost.clone() });
        if let Some(client) = self.client.clone() {
            let (location, span) = (self.location.clone(), self.membership.lease);
            let keeping = keep_alive(client, location, lease, span, asked, lost.clone());
            self.shutdown.spawn("leadership", async move {
                tokio::select! {
                    () = keeping => lost.cancel(),
                    () = lost.cancelled() => {}
                }
            });
        }
    }
}

/// Ends when the lease has ended, or may have: `span` after the last answer's question.
async fn keep_alive(
    mut client: Client,
    location: EtcdLocation,
    lease: i64,
    span: Duration,
    mut alive_at: Instant,
    lost: CancellationToken,
) {
    let pause = span / 4;
    while !lost.is_cancelled() {
        tokio::time::sleep(pause).await;
        if alive_at.elapsed() >= span {
            return warn!("etcd did not hear this master for a whole lease: it leads no more");
        }
        let asked = Instant::now();
        match call(&location, "for the leadership", client.lease_keep_alive(lease)).await {
            Ok(_) => alive_at = asked,
            Err(EtcdError::Refused { reason, .. }) => {
                return warn!(reason, "the lease has ended: this master leads no more");
            }
            Err(error) => {
                warn!(%error, left = ?span.saturating_sub(alive_at.elapsed()), "leadership not renewed");
            }
        }
    }
}
