//! Whether Kafka's brokers verify transactions, without which a late request could hit a later transaction.
//!
//! Sound means: every broker offers Produce version 12, which came with Kafka 4.0 (the release in which the checks of
//! KIP-890 are complete on the broker's side), and none has `transaction.partition.verification.enable` turned off.
//! librdkafka keeps the versions that a broker offers to itself, so the question is put to each broker directly:
//! ApiVersions in its oldest form, which every broker answers (<https://kafka.apache.org/protocol>).

use std::time::Duration;

use millrace_common::address::join_host_port;
use millrace_common::kafka::client_config;
use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use rdkafka::error::KafkaError;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Of each question; what is away is asked again and said meanwhile.
const DEADLINE: Duration = Duration::from_secs(3);
const PRODUCE: i16 = 0;
const API_VERSIONS: i16 = 18;
/// Produce's highest version at the brokers of Kafka 4.0.
const NEEDED_PRODUCE: i16 = 12;
const VERIFICATION: &str = "transaction.partition.verification.enable";
/// More than any broker's list of versions.
const LONGEST_ANSWER: usize = 64 << 10;

/// Kafka can't be used, or can't be asked now.
#[derive(Debug, thiserror::Error)]
pub enum CheckError {
    #[error("Kafka at {servers} can't be asked: {source}")]
    Client {
        servers: String,
        #[source]
        source: KafkaError,
    },
    #[error("broker {broker} can't be asked for its versions: {source}")]
    Broker {
        broker: String,
        #[source]
        source: std::io::Error,
    },
    #[error(
        "broker {broker} is older than Kafka 4.0 (Produce up to version {found}, expected {NEEDED_PRODUCE}): it does \
         not verify transactions as exactly-once delivery needs it; name a newer Kafka"
    )]
    TooOld { broker: String, found: i16 },
    #[error(
        "broker {broker} has {VERIFICATION}=false: exactly-once delivery needs it; set it to true on the broker"
    )]
    VerificationOff { broker: String },
}

impl CheckError {
    /// Asking again may help.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Client { .. } | Self::Broker { .. })
    }
}

/// Checks every broker of the cluster.
pub(crate) async fn check(servers: &str) -> Result<(), CheckError> {
    let failed = |source| CheckError::Client { servers: servers.to_owned(), source };
    let admin: AdminClient<DefaultClientContext> =
        client_config(servers, "check").create().map_err(failed)?;
    let (admin, brokers) = tokio::task::spawn_blocking(move || {
        let metadata = admin.inner().fetch_metadata(None, DEADLINE)?;
        let brokers: Vec<(i32, String)> = metadata
            .brokers()
            .iter()
            .map(|broker| {
                let port = u16::try_from(broker.port()).unwrap_or_default();
                (broker.id(), join_host_port(broker.host(), port))
            })
            .collect();
        Ok((admin, brokers))
    })
    .await
    .unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
    .map_err(failed)?;
    for (_, broker) in &brokers {
        let found = tokio::time::timeout(DEADLINE, produce_version(broker))
            .await
            .unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
            .map_err(|source| CheckError::Broker { broker: broker.clone(), source })?;
        if found < NEEDED_PRODUCE {
            return Err(CheckError::TooOld { broker: broker.clone(), found });
        }
    }
    let options = AdminOptions::new().request_timeout(Some(DEADLINE));
    // librdkafka takes one broker in a call: each is asked itself.
    for (id, broker) in &brokers {
        let resource = ResourceSpecifier::Broker(*id);
        for described in admin.describe_configs([&resource], &options).await.map_err(failed)? {
            let described: ConfigResource = described.map_err(|code| failed(KafkaError::AdminOp(code)))?;
            let value = described.entries.iter().find(|entry| entry.name == VERIFICATION);
            if value.is_some_and(|entry| entry.value.as_deref() == Some("false")) {
                return Err(CheckError::VerificationOff { broker: broker.clone() });
            }
        }
    }
    Ok(())
}

/// The highest version of Produce that the broker offers; -1 if none.
async fn produce_version(broker: &str) -> std::io::Result<i16> {
    let mut stream = TcpStream::connect(broker).await?;
    stream.write_all(&request()).await?;
    let length = stream.read_i32().await?;
    let length = usize::try_from(length)
        .ok()
        .filter(|length| *length <= LONGEST_ANSWER)
        .ok_or_else(|| invalid(&format!("an answer of {length} bytes")))?;
    let mut answer = vec![0; length];
    stream.read_exact(&mut answer).await?;
    highest_produce(&answer)
}

/// Length, key, version 0, correlation id, no client id.
fn request() -> Vec<u8> {
    let mut request = Vec::with_capacity(14);
    request.extend(10_i32.to_be_bytes());
    request.extend(API_VERSIONS.to_be_bytes());
    request.extend(0_i16.to_be_bytes());
    request.extend(1_i32.to_be_bytes());
    request.extend((-1_i16).to_be_bytes());
    request
}

/// Reads correlation id, error code, and the list of key, lowest and highest version.
fn highest_produce(answer: &[u8]) -> std::io::Result<i16> {
    let short = || invalid("an answer that ends early");
    let error = answer.get(4..6).ok_or_else(short)?;
    if error != [0, 0] {
        return Err(invalid(&format!("error code {}", i16::from_be_bytes([error[0], error[1]]))));
    }
    let versions = answer.get(10..).ok_or_else(short)?;
    let produce =
        versions.chunks_exact(6).find(|version| i16::from_be_bytes([version[0], version[1]]) == PRODUCE);
    Ok(produce.map_or(-1, |version| i16::from_be_bytes([version[4], version[5]])))
}

fn invalid(what: &str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, format!("it sent {what}; is it a Kafka broker?"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(error: i16, versions: &[(i16, i16, i16)]) -> Vec<u8> {
        let mut answer = 1_i32.to_be_bytes().to_vec();
        answer.extend(error.to_be_bytes());
        answer.extend(i32::try_from(versions.len()).expect("short").to_be_bytes());
        for (key, lowest, highest) in versions {
            for number in [key, lowest, highest] {
                answer.extend(number.to_be_bytes());
            }
        }
        answer
    }

    #[test]
    fn the_version_of_produce_is_found_among_others() {
        assert_eq!(highest_produce(&answer(0, &[(1, 4, 17), (0, 0, 13), (18, 0, 5)])).expect("read"), 13);
        assert_eq!(highest_produce(&answer(0, &[(18, 0, 5)])).expect("read"), -1);
    }

    #[test]
    fn an_answer_that_is_none_is_an_error() {
        assert!(highest_produce(b"HTTP/1.1 400").is_err());
        assert!(highest_produce(&answer(35, &[])).is_err());
        assert!(highest_produce(&[]).is_err());
    }

    #[tokio::test]
    async fn an_old_broker_is_told_by_its_versions() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address").to_string();
        let broker = async {
            let (mut stream, _) = listener.accept().await.expect("connection");
            let mut asked = vec![0; request().len()];
            stream.read_exact(&mut asked).await.expect("request");
            assert_eq!(asked, request());
            let answer = answer(0, &[(0, 0, 11)]);
            stream.write_i32(i32::try_from(answer.len()).expect("short")).await.expect("length");
            stream.write_all(&answer).await.expect("answer");
        };
        let (found, ()) = tokio::join!(produce_version(&address), broker);
        assert_eq!(found.expect("version"), 11);
    }
}
