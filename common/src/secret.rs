//! Secrets, read from where a reference says they are kept. The value is never shown.

use millrace_types::SecretReference;

/// A secret that can't be read; names the place.
#[derive(Debug, thiserror::Error)]
#[error("the secret can't be read from {place}: {reason}")]
pub struct SecretError {
    place: String,
    reason: String,
}

/// The secret, without white space around it. Reads a small file at most.
///
/// # Errors
/// When the variable or the file is not there, or holds no text.
pub fn read(reference: &SecretReference) -> Result<String, SecretError> {
    let (place, value) = match reference {
        SecretReference::Environment(name) => {
            (format!("environment variable {name}"), std::env::var(name).map_err(|error| error.to_string()))
        }
        SecretReference::File(path) => {
            (format!("file {path}"), std::fs::read_to_string(path).map_err(|error| error.to_string()))
        }
    };
    value.map(|text| text.trim().to_owned()).map_err(|reason| SecretError { place, reason })
}
