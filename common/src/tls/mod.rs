//! TLS of everything that listens: the certificate and its key, read from files, and read again while the process runs.

mod access;
mod incoming;

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

pub use access::{AccessError, ClientFlags, ServerFlags, Token, is_loopback};
pub use incoming::incoming;

/// Files that TLS can't be made of.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{flag} {} can't be read ({reason}): expected a PEM file with {expected}", path.display())]
    Unreadable { flag: &'static str, path: PathBuf, reason: String, expected: &'static str },
    #[error("--tls-certificate {} and --tls-key {} don't make a pair: {source}", certificate.display(), key.display())]
    NoPair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("--tls-client-ca {} can't be used: {reason}", path.display())]
    ClientAuthority { path: PathBuf, reason: String },
}

/// The files behind a listener's TLS.
#[derive(Debug, Clone)]
pub struct Files {
    /// The chain, the listener's own certificate first.
    pub certificate: PathBuf,
    pub key: PathBuf,
    /// Authorities of clients: with them a client without a certificate of theirs is refused.
    pub client_ca: Option<PathBuf>,
    /// What is spoken inside, as ALPN names it.
    pub protocol: &'static [u8],
}

/// What a connection is accepted with. Clones share it.
#[derive(Debug, Clone)]
pub struct Tls {
    files: Files,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// The first file that can't be used, and why.
    pub fn read(files: Files) -> Result<Self, TlsError> {
        let config = Arc::new(RwLock::new(server_config(&files)?));
        Ok(Self { files, config })
    }

    /// Reads the files again, for connections to come; nothing changes if they can't be used. Blocks.
    ///
    /// # Errors
    /// As of [`Tls::read`].
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = server_config(&self.files)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner)))
    }

    /// Whether clients must show a certificate.
    pub fn is_mutual(&self) -> bool {
        self.files.client_ca.is_some()
    }
}

fn server_config(files: &Files) -> Result<Arc<ServerConfig>, TlsError> {
    let Files { certificate, key, client_ca, protocol } = files;
    let chain = certificates("--tls-certificate", certificate, "the certificate and its chain")?;
    let private_key = PrivateKeyDer::from_pem_file(key).map_err(|error| TlsError::Unreadable {
        flag: "--tls-key",
        path: key.clone(),
        reason: error.to_string(),
        expected: "the certificate's private key",
    })?;
    let no_pair = |source| TlsError::NoPair { certificate: certificate.clone(), key: key.clone(), source };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(no_pair)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let unusable = |reason: String| TlsError::ClientAuthority { path: path.clone(), reason };
            let mut roots = RootCertStore::empty();
            for root in certificates("--tls-client-ca", path, "the certificates of the clients' authorities")?
            {
                roots.add(root).map_err(|error| unusable(error.to_string()))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
            builder.with_client_cert_verifier(verifier.map_err(|error| unusable(error.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, private_key).map_err(no_pair)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

fn certificates(
    flag: &'static str,
    path: &Path,
    expected: &'static str,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |reason| TlsError::Unreadable { flag, path: path.to_owned(), reason, expected };
    let chain = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| unreadable(error.to_string()))?;
    if chain.is_empty() {
        return Err(unreadable("no certificate in it".to_owned()));
    }
    Ok(chain)
}

/// Whether the certificate names `host`, a DNS name or an IP address, among its subject alternative names (RFC 6125).
///
/// # Errors
/// Why not, in words.
pub fn check_names_host(certificate: &CertificateDer<'_>, host: &str) -> Result<(), String> {
    let name = ServerName::try_from(host).map_err(|error| format!("{host:?} is no host: {error}"))?;
    let parsed = ParsedCertificate::try_from(certificate).map_err(|error| error.to_string())?;
    verify_server_name(&parsed, &name).map_err(|error| error.to_string())
}
