//! A connection whose client may not take as long as it likes: over its request's head, between two requests, and over
//! reading an answer. The time of a body is the request's own affair.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Semaphore;
use tokio::time::{Instant, Sleep};

/// How long a client may let an answer lie.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// How long a connection may be idle while most of them are taken.
const IDLE_WHEN_CROWDED: Duration = Duration::from_secs(2);

/// What a connection is waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
enum Phase {
    /// For the first byte of the next request.
    Idle,
    /// For the rest of a head; at the very first, for all of it, and for the TLS handshake.
    Head,
    /// For an answer, or a body: nothing to wait for here.
    Busy,
}

/// What the connection does, told by who answers its requests. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Activity(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    stage: AtomicU32,
    ended: OnceLock<&'static str>,
}

/// A phase in the lowest two bits, and above them a number that rises with each change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stage(u32);

impl Stage {
    fn phase(self) -> Phase {
        match self.0 & 3 {
            phase if phase == Phase::Idle as u32 => Phase::Idle,
            phase if phase == Phase::Head as u32 => Phase::Head,
            _ => Phase::Busy,
        }
    }

    fn next(self, phase: Phase) -> Self {
        Self((self.0 | 3).wrapping_add(1) | phase as u32)
    }
}

impl Activity {
    fn new() -> Self {
        Self(Arc::new(Shared { stage: AtomicU32::new(Phase::Head as u32), ended: OnceLock::new() }))
    }

    /// A request's head is there.
    pub(super) fn request(&self) {
        self.enter(Phase::Busy);
    }

    /// It is answered.
    pub(super) fn answer(&self) {
        self.enter(Phase::Idle);
    }

    // The connection's own task is the only one that writes.
    fn enter(&self, phase: Phase) {
        self.0.stage.store(self.stage().next(phase).0, Ordering::Relaxed);
    }

    fn stage(&self) -> Stage {
        Stage(self.0.stage.load(Ordering::Relaxed))
    }

    /// Why the connection was ended, if it was too late for something.
    pub(super) fn ended(&self) -> Option<&'static str> {
        self.0.ended.get().copied()
    }

    fn end(&self, reason: &'static str) -> io::Error {
        let reason = self.0.ended.get_or_init(|| reason);
        io::Error::new(io::ErrorKind::TimedOut, *reason)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Patience {
    pub(super) head: Duration,
    pub(super) idle: Duration,
    /// Of all connections; and how many there may be.
    pub(super) free: Arc<Semaphore>,
    pub(super) most: usize,
}

impl Patience {
    fn idle(&self) -> Duration {
        let crowded = self.free.available_permits() < self.most / 4;
        if crowded { self.idle.min(IDLE_WHEN_CROWDED) } else { self.idle }
    }
}

/// Why a connection is ended: the text of the error that it ends with, and stable.
const SLOW_HEAD: &str = "slow_head";
const IDLE: &str = "idle";
const SLOW_READER: &str = "slow_reader";

/// A stream with deadlines.
#[derive(Debug)]
pub(super) struct Patient<S> {
    stream: S,
    patience: Patience,
    activity: Activity,
    reading: Pin<Box<Sleep>>,
    /// What `reading` counts for.
    armed: Stage,
    /// While an answer waits to be read.
    writing: Option<Pin<Box<Sleep>>>,
}

impl<S> Patient<S> {
    pub(super) fn new(stream: S, patience: Patience) -> Self {
        let reading = Box::pin(tokio::time::sleep(patience.head));
        let activity = Activity::new();
        let armed = activity.stage();
        Self { stream, patience, activity, reading, armed, writing: None }
    }

    pub(super) fn activity(&self) -> Activity {
        self.activity.clone()
    }

    /// Nothing came: is it too late?
    fn poll_too_late(&mut self, context: &mut Context<'_>) -> Poll<io::Error> {
        let stage = self.activity.stage();
        let (time, reason) = match stage.phase() {
            Phase::Busy => return Poll::Pending,
            Phase::Idle => (self.patience.idle(), IDLE),
            Phase::Head => (self.patience.head, SLOW_HEAD),
        };
        if stage != self.armed {
            self.reading.as_mut().reset(Instant::now() + time);
            self.armed = stage;
        }
        ready!(self.reading.as_mut().poll(context));
        Poll::Ready(self.activity.end(reason))
    }

    /// What a write came to: is it too late for one that can't go on?
    fn written<T>(&mut self, context: &mut Context<'_>, written: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.writing = None;
            return written;
        }
        let sleep = self.writing.get_or_insert_with(|| Box::pin(tokio::time::sleep(WRITE_DEADLINE)));
        ready!(sleep.as_mut().poll(context));
        Poll::Ready(Err(self.activity.end(SLOW_READER)))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Patient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(context, buffer) {
            Poll::Pending => self.poll_too_late(context).map(Err),
            read => {
                if buffer.filled().len() > before && self.activity.stage().phase() == Phase::Idle {
                    self.activity.enter(Phase::Head);
                }
                read
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Patient<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.written(context, written)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write_vectored(context, pieces);
        self.written(context, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.stream).poll_flush(context);
        self.written(context, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = Pin::new(&mut self.stream).poll_shutdown(context);
        self.written(context, shut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};

    fn patience(free: usize) -> Patience {
        Patience {
            head: Duration::from_secs(10),
            idle: Duration::from_secs(75),
            free: Arc::new(Semaphore::new(free)),
            most: 100,
        }
    }

    fn pair(free: usize) -> (DuplexStream, Patient<DuplexStream>) {
        let (client, server) = duplex(16);
        (client, Patient::new(server, patience(free)))
    }

    /// How long a read waited, and why it ended.
    async fn ended(server: &mut Patient<DuplexStream>) -> (u64, String) {
        let start = Instant::now();
        let error = server.read_u8().await.expect_err("too late");
        (start.elapsed().as_secs(), error.to_string())
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_its_time_from_the_connections_start_however_it_trickles() {
        let (mut client, mut server) = pair(100);
        let trickle = tokio::spawn(async move {
            while client.write_u8(b'a').await.is_ok() {
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        });
        let start = Instant::now();
        let error = loop {
            if let Err(error) = server.read_u8().await {
                break error;
            }
        };
        assert_eq!((start.elapsed().as_secs(), error.to_string().as_str()), (10, SLOW_HEAD));
        drop(server);
        trickle.await.expect("no panic");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_has_longer_unless_it_is_crowded() {
        for (free, expected) in [(100, 75), (10, 2)] {
            let (_client, mut server) = pair(free);
            server.activity().request();
            server.activity().answer();
            assert_eq!(ended(&mut server).await, (expected, IDLE.to_owned()));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_next_head_has_its_time_from_its_first_byte() {
        let (mut client, mut server) = pair(100);
        server.activity().request();
        server.activity().answer();
        let later = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(60)).await;
            client.write_u8(b'P').await.expect("written");
            client
        });
        assert_eq!(server.read_u8().await.expect("a byte"), b'P');
        assert_eq!(ended(&mut server).await, (10, SLOW_HEAD.to_owned()));
        drop(later);
    }

    #[tokio::test(start_paused = true)]
    async fn each_pause_between_two_requests_has_its_own_time() {
        let (mut client, mut server) = pair(100);
        let requests = tokio::spawn(async move {
            for _ in 0..5 {
                client.write_u8(b'P').await.expect("written");
                tokio::time::sleep(Duration::from_secs(60)).await;
            }
            client
        });
        for _ in 0..5 {
            server.read_u8().await.expect("a byte");
            server.activity().request();
            server.activity().answer();
        }
        assert_eq!(ended(&mut server).await, (75, IDLE.to_owned()));
        drop(requests);
    }

    #[tokio::test(start_paused = true)]
    async fn while_a_request_is_answered_nothing_is_waited_for() {
        let (mut client, mut server) = pair(100);
        server.activity().request();
        let later = tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(600)).await;
            client.write_u8(b'x').await.expect("written");
            client
        });
        assert_eq!(server.read_u8().await.expect("a byte"), b'x');
        drop(later);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_does_not_read_its_answer_is_left() {
        let (_client, mut server) = pair(100);
        let start = Instant::now();
        let error = server.write_all(&[0; 100]).await.expect_err("too late");
        assert_eq!((start.elapsed(), error.to_string().as_str()), (WRITE_DEADLINE, SLOW_READER));
    }
}
