//! Which web sites' pages may send events. A browser names the page's site in the header `Origin`; who sends none is no
//! page. Refuses nothing else: any other program can claim what it likes.

use std::time::Duration;

use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tower_http::cors::{AllowOrigin, CorsLayer};
use url::Url;

/// Every site.
const ANY: &str = "*";
/// How long a browser may remember the answer to its question; browsers take less.
const MAX_AGE: Duration = Duration::from_secs(24 * 3600);

/// A site as the header `Origin` names it (`https://shop.example`), or `*`.
pub(super) fn parse_origin(text: &str) -> Result<String, String> {
    const EXPECTED: &str = "expected a site like https://shop.example or http://localhost:8080, or *";
    if text == ANY {
        return Ok(text.to_owned());
    }
    let url = Url::parse(text).map_err(|_| EXPECTED.to_owned())?;
    let origin = url.origin().ascii_serialization();
    let is_origin = matches!(url.scheme(), "http" | "https")
        && url.path() == "/"
        && url.query().is_none()
        && url.fragment().is_none()
        && url.username().is_empty()
        && url.password().is_none();
    if is_origin { Ok(origin) } else { Err(EXPECTED.to_owned()) }
}

/// The sites of `--allow-origin`.
#[derive(Debug, Clone)]
pub(super) struct Origins(Vec<String>);

impl Origins {
    /// `allowed` as [`parse_origin`] gives them.
    pub(super) fn new(allowed: Vec<String>) -> Self {
        Self(allowed)
    }

    /// Whether the request comes from a page that may send it: one of a site that is allowed, or of the collector's
    /// own address. The origin that may not, otherwise.
    pub(super) fn check(&self, headers: &HeaderMap) -> Result<(), String> {
        let Some(origin) = headers.get(header::ORIGIN) else { return Ok(()) };
        let known = |allowed: &String| allowed == ANY || allowed.as_bytes() == origin.as_bytes();
        if self.0.iter().any(known) || is_own(origin, headers.get(header::HOST)) {
            return Ok(());
        }
        Err(String::from_utf8_lossy(origin.as_bytes()).into_owned())
    }

    /// The layer that answers browsers; none if no site is allowed.
    pub(super) fn layer(&self) -> Option<CorsLayer> {
        if self.0.is_empty() {
            return None;
        }
        let layer = CorsLayer::new()
            .allow_methods([Method::POST])
            .allow_headers([
                header::CONTENT_TYPE,
                header::CONTENT_ENCODING,
                header::AUTHORIZATION,
                HeaderName::from_static("traceparent"),
                HeaderName::from_static("tracestate"),
            ])
            .expose_headers([header::RETRY_AFTER])
            .max_age(MAX_AGE);
        Some(if self.0.iter().any(|allowed| allowed == ANY) {
            layer.allow_origin(AllowOrigin::any())
        } else {
            let origins = self.0.iter().filter_map(|allowed| HeaderValue::from_str(allowed).ok());
            // sendBeacon always sends what the browser keeps for the site; nothing here reads it.
            layer.allow_origin(AllowOrigin::list(origins)).allow_credentials(true)
        })
    }
}

/// A page that came from where the request goes.
fn is_own(origin: &HeaderValue, host: Option<&HeaderValue>) -> bool {
    let origin = origin.as_bytes();
    let authority = origin.strip_prefix(b"https://").or_else(|| origin.strip_prefix(b"http://"));
    authority.zip(host).is_some_and(|(authority, host)| authority.eq_ignore_ascii_case(host.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_site_is_a_scheme_a_host_and_a_port() {
        assert_eq!(parse_origin("https://Shop.Example/").as_deref(), Ok("https://shop.example"));
        assert_eq!(parse_origin("http://localhost:8080").as_deref(), Ok("http://localhost:8080"));
        assert_eq!(parse_origin("https://a.example:443").as_deref(), Ok("https://a.example"));
        assert_eq!(parse_origin("*").as_deref(), Ok("*"));
        for bad in [
            "",
            "shop.example",
            "https://",
            "https://a.example/page",
            "ftp://a.example",
            "null",
            "https://u@a.example",
        ] {
            assert!(parse_origin(bad).expect_err(bad).contains("https://shop.example"), "{bad}");
        }
    }

    #[test]
    fn a_page_of_another_site_may_send_only_if_it_is_allowed() {
        let origins =
            |allowed: &[&str]| Origins::new(allowed.iter().map(|site| (*site).to_owned()).collect());
        let check = |allowed: &[&str], origin: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.insert(header::HOST, HeaderValue::from_static("collect.example:60000"));
            if let Some(origin) = origin {
                headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
            }
            origins(allowed).check(&headers).is_ok()
        };
        assert!(check(&[], None));
        assert!(check(&[], Some("http://Collect.example:60000")));
        for other in ["https://shop.example", "null", "http://collect.example", "collect.example:60000", ""] {
            assert!(!check(&[], Some(other)), "{other}");
            assert!(check(&["*"], Some(other)), "{other}");
        }
        assert!(check(&["https://a.example", "https://shop.example"], Some("https://shop.example")));
        assert!(!check(&["https://shop.example"], Some("https://shop.example.evil.example")));
        assert!(origins(&[]).layer().is_none());
    }
}
