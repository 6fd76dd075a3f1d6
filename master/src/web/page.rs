//! The status page: server-rendered, readable without script, reloading itself. Everything that came from outside is
//! a text node.

use maud::{DOCTYPE, Markup, html};
use millrace_common::units::format_bytes;

use super::model::{Cluster, Failover, MasterStatus, Move, Pipeline, Slot, SlotState, Worker, WorkerState};

pub(crate) const STYLE: &str = include_str!("style.css");
/// How often the page reloads itself, in seconds.
const RELOAD: u32 = 2;
/// Moves that are shown; `/api/v1/moves` has all that are kept.
const MOVES: usize = 20;

pub(crate) fn page(cluster: &Cluster) -> Markup {
    let title = format!("Millrace Master at {}", cluster.url);
    html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width, initial-scale=1";
                meta http-equiv="refresh" content=(RELOAD);
                title { (title) }
                link rel="stylesheet" href="/style.css";
            }
            body {
                header { h1 { (title) } }
                main {
                    (summary(cluster))
                    (workers(cluster))
                    (pipelines(cluster))
                    (partition_maps(cluster))
                    (moves(cluster))
                    (failovers(cluster))
                }
                footer {
                    p {
                        "Also: " a href="/json/" { "/json/" } " " a href="/api/v1/workers" { "/api/v1/workers" } " "
                        a href="/api/v1/slots" { "/api/v1/slots" } " " a href="/api/v1/pipelines" { "/api/v1/pipelines" } " "
                        a href="/api/v1/moves" { "/api/v1/moves" } " " a href="/api/v1/failovers" { "/api/v1/failovers" } " "
                        a href="/metrics" { "/metrics" }
                        ". Times are UTC; this page reloads every " (RELOAD) " s."
                    }
                }
            }
        }
    }
}

fn summary(cluster: &Cluster) -> Markup {
    let totals = cluster.totals();
    html! {
        @if let Some(waiting_for) = &cluster.waiting_for {
            p.notice role="status" { strong { "Waiting for " } (waiting_for) }
        }
        @if cluster.status == MasterStatus::Standby {
            p.notice role="status" {
                strong { "This master stands by. " }
                @match &cluster.leader {
                    Some(leader) => { "The cluster is on the leader's page: " a href=(leader) { (leader) } }
                    None => { "No master leads yet: one of them will in a moment." }
                }
            }
        }
        dl.summary {
            (term("URL", &html! { (cluster.url) }))
            (term("REST URL", &html! { (cluster.rest_url) }))
            (term("Workers", &html! { (totals.alive) " Alive, " (totals.dead) " Dead, " (totals.unknown) " Unknown, " (totals.draining) " Draining" }))
            (term("Cores in use", &html! { (totals.cores) " Total, " (totals.cores_used) " Used" }))
            (term("Memory in use", &html! {
                (format_bytes(totals.memory_mib << 20)) " Total, " (format_bytes(totals.memory_used_bytes)) " Used"
            }))
            (term("Pipelines", &html! { (cluster.pipelines.len()) " Running, " (cluster.completed.len()) " Completed" }))
            (term("Status", &html! { strong { (cluster.status.word()) } }))
        }
    }
}

fn term(name: &str, value: &Markup) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// A table below a heading that counts its rows; `empty` stands there when it has none.
fn section(heading: &str, count: usize, empty: &str, columns: &[&str], rows: &Markup) -> Markup {
    html! {
        section {
            h2 { (heading) " (" (count) ")" }
            @if count == 0 {
                p.empty { (empty) }
            } @else {
                div.scroll tabindex="0" role="region" aria-label=(heading) {
                    table {
                        thead { tr { @for column in columns { th scope="col" { (column) } } } }
                        tbody { (rows) }
                    }
                }
            }
        }
    }
}

fn workers(cluster: &Cluster) -> Markup {
    let mut sorted: Vec<&Worker> = cluster.workers.iter().collect();
    sorted.sort_by_key(|worker| worker.state == WorkerState::Dead);
    let rows = html! { @for worker in sorted { (worker_row(worker)) } };
    section(
        "Workers",
        cluster.workers.len(),
        "No worker yet. Start one with: millrace worker --master HOST:PORT (the URL above).",
        &["Worker Id", "Pid", "Address", "State", "Cores", "Memory", "Heartbeat", "Partitions"],
        &rows,
    )
}

fn worker_row(worker: &Worker) -> Markup {
    html! {
        tr {
            td.id {
                @if worker.state.is_live() {
                    a href=(format!("http://{}/metrics", worker.address)) rel="noreferrer" { (worker.id) }
                } @else { (worker.id) }
            }
            td.number { (worker.pid) }
            td { (worker.address) }
            td { span class=(format!("state {}", worker.state.word())) { (worker.state.word()) } }
            td { (worker.cores) " (" (worker.cores_used) " Used)" }
            td { (format_bytes(worker.memory_mib << 20)) " (" (format_bytes(worker.memory_used_bytes)) " Used)" }
            td.number { (span(worker.heartbeat_age_ms)) " ago" }
            td {
                @for (index, slot) in worker.slots.iter().enumerate() { @if index > 0 { ", " } (slot) }
                @if let Some(reason) = &worker.idle_reason { em { "idle: " (reason) } }
                @if let Some(what) = &worker.waiting_for { " " em { "waiting for " (what) } }
            }
        }
    }
}

/// A table of partitions for each pipeline that has some.
fn partition_maps(cluster: &Cluster) -> Markup {
    html! { @for pipeline in &cluster.pipelines { (partition_map(cluster, pipeline)) } }
}

fn partition_map(cluster: &Cluster, pipeline: &Pipeline) -> Markup {
    let own = || cluster.slots.iter().filter(|slot| slot.pipeline == pipeline.id);
    let rows = html! { @for slot in own() { (slot_row(slot)) } };
    section(
        &format!("Partitions of {}", pipeline.id),
        own().count(),
        "No partition is known yet.",
        &[
            "Topic",
            "Partition",
            "Owner",
            "Epoch",
            "State",
            "Topic cursor",
            "Lake cursor",
            "End",
            "Lag",
            "Records/s",
            "Buffered",
            "Quarantined",
            "Client duplicates",
            "Filtered",
            "Last object in the lake",
            "Waiting for",
        ],
        &rows,
    )
}

fn slot_row(slot: &Slot) -> Markup {
    html! {
        tr {
            td { (slot.topic) }
            td.number { (slot.partition) }
            td.id { @match &slot.owner { Some(owner) => (owner), None => em { "nobody" } } }
            td.number { (slot.epoch) }
            td { span class=(format!("state {}", slot.state.word())) { (slot.state.word()) } }
            td.number { (number(slot.topic_cursor)) }
            td.number { (number(slot.lake_cursor)) }
            td.number { (number(slot.end)) }
            td.number { (number(slot.lag)) }
            td.number { @if slot.state == SlotState::Running { (format!("{:.0}", slot.records_per_second)) } @else { "–" } }
            td.number { (slot.buffered_rows) " rows, " (format_bytes(slot.buffered_bytes)) }
            td.number { (slot.records_quarantined) }
            td.number { (slot.client_duplicates) }
            td.number { (slot.records_filtered) }
            td.object { @if let Some(object) = &slot.last_object { (object) } @else { "–" } }
            td {
                @if let Some(halt) = &slot.halt { strong { "halted (" (halt.kind) "): " } (halt.detail) }
                @if let Some(waiting_for) = &slot.waiting_for { (waiting_for) }
                @if slot.deaths > 0 { " " em { "its last " (slot.deaths) " owners were lost without moving it" } }
            }
        }
    }
}

fn pipelines(cluster: &Cluster) -> Markup {
    html! {
        (pipeline_table("Running Pipelines", &cluster.pipelines, "No pipeline yet. Submit one with: millrace submit FILE.toml"))
        (pipeline_table("Completed Pipelines", &cluster.completed, "None was killed."))
    }
}

fn pipeline_table(heading: &str, pipelines: &[Pipeline], empty: &str) -> Markup {
    let row = |pipeline: &Pipeline| {
        html! {
            tr {
                td.id { a href=(format!("/api/v1/pipelines/{}", pipeline.id)) { (pipeline.id) } }
                td { (pipeline.name) }
                td { span class=(format!("state {}", pipeline.state)) { (pipeline.state) } }
                td { (pipeline.slots_running) " of " (pipeline.slots) }
                td.number { (number(pipeline.lag)) }
                td { (pipeline.source_topics.join(", ")) }
                td { (pipeline.transform) }
                td { (pipeline.enriched_topic.as_deref().unwrap_or("–")) }
                td { (pipeline.lake.as_deref().unwrap_or("–")) }
                td { (time(pipeline.submitted_at_ms)) }
                td { (pipeline.user) }
                td.number { (span(pipeline.duration_ms)) }
                td { (pipeline.waiting_for.as_deref().unwrap_or("")) }
            }
        }
    };
    section(
        heading,
        pipelines.len(),
        empty,
        &[
            "ID",
            "Name",
            "State",
            "Partitions running",
            "Lag",
            "Source",
            "Transform",
            "Enriched topic",
            "Lake",
            "Submitted Time",
            "User",
            "Duration",
            "Waiting for",
        ],
        &html! { @for pipeline in pipelines { (row(pipeline)) } },
    )
}

fn moves(cluster: &Cluster) -> Markup {
    let row = |moved: &Move| {
        html! {
            tr {
                td { (time(moved.at_ms)) }
                td { (moved.slot) }
                td { (moved.from.as_deref().unwrap_or("–")) }
                td { (moved.to) }
                td.number { (moved.epoch) }
                td.number { @match moved.pause_ms { Some(pause) => (span(pause)), None => "–" } }
                td { (moved.reason) }
            }
        }
    };
    section(
        "Recent moves",
        cluster.moves.len().min(MOVES),
        "Nothing has moved.",
        &["Time", "Slot", "From", "To", "Epoch", "Pause", "Reason"],
        &html! { @for moved in cluster.moves.iter().take(MOVES) { (row(moved)) } },
    )
}

fn failovers(cluster: &Cluster) -> Markup {
    let after = |from: u64, to: Option<u64>| to.map_or("–".to_owned(), |to| span(to.saturating_sub(from)));
    let row = |lost: &Failover| {
        html! {
            tr {
                td { (lost.worker) }
                td.number { (lost.pid) }
                td { (lost.reason) }
                td { (time(lost.lost_at_ms)) }
                td.number { (after(lost.lost_at_ms, Some(lost.detected_at_ms))) }
                td.number { (after(lost.lost_at_ms, lost.reassigned_at_ms)) }
                td.number { (after(lost.lost_at_ms, lost.first_commit_at_ms)) }
                td { @for (index, lost) in lost.slots.iter().enumerate() { @if index > 0 { ", " } (lost.slot) } }
            }
        }
    };
    section(
        "Lost workers",
        cluster.failovers.len(),
        "No worker was lost.",
        &[
            "Worker Id",
            "Pid",
            "Reason",
            "Last heard",
            "Detected after",
            "Reassigned after",
            "First commit after",
            "Slots",
        ],
        &html! { @for lost in &cluster.failovers { (row(lost)) } },
    )
}

fn number(value: Option<impl std::fmt::Display>) -> String {
    value.map_or("–".to_owned(), |value| value.to_string())
}

/// A span as people say it: `730 ms`, `4.2 s`, `3 min`.
fn span(ms: u64) -> String {
    match ms {
        0..1_000 => format!("{ms} ms"),
        1_000..60_000 => format!("{}.{} s", ms / 1_000, ms % 1_000 / 100),
        60_000..7_200_000 => format!("{} min", ms / 60_000),
        _ => format!("{} h", ms / 3_600_000),
    }
}

fn time(at_ms: u64) -> String {
    i64::try_from(at_ms)
        .ok()
        .and_then(chrono::DateTime::from_timestamp_millis)
        .map_or("–".to_owned(), |at| at.format("%Y-%m-%d %H:%M:%S%.3f").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::example::cluster;

    #[test]
    fn the_page_says_what_sparks_says() {
        let page = page(&cluster()).into_string();
        for words in [
            "<title>Millrace Master at millrace://127.0.0.1:7077</title>",
            "1 Alive, 1 Dead",
            "2 Total, 1 Used",
            "2 (1 Used)",
            "2.0 GiB (1.5 MiB Used)",
            "ALIVE",
            "halted (offsets_lost)",
            "connection refused",
            "Running Pipelines (1)",
            "Completed Pipelines (1)",
            "KILLED",
            "its last 2 owners were lost without moving it",
        ] {
            assert!(page.contains(words), "{words} is missing");
        }
    }

    #[test]
    fn hostile_text_is_shown_and_never_run() {
        let mut cluster = cluster();
        let hostile = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>";
        cluster.workers[0].id = hostile.into();
        cluster.workers[0].address = format!("\"onmouseover=alert(1) {hostile}");
        cluster.workers[1].idle_reason = Some(hostile.into());
        cluster.slots[0].waiting_for = Some(hostile.into());
        cluster.slots[0].last_object = Some(hostile.into());
        cluster.moves[0].reason = hostile.into();
        cluster.waiting_for = Some(hostile.into());
        let page = page(&cluster).into_string();
        assert!(page.contains("&lt;script&gt;"));
        assert!(!page.contains("<script") && !page.contains("<img") && !page.contains("\"onmouseover"));
    }
}
