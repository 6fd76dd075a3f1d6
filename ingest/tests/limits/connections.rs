//! Connections: slow, idle, too many, half closed, with too much of a head; and TLS.

use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::Scene;
use crate::raw::{Raw, head};
use crate::scene::{Collector, event, free_port};

#[tokio::test]
async fn a_head_that_does_not_end_ends_the_connection() {
    let scene = Scene::new(&["--header-timeout", "300ms"]).await;
    for slow in ["", "POST /collect HTTP/1.1\r\nHost: a\r\nX-", "GET"] {
        let mut client = Raw::connect(scene.address()).await;
        client.send(slow).await;
        client.until_closed().await;
    }
    scene.until_counted("connections_ended_total{reason=\"slow_head\"}", 3).await;
    assert_eq!(scene.collector.post(event("a")).await.status(), 200);
    scene.stop().await;
}

#[tokio::test]
async fn an_idle_connection_is_closed_and_a_used_one_is_not() {
    let scene = Scene::new(&["--idle-timeout", "5s"]).await;
    let mut idle = Raw::connect(scene.address()).await;
    idle.send("GET /ping HTTP/1.1\r\nHost: a\r\n\r\n").await;
    assert_eq!(idle.answer().await.1, "pong\n");
    let mut used = Raw::connect(scene.address()).await;
    for _ in 0..12 {
        used.send("GET /ping HTTP/1.1\r\nHost: a\r\n\r\n").await;
        assert_eq!(used.answer().await.1, "pong\n");
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    drop(used);
    idle.until_closed().await;
    assert!(scene.collector.get("/metrics").await.1.contains("connections_ended_total{reason=\"idle\"}"));
    scene.stop().await;
}

#[tokio::test]
async fn connections_beyond_the_cap_are_told_so_and_have_room_again_later() {
    let scene = Scene::new(&["--max-connections", "3", "--idle-timeout", "60s"]).await;
    // The client of the scene holds one for itself.
    let mut held = Vec::new();
    let mut turned_away = loop {
        let mut client = Raw::connect(scene.address()).await;
        client.send("GET /ping HTTP/1.1\r\nHost: a\r\n\r\n").await;
        let (head, _) = client.answer().await;
        if head.starts_with("http/1.1 503") {
            assert!(head.contains("retry-after: 1"), "{head}");
            break client;
        }
        held.push(client);
        assert!(held.len() <= 3);
    };
    turned_away.until_closed().await;
    assert!(held.len() >= 2);
    drop(held);
    scene
        .collector
        .until("there is room again", async |collector| {
            let mut client = Raw::connect(collector.base.strip_prefix("http://").expect("an address")).await;
            client.send(head(2, "") + "[]").await;
            client.answer().await.0.starts_with("http/1.1 200")
        })
        .await;
    assert!(scene.collector.get("/metrics").await.1.contains("connections_ended_total{reason=\"too_many\"}"));
    scene.stop().await;
}

#[tokio::test]
async fn a_client_that_closes_its_side_after_its_request_is_answered() {
    let scene = Scene::new(&[]).await;
    let event = event("a");
    let mut client = Raw::connect(scene.address()).await;
    client.send(head(event.len(), "") + &event).await;
    client.0.shutdown().await.expect("half closed");
    let (head_of_answer, body) = client.answer().await;
    assert!(
        head_of_answer.starts_with("http/1.1 200") && body.contains("\"ok\":1"),
        "{head_of_answer} {body}"
    );
    client.until_closed().await;

    // In the middle of a body it is the end.
    let mut client = Raw::connect(scene.address()).await;
    client.send(head(event.len(), "") + &event[..20]).await;
    client.0.shutdown().await.expect("half closed");
    client.until_closed().await;
    scene.until_counted("requests_total{status=\"400\"}", 1).await;
    scene.stop().await;
}

#[tokio::test]
async fn a_head_that_is_too_large_or_none_is_refused() {
    let scene = Scene::new(&[]).await;
    for large in [format!("X-Large: {}\r\n", "x".repeat(300 << 10)), "X-Many: x\r\n".repeat(200)] {
        let mut client = Raw::connect(scene.address()).await;
        client.send(head(2, &large)).await;
        let (answer, _) = client.answer().await;
        assert!(answer.starts_with("http/1.1 431"), "{answer}");
        client.until_closed().await;
    }
    let mut client = Raw::connect(scene.address()).await;
    client.send("\x16\x03\x01 this is no HTTP\r\n\r\n").await;
    assert!(client.answer().await.0.starts_with("http/1.1 400"));
    scene.until_counted("connections_ended_total{reason=\"large_head\"}", 2).await;
    scene.until_counted("connections_ended_total{reason=\"bad_head\"}", 1).await;
    assert_eq!(scene.collector.post(event("a")).await.status(), 200);
    scene.stop().await;
}

async fn tls(address: &str, chain: &Path) -> std::io::Result<Raw<TlsStream<TcpStream>>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(chain).expect("a certificate")).expect("a root");
    let config = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(address).await?;
    let name = ServerName::try_from("localhost").expect("a name");
    Ok(Raw(TlsConnector::from(Arc::new(config)).connect(name, stream).await?))
}

#[tokio::test]
async fn with_a_certificate_it_speaks_tls_and_reads_a_new_one_when_it_is_told() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/limits/tls");
    let folder = tempfile::tempdir().expect("a folder");
    let (chain, key) = (folder.path().join("chain.pem"), folder.path().join("key.pem"));
    let install = |from: [&str; 2]| {
        std::fs::copy(files.join(from[0]), &chain).expect("copied");
        std::fs::copy(files.join(from[1]), &key).expect("copied");
    };
    install(["chain.pem", "key.pem"]);
    let port = free_port();
    let (bind, kafka) = (format!("127.0.0.1:{port}"), format!("127.0.0.1:{}", free_port()));
    let flags = [
        "--kafka",
        &kafka,
        "--header-timeout",
        "500ms",
        "--tls-certificate",
        chain.to_str().expect("UTF-8"),
        "--tls-key",
        key.to_str().expect("UTF-8"),
    ];
    let collector = Collector::start_at(&bind, &flags);
    collector.until("it listens", async |_| tls(&bind, &files.join("chain.pem")).await.is_ok()).await;
    let mut client = tls(&bind, &files.join("chain.pem")).await.expect("a handshake");
    client.send(head(2, "") + "[]").await;
    // Kafka is not there; what matters is that the answer is.
    assert_eq!(client.refusal().await.1, "kafka_away");

    // Who speaks no TLS, or not at all, holds no connection for long.
    let mut plain = Raw::connect(&bind).await;
    plain.send(head(2, "")).await;
    plain.until_closed().await;
    Raw::connect(&bind).await.until_closed().await;
    let mut metrics = tls(&bind, &files.join("chain.pem")).await.expect("a handshake");
    metrics.send("GET /metrics HTTP/1.1\r\nHost: a\r\n\r\n").await;
    let (_, text) = metrics.answer().await;
    for reason in ["tls_handshake", "slow_head"] {
        assert!(text.contains(&format!("connections_ended_total{{reason=\"{reason}\"}} 1")), "{text}");
    }

    // A pair that does not fit changes nothing; one that does is taken for new connections.
    install(["other-chain.pem", "key.pem"]);
    hang_up();
    tokio::time::sleep(std::time::Duration::from_millis(300)).await;
    assert!(tls(&bind, &files.join("chain.pem")).await.is_ok());
    install(["other-chain.pem", "other-key.pem"]);
    hang_up();
    collector
        .until("the new certificate is shown", async |_| {
            tls(&bind, &files.join("other-chain.pem")).await.is_ok()
        })
        .await;
    collector.stop().await;
}

fn hang_up() {
    // SAFETY: a signal to this very process, which listens for it.
    assert_eq!(unsafe { libc::kill(libc::getpid(), libc::SIGHUP) }, 0);
}

#[tokio::test]
async fn files_that_tls_cannot_use_are_named() {
    let files = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/limits/tls");
    let path = |name: &str| files.join(name).to_str().expect("UTF-8").to_owned();
    for (chain, key, expected) in [
        ("absent.pem", "key.pem", "--tls-certificate"),
        ("key.pem", "key.pem", "no certificate in it"),
        ("chain.pem", "chain.pem", "--tls-key"),
        ("chain.pem", "other-key.pem", "don't make a pair"),
    ] {
        let flags = ["--bind", "127.0.0.1:0", "--tls-certificate", &path(chain), "--tls-key", &path(key)];
        let config = crate::scene::config(&flags);
        let shutdown = millrace_common::shutdown::Shutdown::new();
        let error = millrace_ingest::collector::run(config, shutdown).await.expect_err(expected).to_string();
        assert!(error.contains(expected) && error.contains(".pem"), "{error}");
    }
}
