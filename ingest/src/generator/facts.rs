//! What is known of an event that is made, by which the ground truth counts it. It comes from what the event was
//! made of, never from the pipeline's own reading of it.

use std::borrow::Cow;

/// Of one valid event. The numbers stand for the texts in [`Names`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Facts {
    pub(super) kind: usize,
    pub(super) page: Option<usize>,
    pub(super) visit: Option<Visit>,
    /// Milliseconds since 1970 UTC.
    pub(super) time_ms: i64,
    pub(super) quantity: i64,
    /// Of a purchase: price × quantity × 100, rounded.
    pub(super) revenue_cents: i64,
}

/// The session of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Visit {
    pub(super) session: u64,
    /// On the last event of the session: how many were made.
    pub(super) total: Option<u64>,
}

/// What the numbers in [`Facts`] stand for.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    pub(super) types: Vec<String>,
    /// Paths.
    pub(super) pages: Vec<String>,
    /// Session ids; those beyond are made of the run and the number.
    pub(super) sessions: Vec<String>,
    pub(super) run: String,
}

impl Names {
    /// The id of session `number` of run `run` where no other was given.
    pub(super) fn made_session(run: &str, number: u64) -> String {
        format!("s-{run}-{number}")
    }

    pub(super) fn session(&self, number: u64) -> Cow<'_, str> {
        let known = usize::try_from(number).ok().and_then(|number| self.sessions.get(number));
        known.map_or_else(
            || Cow::Owned(Self::made_session(&self.run, number)),
            |name| Cow::Borrowed(name.as_str()),
        )
    }
}
