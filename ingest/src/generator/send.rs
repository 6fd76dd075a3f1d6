//! One connection: takes its turns, sends their events until each has its fate, and notes it. `delivery` decides what
//! is sent again; here is when.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use chrono::Utc;
use millrace_common::backoff::Backoff;
use reqwest::header::CONTENT_TYPE;
use reqwest::{Client, Url};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::answer::{self, Heard, Verdict};
use super::client;
use super::delivery::{Fate, judge};
use super::ledger::Ledger;
use super::source::{Batch, Builder, Format, Sent, Source};
use super::tally::Tally;
use super::truth::Truth;

const FIRST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// A wait that the collector asked for is lengthened by up to this share, so that not all come back at once.
const JITTER: f64 = 0.25;
/// Copies go out after so many turns of their connection, together.
const TURNS_BETWEEN_COPIES: u32 = 8;

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) source: Source,
    pub(super) tally: Tally,
    pub(super) truth: Option<Truth>,
    /// How often an event is sent again, at most.
    pub(super) retries: u32,
    /// No further events are sent.
    pub(super) stop: CancellationToken,
    /// Nothing is waited for any more. Comes after `stop`.
    pub(super) give_up: CancellationToken,
    /// The collector was last seen not to answer, and that was said.
    pub(super) is_away: AtomicBool,
    /// A verdict was not what it should be, and that was said.
    pub(super) is_surprised: AtomicBool,
}

/// Events that are acknowledged and wait to be sent a second time.
#[derive(Debug, Default)]
struct Copies {
    builder: Builder,
    full: Vec<Batch>,
    turns: u32,
}

/// Sends until the schedule ends or the stop begins, and waits for the last answer.
pub(super) async fn connection(shared: Arc<Shared>, ledger: Ledger) {
    let mut copies = Copies::default();
    while let Some(turn) = shared.source.take(Instant::now(), Utc::now()) {
        if wait(turn.due, &shared.stop).await.is_err() {
            break;
        }
        for batch in turn.batches {
            deliver(&shared, &ledger, batch, turn.due, &mut copies).await;
        }
        copies.turns += 1;
        if copies.turns == TURNS_BETWEEN_COPIES {
            send_copies(&shared, copies.take()).await;
        }
    }
    send_copies(&shared, copies.take()).await;
}

struct Cancelled;

async fn wait(until: Instant, cancel: &CancellationToken) -> Result<(), Cancelled> {
    tokio::select! {
        biased;
        () = cancel.cancelled() => Err(Cancelled),
        () = tokio::time::sleep_until(until) => Ok(()),
    }
}

async fn deliver(shared: &Shared, ledger: &Ledger, batch: Batch, due: Instant, copies: &mut Copies) {
    let mut tries = Tries::new(batch);
    while let Some(tried) = tries.next(shared).await {
        if tried.is_answered {
            shared.tally.answered(due.elapsed());
        }
        ledger.note(&tried.batch, &tried.fates).await;
        if let Some(sent) = shared.tally.note(&tried.batch.events, &tried.fates) {
            shared.say_surprised(&tried.batch, sent);
        }
        if let Some(truth) = &shared.truth {
            truth.note(&tried.batch.events, &tried.fates, Utc::now().timestamp_millis());
        }
        copies.collect(&tried.batch, &tried.fates);
        tries.go_on(shared, tried).await;
    }
}

async fn send_copies(shared: &Shared, batches: Vec<Batch>) {
    for batch in batches {
        let mut tries = Tries::new(batch);
        while let Some(tried) = tries.next(shared).await {
            shared.tally.note_copies(&tried.fates);
            if let Some(truth) = &shared.truth {
                truth.note_copies(&tried.fates);
            }
            tries.go_on(shared, tried).await;
        }
    }
}

/// The sends of one batch, each of what the one before left over.
struct Tries {
    batch: Option<Batch>,
    /// How often it was sent again.
    again: u32,
    backoff: Backoff,
}

/// One of them.
struct Tried {
    batch: Batch,
    /// `None` for what is to be sent again.
    fates: Vec<Option<Fate>>,
    is_answered: bool,
    /// The events never left, and are in no doubt from before: no try was used up.
    is_free: bool,
    wait: Option<Duration>,
}

impl Tries {
    fn new(batch: Batch) -> Self {
        Self { batch: Some(batch), again: 0, backoff: Backoff::new(FIRST_WAIT, LONGEST_WAIT) }
    }

    /// Sends what is left over; `None` when there is nothing.
    async fn next(&mut self, shared: &Shared) -> Option<Tried> {
        let mut batch = self.batch.take()?;
        let heard = ask(shared, &batch).await;
        shared.say(&heard);
        let has_left = !matches!(heard, Heard::NotSent(_));
        let is_free = !has_left && batch.events.iter().all(|sent| sent.doubts == 0);
        if has_left && self.again > 0 {
            shared.note_resent(batch.events.len());
        }
        let may_send_again = if is_free {
            !shared.stop.is_cancelled()
        } else {
            self.again < shared.retries && !shared.give_up.is_cancelled()
        };
        let fates = judge(&mut batch, &heard, may_send_again);
        let (is_answered, wait) = match heard {
            Heard::Verdicts { wait, .. } => (true, wait),
            Heard::Refused { wait, .. } => (false, wait),
            Heard::NotSent(_) | Heard::Nothing(_) => (false, None),
        };
        Some(Tried { batch, fates, is_answered, is_free, wait })
    }

    /// Keeps what `tried` leaves over, and waits until it may be sent again.
    async fn go_on(&mut self, shared: &Shared, tried: Tried) {
        self.batch = tried.batch.without_settled(&tried.fates);
        if self.batch.is_none() {
            return;
        }
        let cancel = if tried.is_free {
            &shared.stop
        } else {
            self.again += 1;
            &shared.give_up
        };
        let asked = tried.wait.unwrap_or_default().mul_f64(1.0 + rand::random_range(0.0..JITTER));
        // When it ends early, the next send is the last one.
        let _ = wait(Instant::now() + self.backoff.next_wait().max(asked), cancel).await;
    }
}

async fn ask(shared: &Shared, batch: &Batch) -> Heard {
    let content_type = match batch.format {
        Format::Document => "application/json",
        Format::Lines => "application/x-ndjson",
    };
    let request = shared.client.post(shared.url.clone());
    let request = request.header(CONTENT_TYPE, content_type).body(batch.body.clone());
    let exchange = async {
        let response = match request.send().await {
            Ok(response) => response,
            Err(error) if error.is_connect() => return Heard::NotSent(innermost(&error)),
            Err(error) => return Heard::Nothing(innermost(&error)),
        };
        let status = response.status();
        let headers = response.headers().clone();
        match response.bytes().await {
            Ok(body) => answer::read(status, &headers, &body, batch.events.len()),
            Err(error) => Heard::Nothing(innermost(&error)),
        }
    };
    tokio::select! {
        heard = exchange => heard,
        () = shared.give_up.cancelled() => Heard::Nothing("no answer before the end of the run".to_owned()),
    }
}

/// The deepest cause: the client's own words are "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

impl Copies {
    /// Takes those events of `batch` that are acknowledged and are to be sent twice.
    fn collect(&mut self, batch: &Batch, fates: &[Option<Fate>]) {
        for (sent, fate) in batch.events.iter().zip(fates) {
            if sent.is_doubled && *fate == Some(Fate::Ok) {
                let event = &batch.body[sent.place.clone()];
                if self.builder.is_full_for(event) {
                    self.full.push(std::mem::take(&mut self.builder).finish());
                }
                self.builder.push(event, Sent { doubts: 0, ..sent.clone() });
            }
        }
    }

    fn take(&mut self) -> Vec<Batch> {
        let Self { builder, mut full, .. } = std::mem::take(self);
        if !builder.is_empty() {
            full.push(builder.finish());
        }
        full
    }
}

impl Shared {
    fn note_resent(&self, events: usize) {
        self.tally.note_resent(events);
        if let Some(truth) = &self.truth {
            truth.note_resent(events);
        }
    }

    /// Says once when events are not acknowledged, and once when they are again.
    fn say(&self, heard: &Heard) {
        let reason = match heard {
            Heard::NotSent(reason) | Heard::Nothing(reason) | Heard::Refused { reason, .. } => reason,
            Heard::Verdicts { verdicts, .. } => {
                if verdicts.iter().all(|verdict| *verdict == Verdict::Retry) {
                    "every verdict is retry"
                } else {
                    self.say_back();
                    return;
                }
            }
        };
        if !self.is_away.swap(true, Ordering::Relaxed) {
            warn!(
                url = client::shown(&self.url),
                reason, "events are not acknowledged, going on with back-off"
            );
        }
    }

    fn say_back(&self) {
        if self.is_away.load(Ordering::Relaxed) && self.is_away.swap(false, Ordering::Relaxed) {
            info!(url = client::shown(&self.url), "events are acknowledged again");
        }
    }

    fn say_surprised(&self, batch: &Batch, sent: &Sent) {
        if !self.is_surprised.swap(true, Ordering::Relaxed) {
            let event = String::from_utf8_lossy(&batch.body[sent.place.clone()]);
            let expected = if sent.facts.is_some() { "ok" } else { "invalid" };
            warn!(expected, %event, "an event's verdict is not what was expected; further ones are only counted");
        }
    }
}
