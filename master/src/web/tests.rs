use std::collections::BTreeSet;

use axum::body::{Body, to_bytes};
use futures::StreamExt;
use serde_json::{Value, json};
use tower::ServiceExt;

use super::*;
use crate::testing::{sources, submitted};

async fn router() -> Router {
    let (sources, shutdown) = sources().await;
    sources.handle.apply(submitted()).await.expect("submitted");
    routes(Arc::new(Web::new(example::parts(sources, Guard::new(None, Vec::new(), true)), shutdown)))
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

/// What is wrong with `value` by the schema, as far as the API's description goes: kinds, members, items, references.
fn faults(document: &Value, schema: &Value, value: &Value, place: &str, found: &mut Vec<String>) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).expect("it is there");
        return faults(document, target, value, place, found);
    }
    for key in ["anyOf", "oneOf"] {
        if let Some(choices) = schema[key].as_array() {
            let fits = choices.iter().any(|choice| {
                let mut wrong = Vec::new();
                faults(document, choice, value, place, &mut wrong);
                wrong.is_empty()
            });
            if !fits {
                found.push(format!("{place}: none of the choices: {value}"));
            }
            return;
        }
    }
    let kinds: Vec<&str> = match &schema["type"] {
        Value::String(kind) => vec![kind],
        Value::Array(kinds) => kinds.iter().filter_map(Value::as_str).collect(),
        _ => return,
    };
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    if !(kinds.contains(&kind) || kind == "integer" && kinds.contains(&"number")) {
        found.push(format!("{place}: {kind}, described as {kinds:?}"));
    }
    if let Value::Array(items) = value {
        for (index, item) in items.iter().enumerate() {
            faults(document, &schema["items"], item, &format!("{place}/{index}"), found);
        }
    }
    if let (Value::Object(members), Some(described)) = (value, schema["properties"].as_object()) {
        for (name, member) in members {
            match described.get(name) {
                Some(schema) => faults(document, schema, member, &format!("{place}/{name}"), found),
                None => found.push(format!("{place}/{name} is not described")),
            }
        }
        for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
            if !members.contains_key(name) {
                found.push(format!("{place}/{name} is missing"));
            }
        }
    }
}

/// Paths of the API in the description, with something known in their places.
fn filled(path: &str) -> String {
    let known = [("{worker}", "worker-1"), ("{pipeline}", "clickstream"), ("{topic}", "raw")];
    let places = [("{partition}", "0"), ("{offset}", "0")];
    let filled =
        known.iter().chain(&places).fold(path.to_owned(), |path, (name, value)| path.replace(name, value));
    if path.ends_with("/file") || path.ends_with("/rows") { format!("{filled}?key=x") } else { filled }
}

#[tokio::test]
async fn every_route_is_described_and_every_description_has_a_route() {
    let described: BTreeSet<String> =
        api::openapi::document()["paths"].as_object().expect("paths").keys().cloned().collect();
    let there: BTreeSet<String> = api::routes().iter().map(|(path, _)| (*path).to_owned()).collect();
    assert_eq!(there, described);
    // The methods are asked of the routes themselves.
    let (sources, shutdown) = sources().await;
    let web = Arc::new(Web::new(example::parts(sources, Guard::new(None, Vec::new(), true)), shutdown));
    for (path, methods) in api::openapi::document()["paths"].as_object().expect("paths") {
        let mut router = Router::new();
        for (_, handler) in api::routes().into_iter().filter(|(there, _)| there == path) {
            router = router.route(path, handler);
        }
        let router = router.with_state(Arc::clone(&web));
        let mut allowed = BTreeSet::new();
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            let request =
                Request::builder().method(method).uri(filled(path)).body(Body::empty()).expect("request");
            let response = router.clone().oneshot(request).await.expect("infallible");
            if response.status() != StatusCode::METHOD_NOT_ALLOWED {
                allowed.insert(method.to_lowercase());
            }
        }
        let described: BTreeSet<String> = methods.as_object().expect("methods").keys().cloned().collect();
        assert_eq!(allowed, described, "{path}");
    }
}

#[tokio::test]
async fn answers_are_as_they_are_described() {
    let (sources, shutdown) = sources().await;
    sources.handle.apply(submitted()).await.expect("submitted");
    let link = crate::testing::link(64);
    sources
        .handle
        .register(crate::testing::worker("worker-1", 1), Vec::new(), link.0)
        .await
        .expect("registered");
    let router =
        routes(Arc::new(Web::new(example::parts(sources, Guard::new(None, Vec::new(), true)), shutdown)));
    let (_, _, served) = get(&router, "/api/v1/openapi.json").await;
    let document: Value = serde_json::from_str(&served).expect("JSON");
    assert_eq!(document["openapi"], "3.1.0");
    for (path, methods) in document["paths"].as_object().expect("paths") {
        let schema = &methods["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        if schema.is_null() {
            continue;
        }
        let (status, kind, body) = get(&router, &filled(path)).await;
        if status != StatusCode::OK {
            // Nothing in this test answers for Kafka and a lake: then the refusal must be as described.
            assert_eq!(kind, "application/problem+json", "{path}: {body}");
            let problem: Value = serde_json::from_str(&body).expect("JSON");
            assert!(problem["detail"].as_str().is_some_and(|words| words.len() > 10), "{path}: {body}");
            assert_eq!(problem["status"], status.as_u16());
            continue;
        }
        let body: Value = serde_json::from_str(&body).unwrap_or_else(|error| panic!("{path}: {error}"));
        let mut found = Vec::new();
        faults(&document, schema, &body, path, &mut found);
        assert!(found.is_empty(), "{found:#?}");
    }
    let mut wrong = Vec::new();
    let workers = &document["paths"]["/api/v1/workers"]["get"]["responses"]["200"]["content"]["application/json"]
        ["schema"];
    faults(&document, workers, &json!([{"id": 3}]), "", &mut wrong);
    assert!(wrong.len() > 5, "the comparison sees faults: {wrong:?}");
}

async fn post(router: &Router, path: &str, headers: &[(&str, &str)], body: &str) -> (StatusCode, Response) {
    let mut request = Request::builder().method("POST").uri(path);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::from(body.to_owned())).expect("request");
    let response = router.clone().oneshot(request).await.expect("infallible");
    (response.status(), response)
}

const FORM: (&str, &str) = ("content-type", "application/x-www-form-urlencoded");

#[tokio::test]
async fn nothing_is_done_without_the_pages_token() {
    let router = router().await;
    let (_, _, token) = get(&router, "/api/v1/token").await;
    let token: Value = serde_json::from_str(&token).expect("JSON");
    let token = token["token"].as_str().expect("text").to_owned();
    let (_, _, page) = get(&router, "/pipelines/clickstream").await;
    assert!(page.contains(&token), "the page's own forms hold it");
    let pause = "/api/v1/pipelines/clickstream/pause";
    let state = async || {
        let (_, _, detail) = get(&router, "/api/v1/pipelines/clickstream").await;
        serde_json::from_str::<Value>(&detail).expect("JSON")["state"].clone()
    };
    for headers in [
        &[][..],
        &[("x-millrace-token", "")],
        &[("x-millrace-token", "0123")],
        &[("x-millrace-token", &token), ("sec-fetch-site", "cross-site")],
        &[("x-millrace-token", &token), ("sec-fetch-site", "same-site")],
        &[FORM],
    ] {
        assert_eq!(post(&router, pause, headers, "").await.0, StatusCode::FORBIDDEN, "{headers:?}");
    }
    let elsewhere = [("x-millrace-token", token.as_str()), ("host", "evil.example")];
    assert_eq!(post(&router, pause, &elsewhere, "").await.0, StatusCode::MISDIRECTED_REQUEST);
    assert_eq!(state().await, "WAITING");
    let shown = [("x-millrace-token", token.as_str()), ("sec-fetch-site", "same-origin")];
    assert_eq!(post(&router, pause, &shown, "").await.0, StatusCode::OK);
    assert_eq!(state().await, "PAUSED");
    assert_eq!(post(&router, pause, &shown, "").await.0, StatusCode::CONFLICT, "it is paused already");
    let form = format!("back=%2Fpipelines%2Fclickstream&token={token}");
    let (status, response) = post(&router, "/act/resume/clickstream", &[FORM], &form).await;
    assert_eq!(
        (status, response.headers()["location"].as_bytes()),
        (StatusCode::SEE_OTHER, &b"/pipelines/clickstream"[..])
    );
    assert_eq!(state().await, "WAITING");
    let form = format!("id=clickstream-0a1b2c&terminate=true&token={token}");
    assert_eq!(post(&router, "/app/kill/", &[FORM], &form).await.0, StatusCode::SEE_OTHER);
    assert_eq!(state().await, "KILLED");
}

#[tokio::test]
async fn logins_are_asked_for_and_reading_is_not_acting() {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("logins");
    std::fs::write(&file, "read basic guest:see\nact token do-it\n").expect("written");
    let logins = logins::Logins::read(&file).expect("logins");
    let (sources, shutdown) = sources().await;
    sources.handle.apply(submitted()).await.expect("submitted");
    let guard = Guard::new(Some(logins), Vec::new(), true);
    let token = guard.page_token().to_owned();
    let router = routes(Arc::new(Web::new(example::parts(sources, guard), shutdown)));
    let status = async |method: &str, path: &str, login: &str| {
        let mut request = Request::builder().method(method).uri(path).header("x-millrace-token", &token);
        if !login.is_empty() {
            request = request.header("authorization", login);
        }
        let request = request.body(Body::empty()).expect("request");
        router.clone().oneshot(request).await.expect("infallible").status()
    };
    let (guest, program) = ("Basic Z3Vlc3Q6c2Vl", "Bearer do-it");
    for path in ["/", "/api/v1/workers", "/json/", "/metrics", "/page.js", "/live/"] {
        assert_eq!(status("GET", path, "").await, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(status("GET", path, "Bearer other").await, StatusCode::UNAUTHORIZED, "{path}");
        assert_eq!(status("GET", path, guest).await, StatusCode::OK, "{path}");
    }
    assert_eq!(status("GET", "/healthz", "").await, StatusCode::OK);
    let pause = "/api/v1/pipelines/clickstream/pause";
    assert_eq!(status("POST", pause, "").await, StatusCode::UNAUTHORIZED);
    assert_eq!(status("POST", pause, guest).await, StatusCode::FORBIDDEN);
    assert_eq!(status("POST", pause, program).await, StatusCode::OK);
}

#[tokio::test]
async fn a_page_that_is_looked_at_is_told_what_changed() {
    let (sources, shutdown) = sources().await;
    let handle = sources.handle.clone();
    let web =
        Arc::new(Web::new(example::parts(sources, Guard::new(None, Vec::new(), true)), shutdown.clone()));
    shutdown.spawn("history", web.history.clone().keep(web.sources.clone(), shutdown.clone()));
    let router = routes(web);
    let request = Request::builder().uri("/live/?workers=-pid").body(Body::empty()).expect("request");
    let response = router.clone().oneshot(request).await.expect("infallible");
    assert_eq!(response.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut events = response.into_body().into_data_stream();
    let mut text = String::new();
    let mut until = async |words: &str| {
        while !text.contains(words) {
            let piece = events.next().await.expect("the stream goes on").expect("bytes");
            text.push_str(std::str::from_utf8(&piece).expect("text"));
        }
    };
    until("No pipeline yet").await;
    handle.apply(submitted()).await.expect("submitted");
    until("clickstream-0a1b2c").await;
    shutdown.begin();
    while events.next().await.is_some() {}
}

#[tokio::test]
async fn pages_of_what_is_not_known_say_so_as_pages() {
    let router = router().await;
    for path in ["/workers/nobody", "/pipelines/nothing", "/workers/%3Cscript%3E"] {
        let (status, kind, body) = get(&router, path).await;
        assert_eq!((status, kind.as_str()), (StatusCode::NOT_FOUND, "text/html; charset=utf-8"), "{path}");
        assert!(body.contains("role=\"alert\"") && !body.contains("<script>"), "{body}");
    }
    let (status, _, body) = get(&router, "/pipelines/clickstream").await;
    assert!(status == StatusCode::OK && body.contains("Pipeline clickstream"), "{body}");
    let (status, _, body) = get(&router, "/rebalance").await;
    assert!(status == StatusCode::OK && body.contains("Nothing would move"), "{body}");
}
