//! Connections of a listener, once it is known that both sides speak the same: behind their TLS handshakes, or plain.
//! Who is refused hears it, and stands in the log with what to do.

use std::collections::HashMap;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{error, info, warn};

use super::{Tls, words};
use crate::backoff::Backoff;
use crate::shutdown::Shutdown;

/// First byte and handshake together may take this long.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes under way; more connections wait to be accepted.
const HANDSHAKES: usize = 256;
/// Between two looks at whether the certificate's files were replaced.
const LOOK: Duration = Duration::from_secs(5);
/// How long somebody who was refused may take to hear it.
const FAREWELL: Duration = Duration::from_secs(1);
/// The same refusal of the same host is logged once in this time.
const REPEATED: Duration = Duration::from_secs(60);
/// Refusals that are remembered.
const REMEMBERED: usize = 1024;

/// First byte of a TLS record: a handshake, which a client begins with, or an alert (RFC 8446, 5.1).
const BEGINNING: u8 = 0x16;
pub(super) const ALERT: u8 = 0x15;
/// A fatal alert, `handshake_failure`: what a TLS listener says to who speaks plain text.
const ALERT_RECORD: [u8; 7] = [ALERT, 3, 3, 0, 2, 2, 0x28];
/// An empty SETTINGS frame (RFC 9113, 6.5): what a plain listener says to who speaks TLS. No TLS record begins so.
const SETTINGS_FRAME: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];

/// The connections that have shaken hands. It listens as long as they are taken; the certificate's files are read again
/// when they change. `what` listens: for the log.
pub fn incoming(
    what: &'static str,
    listener: TcpListener,
    tls: Tls,
    shutdown: &Shutdown,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (accepted, connections) = mpsc::channel(HANDSHAKES);
    let end = accepted.clone();
    let renewed = tls.clone();
    shutdown.spawn("tls files", async move {
        tokio::select! {
            () = keep_current(what, renewed) => {}
            () = end.closed() => {}
        }
    });
    let shake = move |stream| shake(stream, tls.clone());
    shutdown.spawn("tls handshakes", accept(what, listener, shake, accepted, shutdown.clone()));
    ReceiverStream::new(connections)
}

/// The connections that do not begin as TLS does.
pub fn plain_incoming(
    what: &'static str,
    listener: TcpListener,
    shutdown: &Shutdown,
) -> ReceiverStream<io::Result<TcpStream>> {
    let (accepted, connections) = mpsc::channel(HANDSHAKES);
    shutdown.spawn("connections", accept(what, listener, listen, accepted, shutdown.clone()));
    ReceiverStream::new(connections)
}

/// A connection that is not let in.
struct Refused {
    /// `None`: it went away by itself.
    reason: Option<String>,
    /// If the other side is still there to hear of it.
    stream: Option<TcpStream>,
}

async fn accept<S, F>(
    what: &'static str,
    listener: TcpListener,
    shake: impl Fn(TcpStream) -> F,
    accepted: mpsc::Sender<io::Result<S>>,
    shutdown: Shutdown,
) where
    S: Send + 'static,
    F: Future<Output = Result<S, Refused>> + Send + 'static,
{
    let under_way = Arc::new(Semaphore::new(HANDSHAKES));
    let refusals = Refusals::default();
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        let next = async {
            let permit = Arc::clone(&under_way).acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|(stream, peer)| (permit, stream, peer))
        };
        let next = tokio::select! {
            next = next => next,
            () = accepted.closed() => return,
        };
        let (permit, stream, peer) = match next {
            Ok(next) => next,
            Err(error) => {
                // Out of file descriptors, or the client left again: others may still come.
                let wait = backoff.next_wait();
                warn!(%error, ?wait, "a connection can't be accepted");
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        backoff.reset();
        let _ = stream.set_nodelay(true);
        let (shaken, accepted, refusals) = (shake(stream), accepted.clone(), refusals.clone());
        shutdown.spawn("handshake", async move {
            let _permit = permit;
            tokio::select! {
                () = admit(what, peer, shaken, &accepted, &refusals) => {}
                () = accepted.closed() => {}
            }
        });
    }
}

async fn admit<S>(
    what: &'static str,
    peer: SocketAddr,
    shaken: impl Future<Output = Result<S, Refused>>,
    accepted: &mpsc::Sender<io::Result<S>>,
    refusals: &Refusals,
) {
    let late =
        || Refused { reason: Some(format!("no handshake within {} s", HANDSHAKE.as_secs())), stream: None };
    let Refused { reason, stream } = match timeout(HANDSHAKE, shaken).await.unwrap_or_else(|_| Err(late())) {
        // Nobody serves any more if this fails.
        Ok(stream) => return drop(accepted.send(Ok(stream)).await),
        Err(refused) => refused,
    };
    if let Some(reason) = reason.filter(|reason| refusals.is_news(peer.ip(), reason)) {
        warn!(listener = what, %peer, reason, "connection refused");
    }
    if let Some(stream) = stream {
        farewell(stream).await;
    }
}

async fn shake(mut stream: TcpStream, tls: Tls) -> Result<TlsStream<TcpStream>, Refused> {
    if first_byte(&stream).await? != BEGINNING {
        let _ = stream.write_all(&ALERT_RECORD).await;
        let reason = "it speaks plain text, and TLS is spoken here: give it --tls-ca".to_owned();
        return Err(Refused { reason: Some(reason), stream: Some(stream) });
    }
    let shaken = tls.acceptor().accept(stream).into_fallible().await;
    shaken.map_err(|(error, stream)| Refused {
        reason: words::to_listener(&error, tls.files()),
        stream: Some(stream),
    })
}

async fn listen(mut stream: TcpStream) -> Result<TcpStream, Refused> {
    if first_byte(&stream).await? == BEGINNING {
        let _ = stream.write_all(&SETTINGS_FRAME).await;
        let reason = "it speaks TLS, and plain text is spoken here: leave its --tls-ca out, or give --tls-certificate \
                      and --tls-key here";
        return Err(Refused { reason: Some(reason.to_owned()), stream: Some(stream) });
    }
    Ok(stream)
}

/// Without taking it.
async fn first_byte(stream: &TcpStream) -> Result<u8, Refused> {
    let mut first = [0];
    match stream.peek(&mut first).await {
        Ok(1..) => Ok(first[0]),
        // Who only looks whether somebody listens.
        Ok(0) | Err(_) => Err(Refused { reason: None, stream: None }),
    }
}

/// Lets the other side hear why: were the socket closed while something of it is unread, that might be lost.
async fn farewell(mut stream: TcpStream) {
    let _ = timeout(FAREWELL, async {
        stream.shutdown().await?;
        let mut unread = [0; 4 << 10];
        while stream.read(&mut unread).await? > 0 {}
        io::Result::Ok(())
    })
    .await;
}

/// Reads the files again whenever they were replaced; what can't be used changes nothing.
async fn keep_current(what: &'static str, tls: Tls) {
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        look.tick().await;
        let looked = tls.clone();
        match tokio::task::spawn_blocking(move || looked.reload_if_changed()).await {
            Ok(Ok(false)) => {}
            Ok(Ok(true)) => info!(listener = what, "certificate and key read again, for connections to come"),
            Ok(Err(error)) => error!(listener = what, %error, "the certificate stays as it was"),
            Err(panicked) => error!(error = %panicked, "reading the certificate again failed"),
        }
    }
}

/// What was logged lately: who is refused comes again each second.
#[derive(Debug, Clone, Default)]
pub struct Refusals(Arc<Mutex<HashMap<(IpAddr, String), Instant>>>);

impl Refusals {
    /// Whether it should be logged.
    pub fn is_news(&self, peer: IpAddr, reason: &str) -> bool {
        let mut logged = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        logged.retain(|_, at| now.duration_since(*at) < REPEATED);
        let key = (peer, reason.to_owned());
        if logged.contains_key(&key) {
            return false;
        }
        if logged.len() < REMEMBERED {
            logged.insert(key, now);
        }
        true
    }
}
