//! TLS of everything that listens: the certificate and its key, read from files, and read again while the process runs.

mod access;
mod call;
mod incoming;
mod words;

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use rustls::client::verify_server_name;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};
use tokio_rustls::TlsAcceptor;

pub use access::{AccessError, ClientFlags, ServerFlags, Token, is_loopback};
pub use call::{Caller, ClientFiles, Greeted, Wire};
pub use incoming::{Refusals, incoming, plain_incoming};

/// Files that TLS can't be made of.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{flag} {} can't be read ({reason}): expected a PEM file with {expected}", path.display())]
    Unreadable { flag: &'static str, path: PathBuf, reason: String, expected: &'static str },
    #[error("--tls-certificate {} and --tls-key {} don't make a pair: {source}", certificate.display(), key.display())]
    NoPair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
    #[error("{flag} {} can't be used: {reason}", path.display())]
    Authority { flag: &'static str, path: PathBuf, reason: String },
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
    seen: Arc<Mutex<Vec<Stamp>>>,
}

/// By what a file that was written anew is told; `None`: it can't be looked at.
type Stamp = Option<(i64, i64, u64, u64)>;

impl Tls {
    /// Reads the files. Blocks.
    ///
    /// # Errors
    /// The first file that can't be used, and why.
    pub fn read(files: Files) -> Result<Self, TlsError> {
        let seen = Arc::new(Mutex::new(stamps(&files)));
        let config = Arc::new(RwLock::new(server_config(&files)?));
        Ok(Self { files, config, seen })
    }

    pub fn files(&self) -> &Files {
        &self.files
    }

    /// [`Tls::reload`], if a file is another one than at the last look; says whether it was. Blocks.
    ///
    /// # Errors
    /// As of [`Tls::read`], once for each change.
    pub fn reload_if_changed(&self) -> Result<bool, TlsError> {
        let now = stamps(&self.files);
        let before =
            std::mem::replace(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner), now.clone());
        if before == now { Ok(false) } else { self.reload().map(|()| true) }
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
    let private_key = private_key(key)?;
    let no_pair = |source| TlsError::NoPair { certificate: certificate.clone(), key: key.clone(), source };
    let provider = Arc::new(ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(no_pair)?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let flag = "--tls-client-ca";
            let roots = Arc::new(authorities(flag, path)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider).build();
            let unusable = |reason| TlsError::Authority { flag, path: path.clone(), reason };
            builder.with_client_cert_verifier(verifier.map_err(|error| unusable(error.to_string()))?)
        }
    };
    let mut config = builder.with_single_cert(chain, private_key).map_err(no_pair)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path).map_err(|error| TlsError::Unreadable {
        flag: "--tls-key",
        path: path.to_owned(),
        reason: error.to_string(),
        expected: "the certificate's private key",
    })
}

fn authorities(flag: &'static str, path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(flag, path, "the certificates of authorities")? {
        roots.add(root).map_err(|error| TlsError::Authority {
            flag,
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    }
    Ok(roots)
}

fn stamps(files: &Files) -> Vec<Stamp> {
    let paths = [Some(&files.certificate), Some(&files.key), files.client_ca.as_ref()];
    let stamp = |found: Metadata| (found.mtime(), found.mtime_nsec(), found.size(), found.ino());
    paths.into_iter().flatten().map(|path| std::fs::metadata(path).ok().map(stamp)).collect()
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
