//! A worker's page: its slots, its load, its last two minutes.

use maud::{Markup, html};

use super::{Live, Page, Part, Place, View, button, careful_button, chart, encoded, slots, timeline, words};
use crate::web::Web;
use crate::web::api::{WorkerDetail, worker_detail};
use crate::web::model::{Cluster, Move, WorkerState};
use crate::web::problem::Problem;

const SLOTS: usize = 100;

pub(super) fn page(web: &Web, cluster: &Cluster, id: &str, view: &View) -> Result<Page, Problem> {
    let detail = worker_detail(web, cluster, id)?;
    let own = |moved: &&Move| moved.to == id || moved.from.as_deref() == Some(id);
    Ok(Page {
        title: format!("Worker {id}"),
        place: Place::Elsewhere,
        parts: vec![
            Part { id: "part-worker", body: summary(web, cluster, &detail) },
            Part { id: "part-history", body: history(&detail) },
            Part {
                id: "part-map",
                body: slots::map(
                    web,
                    "map",
                    "Partitions".into(),
                    detail.running.iter().collect(),
                    view,
                    SLOTS,
                ),
            },
            Part {
                id: "part-moves",
                body: timeline::moves(cluster, cluster.moves.iter().filter(own).collect(), view),
            },
        ],
        live: Live::Always,
    })
}

fn summary(web: &Web, cluster: &Cluster, detail: &WorkerDetail) -> Markup {
    let worker = &detail.worker;
    let buffered: u64 = detail.running.iter().map(|slot| slot.buffered_bytes).sum();
    let path = format!("/workers/{}", encoded(&worker.id));
    html! {
        p { a href="/" { "Back to the master " (cluster.url) } }
        @if let Some(reason) = &worker.idle_reason { p.notice role="status" { strong { "Idle: " } (reason) } }
        @if let Some(what) = &worker.waiting_for { p.notice role="status" { strong { "Waiting for " } (what) } }
        dl.summary {
            (words::term("ID", &html! { (worker.id) }))
            (words::term("State", &words::state(worker.state.word())))
            (words::term("Pid", &html! { (worker.pid) " on " (worker.host) }))
            (words::term("Address", &html! { (worker.address) }))
            (words::term("Rows by Arrow Flight", &html! { "grpc://" (worker.host) ":" (worker.port) }))
            (words::term("Heartbeat", &words::ago(worker.last_heartbeat_at_ms, cluster.at_ms)))
            (words::term("Cores", &html! { (worker.cores) " (" (worker.cores_used) " Used)" }))
            (words::term("Memory", &html! {
                (words::bytes(worker.memory_mib << 20)) " (" (words::bytes(worker.memory_used_bytes)) " Used) "
                (chart::meter(worker.memory_used_bytes, worker.memory_mib << 20, "memory used of its budget"))
            }))
            (words::term("Resident", &html! { @match worker.resident_bytes { Some(bytes) => (words::bytes(bytes)), None => "–" } }))
            (words::term("Open files", &words::bytes(buffered)))
            (words::term("Partitions", &html! { (worker.slots.len()) " of at most " (worker.max_slots) }))
            (words::term("Records/s", &html! { (words::rate(worker.records_per_second)) }))
            (words::term("Lag", &words::short(worker.lag)))
            (words::term("Load", &html! { (worker.load_percent) " % of a core, on each core" }))
            (words::term("Speed", &html! { (worker.speed_percent) " % of what is usual here" }))
            (words::term("Zone", &html! { (worker.zone.as_deref().unwrap_or("–")) }))
            (words::term("Version", &html! { (worker.version) }))
        }
        div.actions {
            @match worker.state {
                WorkerState::Alive => (careful_button(web, &format!("/act/drain/{}", encoded(&worker.id)), "Drain",
                    "Its partitions go to other workers, a few at a time, and it gets none until it is recommissioned.", &path)),
                WorkerState::Draining | WorkerState::Drained => (button(web, &format!("/act/recommission/{}", encoded(&worker.id)), "Recommission", &path)),
                WorkerState::Suspect | WorkerState::Unknown | WorkerState::Dead => {}
            }
            @if worker.state.is_live() {
                a href={ (path) "/log" } { "Its log" }
                a href={ "http://" (worker.address) "/metrics" } rel="noreferrer" { "Its metrics" }
            }
        }
    }
}

fn history(detail: &WorkerDetail) -> Markup {
    let history = &detail.history;
    let figure = |name: &str, now: Markup, line: Markup| {
        html! { figure { figcaption { (name) " " strong { (now) } } (line) } }
    };
    html! {
        h2 { "Last two minutes" }
        div.charts {
            (figure("Records/s", html! { (words::rate(detail.worker.records_per_second)) }, chart::sparkline(&history.records_per_second, "records a second")))
            (figure("CPU of its slots", html! { (format!("{:.2}", detail.worker.cpu)) " cores" }, chart::sparkline(&history.cpu, "cores that its slots hold")))
            (figure("Memory", words::bytes(detail.worker.memory_used_bytes), chart::sparkline(&history.memory_used_bytes, "memory of its buffers")))
            (figure("Resident", html! { @match detail.worker.resident_bytes { Some(bytes) => (words::bytes(bytes)), None => "–" } },
                chart::sparkline(&history.resident_bytes, "memory of its process in RAM")))
            (chart::times(history))
            (figure("Lag", words::short(detail.worker.lag), chart::sparkline(&history.lag, "records behind")))
        }
    }
}
