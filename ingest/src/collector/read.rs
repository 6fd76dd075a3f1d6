//! Takes a body in: in time, no slower than a least rate, no more than a limit, as far as there is room; and decodes it.

use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout_at};

use super::decode::{DecodeError, decode};
use super::media::Encoding;
use super::room::{NoRoom, Room};

/// What a client may be late at its start.
const GRACE: Duration = Duration::from_secs(3);
/// A compressed body of more bytes is decoded off the runtime.
const DECODED_AT_ONCE: usize = 4 << 10;

#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes on the wire.
    pub(super) wire: usize,
    /// Bytes decoded.
    pub(super) decoded: usize,
    /// For the whole body.
    pub(super) time: Duration,
    /// Bytes a second on average; 0 for any.
    pub(super) least_rate: u64,
}

#[derive(Debug)]
pub(super) enum ReadError {
    TooLarge,
    DecodedTooLarge,
    /// Less than a body came within its time.
    TooLate,
    /// So many bytes had come.
    TooSlow(usize),
    CutOff(String),
    Broken(String),
    NoRoom,
}

impl From<NoRoom> for ReadError {
    fn from(NoRoom: NoRoom) -> Self {
        Self::NoRoom
    }
}

impl Limits {
    /// When the next bytes must be there after the first `received`.
    fn deadline(&self, start: Instant, received: usize) -> Instant {
        let whole = start + self.time;
        match (received as u64 * 1000).checked_div(self.least_rate) {
            Some(millis) => whole.min(start + GRACE + Duration::from_millis(millis)),
            None => whole,
        }
    }
}

/// The bytes of `body` as they are on the wire. `room` grows with them.
pub(super) async fn read(mut body: Body, limits: Limits, room: &mut Room) -> Result<Bytes, ReadError> {
    let start = Instant::now();
    let mut received = Bytes::new();
    let mut joined: Vec<u8> = Vec::new();
    loop {
        let so_far = received.len().max(joined.len());
        let deadline = limits.deadline(start, so_far);
        let frame = match timeout_at(deadline, body.frame()).await {
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(error))) => return Err(ReadError::CutOff(error.to_string())),
            Ok(None) => break,
            Err(_) if deadline < start + limits.time => return Err(ReadError::TooSlow(so_far)),
            Err(_) => return Err(ReadError::TooLate),
        };
        // Trailers say nothing of interest.
        let Ok(data) = frame.into_data() else { continue };
        if so_far + data.len() > limits.wire {
            return Err(ReadError::TooLarge);
        }
        if so_far == 0 {
            room.grow_to(data.len())?;
            received = data;
        } else {
            if joined.is_empty() {
                let announced = body.size_hint().lower();
                let expected =
                    so_far + data.len() + usize::try_from(announced).unwrap_or(usize::MAX).min(so_far);
                room.grow_to(so_far + expected)?;
                joined.reserve_exact(expected);
                joined.extend_from_slice(&received);
                received = Bytes::new();
            }
            let needed = joined.len() + data.len();
            if needed > joined.capacity() {
                let capacity = (joined.capacity() * 2).clamp(needed, limits.wire.max(needed));
                room.grow_to(capacity)?;
                joined.reserve_exact(capacity - joined.len());
            }
            joined.extend_from_slice(&data);
        }
    }
    Ok(if joined.is_empty() { received } else { joined.into() })
}

/// `wire` decoded; beside it, `room` holds what comes out.
pub(super) async fn decoded(
    encoding: Encoding,
    wire: Bytes,
    limits: Limits,
    mut room: Room,
) -> Result<(Bytes, Room), ReadError> {
    let off_the_runtime = wire.len() > DECODED_AT_ONCE;
    let work = move || {
        let result = decode(encoding, &wire, limits.decoded, |size| room.grow_to(wire.len() + size));
        match result {
            Ok(plain) => Ok((plain.into(), room)),
            Err(DecodeError::TooLarge) => Err(ReadError::DecodedTooLarge),
            Err(error @ DecodeError::Broken(_)) => Err(ReadError::Broken(error.to_string())),
            Err(DecodeError::NoRoom(NoRoom)) => Err(ReadError::NoRoom),
        }
    };
    if !off_the_runtime {
        return work();
    }
    let done = tokio::task::spawn_blocking(work).await;
    done.unwrap_or_else(|panicked| std::panic::resume_unwind(panicked.into_panic()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::stream;
    use futures::stream::StreamExt;
    use prometheus_client::metrics::gauge::Gauge;
    use proptest::prelude::*;

    use crate::collector::room::Memory;

    const LIMITS: Limits =
        Limits { wire: 1000, decoded: 5000, time: Duration::from_secs(15), least_rate: 100 };

    fn memory() -> Memory {
        Memory::new(1 << 20, Gauge::default())
    }

    /// A body that comes in `pieces`, each after a pause.
    fn body(pieces: Vec<(Duration, Vec<u8>)>) -> Body {
        Body::from_stream(stream::iter(pieces).then(|(pause, piece)| async move {
            tokio::time::sleep(pause).await;
            Ok::<_, std::io::Error>(piece)
        }))
    }

    async fn read_pieces(pause: Duration, pieces: usize, size: usize) -> Result<Bytes, ReadError> {
        read(body(vec![(pause, vec![7; size]); pieces]), LIMITS, &mut memory().room()).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_may_come_slowly_but_not_too_slowly() {
        let second = Duration::from_secs(1);
        assert_eq!(read_pieces(second, 8, 100).await.expect("in time").len(), 800);
        assert!(matches!(read_pieces(second, 100, 1).await, Err(ReadError::TooSlow(3))));
        assert!(matches!(read_pieces(Duration::from_secs(4), 1, 1).await, Err(ReadError::TooSlow(0))));
        let any = Limits { least_rate: 0, ..LIMITS };
        let slow = body(vec![(second, vec![7]); 100]);
        assert!(matches!(read(slow, any, &mut memory().room()).await, Err(ReadError::TooLate)));
    }

    #[tokio::test]
    async fn a_body_beyond_the_limit_or_the_budget_is_refused_before_it_is_held() {
        let now = Duration::ZERO;
        assert_eq!(read_pieces(now, 10, 100).await.expect("just so many").len(), 1000);
        assert!(matches!(read_pieces(now, 11, 100).await, Err(ReadError::TooLarge)));
        assert!(matches!(read_pieces(now, 1, 1001).await, Err(ReadError::TooLarge)));
        let small = Memory::new(1 << 10, Gauge::default());
        let large = Limits { wire: 10_000, ..LIMITS };
        let refused = read(body(vec![(now, vec![7; 600]); 5]), large, &mut small.room()).await;
        assert!(matches!(refused, Err(ReadError::NoRoom)));
        assert!(small.room().grow_to(1 << 10).is_ok(), "the room is given back");
    }

    #[tokio::test]
    async fn a_body_that_ends_early_is_cut_off() {
        let pieces = [Ok(vec![7]), Err(std::io::Error::other("gone"))];
        let refused = read(Body::from_stream(stream::iter(pieces)), LIMITS, &mut memory().room()).await;
        assert!(matches!(refused, Err(ReadError::CutOff(_))));
    }

    #[tokio::test]
    async fn a_bomb_is_refused_and_its_room_given_back() {
        let memory = Memory::new(16 << 10, Gauge::default());
        let bomb = zstd::encode_all(&vec![0; 10 << 20][..], 3).expect("from memory");
        for limits in [LIMITS, Limits { decoded: 64 << 20, ..LIMITS }] {
            let refused = decoded(Encoding::Zstd, bomb.clone().into(), limits, memory.room()).await;
            assert!(matches!(refused, Err(ReadError::DecodedTooLarge | ReadError::NoRoom)));
            assert!(memory.room().grow_to(16 << 10).is_ok(), "the room is given back");
        }
    }

    proptest! {
        #[test]
        fn a_body_in_any_pieces_is_read_whole(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..90), 0..11)) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
            let whole = pieces.concat();
            let pieces = pieces.into_iter().map(|piece| (Duration::ZERO, piece)).collect();
            let read = runtime.block_on(async { read(body(pieces), LIMITS, &mut memory().room()).await });
            prop_assert_eq!(&read.expect("read")[..], &whole[..]);
        }
    }
}
