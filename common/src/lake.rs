//! Opening the object store that a pipeline's lake lies in.

use std::sync::Arc;
use std::time::Duration;

use millrace_types::{LakeTarget, SecretReference};
use object_store::aws::{AmazonS3Builder, S3ConditionalPut};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{ClientOptions, ObjectStore, RetryConfig};
use url::Url;

use crate::secret::{self, SecretError};

/// An opened lake: the store and the prefix below which everything of the pipeline lies.
#[derive(Debug, Clone)]
pub struct Lake {
    pub store: Arc<dyn ObjectStore>,
    pub prefix: Path,
    /// `file://` lakes hold no metadata beside an object.
    pub keeps_metadata: bool,
    pub url: String,
}

impl Lake {
    /// The object at `key` below the lake's prefix.
    pub fn path(&self, key: &str) -> Path {
        self.prefix.parts().chain(Path::from(key).parts()).collect()
    }
}

/// A lake that can't be opened.
#[derive(Debug, thiserror::Error)]
pub enum LakeError {
    #[error("lake {url:?} can't be read: {reason}; expected s3://bucket/prefix or file:///folder/prefix")]
    Url { url: String, reason: String },
    #[error("lake {url:?}: {source}")]
    Secret {
        url: String,
        #[source]
        source: SecretError,
    },
    #[error("lake {url:?} can't be opened: {source}")]
    Open {
        url: String,
        #[source]
        source: object_store::Error,
    },
}

/// Opens `target`. No request is made yet.
pub fn open(target: &LakeTarget) -> Result<Lake, LakeError> {
    let bad_url = |reason: String| LakeError::Url { url: target.url.clone(), reason };
    let bad_store = |source| LakeError::Open { url: target.url.clone(), source };
    let url = Url::parse(&target.url).map_err(|error| bad_url(error.to_string()))?;
    match url.scheme() {
        "file" => {
            let folder = url.to_file_path().map_err(|()| bad_url("it names a host".into()))?;
            std::fs::create_dir_all(&folder)
                .map_err(|error| bad_url(format!("{} can't be made: {error}", folder.display())))?;
            let store = LocalFileSystem::new_with_prefix(&folder).map_err(bad_store)?;
            Ok(Lake {
                store: Arc::new(store),
                prefix: Path::default(),
                keeps_metadata: false,
                url: target.url.clone(),
            })
        }
        "s3" => {
            let bucket = url.host_str().ok_or_else(|| bad_url("the bucket is missing".into()))?;
            let prefix =
                Path::parse(url.path().trim_matches('/')).map_err(|error| bad_url(error.to_string()))?;
            let mut builder = AmazonS3Builder::new()
                .with_bucket_name(bucket)
                .with_region(target.region.as_deref().unwrap_or("us-east-1"))
                .with_conditional_put(S3ConditionalPut::ETagMatch)
                .with_access_key_id(secret(&target.access_key_id, &target.url)?)
                .with_secret_access_key(secret(&target.secret_access_key, &target.url)?)
                .with_client_options(
                    ClientOptions::new()
                        .with_allow_http(true)
                        .with_connect_timeout(Duration::from_secs(5))
                        .with_timeout(Duration::from_secs(60)),
                )
                // Short: whoever asks repeats with its own backoff and says what it waits for.
                .with_retry(RetryConfig {
                    max_retries: 2,
                    retry_timeout: Duration::from_secs(10),
                    ..Default::default()
                });
            if let Some(endpoint) = &target.endpoint {
                builder = builder.with_endpoint(endpoint);
            }
            Ok(Lake {
                store: Arc::new(builder.build().map_err(bad_store)?),
                prefix,
                keeps_metadata: true,
                url: target.url.clone(),
            })
        }
        other => Err(bad_url(format!("its scheme is {other:?}"))),
    }
}

fn secret(reference: &SecretReference, url: &str) -> Result<String, LakeError> {
    secret::read(reference).map_err(|source| LakeError::Secret { url: url.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(url: &str) -> LakeTarget {
        LakeTarget {
            url: url.into(),
            endpoint: None,
            region: None,
            access_key_id: SecretReference::Environment("MILLRACE_TEST_UNSET_VARIABLE".into()),
            secret_access_key: SecretReference::File("/nonexistent/secret".into()),
        }
    }

    #[test]
    fn a_lake_that_cannot_be_opened_says_which_and_why() {
        let message = open(&target("gopher://x/y")).expect_err("scheme").to_string();
        assert!(message.contains("gopher://x/y") && message.contains("expected s3://"), "{message}");
        let message = open(&target("s3://bucket/prefix")).expect_err("secret").to_string();
        assert!(message.contains("MILLRACE_TEST_UNSET_VARIABLE"), "{message}");
    }

    #[test]
    fn a_folder_is_a_lake_too() {
        let folder = tempfile::tempdir().expect("folder");
        let lake = open(&target(&format!("file://{}/lake", folder.path().display()))).expect("lake");
        assert_eq!(lake.path("year=2024/x.parquet").as_ref(), "year=2024/x.parquet");
    }
}
