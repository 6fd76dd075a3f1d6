//! Asking a master: which one, how long, and what its refusal means for the exit code.

use std::time::Duration;

use millrace_common::address::parse_host_port;
use millrace_common::tls::ClientFlags;
use millrace_proto::channel::{self, Access};
use millrace_proto::v1::master_client::MasterClient;
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
    #[command(flatten)]
    pub(crate) access: ClientFlags,
}

/// No master did what it was asked to. The text is ready to be shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("no master answers: {}", .0.join("; "))]
    Unreachable(Vec<String>),
    /// The question can't be meant so.
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Refused(String),
    /// None can answer at this moment; another one, or the same, may soon. What was asked for may still happen.
    #[error("{0}")]
    NotNow(String),
    #[error("the master's answer can't be read ({0}): use the millrace of the master's version")]
    Unreadable(String),
}

impl Error {
    /// Whether the person who typed it should type something else.
    pub(crate) fn is_usage(&self) -> bool {
        matches!(self, Self::Usage(_))
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
        question: impl AsyncFn(MasterClient<Access>) -> Result<Response<T>, Status>,
    ) -> Result<T, Error> {
        let mut silent = Vec::new();
        let mut not_now = None;
        for listed in &self.master {
            let mut leader = None;
            for master in [Some(listed.clone()), None] {
                let Some(master) = master.or_else(|| leader.take()) else { break };
                let connected = channel::connect(&master, &self.access, CONNECT_DEADLINE, |endpoint| {
                    endpoint.timeout(deadline)
                });
                let channel = match connected.await {
                    Ok(channel) => channel,
                    Err(error) if error.is_usage() => return Err(Error::Usage(error.to_string())),
                    Err(error) => {
                        silent.push(error.to_string());
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
                    // The deadline passed: nobody else is asked, for it may have been done.
                    Err(status) if matches!(status.code(), Code::Cancelled | Code::DeadlineExceeded) => {
                        let seconds = deadline.as_secs_f64();
                        return Err(Error::NotNow(format!("{master} gave no answer within {seconds} s")));
                    }
                    Err(status) => return Err(Error::Refused(channel::words(&status))),
                }
            }
        }
        Err(match not_now {
            Some(status) => Error::NotNow(channel::words(&status)),
            None => Error::Unreachable(silent),
        })
    }
}
