//! Committed files of a lake, read through its store. A final key exists only once its flush is committed, so what is
//! found under one is committed.

use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::sync::Arc;

use arrow_schema::SchemaRef;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use millrace_common::lake::Lake;
use millrace_common::lake_key::FileKey;
use millrace_common::types::{PipelineId, SlotId};
use object_store::path::Path;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt};
use parquet::arrow::ParquetRecordBatchStreamBuilder;
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::AsyncFileReader;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use tonic::Status;

use super::stream::{BATCH_ROWS, Batches};
use super::ticket::Listing;
use crate::manager::Shown;

/// Key of the schema's metadata: the file's key below the lake's prefix.
pub(super) const FILE: &str = "millrace.file";

/// A file that is there.
pub(super) struct File {
    pub(super) schema: SchemaRef,
    pub(super) rows: i64,
    pub(super) bytes: u64,
    builder: ParquetRecordBatchStreamBuilder<Reader>,
}

impl File {
    /// Looks the file up and reads its footer.
    pub(super) async fn open(slots: &BTreeMap<SlotId, Shown>, key: &FileKey) -> Result<Self, Status> {
        let lake = lake_of(slots, key.pipeline())?;
        let path = lake.path(key.as_str());
        let found = lake.store.head(&path).await.map_err(|error| status_of(&error, key.as_str()))?;
        let reader = Reader { store: Arc::clone(&lake.store), path, size: found.size };
        let builder = ParquetRecordBatchStreamBuilder::new(reader)
            .await
            .map_err(|error| Status::internal(format!("{} can't be read: {error}", key.as_str())))?;
        let labels = HashMap::from([(FILE.to_owned(), key.as_str().to_owned())]);
        Ok(Self {
            schema: Arc::new(builder.schema().as_ref().clone().with_metadata(labels)),
            rows: builder.metadata().file_metadata().num_rows(),
            bytes: found.size,
            builder,
        })
    }

    /// The file's rows. One row group's compressed bytes are held at a time.
    pub(super) fn batches(self) -> Result<Batches, Status> {
        let unreadable =
            |error: &dyn std::fmt::Display| Status::internal(format!("the file can't be read: {error}"));
        let schema = self.schema;
        let stream = self.builder.with_batch_size(BATCH_ROWS).build().map_err(|error| unreadable(&error))?;
        let batches = stream.map(move |batch| {
            let batch = batch.map_err(|error| unreadable(&error))?;
            batch.with_schema(Arc::clone(&schema)).map_err(|error| unreadable(&error))
        });
        Ok(batches.boxed())
    }
}

/// The store as the Parquet reader asks for it.
struct Reader {
    store: Arc<dyn ObjectStore>,
    path: Path,
    size: u64,
}

/// Read ahead of the footer, so that it mostly comes with its length in one request.
const FOOTER: usize = 64 << 10;

fn external(error: object_store::Error) -> ParquetError {
    ParquetError::External(Box::new(error))
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.store.get_range(&self.path, range).map_err(external).boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(external) }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        async move {
            let size = self.size;
            let reader = ParquetMetaDataReader::new()
                .with_prefetch_hint(Some(FOOTER))
                .with_arrow_reader_options(options);
            reader.load_and_finish(self, size).await.map(Arc::new)
        }
        .boxed()
    }
}

pub(super) type Files = BoxStream<'static, Result<(FileKey, ObjectMeta), Status>>;

/// The files of a part of a lake, as the store lists them.
pub(super) fn list(slots: &BTreeMap<SlotId, Shown>, listing: &Listing) -> Result<Files, Status> {
    let pipeline = match &listing.pipeline {
        Some(pipeline) => pipeline.clone(),
        None => the_only_lake(slots)?,
    };
    let lake = lake_of(slots, &pipeline)?.clone();
    let folder = listing.folder.clone();
    let skip = if lake.prefix.as_ref().is_empty() { 0 } else { lake.prefix.as_ref().len() + 1 };
    let objects = lake.store.list(Some(&lake.path(&folder)));
    let files = objects.map_err(move |error| status_of(&error, &folder)).try_filter_map(move |object| {
        // What is not the lake's own has no place in it, and is nobody's to read here.
        let key = object.location.as_ref().get(skip..).and_then(FileKey::parse);
        let key = key.filter(|key| *key.pipeline() == pipeline);
        std::future::ready(Ok(key.map(|key| (key, object))))
    });
    Ok(files.boxed())
}

/// The lake of a pipeline that has a slot here.
fn lake_of<'a>(slots: &'a BTreeMap<SlotId, Shown>, pipeline: &PipelineId) -> Result<&'a Lake, Status> {
    let shown = slots.iter().find(|(slot, _)| slot.pipeline == *pipeline).map(|(_, shown)| shown);
    let shown = shown.ok_or_else(|| {
        Status::not_found(format!("pipeline {pipeline} has no slot on this worker: ask one that runs it"))
    })?;
    shown.lake.as_ref().ok_or_else(|| Status::not_found(format!("pipeline {pipeline} has no lake")))
}

fn the_only_lake(slots: &BTreeMap<SlotId, Shown>) -> Result<PipelineId, Status> {
    let mut pipelines: Vec<_> =
        slots.iter().filter(|(_, shown)| shown.lake.is_some()).map(|(slot, _)| &slot.pipeline).collect();
    pipelines.dedup();
    match pipelines.as_slice() {
        [only] => Ok((*only).clone()),
        [] => Err(Status::not_found("no pipeline with a lake has a slot on this worker")),
        several => {
            let names: Vec<_> = several.iter().map(ToString::to_string).collect();
            Err(Status::invalid_argument(format!(
                "several lakes are here: say \"pipeline\", one of {}",
                names.join(", ")
            )))
        }
    }
}

fn status_of(error: &object_store::Error, key: &str) -> Status {
    match error {
        object_store::Error::NotFound { .. } => {
            Status::not_found(format!("{key} is not in the lake: it may not be committed yet"))
        }
        // The store's own words stay in the log: they may tell addresses that are nobody's business.
        error => {
            tracing::warn!(key, %error, "the lake can't be read for a flight client");
            Status::unavailable(format!("the lake can't be read for {key}: ask again later"))
        }
    }
}
