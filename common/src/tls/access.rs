//! Who may speak with whom: certificates, a shared token, and the rule that plain text stays on the loopback device.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use millrace_types::SecretReference;
use subtle::ConstantTimeEq;

use super::{Caller, ClientFiles, Files, Tls, TlsError};
use crate::secret::{self, SecretError};

/// Access that can't be set up as the flags say.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("--token: {0}")]
    Token(#[from] SecretError),
    #[error("--token: the secret is empty: expected a text of one line")]
    EmptyToken,
    #[error(
        "{what} listens on {address}, where others can read along: give --tls-certificate and --tls-key, or --insecure if \
         the network is your own"
    )]
    ListensPlainly { what: &'static str, address: SocketAddr },
    #[error(
        "{address} is on another host, and others can read along: give --tls-ca with its certificate authority, or \
         --insecure if the network is your own"
    )]
    AsksPlainly { address: String },
}

/// What a master needs to know of its callers.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Access")]
pub struct ServerFlags {
    /// This process's certificate and its chain, PEM: speak TLS.
    #[arg(long, requires = "tls_key", value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, requires = "tls_certificate", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Certificate authorities of workers and people, PEM: who has no certificate of theirs is refused, and a worker
    /// may only use a host that its certificate names.
    #[arg(long, requires = "tls_certificate", value_name = "FILE")]
    pub tls_client_ca: Option<PathBuf>,
    /// Where the token is kept that every caller must show: env:NAME or file:/PATH.
    #[arg(long, value_name = "WHERE")]
    pub token: Option<SecretReference>,
    /// Speak plain text with other hosts, too.
    #[arg(long)]
    pub insecure: bool,
}

/// What a worker or a person needs to be let in.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Access")]
pub struct ClientFlags {
    /// Certificate authority of the masters and workers, PEM: speak TLS with them.
    #[arg(long, env = "MILLRACE_TLS_CA", value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// This process's own certificate and its chain, PEM.
    #[arg(long, env = "MILLRACE_TLS_CERTIFICATE", requires = "tls_key", value_name = "FILE")]
    pub tls_certificate: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, env = "MILLRACE_TLS_KEY", requires = "tls_certificate", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Where the cluster's token is kept: env:NAME or file:/PATH.
    #[arg(long, env = "MILLRACE_TOKEN_AT", value_name = "WHERE")]
    pub token: Option<SecretReference>,
    /// Speak plain text with other hosts, too.
    #[arg(long, env = "MILLRACE_INSECURE")]
    pub insecure: bool,
}

impl ServerFlags {
    /// TLS for a listener that speaks `protocol`; `None` for plain text, which must not leave the host.
    ///
    /// # Errors
    /// Files that can't be used, or plain text where others can read along.
    pub fn tls(
        &self,
        what: &'static str,
        address: SocketAddr,
        protocol: &'static [u8],
    ) -> Result<Option<Tls>, AccessError> {
        if let (Some(certificate), Some(key)) = (&self.tls_certificate, &self.tls_key) {
            let (certificate, key) = (certificate.clone(), key.clone());
            let files = Files { certificate, key, client_ca: self.tls_client_ca.clone(), protocol };
            return Ok(Some(Tls::read(files)?));
        }
        if address.ip().is_loopback() || self.insecure {
            return Ok(None);
        }
        Err(AccessError::ListensPlainly { what, address })
    }

    /// # Errors
    /// When it can't be read, or is empty.
    pub fn token(&self) -> Result<Option<Token>, AccessError> {
        self.token.as_ref().map(Token::read).transpose()
    }
}

impl ClientFlags {
    /// Whether `address`, a `host:port`, may be spoken with as the flags say.
    ///
    /// # Errors
    /// Plain text where others can read along.
    pub fn check(&self, address: &str) -> Result<(), AccessError> {
        if self.tls_ca.is_some() || self.insecure || is_loopback(address) {
            return Ok(());
        }
        Err(AccessError::AsksPlainly { address: address.to_owned() })
    }

    /// # Errors
    /// When it can't be read, or is empty.
    pub fn token(&self) -> Result<Option<Token>, AccessError> {
        self.token.as_ref().map(Token::read).transpose()
    }

    /// Reads the files that are named. Blocks.
    ///
    /// # Errors
    /// Files that can't be used.
    pub fn caller(&self) -> Result<Caller, AccessError> {
        let own = self.tls_certificate.clone().zip(self.tls_key.clone());
        Ok(Caller::read(self.tls_ca.clone().map(|ca| ClientFiles { ca, own }))?)
    }

    /// The same for a listener of this process, whose clients are of the authorities in `tls_client_ca`.
    pub fn as_server(&self, tls_client_ca: Option<PathBuf>) -> ServerFlags {
        ServerFlags {
            tls_certificate: self.tls_certificate.clone(),
            tls_key: self.tls_key.clone(),
            tls_client_ca,
            token: self.token.clone(),
            insecure: self.insecure,
        }
    }
}

/// Whether a `host:port` is surely on this host.
pub fn is_loopback(address: &str) -> bool {
    let host = address.rsplit_once(':').map_or(address, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// A secret that all of a cluster share. Never shown.
#[derive(Clone)]
pub struct Token(String);

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token")
    }
}

impl Token {
    fn read(reference: &SecretReference) -> Result<Self, AccessError> {
        let text = secret::read(reference)?;
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(AccessError::EmptyToken);
        }
        Ok(Self(text))
    }

    /// Value of the `authorization` header.
    pub fn header(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Whether `header` is that value; takes the same time for every header of its length.
    pub fn is_shown_by(&self, header: &[u8]) -> bool {
        self.header().as_bytes().ct_eq(header).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_text_stays_on_the_host_unless_told_otherwise() {
        for near in ["127.0.0.1:7077", "[::1]:7077", "localhost:7077", "127.9.9.9:1"] {
            ClientFlags::default().check(near).expect(near);
        }
        let flags = |tls_ca: Option<&str>, insecure| ClientFlags {
            tls_ca: tls_ca.map(Into::into),
            insecure,
            ..ClientFlags::default()
        };
        for far in ["10.0.0.1:7077", "master:7077", "[fd00::1]:7077"] {
            let refused = flags(None, false).check(far).expect_err(far).to_string();
            assert!(refused.contains(far) && refused.contains("--tls-ca"), "{refused}");
            flags(None, true).check(far).expect("insecure");
            flags(Some("ca.pem"), false).check(far).expect("tls");
        }
        let address: SocketAddr = "0.0.0.0:7077".parse().expect("address");
        let refused =
            ServerFlags::default().tls("the master", address, b"h2").expect_err("plain").to_string();
        assert!(refused.contains("0.0.0.0:7077") && refused.contains("--insecure"), "{refused}");
        let insecure = ServerFlags { insecure: true, ..ServerFlags::default() };
        assert!(insecure.tls("the master", address, b"h2").expect("insecure").is_none());
    }

    #[test]
    fn a_token_is_compared_whole_and_never_shown() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |text: &str| {
            let path = folder.path().join("token");
            std::fs::write(&path, text).expect("written");
            SecretReference::File(path.display().to_string())
        };
        let token = Token::read(&at("hunter2hunter2\n")).expect("a token");
        assert!(token.is_shown_by(b"Bearer hunter2hunter2"));
        for wrong in ["Bearer hunter2hunter3", "Bearer hunter2", "hunter2hunter2", ""] {
            assert!(!token.is_shown_by(wrong.as_bytes()), "{wrong}");
        }
        assert!(!format!("{token:?}").contains("hunter2"));
        for bad in ["", " \n", "two words"] {
            assert!(Token::read(&at(bad)).is_err(), "{bad:?}");
        }
    }
}
