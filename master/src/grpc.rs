//! Workers' sessions and the command line's questions over gRPC: off the wire, checked, to the driver, and back.

use std::time::Duration;

use millrace_common::shutdown::Shutdown;
use millrace_common::tls::{self, Tls, Token};
use millrace_common::types::{SkipLost, SlotPhase, SlotReport, StopReason, VERSION, WorkerId, WorkerSpec};
use millrace_master_core::{Event, Rejection, SlotView, WorkerView};
use millrace_proto::channel::AsksToken;
use millrace_proto::v1::master_server::{Master, MasterServer};
use millrace_proto::v1::{
    DescribePipelineRequest, DescribePipelineResponse, DrainWorkerRequest, DrainWorkerResponse,
    KillPipelineRequest, KillPipelineResponse, ListPipelinesRequest, ListPipelinesResponse,
    ListWorkersRequest, ListWorkersResponse, MasterMessage, PausePipelineRequest, PausePipelineResponse,
    PipelineStage, RebalanceRequest, RebalanceResponse, RecommissionWorkerRequest,
    RecommissionWorkerResponse, ResumePipelineRequest, ResumePipelineResponse, ResumeSlotRequest,
    ResumeSlotResponse, SubmitPipelineRequest, SubmitPipelineResponse, WorkerMessage, WorkerStatus,
    worker_message,
};
use millrace_proto::{ConversionError, Heartbeat, Register, SlotStopped, slot_id, standby_status};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{CertificateDer, Server};
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};

use crate::admission::{Admission, Admitted, Submission};
use crate::draft::Draft;
use crate::handle::{Handle, Look, Refused, SessionLink};
use crate::pipelines::{self, Refusal, Wish};
use crate::sources::Sources;
use crate::vitals::Vitals;
use crate::workers;

/// Messages that may wait for a worker to read them: a grant for each slot that it can take, and some.
const OUTBOUND: usize = 4096;
/// A first message later than this is none.
const FIRST_MESSAGE: Duration = Duration::from_secs(5);
/// Any call is answered within this; a session's messages may take as long as it lives.
const CALL: Duration = Duration::from_secs(60);
/// Calls under way on one connection: a worker needs one.
const CALLS_PER_CONNECTION: usize = 16;

/// Bytes that a connection may send ahead of what is read: thousands of workers have one each.
const WINDOW: u32 = 64 << 10;

/// What is spoken, as TLS names it.
pub(crate) const PROTOCOL: &[u8] = b"h2";

/// Where callers come in, and what they must show.
#[derive(Debug)]
pub(crate) struct Doors {
    pub(crate) listener: TcpListener,
    /// `None` for plain text.
    pub(crate) tls: Option<Tls>,
    pub(crate) token: Option<Token>,
    /// How long a silent connection is kept.
    pub(crate) lease: Duration,
}

/// Serves until the shutdown begins.
pub(crate) async fn serve(doors: Doors, sources: Sources, admission: Admission, shutdown: Shutdown) {
    let Doors { listener, tls, token, lease } = doors;
    let is_mutual = tls.as_ref().is_some_and(Tls::is_mutual);
    let service = Service { sources, admission, is_mutual, shutdown: shutdown.clone() };
    let server = Server::builder()
        .tcp_nodelay(true)
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .timeout(CALL)
        .concurrency_limit_per_connection(CALLS_PER_CONNECTION)
        .load_shed(true)
        // Slower than the lease: a silent worker is told by its silence. This one clears away what is left of it.
        .http2_keepalive_interval(Some(lease))
        .http2_keepalive_timeout(Some(lease))
        .add_service(MasterServer::with_interceptor(service, AsksToken::new(token)));
    let served = match tls {
        None => {
            let connections = tls::plain_incoming("the master", listener, &shutdown);
            server.serve_with_incoming_shutdown(connections, shutdown.begun()).await
        }
        Some(tls) => {
            let connections = tls::incoming("the master", listener, tls, &shutdown);
            server.serve_with_incoming_shutdown(connections, shutdown.begun()).await
        }
    };
    if let Err(error) = served {
        warn!(%error, "the workers' port closed");
        shutdown.begin();
    }
}

#[derive(Debug)]
struct Service {
    sources: Sources,
    admission: Admission,
    /// Callers have certificates.
    is_mutual: bool,
    shutdown: Shutdown,
}

#[tonic::async_trait]
impl Master for Service {
    type SessionStream = ReceiverStream<Result<MasterMessage, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<WorkerMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let certificates = request.peer_certs();
        let mut inbound = request.into_inner();
        let first = tokio::time::timeout(FIRST_MESSAGE, inbound.message())
            .await
            .map_err(|_| Status::deadline_exceeded("no Register came: a session begins with it"))??;
        let Some(worker_message::Message::Register(register)) = first.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("a session begins with Register"));
        };
        let Register { worker: spec, running } = Register::try_from(register).map_err(unreadable)?;
        if self.is_mutual {
            check_identity(&spec, certificates.as_deref().and_then(|chain| chain.first()))?;
        }
        let worker = spec.id.clone();
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let cut = CancellationToken::new();
        let link = SessionLink { outbound: outbound.clone(), cut: cut.clone() };
        let session = self.sources.handle.register(spec, running, link).await.map_err(status)?;
        let handle = self.sources.handle.clone();
        let vitals = self.sources.vitals.clone();
        self.shutdown.spawn(format!("session of {worker}"), async move {
            let ended = tokio::select! {
                ended = read(&mut inbound, &handle, &vitals, session, &worker) => ended,
                () = cut.cancelled() => Ok(()),
                () = outbound.closed() => Ok(()),
            };
            if let Err(status) = ended {
                debug!(%worker, session, reason = status.message(), "session broke");
                // Full or closed: the worker learns it from the end of the stream.
                let _ = outbound.try_send(Err(status));
            }
            vitals.forget(&worker);
            handle.tell(Event::SessionLost { session, worker }).await;
        });
        Ok(Response::new(ReceiverStream::new(messages)))
    }

    async fn list_workers(
        &self,
        _: Request<ListWorkersRequest>,
    ) -> Result<Response<ListWorkersResponse>, Status> {
        let look = self.sources.handle.look().await.map_err(status)?;
        let workers = look.view.workers.iter().map(|worker| worker_status(worker, &look)).collect();
        Ok(Response::new(ListWorkersResponse { workers }))
    }

    async fn drain_worker(
        &self,
        request: Request<DrainWorkerRequest>,
    ) -> Result<Response<DrainWorkerResponse>, Status> {
        let worker = self.commission(&request.into_inner().worker, workers::Wish::Drain).await?;
        Ok(Response::new(DrainWorkerResponse { worker: Some(worker) }))
    }

    async fn recommission_worker(
        &self,
        request: Request<RecommissionWorkerRequest>,
    ) -> Result<Response<RecommissionWorkerResponse>, Status> {
        let worker = self.commission(&request.into_inner().worker, workers::Wish::Recommission).await?;
        Ok(Response::new(RecommissionWorkerResponse { worker: Some(worker) }))
    }

    async fn rebalance(
        &self,
        request: Request<RebalanceRequest>,
    ) -> Result<Response<RebalanceResponse>, Status> {
        let apply = request.into_inner().apply;
        let plan = workers::rebalance(&self.sources.handle, apply).await.map_err(refused)?;
        Ok(Response::new(RebalanceResponse { plan_json: json(&plan)? }))
    }

    async fn submit_pipeline(
        &self,
        request: Request<SubmitPipelineRequest>,
    ) -> Result<Response<SubmitPipelineResponse>, Status> {
        let SubmitPipelineRequest { draft_json, file, resume, dry_run } = request.into_inner();
        let draft: Draft = serde_json::from_str(&draft_json).map_err(|error| {
            Status::invalid_argument(format!(
                "the master can't read the pipeline ({error}): use the millrace of the master's version, {VERSION}"
            ))
        })?;
        let submission = Submission { draft, file, resume, dry_run };
        let Admitted { pipeline, notes } = self.admission.submit(submission).await.map_err(refused)?;
        let pipeline = pipeline.map(String::from).unwrap_or_default();
        Ok(Response::new(SubmitPipelineResponse { pipeline, notes }))
    }

    async fn list_pipelines(
        &self,
        _: Request<ListPipelinesRequest>,
    ) -> Result<Response<ListPipelinesResponse>, Status> {
        let all = pipelines::list(&self.sources).await.map_err(refused)?;
        Ok(Response::new(ListPipelinesResponse { pipelines_json: json(&all)? }))
    }

    async fn describe_pipeline(
        &self,
        request: Request<DescribePipelineRequest>,
    ) -> Result<Response<DescribePipelineResponse>, Status> {
        let target = request.into_inner().pipeline;
        let detail = pipelines::describe(&self.sources, &target).await.map_err(refused)?;
        Ok(Response::new(DescribePipelineResponse { pipeline_json: json(&detail)? }))
    }

    async fn pause_pipeline(
        &self,
        request: Request<PausePipelineRequest>,
    ) -> Result<Response<PausePipelineResponse>, Status> {
        let pipeline = self.fulfil(&request.into_inner().pipeline, Wish::Pause).await?;
        Ok(Response::new(PausePipelineResponse { pipeline: Some(pipeline) }))
    }

    async fn resume_pipeline(
        &self,
        request: Request<ResumePipelineRequest>,
    ) -> Result<Response<ResumePipelineResponse>, Status> {
        let pipeline = self.fulfil(&request.into_inner().pipeline, Wish::Resume).await?;
        Ok(Response::new(ResumePipelineResponse { pipeline: Some(pipeline) }))
    }

    async fn kill_pipeline(
        &self,
        request: Request<KillPipelineRequest>,
    ) -> Result<Response<KillPipelineResponse>, Status> {
        let pipeline = self.fulfil(&request.into_inner().pipeline, Wish::Kill).await?;
        Ok(Response::new(KillPipelineResponse { pipeline: Some(pipeline) }))
    }

    async fn resume_slot(
        &self,
        request: Request<ResumeSlotRequest>,
    ) -> Result<Response<ResumeSlotResponse>, Status> {
        let ResumeSlotRequest { slot, skip_lost } = request.into_inner();
        let malformed = |error: ConversionError| Status::invalid_argument(error.to_string());
        let slot = slot_id("resume_slot.slot", slot).map_err(malformed)?;
        let skip_lost = skip_lost.map(SkipLost::try_from).transpose().map_err(malformed)?;
        pipelines::resume_slot(&self.sources, slot, skip_lost).await.map_err(refused)?;
        Ok(Response::new(ResumeSlotResponse {}))
    }
}

impl Service {
    async fn commission(&self, target: &str, wish: workers::Wish) -> Result<WorkerStatus, Status> {
        let (worker, look) = workers::fulfil(&self.sources.handle, target, wish).await.map_err(refused)?;
        info!(worker = %worker.spec.id, ?wish, state = worker.state.as_str(), "a person's wish for a worker");
        Ok(worker_status(&worker, &look))
    }

    async fn fulfil(&self, target: &str, wish: Wish) -> Result<PipelineStage, Status> {
        let pipeline = pipelines::fulfil(&self.sources, target, wish).await.map_err(refused)?.pipeline;
        info!(pipeline = pipeline.id, ?wish, state = pipeline.state, "a person's wish for a pipeline");
        Ok(PipelineStage {
            id: pipeline.id,
            state: pipeline.state.to_owned(),
            waiting_for: pipeline.waiting_for.unwrap_or_default(),
        })
    }
}

fn refused(refusal: Refusal) -> Status {
    let words = refusal.to_string();
    match refusal {
        Refusal::Usage(_) => Status::invalid_argument(words),
        Refusal::Unknown(_) => Status::not_found(words),
        Refusal::Now(_) => Status::failed_precondition(words),
        Refusal::Standby { leader, .. } => standby_status(words, leader.as_deref()),
        Refusal::Unavailable(_) => Status::unavailable(words),
    }
}

fn json(shown: &impl serde::Serialize) -> Result<String, Status> {
    serde_json::to_string(shown).map_err(|error| Status::internal(format!("no JSON of it: {error}")))
}

/// A worker is who its certificate says: it may use the hosts that stand there, and ids with one of them.
fn check_identity(spec: &WorkerSpec, certificate: Option<&CertificateDer<'_>>) -> Result<(), Status> {
    let refused = |reason: String| {
        warn!(worker = %spec.id, host = spec.host, reason, "a worker that does not belong is refused");
        Status::permission_denied(reason)
    };
    let Some(certificate) = certificate else {
        return Err(refused(format!("worker {} shows no certificate", spec.id)));
    };
    tls::check_names_host(certificate, &spec.host).map_err(|reason| {
        refused(format!(
            "worker {} says that it is on {:?}, but its certificate does not name that host ({reason}): give it \
             --advertise with a name of the certificate, or a certificate with that name",
            spec.id, spec.host
        ))
    })?;
    if !spec.id.as_str().ends_with(&format!("-{}-{}", spec.host.replace(':', "-"), spec.http_port)) {
        return Err(refused(format!(
            "worker {} takes an id that is not of its host {:?}",
            spec.id, spec.host
        )));
    }
    Ok(())
}

/// Tells the driver all that the worker says, until the stream ends or says something that can't be.
async fn read(
    inbound: &mut Streaming<WorkerMessage>,
    handle: &Handle,
    vitals: &Vitals,
    session: u64,
    worker: &WorkerId,
) -> Result<(), Status> {
    while let Some(WorkerMessage { message }) = inbound.message().await? {
        let event = match message {
            Some(worker_message::Message::Heartbeat(heartbeat)) => {
                let Heartbeat { memory_used_bytes, slots, draining, digest, resident_bytes } =
                    heartbeat.try_into().map_err(unreadable)?;
                vitals.note(worker, resident_bytes);
                Event::Heartbeat {
                    session,
                    worker: worker.clone(),
                    memory_used_bytes,
                    draining,
                    digest,
                    reports: slots,
                }
            }
            Some(worker_message::Message::SlotStopped(stopped)) => {
                let SlotStopped { slot, epoch, reason } = stopped.try_into().map_err(unreadable)?;
                if reason == StopReason::Revoked {
                    info!(%worker, %slot, %epoch, "slot given up");
                } else {
                    warn!(%worker, %slot, %epoch, ?reason, "slot stopped on its worker");
                }
                Event::SlotStopped { session, worker: worker.clone(), slot, epoch, reason }
            }
            Some(worker_message::Message::Register(_)) => {
                return Err(Status::invalid_argument("Register comes once in a session"));
            }
            // A newer worker says something that this master does not know.
            None => continue,
        };
        handle.tell(event).await;
    }
    Ok(())
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn unreadable(error: ConversionError) -> Status {
    warn!(%error, "a worker's message can't be read");
    Status::invalid_argument(error.to_string())
}

fn status(refused: Refused) -> Status {
    let words = refused.to_string();
    match refused {
        Refused::Standby { leader } => {
            standby_status(words, leader.as_ref().map(|leader| leader.address.as_str()))
        }
        Refused::Unavailable(_) => Status::unavailable(words),
        Refused::Rejected(Rejection::Offer { .. }) => Status::invalid_argument(words),
        Refused::Rejected(Rejection::IdTaken { .. }) => Status::already_exists(words),
        Refused::Rejected(_) => Status::failed_precondition(words),
    }
}

fn worker_status(worker: &WorkerView, look: &Look) -> WorkerStatus {
    let slots = look.view.slots.iter().filter(|slot| slot.owner.as_ref() == Some(&worker.spec.id));
    WorkerStatus {
        worker: Some((&worker.spec).into()),
        state: worker.state.as_str().to_owned(),
        memory_used_bytes: worker.memory_used_bytes,
        slots: slots.map(|slot| (&report(slot)).into()).collect(),
        last_heartbeat_age_ms: look.now.since(worker.last_heard_at.unwrap_or(worker.since)).0,
        idle_reason: worker.idle_reason.clone().unwrap_or_default(),
        waiting_for: worker.waiting_for.clone().unwrap_or_default(),
    }
}

/// The slot as its owner reports it; one that is silent yet is opening.
fn report(slot: &SlotView) -> SlotReport {
    slot.report.clone().unwrap_or_else(|| SlotReport {
        slot: slot.slot.clone(),
        epoch: slot.epoch,
        phase: SlotPhase::Opening,
        metrics: slot.last_report.as_ref().map(|last| last.metrics.clone()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod access_tests;
#[cfg(test)]
mod tests;
