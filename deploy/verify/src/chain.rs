//! What keys and footers say about the flushes of a slot, checked against each other: invariant I1, the chain of
//! a slot is contiguous. Pure.

use std::collections::BTreeMap;
use std::ops::Range;

use millrace_common::event::footer;
use millrace_common::types::NextOffset;

use crate::finding::{FindingKind, Findings};

/// A flush opens at most so many days; the rows of further days are unplaced (architecture, The lake).
const MOST_DAYS_OF_A_FLUSH: usize = 64;

/// A file's key below the lake's prefix, taken apart:
/// `<folder>/<pipeline id>-<topic number>-<partition>-<start offset>-<number>.parquet`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    pub(crate) folder: String,
    pub(crate) pipeline: String,
    pub(crate) topic: u16,
    pub(crate) partition: i32,
    pub(crate) start: i64,
}

impl Key {
    /// `None` if Millrace gives no such keys.
    pub(crate) fn parse(key: &str) -> Option<Self> {
        let (folder, name) = key.rsplit_once('/')?;
        let mut parts = name.strip_suffix(".parquet")?.rsplitn(5, '-');
        let _number: u32 = parts.next()?.parse().ok()?;
        let start = parts.next()?.parse().ok()?;
        let partition = parts.next()?.parse().ok()?;
        let topic = parts.next()?.parse().ok()?;
        let pipeline = parts.next()?.to_owned();
        Some(Self { folder: folder.to_owned(), pipeline, topic, partition, start })
    }
}

/// What a file's footer says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) pipeline: String,
    pub(crate) topic: u16,
    pub(crate) partition: i32,
    pub(crate) epoch: u64,
    pub(crate) sequence: u64,
    /// The range of the whole flush.
    pub(crate) range: Range<i64>,
}

impl Footer {
    /// Reads the footer's pairs. Errors: which of them is missing or wrong, for people.
    pub(crate) fn read(pairs: &BTreeMap<&str, &str>) -> Result<Self, String> {
        fn number<T: std::str::FromStr>(pairs: &BTreeMap<&str, &str>, key: &str) -> Result<T, String> {
            let text = *pairs.get(key).ok_or_else(|| format!("{key} is missing"))?;
            text.parse().map_err(|_| format!("{key} is {text:?}, expected a number"))
        }
        let text = |key: &str| pairs.get(key).map(|text| (*text).to_owned());
        let pipeline = text(footer::PIPELINE).ok_or_else(|| format!("{} is missing", footer::PIPELINE))?;
        let slot = text(footer::SLOT).ok_or_else(|| format!("{} is missing", footer::SLOT))?;
        let local = slot.split_once('-').and_then(|(topic, partition)| {
            Some((topic.parse().ok()?, partition.parse().ok().filter(|number| *number >= 0)?))
        });
        let (topic, partition) = local
            .ok_or_else(|| format!("{} is {slot:?}, expected <topic number>-<partition>", footer::SLOT))?;
        let range: Range<i64> = number(pairs, footer::FIRST_OFFSET)?..number(pairs, footer::NEXT_OFFSET)?;
        if range.start < 0 || range.is_empty() {
            return Err(format!("its range is {} to {}, expected a rising one", range.start, range.end));
        }
        Ok(Self {
            pipeline,
            topic,
            partition,
            epoch: number(pairs, footer::EPOCH)?,
            sequence: number(pairs, footer::SEQUENCE)?,
            range,
        })
    }
}

/// A file of the slot that is being accounted.
#[derive(Debug, Clone)]
pub(crate) struct SlotFile {
    pub(crate) name: String,
    /// The file lies in the unplaced rows' folder.
    pub(crate) unplaced: bool,
    pub(crate) footer: Footer,
    /// The highest offset among its rows.
    pub(crate) last_offset: Option<i64>,
    /// Offsets of rows that are unplaced although their own day can be trusted: the first, and how many.
    pub(crate) needlessly_unplaced: Option<(i64, u64)>,
}

struct Flush<'a> {
    epoch: u64,
    range: Range<i64>,
    files: Vec<&'a SlotFile>,
}

/// Checks the chain of one slot and returns the union of its flushes' ranges, ascending. `place` is the slot's
/// name for people; `cursor` its lake cursor, read after the files.
pub(crate) fn check(
    place: &str,
    files: &[SlotFile],
    cursor: NextOffset,
    findings: &mut Findings,
) -> Vec<Range<i64>> {
    let mut flushes: BTreeMap<u64, Flush<'_>> = BTreeMap::new();
    for file in files {
        let Footer { epoch, sequence, range, .. } = &file.footer;
        let flush = flushes.entry(*sequence).or_insert_with(|| Flush {
            epoch: *epoch,
            range: range.clone(),
            files: Vec::new(),
        });
        if (flush.epoch, &flush.range) != (*epoch, range) {
            findings.add(FindingKind::BrokenChain, || {
                format!(
                    "{place} flush {sequence} is {} to {} of epoch {} in {}, but {} to {} of epoch {epoch} in {}",
                    flush.range.start,
                    flush.range.end,
                    flush.epoch,
                    flush.files.first().map_or("another file", |first| first.name.as_str()),
                    range.start,
                    range.end,
                    file.name
                )
            });
        }
        // Rows beyond the cursor are found one by one.
        if range.end > cursor.0 && file.last_offset.is_none_or(|last| last < cursor.0) {
            findings.add(FindingKind::BrokenChain, || {
                format!("{place} flush {sequence} ends at {}, cursor {cursor}: {}", range.end, file.name)
            });
        }
        flush.files.push(file);
    }
    for flush in flushes.values() {
        check_unplaced(place, flush, findings);
    }
    for ((sequence, flush), (next_sequence, next)) in flushes.iter().zip(flushes.iter().skip(1)) {
        let contiguous = next.range.start == flush.range.end;
        // Flushes without rows leave no file, so a gap between sequences may have one in offsets.
        let overlaps = next.range.start < flush.range.end;
        if overlaps || (next_sequence - sequence == 1 && !contiguous) || next.epoch < flush.epoch {
            findings.add(FindingKind::BrokenChain, || {
                format!(
                    "{place} flush {sequence} is {} to {} of epoch {}, flush {next_sequence} is {} to {} of epoch {}",
                    flush.range.start,
                    flush.range.end,
                    flush.epoch,
                    next.range.start,
                    next.range.end,
                    next.epoch
                )
            });
        }
    }
    union(files.iter().map(|file| file.footer.range.clone()).collect())
}

/// A row whose own day can be trusted is only unplaced when its flush has as many days as it may.
fn check_unplaced(place: &str, flush: &Flush<'_>, findings: &mut Findings) {
    let days = flush.files.iter().filter(|file| !file.unplaced).count();
    if days >= MOST_DAYS_OF_A_FLUSH {
        return;
    }
    for file in &flush.files {
        let Some((offset, count)) = file.needlessly_unplaced else { continue };
        findings.add_many(FindingKind::Misplaced, count, || {
            format!("{place} {offset} (the first of {count}) is unplaced without need in {}", file.name)
        });
    }
}

fn union(mut ranges: Vec<Range<i64>>) -> Vec<Range<i64>> {
    ranges.sort_unstable_by_key(|range| range.start);
    let mut union: Vec<Range<i64>> = Vec::new();
    for range in ranges {
        match union.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => union.push(range),
        }
    }
    union
}

/// Offsets between the first of `ranges` and `gone_until` that no range holds: what is gone from the raw topic
/// and not proven by a file.
pub(crate) fn gaps_below(ranges: &[Range<i64>], gone_until: i64) -> Vec<Range<i64>> {
    let ends = ranges.iter().map(|range| range.end);
    let starts = ranges.iter().skip(1).map(|range| range.start).chain([gone_until]);
    ends.zip(starts).map(|(end, start)| end..start.min(gone_until)).filter(|gap| !gap.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(sequence: u64, epoch: u64, range: Range<i64>) -> SlotFile {
        SlotFile {
            name: format!("{sequence}.parquet"),
            unplaced: false,
            last_offset: Some(range.end - 1),
            footer: Footer { pipeline: "p-1".into(), topic: 0, partition: 3, epoch, sequence, range },
            needlessly_unplaced: None,
        }
    }

    fn faults(files: &[SlotFile]) -> Vec<(FindingKind, u64)> {
        let mut findings = Findings::default();
        check("raw/3", files, NextOffset(100), &mut findings);
        findings.iter().map(|(kind, finding)| (kind, finding.count)).collect()
    }

    #[test]
    fn a_contiguous_chain_is_sound_whatever_its_order_and_its_flushes_without_rows() {
        let files = [
            file(4, 2, 30..40),
            file(1, 1, 5..10),
            file(2, 1, 10..20),
            file(2, 1, 10..20),
            file(6, 2, 40..100),
        ];
        assert_eq!(faults(&files), []);
        let mut findings = Findings::default();
        let ranges = check("raw/3", &files, NextOffset(100), &mut findings);
        assert_eq!(ranges, [5..20, 30..100]);
        let gaps =
            |gone_until| -> Vec<i64> { gaps_below(&ranges, gone_until).into_iter().flatten().collect() };
        assert_eq!(gaps(23), [20, 21, 22]);
        assert_eq!(gaps(50), (20..30).collect::<Vec<_>>());
        assert_eq!(gaps(102), (20..30).chain([100, 101]).collect::<Vec<_>>());
        assert!(gaps(0).is_empty());
    }

    #[test]
    fn overlaps_gaps_contradictions_and_falling_epochs_break_it() {
        let broken = [(FindingKind::BrokenChain, 1)];
        assert_eq!(faults(&[file(1, 1, 0..10), file(2, 1, 9..20)]), broken, "overlap");
        assert_eq!(
            faults(&[file(1, 1, 0..10), file(4, 1, 9..20)]),
            broken,
            "overlap beyond flushes without rows"
        );
        assert_eq!(faults(&[file(1, 1, 0..10), file(2, 1, 11..20)]), broken, "gap");
        assert_eq!(faults(&[file(1, 1, 0..10), file(1, 1, 0..11)]), broken, "two ranges of one flush");
        assert_eq!(faults(&[file(1, 1, 0..10), file(1, 2, 0..10)]), broken, "two epochs of one flush");
        assert_eq!(faults(&[file(1, 2, 0..10), file(2, 1, 10..20)]), broken, "falling epoch");
        let beyond = SlotFile { last_offset: Some(99), ..file(1, 1, 0..101) };
        assert_eq!(faults(&[beyond]), broken, "beyond the cursor");
    }

    #[test]
    fn rows_are_only_unplaced_without_need_when_the_flush_had_room() {
        let unplaced = SlotFile { unplaced: true, needlessly_unplaced: Some((3, 7)), ..file(1, 1, 0..10) };
        let with_days = |days: usize| {
            let mut files = vec![file(1, 1, 0..10); days];
            files.push(unplaced.clone());
            faults(&files)
        };
        assert_eq!(with_days(63), [(FindingKind::Misplaced, 7)]);
        assert_eq!(with_days(64), []);
    }

    #[test]
    fn keys_are_taken_apart_as_they_are_put_together() {
        let slot = "click-stream-3f-1/2-5".parse().expect("slot");
        let day = millrace_common::event::day::Day::Unplaced;
        let text = millrace_common::event::day::final_key(&day, &slot, NextOffset(42), 1);
        let key = Key::parse(&text).expect("key");
        assert_eq!(
            (key.pipeline.as_str(), key.topic, key.partition, key.start),
            ("click-stream-3f-1", 2, 5, 42)
        );
        assert_eq!(key.folder, day.to_string());
        for other in ["year=2024/x.parquet", "year=2024/p-1-0-0-5-0.txt", "p-1-0-0-5-0.parquet", ""] {
            assert_eq!(Key::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_footer_without_sense_is_refused_by_name() {
        let good = [
            (footer::PIPELINE, "p-1"),
            (footer::SLOT, "0-3"),
            (footer::EPOCH, "2"),
            (footer::SEQUENCE, "9"),
            (footer::FIRST_OFFSET, "10"),
            (footer::NEXT_OFFSET, "20"),
        ];
        let pairs: BTreeMap<&str, &str> = good.into_iter().collect();
        assert_eq!(Footer::read(&pairs).expect("footer").range, 10..20);
        for (key, bad) in
            [(footer::SLOT, "3"), (footer::SLOT, "0--3"), (footer::EPOCH, "-2"), (footer::NEXT_OFFSET, "10")]
        {
            let mut pairs = pairs.clone();
            pairs.insert(key, bad);
            assert!(Footer::read(&pairs).is_err(), "{key} = {bad}");
        }
        for (key, _) in good {
            let mut pairs = pairs.clone();
            pairs.remove(key);
            assert!(Footer::read(&pairs).expect_err("missing").contains(key));
        }
    }
}
