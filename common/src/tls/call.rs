//! Connections to a listener: open when the other side has let this one in, so that a refusal has its cause.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::ClientConfig;
use rustls::crypto::ring;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;

use super::incoming::ALERT;
use super::{TlsError, authorities, certificates, private_key, words};

/// The files behind a caller's TLS.
#[derive(Debug, Clone)]
pub struct ClientFiles {
    /// Authorities of those who are called.
    pub ca: PathBuf,
    /// The caller's own chain and its key, if it has them.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// What a client of HTTP/2 says first (RFC 9113, 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Plain text, or TLS.
pub type Wire = Either<Greeted, TlsStream<TcpStream>>;

/// How one speaks with others. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Caller(Option<(Arc<ClientConfig>, ClientFiles)>);

impl Caller {
    /// Reads the files; `None` for plain text. Blocks.
    ///
    /// # Errors
    /// The first file that can't be used, and why.
    pub fn read(files: Option<ClientFiles>) -> Result<Self, TlsError> {
        let Some(files) = files else { return Ok(Self(None)) };
        let trusted = authorities("--tls-ca", &files.ca)?;
        let no_pair = |source| {
            let (certificate, key) = files.own.clone().unwrap_or_default();
            TlsError::NoPair { certificate, key, source }
        };
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(no_pair)?
            .with_root_certificates(trusted);
        let mut config = match &files.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let chain = certificates("--tls-certificate", certificate, "the certificate and its chain")?;
                builder.with_client_auth_cert(chain, private_key(key)?).map_err(no_pair)?
            }
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(Self(Some((Arc::new(config), files))))
    }

    /// Connects to a listener that speaks HTTP/2, and waits for its first byte: it has one to say as soon as it has let
    /// the caller in (RFC 9113, 3.4). With TLS 1.3 a caller learns only then whether its certificate is taken.
    ///
    /// # Errors
    /// Why there is no connection, in words.
    pub async fn connect(&self, host: &str, port: u16) -> io::Result<Wire> {
        let mut stream = TcpStream::connect((host, port)).await?;
        stream.set_nodelay(true)?;
        let Some((config, files)) = &self.0 else {
            // A listener with TLS waits for the caller's first byte, to be told apart from a slow one.
            stream.write_all(PREFACE).await?;
            let mut first = [0];
            return match stream.peek(&mut first).await? {
                0 => Err(io::Error::other("it closed the connection at once")),
                _ if first[0] == ALERT => {
                    Err(io::Error::other("it may speak TLS: give --tls-ca with its certificate authority"))
                }
                _ => Ok(Either::Left(Greeted { stream, unsaid: PREFACE })),
            };
        };
        let in_words = |error: io::Error| words::to_caller(&error, files).map_or(error, io::Error::other);
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| io::Error::other(format!("{host:?} can't be a name in a certificate")))?;
        let connector = TlsConnector::from(Arc::clone(config));
        let mut stream = connector.connect(name, stream).await.map_err(in_words)?;
        if stream.fill_buf().await.map_err(in_words)?.is_empty() {
            return Err(io::Error::other("it closed the connection at once"));
        }
        Ok(Either::Right(stream))
    }
}

/// A plain connection whose preface is sent already: it is not sent again when HTTP/2 begins.
#[derive(Debug)]
pub struct Greeted {
    stream: TcpStream,
    /// What is sent, and HTTP/2 does not know that it is.
    unsaid: &'static [u8],
}

impl AsyncRead for Greeted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Greeted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.unsaid.is_empty() {
            return Pin::new(&mut self.stream).poll_write(context, bytes);
        }
        let said = bytes.len().min(self.unsaid.len());
        let (now, later) = self.unsaid.split_at(said);
        if !bytes.starts_with(now) {
            return Poll::Ready(Err(io::Error::other("HTTP/2 began without its preface")));
        }
        self.unsaid = later;
        Poll::Ready(Ok(said))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
