//! One connection: takes its turns, sends their events, and notes the answers. It never sends an event twice: what
//! was not answered stays unknown. Only what never left, because no connection came about, is tried again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use chrono::Utc;
use millrace_common::backoff::Backoff;
use millrace_common::ledger::Answer as LedgerAnswer;
use reqwest::header::{CONTENT_TYPE, HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use super::ledger::Ledger;
use super::schedule::Schedule;
use super::source::{Batch, Source};
use super::tally::Tally;
use crate::collector::{Answer, ErrorBody, Verdict};

const LONGEST_RETRY_AFTER: Duration = Duration::from_secs(30);
const USUAL_RETRY_AFTER: Duration = Duration::from_secs(1);

/// What all connections share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) client: Client,
    pub(super) url: Url,
    pub(super) source: Source,
    pub(super) schedule: Schedule,
    pub(super) tally: Tally,
    pub(super) stop: CancellationToken,
    /// The collector was last seen not to answer, and that was said.
    pub(super) is_away: AtomicBool,
}

/// What came of a request.
enum Outcome {
    /// Nothing left this process.
    NotSent(String),
    /// It left, and no answer was understood.
    Unknown(String),
    /// The collector took none of it; with the wait that it asked for.
    Refused { reason: String, wait: Option<Duration> },
    /// A verdict per event.
    Answered { verdicts: Vec<Verdict>, wait: Option<Duration> },
}

/// Sends until the schedule ends or the stop begins, and waits for the last answer.
pub(super) async fn connection(shared: Arc<Shared>, ledger: Ledger) {
    while let Some(turn) = shared.schedule.take(Instant::now()) {
        if wait_until(turn.due, &shared.stop).await.is_err() {
            return;
        }
        for batch in shared.source.batches(turn.first..turn.first + turn.events, Utc::now()) {
            send(&shared, &ledger, &batch, turn.due).await;
        }
    }
}

struct Stopped;

async fn wait_until(due: Instant, stop: &CancellationToken) -> Result<(), Stopped> {
    tokio::select! {
        biased;
        () = stop.cancelled() => Err(Stopped),
        () = tokio::time::sleep_until(due) => Ok(()),
    }
}

async fn send(shared: &Shared, ledger: &Ledger, batch: &Batch, due: Instant) {
    let tally = &shared.tally;
    let events = batch.events.len();
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
    let outcome = loop {
        if shared.stop.is_cancelled() {
            if backoff.tries() > 0 {
                Tally::add(&tally.not_sent, events);
            }
            return;
        }
        match ask(shared, batch.body.clone(), events).await {
            Outcome::NotSent(reason) => {
                shared.say_away(&reason);
                // Ends early when the run stops; the loop's head sees it.
                let _ = wait_until(Instant::now() + backoff.next_wait(), &shared.stop).await;
            }
            outcome => break outcome,
        }
    };
    let wait = match outcome {
        Outcome::NotSent(_) => unreachable!("tried again above"),
        Outcome::Unknown(reason) => {
            shared.say_away(&reason);
            Tally::add(&tally.unknown, events);
            ledger.note(batch, &vec![Some(LedgerAnswer::Unknown); events]).await;
            None
        }
        Outcome::Refused { reason, wait } => {
            shared.say_away(&reason);
            Tally::add(&tally.refused, events);
            wait
        }
        Outcome::Answered { verdicts, wait } => {
            tally.answered(due.elapsed());
            let acknowledged = note(tally, ledger, batch, &verdicts).await;
            if acknowledged {
                shared.say_back();
            } else if let Some(Verdict::Retry { message }) = verdicts.first() {
                shared.say_away(message);
            }
            wait
        }
    };
    if let Some(wait) = wait {
        let _ = wait_until(Instant::now() + wait, &shared.stop).await;
    }
}

/// Counts the verdicts and writes them down; tells if any event is acknowledged.
async fn note(tally: &Tally, ledger: &Ledger, batch: &Batch, verdicts: &[Verdict]) -> bool {
    let (mut ok, mut invalid, mut retry, mut unexpected) = (0, 0, 0, 0);
    let answers: Vec<Option<LedgerAnswer>> = batch
        .events
        .iter()
        .zip(verdicts)
        .map(|(sent, verdict)| {
            let answer = match verdict {
                Verdict::Ok => {
                    ok += 1;
                    LedgerAnswer::Ok
                }
                Verdict::Invalid { .. } => {
                    invalid += 1;
                    LedgerAnswer::Invalid
                }
                // Kafka may have taken it without saying so in time.
                Verdict::Retry { .. } => {
                    retry += 1;
                    LedgerAnswer::Unknown
                }
            };
            let is_expected = match answer {
                LedgerAnswer::Ok => sent.is_valid,
                LedgerAnswer::Invalid => !sent.is_valid,
                LedgerAnswer::Unknown => true,
            };
            unexpected += usize::from(!is_expected);
            Some(answer)
        })
        .collect();
    ledger.note(batch, &answers).await;
    Tally::add(&tally.ok, ok);
    Tally::add(&tally.invalid, invalid);
    Tally::add(&tally.retry, retry);
    Tally::add(&tally.unexpected, unexpected);
    ok + invalid > 0
}

async fn ask(shared: &Shared, body: Bytes, events: usize) -> Outcome {
    let request = shared.client.post(shared.url.clone()).header(CONTENT_TYPE, "application/json").body(body);
    let response = match request.send().await {
        Ok(response) => response,
        Err(error) if error.is_connect() => return Outcome::NotSent(innermost(&error)),
        Err(error) => return Outcome::Unknown(innermost(&error)),
    };
    let status = response.status();
    let wait = retry_after(status, response.headers());
    match response.bytes().await {
        Ok(body) => read(status, &body, events, wait),
        Err(error) => Outcome::Unknown(innermost(&error)),
    }
}

fn read(status: StatusCode, body: &[u8], events: usize, wait: Option<Duration>) -> Outcome {
    if let Ok(answer) = serde_json::from_slice::<Answer>(body)
        && matches!(status, StatusCode::OK | StatusCode::SERVICE_UNAVAILABLE)
    {
        if answer.verdicts.len() == events {
            return Outcome::Answered { verdicts: answer.verdicts, wait };
        }
        return Outcome::Unknown(format!("{} verdicts for {events} events", answer.verdicts.len()));
    }
    // A server's fault may have come at any time; with these the collector has taken nothing.
    let takes_nothing = status == StatusCode::SERVICE_UNAVAILABLE || status.is_client_error();
    match serde_json::from_slice::<ErrorBody>(body) {
        Ok(ErrorBody { error }) if takes_nothing && status != StatusCode::REQUEST_TIMEOUT => {
            Outcome::Refused { reason: format!("{status}: {}", error.message), wait }
        }
        _ => Outcome::Unknown(format!("an answer of status {status} without verdicts")),
    }
}

/// How long the collector wants to be left alone.
fn retry_after(status: StatusCode, headers: &HeaderMap) -> Option<Duration> {
    let asks = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS);
    let seconds = || headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok();
    asks.then(|| seconds().map_or(USUAL_RETRY_AFTER, Duration::from_secs).min(LONGEST_RETRY_AFTER))
}

/// The deepest cause: the client's own words are "error sending request".
fn innermost(error: &reqwest::Error) -> String {
    let mut cause: &dyn std::error::Error = error;
    while let Some(deeper) = cause.source() {
        cause = deeper;
    }
    cause.to_string()
}

impl Shared {
    fn say_away(&self, reason: &str) {
        if !self.is_away.swap(true, Ordering::Relaxed) {
            warn!(url = %self.url, reason, "events are not acknowledged, going on with back-off");
        }
    }

    fn say_back(&self) {
        if self.is_away.load(Ordering::Relaxed) && self.is_away.swap(false, Ordering::Relaxed) {
            info!(url = %self.url, "events are acknowledged again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(status: u16, body: &str) -> &'static str {
        match read(StatusCode::from_u16(status).expect("status"), body.as_bytes(), 1, None) {
            Outcome::NotSent(_) => "not sent",
            Outcome::Unknown(_) => "unknown",
            Outcome::Refused { .. } => "refused",
            Outcome::Answered { .. } => "answered",
        }
    }

    #[test]
    fn only_what_the_collector_surely_did_not_take_counts_as_refused() {
        let verdicts = r#"{"verdicts":[{"verdict":"ok"}],"ok":1,"invalid":0,"retry":0}"#;
        let two = r#"{"verdicts":[{"verdict":"ok"},{"verdict":"ok"}],"ok":2,"invalid":0,"retry":0}"#;
        let error = r#"{"error":{"code":"x","message":"y"}}"#;
        for (status, body, expected) in [
            (200, verdicts, "answered"),
            (503, verdicts, "answered"),
            (200, two, "unknown"),
            (200, "", "unknown"),
            (500, verdicts, "unknown"),
            (503, error, "refused"),
            (400, error, "refused"),
            (408, error, "unknown"),
            (500, error, "unknown"),
            (502, "bad gateway", "unknown"),
            (503, "proxy", "unknown"),
        ] {
            assert_eq!(outcome(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn the_wait_that_was_asked_for_is_kept_within_reason() {
        let headers =
            |value: &'static str| HeaderMap::from_iter([(RETRY_AFTER, value.parse().expect("value"))]);
        let busy = StatusCode::SERVICE_UNAVAILABLE;
        assert_eq!(retry_after(busy, &headers("3")), Some(Duration::from_secs(3)));
        assert_eq!(retry_after(busy, &headers("86400")), Some(LONGEST_RETRY_AFTER));
        assert_eq!(retry_after(busy, &headers("Fri, 31 Dec 1999 23:59:59 GMT")), Some(USUAL_RETRY_AFTER));
        assert_eq!(retry_after(busy, &HeaderMap::new()), Some(USUAL_RETRY_AFTER));
        assert_eq!(retry_after(StatusCode::OK, &headers("3")), None);
    }
}
