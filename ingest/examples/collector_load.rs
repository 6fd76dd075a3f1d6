//! What the collector costs and holds: starts one as a process of its own, sends to it, and prints events per
//! CPU-second, answer times and memory.
//!
//! `collector_load [--batch N] [--connections N] [--hold N] [--seconds N] [-- COLLECTOR FLAGS]`, with
//! `MILLRACE_TEST_KAFKA` naming a Kafka. `--hold` opens that many idle connections first.

use std::collections::BTreeMap;
use std::process::{Child, Command};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use clap::Parser;
use millrace_common::shutdown::Shutdown;
use millrace_common::telemetry;
use millrace_ingest::collector;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Ticks of `/proc/PID/stat` in a second; 100 on every Linux that is common.
const TICKS: f64 = 100.0;

#[derive(Debug, Parser)]
struct Arguments {
    /// Events in a request; 1 sends an object, more an array.
    #[arg(long, default_value_t = 100)]
    batch: usize,
    /// Clients, each with one request under way.
    #[arg(long, default_value_t = 64)]
    connections: usize,
    /// Idle connections beside them.
    #[arg(long, default_value_t = 0)]
    hold: usize,
    #[arg(long, default_value_t = 10)]
    seconds: u64,
    #[arg(long, default_value_t = 61999)]
    port: u16,
    #[arg(last = true)]
    flags: Vec<String>,
}

#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    telemetry: telemetry::Config,
    #[command(flatten)]
    config: collector::Config,
}

#[derive(Debug, Default)]
struct Seen {
    statuses: BTreeMap<u16, u64>,
    micros: Vec<u32>,
}

impl Seen {
    fn note(&mut self, status: u16, micros: u32) {
        *self.statuses.entry(status).or_default() += 1;
        self.micros.push(micros);
    }
}

fn main() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    let mut arguments = std::env::args().peekable();
    if arguments.nth(1).as_deref() == Some("serve") {
        let line = CommandLine::parse_from(std::iter::once("serve".to_owned()).chain(arguments));
        let telemetry = telemetry::install(&line.telemetry, "collector_load").expect("logs");
        runtime.block_on(async {
            let shutdown = Shutdown::on_signals().expect("signals");
            collector::run(line.config, shutdown).await.expect("the collector runs");
        });
        return telemetry.finish();
    }
    runtime.block_on(measure(&Arguments::parse()));
}

struct Collector(Child);

impl Drop for Collector {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Collector {
    fn start(arguments: &Arguments) -> Self {
        let servers = std::env::var("MILLRACE_TEST_KAFKA").expect("MILLRACE_TEST_KAFKA names a Kafka");
        let bind = format!("127.0.0.1:{}", arguments.port);
        let flags = ["serve", "--bind", &bind, "--kafka", &servers];
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        Self(command.args(flags).args(&arguments.flags).spawn().expect("a collector"))
    }

    fn cpu_seconds(&self) -> f64 {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0.id())).expect("stat");
        let after_name = stat.rsplit_once(')').expect("a name").1;
        let ticks = after_name.split_whitespace().skip(11).take(2);
        ticks.map(|ticks| ticks.parse::<f64>().expect("a number")).sum::<f64>() / TICKS
    }

    fn resident_mib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.0.id())).expect("status");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") >> 10
    }
}

fn request(batch: usize, client: usize) -> Vec<u8> {
    let event = |index: usize| {
        format!(
            r#"{{"id": {index}, "type": "page_view", "package_id": "3f2a9c1e-{client:04}-4f6b-9d2e-{index:012}", "event": {{"user_agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/126.0.0.0 Safari/537.36", "ip": "203.0.113.{}", "customer_id": 12345, "timestamp": "2024-01-15T10:30:00.123Z", "page": "https://shop.example/category/shoes?utm_source=news&utm_medium=mail", "referrer": "https://search.example/?q=shoes", "session_id": "b7ad6b7169203331"}}}}"#,
            client % 250
        )
    };
    let body = match batch {
        1 => event(0),
        _ => format!("[{}]", (0..batch).map(event).collect::<Vec<_>>().join(",")),
    };
    let head = format!(
        "POST /collect HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.into_bytes(), body.into_bytes()].concat()
}

/// Sends `request` and reads the answer; its status.
async fn exchange(stream: &mut TcpStream, request: &[u8], buffer: &mut Vec<u8>) -> std::io::Result<u16> {
    stream.write_all(request).await?;
    buffer.clear();
    loop {
        if stream.read_buf(buffer).await? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let Some(head) = buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let text = String::from_utf8_lossy(&buffer[..head]).to_ascii_lowercase();
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.parse().ok());
        let length: usize = length.expect("a length");
        if buffer.len() >= head + 4 + length {
            return Ok(text[9..12].parse().expect("a status"));
        }
    }
}

async fn connect(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).await.expect("a connection");
    stream.set_nodelay(true).expect("no delay");
    stream
}

async fn measure(arguments: &Arguments) {
    let collector = Collector::start(arguments);
    loop {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let Ok(mut stream) = TcpStream::connect(("127.0.0.1", arguments.port)).await else { continue };
        let ready = exchange(&mut stream, b"GET /readyz HTTP/1.1\r\nHost: a\r\n\r\n", &mut Vec::new()).await;
        if ready.is_ok_and(|status| status == 200) {
            break;
        }
    }
    println!("ready: {} MiB", collector.resident_mib());
    let mut held = Vec::new();
    for _ in 0..arguments.hold {
        let mut stream = connect(arguments.port).await;
        // One request each, so that every connection holds what a used one holds.
        exchange(&mut stream, &request(1, 0), &mut Vec::new()).await.expect("an answer");
        held.push(stream);
    }
    println!("{} idle connections: {} MiB", held.len(), collector.resident_mib());

    let seen = Arc::new(Mutex::new(Seen::default()));
    let cpu = collector.cpu_seconds();
    let start = Instant::now();
    let end = start + Duration::from_secs(arguments.seconds);
    let clients: Vec<_> = (0..arguments.connections)
        .map(|client| {
            let (seen, request, port) = (Arc::clone(&seen), request(arguments.batch, client), arguments.port);
            tokio::spawn(async move {
                let mut buffer = Vec::new();
                let mut stream = connect(port).await;
                while Instant::now() < end {
                    let sent = Instant::now();
                    let status = exchange(&mut stream, &request, &mut buffer).await;
                    let micros = u32::try_from(sent.elapsed().as_micros()).unwrap_or(u32::MAX);
                    seen.lock().expect("lock").note(*status.as_ref().unwrap_or(&0), micros);
                    if status.is_err() {
                        stream = connect(port).await;
                    }
                }
            })
        })
        .collect();
    for second in 1..=arguments.seconds {
        tokio::time::sleep_until((start + Duration::from_secs(second)).into()).await;
        let statuses = seen.lock().expect("lock").statuses.clone();
        if second % 5 == 0 {
            println!("{second:>3} s: {} MiB, answers {statuses:?}", collector.resident_mib());
        }
    }
    for client in clients {
        client.await.expect("no panic");
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = collector.cpu_seconds() - cpu;
    let mut seen = seen.lock().expect("lock");
    seen.micros.sort_unstable();
    let at = |share: usize| seen.micros.get(seen.micros.len() * share / 1000).copied().unwrap_or(0);
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let events = (seen.statuses.get(&200).copied().unwrap_or(0) * arguments.batch as u64) as f64;
    println!(
        "answers {:?} (0: broken); {:.0} events/s, {:.0} per CPU-second ({cpu:.1} CPU-seconds in {seconds:.1} s)",
        seen.statuses,
        events / seconds,
        events / cpu
    );
    println!("answer times: median {} us, 99% {} us, 99.9% {} us", at(500), at(990), at(999));
    println!("at the end: {} MiB", collector.resident_mib());
}
