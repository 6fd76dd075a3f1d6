//! Calls of etcd: connected, with a deadline, and with errors that say what may follow from them.

use std::time::Duration;

use etcd_client::{Certificate, Client, ConnectOptions, Error, Identity, TlsOptions};
use millrace_common::secret;
use tonic::Code;

use super::EtcdError;
use super::location::{EtcdFlags, EtcdLocation};

/// A call without an answer after this is taken as lost.
pub(super) const CALL: Duration = Duration::from_secs(1);
const CONNECT: Duration = Duration::from_millis(800);
/// A member that is gone without a word is noticed after both.
const PING: (Duration, Duration) = (Duration::from_millis(500), Duration::from_millis(800));

/// A client of all endpoints; nothing is connected before the first call.
pub(super) async fn connect(location: &EtcdLocation, flags: &EtcdFlags) -> Result<Client, EtcdError> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT)
        .with_keep_alive(PING.0, PING.1)
        .with_keep_alive_while_idle(true)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some(tls) = tls(flags).await? {
        options = options.with_tls(tls);
    }
    if let (Some(user), Some(password)) = (&flags.etcd_user, &flags.etcd_password) {
        let password = secret::read(password).map_err(|error| EtcdError::Flags(error.to_string()))?;
        options = options.with_user(user, password);
    }
    call(location, "a connection", Client::connect(&location.endpoints, Some(options))).await
}

async fn tls(flags: &EtcdFlags) -> Result<Option<TlsOptions>, EtcdError> {
    let Some(ca) = &flags.etcd_ca else { return Ok(None) };
    let read = async |path: &std::path::Path| {
        let unreadable = |error| EtcdError::Flags(format!("{} can't be read: {error}", path.display()));
        tokio::fs::read(path).await.map_err(unreadable)
    };
    let mut tls = TlsOptions::new().ca_certificate(Certificate::from_pem(read(ca).await?));
    if let (Some(certificate), Some(key)) = (&flags.etcd_certificate, &flags.etcd_key) {
        tls = tls.identity(Identity::from_pem(read(certificate).await?, read(key).await?));
    }
    Ok(Some(tls))
}

/// The answer, within [`CALL`].
pub(super) async fn call<T>(
    location: &EtcdLocation,
    what: &'static str,
    asked: impl Future<Output = Result<T, Error>>,
) -> Result<T, EtcdError> {
    let endpoints = || location.endpoints.join(",");
    match tokio::time::timeout(CALL, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(judge(error, endpoints(), what)),
        Err(_) => {
            let reason = format!("no answer within {} s", CALL.as_secs());
            Err(EtcdError::Away { endpoints: endpoints(), what, reason })
        }
    }
}

/// What the words of a failure have in them, and the flags that such a failure asks for.
const FLAGS: [(&str, &str); 8] = [
    ("UnknownIssuer", "--etcd-ca must name the authority that signed etcd's certificate"),
    ("NotValidForName", "etcd's certificate must name the host as --state does"),
    ("CertificateRequired", "etcd wants a certificate: --etcd-certificate and --etcd-key"),
    ("invalid user ID or password", "see --etcd-user and --etcd-password"),
    ("user name is empty", "etcd wants a login: --etcd-user and --etcd-password"),
    ("permission denied", "--etcd-user must name a user who reads and writes below the prefix in --state"),
    ("http2 error", "if etcd speaks TLS, --etcd-ca names its authority"),
    ("stream closed because of a broken pipe", "if etcd speaks TLS, --etcd-ca names its authority"),
];

fn judge(error: Error, endpoints: String, what: &'static str) -> EtcdError {
    let mut reason = deepest(&error);
    if let Some((_, flags)) = FLAGS.iter().find(|(words, _)| reason.contains(words)) {
        reason = format!("{reason} ({flags})");
    }
    match error {
        Error::GRpcStatus(status) => match status.code() {
            Code::ResourceExhausted if status.message().contains("space exceeded") => EtcdError::Full,
            Code::InvalidArgument
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::NotFound
            | Code::Unimplemented
            | Code::FailedPrecondition => EtcdError::Refused { endpoints, what, reason },
            // Among them OutOfRange: the revision that was being read page by page has just been compacted.
            _ => EtcdError::Away { endpoints, what, reason },
        },
        Error::LeaseKeepAliveError(_) | Error::InvalidArgs(_) | Error::InvalidUri(_) => {
            EtcdError::Refused { endpoints, what, reason }
        }
        _ => EtcdError::Away { endpoints, what, reason },
    }
}

/// A transport error's own words are "transport error"; its cause says more.
fn deepest(error: &Error) -> String {
    let top: &dyn std::error::Error = match error {
        Error::GRpcStatus(status) => status,
        Error::TransportError(error) => error,
        other => return other.to_string(),
    };
    let mut cause = top;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    match error {
        Error::GRpcStatus(status) if std::ptr::addr_eq(cause, top) => status.message().to_owned(),
        _ => cause.to_string(),
    }
}
