//! The store in etcd, for several masters of one cluster. Whoever holds the leader key reads and writes; the others stand by.
//!
//! Each write is one transaction that compares the leader key's creation, so that a deposed leader writes nothing, and
//! the sequence key's last change, so that a transaction whose answer was lost can be sent again: only one of the two
//! takes effect, and the sequence key tells which. A commit that is larger than a transaction may be is staged under keys of
//! its own, decided by one of them, and rolled forward by whoever leads.
//!
//! Keys below the prefix: `cluster`, `leader`, `sequence`, `state/…` (the entries), `staged/…` and `decided`.

mod calls;
mod leadership;
mod location;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, DeleteOptions, GetOptions, KeyValue, Txn, TxnOp, TxnOpResponse,
};
use millrace_common::shutdown::Shutdown;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;
use tracing::{info, warn};

use super::{Change, Entries};
use calls::{call, connect};
pub use leadership::Leader;
use leadership::Term;
pub use location::{EtcdFlags, EtcdLocation};

/// Form of the keys and values that this build reads and writes.
const FORMAT: u32 = 1;
/// Changes in one transaction: etcd takes 128 operations, of which the protocol needs some.
const MOST_CHANGES: usize = 124;
/// Bytes of changes in one transaction, as JSON: etcd takes 1.5 MiB.
const MOST_BYTES: usize = 1 << 20;
/// Keys read at a time.
const PAGE: i64 = 64;
/// Between two tries of a transaction whose answer was lost.
const RETRY: Duration = Duration::from_millis(100);

/// What etcd did not do.
#[derive(Debug, thiserror::Error)]
pub enum EtcdError {
    /// Another master leads, or nobody yet.
    #[error("this master stands by: {}", leader.as_ref().map_or_else(|| "no master leads yet".to_owned(), |leader| format!("the leader is {}", leader.address)))]
    Standby { leader: Option<Leader> },
    /// This master led, and does no more.
    #[error("this master's leadership has ended: another one may lead now")]
    Deposed,
    #[error(
        "{prefix} in etcd belongs to the cluster {found:?}, this master is one of {own:?}: give it --cluster {found}, or \
         another prefix in --state"
    )]
    Cluster { prefix: String, found: String, own: String },
    #[error(
        "{prefix} in etcd has format {found}, this master knows up to {FORMAT}: start the newer millrace that wrote it"
    )]
    Newer { prefix: String, found: u32 },
    #[error("the entry {key} in etcd can't be read ({reason}): restore etcd from a snapshot")]
    Damaged { key: String, reason: String },
    #[error(
        "etcd's database quota is used up, it takes no writes: compact and defragment it, or raise --quota-backend-bytes, \
         then `etcdctl alarm disarm`"
    )]
    Full,
    /// Asking again may help; what was asked may have been done.
    #[error("etcd at {endpoints} did not answer {what}: {reason}")]
    Away { endpoints: String, what: &'static str, reason: String },
    #[error("etcd at {endpoints} refuses {what}: {reason}")]
    Refused { endpoints: String, what: &'static str, reason: String },
    #[error("--etcd-…: {0}")]
    Flags(String),
    /// Somebody who is not the leader wrote below the prefix, or a late answer of this master's own came true.
    #[error("the keys below {prefix} in etcd were changed by somebody else: reading them anew")]
    Overtaken { prefix: String },
}

impl EtcdError {
    /// Whether waiting alone may change it.
    pub(crate) fn is_passing(&self) -> bool {
        match self {
            Self::Standby { .. }
            | Self::Deposed
            | Self::Full
            | Self::Away { .. }
            | Self::Overtaken { .. } => true,
            Self::Cluster { .. } | Self::Newer { .. } | Self::Damaged { .. } => false,
            Self::Refused { .. } | Self::Flags(_) => false,
        }
    }
}

/// The value of the key `cluster`.
#[derive(Debug, Serialize, Deserialize)]
struct ClusterKey {
    cluster: String,
    format: u32,
}

/// The value of the key `decided`: a commit that took place, of which some may still lie staged.
#[derive(Debug, Serialize, Deserialize)]
struct Decided {
    pieces: usize,
}

/// What a master is to its fellows.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(crate) cluster: String,
    pub(crate) me: Leader,
    /// A leader that is silent for this long leads no more; whole seconds.
    pub(crate) lease: Duration,
}

pub(crate) struct EtcdStore {
    location: EtcdLocation,
    flags: EtcdFlags,
    membership: Membership,
    client: Option<Client>,
    term: Option<Term>,
    /// Commits begun by this process; makes each one's word in the sequence key unique.
    begun: u64,
    shutdown: Shutdown,
    /// Ends a commit in the middle, as a crash would.
    #[cfg(test)]
    crash_after: Option<usize>,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore")
            .field("location", &self.location)
            .field("term", &self.term)
            .finish_non_exhaustive()
    }
}

impl EtcdStore {
    /// Asks nothing of etcd yet.
    pub(crate) fn new(
        location: EtcdLocation,
        flags: EtcdFlags,
        membership: Membership,
        shutdown: Shutdown,
    ) -> Self {
        Self {
            location,
            flags,
            membership,
            client: None,
            term: None,
            begun: 0,
            shutdown,
            #[cfg(test)]
            crash_after: None,
        }
    }

    /// Cancelled when this master leads no more; `None` while it does not lead.
    pub(crate) fn lost(&self) -> Option<tokio_util::sync::CancellationToken> {
        self.term.as_ref().map(|term| term.lost.clone())
    }

    /// Takes the leadership if nobody has it, and reads everything.
    pub(crate) async fn load(&mut self) -> Result<Entries, EtcdError> {
        let loaded = self.try_load().await;
        if matches!(loaded, Err(EtcdError::Deposed)) {
            self.term = None;
        }
        loaded
    }

    async fn try_load(&mut self) -> Result<Entries, EtcdError> {
        self.check_cluster().await?;
        self.lead().await?;
        self.fence().await?;
        self.roll_forward().await?;
        let folder = self.key("state/");
        let found = self.read_all(&folder).await?;
        found
            .into_iter()
            .map(|kv| Ok((text(kv.key())?[folder.len()..].to_owned(), text(kv.value())?)))
            .collect()
    }

    /// Changes all keys or none. After an error the outcome is unknown until [`EtcdStore::load`] succeeds.
    pub(crate) async fn commit(&mut self, changes: Vec<Change>) -> Result<(), EtcdError> {
        let mut pieces = pieces(changes);
        let committed = match (pieces.pop(), pieces.is_empty()) {
            (None, _) => Ok(()),
            (Some(only), true) => {
                let operations = only.into_iter().map(|change| self.operation(change)).collect();
                self.transact(operations).await
            }
            (Some(last), false) => {
                pieces.push(last);
                self.commit_staged(&pieces).await
            }
        };
        if matches!(committed, Err(EtcdError::Deposed)) {
            self.term = None;
        }
        committed
    }

    /// Gives the leadership up, so that another master need not wait for the lease to end.
    pub(crate) async fn resign(&mut self) {
        let (Some(term), Some(client)) = (self.term.take(), self.client.as_mut()) else { return };
        match call(&self.location, "the end of the leadership", client.lease_revoke(term.lease)).await {
            Ok(_) => info!("leadership given up"),
            Err(error) => warn!(%error, "leadership not given up: it ends with its lease"),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}/{name}", self.location.prefix)
    }

    async fn client(&mut self) -> Result<&mut Client, EtcdError> {
        if self.client.is_none() {
            self.client = Some(connect(&self.location, &self.flags).await?);
        }
        // Just set.
        self.client.as_mut().ok_or(EtcdError::Deposed)
    }

    /// The prefix is this cluster's, in a form that this build knows. The first master ever writes that.
    async fn check_cluster(&mut self) -> Result<(), EtcdError> {
        let (key, prefix) = (self.key("cluster"), self.location.prefix.clone());
        let own = self.membership.cluster.clone();
        let value = json(&ClusterKey { cluster: own.clone(), format: FORMAT });
        let txn = Txn::new()
            .when([Compare::create_revision(key.clone(), CompareOp::Equal, 0)])
            .and_then([TxnOp::put(key.clone(), value, None)])
            .or_else([TxnOp::get(key.clone(), None)]);
        let location = self.location.clone();
        let answer = call(&location, "whose cluster it is", self.client().await?.txn(txn)).await?;
        let Some(found) = first_found(&answer.op_responses()) else { return Ok(()) };
        let ClusterKey { cluster: found, format } = parse(&key, &found)?;
        if format > FORMAT {
            return Err(EtcdError::Newer { prefix, found: format });
        }
        if found != own {
            return Err(EtcdError::Cluster { prefix, found, own });
        }
        Ok(())
    }

    /// From here on no earlier transaction of this master, whose answer was lost, can take effect; nor this one, if it is
    /// late and tried again: the commits that follow would be refused for it.
    async fn fence(&mut self) -> Result<(), EtcdError> {
        loop {
            let sequence_key = self.key("sequence");
            let location = self.location.clone();
            let asked = self.client().await?.get(sequence_key, None);
            let found = call(&location, "the sequence", asked).await?;
            let term = self.term.as_mut().ok_or(EtcdError::Deposed)?;
            term.sequence = found.kvs().first().map_or(0, etcd_client::KeyValue::mod_revision);
            match self.transact(Vec::new()).await {
                // An earlier one arrived in between.
                Err(EtcdError::Overtaken { .. }) => {}
                fenced => return fenced,
            }
        }
    }

    /// One transaction: in effect when this returns without an error.
    async fn transact(&mut self, operations: Vec<TxnOp>) -> Result<(), EtcdError> {
        let (leader_key, sequence_key) = (self.key("leader"), self.key("sequence"));
        let word = self.next_word();
        let location = self.location.clone();
        let give_up = Instant::now() + self.membership.lease;
        loop {
            let term = self.term.as_ref().ok_or(EtcdError::Deposed)?;
            let in_sequence = Compare::mod_revision(sequence_key.clone(), CompareOp::Equal, term.sequence);
            let mut then = operations.clone();
            then.push(TxnOp::put(sequence_key.clone(), word.clone(), None));
            let txn = Txn::new()
                .when([term.compare(leader_key.clone()), in_sequence])
                .and_then(then)
                .or_else([TxnOp::get(leader_key.clone(), None), TxnOp::get(sequence_key.clone(), None)]);
            match call(&location, "a commit", self.client().await?.txn(txn)).await {
                Ok(answer) if answer.succeeded() => {
                    if let (Some(term), Some(header)) = (&mut self.term, answer.header()) {
                        term.sequence = header.revision();
                    }
                    return Ok(());
                }
                Ok(answer) => return self.judge(&answer.op_responses(), &word),
                // The next try finds out whether this one took effect.
                Err(EtcdError::Away { .. }) if Instant::now() < give_up => tokio::time::sleep(RETRY).await,
                Err(error) => return Err(error),
            }
        }
    }

    /// What a refused transaction means: `word` in the sequence key says that an earlier try of it took effect.
    fn judge(&mut self, answers: &[TxnOpResponse], word: &str) -> Result<(), EtcdError> {
        let term = self.term.as_mut().ok_or(EtcdError::Deposed)?;
        let mut found = answers.iter().map(|answer| match answer {
            TxnOpResponse::Get(found) => found.kvs().first().cloned(),
            _ => None,
        });
        let (leader, sequence) = (found.next().flatten(), found.next().flatten());
        if leader.is_none_or(|leader| leader.create_revision() != term.created) {
            return Err(EtcdError::Deposed);
        }
        match sequence {
            Some(sequence) if sequence.value() == word.as_bytes() => {
                term.sequence = sequence.mod_revision();
                Ok(())
            }
            _ => Err(EtcdError::Overtaken { prefix: self.location.prefix.clone() }),
        }
    }

    /// Stages the pieces, decides, and carries them out.
    async fn commit_staged(&mut self, pieces: &[Vec<Change>]) -> Result<(), EtcdError> {
        for (number, piece) in pieces.iter().enumerate() {
            self.crash_here(number)?;
            let key = self.key(&format!("staged/{number:06}"));
            self.transact(vec![TxnOp::put(key, json(piece), None)]).await?;
        }
        self.crash_here(pieces.len())?;
        let decided = json(&Decided { pieces: pieces.len() });
        self.transact(vec![TxnOp::put(self.key("decided"), decided, None)]).await?;
        self.carry_out(pieces.iter().cloned().map(Some).collect()).await
    }

    /// Carries out the staged pieces that are left, then forgets the decision.
    async fn carry_out(&mut self, pieces: Vec<Option<Vec<Change>>>) -> Result<(), EtcdError> {
        let count = pieces.len();
        for (number, piece) in pieces.into_iter().enumerate() {
            self.crash_here(count + 1 + number)?;
            let Some(piece) = piece else { continue };
            let staged = TxnOp::delete(self.key(&format!("staged/{number:06}")), None);
            let mut operations: Vec<TxnOp> = piece.into_iter().map(|change| self.operation(change)).collect();
            operations.push(staged);
            self.transact(operations).await?;
        }
        self.transact(vec![TxnOp::delete(self.key("decided"), None)]).await
    }

    /// Ends what a leader before has begun: a decided commit is carried out, an undecided one forgotten.
    async fn roll_forward(&mut self) -> Result<(), EtcdError> {
        let (decided_key, folder) = (self.key("decided"), self.key("staged/"));
        let decided = self.read_all(&decided_key).await?;
        let staged = self.read_all(&folder).await?;
        let Some(decided) = decided.first() else {
            if !staged.is_empty() {
                info!(pieces = staged.len(), "a commit that was never decided is forgotten");
                let options = DeleteOptions::new().with_prefix();
                self.transact(vec![TxnOp::delete(folder, Some(options))]).await?;
            }
            return Ok(());
        };
        let Decided { pieces: count } = parse(&decided_key, decided)?;
        let mut pieces = vec![None; count];
        for kv in &staged {
            let key = text(kv.key())?;
            let place = key[folder.len()..].parse::<usize>().ok().and_then(|number| pieces.get_mut(number));
            let place = place.ok_or_else(|| damaged(&key, "no piece of the decided commit"))?;
            *place = Some(parse(&key, kv)?);
        }
        info!(pieces = staged.len(), "a decided commit is carried out");
        self.carry_out(pieces).await
    }

    fn operation(&self, Change { key, value }: Change) -> TxnOp {
        let key = self.key(&format!("state/{key}"));
        match value {
            Some(value) => TxnOp::put(key, value, None),
            None => TxnOp::delete(key, None),
        }
    }

    /// All keys that begin with `prefix`, of one moment.
    async fn read_all(&mut self, prefix: &str) -> Result<Vec<KeyValue>, EtcdError> {
        let location = self.location.clone();
        let mut found: Vec<KeyValue> = Vec::new();
        let (mut from, mut revision) = (prefix.as_bytes().to_vec(), 0);
        let end = after_prefix(prefix);
        loop {
            let options = GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            // A page may be larger than tonic's own limit of 4 MiB.
            let mut keys = self.client().await?.kv_client().max_decoding_message_size(256 << 20);
            let mut answer = call(&location, "the state", keys.get(from.clone(), Some(options))).await?;
            revision = answer.header().map_or(revision, etcd_client::ResponseHeader::revision).max(revision);
            let more = answer.more();
            let page = answer.take_kvs();
            let last = page.last().map(|kv| kv.key().to_vec());
            found.extend(page);
            match last.filter(|_| more) {
                // The next key that can be.
                Some(last) => from = [last.as_slice(), &[0]].concat(),
                None => return Ok(found),
            }
        }
    }

    /// A word for the sequence key that no other commit has.
    fn next_word(&mut self) -> String {
        self.begun += 1;
        format!("{} {}", self.membership.me.id, self.begun)
    }

    #[cfg_attr(
        not(test),
        expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "tests crash here")
    )]
    fn crash_here(&self, _step: usize) -> Result<(), EtcdError> {
        #[cfg(test)]
        if self.crash_after == Some(_step) {
            return Err(EtcdError::Deposed);
        }
        Ok(())
    }
}

/// The changes in their order, so that each piece fits in a transaction. A key that comes twice has its last value.
fn pieces(changes: Vec<Change>) -> Vec<Vec<Change>> {
    let mut by_key = std::collections::BTreeMap::new();
    for Change { key, value } in changes {
        by_key.insert(key, value);
    }
    let mut pieces: Vec<Vec<Change>> = Vec::new();
    let mut bytes = 0;
    for (key, value) in by_key {
        let change = Change { key, value };
        // A staged piece is JSON of JSON: quotes and line breaks take more there than in the entry.
        let size = json(&change).len() + 1;
        match pieces.last_mut() {
            Some(piece) if piece.len() < MOST_CHANGES && bytes + size <= MOST_BYTES => {
                bytes += size;
                piece.push(change);
            }
            _ => {
                bytes = size;
                pieces.push(vec![change]);
            }
        }
    }
    pieces
}

/// The first key behind all that begin with `prefix`, which ends with an ASCII character.
fn after_prefix(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}

fn first_found(answers: &[TxnOpResponse]) -> Option<KeyValue> {
    answers.iter().find_map(|answer| match answer {
        TxnOpResponse::Get(found) => found.kvs().first().cloned(),
        _ => None,
    })
}

fn text(bytes: &[u8]) -> Result<String, EtcdError> {
    String::from_utf8(bytes.to_vec())
        .map_err(|error| damaged(&String::from_utf8_lossy(bytes), &error.to_string()))
}

fn parse<T: serde::de::DeserializeOwned>(key: &str, kv: &KeyValue) -> Result<T, EtcdError> {
    serde_json::from_slice(kv.value()).map_err(|error| damaged(key, &error.to_string()))
}

fn damaged(key: &str, reason: &str) -> EtcdError {
    EtcdError::Damaged { key: key.to_owned(), reason: reason.to_owned() }
}

/// Plain fields always have a JSON form.
fn json(value: &impl Serialize) -> String {
    serde_json::to_string(value).unwrap_or_else(|error| panic!("plain fields: {error}"))
}
