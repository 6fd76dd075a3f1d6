//! Watches the cluster from outside: the leader's page and Kafka's committed records, every [`POLL`]. It believes the
//! page of who owns what, and Kafka alone of what is committed. What must hold at any moment is checked here: a slot's
//! epoch and cursors never fall.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::sync::watch;

use crate::api::{Pages, Slot, Worker};
use crate::cursors::{Cursors, Place, Reader};
use crate::recovery::Sink;
use crate::timeline::Timeline;

/// Pause between two looks: with the look itself, the resolution of everything that is measured.
pub(crate) const POLL: Duration = Duration::from_millis(25);
/// How long the raw topic's ends are remembered.
const REMEMBERED: Duration = Duration::from_secs(60);

/// What is known at a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct View {
    /// Which master leads; `None` while none answers as a leader.
    pub(crate) leader: Option<usize>,
    /// As the latest leader told.
    pub(crate) workers: Vec<Worker>,
    pub(crate) slots: Vec<Slot>,
    /// By partition, as Kafka told last.
    pub(crate) partitions: BTreeMap<i32, Partition>,
    /// Kafka answered the latest look.
    pub(crate) kafka_answers: bool,
    /// What must never happen, and did.
    pub(crate) violations: Vec<String>,
}

/// A partition, by Kafka.
#[derive(Debug, Clone)]
pub(crate) struct Partition {
    pub(crate) cursors: Option<Cursors>,
    pub(crate) end: i64,
    /// Nothing on the raw topic is older than [`Slack::topic`] and not on the enriched one.
    topic_is_level: bool,
    /// The same of the lake.
    lake_is_level: bool,
    moved_at: Instant,
    /// The longest time between two moves of the topic cursor, since this was asked to begin anew.
    longest_pause: Duration,
}

/// How far behind a sink may be and still be level.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Slack {
    pub(crate) topic: Duration,
    pub(crate) lake: Duration,
}

impl View {
    /// The one that is alive, if the process has registered more than once.
    pub(crate) fn worker(&self, pid: u32) -> Option<&Worker> {
        let mut registered = self.workers.iter().filter(|worker| worker.pid == pid);
        registered.clone().find(|worker| worker.is_alive()).or_else(|| registered.next())
    }

    pub(crate) fn is_alive(&self, pid: u32) -> bool {
        self.worker(pid).is_some_and(Worker::is_alive)
    }

    /// The partitions that the worker with this process id owns and runs, by the page and by Kafka's record.
    pub(crate) fn runs(&self, pid: u32) -> Vec<i32> {
        let Some(worker) = self.worker(pid) else { return Vec::new() };
        let own = self.slots.iter().filter(|slot| {
            slot.owner.as_ref() == Some(&worker.id)
                && slot.state == "running"
                && self.cursors(slot.partition).is_some_and(|cursors| cursors.epoch == slot.epoch)
        });
        own.map(|slot| slot.partition).collect()
    }

    pub(crate) fn cursors(&self, partition: i32) -> Option<Cursors> {
        self.partitions.get(&partition)?.cursors
    }

    pub(crate) fn slot(&self, partition: i32) -> Option<&Slot> {
        self.slots.iter().find(|slot| slot.partition == partition)
    }

    /// The sink is level everywhere.
    pub(crate) fn is_level(&self, sink: Sink) -> bool {
        let is_level = |partition: &Partition| match sink {
            Sink::Topic => partition.topic_is_level,
            Sink::Lake => partition.lake_is_level,
        };
        self.kafka_answers && self.partitions.values().all(is_level)
    }

    pub(crate) fn longest_pause(&self) -> Duration {
        let now = Instant::now();
        let pause = |partition: &Partition| partition.longest_pause.max(now - partition.moved_at);
        self.partitions.values().map(pause).max().unwrap_or_default()
    }

    /// Both sinks hold everything that the raw topic holds.
    pub(crate) fn has_everything(&self) -> bool {
        self.kafka_answers
            && !self.partitions.is_empty()
            && self.partitions.values().all(|partition| {
                partition
                    .cursors
                    .is_some_and(|cursors| cursors.topic >= partition.end && cursors.lake >= partition.end)
            })
    }
}

/// Handle on the watching.
#[derive(Debug, Clone)]
pub(crate) struct Watch {
    view: Arc<watch::Sender<View>>,
    stop: Arc<AtomicBool>,
}

impl Watch {
    /// Begins to watch. It ends with [`Watch::stop`].
    pub(crate) fn start(pages: Pages, reader: Reader, slack: Slack, timeline: &Timeline) -> Self {
        let watch = Self { view: Arc::new(watch::Sender::default()), stop: Arc::default() };
        let (page_watch, page_timeline) = (watch.clone(), timeline.clone());
        tokio::spawn(async move { watch_pages(&pages, &page_watch, &page_timeline).await });
        let (kafka_watch, kafka_timeline) = (watch.clone(), timeline.clone());
        std::thread::spawn(move || watch_kafka(&reader, slack, &kafka_watch, &kafka_timeline));
        watch
    }

    pub(crate) fn stop(&self) {
        self.stop.store(true, Ordering::SeqCst);
    }

    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::SeqCst)
    }

    pub(crate) fn now(&self) -> View {
        self.view.borrow().clone()
    }

    /// Waits until `reached`; when that was seen, or `None` if not within `patience`.
    pub(crate) async fn until(
        &self,
        patience: Duration,
        mut reached: impl FnMut(&View) -> bool,
    ) -> Option<Instant> {
        let mut view = self.view.subscribe();
        let waited = tokio::time::timeout(patience, view.wait_for(|view| reached(view))).await;
        matches!(waited, Ok(Ok(_))).then(Instant::now)
    }

    /// Begins to look for the longest pause anew.
    pub(crate) fn forget_pauses(&self) {
        let now = Instant::now();
        self.view.send_modify(|view| {
            for partition in view.partitions.values_mut() {
                partition.longest_pause = Duration::ZERO;
                partition.moved_at = partition.moved_at.max(now);
            }
        });
    }
}

async fn watch_pages(pages: &Pages, watch: &Watch, timeline: &Timeline) {
    let mut asked = 0;
    while !watch.is_stopped() {
        let found = pages.cluster(asked).await;
        let at = Instant::now();
        match found {
            Some((workers, slots)) => {
                let known = watch.now();
                note_changes(&known, asked, &workers, &slots, at, timeline);
                watch.view.send_modify(|view| {
                    view.leader = Some(asked);
                    view.workers = workers;
                    view.slots = slots;
                });
            }
            None => {
                watch.view.send_if_modified(|view| {
                    let led = view.leader == Some(asked);
                    if led {
                        view.leader = None;
                    }
                    led
                });
                asked = (asked + 1) % pages.len().max(1);
            }
        }
        tokio::time::sleep(POLL).await;
    }
}

fn note_changes(
    known: &View,
    master: usize,
    workers: &[Worker],
    slots: &[Slot],
    at: Instant,
    timeline: &Timeline,
) {
    if known.leader != Some(master) {
        timeline.note(at, "leader", json!({ "master": master }));
    }
    for worker in workers {
        let before = known.workers.iter().find(|known| known.id == worker.id);
        if before.map(|known| &known.state) != Some(&worker.state) {
            let detail = json!({ "worker": worker.id, "pid": worker.pid, "state": worker.state });
            timeline.note(at, "worker", detail);
        }
    }
    for slot in slots {
        if known.slot(slot.partition) != Some(slot) {
            let detail = json!({
                "partition": slot.partition, "owner": slot.owner, "epoch": slot.epoch, "state": slot.state,
                "halt": slot.halt.as_ref().map(|halt| format!("{}: {}", halt.kind, halt.detail)),
            });
            timeline.note(at, "slot", detail);
        }
    }
}

fn watch_kafka(reader: &Reader, slack: Slack, watch: &Watch, timeline: &Timeline) {
    let mut ends = Ends::default();
    while !watch.is_stopped() {
        let asked_at = Instant::now();
        let read = reader.read().and_then(|places| {
            let known = watch.now();
            let has_fallen = places.iter().any(|(number, place)| {
                let before = known.partitions.get(number).and_then(|known| known.cursors);
                before.is_some_and(|before| broken(Some(before), place.cursors.as_ref()).is_some())
            });
            // Only what a stable read tells, too, is true.
            if has_fallen { reader.read_stable() } else { Ok(places) }
        });
        match read {
            Ok(places) => {
                ends.note(asked_at, &places);
                take_in(watch, &places, &ends, slack, timeline);
            }
            Err(error) => watch.view.send_modify(|view| {
                if view.kafka_answers {
                    timeline.note(asked_at, "kafka", json!({ "error": error.to_string() }));
                }
                view.kafka_answers = false;
            }),
        }
        std::thread::sleep(POLL);
    }
}

fn take_in(watch: &Watch, places: &BTreeMap<i32, Place>, ends: &Ends, slack: Slack, timeline: &Timeline) {
    let now = Instant::now();
    watch.view.send_modify(|view| {
        view.kafka_answers = true;
        for (number, place) in places {
            let known = view.partitions.get(number).cloned();
            let before = known.as_ref().and_then(|known| known.cursors);
            let cursors = match &place.cursors {
                Some(Ok(cursors)) => Some(*cursors),
                Some(Err(_)) | None => before,
            };
            if let Some(broken) = broken(before, place.cursors.as_ref()) {
                let text = format!("partition {number}: {broken}");
                if !view.violations.contains(&text) {
                    timeline.say("violation", &text);
                    view.violations.push(text);
                }
            }
            if cursors != before
                && let Some(cursors) = cursors
            {
                let detail = json!({
                    "partition": number, "epoch": cursors.epoch, "topic": cursors.topic, "lake": cursors.lake,
                    "end": place.end,
                });
                timeline.note(now, "commit", detail);
            }
            let moved = cursors.map(|cursors| cursors.topic) != before.map(|before| before.topic);
            let moved_before = known.as_ref().map_or(now, |known| known.moved_at);
            let level = |cursor: Option<i64>, slack| {
                cursor.is_some_and(|cursor| ends.before(now, slack, *number).is_none_or(|end| cursor >= end))
            };
            let partition = Partition {
                cursors,
                end: place.end,
                topic_is_level: level(cursors.map(|cursors| cursors.topic), slack.topic),
                lake_is_level: level(cursors.map(|cursors| cursors.lake), slack.lake),
                moved_at: if moved { now } else { moved_before },
                longest_pause: known.map_or(Duration::ZERO, |known| known.longest_pause).max(if moved {
                    now - moved_before
                } else {
                    Duration::ZERO
                }),
            };
            view.partitions.insert(*number, partition);
        }
    });
}

/// What is wrong with what Kafka says of a record, after `before`.
fn broken(before: Option<Cursors>, now: Option<&Result<Cursors, String>>) -> Option<String> {
    match (now, before) {
        (Some(Ok(now)), Some(before)) => falls(before, *now),
        (Some(Ok(_)), None) | (None, None) => None,
        (Some(Err(error)), _) => Some(error.clone()),
        (None, Some(_)) => Some("the committed record is gone".to_owned()),
    }
}

/// What falls that must only rise.
fn falls(before: Cursors, now: Cursors) -> Option<String> {
    let falls = now.epoch < before.epoch || now.topic < before.topic || now.lake < before.lake;
    let passes = now.lake > now.topic;
    (falls || passes).then(|| format!("its record went from {before:?} to {now:?}"))
}

/// The raw topic's ends of the last while, the oldest first.
#[derive(Debug, Default)]
struct Ends(VecDeque<(Instant, BTreeMap<i32, i64>)>);

impl Ends {
    /// `asked_at`: a moment before the ends were asked for.
    fn note(&mut self, asked_at: Instant, places: &BTreeMap<i32, Place>) {
        self.0.push_back((asked_at, places.iter().map(|(number, place)| (*number, place.end)).collect()));
        while self.0.front().is_some_and(|(at, _)| asked_at - *at > REMEMBERED) {
            self.0.pop_front();
        }
    }

    /// The end of a partition as it was `slack` ago, or the latest known before that.
    fn before(&self, now: Instant, slack: Duration, partition: i32) -> Option<i64> {
        let (_, ends) = self.0.iter().rev().find(|(at, _)| now - *at >= slack)?;
        ends.get(&partition).copied()
    }
}

#[cfg(test)]
impl View {
    /// One slot whose sinks are level: its owner and epoch by the page, epoch and topic cursor by Kafka.
    pub(crate) fn of_one(owner: Option<&str>, epoch: u64, recorded: u64, topic: i64) -> Self {
        let slot = Slot {
            partition: 0,
            owner: owner.map(str::to_owned),
            epoch,
            state: "running".to_owned(),
            halt: None,
            last_commit_at_ms: None,
        };
        let partition = Partition {
            cursors: Some(Cursors { epoch: recorded, topic, lake: topic }),
            end: topic,
            topic_is_level: true,
            lake_is_level: true,
            moved_at: Instant::now(),
            longest_pause: Duration::ZERO,
        };
        let partitions = BTreeMap::from([(0, partition)]);
        Self { leader: Some(0), slots: vec![slot], partitions, kafka_answers: true, ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_and_epochs_only_rise_and_the_lake_stays_behind() {
        let before = Cursors { epoch: 3, topic: 100, lake: 50 };
        assert_eq!(falls(before, Cursors { epoch: 3, topic: 100, lake: 50 }), None);
        assert_eq!(falls(before, Cursors { epoch: 4, topic: 200, lake: 200 }), None);
        for wrong in [
            Cursors { epoch: 2, ..before },
            Cursors { topic: 99, ..before },
            Cursors { lake: 49, ..before },
            Cursors { lake: 101, ..before },
        ] {
            assert!(falls(before, wrong).is_some(), "{wrong:?}");
        }
    }

    #[test]
    fn a_sink_is_compared_with_the_end_as_it_was() {
        let mut ends = Ends::default();
        let now = Instant::now();
        let place = |end| BTreeMap::from([(0, Place { cursors: None, end })]);
        ends.note(now, &place(10));
        ends.note(now + Duration::from_secs(1), &place(20));
        ends.note(now + Duration::from_secs(2), &place(30));
        let at = now + Duration::from_millis(2_500);
        assert_eq!(ends.before(at, Duration::from_secs(1), 0), Some(20));
        assert_eq!(ends.before(at, Duration::ZERO, 0), Some(30));
        assert_eq!(ends.before(at, Duration::from_secs(9), 0), None);
    }
}
