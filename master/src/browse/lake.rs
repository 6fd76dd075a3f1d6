//! A pipeline's lake: its folders, its files, what their footers say. Only keys of the lake's own form are looked at.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryFutureExt, TryStreamExt};
use millrace_common::event::footer;
use millrace_common::lake::{self, Lake};
use millrace_common::lake_key::{FileKey, folder_depth};
use millrace_common::types::PipelineDefinition;
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::async_reader::MetadataFetch;
use parquet::errors::{ParquetError, Result as ParquetResult};
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use schemars::JsonSchema;
use serde::Serialize;

use super::Browse;
use crate::pipelines::Refusal;

/// Objects that one look lists.
const LISTED: usize = 20_000;
/// Files on one page of a folder.
pub(crate) const FILES: usize = 100;
/// Files of a folder whose footers are read to count its rows.
const COUNTED: usize = 300;
/// Footers read at a time.
const AT_ONCE: usize = 16;
/// Footers that are remembered.
const REMEMBERED: usize = 20_000;
/// Read ahead of the footer, so that it mostly comes with its length in one request.
const FOOTER: usize = 64 << 10;
/// Of one look.
const DEADLINE: Duration = Duration::from_secs(15);

/// A folder of the lake: the whole lake, a year, a month or a day.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Folder {
    pub(crate) pipeline: String,
    pub(crate) lake: String,
    /// `year=…/month=…/day=…`, or less; empty for the whole lake.
    pub(crate) folder: String,
    /// What lies in it.
    pub(crate) total: Size,
    /// The folders in it; none of a day.
    pub(crate) folders: Vec<SubFolder>,
    /// The files of a day, a page of them.
    pub(crate) files: Vec<FileRow>,
    /// There is more than was listed: the sizes are of what was.
    pub(crate) is_cut: bool,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Size {
    pub(crate) files: usize,
    pub(crate) bytes: u64,
    /// `None`: too many files to read all their footers; open a folder.
    pub(crate) rows: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct SubFolder {
    pub(crate) folder: String,
    pub(crate) size: Size,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct FileRow {
    /// Below the lake's prefix.
    pub(crate) key: String,
    pub(crate) bytes: u64,
    pub(crate) at_ms: i64,
    /// `None`: the footer can't be read.
    pub(crate) footer: Option<Footer>,
}

/// What a file says of itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Footer {
    pub(crate) rows: u64,
    pub(crate) row_groups: Vec<RowGroup>,
    /// Name and type of each column.
    pub(crate) schema: Vec<FileColumn>,
    /// `<topic number>-<partition>` within the pipeline.
    pub(crate) slot: Option<String>,
    /// First source offset of the file's flush, and the next one after it.
    pub(crate) first_offset: Option<i64>,
    pub(crate) next_offset: Option<i64>,
    pub(crate) epoch: Option<u64>,
    /// Number of the slot's flush.
    pub(crate) sequence: Option<u64>,
    /// Version of Millrace that wrote it.
    pub(crate) version: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct RowGroup {
    pub(crate) rows: u64,
    /// Compressed.
    pub(crate) bytes: u64,
    pub(crate) uncompressed_bytes: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct FileColumn {
    pub(crate) name: String,
    pub(crate) kind: String,
    pub(crate) is_nullable: bool,
}

/// A file with its footer, and how to read it elsewhere.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct File {
    pub(crate) pipeline: String,
    pub(crate) lake: String,
    pub(crate) key: String,
    pub(crate) bytes: u64,
    pub(crate) at_ms: i64,
    pub(crate) footer: Footer,
    /// For DuckDB's command line.
    pub(crate) duckdb: String,
}

async fn open(pipeline: &PipelineDefinition) -> Result<Lake, Refusal> {
    let Some(target) = pipeline.lake.clone() else {
        return Err(Refusal::Unknown(format!(
            "pipeline {} has no lake: it writes to {} only",
            pipeline.id,
            pipeline.enriched_topic.as_deref().unwrap_or("nothing")
        )));
    };
    let opened = tokio::task::spawn_blocking(move || lake::open(&target)).await;
    opened
        .unwrap_or_else(|ended| std::panic::resume_unwind(ended.into_panic()))
        .map_err(|error| Refusal::Unavailable(error.to_string()))
}

fn failed(lake: &Lake, error: &object_store::Error) -> Refusal {
    match error {
        object_store::Error::NotFound { path, .. } => {
            Refusal::Unknown(format!("{path} is not in the lake {}: it may not be committed yet", lake.url))
        }
        error => Refusal::Unavailable(format!("the lake {} can't be read: {error}", lake.url)),
    }
}

/// A file as the store lists it.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) key: FileKey,
    bytes: u64,
    at_ms: i64,
}

impl Browse {
    /// A folder with what lies in it. `page` counts from 0.
    pub(crate) async fn folder(
        &self,
        pipeline: &PipelineDefinition,
        folder: &str,
        page: usize,
    ) -> Result<Folder, Refusal> {
        if !folder.is_empty() && folder_depth(folder).is_none() {
            return Err(Refusal::Usage(format!(
                "{folder:?} is no folder of a lake: expected year=YYYY/month=MM/day=DD, or less of it"
            )));
        }
        let lake = open(pipeline).await?;
        let _turn = self.turn().await?;
        within(&lake, self.look(&lake, pipeline, folder, page)).await
    }

    async fn look(
        &self,
        lake: &Lake,
        pipeline: &PipelineDefinition,
        folder: &str,
        page: usize,
    ) -> Result<Folder, Refusal> {
        let depth = folder_depth(folder).unwrap_or(0);
        let (listed, is_cut) = list(lake, pipeline, folder).await?;
        let mut folders: BTreeMap<String, Vec<&Listed>> = BTreeMap::new();
        if depth < 3 {
            for file in &listed {
                let place: Vec<&str> = file.key.folder().split('/').take(depth + 1).collect();
                folders.entry(place.join("/")).or_default().push(file);
            }
        }
        let can_count = listed.len() <= COUNTED;
        let rows = if can_count { self.footers(lake, &listed).await } else { BTreeMap::new() };
        let size = |files: &[&Listed]| Size {
            files: files.len(),
            bytes: files.iter().map(|file| file.bytes).sum(),
            rows: files
                .iter()
                .map(|file| rows.get(file.key.as_str()).map(|footer| footer.rows))
                .sum::<Option<u64>>()
                .filter(|_| can_count),
        };
        let total = size(&listed.iter().collect::<Vec<_>>());
        let mut files = Vec::new();
        if depth == 3 {
            let shown: Vec<Listed> = listed.iter().skip(page * FILES).take(FILES).cloned().collect();
            let footers = if can_count { rows.clone() } else { self.footers(lake, &shown).await };
            files = shown
                .into_iter()
                .map(|file| FileRow {
                    footer: footers.get(file.key.as_str()).map(|footer| (**footer).clone()),
                    key: file.key.as_str().to_owned(),
                    bytes: file.bytes,
                    at_ms: file.at_ms,
                })
                .collect();
        }
        Ok(Folder {
            pipeline: pipeline.id.to_string(),
            lake: lake.url.clone(),
            folder: folder.to_owned(),
            total,
            folders: folders
                .iter()
                .rev()
                .map(|(folder, files)| SubFolder { folder: folder.clone(), size: size(files) })
                .collect(),
            files,
            is_cut,
        })
    }

    /// One file.
    pub(crate) async fn file(&self, pipeline: &PipelineDefinition, key: &str) -> Result<File, Refusal> {
        let key = own_key(pipeline, key)?;
        let lake = open(pipeline).await?;
        let _turn = self.turn().await?;
        within(&lake, async {
            let found =
                lake.store.head(&lake.path(key.as_str())).await.map_err(|error| failed(&lake, &error))?;
            let listed =
                Listed { key: key.clone(), bytes: found.size, at_ms: found.last_modified.timestamp_millis() };
            let footer = self.footer(&lake, &listed).await.map_err(|error| {
                Refusal::Unavailable(format!("the footer of {} can't be read: {error}", key.as_str()))
            })?;
            Ok(File {
                pipeline: pipeline.id.to_string(),
                lake: lake.url.clone(),
                key: key.as_str().to_owned(),
                bytes: listed.bytes,
                at_ms: listed.at_ms,
                footer: (*footer).clone(),
                duckdb: duckdb(pipeline, &lake.url, key.as_str()),
            })
        })
        .await
    }

    /// The file of this day that holds a row of the offset, if one does.
    pub(super) async fn holder(
        &self,
        pipeline: &PipelineDefinition,
        folder: &str,
        slot: (u64, u64),
        offset: i64,
    ) -> Result<Option<String>, Refusal> {
        let lake = open(pipeline).await?;
        let _turn = self.turn().await?;
        within(&lake, async {
            let (listed, _) = list(&lake, pipeline, folder).await?;
            let wanted = u64::try_from(offset).unwrap_or(0);
            let mut own: Vec<Listed> = listed
                .into_iter()
                .filter(|file| file.key.slot() == slot && file.key.start_offset() <= wanted)
                .collect();
            own.sort_by_key(|file| std::cmp::Reverse(file.key.start_offset()));
            let Some(newest) = own.first() else { return Ok(None) };
            let footer =
                self.footer(&lake, newest).await.map_err(|error| Refusal::Unavailable(error.to_string()))?;
            let holds = footer.next_offset.is_some_and(|next| offset < next);
            Ok(holds.then(|| newest.key.as_str().to_owned()))
        })
        .await
    }

    /// Those that can be read.
    async fn footers(&self, lake: &Lake, files: &[Listed]) -> BTreeMap<String, Arc<Footer>> {
        let read = files.iter().cloned().map(|file| async move {
            let footer = self.footer(lake, &file).await;
            if let Err(error) = &footer {
                tracing::debug!(key = file.key.as_str(), %error, "a footer can't be read for the page");
            }
            footer.ok().map(|footer| (file.key.as_str().to_owned(), footer))
        });
        futures::stream::iter(read).buffer_unordered(AT_ONCE).filter_map(std::future::ready).collect().await
    }

    async fn footer(&self, lake: &Lake, file: &Listed) -> ParquetResult<Arc<Footer>> {
        let name = (lake.url.clone(), file.key.as_str().to_owned());
        if let Some(known) = self.footers.lock().unwrap_or_else(PoisonError::into_inner).get(&name) {
            return Ok(Arc::clone(known));
        }
        let fetch = Ranges { store: Arc::clone(&lake.store), path: lake.path(file.key.as_str()) };
        let metadata = ParquetMetaDataReader::new()
            .with_prefetch_hint(Some(FOOTER))
            .load_and_finish(fetch, file.bytes)
            .await?;
        let footer = Arc::new(told(&metadata));
        let mut known = self.footers.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(name, Arc::clone(&footer));
        Ok(footer)
    }
}

async fn within<T>(lake: &Lake, look: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
    tokio::time::timeout(DEADLINE, look).await.unwrap_or_else(|_| {
        Err(Refusal::Unavailable(format!(
            "the lake {} did not answer within {} s",
            lake.url,
            DEADLINE.as_secs()
        )))
    })
}

/// A key of this pipeline's lake.
pub(super) fn own_key(pipeline: &PipelineDefinition, key: &str) -> Result<FileKey, Refusal> {
    FileKey::parse(key).filter(|key| *key.pipeline() == pipeline.id).ok_or_else(|| {
        Refusal::Usage(format!(
            "{key:?} is no file of pipeline {}: expected year=YYYY/month=MM/day=DD/{}-….parquet",
            pipeline.id, pipeline.id
        ))
    })
}

/// The pipeline's files below the folder by their keys, and whether there are more.
async fn list(
    lake: &Lake,
    pipeline: &PipelineDefinition,
    folder: &str,
) -> Result<(Vec<Listed>, bool), Refusal> {
    let below = if folder.is_empty() { lake.prefix.clone() } else { lake.path(folder) };
    let skip = if lake.prefix.as_ref().is_empty() { 0 } else { lake.prefix.as_ref().len() + 1 };
    let mut objects = lake.store.list(Some(&below));
    let mut files = Vec::new();
    let mut seen = 0;
    while let Some(object) = objects.try_next().await.map_err(|error| failed(lake, &error))? {
        seen += 1;
        if seen > LISTED {
            break;
        }
        let key = object.location.as_ref().get(skip..).and_then(FileKey::parse);
        if let Some(key) = key.filter(|key| *key.pipeline() == pipeline.id) {
            files.push(Listed { key, bytes: object.size, at_ms: object.last_modified.timestamp_millis() });
        }
    }
    files.sort_by(|a, b| a.key.as_str().cmp(b.key.as_str()));
    Ok((files, seen > LISTED))
}

fn told(metadata: &ParquetMetaData) -> Footer {
    let file = metadata.file_metadata();
    let value = |key: &str| {
        let pairs = file.key_value_metadata()?;
        pairs.iter().find(|pair| pair.key == key)?.value.clone()
    };
    let count = |value: i64| u64::try_from(value).unwrap_or(0);
    Footer {
        rows: count(file.num_rows()),
        row_groups: metadata
            .row_groups()
            .iter()
            .map(|group| RowGroup {
                rows: count(group.num_rows()),
                bytes: count(group.compressed_size()),
                uncompressed_bytes: count(group.total_byte_size()),
            })
            .collect(),
        schema: file
            .schema_descr()
            .columns()
            .iter()
            .map(|column| FileColumn {
                name: column.path().string(),
                kind: match column.logical_type_ref() {
                    Some(logical) => format!("{logical:?}").chars().take(60).collect(),
                    None => column.physical_type().to_string(),
                },
                is_nullable: column.self_type().is_optional(),
            })
            .collect(),
        slot: value(footer::SLOT),
        first_offset: value(footer::FIRST_OFFSET).and_then(|text| text.parse().ok()),
        next_offset: value(footer::NEXT_OFFSET).and_then(|text| text.parse().ok()),
        epoch: value(footer::EPOCH).and_then(|text| text.parse().ok()),
        sequence: value(footer::SEQUENCE).and_then(|text| text.parse().ok()),
        version: value(footer::VERSION),
    }
}

/// A statement that reads what lies below `place`, a folder or a file of the lake. The login is not told: it is
/// taken from where the reader keeps it.
pub(crate) fn duckdb(pipeline: &PipelineDefinition, lake: &str, place: &str) -> String {
    let pattern = if place.ends_with(".parquet") {
        place.to_owned()
    } else if place.is_empty() {
        "year=*/**/*.parquet".to_owned()
    } else {
        format!("{place}/**/*.parquet")
    };
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let url = lake.strip_prefix("file://").unwrap_or(lake);
    let select = format!(
        "SELECT * FROM read_parquet({}, hive_partitioning = true) LIMIT 100;",
        quoted(&format!("{url}/{pattern}"))
    );
    let Some(target) = pipeline.lake.as_ref().filter(|target| target.url.starts_with("s3:")) else {
        return select;
    };
    let mut secret = "CREATE OR REPLACE SECRET lake (TYPE s3, KEY_ID getenv('AWS_ACCESS_KEY_ID'), \
        SECRET getenv('AWS_SECRET_ACCESS_KEY')"
        .to_owned();
    if let Some(region) = &target.region {
        secret.push_str(&format!(", REGION {}", quoted(region)));
    }
    if let Some(endpoint) = &target.endpoint {
        let is_plain = endpoint.starts_with("http://");
        let host =
            endpoint.trim_start_matches("https://").trim_start_matches("http://").trim_end_matches('/');
        secret.push_str(&format!(", ENDPOINT {}, URL_STYLE 'path', USE_SSL {}", quoted(host), !is_plain));
    }
    format!("INSTALL httpfs; LOAD httpfs;\n{secret});\n{select}")
}

/// The store as the footer's reader asks for it.
struct Ranges {
    store: Arc<dyn ObjectStore>,
    path: Path,
}

impl MetadataFetch for Ranges {
    fn fetch(&mut self, range: std::ops::Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        self.store
            .get_range(&self.path, range)
            .map_err(|error| ParquetError::External(Box::new(error)))
            .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::pipeline;

    #[test]
    fn a_query_for_duckdb_names_the_lake_and_no_secret() {
        let mut definition = pipeline();
        if let Some(lake) = &mut definition.lake {
            lake.endpoint = Some("http://127.0.0.1:9000".into());
        }
        let query = duckdb(&definition, "s3://bucket/o'lake", "year=2024/month=01");
        assert!(query.contains("'s3://bucket/o''lake/year=2024/month=01/**/*.parquet'"), "{query}");
        assert!(query.contains("ENDPOINT '127.0.0.1:9000'") && query.contains("USE_SSL false"), "{query}");
        assert!(query.contains("getenv('AWS_SECRET_ACCESS_KEY')"), "{query}");
    }

    #[tokio::test]
    async fn only_the_lakes_own_form_is_looked_at() {
        let folder = tempfile::tempdir().expect("folder");
        let mut definition = pipeline();
        if let Some(lake) = &mut definition.lake {
            lake.url = format!("file://{}", folder.path().display());
        }
        let browse = Browse::new(millrace_common::tls::ClientFlags::default());
        std::fs::write(folder.path().join("secret.parquet"), "x").expect("written");
        let day = folder.path().join("year=2024/month=01/day=15");
        std::fs::create_dir_all(&day).expect("folders");
        std::fs::write(day.join("clickstream-0a1b2c-0-5-42-1.parquet"), "no Parquet").expect("written");
        std::fs::write(day.join("other-0-5-42-1.parquet"), "another's").expect("written");
        for bad in ["..", "year=2024/../..", "_millrace", "/etc", "year=2024//month=01"] {
            let refused = browse.folder(&definition, bad, 0).await.expect_err(bad);
            assert!(matches!(refused, Refusal::Usage(_)), "{refused}");
        }
        for bad in ["secret.parquet", "../x.parquet", "year=2024/month=01/day=15/other-0-5-42-1.parquet"] {
            let refused = browse.file(&definition, bad).await.expect_err(bad);
            assert!(matches!(refused, Refusal::Usage(_)), "{refused}");
        }
        let whole = browse.folder(&definition, "", 0).await.expect("listed");
        assert_eq!(whole.folders.len(), 1);
        assert_eq!((whole.folders[0].folder.as_str(), whole.total.files), ("year=2024", 1));
        let listed = browse.folder(&definition, "year=2024/month=01/day=15", 0).await.expect("listed");
        assert_eq!(
            (listed.files.len(), &listed.files[0].footer),
            (1, &None),
            "it is damaged, and still told"
        );
        let refused = browse.file(&definition, &listed.files[0].key).await.expect_err("damaged");
        assert!(refused.to_string().contains("footer"), "{refused}");
    }
}
