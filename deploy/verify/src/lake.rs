//! The lake as a reader sees it: what lies below the day folders, and what is in the files. Reads only.

use std::collections::BTreeMap;
use std::future::Future;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use arrow_array::cast::AsArray;
use arrow_array::types::{Int32Type, Int64Type, TimestampMillisecondType};
use arrow_array::{
    Array, BinaryArray, Int32Array, Int64Array, RecordBatch, StringArray, TimestampMillisecondArray,
};
use bytes::Bytes;
use futures::TryStreamExt;
use millrace_common::backoff::Backoff;
use millrace_common::event::day::Day;
use millrace_common::event::{ClientColumnReader, FIELDS, RebuildError, canonical_hash, column, rebuild};
use millrace_common::lake::Lake;
use millrace_common::window;
use millrace_transform::{SOURCE_COLUMNS, raw};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::Error;
use crate::account::{Fingerprint, RowFact};
use crate::chain::Footer;
use crate::columns::Columns;
use crate::finding::{FindingKind, Findings};
use crate::ledger::{LedgerFact, id_key};

/// How long a request to the store is repeated before the check gives up.
const STORE_PATIENCE: Duration = Duration::from_secs(60);
const ROWS_AT_ONCE: usize = 8192;

/// An object below the day folders.
#[derive(Debug, Clone)]
pub(crate) struct LakeObject {
    /// Below the lake's prefix.
    pub(crate) key: String,
    pub(crate) location: Path,
    pub(crate) bytes: u64,
}

/// Everything below `year=*`, by key.
pub(crate) async fn list(lake: &Lake) -> Result<BTreeMap<String, LakeObject>, Error> {
    let objects: Vec<ObjectMeta> =
        patiently(|| async { lake.store.list(Some(&lake.prefix)).try_collect().await })
            .await
            .map_err(|source| Error::Lake { action: format!("listing {}", lake.url), source })?;
    let skip = if lake.prefix.as_ref().is_empty() { 0 } else { lake.prefix.as_ref().len() + 1 };
    let below = |object: ObjectMeta| {
        let key = object.location.as_ref().get(skip..)?.to_owned();
        key.starts_with("year=")
            .then(|| (key.clone(), LakeObject { key, bytes: object.size, location: object.location }))
    };
    Ok(objects.into_iter().filter_map(below).collect())
}

/// The bytes at `location`; `None` when there is nothing.
pub(crate) async fn get(lake: &Lake, location: &Path) -> Result<Option<Bytes>, Error> {
    let read = || async {
        match lake.store.get(location).await {
            Ok(found) => found.bytes().await.map(Some),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    };
    patiently(read)
        .await
        .map_err(|source| Error::Lake { action: format!("reading {location} of {}", lake.url), source })
}

/// Repeats a request that failed for a while: a store may be restarting.
async fn patiently<T, F>(request: impl Fn() -> F) -> object_store::Result<T>
where
    F: Future<Output = object_store::Result<T>>,
{
    let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
    let deadline = tokio::time::Instant::now() + STORE_PATIENCE;
    loop {
        match request().await {
            Err(error) if is_passing(&error) && tokio::time::Instant::now() < deadline => {
                tracing::warn!(%error, "the lake can't be read, trying again");
                tokio::time::sleep(backoff.next_wait()).await;
            }
            done => return done,
        }
    }
}

fn is_passing(error: &object_store::Error) -> bool {
    matches!(error, object_store::Error::Generic { .. })
}

/// The slot and the place that a file's rows must have.
#[derive(Debug, Clone)]
pub(crate) struct Expected {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) folder: String,
    /// Index of the file in [`RowFact`].
    pub(crate) file: u32,
    /// Collect [`LedgerFact`]s.
    pub(crate) for_ledger: bool,
    pub(crate) columns: Arc<Columns>,
    /// The times that rows are filed by are known.
    pub(crate) knows_days: bool,
    /// Offsets of the rows whose keys are wanted, as evidence of records that are gone.
    pub(crate) keys_of: Range<i64>,
}

/// What a file's rows say.
#[derive(Debug, Default)]
pub(crate) struct FileRows {
    pub(crate) rows: Vec<RowFact>,
    pub(crate) unplaced: u64,
    /// The first offset and the number of rows in the unplaced folder whose own day can be trusted.
    pub(crate) needlessly_unplaced: Option<(i64, u64)>,
    pub(crate) ledger: Vec<LedgerFact>,
    /// Offset and [`window::hash_of`] of the keys that were wanted.
    pub(crate) keys: Vec<(i64, u128)>,
    pub(crate) findings: Findings,
}

/// A file that can't be taken for Parquet with a lake's columns.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error(transparent)]
    Parquet(#[from] parquet::errors::ParquetError),
    #[error(transparent)]
    Arrow(#[from] arrow_schema::ArrowError),
    #[error(transparent)]
    Columns(#[from] RebuildError),
    #[error("column {name} is missing or has another type than {expected}")]
    Column { name: &'static str, expected: &'static str },
}

/// A file that was opened: its footer was read.
#[derive(Debug)]
pub(crate) struct OpenFile(ParquetRecordBatchReaderBuilder<Bytes>);

impl OpenFile {
    pub(crate) fn open(bytes: Bytes) -> Result<Self, FileError> {
        Ok(Self(ParquetRecordBatchReaderBuilder::try_new(bytes)?))
    }

    pub(crate) fn row_count(&self) -> i64 {
        self.0.metadata().file_metadata().num_rows()
    }

    /// Errors: what is missing or wrong in it, for people.
    pub(crate) fn footer(&self) -> Result<Footer, String> {
        let pairs = self.0.metadata().file_metadata().key_value_metadata();
        let pairs = pairs.into_iter().flatten();
        let pairs = pairs.filter_map(|pair| Some((pair.key.as_str(), pair.value.as_deref()?)));
        Footer::read(&pairs.collect())
    }

    /// Reads all rows. CPU bound.
    pub(crate) fn rows(
        self,
        name: &str,
        footer: &Footer,
        expected: &Expected,
    ) -> Result<FileRows, FileError> {
        let times = [column::RECEIVED_TIME, column::EVENT_TIME, raw::column::TIMESTAMP];
        let keys = [column::PACKAGE_ID, raw::column::KEY];
        let client = [column::TYPE, column::ID, column::EXTRA];
        let client = client.into_iter().chain(FIELDS.iter().map(|field| field.name));
        let columns = &expected.columns;
        let wanted: Vec<&str> = SOURCE_COLUMNS
            .into_iter()
            .chain(times)
            .chain(keys.into_iter().filter(|_| columns.rebuild || !expected.keys_of.is_empty()))
            .chain(client.filter(|_| columns.rebuild))
            .chain(columns.names())
            .collect();
        let mask = ProjectionMask::columns(self.0.parquet_schema(), wanted);
        let mut judge = Judge { name, footer, expected, last: None, rows: FileRows::default() };
        for batch in self.0.with_projection(mask).with_batch_size(ROWS_AT_ONCE).build()? {
            judge.batch(&batch?)?;
        }
        Ok(judge.rows)
    }
}

struct Judge<'a> {
    name: &'a str,
    footer: &'a Footer,
    expected: &'a Expected,
    /// The last row's day, and whether it is the folder's: most rows of a file share it.
    last: Option<(Day, bool)>,
    rows: FileRows,
}

impl Judge<'_> {
    fn batch(&mut self, batch: &RecordBatch) -> Result<(), FileError> {
        let place = PlaceColumns::new(batch)?;
        let made = self.expected.columns.rows_of(batch)?;
        let first = self.rows.rows.len();
        let facts = made.iter().enumerate();
        let facts = facts.map(|(row, made)| RowFact::new(place.offset.value(row), *made, self.expected.file));
        self.rows.rows.extend(facts);
        if self.expected.columns.rebuild {
            self.rebuild(batch, first)?;
        }
        // What the built-in transforms file their rows by.
        let received = times(batch, column::RECEIVED_TIME).or_else(|| times(batch, raw::column::TIMESTAMP));
        let times = times(batch, column::EVENT_TIME).or(received);
        let keys = Keys::of(batch).filter(|_| !self.expected.keys_of.is_empty());
        for row in 0..batch.num_rows() {
            let offset = place.offset.value(row);
            if self.expected.knows_days
                && let (Some(times), Some(received)) = (times, received)
            {
                let received_ms = if received.is_valid(row) { received.value(row) } else { -1 };
                // What has no time is filed like one that can't be trusted.
                let time_ms = if times.is_valid(row) { times.value(row) } else { i64::MIN };
                self.day(offset, Day::of(time_ms, received_ms));
            }
            if self.expected.keys_of.contains(&offset)
                && let Some(key) = keys.as_ref().and_then(|keys| keys.at(row))
            {
                self.rows.keys.push((offset, window::hash_of(key)));
            }
            self.place(&place, row);
        }
        if self.expected.folder == Day::Unplaced.to_string() {
            self.rows.unplaced += batch.num_rows() as u64;
        }
        Ok(())
    }

    /// Sets the content of the rows from number `first` on: what the client sent.
    fn rebuild(&mut self, batch: &RecordBatch, first: usize) -> Result<(), FileError> {
        let client = ClientColumnReader::new(batch)?;
        let received = times(batch, column::RECEIVED_TIME)
            .ok_or(FileError::Column { name: column::RECEIVED_TIME, expected: "milliseconds in UTC" })?;
        for (row, fact) in self.rows.rows[first..].iter_mut().enumerate() {
            let received_ms = if received.is_valid(row) { received.value(row) } else { -1 };
            let columns = client.row(row);
            let rebuilt = rebuild(&columns).ok().and_then(|json| canonical_hash(json.as_bytes()).ok());
            let Some(hash) = rebuilt else {
                fact.content = Fingerprint::NO_EVENT;
                continue;
            };
            fact.content = Fingerprint::of_event(&hash, received_ms);
            if self.expected.for_ledger {
                self.rows.ledger.push(LedgerFact { hash, package_id: id_key(&columns.package_id) });
            }
        }
        Ok(())
    }

    fn place(&mut self, place: &PlaceColumns<'_>, index: usize) {
        let offset = place.offset.value(index);
        let (topic, partition) = (place.topic.value(index), place.partition.value(index));
        if (topic, partition) != (self.expected.topic.as_str(), self.expected.partition) {
            self.rows.findings.add(FindingKind::Misfiled, || {
                format!("a row of {topic}/{partition} {offset} in {}", self.name)
            });
        }
        if !self.footer.range.contains(&offset) {
            let range = &self.footer.range;
            self.rows.findings.add(FindingKind::OutsideRange, || {
                format!("offset {offset}, range {} to {}, in {}", range.start, range.end, self.name)
            });
        }
    }

    fn day(&mut self, offset: i64, day: Day) {
        let at_home = match self.last {
            Some((last, at_home)) if last == day => at_home,
            _ => day.to_string() == self.expected.folder,
        };
        self.last = Some((day, at_home));
        if at_home {
            return;
        }
        if self.expected.folder == Day::Unplaced.to_string() {
            self.rows.needlessly_unplaced.get_or_insert((offset, 0)).1 += 1;
        } else {
            self.rows.findings.add(FindingKind::Misplaced, || {
                format!("offset {offset} belongs in {day}, lies in {}", self.name)
            });
        }
    }
}

/// The column that holds the records' keys: the duplicate rule goes by them.
enum Keys<'a> {
    Text(&'a StringArray),
    Bytes(&'a BinaryArray),
}

impl<'a> Keys<'a> {
    fn of(batch: &'a RecordBatch) -> Option<Self> {
        let text = batch.column_by_name(column::PACKAGE_ID).and_then(|array| array.as_string_opt());
        let bytes = || batch.column_by_name(raw::column::KEY).and_then(|array| array.as_binary_opt());
        text.map(Self::Text).or_else(|| bytes().map(Self::Bytes))
    }

    fn at(&self, row: usize) -> Option<&[u8]> {
        match self {
            Self::Text(array) => array.is_valid(row).then(|| array.value(row).as_bytes()),
            Self::Bytes(array) => array.is_valid(row).then(|| array.value(row)),
        }
    }
}

struct PlaceColumns<'a> {
    topic: &'a StringArray,
    partition: &'a Int32Array,
    offset: &'a Int64Array,
}

/// A column of times, if there is one of this name.
fn times<'a>(batch: &'a RecordBatch, name: &str) -> Option<&'a TimestampMillisecondArray> {
    batch.column_by_name(name)?.as_primitive_opt::<TimestampMillisecondType>()
}

impl<'a> PlaceColumns<'a> {
    fn new(batch: &'a RecordBatch) -> Result<Self, FileError> {
        let find = |name, expected| {
            let array = batch.column_by_name(name).map(Arc::as_ref);
            (array, FileError::Column { name, expected })
        };
        let (topic, error) = find(column::KAFKA_TOPIC, "text without nulls");
        let topic = required(topic.and_then(|array| array.as_string_opt::<i32>()), error)?;
        let (partition, error) = find(column::KAFKA_PARTITION, "32-bit integers without nulls");
        let partition = required(partition.and_then(|array| array.as_primitive_opt::<Int32Type>()), error)?;
        let (offset, error) = find(column::KAFKA_OFFSET, "64-bit integers without nulls");
        let offset = required(offset.and_then(|array| array.as_primitive_opt::<Int64Type>()), error)?;
        Ok(Self { topic, partition, offset })
    }
}

fn required<A: Array>(array: Option<&A>, error: FileError) -> Result<&A, FileError> {
    array.filter(|array| array.null_count() == 0).ok_or(error)
}
