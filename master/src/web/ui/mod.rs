//! The pages: made by the server, complete without script, and made of parts that a stream replaces while they are
//! looked at. All that came from outside is a text node or an escaped attribute.

pub(super) mod bad;
pub(super) mod chart;
pub(super) mod cluster;
pub(super) mod lake;
pub(super) mod pipeline;
pub(super) mod process;
pub(super) mod rebalance;
pub(super) mod slots;
pub(super) mod table;
pub(super) mod timeline;
pub(super) mod topics;
pub(super) mod verify;
pub(super) mod words;
pub(super) mod worker;

use std::collections::BTreeMap;

use axum::response::{Html, IntoResponse, Response};
use maud::{DOCTYPE, Markup, html};
use millrace_common::types::VERSION;
use url::form_urlencoded;

use super::Web;
use super::model::Cluster;
use super::problem::Problem;

pub(super) const STYLE: &str = include_str!("style.css");
pub(super) const SCRIPT: &str = include_str!("page.js");
/// Seconds between two loads of a page where no script runs.
const RELOAD: u32 = 5;

/// A piece of a page that is replaced as a whole.
#[derive(Debug)]
pub(super) struct Part {
    /// Unique on its page.
    pub(super) id: &'static str,
    pub(super) body: Markup,
}

#[derive(Debug)]
pub(super) struct Page {
    pub(super) title: String,
    /// Where it stands among the others.
    pub(super) place: Place,
    pub(super) parts: Vec<Part>,
    /// Whether its parts are sent again when they change.
    pub(super) live: Live,
}

/// How often a page is made anew while it is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Live {
    Never,
    /// It asks others, so now and then.
    Asking,
    /// With each look at the cluster.
    Always,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    Cluster,
    Topics,
    Lakes,
    Bad,
    Verify,
    /// None of those that the head names.
    Elsewhere,
}

const PLACES: [(Place, &str, &str); 5] = [
    (Place::Cluster, "/", "Cluster"),
    (Place::Topics, "/topics", "Topics"),
    (Place::Lakes, "/lakes", "Lake"),
    (Place::Bad, "/bad-events", "Bad events"),
    (Place::Verify, "/verify", "Verify"),
];

/// What the address says beside the path: how tables are sorted, and which of their pages is shown.
#[derive(Debug, Clone, Default)]
pub(super) struct View(BTreeMap<String, String>);

impl View {
    pub(super) fn of(query: BTreeMap<String, String>) -> Self {
        Self(query)
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(String::as_str)
    }

    /// The query of a link that changes this much of the view; `None` takes a key away.
    pub(super) fn with(&self, changes: &[(&str, Option<&str>)]) -> String {
        let mut query = self.0.clone();
        for (key, value) in changes {
            match value {
                Some(value) => query.insert((*key).to_owned(), (*value).to_owned()),
                None => query.remove(*key),
            };
        }
        let mut text = form_urlencoded::Serializer::new(String::new());
        for (key, value) in query {
            text.append_pair(&key, &value);
        }
        format!("?{}", text.finish())
    }
}

/// The page whose path has these parts, of those that show the cluster itself; `None` if it is none of them.
pub(super) fn page(
    web: &Web,
    cluster: &Cluster,
    parts: &[&str],
    view: &View,
) -> Option<Result<Page, Problem>> {
    Some(match *parts {
        [""] => Ok(cluster::page(web, cluster, view)),
        ["workers", id] => worker::page(web, cluster, id, view),
        ["pipelines", id] => pipeline::page(web, cluster, id, view),
        ["verify"] => Ok(verify::page(web, cluster, view)),
        _ => return None,
    })
}

pub(super) fn not_found(path: &str) -> Problem {
    let detail = format!("there is nothing at {path}; try / or /api/v1/openapi.json");
    Problem::new(axum::http::StatusCode::NOT_FOUND, "not found", detail)
}

/// A part of a path as it was meant. What is no UTF-8 names nothing.
pub(super) fn decoded(part: &str) -> String {
    let pair =
        form_urlencoded::parse(part.replace('+', "%2B").as_bytes()).next().map(|(name, _)| name.into_owned());
    pair.unwrap_or_default()
}

/// A name as it stands in a path.
pub(super) fn encoded(part: &str) -> String {
    form_urlencoded::byte_serialize(part.as_bytes()).collect::<String>().replace('+', "%20")
}

/// The whole document. `live` is where its parts are streamed.
pub(super) fn document(web: &Web, page: &Page, live: Option<&str>) -> Markup {
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                @if page.live == Live::Always { noscript { meta http-equiv="refresh" content=(RELOAD); } }
                title { (page.title) }
                link rel="stylesheet" href="/style.css";
                link rel="icon" href="/icon.svg" type="image/svg+xml";
                script src="/page.js" defer {}
            }
            body data-live=[live] {
                a.skip href="#main" { "Skip to the content" }
                header {
                    nav aria-label="Pages" {
                        @for (place, path, name) in PLACES {
                            a href=(path) aria-current=[(place == page.place).then_some("page")] { (name) }
                        }
                        a.quiet href="/environment" { "Environment" }
                        a.quiet href="/log" { "Log" }
                        a.quiet href="/api/v1/openapi.json" { "API" }
                        a.quiet href="/metrics" { "Metrics" }
                    }
                    h1 { (page.title) }
                }
                main #main {
                    @if let Some(warning) = web.guard.warning() {
                        p.notice role="alert" { strong { "Open to others. " } (warning) }
                    }
                    @for part in &page.parts { (rendered(part)) }
                }
                footer {
                    p {
                        "Millrace " (VERSION) ". Times are UTC. " span #live role="status" {
                            @if live.is_some() { "As of its loading." }
                        }
                    }
                }
            }
        }
    }
}

pub(super) fn rendered(part: &Part) -> Markup {
    html! { section id=(part.id) { (part.body) } }
}

/// A form with one button that does one thing, after which the page at `back` is shown again.
pub(super) fn button(web: &Web, action: &str, label: &str, back: &str) -> Markup {
    if !web.guard.can_act() {
        return html! {};
    }
    html! {
        form method="post" action=(action) {
            input type="hidden" name="token" value=(super::api::token(web));
            input type="hidden" name="back" value=(back);
            button type="submit" { (label) }
        }
    }
}

/// The same for what can't be undone: it must be opened first.
pub(super) fn careful_button(web: &Web, action: &str, label: &str, what: &str, back: &str) -> Markup {
    if !web.guard.can_act() {
        return html! {};
    }
    html! {
        details.careful {
            summary { (label) "…" }
            p { (what) }
            (button(web, action, label, back))
        }
    }
}

/// Why there is no such page, as a page.
pub(super) fn problem(web: &Web, problem: &Problem) -> Response {
    let page = Page {
        title: problem.title.to_owned(),
        place: Place::Elsewhere,
        parts: vec![Part {
            id: "problem",
            body: html! { p.notice role="alert" { (problem.detail) } p { a href="/" { "To the cluster" } } },
        }],
        live: Live::Never,
    };
    (problem.code(), Html(document(web, &page, None).into_string())).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_keeps_what_it_does_not_change() {
        let view = View::of(
            [("workers".to_owned(), "-load".to_owned()), ("x&y".to_owned(), "a b".to_owned())].into(),
        );
        assert_eq!(view.with(&[("workers.page", Some("2"))]), "?workers=-load&workers.page=2&x%26y=a+b");
        assert_eq!(view.with(&[("workers", None)]), "?x%26y=a+b");
    }

    #[test]
    fn names_survive_their_way_through_a_path() {
        for name in ["worker-127.0.0.1-9000", "a b/ü+%", "<script>"] {
            assert_eq!(decoded(&encoded(name)), name);
        }
    }
}
