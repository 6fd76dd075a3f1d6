//! Reads the files of one slot, as any reader of the lake would, and awaits those that are about to be published.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use millrace_common::event::day::Day;
use millrace_common::lake::Lake;
use millrace_common::types::NextOffset;

use super::{Scope, SlotTask};
use crate::Error;
use crate::account::{Accountant, RowFact, Sink};
use crate::chain::{Key, SlotFile};
use crate::finding::{FindingKind, Findings};
use crate::lake::{self, Expected, FileRows, LakeObject, OpenFile};
use crate::ledger::Tally;
use crate::pool::{BUDGET_KIB, compute_or_panicked, cores};

/// Between two lists of the lake while a publication is awaited: a store can't be subscribed to.
const LIST_EVERY: Duration = Duration::from_millis(500);

/// What the slot's files hold. `names`, `rows` and `keys` are handed on; the rest stays.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub(super) names: Vec<String>,
    pub(super) rows: Vec<RowFact>,
    pub(super) keys: Vec<(i64, u128)>,
    pub(super) files: Vec<SlotFile>,
    pub(super) unplaced: u64,
    /// How many files were read: the index of the next one.
    count: u32,
}

impl Contents {
    /// The end of the newest flush that is visible.
    pub(super) fn published_until(&self) -> NextOffset {
        NextOffset(self.files.iter().map(|file| file.footer.range.end).max().unwrap_or(0))
    }

    pub(super) async fn read(
        &mut self,
        scope: &Scope<'_>,
        task: &SlotTask,
        objects: Vec<LakeObject>,
        mut tally: Option<&mut Tally>,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let numbered = objects.into_iter().zip(self.count..);
        let mut read = futures::stream::iter(numbered)
            .map(|(object, number)| read_file(scope, task, object, number))
            .buffered(cores());
        while let Some((key, outcome)) = read.try_next().await? {
            self.names.push(key.clone());
            self.count += 1;
            match outcome {
                Ok((file, rows)) => {
                    scope.progress.advance(rows.rows.len() as u64);
                    self.unplaced += rows.unplaced;
                    self.rows.extend(rows.rows);
                    self.keys.extend(rows.keys);
                    self.files.push(file);
                    findings.merge(rows.findings);
                    if let Some(tally) = &mut tally {
                        rows.ledger.iter().for_each(|fact| tally.found(Sink::Lake, fact));
                    }
                }
                Err((kind, detail)) => findings.add(kind, || format!("{key}: {detail}")),
            }
        }
        Ok(())
    }

    /// What is committed may not be published yet. Only the last flush can be in that state, so whatever lies below
    /// the newest one that is visible is missing for good.
    #[expect(clippy::too_many_arguments, reason = "the parts of one slot's check, each borrowed on its own")]
    pub(super) async fn await_publication(
        &mut self,
        scope: &Scope<'_>,
        task: &SlotTask,
        store: &Lake,
        known: &mut BTreeSet<String>,
        accountant: &mut Accountant,
        tally: &mut Option<Tally>,
        findings: &mut Findings,
    ) -> Result<(), Error> {
        let deadline = tokio::time::Instant::now() + scope.settle;
        while accountant.pending().next().is_some() {
            let objects = lake::list(store).await?;
            let is_new = |object: &LakeObject| {
                let ours = |key: Key| {
                    (key.pipeline.as_str(), key.topic, key.partition)
                        == (task.pipeline.as_str(), task.number, task.partition)
                        && task.cursor_of(Sink::Lake).is_some_and(|cursor| key.start < cursor.0)
                };
                !known.contains(&object.key) && Key::parse(&object.key).is_some_and(ours)
            };
            let new: Vec<LakeObject> = objects.into_values().filter(is_new).collect();
            known.extend(new.iter().map(|object| object.key.clone()));
            self.read(scope, task, new, tally.as_mut(), findings).await?;
            accountant.late_rows(std::mem::take(&mut self.names), std::mem::take(&mut self.rows));
            let newest = self.files.iter().map(|file| file.footer.range.start).max();
            let published_soon = accountant
                .pending()
                .next_back()
                .is_some_and(|last| newest.is_none_or(|newest| last >= newest));
            if !published_soon || tokio::time::Instant::now() > deadline {
                break;
            }
            let (topic, partition) = (&task.topic, task.partition);
            scope
                .progress
                .stage(&format!("{topic}/{partition}: waiting for committed files to be published"));
            tokio::time::sleep(LIST_EVERY).await;
        }
        Ok(())
    }
}

type Outcome = Result<(SlotFile, FileRows), (FindingKind, String)>;

async fn read_file(
    scope: &Scope<'_>,
    task: &SlotTask,
    object: LakeObject,
    number: u32,
) -> Result<(String, Outcome), Error> {
    let weight = u32::try_from(object.bytes / 1024 + 1).unwrap_or(u32::MAX).min(BUDGET_KIB);
    // Held until the file is digested. The semaphore is never closed.
    let _permit = scope.budget.acquire_many(weight).await.ok();
    let Some(store) = scope.lake else {
        return Ok((object.key, Err((FindingKind::Unreadable, "the pipeline has no lake".to_owned()))));
    };
    let Some(bytes) = lake::get(store, &object.location).await? else {
        let gone = (FindingKind::Unreadable, "it was listed, but is gone".to_owned());
        return Ok((object.key, Err(gone)));
    };
    let folder = object.key.rsplit_once('/').map_or("", |(folder, _)| folder).to_owned();
    let expected = Expected {
        topic: task.topic.clone(),
        partition: task.partition,
        folder,
        file: number,
        for_ledger: scope.for_ledger,
        columns: Arc::clone(&scope.judges.columns),
        knows_days: scope.judges.knows_days,
        keys_of: task.keys_of(),
    };
    let (key, pipeline, slot) = (object.key.clone(), task.pipeline.clone(), (task.number, task.partition));
    let digested = compute_or_panicked(move || {
        let file = OpenFile::open(bytes).map_err(|error| error.to_string())?;
        let footer = match file.footer() {
            Ok(footer) => footer,
            Err(reason) => return Ok(Err((FindingKind::FooterDisagrees, reason))),
        };
        if (footer.pipeline.as_str(), footer.topic, footer.partition) != (pipeline.as_str(), slot.0, slot.1) {
            let owner = format!("{}/{}-{}", footer.pipeline, footer.topic, footer.partition);
            return Ok(Err((FindingKind::FooterDisagrees, format!("its footer says slot {owner}"))));
        }
        let mut rows = file.rows(&key, &footer, &expected).map_err(|error| error.to_string())?;
        if let Some(start) =
            Key::parse(&key).map(|key| key.start).filter(|start| *start != footer.range.start)
        {
            rows.findings.add(FindingKind::FooterDisagrees, || {
                format!("{key}: its key says start {start}, its footer {}", footer.range.start)
            });
        }
        let file = SlotFile {
            unplaced: expected.folder == Day::Unplaced.to_string(),
            name: key,
            footer,
            last_offset: rows.rows.iter().map(|row| row.offset).max(),
            needlessly_unplaced: rows.needlessly_unplaced,
        };
        Ok(Ok((file, rows)))
    })
    .await;
    let outcome = digested.unwrap_or_else(|reason| Err((FindingKind::Unreadable, reason)));
    Ok((object.key, outcome))
}
