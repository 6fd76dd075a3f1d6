//! The front page: the cluster at a glance.

use maud::{Markup, html};

use super::table::{Column, Key, Table};
use super::{Live, Page, Part, Place, View, button, chart, encoded, slots, timeline, words};
use crate::web::Web;
use crate::web::flow::{Flow, Ledger, Stage};
use crate::web::model::{Cluster, MasterStatus, Pipeline, Slot, Worker, WorkerState};

/// Rows of a table that are shown at once.
const WORKERS: usize = 50;
const PIPELINES: usize = 25;
const SLOTS: usize = 50;
/// Pipelines whose partitions stand on the front page; the others' stand on their own pages.
const MAPS: usize = 3;
/// Slots that are named in a worker's row.
const NAMED: usize = 8;

pub(super) fn page(web: &Web, cluster: &Cluster, view: &View) -> Page {
    Page {
        title: format!("Millrace Master at {}", cluster.url),
        place: Place::Cluster,
        parts: vec![
            Part { id: "part-summary", body: summary(cluster) },
            Part { id: "part-flow", body: flow(&web.history.flow()) },
            Part { id: "part-workers", body: workers(web, cluster, view) },
            Part { id: "part-pipelines", body: pipelines(cluster, view) },
            Part { id: "part-map", body: maps(web, cluster, view) },
            Part { id: "part-moves", body: timeline::moves(cluster, cluster.moves.iter().collect(), view) },
            Part { id: "part-failovers", body: timeline::failovers(web, cluster, view) },
        ],
        live: Live::Always,
    }
}

fn summary(cluster: &Cluster) -> Markup {
    let totals = cluster.totals();
    let halted: usize = cluster.pipelines.iter().map(|pipeline| pipeline.slots_halted).sum();
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
        @if halted > 0 {
            p.notice role="alert" {
                strong { (halted) " halted. " }
                "Sort the partition map by state to see which, and what to do; then `millrace resume PIPELINE`."
            }
        }
        dl.summary {
            (words::term("URL", &html! { (cluster.url) }))
            (words::term("REST URL", &html! { (cluster.rest_url) }))
            (words::term("Workers", &html! { (totals.alive) " Alive, " (totals.dead) " Dead, " (totals.draining) " Decommissioned, " (totals.unknown) " Unknown" }))
            (words::term("Cores in use", &html! { (totals.cores) " Total, " (totals.cores_used) " Used" }))
            (words::term("Memory in use", &html! {
                (words::bytes(totals.memory_mib << 20)) " Total, " (words::bytes(totals.memory_used_bytes)) " Used"
            }))
            (words::term("Pipelines", &html! { (cluster.pipelines.len()) " Running, " (cluster.completed.len()) " Completed" }))
            (words::term("Status", &words::state(cluster.status.word())))
        }
    }
}

/// From what was received to the sinks.
fn flow(flow: &Flow) -> Markup {
    html! {
        h2 { "Flow" }
        ol.flow {
            li title="valid, and refused at the door: what the invalid topics rise by, without what workers set aside" {
                strong { "Received" }
                span.big { (flow.received_per_second.map_or("–".to_owned(), words::rate)) " records/s" }
                span { "valid and refused" }
            }
            @for stage in &flow.stages { (stage_box(stage)) @if stage.stage == "raw" { (invalid_box(flow)) } }
        }
        (ledger(&flow.ledger))
    }
}

fn stage_box(stage: &Stage) -> Markup {
    let name = match stage.stage {
        "raw" => "Valid, in raw topics",
        "enriched" => "Enriched topics",
        _ => "Lakes",
    };
    html! {
        li {
            strong { (name) }
            span.big { (words::rate(stage.records_per_second)) " records/s" }
            @if stage.stage == "raw" {
                span { (words::short(stage.passed)) " offsets written" }
            } @else {
                span { (words::short(stage.behind)) " records behind" }
                span title="of the slowest partition: how old 99 of 100 records at most were when they were held here" {
                    "freshness p99 " @match stage.freshness_p99_ms { Some(age) => (words::span(age)), None => "–" }
                }
                span title="of the slots that have something to do, the one that committed longest ago" {
                    "oldest commit " @match stage.oldest_commit_age_ms {
                        Some(age) => { (words::span(age)) " ago" }
                        None => "–",
                    }
                }
            }
        }
    }
}

fn invalid_box(flow: &Flow) -> Markup {
    html! {
        li.aside title="offsets of the invalid topics; the markers of workers' transactions count" {
            strong { a href="/bad-events" { "Invalid" } }
            span.big { (flow.invalid_per_second.map_or("–".to_owned(), words::rate)) " records/s" }
            span { @match flow.invalid_offsets { Some(offsets) => (words::short(offsets)), None => "–" } " offsets written" }
        }
    }
}

/// Where each record is.
fn ledger(ledger: &Ledger) -> Markup {
    html! {
        @if ledger.passed > 0 {
            p.ledger title="of the present owners, each since it opened its partition; Verify accounts for all offsets" {
                strong { "Ledger " }
                @if ledger.no_records < 0 { (words::state("wrong")) " " }
                (words::short(ledger.passed)) " passed = " (words::short(ledger.enriched)) " enriched + "
                (words::short(ledger.quarantined)) " quarantined + " (words::short(ledger.client_duplicates))
                " client duplicates + " (words::short(ledger.filtered)) " filtered"
                @if ledger.no_records != 0 { " + " (words::count(ledger.no_records)) " that are no records" }
                "; " (words::short(ledger.in_flight)) " in flight. Lakes: " (words::short(ledger.lake_rows)) " rows + "
                (words::short(ledger.buffered_rows)) " buffered."
            }
        }
    }
}

fn workers(web: &Web, cluster: &Cluster, view: &View) -> Markup {
    let now = cluster.at_ms;
    let mut rows: Vec<&Worker> = cluster.workers.iter().collect();
    rows.sort_by_key(|worker| worker.state == WorkerState::Dead);
    let has_zones = rows.iter().any(|worker| worker.zone.is_some());
    let mut columns = vec![
        Column::text(
            "id",
            "Worker Id",
            |worker: &Worker| Key::text(&worker.id),
            |worker| {
                html! {
                    a href={ "/workers/" (encoded(&worker.id)) } { (worker.id) }
                }
            },
        ),
        Column::number(
            "pid",
            "Pid",
            |worker: &Worker| Key::count(worker.pid.into()),
            |worker| html! { (worker.pid) },
        ),
        Column::text(
            "address",
            "Address",
            |worker: &Worker| Key::text(&worker.address),
            |worker| html! { (worker.address) },
        ),
        Column::text(
            "state",
            "State",
            |worker: &Worker| Key::text(worker.state.word()),
            |worker| words::state(worker.state.word()),
        ),
        Column::number(
            "cores",
            "Cores",
            |worker: &Worker| Key::count(worker.cores.into()),
            |worker| {
                html! {
                    (worker.cores) " (" (worker.cores_used) " Used)"
                }
            },
        ),
        Column::number(
            "memory",
            "Memory",
            |worker: &Worker| Key::count(worker.memory_used_bytes),
            |worker| {
                html! {
                    (words::bytes(worker.memory_mib << 20)) " (" (words::bytes(worker.memory_used_bytes)) " Used)"
                }
            },
        ),
        Column::number(
            "heartbeat",
            "Heartbeat",
            |worker: &Worker| Key::count(worker.heartbeat_age_ms),
            move |worker| words::ago(worker.last_heartbeat_at_ms, now),
        ),
        Column::number(
            "rate",
            "Records/s",
            |worker: &Worker| Key::Number(worker.records_per_second),
            |worker| {
                html! {
                    (words::rate(worker.records_per_second))
                }
            },
        ),
        Column::plain("2 minutes", |worker: &Worker| {
            chart::sparkline(
                &web.history.worker(&worker.id).records_per_second,
                "records a second, two minutes",
            )
        }),
        Column::number(
            "load",
            "Load",
            |worker: &Worker| Key::count(worker.load_percent.into()),
            |worker| {
                html! {
                    (worker.load_percent) " %"
                }
            },
        ),
        Column::number(
            "speed",
            "Speed",
            |worker: &Worker| Key::count(worker.speed_percent.into()),
            |worker| {
                html! {
                    (worker.speed_percent) " %"
                }
            },
        ),
    ];
    if has_zones {
        columns.push(Column::text(
            "zone",
            "Zone",
            |worker: &Worker| Key::text(worker.zone.clone().unwrap_or_default()),
            |worker| html! { (worker.zone.as_deref().unwrap_or("–")) },
        ));
    }
    columns.push(Column::number(
        "slots",
        "Partitions",
        |worker: &Worker| Key::count(worker.slots.len() as u64),
        partitions,
    ));
    Table {
        id: "workers",
        heading: "Workers".into(),
        empty: html! {
            "No worker yet. Start one with: " code { "millrace worker --master " (cluster.url.trim_start_matches("millrace://")) }
        },
        columns,
        rows,
        rows_a_page: WORKERS,
    }
    .render(view)
}

fn partitions(worker: &Worker) -> Markup {
    html! {
        @if !worker.slots.is_empty() {
            span title={ "at most " (worker.max_slots) } { (worker.slots.len()) ": " }
            @for (index, slot) in worker.slots.iter().take(NAMED).enumerate() { @if index > 0 { ", " } (slot) }
            @if worker.slots.len() > NAMED { ", …" }
        }
        @if let Some(reason) = &worker.idle_reason { em { "idle: " (reason) } }
        @if let Some(what) = &worker.waiting_for { " " em { "waiting for " (what) } }
    }
}

fn pipelines(cluster: &Cluster, view: &View) -> Markup {
    html! {
        (pipeline_table("pipelines", "Running Pipelines", cluster, &cluster.pipelines, "No pipeline yet. Submit one with: millrace submit FILE.toml", view))
        (pipeline_table("completed", "Completed Pipelines", cluster, &cluster.completed, "None was killed.", view))
    }
}

fn pipeline_table(
    id: &'static str,
    heading: &str,
    cluster: &Cluster,
    pipelines: &[Pipeline],
    empty: &str,
    view: &View,
) -> Markup {
    let now = cluster.at_ms;
    Table {
        id,
        heading: heading.to_owned(),
        empty: html! { (empty) },
        columns: vec![
            Column::text(
                "id",
                "Pipeline ID",
                |row: &Pipeline| Key::text(&row.id),
                |row| {
                    html! {
                        a href={ "/pipelines/" (encoded(&row.id)) } { (row.id) }
                    }
                },
            ),
            Column::text("name", "Name", |row: &Pipeline| Key::text(&row.name), |row| html! { (row.name) }),
            Column::text(
                "state",
                "State",
                |row: &Pipeline| Key::text(row.state),
                |row| words::state(row.state),
            ),
            Column::number(
                "running",
                "Running",
                |row: &Pipeline| Key::count(row.slots_running as u64),
                |row| {
                    html! {
                        (row.slots_running) " of " (row.slots)
                        @if row.slots_halted > 0 { ", " (row.slots_halted) " halted" }
                    }
                },
            ),
            Column::number(
                "lag",
                "Lag",
                |row: &Pipeline| Key::count(row.lag.unwrap_or(0)),
                |row| {
                    html! {
                        @match row.lag { Some(lag) => (words::short(lag)), None => "–" }
                    }
                },
            ),
            Column::number(
                "rate",
                "Records/s",
                |row: &Pipeline| Key::Number(row.records_per_second),
                |row| {
                    html! {
                        (words::rate(row.records_per_second))
                    }
                },
            ),
            Column::number(
                "weight",
                "Weight",
                |row: &Pipeline| Key::count(row.weight.into()),
                |row| html! { (row.weight) },
            ),
            Column::text(
                "source",
                "Source",
                |row: &Pipeline| Key::text(row.source_topics.join(", ")),
                |row| html! { (row.source_topics.join(", ")) },
            ),
            Column::text(
                "transform",
                "Transform",
                |row: &Pipeline| Key::text(&row.transform),
                |row| html! { (row.transform) },
            ),
            Column::text(
                "submitted",
                "Submitted Time",
                |row: &Pipeline| Key::count(row.submitted_at_ms),
                move |row| words::time(row.submitted_at_ms, now),
            ),
            Column::text("user", "User", |row: &Pipeline| Key::text(&row.user), |row| html! { (row.user) }),
            Column::number(
                "duration",
                "Duration",
                |row: &Pipeline| Key::count(row.duration_ms),
                |row| html! { (words::span(row.duration_ms)) },
            ),
            Column::plain(
                "Waiting for",
                |row: &Pipeline| html! { (row.waiting_for.as_deref().unwrap_or("")) },
            ),
        ],
        rows: pipelines.iter().collect(),
        rows_a_page: PIPELINES,
    }
    .render(view)
}

/// A table of partitions for each pipeline, of the first few.
fn maps(web: &Web, cluster: &Cluster, view: &View) -> Markup {
    let own = |pipeline: &Pipeline| -> Vec<&Slot> {
        cluster.slots.iter().filter(|slot| slot.pipeline == pipeline.id).collect()
    };
    html! {
        @for (number, pipeline) in cluster.pipelines.iter().take(MAPS).enumerate() {
            (slots::map(web, &format!("map{number}"), format!("Partitions of {}", pipeline.id), own(pipeline), view, SLOTS))
        }
        @if cluster.pipelines.len() > MAPS {
            p { "The partitions of the other pipelines stand on their pages: see Running Pipelines." }
        }
        @if cluster.pipelines.iter().any(|pipeline| pipeline.state == "RUNNING") {
            div.actions {
                a href="/rebalance" { "What would move now, and why" }
                (button(web, "/act/rebalance", "Even the load out now", "/"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::web::example;
    use crate::web::ui::document;

    async fn shown(cluster: &Cluster) -> String {
        let web = example::web().await;
        document(&web, &page(&web, cluster, &View::default()), Some("/live/")).into_string()
    }

    #[tokio::test]
    async fn the_page_says_what_sparks_says() {
        let page = shown(&example::cluster()).await;
        for words in [
            "<title>Millrace Master at millrace://127.0.0.1:7077</title>",
            "1 Alive, 1 Dead, 0 Decommissioned, 0 Unknown",
            "2 Total, 1 Used",
            "2 (1 Used)",
            "Cores in use",
            "Memory in use",
            "ALIVE",
            "halted (offsets_lost)",
            "connection refused",
            "Running Pipelines (1)",
            "Completed Pipelines (1)",
            "Partitions of clickstream-1 (2)",
            "KILLED",
            "its last 2 owners were lost without moving it",
        ] {
            assert!(page.contains(words), "{words} is missing in {page}");
        }
        assert!(!page.contains("style=") && !page.contains(" onclick"), "nothing that the policy forbids");
    }

    #[tokio::test]
    async fn hostile_text_is_shown_and_never_run() {
        let mut cluster = example::cluster();
        let hostile = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>\u{202e}\u{0}";
        cluster.workers[0].id = hostile.into();
        cluster.workers[0].zone = Some(hostile.into());
        cluster.workers[0].address = format!("\"onmouseover=alert(1) {hostile}");
        cluster.workers[1].idle_reason = Some(hostile.into());
        cluster.pipelines[0].name = hostile.into();
        cluster.slots[0].waiting_for = Some(hostile.into());
        cluster.slots[0].last_object = Some(hostile.into());
        cluster.slots[0].owner = Some(hostile.into());
        cluster.moves[0].reason = hostile.into();
        cluster.failovers[0].worker = hostile.into();
        cluster.waiting_for = Some(hostile.into());
        let page = shown(&cluster).await;
        assert!(page.contains("&lt;script&gt;"));
        assert!(!page.contains("<script>") && !page.contains("<img") && !page.contains("\"onmouseover"));
    }

    /// `--nocapture` prints how long it took; beside it stands the look at the cluster.
    #[tokio::test]
    async fn tables_fold_however_large_the_cluster() {
        let small = example::cluster();
        let mut large = small.clone();
        let (worker, slot) = (&small.workers[0], &small.slots[0]);
        large.workers = (0..1_000).map(|n| Worker { id: format!("worker-{n}"), ..worker.clone() }).collect();
        large.slots = (0..6_000)
            .map(|n| Slot {
                slot: format!("clickstream-1/0-{n}"),
                partition: n,
                owner: Some(format!("worker-{}", n % 1_000)),
                ..slot.clone()
            })
            .collect();
        for (name, cluster, most) in
            [("small", &small, 150 << 10), ("1,000 workers, 6,000 slots", &large, 300 << 10)]
        {
            let begun = std::time::Instant::now();
            let bytes = shown(cluster).await.len();
            println!("{name}: {bytes} bytes in {:?}", begun.elapsed());
            assert!(bytes < most, "{name}: {bytes} bytes");
        }
    }
}
