//! Whether a worker's process is gone: its port refuses connections.
//!
//! A frozen process still accepts them (the kernel does), a cut network answers nothing: both are left to the grace
//! and the lease.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout, timeout_at};

/// A dying process may close its session a moment before its listening port.
const LONGEST: Duration = Duration::from_secs(1);
/// How long a connection that was accepted may stay open before it is tried again.
const HELD: Duration = Duration::from_millis(100);
/// Between two tries, lest one that accepts and closes at once be asked thousands of times.
const BETWEEN: Duration = Duration::from_millis(10);

/// True as soon as a connection is refused; false if none is within a second.
pub(crate) async fn is_process_gone(host: &str, port: u16) -> bool {
    let end = Instant::now() + LONGEST;
    loop {
        match timeout_at(end, TcpStream::connect((host, port))).await {
            Ok(Ok(mut stream)) => {
                // The kernel closes it when the process ends.
                let _ = timeout(HELD, stream.read_u8()).await;
            }
            Ok(Err(error)) => return error.kind() == ErrorKind::ConnectionRefused,
            Err(_) => return false,
        }
        tokio::time::sleep(BETWEEN).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_refused_port_means_gone_and_a_held_one_does_not() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let port = listener.local_addr().expect("address").port();
        assert!(!is_process_gone("127.0.0.1", port).await);
        drop(listener);
        assert!(is_process_gone("127.0.0.1", port).await);
    }
}
