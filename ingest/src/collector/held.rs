//! An answer that keeps its room in memory until it is written: a client that reads slowly takes it from the others, and
//! never more than there is.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

use super::room::Room;

/// Given to the connection at a time, as a copy: the connection holds some of them without room.
const PIECE: usize = 16 << 10;

struct Held {
    text: Bytes,
    _room: Room,
}

/// A body of `text` that holds `room` until it is written.
pub(super) fn held(text: Bytes, room: Room) -> Body {
    Body::new(Held { text, _room: room })
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.text.is_empty() {
            return Poll::Ready(None);
        }
        let count = self.text.len().min(PIECE);
        let piece = Bytes::copy_from_slice(&self.text.split_to(count));
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.text.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.text.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use prometheus_client::metrics::gauge::Gauge;

    use super::*;
    use crate::collector::room::Memory;

    #[tokio::test]
    async fn the_room_is_free_when_the_last_piece_is_taken_and_not_before() {
        let taken = Gauge::default();
        let mut room = Memory::new(1 << 20, taken.clone()).room();
        room.grow_to(100 << 10).expect("room");
        let text = Bytes::from(vec![b'x'; 2 * PIECE + 7]);
        let mut body = held(text.clone(), room);
        assert_eq!(body.size_hint().exact(), Some(text.len() as u64));
        let mut read = Vec::new();
        while let Some(frame) = body.frame().await {
            assert_eq!(taken.get(), 100 << 10);
            read.extend_from_slice(&frame.expect("a piece").into_data().expect("data"));
        }
        assert_eq!(read, text);
        drop(body);
        assert_eq!(taken.get(), 0);
    }
}
