//! Whether a lake's store lets us do what workers will have to do: one small object is put, found, copied, read and
//! deleted. A permission that is missing is known before a pipeline runs, not at its first flush.

use std::time::Duration;

use millrace_common::lake::Lake;
use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error as StoreError, GetOptions, ObjectStore, ObjectStoreExt, PutOptions,
};
use tokio_stream::StreamExt;

/// Of all steps together.
const DEADLINE: Duration = Duration::from_secs(20);
const FOLDER: &str = "_millrace/probe";
/// Workers tell a file by such a word beside it.
const WORD: &str = "sha256";
const BODY: &str = "millrace probes whether this place will do; this object may be deleted";

/// A store that will not do.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    #[error(
        "the lake {url} does not let us {step} {key}: {reason}; workers put, find, list, copy, read and delete objects \
         there, so the credentials must allow all of it below the prefix"
    )]
    Refused { url: String, step: &'static str, key: String, reason: String },
    #[error("the lake {url} does not keep the protocol: {reason}; another store is needed")]
    Unfit { url: String, reason: String },
    #[error("the lake {url} can't be asked to {step} {key}: {reason}")]
    Unreachable { url: String, step: &'static str, key: String, reason: String },
    #[error("the lake {url} did not answer within {} s: while it was to {step} {key}", DEADLINE.as_secs())]
    Silent { url: String, step: &'static str, key: String },
}

impl ProbeError {
    /// Asking again may help.
    pub(crate) fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Silent { .. })
    }
}

/// One probe under way.
struct Probe<'a> {
    lake: &'a Lake,
    deadline: tokio::time::Instant,
}

/// Tries everything. Nothing of it stays, unless deleting is what is refused.
pub(crate) async fn probe(lake: &Lake) -> Result<(), ProbeError> {
    let probe = Probe { lake, deadline: tokio::time::Instant::now() + DEADLINE };
    let run: u64 = rand::random();
    let folder = lake.path(&format!("{FOLDER}-{run:016x}"));
    let (first, copy) = (folder.clone().join("first"), folder.clone().join("copy"));
    let mut attributes = Attributes::new();
    if lake.keeps_metadata {
        attributes.insert(Attribute::Metadata(WORD.into()), "word".into());
    }
    let options = PutOptions { attributes, ..PutOptions::default() };
    probe.step("put", &first, lake.store.put_opts(&first, BODY.into(), options)).await?;
    probe.step("copy", &first, lake.store.copy(&first, &copy)).await?;
    let found =
        probe.step("find", &copy, lake.store.get_opts(&copy, GetOptions::new().with_head(true))).await?;
    let word = found.attributes.get(&Attribute::Metadata(WORD.into())).map(AsRef::as_ref);
    let unfit = |reason: String| ProbeError::Unfit { url: lake.url.clone(), reason };
    if lake.keeps_metadata && word != Some("word") {
        return Err(unfit(format!("a copy has lost what stood beside its object ({word:?} at {copy})")));
    }
    let read = probe.step("read", &copy, lake.store.get(&copy)).await?;
    let body = probe.step("read", &copy, read.bytes()).await?;
    if body != BODY {
        return Err(unfit(format!("{copy} differs from what was copied")));
    }
    let listed = probe.step("list", &folder, async {
        let mut listed = lake.store.list(Some(&folder));
        let mut keys = Vec::new();
        while let Some(object) = listed.next().await {
            keys.push(object?.location);
        }
        Ok(keys)
    });
    let listed = listed.await?;
    if [&first, &copy].into_iter().any(|key| !listed.contains(key)) {
        return Err(unfit(format!("a list of {folder} leaves out what was just put there")));
    }
    for key in [&first, &copy] {
        probe.step("delete", key, lake.store.delete(key)).await?;
    }
    match tokio::time::timeout_at(probe.deadline, lake.store.head(&first)).await {
        Ok(Ok(_)) => Err(unfit(format!("{first} was deleted and is still there"))),
        _ => Ok(()),
    }
}

impl Probe<'_> {
    async fn step<T>(
        &self,
        step: &'static str,
        key: &Path,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, ProbeError> {
        let (url, key) = (self.lake.url.clone(), key.to_string());
        match tokio::time::timeout_at(self.deadline, call).await {
            Ok(Ok(done)) => Ok(done),
            Ok(Err(error)) => {
                let reason = error.to_string();
                // A refused list has no kind of its own, only the server's words.
                let is_refused =
                    matches!(error, StoreError::PermissionDenied { .. } | StoreError::Unauthenticated { .. })
                        || reason.contains("AccessDenied");
                Err(match is_refused {
                    true => ProbeError::Refused { url, step, key, reason },
                    false => ProbeError::Unreachable { url, step, key, reason },
                })
            }
            Err(_) => Err(ProbeError::Silent { url, step, key }),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt;
    use std::sync::Arc;

    use async_trait::async_trait;
    use object_store::memory::InMemory;
    use object_store::{
        CopyOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, PutMultipartOptions, PutPayload,
        PutResult, Result,
    };
    use tokio_stream::Stream;

    use super::*;

    type Boxed<T> = std::pin::Pin<Box<dyn Stream<Item = T> + Send>>;

    /// A store in memory with something amiss.
    #[derive(Debug)]
    struct Amiss {
        store: InMemory,
        refused: &'static str,
        forgets: bool,
    }

    impl fmt::Display for Amiss {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a store with something amiss")
        }
    }

    impl Amiss {
        fn allow(&self, step: &str, path: &Path) -> Result<()> {
            if self.refused == step {
                let source = format!("no {step} for you").into();
                return Err(StoreError::PermissionDenied { path: path.to_string(), source });
            }
            Ok(())
        }
    }

    #[async_trait]
    impl ObjectStore for Amiss {
        async fn put_opts(&self, path: &Path, body: PutPayload, options: PutOptions) -> Result<PutResult> {
            self.allow("put", path)?;
            self.store.put_opts(path, body, options).await
        }

        async fn put_multipart_opts(
            &self,
            path: &Path,
            options: PutMultipartOptions,
        ) -> Result<Box<dyn MultipartUpload>> {
            self.store.put_multipart_opts(path, options).await
        }

        async fn get_opts(&self, path: &Path, options: GetOptions) -> Result<GetResult> {
            self.allow(if options.head { "find" } else { "read" }, path)?;
            self.store.get_opts(path, options).await
        }

        fn delete_stream(&self, paths: Boxed<Result<Path>>) -> Boxed<Result<Path>> {
            if self.refused == "delete" {
                let refused = |path: Result<Path>| self_refuses(path);
                return Box::pin(paths.map(refused));
            }
            self.store.delete_stream(paths)
        }

        fn list(&self, prefix: Option<&Path>) -> Boxed<Result<ObjectMeta>> {
            self.store.list(prefix)
        }

        async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
            self.store.list_with_delimiter(prefix).await
        }

        async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
            self.allow("copy", from)?;
            if self.forgets {
                let body = self.store.get(from).await?.bytes().await?;
                return self.store.put(to, body.into()).await.map(drop);
            }
            self.store.copy_opts(from, to, options).await
        }
    }

    fn self_refuses(path: Result<Path>) -> Result<Path> {
        path.and_then(|path| {
            Err(StoreError::PermissionDenied { path: path.to_string(), source: "no delete for you".into() })
        })
    }

    fn lake(refused: &'static str, forgets: bool) -> (Lake, Arc<Amiss>) {
        let store = Arc::new(Amiss { store: InMemory::new(), refused, forgets });
        let (prefix, url) = (Path::from("clicks"), "s3://bucket/clicks".to_owned());
        (Lake { store: Arc::clone(&store) as Arc<dyn ObjectStore>, prefix, keeps_metadata: true, url }, store)
    }

    #[tokio::test]
    async fn a_store_that_does_everything_passes_and_nothing_stays() {
        let (lake, store) = lake("nothing", false);
        probe(&lake).await.expect("fit");
        assert!(store.store.list(None).next().await.is_none());
    }

    #[tokio::test]
    async fn each_permission_that_is_missing_is_named() {
        for step in ["put", "copy", "find", "read", "delete"] {
            let (lake, _store) = lake(step, false);
            let refused = probe(&lake).await.expect_err(step);
            assert!(!refused.is_passing());
            let words = refused.to_string();
            assert!(words.contains(&format!("does not let us {step} clicks/_millrace/probe-")), "{words}");
        }
    }

    #[tokio::test]
    async fn a_store_whose_copies_forget_is_refused() {
        let (lake, _store) = lake("nothing", true);
        let refused = probe(&lake).await.expect_err("unfit").to_string();
        assert!(refused.contains("lost what stood beside"), "{refused}");
    }
}
