//! One task owns the coordinator: events in, writes to the store, and only then directives out.
//!
//! When the outcome of a write is unknown it drops what it knows, ends all sessions, reads the store anew and goes on;
//! the workers register again and keep their slots. The same when another master leads, until this one does again.
//! It talks to nobody but the store and the sessions' channels.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::backoff::Backoff;
use millrace_common::shutdown::Shutdown;
use millrace_common::types::{Millis, PipelineId, SlotReport, WorkerId, WorkerSpec};
use millrace_master_core::{
    Coordinator, Directive, Event, Record, RecordBody, Rejection, RestoreError, Settings,
};
use millrace_proto::v1::MasterMessage;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::{debug, error, info, warn};

use crate::built_in::{self, BuiltIn};
use crate::config::{AnotherPipeline, PipelineConfig};
use crate::handle::{Handle, Look, Refused, Request, SessionLink};
use crate::health::Health;
use crate::metrics::Counters;
use crate::probe;
use crate::records::{self, Submission, UnreadableEntry};
use crate::snapshot::unix_now_ms;
use crate::store::{Change, EtcdError, Store, StoreError};

/// Name under which the driver waits in `/readyz`.
const PART: &str = "store";
/// How often a standby looks whether the leader's place is free.
const STANDBY: Duration = Duration::from_millis(500);

/// Monotonic time since the master's start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(Instant);

impl Clock {
    pub(crate) fn start() -> Self {
        Self(Instant::now())
    }

    fn now(self) -> Millis {
        Millis(crate::config::millis(self.0.elapsed()))
    }

    fn instant(self, at: Millis) -> Instant {
        self.0 + Duration::from_millis(at.0)
    }
}

/// The store holds no state to go on from.
#[derive(Debug, thiserror::Error)]
pub enum RestoreFailure {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Entry(#[from] UnreadableEntry),
    #[error("the state can't be restored: {0}")]
    Records(#[from] RestoreError),
    #[error(transparent)]
    Flags(#[from] AnotherPipeline),
}

impl RestoreFailure {
    /// Whether waiting alone may change it.
    fn is_passing(&self) -> bool {
        matches!(self, Self::Store(error) if error.is_passing())
    }

    fn refused(&self) -> Refused {
        match self {
            Self::Store(StoreError::Etcd(EtcdError::Standby { leader })) => {
                Refused::Standby { leader: leader.clone() }
            }
            other => Refused::Unavailable(other.to_string()),
        }
    }
}

/// What the driver is built from.
#[derive(Debug)]
pub(crate) struct Parts {
    pub(crate) store: Store,
    pub(crate) settings: Settings,
    /// Told to each worker.
    pub(crate) master_id: String,
    /// The built-in pipeline's flags; `None` when there is none.
    pub(crate) built_in: Option<PipelineConfig>,
    pub(crate) health: Health,
    pub(crate) counters: Counters,
    pub(crate) shutdown: Shutdown,
}

#[derive(Debug)]
pub(crate) struct Driver {
    parts: Parts,
    coordinator: Coordinator,
    clock: Clock,
    handle: Handle,
    requests: mpsc::Receiver<Request>,
    sessions: BTreeMap<u64, SessionLink>,
    /// Never given twice.
    next_session: u64,
    pids: BTreeMap<WorkerId, u32>,
    /// Ids of pipelines that are about to be admitted, by name; stored.
    submissions: BTreeMap<String, Submission>,
    /// The built-in pipeline as this master found it when it began to lead; `None` while it does not.
    leading: watch::Sender<Option<BuiltIn>>,
    /// Why the state is not restored yet.
    failure: Option<RestoreFailure>,
    /// A commit failed: nothing is served before the state is restored.
    doubt: Option<StoreError>,
}

impl Driver {
    /// Restores the coordinator from the store, or finds out that another master leads.
    pub(crate) async fn new(mut parts: Parts) -> Result<(Self, Handle), RestoreFailure> {
        let clock = Clock::start();
        let (restored, failure) = match restore(&mut parts, clock).await {
            Ok(restored) => (restored, None),
            Err(failure) if failure.is_passing() => {
                let coordinator = Coordinator::restore(parts.settings.clone(), Vec::new(), clock.now())?;
                let (pids, submissions) = (BTreeMap::new(), BTreeMap::new());
                (Restored { coordinator, pids, submissions, built_in: BuiltIn::Absent }, Some(failure))
            }
            Err(failure) => {
                // This process ends; another master, with other flags, may be able to.
                parts.store.resign().await;
                return Err(failure);
            }
        };
        let Restored { coordinator, pids, submissions, built_in } = restored;
        let (handle, requests) = Handle::new();
        parts.counters.leader.set(i64::from(failure.is_none()));
        let driver = Self {
            leading: watch::Sender::new(Some(built_in).filter(|_| failure.is_none())),
            failure,
            doubt: None,
            parts,
            coordinator,
            clock,
            handle: handle.clone(),
            requests,
            sessions: BTreeMap::new(),
            next_session: 1,
            pids,
            submissions,
        };
        Ok((driver, handle))
    }

    /// Tells when this master leads, and with which built-in pipeline.
    pub(crate) fn leading(&self) -> watch::Receiver<Option<BuiltIn>> {
        self.leading.subscribe()
    }

    /// Serves requests until the shutdown begins; then ends all sessions and lets another master lead.
    pub(crate) async fn run(mut self) {
        let shutdown = self.parts.shutdown.clone();
        if let Some(failure) = self.failure.take() {
            self.wait_for_the_state(failure).await;
        }
        while !shutdown.has_begun() {
            if let Some(error) = self.doubt.take() {
                self.recover(error).await;
                continue;
            }
            let lost = self.parts.store.lost();
            let deadline = self.coordinator.next_deadline().map(|at| self.clock.instant(at));
            tokio::select! {
                // What workers said before the deadline counts.
                biased;
                () = shutdown.begun() => break,
                () = lost.cancelled() => self.recover(EtcdError::Deposed.into()).await,
                Some(request) = self.requests.recv() => self.serve(request).await,
                () = reached(deadline) => {
                    if let Err(refused) = self.apply(Event::DeadlineReached).await {
                        warn!(%refused, "deadline not handled");
                    }
                }
            }
        }
        self.end_all_sessions();
        self.parts.store.resign().await;
    }

    async fn serve(&mut self, request: Request) {
        match request {
            Request::Register { spec, running, link, answer } => {
                let worker = spec.id.clone();
                let registered = self.register(*spec, running, link).await;
                if let Err(Ok(session)) = answer.send(registered) {
                    // The connection was gone before the answer.
                    self.end_session(session);
                    self.tell(Event::SessionLost { session, worker }).await;
                }
            }
            Request::Tell(event) => self.tell(event).await,
            Request::Apply { event, answer } => {
                // Whoever asked may have given up.
                let _ = answer.send(self.apply(event).await);
            }
            Request::Reserve { name, answer } => {
                let _ = answer.send(self.reserve(name).await);
            }
            Request::Look { answer } => {
                let _ = answer.send(Ok(self.look()));
            }
            Request::Plan { answer } => {
                let _ = answer.send(Ok(self.coordinator.plan()));
            }
        }
    }

    async fn register(
        &mut self,
        spec: WorkerSpec,
        running: Vec<SlotReport>,
        link: SessionLink,
    ) -> Result<u64, Refused> {
        let session = self.next_session;
        self.next_session += 1;
        let registered =
            MasterMessage::registered(self.parts.settings.heartbeat.0, self.parts.master_id.clone());
        // The first message in the channel, before any grant; nobody reads it if the registration is refused.
        let _ = link.outbound.try_send(Ok(registered));
        self.sessions.insert(session, link);
        let (worker, pid, slots) = (spec.id.clone(), spec.pid, running.len());
        let applied = self.apply(Event::WorkerRegistered { session, spec, running }).await;
        match applied {
            Ok(()) => {
                info!(%worker, pid, slots, session, "worker registered");
                self.pids.insert(worker, pid);
                self.parts.counters.registrations.inc();
                Ok(session)
            }
            Err(refused) => {
                warn!(%worker, pid, %refused, "worker refused");
                self.sessions.remove(&session);
                Err(refused)
            }
        }
    }

    async fn tell(&mut self, event: Event) {
        if let Event::SessionLost { session, worker } = &event {
            info!(%worker, session, "session lost");
            self.sessions.remove(session);
        }
        if matches!(event, Event::Heartbeat { .. }) {
            self.parts.counters.heartbeats.inc();
        }
        match self.apply(event).await {
            Ok(()) | Err(Refused::Unavailable(_) | Refused::Standby { .. }) => {}
            Err(Refused::Rejected(rejection)) => {
                if let Rejection::StaleSession { session, .. } = &rejection {
                    self.end_session(*session);
                }
                warn!(%rejection, "a worker's message is refused");
            }
        }
    }

    async fn apply(&mut self, event: Event) -> Result<(), Refused> {
        let admitted = match &event {
            Event::PipelineSubmitted { definition, .. } => Some(definition.name.clone()),
            _ => None,
        };
        let step = self.coordinator.apply(self.clock.now(), event)?;
        if !step.writes.is_empty() {
            let mut changes: Vec<Change> = step.writes.iter().map(records::change).collect();
            // The pipeline's own record takes the place of its reservation.
            let reserved = admitted.filter(|name| self.submissions.contains_key(name));
            changes.extend(reserved.as_deref().map(records::remove_submission));
            self.commit(changes).await?;
            reserved.and_then(|name| self.submissions.remove(&name));
        }
        for directive in step.directives {
            self.carry_out(directive);
        }
        Ok(())
    }

    /// Whoever asked is answered before the state is restored, for that may last until this master leads again.
    async fn commit(&mut self, changes: Vec<Change>) -> Result<(), Refused> {
        if let Err(error) = self.parts.store.commit(changes).await {
            let refused = Refused::Unavailable(error.to_string());
            self.doubt = Some(error);
            return Err(refused);
        }
        self.parts.counters.commits.inc();
        Ok(())
    }

    async fn reserve(&mut self, name: String) -> Result<Submission, Refused> {
        if let Some(reserved) = self.submissions.get(&name) {
            return Ok(reserved.clone());
        }
        let random: u32 = rand::random_range(0..1 << 24);
        let pipeline = PipelineId::new(format!("{name}-{random:06x}"))
            .map_err(|error| Refused::Unavailable(error.to_string()))?;
        let submission = Submission { pipeline, submitted_at_ms: unix_now_ms() };
        self.commit(vec![records::put_submission(&name, &submission)]).await?;
        self.submissions.insert(name, submission.clone());
        Ok(submission)
    }

    fn carry_out(&mut self, directive: Directive) {
        match directive {
            Directive::Grant { worker, session, slot, epoch, opened, definition, deaths, skip_lost } => {
                info!(%worker, %slot, %epoch, opened, deaths, ?skip_lost, "grant");
                self.parts.counters.grants.inc();
                let grant = MasterMessage::grant(&slot, epoch, opened, &definition, deaths, skip_lost);
                self.send(session, &worker, grant);
            }
            Directive::Revoke { worker, session, slot, epoch } => {
                info!(%worker, %slot, %epoch, "revoke");
                self.send(session, &worker, MasterMessage::revoke(&slot, epoch));
            }
            Directive::ReportAll { worker, session } => {
                debug!(%worker, session, "what it runs is not what is known of it: asking for all reports");
                self.send(session, &worker, MasterMessage::report_all());
            }
            Directive::Leave { worker, session } => self.send(session, &worker, MasterMessage::leave()),
            Directive::Probe { worker, host, port } => {
                let handle = self.handle.clone();
                self.parts.shutdown.spawn(format!("probe of {worker}"), async move {
                    if probe::is_process_gone(&host, port).await {
                        info!(%worker, host, port, "its port refuses connections: the process is gone");
                        handle.tell(Event::ProcessGone { worker }).await;
                    }
                });
            }
            Directive::EndSession { worker, session } => {
                info!(%worker, session, "session ended: a later one has taken its place");
                self.end_session(session);
            }
        }
    }

    /// A message that can't be sent is repaired by the core when the worker's next heartbeat does not show it.
    fn send(&mut self, session: u64, worker: &WorkerId, message: MasterMessage) {
        let Some(link) = self.sessions.get(&session) else { return };
        match link.outbound.try_send(Ok(message)) {
            Ok(()) | Err(TrySendError::Closed(_)) => {}
            Err(TrySendError::Full(_)) => {
                warn!(%worker, session, "the worker does not read its messages, ending its session");
                self.end_session(session);
            }
        }
    }

    /// The session's own task tells the loss when it has ended.
    fn end_session(&mut self, session: u64) {
        if let Some(link) = self.sessions.remove(&session) {
            link.cut.cancel();
        }
    }

    fn end_all_sessions(&mut self) {
        for link in std::mem::take(&mut self.sessions).into_values() {
            link.cut.cancel();
        }
    }

    /// Begins anew from the store, however long that takes.
    async fn recover(&mut self, error: StoreError) {
        error!(%error, "the state is not this master's alone any more, or a change may or may not be stored");
        self.parts.counters.store_failures.inc();
        self.parts.counters.leader.set(0);
        self.leading.send_replace(None);
        self.end_all_sessions();
        if let Err(failure) = self.take_over().await {
            self.wait_for_the_state(failure).await;
        }
    }

    /// Goes on from what the store holds.
    async fn take_over(&mut self) -> Result<(), RestoreFailure> {
        let restored = restore(&mut self.parts, self.clock).await?;
        self.coordinator = restored.coordinator;
        self.submissions = restored.submissions;
        self.pids.extend(restored.pids);
        self.parts.health.set_ready(PART);
        self.parts.counters.leader.set(1);
        self.leading.send_replace(Some(restored.built_in));
        info!("state restored");
        Ok(())
    }

    /// Tries again until it leads, or the shutdown begins. Everybody who asks meanwhile is told why not.
    async fn wait_for_the_state(&mut self, mut failure: RestoreFailure) {
        let shutdown = self.parts.shutdown.clone();
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let mut said = None;
        while !shutdown.has_begun() {
            let (refused, wait) = (failure.refused(), backoff.next_wait());
            let is_standby = matches!(refused, Refused::Standby { .. });
            if is_standby {
                // Nothing is wrong with it.
                self.parts.health.set_ready(PART);
                backoff.reset();
            } else {
                self.parts.health.set_waiting(PART, refused.to_string());
            }
            if !failure.is_passing() {
                // Another master may be able to.
                self.parts.store.resign().await;
            }
            if said.as_ref() != Some(&refused) {
                if is_standby {
                    info!(reason = %refused, "standing by");
                } else {
                    error!(reason = %failure, tries = backoff.tries(), "the state can't be restored, trying again");
                }
                said = Some(refused.clone());
            }
            self.refuse_until(Instant::now() + if is_standby { STANDBY } else { wait }, &refused).await;
            match self.take_over().await {
                Ok(()) => return,
                Err(again) => failure = again,
            }
        }
    }

    async fn refuse_until(&mut self, retry: Instant, refused: &Refused) {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(retry) => return,
                () = self.parts.shutdown.begun() => return,
                Some(request) = self.requests.recv() => match request {
                    Request::Tell(_) => {}
                    // Whoever asked may have given up.
                    Request::Register { answer, .. } => drop(answer.send(Err(refused.clone()))),
                    Request::Apply { answer, .. } => drop(answer.send(Err(refused.clone()))),
                    Request::Reserve { answer, .. } => drop(answer.send(Err(refused.clone()))),
                    Request::Look { answer } => drop(answer.send(Err(refused.clone()))),
                    Request::Plan { answer } => drop(answer.send(Err(refused.clone()))),
                },
            }
        }
    }

    fn look(&mut self) -> Look {
        let view = self.coordinator.view();
        self.pids.retain(|id, _| {
            view.workers.iter().any(|worker| worker.spec.id == *id)
                || view.losses.iter().any(|loss| loss.worker == *id)
        });
        let ids =
            self.submissions.iter().map(|(name, submission)| (name.clone(), submission.pipeline.clone()));
        let reserved = ids.collect();
        Look { view, now: self.clock.now(), pids: self.pids.clone(), reserved }
    }
}

async fn reached(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// What the store holds.
struct Restored {
    coordinator: Coordinator,
    pids: BTreeMap<WorkerId, u32>,
    submissions: BTreeMap<String, Submission>,
    built_in: BuiltIn,
}

async fn restore(parts: &mut Parts, clock: Clock) -> Result<Restored, RestoreFailure> {
    let entries = parts.store.load().await?;
    let (mut records, submissions) = (records::records(&entries)?, records::submissions(&entries)?);
    let built_in = match &parts.built_in {
        Some(flags) => built_in::find(&mut parts.store, &mut records, flags).await?,
        None => BuiltIn::Absent,
    };
    let pids = records.iter().filter_map(pid_of_worker).collect();
    let coordinator = Coordinator::restore(parts.settings.clone(), records, clock.now())?;
    Ok(Restored { coordinator, pids, submissions, built_in })
}

fn pid_of_worker(record: &Record) -> Option<(WorkerId, u32)> {
    match &record.body {
        RecordBody::Worker { spec, .. } => Some((spec.id.clone(), spec.pid)),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
