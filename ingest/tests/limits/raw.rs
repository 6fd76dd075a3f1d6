//! A client that does what no good client does: it writes bytes as they are.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

/// A wait longer than this is a hang.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Raw<S = TcpStream>(pub(crate) S);

pub(crate) fn head(length: usize, more: &str) -> String {
    format!(
        "POST /collect HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n{more}\r\n"
    )
}

impl Raw {
    pub(crate) async fn connect(address: &str) -> Self {
        Self(TcpStream::connect(address).await.expect("a connection"))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Raw<S> {
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.expect("written");
    }

    /// The next answer: its head, in lower case, and its body.
    pub(crate) async fn answer(&mut self) -> (String, String) {
        let mut bytes = Vec::new();
        loop {
            let read = tokio::time::timeout(PATIENCE, self.0.read_buf(&mut bytes)).await.expect("in time");
            assert!(read.expect("a stream") > 0, "closed after {:?}", String::from_utf8_lossy(&bytes));
            let text = String::from_utf8_lossy(&bytes);
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let head = head.to_ascii_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            if body.len() >= length.map_or(0, |length| length.parse().expect("a length")) {
                return (head, body.to_owned());
            }
        }
    }

    /// The status of the next answer, the code of its error if it has one, and its head.
    pub(crate) async fn refusal(&mut self) -> (u16, String, String) {
        let (head, body) = self.answer().await;
        let status = head.split(' ').nth(1).expect("a status").parse().expect("a number");
        let body: serde_json::Value = serde_json::from_str(&body).unwrap_or_default();
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned(), head)
    }

    /// Waits until the collector closes the connection.
    pub(crate) async fn until_closed(&mut self) {
        let mut rest = Vec::new();
        // Reset or closed: both are an end.
        let _ = tokio::time::timeout(PATIENCE, self.0.read_to_end(&mut rest)).await.expect("in time");
    }
}
