//! The way to a master, or to a worker's Arrow Flight: one channel with TLS and token as the flags say, and errors that
//! say what is wrong on which side.

use std::io;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use millrace_common::tls::{AccessError, ClientFlags, Refusals, Token};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::server::{TcpConnectInfo, TlsConnectInfo};
use tonic::transport::{Channel, Endpoint, Uri};
use tonic::{Request, Status};
use tracing::warn;

/// A channel that shows the token with each call.
pub type Access = InterceptedService<Channel, ShowsToken>;

/// No channel. The text is ready to be shown.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{address:?} is no address: expected HOST:PORT")]
    Address { address: String },
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("{address}: {reason}")]
    Unreachable { address: String, reason: String },
}

impl ConnectError {
    /// Whether the person who gave the flags should give others.
    pub fn is_usage(&self) -> bool {
        !matches!(self, Self::Unreachable { .. })
    }
}

/// Puts the cluster's token on each call.
#[derive(Debug, Clone)]
pub struct ShowsToken(Option<MetadataValue<Ascii>>);

impl Interceptor for ShowsToken {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(header) = &self.0 {
            request.metadata_mut().insert("authorization", header.clone());
        }
        Ok(request)
    }
}

/// Lets calls in that show the cluster's token; who is refused stands in the log.
#[derive(Debug, Clone)]
pub struct AsksToken {
    token: Option<Token>,
    refusals: Refusals,
}

impl AsksToken {
    /// `None` lets everybody in.
    pub fn new(token: Option<Token>) -> Self {
        Self { token, refusals: Refusals::default() }
    }
}

impl Interceptor for AsksToken {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = &self.token else { return Ok(request) };
        let reason = match request.metadata().get("authorization") {
            Some(shown) if token.is_shown_by(shown.as_bytes()) => return Ok(request),
            Some(_) => "the token is another one: compare --token here and there",
            None => "a token is expected: give --token env:NAME or file:/PATH",
        };
        let extensions = request.extensions();
        let over_tls =
            extensions.get::<TlsConnectInfo<TcpConnectInfo>>().map(|info| info.get_ref().remote_addr());
        let peer = over_tls
            .or_else(|| extensions.get::<TcpConnectInfo>().map(TcpConnectInfo::remote_addr))
            .flatten();
        if peer.is_none_or(|peer| self.refusals.is_news(peer.ip(), reason)) {
            warn!(?peer, reason, "call refused");
        }
        Err(Status::unauthenticated(reason))
    }
}

/// A connected channel: the other side has let this one in.
///
/// # Errors
/// Flags that can't be followed, or a listener that can't be reached within `longest`, or that either side refuses.
pub async fn connect(
    address: &str,
    flags: &ClientFlags,
    longest: Duration,
    set: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Access, ConnectError> {
    flags.check(address)?;
    let header = match flags.token()? {
        None => None,
        // It is printable.
        Some(token) => token.header().parse().ok().map(|mut header: MetadataValue<Ascii>| {
            header.set_sensitive(true);
            header
        }),
    };
    let no_address = || ConnectError::Address { address: address.to_owned() };
    // The scheme of the URI is for tonic, whose own TLS is not used; the requests name the real one.
    let mut endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(|_| no_address())?;
    let host = endpoint.uri().host().ok_or_else(no_address)?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = endpoint.uri().port_u16().ok_or_else(no_address)?;
    if flags.tls_ca.is_some() {
        endpoint = endpoint.origin(format!("https://{address}").parse().map_err(|_| no_address())?);
    }
    let flags = flags.clone();
    let unreadable = |error: tokio::task::JoinError| ConnectError::Unreachable {
        address: address.to_owned(),
        reason: error.to_string(),
    };
    let caller = tokio::task::spawn_blocking(move || flags.caller()).await.map_err(unreadable)??;
    let connector = tower::service_fn(move |_: Uri| {
        let (caller, host) = (caller.clone(), host.clone());
        async move {
            let late = |_| io::Error::other(format!("no answer within {} s", longest.as_secs_f64()));
            let connected = tokio::time::timeout(longest, caller.connect(&host, port)).await;
            connected.map_err(late)?.map(TokioIo::new)
        }
    });
    let connected = set(endpoint).connect_with_connector(connector).await;
    let channel = connected.map_err(|error| ConnectError::Unreachable {
        address: address.to_owned(),
        reason: deepest(&error),
    })?;
    Ok(InterceptedService::new(channel, ShowsToken(header)))
}

/// What an answer says, and if it is not the other side's own word, what is below it.
pub fn words(status: &Status) -> String {
    match std::error::Error::source(status) {
        None => status.message().to_owned(),
        Some(below) => format!("{}: {}", status.message(), deepest(below)),
    }
}

/// What went wrong below; the words above it are "transport error".
fn deepest(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}
