//! Bodies: slow, large, bombs, many events, and in encodings that nobody knows.

use std::io::Read;
use std::time::Duration;

use flate2::Compression;
use flate2::read::GzEncoder;

use crate::Scene;
use crate::raw::{Raw, head};
use crate::scene::event;

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for() {
    let scene = Scene::new(&["--body-timeout", "500ms"]).await;
    let mut client = Raw::connect(scene.address()).await;
    client.send(head(1000, "") + "[").await;
    let (status, code, _) = client.refusal().await;
    assert_eq!((status, code.as_str()), (408, "body_timeout"));
    client.until_closed().await;
    scene.until_counted("refused_total{code=\"body_timeout\"}", 1).await;
    scene.stop().await;
}

#[tokio::test]
async fn a_body_that_trickles_is_refused_long_before_its_time() {
    let scene = Scene::new(&["--body-timeout", "60s", "--min-body-rate", "1KiB"]).await;
    let mut client = Raw::connect(scene.address()).await;
    client.send(head(100_000, "")).await;
    let (mut reader, mut writer) = client.0.into_split();
    let trickle = tokio::spawn(async move {
        while tokio::io::AsyncWriteExt::write_all(&mut writer, b" ").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let mut text = String::new();
    let waiting = tokio::io::AsyncReadExt::read_to_string(&mut reader, &mut text);
    let _ = tokio::time::timeout(Duration::from_secs(100), waiting).await.expect("in time");
    assert!(text.starts_with("HTTP/1.1 408") && text.contains("body_too_slow"), "{text}");
    trickle.await.expect("no panic");
    scene.stop().await;
}

#[tokio::test]
async fn bombs_are_refused_and_leave_room_for_others() {
    let scene = Scene::new(&["--max-decoded", "1MiB", "--memory", "16MiB"]).await;
    let zeros = vec![b' '; 100 << 20];
    let mut gzip = Vec::new();
    GzEncoder::new(&zeros[..], Compression::best()).read_to_end(&mut gzip).expect("from memory");
    let zstd = zstd::encode_all(&zeros[..], 19).expect("from memory");
    let before = resident_bytes();
    let requests = (0..40).map(|number| {
        let (encoding, bomb) = if number % 2 == 0 { ("gzip", &gzip) } else { ("zstd", &zstd) };
        let request = scene.collector.client.post(format!("{}/collect", scene.collector.base));
        let request = request.header("Content-Type", "application/json").header("Content-Encoding", encoding);
        async { request.body(bomb.clone()).send().await.expect("an answer").status().as_u16() }
    });
    let statuses = futures::future::join_all(requests).await;
    // Whoever finds no room for its body comes again later.
    assert!(statuses.iter().all(|status| [413, 503].contains(status)), "{statuses:?}");
    assert!(statuses.contains(&413), "{statuses:?}");
    let grown = resident_bytes().saturating_sub(before);
    assert!(grown < 100 << 20, "{} MiB more than before", grown >> 20);
    scene.until_counted("body_bytes", 0).await;
    assert_eq!(scene.collector.post(event("a")).await.status(), 200);
    scene.stop().await;
}

fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("VmRSS");
    line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") << 10
}

#[tokio::test]
async fn what_a_body_may_not_be_is_said() {
    let scene = Scene::new(&["--max-events", "3"]).await;
    let post = async |media_type: &str, encoding: Option<&str>, body: &[u8]| {
        let request = scene.collector.client.post(format!("{}/collect", scene.collector.base));
        let request = request.header("Content-Type", media_type).body(body.to_vec());
        let request = encoding
            .into_iter()
            .fold(request, |request, encoding| request.header("Content-Encoding", encoding));
        let response = request.send().await.expect("an answer");
        let (status, headers) = (response.status().as_u16(), response.headers().clone());
        let body: serde_json::Value =
            serde_json::from_slice(&response.bytes().await.expect("a body")).expect("JSON");
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned(), headers)
    };
    let json = "application/json";
    let (status, code, headers) = post(json, Some("br"), b"[]").await;
    assert_eq!((status, code.as_str()), (415, "unsupported_encoding"));
    assert_eq!(headers["accept-encoding"], "gzip, deflate, zstd");
    for (encoding, body) in [("gzip", &b"[]"[..]), ("zstd", b"\x28\xb5\x2f\xfd"), ("deflate", b"")] {
        let (status, code, _) = post(json, Some(encoding), body).await;
        assert_eq!((status, code.as_str()), (400, "not_decodable"), "{encoding}");
    }
    for (media_type, body) in [(json, &b"[1,2,3,4]"[..]), ("application/x-ndjson", b"1\n2\n3\n4")] {
        let (status, code, _) = post(media_type, None, body).await;
        assert_eq!((status, code.as_str()), (413, "too_many_events"), "{media_type}");
    }
    for code in ["unsupported_encoding", "not_decodable", "too_many_events"] {
        assert!(
            scene.collector.get("/metrics").await.1.contains(&format!("refused_total{{code=\"{code}\"}}"))
        );
    }
    scene.stop().await;
}

#[tokio::test]
async fn announced_bytes_take_no_room_from_others() {
    let scene = Scene::new(&[
        "--memory",
        "16MiB",
        "--max-decoded",
        "1MiB",
        "--body-timeout",
        "60s",
        "--min-body-rate",
        "0B",
    ])
    .await;
    let mut silent = Vec::new();
    for _ in 0..50 {
        let mut client = Raw::connect(scene.address()).await;
        client.send(head(1 << 20, "") + "[").await;
        silent.push(client);
    }
    scene.until_counted("connections", 51).await;
    let body = format!("[{}]", vec![event("a").replace("/home", &"x".repeat(20_000)); 40].join(","));
    assert_eq!(scene.collector.post(body).await.status(), 200);
    drop(silent);
    scene.stop().await;
}
