//! Who may read and who may act. A POST must show the token that only this process's own pages and API hand out, and no
//! other site may ask at all: neither by a form, nor by a name that it lets point here.

use std::net::IpAddr;
use std::sync::Arc;

use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use subtle::ConstantTimeEq;

use super::Web;
use super::logins::{Login, Logins, Right};
use super::problem::Problem;

/// Header in which a POST shows the page's token.
const TOKEN: &str = "x-millrace-token";
/// A form's field for the same.
const FIELD: &str = "token";
/// A form holds a token and a few words.
const LARGEST_FORM: usize = 16 << 10;

/// What is asked of a request before it is looked at.
#[derive(Debug)]
pub(crate) struct Guard {
    logins: Option<Logins>,
    /// Of this process; a new one at each start.
    token: String,
    /// Names besides addresses and `localhost` under which this master is asked.
    names: Vec<String>,
    /// The page can be reached from other hosts.
    is_open: bool,
}

impl Guard {
    pub(crate) fn new(logins: Option<Logins>, names: Vec<String>, is_loopback: bool) -> Self {
        let token: [u8; 32] = rand::random();
        Self { logins, token: hex::encode(token), names, is_open: !is_loopback }
    }

    pub(super) fn page_token(&self) -> &str {
        &self.token
    }

    /// Whether anybody can do anything through HTTP: where other hosts reach the page, only with a login.
    pub(super) fn can_act(&self) -> bool {
        !self.is_open || self.logins.is_some()
    }

    /// Whoever reaches the port reads.
    pub(crate) fn warning(&self) -> Option<&'static str> {
        (!self.can_act()).then_some(
            "The status page can be reached from other hosts and asks nobody for a login: all who reach it read events and \
             offsets, and its buttons are off. Start the master with --ui-auth FILE, or with --http-bind 127.0.0.1:18080",
        )
    }

    fn may(&self, headers: &HeaderMap, right: Right) -> Result<(), Box<Response>> {
        let Some(logins) = &self.logins else {
            if right == Right::Read || self.can_act() {
                return Ok(());
            }
            let detail = "the page can be reached from other hosts and asks for no login, so that nothing is done through it: \
                use the command line, or start the master with --ui-auth FILE";
            return Err(Box::new(refused(StatusCode::FORBIDDEN, detail)));
        };
        let shown = headers.get(header::AUTHORIZATION).and_then(|value| login(value.as_bytes()));
        let is_known = shown.as_ref().is_some_and(|shown| logins.knows(shown));
        if shown.as_ref().is_some_and(|shown| logins.allows(shown, right)) {
            return Ok(());
        }
        if is_known {
            return Err(Box::new(refused(StatusCode::FORBIDDEN, "this login may read, not act")));
        }
        let mut response = refused(StatusCode::UNAUTHORIZED, "a login is expected: --ui-auth names the file");
        response.headers_mut().insert(
            header::WWW_AUTHENTICATE,
            header::HeaderValue::from_static("Basic realm=\"millrace\", charset=\"UTF-8\""),
        );
        Err(Box::new(response))
    }

    /// Whether the request's `Host` is one by which this master is meant: another site's name that points here is
    /// none. Where the page is open, its names are many, so that reading is free.
    fn is_host(&self, headers: &HeaderMap, right: Right) -> bool {
        if self.is_open && right == Right::Read {
            return true;
        }
        // HTTP/1.0 needs none, and no browser speaks it.
        let Some(host) = headers.get(header::HOST) else { return true };
        let Ok(host) = host.to_str() else { return false };
        let name = match host.strip_prefix('[') {
            Some(rest) => rest.split(']').next().unwrap_or_default(),
            None => host.rsplit_once(':').map_or(host, |(name, _)| name),
        };
        let is_address = name.parse::<IpAddr>().is_ok();
        is_address
            || name.eq_ignore_ascii_case("localhost")
            || self.names.iter().any(|known| known.eq_ignore_ascii_case(name))
    }

    fn is_token(&self, shown: &[u8]) -> bool {
        self.token.as_bytes().ct_eq(shown).into()
    }
}

fn refused(status: StatusCode, detail: &str) -> Response {
    Problem::new(status, "not allowed", detail).into_response()
}

/// The login in an `Authorization` header.
fn login(value: &[u8]) -> Option<Login> {
    let text = std::str::from_utf8(value).ok()?;
    let (scheme, rest) = text.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(Login::Token(rest.trim().to_owned()));
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let decoded = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    let (name, password) = decoded.split_once(':')?;
    Some(Login::Basic { name: name.to_owned(), password: password.to_owned() })
}

/// Lets requests through that may be answered.
pub(super) async fn check(State(web): State<Arc<Web>>, request: Request, next: Next) -> Response {
    let reads = matches!(*request.method(), Method::GET | Method::HEAD);
    let right = if reads { Right::Read } else { Right::Act };
    let headers = request.headers();
    if !web.guard.is_host(headers, right) {
        return refused(
            StatusCode::MISDIRECTED_REQUEST,
            "the Host of the request is not this master's: ask by its address, or start it with --advertise HOST",
        );
    }
    // Whether the process lives is nobody's secret.
    let path = request.uri().path();
    if !matches!(path, "/healthz" | "/readyz")
        && let Err(refusal) = web.guard.may(headers, right)
    {
        return *refusal;
    }
    if right == Right::Read {
        return next.run(request).await;
    }
    let site = headers.get("sec-fetch-site").map(|site| site.as_bytes());
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return refused(StatusCode::FORBIDDEN, "another site's page asks for it");
    }
    match with_token(&web.guard, request).await {
        Ok(request) => next.run(request).await,
        Err(refusal) => *refusal,
    }
}

/// The request, if it shows the token in its header or form.
async fn with_token(guard: &Guard, request: Request) -> Result<Request, Box<Response>> {
    let missing = || {
        let detail = "the token of the page is expected in the header x-millrace-token (/api/v1/token tells it); a page \
            that is older than the master's start has another one: load it again";
        Box::new(refused(StatusCode::FORBIDDEN, detail))
    };
    if let Some(shown) = request.headers().get(TOKEN) {
        return if guard.is_token(shown.as_bytes()) { Ok(request) } else { Err(missing()) };
    }
    let is_form = request
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/x-www-form-urlencoded"));
    if !is_form {
        return Err(missing());
    }
    let (parts, body) = request.into_parts();
    let body = to_bytes(body, LARGEST_FORM)
        .await
        .map_err(|_| Box::new(refused(StatusCode::PAYLOAD_TOO_LARGE, "the form is longer than 16 KiB")))?;
    let shown = url::form_urlencoded::parse(&body).find(|(name, _)| name == FIELD);
    if shown.is_some_and(|(_, value)| guard.is_token(value.as_bytes())) {
        return Ok(Request::from_parts(parts, Body::from(body)));
    }
    Err(missing())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_others_let_point_here_are_refused() {
        let host = |name: &str| HeaderMap::from_iter([(header::HOST, name.parse().expect("header"))]);
        let guard = Guard::new(None, vec!["master.example".into()], true);
        for good in
            ["127.0.0.1:18080", "localhost:18080", "[::1]:18080", "master.example:1", "MASTER.example"]
        {
            assert!(guard.is_host(&host(good), Right::Read), "{good}");
        }
        for bad in ["evil.example:18080", "", "localhost.evil.example", "[evil"] {
            assert!(!guard.is_host(&host(bad), Right::Read), "{bad}");
        }
        let open = Guard::new(None, Vec::new(), false);
        assert!(open.is_host(&host("page.example"), Right::Read));
        assert!(!open.is_host(&host("page.example"), Right::Act));
        assert!(open.warning().is_some() && guard.warning().is_none());
        let (act, read) = (open.may(&HeaderMap::new(), Right::Act), open.may(&HeaderMap::new(), Right::Read));
        assert!(act.is_err() && read.is_ok(), "whom nobody knows does nothing from elsewhere");
        assert!(guard.may(&HeaderMap::new(), Right::Act).is_ok());
    }

    #[test]
    fn logins_are_read_from_the_header() {
        assert_eq!(login(b"Bearer abc"), Some(Login::Token("abc".into())));
        // ada:a:b
        let basic = Login::Basic { name: "ada".into(), password: "a:b".into() };
        assert_eq!(login(b"basic YWRhOmE6Yg=="), Some(basic));
        for bad in [&b"Basic !!"[..], b"Basic", b"Digest x", b"\xff\xff", b""] {
            assert_eq!(login(bad), None);
        }
    }
}
