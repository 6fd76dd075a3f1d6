//! What a failed TLS connection says to each side: what was expected, what to do. Pure.

use std::io;

use chrono::DateTime;
use rustls::pki_types::UnixTime;
use rustls::{AlertDescription, CertificateError, Error};

use super::{ClientFiles, Files};

/// Why TLS with a listener failed, of whom one says "it"; `None` if the error is none of TLS.
pub(super) fn to_caller(error: &io::Error, files: &ClientFiles) -> Option<String> {
    let ca = files.ca.display();
    let shown = files.own.as_ref().map(|(own, _)| own.display().to_string());
    let shown = shown.as_deref().unwrap_or("that was shown");
    let tls = match tls_error(error) {
        Some(tls) => tls,
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            return Some(
                "it closed the connection in the TLS handshake: does it speak TLS (--tls-certificate there)?"
                    .to_owned(),
            );
        }
        None => return None,
    };
    Some(match tls {
        Error::InvalidCertificate(CertificateError::NotValidForNameContext { presented, .. }) => format!(
            "its certificate is another host's, for {}: ask it by a name that the certificate has, or give it one for \
             this address",
            names(presented)
        ),
        Error::InvalidCertificate(reason) => match flaw(reason) {
            Some(Flaw::Issuer) => format!("its certificate is not of an authority in --tls-ca {ca}"),
            Some(Flaw::Time(words)) => format!("its certificate {words}"),
            None => format!("its certificate can't be used by a listener: {reason}"),
        },
        Error::InvalidMessage(_) => "it speaks plain text: leave --tls-ca out, or give it --tls-certificate".to_owned(),
        Error::AlertReceived(AlertDescription::CertificateRequired) => {
            "it wants a certificate: give --tls-certificate and --tls-key, of an authority in its --tls-client-ca".to_owned()
        }
        // The second: an authority of the same name with another key.
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => format!(
            "it does not know the authority of the certificate {shown}: expected one of an authority in its \
             --tls-client-ca"
        ),
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            format!("it says that the certificate {shown} has expired: renew it, and compare the clocks")
        }
        Error::AlertReceived(AlertDescription::NoApplicationProtocol) | Error::NoApplicationProtocol => {
            "it speaks TLS, but another protocol than gRPC: is it the right port?".to_owned()
        }
        Error::AlertReceived(alert) => {
            format!("it refuses the TLS connection ({alert:?}): its log says why, beside \"connection refused\"")
        }
        other => format!("TLS failed: {other}"),
    })
}

/// Why TLS with a caller failed, of whom one says "it"; `None` if it only went away.
pub(super) fn to_listener(error: &io::Error, files: &Files) -> Option<String> {
    let certificate = files.certificate.display();
    let client_ca = files.client_ca.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    Some(match tls_error(error)? {
        Error::NoCertificatesPresented => format!(
            "it shows no certificate: expected one of an authority in --tls-client-ca {client_ca}; give it \
             --tls-certificate and --tls-key"
        ),
        Error::InvalidCertificate(reason) => match flaw(reason) {
            Some(Flaw::Issuer) => {
                format!("its certificate is not of an authority in --tls-client-ca {client_ca}")
            }
            Some(Flaw::Time(words)) => format!("its certificate {words}"),
            None => format!("its certificate can't be used by a caller: {reason}"),
        },
        // The second: an authority of the same name with another key.
        Error::AlertReceived(AlertDescription::UnknownCA | AlertDescription::DecryptError) => format!(
            "it does not know the authority of the certificate {certificate}: its --tls-ca must hold it"
        ),
        Error::AlertReceived(AlertDescription::CertificateExpired) => {
            format!(
                "it says that the certificate {certificate} has expired: renew it, and compare the clocks"
            )
        }
        Error::AlertReceived(
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::UnsupportedCertificate,
        ) => format!(
            "it refuses the certificate {certificate}: it may ask by a name or address that is not in it, or before it \
             is valid"
        ),
        Error::NoApplicationProtocol => {
            format!(
                "it speaks another protocol over TLS: expected {}",
                String::from_utf8_lossy(files.protocol)
            )
        }
        other => format!("the TLS handshake failed: {other}"),
    })
}

/// What is wrong with somebody's certificate, where it is not the name.
enum Flaw {
    Issuer,
    Time(String),
}

fn flaw(reason: &CertificateError) -> Option<Flaw> {
    let expired = |at: &str| Flaw::Time(format!("has expired{at}: it must be renewed"));
    let not_yet = |from: &str| Flaw::Time(format!("is not valid yet{from}: compare the clocks"));
    Some(match reason {
        CertificateError::UnknownIssuer | CertificateError::BadSignature => Flaw::Issuer,
        CertificateError::Expired => expired(""),
        CertificateError::ExpiredContext { not_after, .. } => expired(&format!(" at {}", time(*not_after))),
        CertificateError::NotValidYet => not_yet(""),
        CertificateError::NotValidYetContext { not_before, .. } => {
            not_yet(&format!(", from {} on", time(*not_before)))
        }
        _ => return None,
    })
}

fn tls_error(error: &io::Error) -> Option<&Error> {
    error.get_ref()?.downcast_ref()
}

fn names(presented: &[String]) -> String {
    // As rustls writes them: `DnsName("a")`, `IpAddress(10.0.0.1)`.
    let plain = presented.iter().map(|name| {
        let inner = name.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')')).unwrap_or(name);
        inner.trim_matches('"').to_owned()
    });
    let plain: Vec<_> = plain.collect();
    if plain.is_empty() { "no name at all".to_owned() } else { plain.join(", ") }
}

fn time(at: UnixTime) -> String {
    i64::try_from(at.as_secs())
        .ok()
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
        .map_or_else(|| at.as_secs().to_string(), |time| time.to_rfc3339())
}
