//! The request by which a part is known to be ready: a real one, as its clients make it.

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use futures::StreamExt;
use millrace_common::{kafka, lake};
use millrace_types::LakeTarget;
use tokio::net::TcpStream;

/// Deadline of one question.
const DEADLINE: Duration = Duration::from_secs(10);

/// How to ask whether a part is ready.
#[derive(Debug, Clone)]
pub enum Probe {
    /// It is ready when it runs.
    None,
    /// Somebody listens on this port of the loopback device.
    Tcp { port: u16 },
    /// The broker answers a metadata request.
    Kafka { address: SocketAddrV4 },
    /// The store lists the lake's bucket, with the login.
    S3 { address: SocketAddrV4, lake: LakeTarget },
    /// `GET url` is answered with 200.
    Http { url: String },
}

impl Probe {
    /// Asks once.
    ///
    /// # Errors
    /// Why it is not ready yet.
    pub async fn ask(&self) -> Result<(), String> {
        let asked = async {
            match self {
                Self::None => Ok(()),
                Self::Tcp { port } => connect(SocketAddrV4::new(Ipv4Addr::LOCALHOST, *port)).await,
                Self::Kafka { address } => {
                    // librdkafka complains about each refused connection: ask only when somebody listens.
                    connect(*address).await?;
                    let servers = address.to_string();
                    let asked = kafka::partition_counts(&servers, &["__consumer_offsets"]);
                    asked.await.map(drop).map_err(|error| error.to_string())
                }
                Self::S3 { address, lake } => {
                    connect(*address).await?;
                    list(lake).await
                }
                Self::Http { url } => get(url).await,
            }
        };
        tokio::time::timeout(DEADLINE, asked)
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", DEADLINE.as_secs())))
    }
}

async fn connect(address: SocketAddrV4) -> Result<(), String> {
    TcpStream::connect(address).await.map(drop).map_err(|error| format!("{address}: {error}"))
}

async fn list(target: &LakeTarget) -> Result<(), String> {
    let lake = lake::open(target).map_err(|error| error.to_string())?;
    match lake.store.list(Some(&lake.prefix)).next().await {
        None | Some(Ok(_)) => Ok(()),
        Some(Err(error)) => Err(error.to_string()),
    }
}

async fn get(url: &str) -> Result<(), String> {
    let answer = reqwest::get(url).await.map_err(|error| error.to_string())?;
    match answer.status() {
        reqwest::StatusCode::OK => Ok(()),
        status => {
            let text = answer.text().await.unwrap_or_default();
            Err(format!("{url} answers {status} {}", text.trim()))
        }
    }
}
