//! Who may send: pages of other sites, clients without a key, clients that come too often.

use reqwest::{Method, RequestBuilder};

use crate::Scene;
use crate::scene::event;

impl Scene {
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.collector.client.request(method, format!("{}{path}", self.collector.base));
        request.header("Content-Type", "application/json").body(event("a"))
    }
}

async fn status(request: RequestBuilder) -> u16 {
    request.send().await.expect("an answer").status().as_u16()
}

#[tokio::test]
async fn pages_of_allowed_sites_may_send_and_no_others() {
    let scene =
        Scene::new(&["--allow-origin", "https://shop.example", "--allow-origin", "http://localhost:8080/"])
            .await;
    let ask = |origin: &str| {
        let request = scene.request(Method::OPTIONS, "/collect").header("Origin", origin);
        request
            .header("Access-Control-Request-Method", "POST")
            .header("Access-Control-Request-Headers", "content-type,content-encoding")
    };
    for origin in ["https://shop.example", "http://localhost:8080"] {
        let asked = ask(origin).send().await.expect("an answer");
        assert_eq!(
            (asked.status().as_u16(), &asked.headers()["access-control-allow-origin"]),
            (200, &origin.parse().expect("a header"))
        );
        let allowed = asked.headers()["access-control-allow-headers"].to_str().expect("text");
        assert!(allowed.contains("content-type") && allowed.contains("content-encoding"), "{allowed}");
        let sent =
            scene.request(Method::POST, "/collect").header("Origin", origin).send().await.expect("an answer");
        assert_eq!(
            (sent.status().as_u16(), &sent.headers()["access-control-allow-origin"]),
            (200, &origin.parse().expect("a header"))
        );
    }
    let asked = ask("https://evil.example").send().await.expect("an answer");
    assert!(!asked.headers().contains_key("access-control-allow-origin"));
    // A page may send text/plain without asking first; so it is refused by its origin.
    let sent = scene.request(Method::POST, "/collect").header("Origin", "https://evil.example");
    let sent = sent.header("Content-Type", "text/plain").send().await.expect("an answer");
    assert_eq!(sent.status(), 403);
    assert_eq!(status(scene.request(Method::POST, "/collect")).await, 200);
    scene.until_counted("refused_total{code=\"origin_not_allowed\"}", 1).await;
    scene.stop().await;
}

#[tokio::test]
async fn without_allowed_sites_no_page_is_answered() {
    let scene = Scene::new(&[]).await;
    assert_eq!(
        status(scene.request(Method::OPTIONS, "/collect").header("Origin", "https://a.example")).await,
        405
    );
    let sent = scene.request(Method::POST, "/collect").header("Origin", "https://a.example");
    assert_eq!(status(sent).await, 403);
    let own = scene.request(Method::POST, "/collect").header("Origin", &scene.collector.base);
    assert_eq!(status(own).await, 200);
    scene.stop().await;
}

#[tokio::test]
async fn with_write_keys_only_who_has_one_may_send() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("keys");
    std::fs::write(&file, "key-of-the-shop\nkey-of-the-app\n").expect("written");
    let scene = Scene::new(&["--write-keys-file", file.to_str().expect("UTF-8")]).await;
    let post = |path: &str| scene.request(Method::POST, path);
    let refused = post("/collect").send().await.expect("an answer");
    assert_eq!(
        (refused.status().as_u16(), &refused.headers()["www-authenticate"]),
        (401, &"Bearer".parse().expect("a header"))
    );
    assert_eq!(status(post("/collect").bearer_auth("key-of-nobody")).await, 401);
    assert_eq!(status(post("/collect?write_key=key-of-the-sho")).await, 401);
    assert_eq!(status(post("/collect").bearer_auth("key-of-the-app")).await, 200);
    assert_eq!(status(post("/collect").basic_auth("key-of-the-shop", None::<&str>)).await, 200);
    assert_eq!(status(post("/collect?write_key=key-of-the-shop")).await, 200);
    assert_eq!(status(scene.collector.client.get(format!("{}/ping", scene.collector.base))).await, 200);
    scene.until_counted("refused_total{code=\"no_write_key\"}", 3).await;
    scene.stop().await;
}

#[tokio::test]
async fn who_comes_too_often_is_told_when_to_come_again() {
    let scene = Scene::new(&["--client-rate", "1", "--client-burst", "3"]).await;
    let post = |client: &str| scene.request(Method::POST, "/collect").header("X-Forwarded-For", client);
    let mut refused = None;
    for number in 0..10 {
        // Nobody becomes somebody else by saying so.
        let response = post(&format!("203.0.113.{number}")).send().await.expect("an answer");
        if response.status() == 429 {
            refused = Some((number, response.headers()["retry-after"].clone()));
            break;
        }
    }
    let (number, retry_after) = refused.expect("a refusal");
    assert!(number >= 3 && retry_after == "1", "{number} {retry_after:?}");
    assert_eq!(scene.collector.get("/ping").await.0, 200);
    assert!(scene.collector.get("/metrics").await.1.contains("refused_total{code=\"too_often\"} 1"));
    scene.stop().await;

    let scene = Scene::new(&["--client-rate", "1", "--client-burst", "1", "--trust-forwarded-for"]).await;
    for number in 0..10 {
        let request = scene.request(Method::POST, "/collect");
        let request = request.header("X-Forwarded-For", format!("198.51.100.1, 203.0.113.{number}"));
        assert_eq!(status(request).await, 200);
    }
    scene.stop().await;
}
