//! What kind of place a visitor came from, by the referrer's host. A paid link is no kind: `utm_medium` and the click
//! of an advertisement tell that.

use super::address::{Address, lower};
use super::cache::Cache;
use super::sites;

/// The kinds, as the column names them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReferrerKind {
    /// No referrer: an address typed, a bookmark, a program that tells none.
    Direct,
    /// A page of the same host, or of one of the own hosts.
    Internal,
    Search,
    Social,
    Email,
    /// Any other site.
    Other,
}

impl ReferrerKind {
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Internal => "internal",
            Self::Search => "search",
            Self::Social => "social",
            Self::Email => "email",
            Self::Other => "other",
        }
    }
}

#[derive(Debug)]
pub(super) struct Referrers {
    /// In small letters.
    own_hosts: Vec<String>,
    /// By host.
    known: Cache<ReferrerKind>,
}

impl Referrers {
    pub(super) fn new(own_hosts: &[String], most_bytes: u32) -> Self {
        let own_hosts = own_hosts.iter().map(|host| host.to_ascii_lowercase()).collect();
        Self { own_hosts, known: Cache::new(most_bytes) }
    }

    /// `None` for a referrer that names no place. `page_host`: of the page that the visitor came to.
    pub(super) fn read(&mut self, referrer: Option<&str>, page_host: Option<&str>) -> Option<ReferrerKind> {
        let Some(referrer) = referrer.filter(|referrer| !referrer.trim().is_empty()) else {
            return Some(ReferrerKind::Direct);
        };
        let address = Address::read(referrer);
        let host = match address.host {
            Some(host) => host,
            // A path is one of the page's own site.
            None if referrer.starts_with('/') => return Some(ReferrerKind::Internal),
            None => bare_host(address.path)?,
        };
        if page_host.is_some_and(|page_host| is_same(host, page_host)) {
            return Some(ReferrerKind::Internal);
        }
        let host = lower(host.strip_suffix('.').unwrap_or(host));
        Some(self.known.get_or(&host, || classify(&self.own_hosts, &host)))
    }

    pub(super) fn memory(&self) -> usize {
        self.known.memory()
    }
}

/// The host of an address that was sent without its scheme, such as `www.shop.example/home`.
fn bare_host(path: &str) -> Option<&str> {
    let host = path.split(['/', ':']).next()?;
    let is_host = host.contains('.')
        && host
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_') || byte >= 0x80);
    is_host.then_some(host)
}

/// Whether two hosts are one, `www.` or not.
fn is_same(one: &str, other: &str) -> bool {
    without_www(one).eq_ignore_ascii_case(without_www(other))
}

fn without_www(host: &str) -> &str {
    let host = host.strip_suffix('.').unwrap_or(host);
    match host.split_at_checked(4) {
        Some((www, rest)) if www.eq_ignore_ascii_case("www.") => rest,
        _ => host,
    }
}

fn classify(own_hosts: &[String], host: &str) -> ReferrerKind {
    if own_hosts.iter().any(|own| is_within(host, own)) {
        return ReferrerKind::Internal;
    }
    let is_webmail = || host.starts_with("mail.") || host.starts_with("webmail.");
    let by_name = || if is_webmail() { ReferrerKind::Email } else { ReferrerKind::Other };
    sites::kind(host).unwrap_or_else(by_name)
}

/// Whether `host` is `domain` or a host in it.
fn is_within(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_kind_of_a_referrer_is_told() {
        let own = ["Shop.example".to_owned(), "blog.example".to_owned()];
        let mut referrers = Referrers::new(&own, 10_000);
        for (referrer, page, expected) in [
            (None, None, Some("direct")),
            (Some(""), Some("https://shop.example/"), Some("direct")),
            (Some(" "), None, Some("direct")),
            (Some("https://www.google.com/"), Some("/home"), Some("search")),
            (Some("https://WWW.Google.com./search?q=x"), None, Some("search")),
            (Some("https://google.evil.example/"), None, Some("other")),
            (Some("https://www.google.com@evil.example/"), None, Some("other")),
            (Some("https://evil.example/?www.google.com"), None, Some("other")),
            (Some("https://www.google.com/"), Some("https://google.com/"), Some("internal")),
            (Some("android-app://com.google.android.gm/"), None, Some("email")),
            (Some("https://l.instagram.com/?u=x"), None, Some("social")),
            (Some("https://mail.company.example/inbox"), None, Some("email")),
            (Some("https://email.company.example/"), None, Some("other")),
            (Some("https://shop.example/cart"), Some("/home"), Some("internal")),
            (Some("https://m.shop.example:8080/cart"), None, Some("internal")),
            (Some("https://bookshop.example/"), None, Some("other")),
            (Some("http://www.other.example/a"), Some("https://other.example/b"), Some("internal")),
            (Some("http://a.other.example/"), Some("https://other.example/b"), Some("other")),
            (Some("/cart"), None, Some("internal")),
            (Some("www.bing.com/search?q=x"), None, Some("search")),
            (Some("somebody"), None, None),
            (Some("about:blank"), None, None),
            (Some("-"), None, None),
            (Some("https://"), None, None),
            (Some("https://[::1]/x"), None, Some("other")),
        ] {
            let page_host = page.and_then(|page| Address::read(page).host);
            let kind = referrers.read(referrer, page_host).map(ReferrerKind::name);
            assert_eq!(kind, expected, "{referrer:?} to {page:?}");
        }
    }

    proptest! {
        #[test]
        fn no_referrer_does_harm(
            referrer in "\\PC{0,30}|(https?://)?[a-zA-Z.:@/?#é\\[\\]%-]{0,30}",
            page_host in prop::option::of("\\PC{0,30}|[wW.é]{0,10}"),
        ) {
            Referrers::new(&[String::new(), "é".to_owned()], 1000).read(Some(&referrer), page_host.as_deref());
        }
    }
}
