//! How soon the master's pages begin to arrive, and how much they weigh with all that they load: asked over HTTP on
//! loopback, on a connection that is open already, one request after the other.

use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Requests of each page.
const REQUESTS: usize = 200;
/// What every page loads.
const PARTS: [&str; 3] = ["/style.css", "/page.js", "/icon.svg"];
const PAGES: [&str; 5] = ["/", "/workers/worker-0", "/pipelines/clickstream", "/rebalance", "/environment"];

/// Prints a row of a table for each page.
pub(crate) async fn measure(port: u16) {
    let mut parts = 0;
    for part in PARTS {
        parts += ask(port, part).await.1;
    }
    println!("| page | first byte, p50 | p99 | longest | page | with style, script and icon |");
    println!("| --- | --- | --- | --- | --- | --- |");
    for page in PAGES {
        let mut firsts = Vec::with_capacity(REQUESTS);
        let mut weight = 0;
        for _ in 0..REQUESTS {
            let (first, bytes) = ask(port, page).await;
            firsts.push(first);
            weight = weight.max(bytes);
        }
        firsts.sort_unstable();
        let ms = |index: usize| format!("{:.1} ms", firsts[index].as_secs_f64() * 1000.0);
        let kib = |bytes: usize| format!("{} KB", bytes.div_ceil(1000));
        let (half, last) = (ms(REQUESTS / 2), ms(REQUESTS * 99 / 100));
        println!(
            "| `{page}` | {half} | {last} | {} | {} | {} |",
            ms(REQUESTS - 1),
            kib(weight),
            kib(weight + parts)
        );
    }
}

/// Until the first byte of the answer, and the bytes of all of it.
async fn ask(port: u16, path: &str) -> (Duration, usize) {
    let mut page = TcpStream::connect(("127.0.0.1", port)).await.expect("the page");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n");
    let began = Instant::now();
    page.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = vec![0; 1];
    page.read_exact(&mut answer).await.expect("a first byte");
    let first = began.elapsed();
    page.read_to_end(&mut answer).await.expect("the rest");
    let head = answer.split(|byte| *byte == b'\r').next().unwrap_or_default();
    assert_eq!(head, b"HTTP/1.1 200 OK", "{path}");
    (first, answer.len())
}
