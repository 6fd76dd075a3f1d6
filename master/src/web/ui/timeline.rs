//! What happened: slots that changed hands with their reasons, and lost workers with their scorecards.

use maud::{Markup, html};

use super::table::{Column, Key, Table};
use super::{View, encoded, words};
use crate::web::Web;
use crate::web::api::{Scorecard, scorecards};
use crate::web::model::{Cluster, Move};

/// Moves on one page of the table.
const MOVES: usize = 20;
const LOSSES: usize = 10;

pub(super) fn moves(cluster: &Cluster, moves: Vec<&Move>, view: &View) -> Markup {
    let now = cluster.at_ms;
    Table {
        id: "moves",
        heading: "Rebalance timeline".into(),
        empty: html! { "Nothing has moved. `millrace rebalance` shows what would, and why." },
        columns: vec![
            Column::text(
                "time",
                "Time",
                |moved: &Move| Key::count(moved.at_ms),
                move |moved| words::time(moved.at_ms, now),
            ),
            Column::text(
                "slot",
                "Slot",
                |moved: &Move| Key::text(&moved.slot),
                |moved| html! { (moved.slot) },
            ),
            Column::text(
                "from",
                "From",
                |moved: &Move| Key::text(moved.from.clone().unwrap_or_default()),
                |moved| html! { (moved.from.as_deref().unwrap_or("–")) },
            ),
            Column::text("to", "To", |moved: &Move| Key::text(&moved.to), |moved| html! { (moved.to) }),
            Column::number(
                "epoch",
                "Epoch",
                |moved: &Move| Key::count(moved.epoch),
                |moved| html! { (moved.epoch) },
            ),
            Column::number(
                "pause",
                "Pause",
                |moved: &Move| Key::maybe(moved.pause_ms.and_then(|pause| i64::try_from(pause).ok())),
                |moved| html! { @match moved.pause_ms { Some(pause) => (words::span(pause)), None => "–" } },
            ),
            Column::text(
                "reason",
                "Reason",
                |moved: &Move| Key::text(&moved.reason),
                |moved| html! { (moved.reason) },
            ),
        ],
        rows: moves,
        rows_a_page: MOVES,
    }
    .render(view)
}

pub(super) fn failovers(web: &Web, cluster: &Cluster, view: &View) -> Markup {
    let now = cluster.at_ms;
    let cards = scorecards(web, cluster);
    let after = |card: &Scorecard, to: Option<u64>| to.map(|to| to.saturating_sub(card.failover.lost_at_ms));
    let key = move |card: &Scorecard, to: Option<u64>| {
        Key::maybe(after(card, to).and_then(|after| i64::try_from(after).ok()))
    };
    let shown = move |card: &Scorecard, to: Option<u64>| {
        html! { @match after(card, to) { Some(after) => (words::span(after)), None => "–" } }
    };
    Table {
        id: "failovers",
        heading: "Lost workers".into(),
        empty: html! { "No worker was lost. To see one heal, end a worker with kill -9 and watch this page." },
        columns: vec![
            Column::text("worker", "Worker Id", |card: &Scorecard| Key::text(&card.failover.worker), |card| html! {
                a href={ "/workers/" (encoded(&card.failover.worker)) } { (card.failover.worker) }
            }),
            Column::number("pid", "Pid", |card: &Scorecard| Key::count(card.failover.pid.into()), |card| html! { (card.failover.pid) }),
            Column::text("reason", "Reason", |card: &Scorecard| Key::text(&card.failover.reason), |card| html! { (card.failover.reason) }),
            Column::text(
                "heard",
                "Last heard",
                |card: &Scorecard| Key::count(card.failover.lost_at_ms),
                move |card| words::time(card.failover.lost_at_ms, now),
            ),
            Column::number(
                "detected",
                "Detected after",
                move |card: &Scorecard| key(card, Some(card.failover.detected_at_ms)),
                move |card| shown(card, Some(card.failover.detected_at_ms)),
            ),
            Column::number(
                "reassigned",
                "Reassigned after",
                move |card: &Scorecard| key(card, card.failover.reassigned_at_ms),
                move |card| shown(card, card.failover.reassigned_at_ms),
            ),
            Column::number(
                "committed",
                "First commit after",
                move |card: &Scorecard| key(card, card.failover.first_commit_at_ms),
                move |card| shown(card, card.failover.first_commit_at_ms),
            ),
            Column::number(
                "caught_up",
                "Caught up after",
                move |card: &Scorecard| key(card, card.caught_up_at_ms),
                move |card| shown(card, card.caught_up_at_ms),
            ),
            Column::number(
                "replayed",
                "Read again",
                |card: &Scorecard| Key::count(card.replayed),
                |card| html! { span title="records that the lost worker had read and not committed" { "about " (words::count(card.replayed)) } },
            ),
            Column::plain("Missing, doubled", |card: &Scorecard| verified(web, card)),
            Column::plain("Slots", |card: &Scorecard| html! {
                @for (index, lost) in card.failover.slots.iter().take(12).enumerate() { @if index > 0 { ", " } (lost.slot) }
                @if card.failover.slots.len() > 12 { " and " (card.failover.slots.len() - 12) " more" }
            }),
        ],
        rows: cards.iter().collect(),
        rows_a_page: LOSSES,
    }
    .render(view)
}

/// None is missing or doubled, if a verification that began after the new owners' first commit found that.
fn verified(web: &Web, card: &Scorecard) -> Markup {
    let healed = card.caught_up_at_ms.or(card.failover.first_commit_at_ms);
    let pipelines = card.failover.slots.iter().filter_map(|lost| lost.slot.split('/').next());
    let since = |healed: u64| {
        let mut clean = pipelines.map(|pipeline| web.verifications.clean_since(pipeline));
        clean.all(|begun| begun.is_some_and(|begun| begun >= healed))
    };
    if !card.failover.slots.is_empty() && healed.is_some_and(since) {
        return html! { "0, 0 " span.quiet { "(verified)" } };
    }
    html! { em { "not verified" } " " a href="/verify" { "verify" } }
}
