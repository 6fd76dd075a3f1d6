//! The ground truth of a run: what a lake that lost nothing and doubled nothing must hold of it. Counted from what the
//! events were made of, when they are acknowledged; written once, at the end.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use millrace_common::event::day::Day;
use serde::{Deserialize, Serialize};

use super::delivery::Fate;
use super::facts::{Facts, Names};
use super::source::Sent;

/// With more sessions than this their ids are left out.
const MOST_NAMED_SESSIONS: usize = 10_000;

/// What a run acknowledged, each event counted once, however often it was sent.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroundTruth {
    /// Part of every id that the run made: `package_id`s are `<run>-<number>`, made session ids `s-<run>-<number>`.
    pub run: String,
    pub seed: u64,
    /// Valid events that were acknowledged. All counts up to `revenue_cents` are of these.
    pub acknowledged: u64,
    pub by_type: BTreeMap<String, u64>,
    /// By the lake's day, `2024-01-15` or `unplaced`.
    pub by_day: BTreeMap<String, u64>,
    /// By the page's path.
    pub by_page: BTreeMap<String, u64>,
    /// Events without a page.
    pub without_page: u64,
    pub sessions: Sessions,
    /// Sum of `quantity`, where it is an integer.
    pub quantity: i64,
    /// Sum over purchases of price × quantity × 100, each rounded to a whole number.
    pub revenue_cents: i64,
    /// Acknowledged events that the collector found invalid, by its code.
    pub invalid_by_code: BTreeMap<String, u64>,
    pub not_stored: u64,
    /// Events of which nobody said what became of them. While there is one, the lake may hold more than is counted.
    pub unknown: u64,
    /// Sends of invalid events after which nobody said what became of them, beside the one that was acknowledged: the
    /// invalid topic may hold as many copies more.
    pub invalid_in_doubt: u64,
    /// How many events were sent again because of a `retry`, a refusal, or no answer; each time counts. Such a send
    /// may make a client duplicate.
    pub resent: u64,
    pub duplicates: Duplicates,
}

/// The sessions of the valid events that were acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Sessions {
    pub count: u64,
    /// How many sessions have how many events.
    pub by_events: BTreeMap<u64, u64>,
    /// Events without a session.
    pub without: u64,
    /// Events by session id; `None` with more than 10,000 sessions.
    pub events: Option<BTreeMap<String, u64>>,
}

/// Events that were sent a second time on purpose, after they had been acknowledged.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Duplicates {
    /// Copies that were acknowledged: so many records of the raw topic are client duplicates.
    pub acknowledged: u64,
    /// Copies of which nobody said what became of them.
    pub unknown: u64,
}

/// Counts of a run that goes on.
#[derive(Debug)]
pub(super) struct Truth {
    names: Names,
    seed: u64,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    acknowledged: u64,
    types: Vec<u64>,
    pages: Vec<u64>,
    without_page: u64,
    days: BTreeMap<Day, u64>,
    /// Those of which events may still come.
    open: HashMap<u64, Open>,
    by_events: BTreeMap<u64, u64>,
    /// Events of the sessions that are not open any more; `None` when they are too many.
    closed: Option<BTreeMap<u64, u64>>,
    without_session: u64,
    quantity: i64,
    revenue_cents: i64,
    invalid: BTreeMap<String, u64>,
    not_stored: u64,
    unknown: u64,
    invalid_in_doubt: u64,
    resent: u64,
    duplicates: Duplicates,
}

#[derive(Debug, Default)]
struct Open {
    /// Events whose fate is known.
    settled: u64,
    acknowledged: u64,
    /// How many there are, once that is known.
    total: Option<u64>,
}

impl Truth {
    pub(super) fn new(names: Names, seed: u64) -> Self {
        let counts = Counts {
            types: vec![0; names.types.len()],
            pages: vec![0; names.pages.len()],
            closed: Some(BTreeMap::new()),
            ..Counts::default()
        };
        Self { names, seed, counts: Mutex::new(counts) }
    }

    /// Counts the fates of `events`, which were told at `received_ms` (since 1970 UTC).
    pub(super) fn note(&self, events: &[Sent], fates: &[Option<Fate>], received_ms: i64) {
        let mut counts = self.lock();
        for (sent, fate) in events.iter().zip(fates) {
            if let Some(fate) = fate {
                counts.note(sent, fate, received_ms);
            }
        }
    }

    /// Counts the fates of copies.
    pub(super) fn note_copies(&self, fates: &[Option<Fate>]) {
        let count = |wanted: &Fate| fates.iter().flatten().filter(|fate| *fate == wanted).count() as u64;
        let duplicates = &mut self.lock().duplicates;
        duplicates.acknowledged += count(&Fate::Ok);
        duplicates.unknown += count(&Fate::Unknown);
    }

    pub(super) fn note_resent(&self, events: usize) {
        self.lock().resent += events as u64;
    }

    pub(super) fn result(&self) -> GroundTruth {
        let mut counts = std::mem::take(&mut *self.lock());
        for (number, open) in std::mem::take(&mut counts.open) {
            counts.close(number, open.acknowledged);
        }
        let named = |names: &[String], of: &[u64]| {
            let pairs = names.iter().zip(of).filter(|(_, count)| **count > 0);
            pairs.map(|(name, count)| (name.clone(), *count)).collect()
        };
        let events = counts.closed.map(|closed| {
            let name = |number| self.names.session(number).into_owned();
            closed.into_iter().map(|(number, events)| (name(number), events)).collect()
        });
        GroundTruth {
            run: self.names.run.clone(),
            seed: self.seed,
            acknowledged: counts.acknowledged,
            by_type: named(&self.names.types, &counts.types),
            by_day: counts.days.iter().map(|(day, count)| (day_name(day), *count)).collect(),
            by_page: named(&self.names.pages, &counts.pages),
            without_page: counts.without_page,
            sessions: Sessions {
                count: counts.by_events.values().sum(),
                by_events: counts.by_events,
                without: counts.without_session,
                events,
            },
            quantity: counts.quantity,
            revenue_cents: counts.revenue_cents,
            invalid_by_code: counts.invalid,
            not_stored: counts.not_stored,
            unknown: counts.unknown,
            invalid_in_doubt: counts.invalid_in_doubt,
            resent: counts.resent,
            duplicates: counts.duplicates,
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn day_name(day: &Day) -> String {
    match day {
        Day::Of(date) => date.to_string(),
        Day::Unplaced => "unplaced".to_owned(),
    }
}

impl Counts {
    fn note(&mut self, sent: &Sent, fate: &Fate, received_ms: i64) {
        match fate {
            Fate::Ok => {
                self.acknowledged += 1;
                if let Some(facts) = &sent.facts {
                    self.add(facts, received_ms);
                }
            }
            Fate::Invalid { code } => {
                *self.invalid.entry(code.clone()).or_default() += 1;
                self.invalid_in_doubt += u64::from(sent.doubts);
            }
            Fate::NotStored => self.not_stored += 1,
            Fate::Unknown => self.unknown += 1,
            Fate::Refused | Fate::NotSent => {}
        }
        if let Some(visit) = sent.facts.and_then(|facts| facts.visit) {
            let open = self.open.entry(visit.session).or_default();
            open.settled += 1;
            open.acknowledged += u64::from(*fate == Fate::Ok);
            open.total = open.total.or(visit.total);
            if open.total == Some(open.settled) {
                let events = open.acknowledged;
                self.open.remove(&visit.session);
                self.close(visit.session, events);
            }
        }
    }

    fn add(&mut self, facts: &Facts, received_ms: i64) {
        self.types[facts.kind] += 1;
        match facts.page {
            Some(page) => self.pages[page] += 1,
            None => self.without_page += 1,
        }
        *self.days.entry(Day::of(facts.time_ms, received_ms)).or_default() += 1;
        self.without_session += u64::from(facts.visit.is_none());
        self.quantity = self.quantity.saturating_add(facts.quantity);
        self.revenue_cents = self.revenue_cents.saturating_add(facts.revenue_cents);
    }

    /// Session `number` ends with `events` acknowledged events.
    fn close(&mut self, number: u64, events: u64) {
        if events == 0 {
            return;
        }
        *self.by_events.entry(events).or_default() += 1;
        if self.closed.as_ref().is_some_and(|closed| closed.len() == MOST_NAMED_SESSIONS) {
            self.closed = None;
        }
        if let Some(closed) = &mut self.closed {
            closed.insert(number, events);
        }
    }
}

/// A ground truth that can't be kept.
#[derive(Debug, thiserror::Error)]
#[error("--ground-truth {} can't be written: {source}", path.display())]
pub struct TruthError {
    path: PathBuf,
    #[source]
    source: io::Error,
}

/// A file that appears whole, or not at all. Its text is collected beside it, under the same name with `.part`.
#[derive(Debug)]
pub(super) struct TruthFile {
    path: PathBuf,
    part: PathBuf,
    file: File,
}

impl TruthFile {
    /// Makes sure that the file can be written in the end. Blocks.
    pub(super) fn open(path: &Path) -> Result<Self, TruthError> {
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let file = if path.is_dir() { Err(io::ErrorKind::IsADirectory.into()) } else { File::create(&part) };
        let file = file.map_err(|source| TruthError { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), part, file })
    }

    /// Blocks until `truth` is on the disk.
    pub(super) fn write(mut self, truth: &GroundTruth) -> Result<(), TruthError> {
        let text = serde_json::to_vec_pretty(truth).unwrap_or_else(|error| panic!("numbers: {error}"));
        let mut write = || {
            self.file.write_all(&text)?;
            self.file.write_all(b"\n")?;
            self.file.sync_all()?;
            std::fs::rename(&self.part, &self.path)?;
            let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
            File::open(folder.unwrap_or(Path::new(".")))?.sync_all()
        };
        write().map_err(|source| TruthError { path: self.path.clone(), source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::generator::facts::Visit;

    const NOON: i64 = 1_705_320_000_000;

    fn truth() -> Truth {
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let names = Names {
            types: texts(&["view", "purchase", "never"]),
            pages: texts(&["/home", "/x"]),
            sessions: Vec::new(),
            run: "r".to_owned(),
        };
        Truth::new(names, 9)
    }

    fn event(session: u64, total: Option<u64>) -> Sent {
        let facts = Facts {
            kind: 0,
            page: Some(1),
            visit: Some(Visit { session, total }),
            time_ms: NOON,
            quantity: 2,
            revenue_cents: 150,
        };
        Sent { facts: Some(facts), ..Sent::default() }
    }

    #[test]
    fn each_acknowledged_event_is_counted_once_by_everything() {
        let truth = truth();
        let other = Facts { kind: 1, page: None, visit: None, time_ms: -1, quantity: 0, revenue_cents: 0 };
        let other = Sent { facts: Some(other), ..Sent::default() };
        let invalid = Sent { doubts: 2, ..Sent::default() };
        let code = Fate::Invalid { code: "empty".to_owned() };
        let events = [event(4, None), event(4, None), event(5, None), other, invalid, event(6, None)];
        let fates = [Fate::Ok, Fate::Unknown, Fate::Ok, Fate::Ok, code, Fate::NotStored].map(Some);
        truth.note(&events, &fates, NOON);
        truth.note(&[event(4, Some(3)), event(5, None)], &[Some(Fate::Ok), None], NOON);
        truth.note(&[event(5, Some(2))], &[Some(Fate::Refused)], NOON);
        truth.note_copies(&[Some(Fate::Ok), None, Some(Fate::Unknown), Some(Fate::Ok)]);
        truth.note_resent(3);
        let counted = |pairs: &[(&str, u64)]| -> BTreeMap<String, u64> {
            pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
        };
        let expected = GroundTruth {
            run: "r".to_owned(),
            seed: 9,
            acknowledged: 4,
            by_type: counted(&[("view", 3), ("purchase", 1)]),
            by_day: counted(&[("2024-01-15", 3), ("unplaced", 1)]),
            by_page: counted(&[("/x", 3)]),
            without_page: 1,
            sessions: Sessions {
                count: 2,
                by_events: [(1, 1), (2, 1)].into(),
                without: 1,
                events: Some(counted(&[("s-r-4", 2), ("s-r-5", 1)])),
            },
            quantity: 6,
            revenue_cents: 450,
            invalid_by_code: counted(&[("empty", 1)]),
            not_stored: 1,
            unknown: 1,
            invalid_in_doubt: 2,
            resent: 3,
            duplicates: Duplicates { acknowledged: 2, unknown: 1 },
        };
        assert_eq!(truth.result(), expected);
    }

    #[test]
    fn sessions_that_are_over_are_not_kept() {
        let truth = truth();
        for session in 0..20_000 {
            truth.note(
                &[event(session, None), event(session, Some(2))],
                &[Some(Fate::Ok), Some(Fate::Ok)],
                NOON,
            );
            assert!(truth.lock().open.is_empty());
        }
        assert!(truth.lock().closed.is_none());
        let sessions = truth.result().sessions;
        assert_eq!(
            (sessions.count, sessions.by_events, sessions.events),
            (20_000, [(2, 20_000)].into(), None)
        );
    }

    #[test]
    fn the_file_appears_whole_and_a_place_that_takes_none_is_named_at_once() {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("truth.json");
        std::fs::write(&path, "of the last run").expect("write");
        let file = TruthFile::open(&path).expect("opened");
        assert_eq!(std::fs::read_to_string(&path).expect("read"), "of the last run");
        let result = truth().result();
        file.write(&result).expect("written");
        let text = std::fs::read_to_string(&path).expect("read");
        assert_eq!(serde_json::from_str::<GroundTruth>(&text).expect("read back"), result);
        assert_eq!(std::fs::read_dir(folder.path()).expect("folder").count(), 1);
        for bad in [folder.path().to_owned(), folder.path().join("none/truth.json")] {
            let message = TruthFile::open(&bad).expect_err("refused").to_string();
            assert!(message.contains(bad.to_str().expect("UTF-8")), "{message}");
        }
    }
}
