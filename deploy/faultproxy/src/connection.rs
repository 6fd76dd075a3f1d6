//! One connection: what comes from one side goes to the other, as the troubles let it.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::frames::{Frames, Wire, kafka_answer, kafka_request};
use crate::proxy::{Carried, Shared};
use crate::trouble::{Active, Answers, Trouble, Way};

/// How long the answer to a late request is awaited.
const LATE_ANSWER: Duration = Duration::from_secs(10);

/// How a connection ends.
#[derive(Debug)]
pub(crate) enum End {
    Closed,
    Reset,
    /// The client is reset, the server gets one more request.
    Late(Late),
}

/// A request that its server is to get later.
#[derive(Debug)]
pub(crate) struct Late {
    frame: Bytes,
    correlation: i32,
    by: Duration,
    active: Arc<Active>,
}

/// Kafka's requests that are not answered yet: API keys by correlation id.
type Unanswered = Mutex<HashMap<i32, i16>>;

/// Has the socket send RST when it is closed.
pub(crate) fn reset(socket: &TcpStream) {
    // Without it the other end is closed in order: as good as a reset for whoever waits for an answer.
    let _ = socket.set_zero_linger();
}

/// Carries until one side closes or a trouble ends it.
pub(crate) async fn carry(
    client: &mut TcpStream,
    server: &mut TcpStream,
    answers: &mut Frames,
    wire: Wire,
    shared: &Shared,
    carried: &Carried,
) -> End {
    let unanswered = Unanswered::default();
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let mut requests = Frames::new(wire);
    let pump = |way| Pump { way, wire, shared, carried, unanswered: &unanswered, changes: shared.changes() };
    let (mut there, mut back) = (pump(Way::Requests), pump(Way::Answers));
    let there = there.run(&mut requests, &mut from_client, &mut to_server);
    let back = back.run(answers, &mut from_server, &mut to_client);
    tokio::select! {
        // The client has said all: the server may still answer.
        end = async {
            match there.await {
                Ok(End::Closed) => std::future::pending().await,
                Ok(end) => end,
                Err(_) => End::Reset,
            }
        } => end,
        end = back => end.unwrap_or(End::Reset),
    }
}

struct Pump<'a> {
    way: Way,
    wire: Wire,
    shared: &'a Shared,
    carried: &'a Carried,
    unanswered: &'a Unanswered,
    changes: watch::Receiver<u64>,
}

impl Pump<'_> {
    async fn run(
        &mut self,
        frames: &mut Frames,
        from: &mut (impl AsyncRead + Unpin),
        to: &mut (impl AsyncWrite + Unpin),
    ) -> io::Result<End> {
        while let Some(piece) = frames.next(from).await? {
            if let Some(end) = self.pass(&piece).await {
                return Ok(end);
            }
            to.write_all(&piece).await?;
        }
        to.shutdown().await?;
        Ok(End::Closed)
    }

    /// Holds the piece as long as the troubles want; an end instead of passing it on.
    async fn pass(&mut self, piece: &Bytes) -> Option<End> {
        let api_key = self.api_key(piece);
        loop {
            self.changes.borrow_and_update();
            let troubles = self.shared.troubles(self.carried);
            let cut = troubles
                .iter()
                .find(|active| matches!(active.trouble, Trouble::Cut(way) if way.includes(self.way)));
            let Some(cut) = cut else {
                return self.strike(&troubles, piece, api_key).await;
            };
            cut.bite();
            // The sender lives as long as the connections do.
            let _ = self.changes.changed().await;
        }
    }

    /// Which of Kafka's requests this is, or answers.
    fn api_key(&self, piece: &[u8]) -> Option<(i16, i32)> {
        if self.wire != Wire::Kafka {
            return None;
        }
        let mut unanswered = self.unanswered.lock().unwrap_or_else(PoisonError::into_inner);
        if self.way == Way::Requests {
            let (api_key, correlation) = kafka_request(piece)?;
            unanswered.insert(correlation, api_key);
            Some((api_key, correlation))
        } else {
            let correlation = kafka_answer(piece)?;
            unanswered.remove(&correlation).map(|api_key| (api_key, correlation))
        }
    }

    async fn strike(
        &self,
        troubles: &[Arc<Active>],
        piece: &Bytes,
        request: Option<(i16, i32)>,
    ) -> Option<End> {
        for active in troubles {
            match active.trouble {
                Trouble::LoseAnswers { which, .. } if self.way == Way::Answers => {
                    let is_meant = match which {
                        Answers::OfBytes(least) => piece.len() >= least,
                        Answers::ToKafka(wanted) => request.is_some_and(|(api_key, _)| api_key == wanted),
                    };
                    if is_meant && active.take() {
                        active.bite();
                        return Some(End::Reset);
                    }
                }
                Trouble::LateRequests { api_key: wanted, by, .. } if self.way == Way::Requests => {
                    if let Some((api_key, correlation)) = request
                        && api_key == wanted
                        && active.take()
                    {
                        let (frame, active) = (piece.clone(), Arc::clone(active));
                        return Some(End::Late(Late { frame, correlation, by, active }));
                    }
                }
                Trouble::Delay(by) => {
                    active.bite();
                    tokio::time::sleep(by).await;
                }
                Trouble::Bandwidth(bytes_a_second) => {
                    active.bite();
                    let micros = u64::try_from(piece.len()).unwrap_or(u64::MAX).saturating_mul(1_000_000);
                    tokio::time::sleep(Duration::from_micros(micros / bytes_a_second.max(1))).await;
                }
                _ => {}
            }
        }
        None
    }
}

/// Hands a late request to its server, and waits for the answer that nobody gets. It bites only if there is one.
pub(crate) async fn deliver_late(mut server: TcpStream, mut answers: Frames, late: Late) {
    tokio::time::sleep(late.by).await;
    if server.write_all(&late.frame).await.is_err() {
        return;
    }
    let answered = async {
        while let Ok(Some(answer)) = answers.next(&mut server).await {
            if kafka_answer(&answer) == Some(late.correlation) {
                late.active.bite();
                return;
            }
        }
    };
    // None: then it has not bitten.
    let _ = tokio::time::timeout(LATE_ANSWER, answered).await;
}
