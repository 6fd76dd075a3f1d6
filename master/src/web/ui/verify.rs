//! Verify now, its progress, and what it found.

use maud::{Markup, html};
use serde_json::Value;

use super::{Live, Page, Part, Place, View, words};
use crate::browse::text::visible;
use crate::web::Web;
use crate::web::api::token;
use crate::web::model::Cluster;
use crate::web::verify::Run;

/// The ledger's lines, by their names in the report.
const LINES: [(&str, &str); 10] = [
    ("raw_records", "Raw records"),
    ("in_lake", "In the lake"),
    ("on_topic", "On the enriched topic"),
    ("quarantined", "Quarantined"),
    ("client_duplicates", "Client duplicates"),
    ("filtered", "Filtered"),
    ("in_flight", "In flight"),
    ("missing", "Missing"),
    ("duplicates", "Doubled"),
    ("altered", "Altered"),
];

pub(in crate::web) fn page(web: &Web, cluster: &Cluster, _view: &View) -> Page {
    let runs = web.verifications.runs();
    let is_running = runs.first().is_some_and(|run| run.ended_at_ms.is_none());
    Page {
        title: "Verify".into(),
        place: Place::Verify,
        parts: vec![
            Part { id: "part-begin", body: begin(web, cluster, is_running) },
            Part {
                id: "part-runs",
                body: html! {
                    @if runs.is_empty() {
                        p.empty { "Nothing was verified since this master began. Choose a pipeline above: every offset of its topics is then looked for in its sinks." }
                    }
                    @for run in &runs { (shown(run, cluster.at_ms)) }
                },
            },
        ],
        live: Live::Always,
    }
}

fn begin(web: &Web, cluster: &Cluster, is_running: bool) -> Markup {
    let all = cluster.pipelines.iter().chain(&cluster.completed);
    html! {
        p { "Reads the raw topics, the enriched topics and the lake themselves, and believes no counter: is every record there, once, unaltered?" }
        @for pipeline in all.take(50).filter(|_| web.guard.can_act()) {
            form.fields method="post" action="/act/verify" {
                input type="hidden" name="token" value=(token(web));
                input type="hidden" name="pipeline" value=(pipeline.id);
                button type="submit" disabled[is_running] { "Verify " (pipeline.name) " now" }
            }
        }
        @if cluster.pipelines.is_empty() && cluster.completed.is_empty() { p.empty { "There is no pipeline to verify." } }
    }
}

fn shown(run: &Run, now: u64) -> Markup {
    html! {
        h2 { "Run " (run.number) ": " (run.pipeline) " " @match run.clean {
            Some(true) => (words::state("clean")),
            Some(false) => (words::state("wrong")),
            None => {},
        } }
        p.quiet {
            "Begun " (words::ago(run.begun_at_ms, now))
            @if let Some(ended) = run.ended_at_ms { ", took " (words::span(ended.saturating_sub(run.begun_at_ms))) }
        }
        @if run.ended_at_ms.is_none() {
            p role="status" {
                @if run.of > 0 { progress max=(run.of) value=(run.done.min(run.of)) aria-label="Verified" {} " " (words::count(run.done)) " of about " (words::count(run.of)) ", " }
                @else { progress aria-label="Verified" {} " " }
                (visible(&run.stage))
            }
        }
        @if let Some(failure) = &run.failure { p.notice role="alert" { (visible(failure)) } }
        @if let Some(report) = &run.report { (ledger(report)) }
    }
}

fn ledger(report: &Value) -> Markup {
    let findings = report["findings"].as_object();
    html! {
        dl.summary { @for (name, title) in LINES {
            @if let Some(count) = report[name].as_u64() { (words::term(title, &html! { (words::count(count)) })) }
        } }
        @for note in report["notes"].as_array().into_iter().flatten().filter_map(Value::as_str).take(20) { p.quiet { (visible(note)) } }
        @if report["clean"] == false {
            @if let Some(findings) = findings {
                ul.halts { @for (name, finding) in findings.iter().filter(|(_, finding)| finding["count"].as_u64() != Some(0)) {
                    li { strong { (name) " " (finding["count"].as_u64().unwrap_or(0)) } " "
                        @for example in finding["examples"].as_array().into_iter().flatten().take(3) { (visible(&example.to_string())) " " } }
                } }
            }
        }
    }
}
