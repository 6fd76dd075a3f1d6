//! What would move now, and why: the dry run before it is done.

use maud::{Markup, html};

use super::{Live, Page, Part, Place, button};
use crate::web::Web;
use crate::workers::Plan;

/// Moves that are listed; `/api/v1/rebalance` has all.
const MOVES: usize = 200;

pub(in crate::web) fn page(web: &Web, plan: &Plan) -> Page {
    Page {
        title: "What would move now".into(),
        place: Place::Elsewhere,
        parts: vec![Part { id: "part-plan", body: body(web, plan) }],
        live: Live::Never,
    }
}

fn body(web: &Web, plan: &Plan) -> Markup {
    html! {
        p { a href="/" { "Back to the master" } }
        @if plan.moves.is_empty() {
            p.empty { "Nothing would move: nowhere is clearly less load beside a partition than where it is." }
        } @else {
            p { (plan.moves.len()) " would move. Nothing has moved yet." }
            div.scroll tabindex="0" role="region" aria-label="Moves" {
                table {
                    thead { tr { th scope="col" { "Slot" } th scope="col" { "From" } th scope="col" { "To" } th.number scope="col" { "Load" } th scope="col" { "Reason" } } }
                    tbody {
                        @for planned in plan.moves.iter().take(MOVES) {
                            tr {
                                td { (planned.slot) }
                                td { (planned.from.as_deref().unwrap_or("–")) }
                                td { (planned.to.as_deref().unwrap_or("no worker has a place")) }
                                td.number title="thousandths of a core of usual speed" { (planned.load_millicores) }
                                td { (planned.reason) }
                            }
                        }
                    }
                }
            }
            @if plan.moves.len() > MOVES { p { "and " (plan.moves.len() - MOVES) " more" } }
            div.actions { (button(web, "/act/rebalance", "Move them now", "/")) }
        }
    }
}
