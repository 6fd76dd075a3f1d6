//! A pipeline's page: what it is, how it goes, and where each of its partitions stands.

use maud::{Markup, html};

use super::{Live, Page, Part, Place, View, button, careful_button, chart, encoded, slots, timeline, words};
use crate::pipelines::Refusal;
use crate::web::Web;
use crate::web::model::{Cluster, Move, Pipeline, Slot};
use crate::web::problem::Problem;

const SLOTS: usize = 100;

pub(super) fn page(web: &Web, cluster: &Cluster, target: &str, view: &View) -> Result<Page, Problem> {
    let all = || cluster.pipelines.iter().chain(&cluster.completed);
    let found = all().find(|row| row.id == target).or_else(|| all().find(|row| row.name == target));
    let pipeline = found.ok_or_else(|| {
        Problem::from(Refusal::Unknown(format!(
            "no pipeline has the id or name {target:?}: the front page lists them"
        )))
    })?;
    let own: Vec<&Slot> = cluster.slots.iter().filter(|slot| slot.pipeline == pipeline.id).collect();
    let is_own = |moved: &&Move| moved.slot.split('/').next() == Some(pipeline.id.as_str());
    let moves: Vec<&Move> = cluster.moves.iter().filter(is_own).collect();
    Ok(Page {
        title: format!("Pipeline {}", pipeline.name),
        place: Place::Elsewhere,
        parts: vec![
            Part { id: "part-pipeline", body: summary(web, cluster, pipeline, &own) },
            Part { id: "part-halts", body: halts(&own) },
            Part { id: "part-history", body: history(web, pipeline) },
            Part { id: "part-map", body: slots::map(web, "map", "Partitions".into(), own, view, SLOTS) },
            Part { id: "part-moves", body: timeline::moves(cluster, moves, view) },
        ],
        live: Live::Always,
    })
}

fn summary(web: &Web, cluster: &Cluster, pipeline: &Pipeline, own: &[&Slot]) -> Markup {
    let sum = |figure: fn(&Slot) -> u64| own.iter().map(|slot| figure(slot)).sum::<u64>();
    let oldest = own
        .iter()
        .filter(|slot| slot.lag.is_some_and(|lag| lag > 0))
        .filter_map(|slot| slot.last_commit_at_ms)
        .min();
    html! {
        p { a href="/" { "Back to the master " (cluster.url) } }
        @if let Some(what) = &pipeline.waiting_for { p.notice role="status" { strong { "Waiting for " } (what) } }
        dl.summary {
            (words::term("ID", &html! { (pipeline.id) }))
            (words::term("State", &words::state(pipeline.state)))
            (words::term("Partitions", &html! { (pipeline.slots_running) " of " (pipeline.slots) " running, " (pipeline.slots_halted) " halted" }))
            (words::term("Lag", &html! { @match pipeline.lag { Some(lag) => (words::short(lag)), None => "–" } }))
            (words::term("Records/s", &html! { (words::rate(pipeline.records_per_second)) }))
            (words::term("Freshness p99", &html! {
                @match own.iter().filter_map(|slot| slot.topic_freshness_ms).max() { Some(age) => { "topic " (words::span(age)) ", " } None => {} }
                @match own.iter().filter_map(|slot| slot.lake_freshness_ms).max() { Some(age) => { "lake " (words::span(age)) } None => "lake –" }
            }))
            (words::term("Oldest commit", &html! {
                @match oldest { Some(at) => (words::ago(at, cluster.at_ms)), None => "all is committed" }
            }))
            (words::term("Rows in the lake", &html! { (words::short(sum(|slot| slot.rows_committed))) " of the present owners" }))
            (words::term("Enriched", &words::short(sum(|slot| slot.records_enriched))))
            (words::term("Quarantined", &words::short(sum(|slot| slot.records_quarantined))))
            (words::term("Client duplicates", &words::short(sum(|slot| slot.client_duplicates))))
            (words::term("Filtered", &words::short(sum(|slot| slot.records_filtered))))
            (words::term("Unplaced rows", &words::short(sum(|slot| slot.rows_unplaced))))
            (words::term("Source", &html! { (pipeline.source_topics.join(", ")) }))
            (words::term("Transform", &html! { (pipeline.transform) }))
            (words::term("Enriched topic", &html! { (pipeline.enriched_topic.as_deref().unwrap_or("–")) }))
            (words::term("Invalid topic", &html! { (pipeline.invalid_topic) }))
            (words::term("Lake", &html! { (pipeline.lake.as_deref().unwrap_or("–")) }))
            (words::term("Kafka", &html! { (pipeline.bootstrap_servers) }))
            (words::term("Weight", &html! { (pipeline.weight) }))
            (words::term("Most a worker reads", &html! {
                @match pipeline.max_rate { Some(rate) => { (words::count(rate)) " records/s" } None => "no limit" }
            }))
            (words::term("Submitted", &html! { (words::time(pipeline.submitted_at_ms, cluster.at_ms)) " by " (pipeline.user) }))
            (words::term("Duration", &html! { (words::span(pipeline.duration_ms)) }))
        }
        (actions(web, pipeline))
    }
}

fn actions(web: &Web, pipeline: &Pipeline) -> Markup {
    let back = format!("/pipelines/{}", encoded(&pipeline.id));
    let action = |what: &str| format!("/act/{what}/{}", encoded(&pipeline.id));
    let is_over = matches!(pipeline.state, "KILLED" | "KILLING");
    html! {
        div.actions {
            @if !is_over {
                @if pipeline.state == "PAUSED" || pipeline.slots_halted > 0 { (button(web, &action("resume"), "Resume", &back)) }
                @if pipeline.state != "PAUSED" {
                    (careful_button(web, &action("pause"), "Pause", "Workers make a last commit and give its partitions up, until it is resumed.", &back))
                }
                (careful_button(web, &action("kill"), "Kill", "Workers make a last commit, and it is over. Its topics and lake stay.", &back))
            }
            a href={ "/api/v1/pipelines/" (encoded(&pipeline.id)) } { "Its definition as JSON" }
        }
    }
}

fn halts(own: &[&Slot]) -> Markup {
    let halted: Vec<_> = own.iter().filter_map(|slot| slot.halt.as_ref().map(|halt| (slot, halt))).collect();
    html! {
        @if !halted.is_empty() {
            h2 { "Halted (" (halted.len()) ")" }
            ul.halts {
                @for (slot, halt) in halted.iter().take(50) {
                    li { strong { (slot.topic) "/" (slot.partition) " " (halt.kind) ": " } (halt.detail) " " em { (slots::halt_advice(&halt.kind)) } }
                }
                @if halted.len() > 50 { li { "and " (halted.len() - 50) " more" } }
            }
        }
    }
}

fn history(web: &Web, pipeline: &Pipeline) -> Markup {
    let history = web.history.pipeline(&pipeline.id);
    html! {
        h2 { "Last two minutes" }
        div.charts {
            figure { figcaption { "Records/s " strong { (words::rate(pipeline.records_per_second)) } }
                (chart::sparkline(&history.records_per_second, "records read a second")) }
            figure { figcaption { "Lag " strong { (words::maybe(pipeline.lag)) } }
                (chart::sparkline(&history.lag, "records behind")) }
            (chart::times(&history))
        }
    }
}
