//! Asking a master: which one, how long, and what its refusal means for the exit code.

use std::time::Duration;

use millrace_common::address::parse_host_port;
use millrace_proto::v1::master_client::MasterClient;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Response, Status};

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);

/// Which master is asked.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Masters {
    /// Where the master listens; several, separated by commas, are tried in turn.
    #[arg(
        long,
        env = "MILLRACE_MASTER",
        value_delimiter = ',',
        value_parser = parse_host_port,
        default_value = "127.0.0.1:7077",
        value_name = "HOST:PORT"
    )]
    master: Vec<String>,
}

/// No master did what it was asked to. The text is ready to be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("--master {master:?} is no address: expected HOST:PORT")]
    Address { master: String },
    #[error("no master answers: {}", .0.join("; "))]
    Unreachable(Vec<String>),
    /// The question can't be meant so.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Refused(String),
    #[error("the master's answer can't be read ({0}): use the millrace of the master's version")]
    Unreadable(String),
}

impl Error {
    /// Whether the person who typed it should type something else.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Address { .. } | Self::Usage(_))
    }

    pub(crate) fn unreadable(reason: impl std::fmt::Display) -> Self {
        Self::Unreadable(reason.to_string())
    }
}

impl Masters {
    /// The answer of the first master that gives one within `deadline`. A standby's word on who leads is followed.
    pub(crate) async fn ask<T>(
        &self,
        deadline: Duration,
        question: impl AsyncFn(MasterClient<Channel>) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let mut silent = Vec::new();
        let mut not_now = None;
        for listed in &self.master {
            let mut leader = None;
            for master in [Some(listed.clone()), None] {
                let Some(master) = master.or_else(|| leader.take()) else { break };
                let channel = match connect(&master, deadline).await? {
                    Ok(channel) => channel,
                    Err(reason) => {
                        silent.push(format!("{master}: {reason}"));
                        break;
                    }
                };
                match question(MasterClient::new(channel)).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    // Another master may be able to.
                    Err(status) if status.code() == Code::Unavailable => {
                        leader = millrace_proto::leader_of(&status).filter(|leader| *leader != master);
                        not_now = Some(status);
                    }
                    Err(status) if status.code() == Code::InvalidArgument => {
                        return Err(Error::Usage(status.message().to_owned()));
                    }
                    Err(status) => return Err(Error::Refused(status.message().to_owned())),
                }
            }
        }
        Err(match not_now {
            Some(status) => Error::Refused(status.message().to_owned()),
            None => Error::Unreachable(silent),
        })
    }
}

/// A channel to a master, or why there is none.
async fn connect(master: &str, deadline: Duration) -> Result<Result<Channel, String>, Error> {
    let endpoint = Endpoint::from_shared(format!("http://{master}"))
        .map_err(|_| Error::Address { master: master.to_owned() })?;
    let connected = endpoint.connect_timeout(CONNECT_DEADLINE).timeout(deadline).connect().await;
    Ok(connected.map_err(|error| {
        // The transport's own words are "transport error"; the cause says more.
        let mut cause: &dyn std::error::Error = &error;
        while let Some(deeper) = cause.source() {
            cause = deeper;
        }
        cause.to_string()
    }))
}
