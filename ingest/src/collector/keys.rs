//! Write keys: who has one may send events. Only their hashes are kept, and no key is ever written anywhere.

use std::borrow::Cow;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use axum::http::{HeaderMap, Uri, header};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

const SHORTEST_KEY: usize = 8;
const LONGEST_KEY: usize = 256;
/// Name of the query parameter, for clients that can't set headers.
const PARAMETER: &str = "write_key";

/// A file of keys that can't be used. Names the line, never what stands in it.
#[derive(Debug, thiserror::Error)]
pub enum KeysError {
    #[error("--write-keys-file {}: {source}", path.display())]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error(
        "--write-keys-file {}: line {line} is no key: expected {SHORTEST_KEY} to {LONGEST_KEY} letters, digits or signs of ASCII, without spaces",
        path.display()
    )]
    NoKey { path: PathBuf, line: usize },
    #[error("--write-keys-file {} has no key: expected one a line", path.display())]
    Empty { path: PathBuf },
}

/// The keys of a file. Clones share them.
#[derive(Clone)]
pub(super) struct WriteKeys {
    path: PathBuf,
    hashes: Arc<RwLock<Vec<[u8; 32]>>>,
}

impl fmt::Debug for WriteKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteKeys").field("path", &self.path).finish_non_exhaustive()
    }
}

impl WriteKeys {
    /// The keys of the file at `path`, one a line; empty lines and those that begin with `#` don't count. Blocks.
    pub(super) fn read(path: &Path) -> Result<Self, KeysError> {
        let hashes = hashes(path)?;
        Ok(Self { path: path.to_owned(), hashes: Arc::new(RwLock::new(hashes)) })
    }

    /// Reads the file again; the keys stay as they are if it can't be used. Returns how many there are. Blocks.
    pub(super) fn reload(&self) -> Result<usize, KeysError> {
        let hashes = hashes(&self.path)?;
        let count = hashes.len();
        *self.hashes.write().unwrap_or_else(PoisonError::into_inner) = hashes;
        Ok(count)
    }

    /// Whether the request gives one of the keys: as a bearer token, as the user of basic authentication, or as the
    /// parameter `write_key` of its address. Takes as long for each key that it is not.
    pub(super) fn allow(&self, headers: &HeaderMap, uri: &Uri) -> bool {
        let Some(given) = given(headers, uri) else { return false };
        let hash: [u8; 32] = Sha256::digest(&*given).into();
        let hashes = self.hashes.read().unwrap_or_else(PoisonError::into_inner);
        hashes.iter().fold(Choice::from(0), |found, key| found | key.ct_eq(&hash)).into()
    }
}

fn hashes(path: &Path) -> Result<Vec<[u8; 32]>, KeysError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| KeysError::Unreadable { path: path.to_owned(), source })?;
    let mut hashes = Vec::new();
    for (line, key) in (1..).zip(text.lines().map(str::trim)) {
        if key.is_empty() || key.starts_with('#') {
            continue;
        }
        // A colon would end the user of basic authentication.
        let is_key = (SHORTEST_KEY..=LONGEST_KEY).contains(&key.len())
            && key.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':');
        if !is_key {
            return Err(KeysError::NoKey { path: path.to_owned(), line });
        }
        hashes.push(Sha256::digest(key).into());
    }
    if hashes.is_empty() {
        return Err(KeysError::Empty { path: path.to_owned() });
    }
    Ok(hashes)
}

fn given<'a>(headers: &'a HeaderMap, uri: &'a Uri) -> Option<Cow<'a, [u8]>> {
    if let Some(value) = headers.get(header::AUTHORIZATION) {
        let (scheme, credentials) = value.to_str().ok()?.split_once(' ')?;
        let credentials = credentials.trim();
        if scheme.eq_ignore_ascii_case("bearer") {
            return Some(Cow::Borrowed(credentials.as_bytes()));
        }
        if scheme.eq_ignore_ascii_case("basic") {
            let mut user = STANDARD.decode(credentials).ok()?;
            let end = user.iter().position(|&byte| byte == b':')?;
            user.truncate(end);
            return Some(Cow::Owned(user));
        }
        return None;
    }
    let parameters = url::form_urlencoded::parse(uri.query()?.as_bytes());
    let (_, key) = parameters.into_iter().find(|(name, _)| name == PARAMETER)?;
    Some(Cow::Owned(key.into_owned().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;
    use std::io::Write;

    fn file(text: &str) -> tempfile::NamedTempFile {
        let mut file = tempfile::NamedTempFile::new().expect("a file");
        file.write_all(text.as_bytes()).expect("written");
        file
    }

    fn allowed(keys: &WriteKeys, authorization: Option<&str>, uri: &str) -> bool {
        let mut headers = HeaderMap::new();
        if let Some(value) = authorization {
            headers.insert(header::AUTHORIZATION, HeaderValue::from_str(value).expect("a header"));
        }
        keys.allow(&headers, &uri.parse().expect("an address"))
    }

    #[test]
    fn a_key_is_taken_in_each_of_its_places() {
        let file = file("# of the shop\nfirst-key-1\n\n  second+key/2 \n");
        let keys = WriteKeys::read(file.path()).expect("keys");
        for key in ["first-key-1", "second+key/2"] {
            assert!(allowed(&keys, Some(&format!("Bearer {key}")), "/collect"));
            let basic = STANDARD.encode(format!("{key}:"));
            assert!(allowed(&keys, Some(&format!("basic {basic}")), "/collect"));
        }
        assert!(allowed(&keys, None, "/collect?a=b&write_key=first-key-1"));
        assert!(allowed(&keys, None, "/collect?write_key=second%2Bkey%2F2"));
        for wrong in [
            "Bearer first-key-2",
            "Bearer",
            "Bearer ",
            "Digest first-key-1",
            "first-key-1",
            "Basic !",
            "Bearer # of the shop",
        ] {
            assert!(!allowed(&keys, Some(wrong), "/collect"), "{wrong}");
        }
        assert!(!allowed(&keys, None, "/collect") && !allowed(&keys, None, "/collect?write_key="));
        // One answer to a request with two keys.
        assert!(!allowed(&keys, Some("Bearer wrong-key"), "/collect?write_key=first-key-1"));
    }

    #[test]
    fn keys_are_read_anew_and_stay_when_they_cannot_be() {
        let file = file("first-key-1\n");
        let keys = WriteKeys::read(file.path()).expect("keys");
        std::fs::write(file.path(), "second-key\n").expect("written");
        assert_eq!(keys.reload().expect("read"), 1);
        let has = |key: &str| allowed(&keys, Some(&format!("Bearer {key}")), "/");
        assert!(has("second-key") && !has("first-key-1"));
        std::fs::write(file.path(), "short\n").expect("written");
        assert!(keys.reload().is_err());
        assert!(has("second-key"));
    }

    #[test]
    fn a_file_without_good_keys_is_refused_and_no_key_is_repeated() {
        for (text, expected) in
            [("", "no key"), ("#\n", "no key"), ("good-key-1\nsecret", "line 2"), ("with space in", "line 1")]
        {
            let file = file(text);
            let error = WriteKeys::read(file.path()).expect_err(text).to_string();
            assert!(error.contains(expected) && error.contains("--write-keys-file"), "{error}");
            assert!(!error.contains("secret"), "{error}");
        }
        assert!(WriteKeys::read(Path::new("/nowhere")).is_err());
        let file = file("first-key-1\n");
        let keys = WriteKeys::read(file.path()).expect("keys");
        assert!(!format!("{keys:?}").contains("first-key-1"));
    }
}
