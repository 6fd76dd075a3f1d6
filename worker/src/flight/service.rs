//! The Flight service: `DoGet`, `GetFlightInfo`, `GetSchema`, `ListFlights`, and of `DoAction` the `log`; every other
//! verb is refused.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arrow_flight::flight_service_server::{FlightService, FlightServiceServer};
use arrow_flight::{
    Action, ActionType, Criteria, Empty, FlightData, FlightDescriptor, FlightInfo, HandshakeRequest,
    HandshakeResponse, PollInfo, PutResult, Result as ActionResult, SchemaResult, Ticket,
};
use arrow_schema::SchemaRef;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use millrace_common::shutdown::Shutdown;
use millrace_common::telemetry::tail;
use millrace_common::tls::{self, Tls, Token};
use millrace_common::types::SlotId;
use millrace_proto::channel::AsksToken;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use super::describe;
use super::files::{self, File};
use super::latest::{Latest, latest};
use super::metrics::Metrics;
use super::stream::{Batches, Place, deliver, encoded};
use super::ticket::{Listing, Wanted};
use crate::manager::Shown;

/// What runs here now.
pub(crate) type View = Arc<dyn Fn() -> BTreeMap<SlotId, Shown> + Send + Sync>;

/// The one action: the last lines of this process' log.
const LOG: &str = "log";
/// For the log.
const NAME: &str = "the worker's Arrow Flight";
/// A ticket is small; nothing else is taken in.
const LARGEST_REQUEST: usize = 64 << 10;
/// Until an answer begins; its stream has the limits' own deadline.
const ANSWER_DEADLINE: Duration = Duration::from_secs(30);
/// The most files in one list.
const MOST_LISTED: usize = 10_000;

/// How much clients may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Streams at a time; one of a file holds a row group of it.
    pub(super) streams: usize,
    /// About the size of the largest message.
    pub(super) message_bytes: usize,
    /// Of a whole stream.
    pub(super) deadline: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { streams: 4, message_bytes: 1 << 20, deadline: Duration::from_secs(120) }
    }
}

/// Serves Flight on `listener` for good; its streams end when `shutdown` begins.
pub(crate) async fn serve(
    doors: Doors,
    slots: View,
    metrics: Metrics,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    serve_within(Limits::default(), doors, slots, metrics, shutdown).await
}

pub(super) async fn serve_within(
    limits: Limits,
    doors: Doors,
    slots: View,
    metrics: Metrics,
    shutdown: Shutdown,
) -> Result<(), tonic::transport::Error> {
    let streams = Arc::new(Semaphore::new(limits.streams));
    let Doors { listener, tls, token } = doors;
    let service = Service { slots, limits, streams, metrics, shutdown: shutdown.clone() };
    let service = FlightServiceServer::new(service).max_decoding_message_size(LARGEST_REQUEST);
    let server = Server::builder()
        .max_concurrent_streams(32)
        .concurrency_limit_per_connection(32)
        .http2_keepalive_interval(Some(Duration::from_secs(20)))
        .http2_keepalive_timeout(Some(Duration::from_secs(10)))
        .timeout(ANSWER_DEADLINE)
        .tcp_nodelay(true)
        .add_service(InterceptedService::new(service, AsksToken::new(token)));
    match tls {
        None => server.serve_with_incoming(tls::plain_incoming(NAME, listener, &shutdown)).await,
        Some(tls) => server.serve_with_incoming(tls::incoming(NAME, listener, tls, &shutdown)).await,
    }
}

/// Where clients come in, and what they must show.
#[derive(Debug)]
pub(crate) struct Doors {
    pub(crate) listener: TcpListener,
    /// `None` for plain text.
    pub(crate) tls: Option<Tls>,
    pub(crate) token: Option<Token>,
}

struct Service {
    slots: View,
    limits: Limits,
    streams: Arc<Semaphore>,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// What a ticket leads to.
enum Found {
    File(Box<File>),
    Latest(Latest),
}

impl Service {
    async fn find(&self, wanted: &Wanted) -> Result<Found, Status> {
        let slots = (self.slots)();
        match wanted {
            Wanted::File(key) => File::open(&slots, key).await.map(|file| Found::File(Box::new(file))),
            Wanted::Latest { slot, rows, from } => {
                let shown: &Shown = slots.get(slot).ok_or_else(|| {
                    Status::not_found(format!(
                        "slot {slot} does not run on this worker: ask the master who runs it"
                    ))
                })?;
                latest(slot, shown, *rows, *from).await.map(Found::Latest)
            }
        }
    }

    fn place(&self) -> Result<Place, Status> {
        let permit = Arc::clone(&self.streams).try_acquire_owned().map_err(|_| {
            self.metrics.turned_away();
            Status::resource_exhausted(format!(
                "{} streams run on this worker already: ask again later",
                self.limits.streams
            ))
        })?;
        Ok(Place { _permit: permit, _running: self.metrics.begin() })
    }
}

impl Found {
    fn schema(&self) -> &SchemaRef {
        match self {
            Self::File(file) => &file.schema,
            Self::Latest(latest) => &latest.schema,
        }
    }

    /// Rows and bytes; -1 where they are not known.
    fn size(&self) -> (i64, i64) {
        match self {
            Self::File(file) => (file.rows, i64::try_from(file.bytes).unwrap_or(-1)),
            Self::Latest(latest) => (i64::try_from(latest.rows).unwrap_or(-1), -1),
        }
    }

    fn batches(self) -> Result<Batches, Status> {
        match self {
            Self::File(file) => file.batches(),
            Self::Latest(latest) => Ok(futures::stream::iter(latest.batches.into_iter().map(Ok)).boxed()),
        }
    }
}

fn refused<T>(verb: &str) -> Result<T, Status> {
    Err(Status::unimplemented(format!(
        "{verb} is not served: a worker's rows are read only, by DoGet, GetFlightInfo, GetSchema and ListFlights"
    )))
}

#[tonic::async_trait]
impl FlightService for Service {
    type HandshakeStream = BoxStream<'static, Result<HandshakeResponse, Status>>;
    type ListFlightsStream = BoxStream<'static, Result<FlightInfo, Status>>;
    type DoGetStream = BoxStream<'static, Result<FlightData, Status>>;
    type DoPutStream = BoxStream<'static, Result<PutResult, Status>>;
    type DoActionStream = BoxStream<'static, Result<ActionResult, Status>>;
    type ListActionsStream = BoxStream<'static, Result<ActionType, Status>>;
    type DoExchangeStream = BoxStream<'static, Result<FlightData, Status>>;

    async fn do_get(&self, request: Request<Ticket>) -> Result<Response<Self::DoGetStream>, Status> {
        let ticket = request.into_inner().ticket;
        let wanted = Wanted::parse(&ticket).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let place = self.place()?;
        let found = self.find(&wanted).await?;
        let schema = Arc::clone(found.schema());
        let messages = encoded(schema, found.batches()?, self.limits.message_bytes);
        Ok(Response::new(deliver(messages, self.limits.deadline, place, &self.shutdown)))
    }

    async fn get_flight_info(
        &self,
        request: Request<FlightDescriptor>,
    ) -> Result<Response<FlightInfo>, Status> {
        let wanted = describe::wanted(&request.into_inner())?;
        let _place = self.place()?;
        let found = self.find(&wanted).await?;
        let (rows, bytes) = found.size();
        describe::info(&wanted, Some(found.schema()), rows, bytes).map(Response::new)
    }

    async fn get_schema(&self, request: Request<FlightDescriptor>) -> Result<Response<SchemaResult>, Status> {
        let wanted = describe::wanted(&request.into_inner())?;
        let _place = self.place()?;
        let found = self.find(&wanted).await?;
        // The same bytes as in a FlightInfo.
        let info = describe::info(&wanted, Some(found.schema()), -1, -1)?;
        Ok(Response::new(SchemaResult { schema: info.schema }))
    }

    async fn list_flights(
        &self,
        request: Request<Criteria>,
    ) -> Result<Response<Self::ListFlightsStream>, Status> {
        let criteria = request.into_inner().expression;
        let listing =
            Listing::parse(&criteria).map_err(|error| Status::invalid_argument(error.to_string()))?;
        let place = self.place()?;
        let slots = (self.slots)();
        let flights = match listing {
            None => {
                let slots = slots.into_keys().map(|slot| describe::info(&Wanted::latest(slot), None, -1, -1));
                futures::stream::iter(slots).boxed()
            }
            Some(listing) => {
                let too_many = format!("more than {MOST_LISTED} files: ask for a month or a day");
                files::list(&slots, &listing)?
                    .enumerate()
                    .map(move |(number, file)| match file {
                        Ok(_) if number >= MOST_LISTED => Err(Status::resource_exhausted(too_many.clone())),
                        file => file,
                    })
                    .and_then(|(key, object)| {
                        let bytes = i64::try_from(object.size).unwrap_or(-1);
                        std::future::ready(describe::info(&Wanted::File(key), None, -1, bytes))
                    })
                    .boxed()
            }
        };
        Ok(Response::new(deliver(flights, self.limits.deadline, place, &self.shutdown)))
    }

    async fn handshake(
        &self,
        _: Request<Streaming<HandshakeRequest>>,
    ) -> Result<Response<Self::HandshakeStream>, Status> {
        refused("Handshake")
    }

    async fn poll_flight_info(&self, _: Request<FlightDescriptor>) -> Result<Response<PollInfo>, Status> {
        refused("PollFlightInfo")
    }

    async fn do_put(&self, _: Request<Streaming<FlightData>>) -> Result<Response<Self::DoPutStream>, Status> {
        refused("DoPut")
    }

    async fn do_action(&self, request: Request<Action>) -> Result<Response<Self::DoActionStream>, Status> {
        let wanted = request.into_inner().r#type;
        if wanted != LOG {
            return Err(Status::unimplemented(format!(
                "DoAction {wanted:?} is not served: {LOG} gives the last lines of this worker's log, and nothing else is done"
            )));
        }
        let lines = tail::lines().into_iter().map(|line| Ok(ActionResult { body: line.into() }));
        Ok(Response::new(futures::stream::iter(lines).boxed()))
    }

    async fn list_actions(&self, _: Request<Empty>) -> Result<Response<Self::ListActionsStream>, Status> {
        let log = ActionType {
            r#type: LOG.to_owned(),
            description: "the last lines of this worker's log, one a result".to_owned(),
        };
        Ok(Response::new(futures::stream::iter([Ok(log)]).boxed()))
    }

    async fn do_exchange(
        &self,
        _: Request<Streaming<FlightData>>,
    ) -> Result<Response<Self::DoExchangeStream>, Status> {
        refused("DoExchange")
    }
}
