//! Connections of a listener behind their TLS handshakes.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio_rustls::server::TlsStream;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};

use super::Tls;
use crate::backoff::Backoff;
use crate::shutdown::Shutdown;

/// A handshake may take this long.
const HANDSHAKE: Duration = Duration::from_secs(5);
/// Handshakes under way; more connections wait to be accepted.
const HANDSHAKES: usize = 256;

/// The connections that have shaken hands, until `shutdown` begins. A handshake that fails is logged with its peer and
/// the reason.
pub fn incoming(
    listener: TcpListener,
    tls: Tls,
    shutdown: &Shutdown,
) -> ReceiverStream<io::Result<TlsStream<TcpStream>>> {
    let (accepted, connections) = mpsc::channel(HANDSHAKES);
    let stop = shutdown.clone();
    shutdown.spawn("tls handshakes", async move {
        tokio::select! {
            () = accept(listener, tls, accepted, &stop) => {}
            () = stop.begun() => {}
        }
    });
    ReceiverStream::new(connections)
}

async fn accept(
    listener: TcpListener,
    tls: Tls,
    accepted: mpsc::Sender<io::Result<TlsStream<TcpStream>>>,
    shutdown: &Shutdown,
) {
    let under_way = Arc::new(Semaphore::new(HANDSHAKES));
    let mut backoff = Backoff::new(Duration::from_millis(10), Duration::from_secs(1));
    loop {
        let Ok(permit) = Arc::clone(&under_way).acquire_owned().await else { return };
        let (stream, peer) = match listener.accept().await {
            Ok(connection) => connection,
            Err(error) => {
                // Out of file descriptors, or the client left again: others may still come.
                let wait = backoff.next_wait();
                warn!(%error, ?wait, "a connection can't be accepted");
                tokio::time::sleep(wait).await;
                continue;
            }
        };
        backoff.reset();
        let (acceptor, accepted, stop) = (tls.acceptor(), accepted.clone(), shutdown.clone());
        let is_mutual = tls.is_mutual();
        shutdown.spawn("tls handshake", async move {
            let _permit = permit;
            let _ = stream.set_nodelay(true);
            let shaken = tokio::select! {
                shaken = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)) => shaken,
                () = stop.begun() => return,
            };
            match shaken {
                // Nobody serves any more if this fails.
                Ok(Ok(stream)) => drop(accepted.send(Ok(stream)).await),
                Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => {
                    debug!(%peer, "a client left before the tls handshake");
                }
                Ok(Err(error)) => {
                    let expected = if is_mutual {
                        "tls 1.2 or 1.3 with a certificate of an authority in --tls-client-ca"
                    } else {
                        "tls 1.2 or 1.3"
                    };
                    warn!(%peer, %error, expected, "tls handshake failed");
                }
                Err(_) => warn!(%peer, "tls handshake not done within {} s", HANDSHAKE.as_secs()),
            }
        });
    }
}
