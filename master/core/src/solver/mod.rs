//! The solver: a reduced problem of numbers in, the slots that get another owner out. Deterministic and pure; it
//! knows no ids, no time and no grants.
//!
//! One rule decides about every move that is not forced: **a slot moves only when there is clearly less load per
//! core beside it where it goes than where it is.** With equal slots that is Adams' method of apportionment (a
//! join takes at most the joiner's share, rounded up, and every worker gets a first slot before any gets a second);
//! with a hot slot it is the others that leave. Each such move lowers the sum, over all workers, of the products of
//! the loads of each two slots that share the worker, per core: so it comes to an end, and nothing moves twice.
//!
//! The phases, in their order: keep · place what is free · leave avoided workers · leave draining ones · give places
//! to pipelines that have fewer than their share · let joiners take their share · even the load out.

mod board;
mod even;
mod fair;
mod place;

use board::Board;

/// No seat.
pub(crate) const NOBODY: u32 = u32::MAX;
/// More zones than this are no zones: they would be as good as workers.
pub(crate) const MOST_ZONES: usize = 64;

/// A worker, as the solver sees it.
#[derive(Debug, Clone)]
pub(crate) struct Seat {
    /// Millionths of a core, at least 1; less for a slow worker.
    pub(crate) capacity: u64,
    /// The most slots that it takes.
    pub(crate) places: u32,
    /// Below [`Problem::zones`].
    pub(crate) zone: u32,
    /// It can't be told anything now: it keeps what it has, and nothing comes or goes.
    pub(crate) unreachable: bool,
    /// Nothing comes, and what can go elsewhere goes.
    pub(crate) draining: bool,
    /// It may take its share without delay.
    pub(crate) joined: bool,
}

impl Seat {
    fn is_open(&self) -> bool {
        !self.unreachable && !self.draining
    }
}

/// A slot, as the solver sees it.
#[derive(Debug, Clone)]
pub(crate) struct Item {
    /// Index into [`Problem::weights`].
    pub(crate) pipeline: u32,
    /// Millionths of a core, at least 1.
    pub(crate) load: u64,
    /// Seat that has it, or [`NOBODY`].
    pub(crate) owner: u32,
    /// Seat that it keeps away from while another one has room, or [`NOBODY`].
    pub(crate) avoids: u32,
    /// It moved a moment ago: it does not move for the load's sake.
    pub(crate) resting: bool,
    /// It did so again and again: so many margins more must be worth it.
    pub(crate) reluctance: u32,
}

/// What may be evened out. What must move moves in any case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum Evening {
    /// Nothing.
    None,
    /// Workers that joined take their share.
    Joiners,
    /// The load of all workers too, and the places of all pipelines.
    #[default]
    All,
}

#[derive(Debug, Clone)]
pub(crate) struct Problem {
    /// In the order of the workers' ids.
    pub(crate) seats: Vec<Seat>,
    /// In the order of their owners, and within those of the slots' ids.
    pub(crate) items: Vec<Item>,
    /// Of each pipeline: its share when places are scarce, at least 1.
    pub(crate) weights: Vec<u32>,
    pub(crate) zones: u32,
    pub(crate) evening: Evening,
    /// By how much less must be beside a slot after a move, in percent of what is there.
    pub(crate) margin_percent: u32,
}

/// Why an item changes its seat. Shares are load per core, in millionths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cause {
    /// It had no seat.
    Placed,
    Avoided,
    Drained,
    Joined {
        beside: u64,
        there: u64,
    },
    Uneven {
        beside: u64,
        there: u64,
    },
    /// Its place goes to this pipeline, which has fewer than its share.
    FairShare {
        pipeline: u32,
    },
}

/// An item that gets another seat, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) item: u32,
    pub(crate) to: u32,
    pub(crate) cause: Cause,
}

/// What is to change, in the order of the items.
pub(crate) fn solve(problem: &Problem) -> Vec<Change> {
    let mut board = Board::keeping(problem);
    board.place_free();
    // A later phase may make room for an earlier one.
    let mut handed = None;
    while handed != Some(board.handed()) {
        handed = Some(board.handed());
        board.leave_avoided();
        board.leave_draining();
        if problem.evening == Evening::All {
            board.share_places();
        }
        if problem.evening >= Evening::Joiners && problem.seats.iter().any(|seat| seat.joined) {
            board.let_joiners_take();
        }
        if problem.evening == Evening::All {
            board.even_out();
        }
    }
    board.into_changes()
}

/// Load per core, in millionths of a core per core; rounded down.
pub(crate) fn share(load: u64, capacity: u64) -> u64 {
    let share = u128::from(load) * 1_000_000 / u128::from(capacity.max(1));
    u64::try_from(share).unwrap_or(u64::MAX)
}
