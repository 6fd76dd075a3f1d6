//! The way to the driver, for everybody who is not the driver: requests with deadlines, answers once.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_common::types::{Millis, PipelineId, SlotReport, WorkerId, WorkerSpec};
use millrace_master_core::{ClusterView, Event, RebalancePlan, Rejection};
use millrace_proto::v1::MasterMessage;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::records::Submission;
use crate::store::Leader;

/// Requests that may wait for the driver.
const QUEUE: usize = 1024;
/// An answer later than this is none.
const DEADLINE: Duration = Duration::from_secs(5);

/// A session's ends as the driver holds them.
#[derive(Debug)]
pub(crate) struct SessionLink {
    pub(crate) outbound: mpsc::Sender<Result<MasterMessage, Status>>,
    /// Cancelled when the session is to end.
    pub(crate) cut: CancellationToken,
}

#[derive(Debug)]
pub(crate) enum Request {
    Register {
        spec: Box<WorkerSpec>,
        running: Vec<SlotReport>,
        link: SessionLink,
        answer: oneshot::Sender<Result<u64, Refused>>,
    },
    /// Something happened; nobody waits for an answer.
    Tell(Event),
    Apply {
        event: Event,
        answer: oneshot::Sender<Result<(), Refused>>,
    },
    /// The id for a pipeline of this name that is about to be admitted: the same one until it is.
    Reserve {
        name: String,
        answer: oneshot::Sender<Result<Submission, Refused>>,
    },
    Look {
        answer: oneshot::Sender<Result<Look, Refused>>,
    },
    Plan {
        answer: oneshot::Sender<Result<RebalancePlan, Refused>>,
    },
}

/// The driver did not do what it was asked to.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// Another master is to be asked, if one leads.
    #[error("this master stands by: {}", leader.as_ref().map_or_else(|| "no master leads yet".to_owned(), |leader| format!("the leader is {}", leader.address)))]
    Standby { leader: Option<Leader> },
    /// Nothing is wrong with the request; it may be repeated.
    #[error("the master can't answer now: {0}")]
    Unavailable(String),
}

/// The cluster at one moment.
#[derive(Debug, Clone)]
pub(crate) struct Look {
    pub(crate) view: ClusterView,
    /// On the driver's clock.
    pub(crate) now: Millis,
    /// Process ids of all workers in the view and its losses.
    pub(crate) pids: BTreeMap<WorkerId, u32>,
    /// Ids of pipelines that were about to be admitted, by their names.
    pub(crate) reserved: BTreeMap<String, PipelineId>,
}

/// Cheap to clone; all clones reach the same driver.
#[derive(Debug, Clone)]
pub(crate) struct Handle(mpsc::Sender<Request>);

impl Handle {
    pub(crate) fn new() -> (Self, mpsc::Receiver<Request>) {
        let (requests, received) = mpsc::channel(QUEUE);
        (Self(requests), received)
    }

    /// Registers a worker's session; returns its number. `Registered` and grants go into the link.
    pub(crate) async fn register(
        &self,
        spec: WorkerSpec,
        running: Vec<SlotReport>,
        link: SessionLink,
    ) -> Result<u64, Refused> {
        self.ask(|answer| Request::Register { spec: Box::new(spec), running, link, answer }).await
    }

    /// Tells the driver what happened. Waits while its queue is full; a driver that has ended needs no news.
    pub(crate) async fn tell(&self, event: Event) {
        let _ = self.0.send(Request::Tell(event)).await;
    }

    /// Applies `event`; returns when what follows is stored.
    pub(crate) async fn apply(&self, event: Event) -> Result<(), Refused> {
        self.ask(|answer| Request::Apply { event, answer }).await
    }

    /// The id of the pipeline `name`, stored before anything is done in its name.
    pub(crate) async fn reserve(&self, name: &str) -> Result<Submission, Refused> {
        self.ask(|answer| Request::Reserve { name: name.to_owned(), answer }).await
    }

    pub(crate) async fn look(&self) -> Result<Look, Refused> {
        self.ask(|answer| Request::Look { answer }).await
    }

    /// What would move now for the load's sake.
    pub(crate) async fn plan(&self) -> Result<RebalancePlan, Refused> {
        self.ask(|answer| Request::Plan { answer }).await
    }

    async fn ask<T>(
        &self,
        request: impl FnOnce(oneshot::Sender<Result<T, Refused>>) -> Request,
    ) -> Result<T, Refused> {
        let (answer, answered) = oneshot::channel();
        let asked = async {
            self.0.send(request(answer)).await.ok()?;
            answered.await.ok()
        };
        match tokio::time::timeout(DEADLINE, asked).await {
            Ok(Some(answer)) => answer,
            Ok(None) => Err(Refused::Unavailable("it is stopping".into())),
            Err(_) => Err(Refused::Unavailable(format!("no answer within {} s", DEADLINE.as_secs()))),
        }
    }
}
