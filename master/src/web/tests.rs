use axum::body::{Body, to_bytes};
use serde_json::Value;
use tower::ServiceExt;

use super::*;
use crate::testing::{sources, submitted};

async fn router() -> Router {
    let (sources, _shutdown) = sources().await;
    sources.handle.apply(submitted()).await.expect("submitted");
    routes(sources)
}

async fn get(router: &Router, path: &str) -> (StatusCode, String, String) {
    let request = Request::builder().uri(path).body(Body::empty()).expect("request");
    let response = router.clone().oneshot(request).await.expect("infallible");
    let status = response.status();
    assert!(
        response.headers()[header::CONTENT_SECURITY_POLICY]
            .to_str()
            .expect("text")
            .contains("default-src 'self'"),
        "{path}"
    );
    let kind = response.headers()[header::CONTENT_TYPE].to_str().expect("text").to_owned();
    let body = to_bytes(response.into_body(), 1 << 20).await.expect("body");
    (status, kind, String::from_utf8(body.to_vec()).expect("text"))
}

#[tokio::test]
async fn what_the_driver_knows_is_told_in_every_form() {
    let router = router().await;
    let (status, kind, page) = get(&router, "/").await;
    assert_eq!((status, kind.as_str()), (StatusCode::OK, "text/html; charset=utf-8"));
    assert!(
        page.contains("Partitions of clickstream-0a1b2c (6)") && page.contains("clickstream-0a1b2c"),
        "{page}"
    );
    let (_, _, slots) = get(&router, "/api/v1/slots").await;
    let slots: Value = serde_json::from_str(&slots).expect("JSON");
    assert_eq!(slots.as_array().map(Vec::len), Some(6));
    assert_eq!(
        (&slots[0]["topic"], &slots[0]["state"], &slots[0]["owner"]),
        (&"raw".into(), &"free".into(), &Value::Null)
    );
    assert!(slots[0]["waiting_for"].is_string(), "{slots}");
    for list in ["workers", "pipelines", "moves", "failovers"] {
        let (status, _, body) = get(&router, &format!("/api/v1/{list}")).await;
        let body: Value = serde_json::from_str(&body).expect("JSON");
        assert!(status == StatusCode::OK && body.is_array(), "{list}");
    }
    for target in ["clickstream", "clickstream-0a1b2c"] {
        let (status, _, detail) = get(&router, &format!("/api/v1/pipelines/{target}")).await;
        let detail: Value = serde_json::from_str(&detail).expect("JSON");
        assert_eq!((status, &detail["state"]), (StatusCode::OK, &"WAITING".into()));
        assert_eq!(detail["partitions"].as_array().map(Vec::len), Some(6));
        assert_eq!(detail["definition"]["transform"]["kind"], "clicks");
    }
    let (status, _, unknown) = get(&router, "/api/v1/pipelines/views").await;
    assert!(status == StatusCode::NOT_FOUND && unknown.contains("clickstream"), "{unknown}");
    let (_, _, state) = get(&router, "/json/").await;
    let state: Value = serde_json::from_str(&state).expect("JSON");
    assert_eq!(state["activeapps"][0]["state"], "WAITING");
    let (_, _, field) = get(&router, "/json/aliveworkers").await;
    assert_eq!(field, r#"{"aliveworkers":0}"#);
    let (_, _, metrics) = get(&router, "/metrics").await;
    assert!(metrics.contains("millrace_master_slots{state=\"free\"} 6"), "{metrics}");
    assert!(metrics.contains("millrace_master_store_commits_total 1"), "{metrics}");
}

#[tokio::test]
async fn what_is_not_there_and_what_is_waited_for_is_said() {
    let router = router().await;
    let (status, kind, body) = get(&router, "/nothing").await;
    assert_eq!((status, kind.as_str()), (StatusCode::NOT_FOUND, "application/problem+json"));
    assert!(body.contains("/nothing"), "{body}");
    let (status, _, body) = get(&router, "/readyz").await;
    assert_eq!((status, body.as_str()), (StatusCode::SERVICE_UNAVAILABLE, "waiting for nothing\n"));
}
