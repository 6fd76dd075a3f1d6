//! The parts of a page's or a referrer's address. Refuses nothing: a text that is no address is a path.

use std::borrow::Cow;

/// A text as `scheme://host/path?query#fragment`, of which all but the path may be missing.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(super) struct Address<'a> {
    /// As sent, without user and port.
    pub(super) host: Option<&'a str>,
    /// As sent; `/` for an address that has a host and no path.
    pub(super) path: &'a str,
    pub(super) query: &'a str,
}

impl<'a> Address<'a> {
    pub(super) fn read(text: &'a str) -> Self {
        let end = text.bytes().position(|byte| byte == b'?' || byte == b'#').unwrap_or(text.len());
        let (before, rest) = text.split_at(end);
        let query = match rest.strip_prefix('?') {
            Some(query) => query.split('#').next().unwrap_or_default(),
            None => "",
        };
        let (host, path) = match authority(before) {
            Some((authority, path)) => (host(authority), path),
            None => (None, before),
        };
        Self { host, path, query }
    }
}

/// Splits `scheme://authority/path` and `//authority/path`; `None` for a path.
fn authority(address: &str) -> Option<(&str, &str)> {
    let rest = if let Some(rest) = address.strip_prefix('/') {
        rest.strip_prefix('/')?
    } else {
        let (scheme, rest) = address.split_once(':')?;
        let rest = rest.strip_prefix("//")?;
        let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
        is_scheme.then_some(rest)?
    };
    Some(match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    })
}

fn host(authority: &str) -> Option<&str> {
    let after_user = authority.rfind('@').map_or(authority, |at| &authority[at + 1..]);
    let host = match after_user.rfind(':') {
        Some(colon) if after_user[colon + 1..].bytes().all(|byte| byte.is_ascii_digit()) => {
            &after_user[..colon]
        }
        _ => after_user,
    };
    (!host.is_empty()).then_some(host)
}

/// In lower case: hosts that differ in case alone are one.
pub(super) fn lower(host: &str) -> Cow<'_, str> {
    if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Cow::Owned(host.to_ascii_lowercase())
    } else {
        Cow::Borrowed(host)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_split() {
        for (text, host, path, query) in [
            ("/home", None, "/home", ""),
            ("/home?utm_source=x#top", None, "/home", "utm_source=x"),
            ("/home#top?utm_source=x", None, "/home", ""),
            ("https://Shop.Example:8443/a/b?c=/d?e", Some("Shop.Example"), "/a/b", "c=/d?e"),
            ("https://user:secret@shop.example", Some("shop.example"), "/", ""),
            ("https://shop.example?a=b", Some("shop.example"), "/", "a=b"),
            ("http://[2001:db8::1]:80/x", Some("[2001:db8::1]"), "/x", ""),
            ("http://[2001:db8::1]/x", Some("[2001:db8::1]"), "/x", ""),
            ("//cdn.example/x", Some("cdn.example"), "/x", ""),
            ("android-app://com.example.app/", Some("com.example.app"), "/", ""),
            ("https:///x", None, "/x", ""),
            ("/redirect/https://shop.example/", None, "/redirect/https://shop.example/", ""),
            ("home", None, "home", ""),
            ("://x", None, "://x", ""),
            ("a:b://x", None, "a:b://x", ""),
            ("mailto:me@shop.example", None, "mailto:me@shop.example", ""),
            ("", None, "", ""),
            ("#", None, "", ""),
            ("?", None, "", ""),
        ] {
            assert_eq!(Address::read(text), Address { host, path, query }, "{text}");
        }
    }
}
