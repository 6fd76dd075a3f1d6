//! The way to a master, or to a worker's Arrow Flight: one channel with TLS and token as the flags say, and errors that
//! say what is wrong on which side.

use std::time::Duration;

use millrace_common::tls::{AccessError, ClientFlags, Token};
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Request, Status};

/// A channel that shows the token with each call.
pub type Access = InterceptedService<Channel, ShowsToken>;

/// No channel. The text is ready to be shown.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("{address:?} is no address: expected HOST:PORT")]
    Address { address: String },
    #[error(transparent)]
    Access(#[from] AccessError),
    #[error("{flag} {path} can't be read: {source}")]
    File {
        flag: &'static str,
        path: String,
        #[source]
        source: std::io::Error,
    },
    #[error("TLS can't be set up as --tls-ca, --tls-certificate and --tls-key say: {reason}")]
    Tls { reason: String },
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

/// Lets calls in that show the cluster's token.
#[derive(Debug, Clone)]
pub struct AsksToken(pub Option<Token>);

impl Interceptor for AsksToken {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let Some(token) = &self.0 else { return Ok(request) };
        match request.metadata().get("authorization") {
            Some(shown) if token.is_shown_by(shown.as_bytes()) => Ok(request),
            Some(_) => {
                Err(Status::unauthenticated("the token is another one: compare --token here and there"))
            }
            None => Err(Status::unauthenticated("a token is expected: give --token env:NAME or file:/PATH")),
        }
    }
}

/// An endpoint for `address`, a `host:port`, and what each call through it shows.
///
/// # Errors
/// Flags that can't be followed. Nothing is connected yet.
pub async fn endpoint(address: &str, flags: &ClientFlags) -> Result<(Endpoint, ShowsToken), ConnectError> {
    flags.check(address)?;
    let header = match flags.token()? {
        None => None,
        // It is printable.
        Some(token) => token.header().parse().ok().map(|mut header: MetadataValue<Ascii>| {
            header.set_sensitive(true);
            header
        }),
    };
    let scheme = if flags.tls_ca.is_some() { "https" } else { "http" };
    let endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
        .map_err(|_| ConnectError::Address { address: address.to_owned() })?;
    let endpoint = match tls(flags).await? {
        None => endpoint,
        Some(tls) => {
            endpoint.tls_config(tls).map_err(|error| ConnectError::Tls { reason: deepest(&error) })?
        }
    };
    Ok((endpoint.tcp_nodelay(true), ShowsToken(header)))
}

/// A connected channel.
///
/// # Errors
/// Flags that can't be followed, or a listener that can't be reached within `longest`.
pub async fn connect(
    address: &str,
    flags: &ClientFlags,
    longest: Duration,
    set: impl FnOnce(Endpoint) -> Endpoint,
) -> Result<Access, ConnectError> {
    let (endpoint, token) = endpoint(address, flags).await?;
    let connected = set(endpoint.connect_timeout(longest)).connect().await;
    let channel = connected.map_err(|error| ConnectError::Unreachable {
        address: address.to_owned(),
        reason: explained(deepest(&error), flags),
    })?;
    Ok(InterceptedService::new(channel, token))
}

async fn tls(flags: &ClientFlags) -> Result<Option<ClientTlsConfig>, ConnectError> {
    let Some(ca) = &flags.tls_ca else { return Ok(None) };
    let read = async |flag, path: &std::path::Path| {
        let unreadable = |source| ConnectError::File { flag, path: path.display().to_string(), source };
        tokio::fs::read(path).await.map_err(unreadable)
    };
    let mut tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read("--tls-ca", ca).await?));
    if let (Some(certificate), Some(key)) = (&flags.tls_certificate, &flags.tls_key) {
        let (certificate, key) =
            (read("--tls-certificate", certificate).await?, read("--tls-key", key).await?);
        tls = tls.identity(Identity::from_pem(certificate, key));
    }
    Ok(Some(tls))
}

/// What an answer says, and if it is not the other side's own word, what is below it and what to do.
pub fn words(status: &Status, flags: &ClientFlags) -> String {
    match std::error::Error::source(status) {
        None => status.message().to_owned(),
        Some(below) => explained(format!("{}: {}", status.message(), deepest(below)), flags),
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

/// The reason, and what to do about those that don't say it.
fn explained(reason: String, flags: &ClientFlags) -> String {
    let hint = if reason.contains("UnknownIssuer") || reason.contains("BadSignature") {
        "its certificate is not of an authority in --tls-ca"
    } else if reason.contains("not valid for name") {
        "its certificate is another host's: ask it by a name that the certificate has"
    } else if reason.contains("expired") {
        "its certificate has expired"
    } else if reason.contains("InvalidContentType") {
        "it speaks plain text: leave --tls-ca out, or give it --tls-certificate"
    } else if reason.contains("CertificateRequired") {
        "it wants a certificate: give --tls-certificate and --tls-key"
    } else if reason.contains("UnknownCA") || reason.contains("DecryptError") {
        "it does not know the authority of --tls-certificate: compare with its --tls-client-ca"
    } else if flags.tls_ca.is_none()
        && ["frame", "h2", "http2", "broken pipe", "reset by peer"].iter().any(|sign| reason.contains(sign))
    {
        "it may speak TLS: give --tls-ca"
    } else {
        return reason;
    };
    format!("{reason} ({hint})")
}
