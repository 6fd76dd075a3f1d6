//! A master's page that knows one pipeline.

use millrace_common::types::PipelineDefinition;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

/// Answers every request for the pipeline with its definition, and all others with 404. Returns its URL.
pub(crate) async fn serve_definition(definition: &PipelineDefinition) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let body = serde_json::json!({ "definition": definition, "id": definition.id }).to_string();
    let path = format!("GET /api/v1/pipelines/{} ", definition.name);
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut request = vec![0; 4096];
            let length = stream.read(&mut request).await.unwrap_or(0);
            let status =
                if request[..length].starts_with(path.as_bytes()) { "200 OK" } else { "404 Not Found" };
            let head =
                format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n", body.len());
            // A client that has gone away is no fault of the page.
            let _ = stream.write_all(format!("{head}{body}").as_bytes()).await;
        }
    });
    url
}
