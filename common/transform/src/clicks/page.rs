//! What a page's address tells: host, path, and the `utm_*` parameters.

use std::borrow::Cow;

use millrace_common::event::column;
use url::form_urlencoded;

/// The parts of a `page` value: a path (`/home?utm_source=x`) or a whole URL.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Page<'a> {
    /// In lower case, without user and port; `None` for a path.
    pub(super) host: Option<Cow<'a, str>>,
    /// As sent, without query and fragment; `/` for a URL that has none.
    pub(super) path: &'a str,
    /// Decoded values in the order of [`column::UTM`]; the first of each counts. Bytes that are no UTF-8 become
    /// U+FFFD: the column `page` has them as sent.
    pub(super) utm: [Option<Cow<'a, str>>; column::UTM.len()],
}

impl<'a> Page<'a> {
    /// Never fails: a text that is no address is a path.
    pub(super) fn read(page: &'a str) -> Self {
        let page = page.split_once('#').map_or(page, |(before, _)| before);
        let (address, query) = page.split_once('?').unwrap_or((page, ""));
        let (host, path) = match authority(address) {
            Some((authority, path)) => (host(authority), path),
            None => (None, address),
        };
        Self { host, path, utm: utm(query) }
    }
}

/// Splits `scheme://authority/path` and `//authority/path`; `None` for a path.
fn authority(address: &str) -> Option<(&str, &str)> {
    let rest = match address.strip_prefix("//") {
        Some(rest) => rest,
        None => {
            let (scheme, rest) = address.split_once("://")?;
            let is_scheme = scheme.starts_with(|first: char| first.is_ascii_alphabetic())
                && scheme.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte));
            is_scheme.then_some(rest)?
        }
    };
    Some(match rest.find('/') {
        Some(slash) => rest.split_at(slash),
        None => (rest, "/"),
    })
}

fn host(authority: &str) -> Option<Cow<'_, str>> {
    let (_, after_user) = authority.rsplit_once('@').unwrap_or(("", authority));
    let host = match after_user.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        _ => after_user,
    };
    if host.is_empty() {
        None
    } else if host.bytes().any(|byte| byte.is_ascii_uppercase()) {
        Some(Cow::Owned(host.to_ascii_lowercase()))
    } else {
        Some(Cow::Borrowed(host))
    }
}

fn utm(query: &str) -> [Option<Cow<'_, str>>; column::UTM.len()] {
    let mut found = [const { None }; column::UTM.len()];
    for pair in query.split('&').filter(|pair| pair.starts_with("utm_")) {
        let Some((name, value)) = form_urlencoded::parse(pair.as_bytes()).next() else {
            continue;
        };
        if let Some(index) = column::UTM.iter().position(|known| *known == name)
            && found[index].is_none()
            && !value.is_empty()
        {
            found[index] = Some(value);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_is_split() {
        for (page, host, path) in [
            ("/home", None, "/home"),
            ("/home?utm_source=x#top", None, "/home"),
            ("https://Shop.Example:8443/a/b?c=/d", Some("shop.example"), "/a/b"),
            ("https://user:secret@shop.example", Some("shop.example"), "/"),
            ("http://[2001:db8::1]:80/x", Some("[2001:db8::1]"), "/x"),
            ("http://[2001:db8::1]/x", Some("[2001:db8::1]"), "/x"),
            ("//cdn.example/x", Some("cdn.example"), "/x"),
            ("https:///x", None, "/x"),
            ("/redirect/https://shop.example/", None, "/redirect/https://shop.example/"),
            ("home", None, "home"),
            ("", None, ""),
            ("#", None, ""),
        ] {
            let read = Page::read(page);
            assert_eq!((read.host.as_deref(), read.path), (host, path), "{page}");
        }
    }

    #[test]
    fn utm_values_are_decoded_and_the_first_counts() {
        let page = "/?a=b&utm_source=news%20letter&utm_medium=e+mail&utm_source=second&utm_term=&utm_id=7\
            &utm_campaign=%e2%9c%93%zz%ff&utm_content";
        let utm = Page::read(page).utm.map(|value| value.map(Cow::into_owned));
        let expected = [Some("news letter"), Some("e mail"), Some("✓%zz\u{fffd}"), None, None];
        assert_eq!(utm, expected.map(|value| value.map(str::to_owned)));
    }

    proptest! {
        #[test]
        fn no_page_does_harm(page in "\\PC*|(https?:)?//?[@:\\[\\]/?&#%=a-z0-9]{0,40}(utm_source=[%0-9a-f+]{0,9}&?){0,3}") {
            Page::read(&page);
        }
    }
}
