//! Bad events: what was refused or set aside, and why.

use maud::{Markup, html};

use super::{Live, Page, Part, Place, chart, encoded, words};
use crate::browse::bad::{BadEvents, BadGroup};
use crate::browse::text::visible;
use crate::snapshot::unix_now_ms;

pub(in crate::web) fn page(events: &BadEvents) -> Page {
    #[allow(clippy::cast_precision_loss, reason = "a sparkline")]
    let minutes: Vec<f64> = events.minutes.iter().map(|minute| minute.count as f64).collect();
    let body = html! {
        dl.summary {
            (words::term("Bad events", &html! { (words::count(events.total)) " offsets held by the invalid topics" }))
            (words::term("Read for this page", &html! { (words::count(events.read as u64)) ", the last of each partition" }))
            (words::term("By the minute", &chart::sparkline(&minutes, "bad events by the minute")))
        }
        @if events.groups.is_empty() {
            p.empty { "None was refused or set aside. " code { "millrace generate --invalid 0.01" } " sends some." }
        }
        @for group in &events.groups { (one(group)) }
    };
    Page {
        title: "Bad events".into(),
        place: Place::Bad,
        parts: vec![Part { id: "part-bad", body }],
        live: Live::Asking,
    }
}

fn one(group: &BadGroup) -> Markup {
    let now = unix_now_ms();
    html! {
        h2 {
            (words::count(group.count as u64)) " × " (visible(&group.reason))
            @if !group.field.is_empty() { " at " code { (visible(&group.field)) } }
        }
        p.quiet {
            "Set aside by the " (visible(&group.origin)) ", in " (group.topic)
            @if let Some(at) = group.last_at_ms.and_then(|at| u64::try_from(at).ok()) { ", last " (words::ago(at, now)) }
        }
        div.scroll tabindex="0" role="region" aria-label="Examples" { table {
            thead { tr { th.number scope="col" { "Offset" } th scope="col" { "What is wrong" } th scope="col" { "Came from" } th scope="col" { "Value" } } }
            tbody { @for example in &group.examples { tr {
                td.number { a href={ "/topics/" (encoded(&group.topic)) "/" (example.partition) "/" (example.offset) } { (example.partition) "@" (example.offset) } }
                td.wide { bdi { (visible(&example.message)) } }
                td { @match &example.source { Some(source) => (visible(source)), None => "–" } }
                td.wide { @match &example.value { Some(value) => { bdi { (value.line()) } @if value.is_cut { "…" } } None => "none" } }
            } } }
        } }
    }
}
