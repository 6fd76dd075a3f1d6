//! The worker's session with the master: register, heartbeat, take orders; come back when it is lost.
//!
//! It never stops a slot: without a master the worker goes on with what it has.

use std::time::Duration;

use millrace_common::backoff::Backoff;
use millrace_common::http::Readiness;
use millrace_common::shutdown::Shutdown;
use millrace_common::telemetry::process;
use millrace_common::tls::ClientFlags;
use millrace_common::types::WorkerSpec;
use millrace_proto::Heartbeat;
use millrace_proto::channel::{self, ConnectError};
use millrace_proto::v1::master_client::MasterClient;
use millrace_proto::v1::{MasterMessage, WorkerMessage, master_message};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use tracing::{info, warn};

use crate::budget::Budget;
use crate::heartbeat::Told;
use crate::leaving::Leaving;
use crate::manager::{Order, RunningSlots, Stopped};
use crate::masters::Masters;

/// Messages that may wait for the connection to take them.
const OUTBOUND: usize = 64;
const CONNECT_DEADLINE: Duration = Duration::from_secs(3);
/// Between two tries to find a master; its fellows lead a few seconds after it is gone.
const LONGEST_WAIT: Duration = Duration::from_secs(1);
/// A first answer later than this is none.
const REGISTER_DEADLINE: Duration = Duration::from_secs(5);

/// Everything that the session tells and hears.
pub(crate) struct Session {
    /// `host:port` of each master; tried in turn.
    pub(crate) masters: Vec<String>,
    pub(crate) access: ClientFlags,
    pub(crate) spec: WorkerSpec,
    pub(crate) running: RunningSlots,
    pub(crate) budget: std::sync::Arc<Budget>,
    /// Told when a heartbeat should not wait for its time.
    pub(crate) changed: std::sync::Arc<Notify>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) leaving: Leaving,
    pub(crate) readiness: Readiness,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("no connection: {0}")]
    Connect(#[from] ConnectError),
    #[error("{words} ({:?})", .status.code())]
    Status { status: Status, words: String },
    #[error("the master ended the session")]
    Ended,
    #[error("the master did not answer the registration within {} s", REGISTER_DEADLINE.as_secs())]
    Silent,
    #[error("the master sent a message that can't be read: {0}")]
    Message(String),
}

impl Lost {
    /// Nobody said that it ends: the master is gone, frozen or cut off.
    fn is_silence(&self) -> bool {
        match self {
            Self::Connect(_) | Self::Silent => true,
            // What a master says itself has no cause in this process.
            Self::Status { status, .. } => std::error::Error::source(status).is_some(),
            Self::Ended | Self::Message(_) => false,
        }
    }

    /// Who leads, by the word of a standby.
    fn leader(&self) -> Option<String> {
        match self {
            Self::Status { status, .. } => millrace_proto::leader_of(status),
            _ => None,
        }
    }
}

impl Session {
    /// Keeps a session until the process stops.
    pub(crate) async fn run(self, mut stopped: mpsc::Receiver<Stopped>, shutdown: Shutdown) {
        let mut backoff = Backoff::new(Duration::from_millis(100), LONGEST_WAIT);
        let Some(mut masters) = Masters::new(&self.masters) else { return };
        loop {
            let (master, was_named) = masters.next(Instant::now());
            let master = master.as_str();
            let connected = tokio::select! {
                lost = self.hold(master, &mut stopped, &mut backoff) => lost,
                () = shutdown.begun() => return,
            };
            let Err(lost) = connected;
            let refused = matches!(&lost, Lost::Status { status, .. }
            if matches!(
                status.code(),
                Code::InvalidArgument
                    | Code::FailedPrecondition
                    | Code::AlreadyExists
                    | Code::PermissionDenied
                    | Code::Unauthenticated
            ));
            self.readiness.set_waiting(format!("the master at {master}: {lost}"));
            let now = Instant::now();
            if lost.is_silence() {
                masters.went_silent(master, now);
            }
            // A standby knows better than the list.
            if let Some(leader) = lost.leader().filter(|leader| leader != master)
                && masters.was_named(leader, now)
                && !was_named
            {
                continue;
            }
            let wait = backoff.next_wait();
            if backoff.tries().is_power_of_two() {
                let slots = self.running.reports().len();
                if refused {
                    warn!(master, reason = %lost, "the master refuses this worker");
                } else {
                    warn!(master, reason = %lost, slots, "no session with the master, going on without");
                }
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = shutdown.begun() => return,
            }
        }
    }

    async fn hold(
        &self,
        master: &str,
        stopped: &mut mpsc::Receiver<Stopped>,
        backoff: &mut Backoff,
    ) -> Result<std::convert::Infallible, Lost> {
        let channel = channel::connect(master, &self.access, CONNECT_DEADLINE, |endpoint| {
            endpoint
                .http2_keep_alive_interval(Duration::from_secs(1))
                .keep_alive_timeout(Duration::from_secs(3))
                .keep_alive_while_idle(true)
        })
        .await?;
        // What stopped while there was no session shows by its absence from the registration.
        while stopped.try_recv().is_ok() {}
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let register = WorkerMessage::register(&self.spec, &self.running.reports());
        outbound.send(register).await.map_err(|_| Lost::Ended)?;
        let (heartbeat, mut inbound) = tokio::time::timeout(REGISTER_DEADLINE, async {
            let answer = MasterClient::new(channel).session(ReceiverStream::new(messages)).await;
            let mut inbound = answer.map_err(|status| self.broken(status))?.into_inner();
            let first = self.next(&mut inbound).await?;
            match first.message {
                Some(master_message::Message::Registered(registered)) => {
                    Ok((Duration::from_millis(registered.heartbeat_ms.max(10)), inbound))
                }
                other => Err(Lost::Message(format!("expected Registered, got {other:?}"))),
            }
        })
        .await
        .map_err(|_| Lost::Silent)??;
        info!(master, worker = %self.spec.id, "registered");
        self.readiness.set_ready();
        backoff.reset();

        let mut told = Told::default();
        let mut beat = interval_at(Instant::now() + heartbeat, heartbeat);
        beat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let message = tokio::select! {
                message = self.next(&mut inbound) => {
                    let message = message?;
                    if matches!(message.message, Some(master_message::Message::ReportAll(_))) {
                        told.forget();
                    }
                    self.carry_out(message).await?;
                    continue;
                }
                Some(stopped) = stopped.recv() => {
                    WorkerMessage::slot_stopped(&stopped.slot, stopped.epoch, &stopped.reason)
                }
                _ = beat.tick() => self.heartbeat(&mut told),
                () = self.changed.notified() => self.heartbeat(&mut told),
            };
            outbound.send(message).await.map_err(|_| Lost::Ended)?;
        }
    }

    fn heartbeat(&self, told: &mut Told) -> WorkerMessage {
        let (slots, digest) = told.news(self.running.reports());
        WorkerMessage::heartbeat(&Heartbeat {
            memory_used_bytes: self.budget.used(),
            slots,
            digest,
            draining: self.leaving.has_begun(),
            resident_bytes: process::resident_bytes().unwrap_or(0),
        })
    }

    async fn carry_out(&self, message: MasterMessage) -> Result<(), Lost> {
        let unreadable = |error: millrace_proto::ConversionError| Lost::Message(error.to_string());
        let order = match message.message {
            Some(master_message::Message::Grant(grant)) => {
                Order::Grant(Box::new(grant.try_into().map_err(unreadable)?))
            }
            Some(master_message::Message::Revoke(revoke)) => {
                let revoke = millrace_proto::Revoke::try_from(revoke).map_err(unreadable)?;
                Order::Revoke { slot: revoke.slot, epoch: revoke.epoch }
            }
            Some(master_message::Message::Leave(_)) => {
                self.leaving.may_end();
                return Ok(());
            }
            Some(master_message::Message::Registered(_) | master_message::Message::ReportAll(_)) | None => {
                return Ok(());
            }
        };
        // The manager lives as long as the process.
        let _ = self.orders.send(order).await;
        Ok(())
    }

    async fn next(&self, inbound: &mut Streaming<MasterMessage>) -> Result<MasterMessage, Lost> {
        inbound.message().await.map_err(|status| self.broken(status))?.ok_or(Lost::Ended)
    }

    fn broken(&self, status: Status) -> Lost {
        Lost::Status { words: channel::words(&status), status }
    }
}
