//! The partition map: where each partition stands, who works on it, and what it waits for.

use maud::{Markup, html};

use super::table::{Column, Key, Table};
use super::{View, encoded, words};
use crate::web::Web;
use crate::web::model::{Slot, SlotState};

/// A slot is at the end of its partition when it lags by less than this many seconds of its own rate, beside what its
/// files hold before they are closed.
const AT_THE_END_SECONDS: f64 = 2.0;

/// A table of slots; `heading` without their number.
pub(super) fn map(
    web: &Web,
    id: &str,
    heading: String,
    slots: Vec<&Slot>,
    view: &View,
    page: usize,
) -> Markup {
    Table {
        id,
        heading,
        empty: html! { "No partition is known yet: is the topic there?" },
        columns: columns(web),
        rows: slots,
        rows_a_page: page,
    }
    .render(view)
}

#[allow(clippy::cast_precision_loss, reason = "an order of figures")]
fn columns(web: &Web) -> Vec<Column<'_, Slot>> {
    let offset = |value: Option<i64>| html! { (words::maybe(value)) };
    let number = |value: Option<i64>| Key::maybe(value);
    vec![
        Column::text("topic", "Topic", |slot: &Slot| Key::text(&slot.topic), |slot| html! { (slot.topic) }),
        Column::number(
            "partition",
            "Partition",
            |slot: &Slot| Key::Number(f64::from(slot.partition)),
            |slot| html! { (slot.partition) },
        ),
        Column::text(
            "owner",
            "Worker",
            |slot: &Slot| Key::text(slot.owner.clone().unwrap_or_default()),
            |slot| {
                html! {
                    @match &slot.owner {
                        Some(owner) => a href={ "/workers/" (encoded(owner)) } { (owner) },
                        None => em { "nobody" },
                    }
                }
            },
        ),
        Column::number("epoch", "Epoch", |slot: &Slot| Key::count(slot.epoch), |slot| html! { (slot.epoch) }),
        Column::text(
            "state",
            "State",
            |slot: &Slot| Key::text(slot.state.word()),
            |slot| words::state(slot.state.word()),
        ),
        Column::number(
            "topic_cursor",
            "Topic cursor",
            move |slot: &Slot| number(slot.topic_cursor),
            move |slot| offset(slot.topic_cursor),
        ),
        Column::number(
            "lake_cursor",
            "Lake cursor",
            move |slot: &Slot| number(slot.lake_cursor),
            move |slot| offset(slot.lake_cursor),
        ),
        Column::number("end", "End", move |slot: &Slot| number(slot.end), move |slot| offset(slot.end)),
        Column::number(
            "lag",
            "Lag",
            |slot: &Slot| Key::maybe(slot.lag.and_then(|lag| i64::try_from(lag).ok())),
            |slot| html! { @match slot.lag { Some(lag) => (words::short(lag)), None => "–" } },
        ),
        Column::number(
            "rate",
            "Records/s",
            |slot: &Slot| Key::Number(slot.records_per_second),
            |slot| html! { @if slot.state == SlotState::Running { (words::rate(slot.records_per_second)) } @else { "–" } },
        ),
        Column::number(
            "eta",
            "Caught up in",
            |slot: &Slot| Key::Number(seconds_left(web, slot).unwrap_or(f64::INFINITY)),
            |slot| eta(web, slot),
        ),
        Column::number(
            "buffered",
            "Open files",
            |slot: &Slot| Key::count(slot.buffered_bytes),
            |slot| html! { (words::count(slot.buffered_rows)) " rows, " (words::bytes(slot.buffered_bytes)) },
        ),
        Column::number(
            "quarantined",
            "Quarantined",
            |slot: &Slot| Key::count(slot.records_quarantined),
            |slot| html! { (words::count(slot.records_quarantined)) },
        ),
        Column::number(
            "duplicates",
            "Client duplicates",
            |slot: &Slot| Key::count(slot.client_duplicates),
            |slot| html! { (words::count(slot.client_duplicates)) },
        ),
        Column::number(
            "filtered",
            "Filtered",
            |slot: &Slot| Key::count(slot.records_filtered),
            |slot| html! { (words::count(slot.records_filtered)) },
        ),
        Column::plain("Last object in the lake", |slot: &Slot| {
            html! {
                @match &slot.last_object { Some(object) => span.object { (object) }, None => "–" }
            }
        }),
        Column::text(
            "waiting",
            "Waiting for",
            |slot: &Slot| Key::text(slot.waiting_for.clone().unwrap_or_default()),
            waiting,
        ),
    ]
}

fn waiting(slot: &Slot) -> Markup {
    html! {
        @if let Some(halt) = &slot.halt {
            strong { "halted (" (halt.kind) "): " } (halt.detail) " " em { (halt_advice(&halt.kind)) }
        } @else if let Some(what) = &slot.waiting_for { (what) }
        @if slot.deaths > 0 { " " em { "its last " (slot.deaths) " owners were lost without moving it" } }
    }
}

/// What a person does about a halt, beside what its detail says.
pub(super) fn halt_advice(kind: &str) -> &'static str {
    match kind {
        "record_lost" | "record_damaged" => {
            "Put the group's committed offset back, then resume; or begin anew at an offset: \
             millrace slots resume PIPELINE TOPIC/PARTITION --skip-lost --from OFFSET (docs/delivery.md, Halts)."
        }
        "offsets_lost" => {
            "The topic no longer holds them. To go on without them: \
             millrace slots resume PIPELINE TOPIC/PARTITION --skip-lost (docs/delivery.md, Halts)."
        }
        "manifest_mismatch" => {
            "Put the staged objects back where they were, then resume; to go on without their rows: \
             millrace slots resume PIPELINE TOPIC/PARTITION --skip-lost (docs/delivery.md, Halts)."
        }
        "transform_changed" => {
            "Start workers of the version that began this stretch, or resubmit its options; then resume."
        }
        _ => "Repair the cause; then resume.",
    }
}

/// Seconds until the slot is at the end at its present pace; `None` when it does not get nearer.
#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn seconds_left(web: &Web, slot: &Slot) -> Option<f64> {
    let lag = slot.lag? as f64;
    if is_at_the_end(slot) {
        return Some(0.0);
    }
    let fall = web.history.fall(&slot.slot)?;
    (fall > 0.5).then(|| lag / fall)
}

/// What is not read yet is little; what lies in open files is no backlog.
#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn is_at_the_end(slot: &Slot) -> bool {
    let unread = slot.end.zip(slot.position).map(|(end, position)| (end - position).max(0) as f64);
    unread.is_some_and(|unread| unread <= slot.records_per_second.max(1.0) * AT_THE_END_SECONDS)
}

fn eta(web: &Web, slot: &Slot) -> Markup {
    if slot.state != SlotState::Running {
        return html! { "–" };
    }
    match seconds_left(web, slot) {
        Some(0.0) => html! { "is" },
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "positive, an estimate")]
        Some(seconds) => html! { (words::span((seconds * 1000.0) as u64)) },
        None => html! { span title="its lag does not fall" { "not soon" } },
    }
}
