//! The HTTP client, and the write key that it shows to a collector that wants one. A key is never written anywhere.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, HeaderMap, HeaderValue};
use reqwest::{Client, Url};

const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Longer than a collector takes with its own time-outs at their defaults.
const ANSWER_DEADLINE: Duration = Duration::from_secs(40);
/// Shorter than the collector keeps an idle connection: a request on one that is just closed would be unknown.
const IDLE_CONNECTION: Duration = Duration::from_secs(20);

/// A client that can't be made.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error("the HTTP client can't be set up: {0}")]
    Setup(#[from] reqwest::Error),
    #[error("--write-key-file {} can't be read: {source}", path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("--write-key-file {} has no key: expected one line of ASCII without spaces", path.display())]
    NoKey { path: PathBuf },
}

/// A client that sends the key in `key_file` with each request, if there is one. Blocks.
pub(super) fn client(key_file: Option<&Path>) -> Result<Client, ClientError> {
    let mut headers = HeaderMap::new();
    if let Some(path) = key_file {
        headers.insert(AUTHORIZATION, authorization(path)?);
    }
    Ok(Client::builder()
        .no_proxy()
        .default_headers(headers)
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(ANSWER_DEADLINE)
        .pool_idle_timeout(IDLE_CONNECTION)
        .tcp_nodelay(true)
        .build()?)
}

fn authorization(path: &Path) -> Result<HeaderValue, ClientError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ClientError::Unreadable { path: path.to_owned(), source })?;
    let no_key = || ClientError::NoKey { path: path.to_owned() };
    let key = text.trim();
    if key.is_empty() || !key.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(no_key());
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| no_key())?;
    value.set_sensitive(true);
    Ok(value)
}

/// `url` without what may be a secret in it, for logs.
pub(super) fn shown(url: &Url) -> String {
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    format!("{}://{}{port}{}", url.scheme(), url.host_str().unwrap_or_default(), url.path())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_has_one_key_and_no_error_repeats_it() {
        let file = tempfile::NamedTempFile::new().expect("file");
        std::fs::write(file.path(), "k-12345678\n").expect("write");
        let value = authorization(file.path()).expect("a key");
        assert_eq!(value.to_str().ok(), Some("Bearer k-12345678"));
        assert!(value.is_sensitive());
        for bad in ["", "\n", "two keys", "k-1234\nk-5678", "schlüssel"] {
            std::fs::write(file.path(), bad).expect("write");
            let message = authorization(file.path()).expect_err("refused").to_string();
            assert!(message.contains("one line of ASCII"), "{message}");
            assert!(bad.is_empty() || bad == "\n" || !message.contains(bad), "{message}");
        }
        assert!(matches!(client(Some(Path::new("/nowhere"))), Err(ClientError::Unreadable { .. })));
    }

    #[test]
    fn an_address_is_shown_without_its_secrets() {
        for (url, expected) in [
            ("http://127.0.0.1:60000/collect", "http://127.0.0.1:60000/collect"),
            ("http://key:@[::1]:6/collect?write_key=secret#x", "http://[::1]:6/collect"),
            ("http://host/collect", "http://host/collect"),
        ] {
            assert_eq!(shown(&Url::parse(url).expect("URL")), expected);
        }
    }
}
