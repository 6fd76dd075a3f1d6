//! TLS: the certificate and its key, read from files, and read again while the collector runs.

use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use rustls::ServerConfig;
use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::TlsAcceptor;

/// Files that TLS can't be made of.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{flag} {} can't be read ({reason}): expected a PEM file with {expected}", path.display())]
    Unreadable { flag: &'static str, path: PathBuf, reason: String, expected: &'static str },
    #[error("--tls-certificate {} and --tls-key {} don't make a pair: {source}", certificate.display(), key.display())]
    NoPair { certificate: PathBuf, key: PathBuf, source: rustls::Error },
}

/// What a connection is accepted with. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Tls {
    certificate: PathBuf,
    key: PathBuf,
    config: Arc<RwLock<Arc<ServerConfig>>>,
}

impl Tls {
    /// Of the chain in `certificate`, its own certificate first, and the private key in `key`. Blocks.
    pub(super) fn read(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let config = Arc::new(RwLock::new(server_config(certificate, key)?));
        Ok(Self { certificate: certificate.to_owned(), key: key.to_owned(), config })
    }

    /// Reads the files again, for connections to come; nothing changes if they can't be used. Blocks.
    pub(super) fn reload(&self) -> Result<(), TlsError> {
        let config = server_config(&self.certificate, &self.key)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner)))
    }
}

fn server_config(certificate: &Path, key: &Path) -> Result<Arc<ServerConfig>, TlsError> {
    let unreadable = |flag, path: &Path, expected, reason: String| TlsError::Unreadable {
        flag,
        path: path.to_owned(),
        reason,
        expected,
    };
    let no_chain =
        |reason| unreadable("--tls-certificate", certificate, "the certificate and its chain", reason);
    let chain = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|error| no_chain(error.to_string()))?;
    if chain.is_empty() {
        return Err(no_chain("no certificate in it".to_owned()));
    }
    let private_key = PrivateKeyDer::from_pem_file(key)
        .map_err(|error| unreadable("--tls-key", key, "the certificate's private key", error.to_string()))?;
    let no_pair =
        |source| TlsError::NoPair { certificate: certificate.to_owned(), key: key.to_owned(), source };
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(no_pair)?
        .with_no_client_auth()
        .with_single_cert(chain, private_key)
        .map_err(no_pair)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
