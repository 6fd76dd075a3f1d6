//! A certificate authority of a test's own.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    SanType,
};

/// A certificate and its key, in files.
#[derive(Debug, Clone)]
pub struct Certified {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

/// Makes certificates in a folder.
pub struct Authority {
    folder: PathBuf,
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// Its own certificate, for `--tls-ca` and `--tls-client-ca`.
    pub ca: PathBuf,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

impl Authority {
    /// `name`: of its files in `folder`.
    pub fn new(folder: &Path, name: &str) -> Self {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, name);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(parameters, key).expect("a certificate");
        let ca = folder.join(format!("{name}.pem"));
        std::fs::write(&ca, issuer.pem()).expect("written");
        Self { folder: folder.to_owned(), issuer, ca }
    }

    /// A certificate for `names`: addresses, host names, and URIs (with `://`).
    pub fn certify(&self, file: &str, names: &[&str]) -> Certified {
        self.certify_until(file, names, SystemTime::now() + DAY)
    }

    /// The same, not valid any more.
    pub fn certify_expired(&self, file: &str, names: &[&str]) -> Certified {
        self.certify_until(file, names, SystemTime::now() - DAY)
    }

    fn certify_until(&self, file: &str, names: &[&str], end: SystemTime) -> Certified {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, file);
        parameters.not_before = (end - DAY * 10).into();
        parameters.not_after = end.into();
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        parameters.subject_alt_names = names
            .iter()
            .map(|name| match name.parse() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) if name.contains("://") => SanType::URI((*name).try_into().expect("a URI")),
                Err(_) => SanType::DnsName((*name).try_into().expect("a host")),
            })
            .collect();
        let key = KeyPair::generate().expect("a key");
        let certificate = parameters.signed_by(&key, &self.issuer).expect("signed");
        let files = Certified {
            certificate: self.folder.join(format!("{file}.pem")),
            key: self.folder.join(format!("{file}.key")),
        };
        std::fs::write(&files.key, key.serialize_pem()).expect("written");
        std::fs::write(&files.certificate, certificate.pem()).expect("written");
        files
    }
}

impl std::fmt::Debug for Authority {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Authority").field("ca", &self.ca).finish_non_exhaustive()
    }
}
