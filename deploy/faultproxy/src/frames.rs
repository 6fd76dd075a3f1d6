//! What is read off a connection in one piece: some bytes, or one whole request or answer of Kafka's.

use std::io;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How a connection's bytes are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wire {
    /// As they come.
    Bytes,
    /// Into Kafka's requests and answers.
    Kafka,
}

/// Larger than any request that a broker takes by default.
const LARGEST: usize = 128 << 20;
const PIECE: usize = 64 << 10;

/// Reads pieces. Cancellation safe: what was read is kept for the next call.
#[derive(Debug)]
pub(crate) struct Frames {
    wire: Wire,
    buffer: BytesMut,
}

impl Frames {
    pub(crate) fn new(wire: Wire) -> Self {
        Self { wire, buffer: BytesMut::with_capacity(PIECE) }
    }

    /// The next piece; `None` at the end of the stream.
    pub(crate) async fn next(&mut self, reader: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Bytes>> {
        loop {
            if let Some(piece) = self.take()? {
                return Ok(Some(piece));
            }
            self.buffer.reserve(PIECE);
            if reader.read_buf(&mut self.buffer).await? == 0 {
                // Half a frame at the end is passed on as it is.
                let rest = self.buffer.split().freeze();
                return Ok((!rest.is_empty()).then_some(rest));
            }
        }
    }

    fn take(&mut self) -> io::Result<Option<Bytes>> {
        match self.wire {
            Wire::Bytes if self.buffer.is_empty() => Ok(None),
            Wire::Bytes => Ok(Some(self.buffer.split().freeze())),
            Wire::Kafka => {
                let Some(mut head) = self.buffer.get(..4) else { return Ok(None) };
                let length = usize::try_from(head.get_i32()).ok().filter(|length| *length <= LARGEST);
                let length = length.ok_or_else(|| {
                    io::Error::other("this is not Kafka's protocol: a size is out of range")
                })?;
                let whole = length + 4;
                Ok((self.buffer.len() >= whole).then(|| self.buffer.split_to(whole).freeze()))
            }
        }
    }
}

/// API key and correlation id of a request, with its size before it.
pub(crate) fn kafka_request(frame: &[u8]) -> Option<(i16, i32)> {
    let mut head = frame.get(4..12)?;
    let api_key = head.get_i16();
    let _version = head.get_i16();
    Some((api_key, head.get_i32()))
}

/// Correlation id of an answer, with its size before it.
pub(crate) fn kafka_answer(frame: &[u8]) -> Option<i32> {
    Some(frame.get(4..8)?.get_i32())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn kafkas_requests_come_whole_however_they_are_cut() {
        let request = [0, 0, 0, 10, 0, 26, 0, 3, 0, 0, 0, 7, 0xff, 0xff];
        let (mut writer, mut reader) = tokio::io::duplex(3);
        let both = [request, request].concat();
        let written = tokio::spawn(async move {
            tokio::io::AsyncWriteExt::write_all(&mut writer, &both).await.expect("written");
        });
        let mut frames = Frames::new(Wire::Kafka);
        for _ in 0..2 {
            let frame = frames.next(&mut reader).await.expect("read").expect("a frame");
            assert_eq!(frame.as_ref(), request);
            assert_eq!(kafka_request(&frame), Some((26, 7)));
        }
        assert_eq!(frames.next(&mut reader).await.expect("read"), None);
        written.await.expect("no panic");
    }

    #[tokio::test]
    async fn what_is_not_kafkas_is_an_error_and_no_memory() {
        let mut frames = Frames::new(Wire::Kafka);
        assert!(frames.next(&mut &b"GET / HTTP/1.1"[..]).await.is_err());
    }
}
