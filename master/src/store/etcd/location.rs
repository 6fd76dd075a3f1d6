//! Where etcd is, and how one gets in: the value of `--state`, and the flags beside it.

use std::fmt;
use std::path::PathBuf;

use millrace_common::address::parse_host_port;
use millrace_common::types::SecretReference;

const DEFAULT_PORT: u16 = 2379;
const DEFAULT_PREFIX: &str = "/millrace";

/// `etcd://HOST[:PORT],…[/PREFIX]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdLocation {
    /// `host:port` of each member.
    pub(crate) endpoints: Vec<String>,
    /// Begins with a slash and does not end with one: everything lies below it.
    pub(crate) prefix: String,
}

/// How a master gets into etcd.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "State in etcd (--state etcd://…)")]
pub struct EtcdFlags {
    /// Certificate authority of etcd's servers, PEM: speak TLS with them.
    #[arg(long, value_name = "FILE")]
    pub etcd_ca: Option<PathBuf>,
    /// This master's certificate for etcd, PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_key", requires = "etcd_ca")]
    pub etcd_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, value_name = "FILE", requires = "etcd_certificate")]
    pub etcd_key: Option<PathBuf>,
    /// User of etcd.
    #[arg(long, value_name = "NAME", requires = "etcd_password")]
    pub etcd_user: Option<String>,
    /// Where the user's password is kept: env:NAME or file:/PATH.
    #[arg(long, value_name = "WHERE", requires = "etcd_user")]
    pub etcd_password: Option<SecretReference>,
}

impl EtcdLocation {
    /// What follows `etcd://`.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (hosts, prefix) = text.split_once('/').unwrap_or((text, ""));
        let endpoint = |host: &str| {
            let with_port = if host.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
                host.to_owned()
            } else {
                format!("{host}:{DEFAULT_PORT}")
            };
            parse_host_port(&with_port).map_err(|error| format!("{host:?}: {error}"))
        };
        let endpoints = hosts.split(',').map(endpoint).collect::<Result<Vec<_>, _>>()?;
        let prefix = prefix.trim_end_matches('/');
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-' | b'/');
        if !prefix.bytes().all(is_plain) {
            return Err(format!("{prefix:?} is no prefix: expected a-z A-Z 0-9 . _ - /"));
        }
        let prefix = if prefix.is_empty() { DEFAULT_PREFIX.to_owned() } else { format!("/{prefix}") };
        Ok(Self { endpoints, prefix })
    }
}

impl fmt::Display for EtcdLocation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "etcd://{}{}", self.endpoints.join(","), self.prefix)
    }
}
