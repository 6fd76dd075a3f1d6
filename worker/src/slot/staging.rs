//! The slot's part of the object store: staged objects under random keys, and files under their final keys.

use bytes::Bytes;
use futures::TryStreamExt;
use millrace_common::lake::Lake;
use millrace_common::types::SlotId;
use object_store::path::Path;
use object_store::{Attribute, Attributes, GetOptions, ObjectStore, ObjectStoreExt, PutOptions, PutPayload};
use rand::RngExt;
use sha2::{Digest, Sha256};

/// User metadata that carries a file's SHA-256 in hex.
const SHA256: &str = "sha256";

/// Below the lake's prefix: where a slot stages what is not committed yet.
pub(super) fn staging_prefix(slot: &SlotId) -> String {
    format!("_staging/{}/{}", slot.pipeline, slot.local())
}

/// A fresh key for a staged object: 128 random bits, so that no two owners ever write the same one.
pub(super) fn staged_key(slot: &SlotId, extension: &str) -> String {
    let random: u128 = rand::rng().random();
    format!("{}/{random:032x}.{extension}", staging_prefix(slot))
}

/// All keys below the slot's staging prefix, relative to the lake's prefix.
pub(super) async fn list_staged(lake: &Lake, slot: &SlotId) -> object_store::Result<Vec<String>> {
    let prefix = lake.path(&staging_prefix(slot));
    let objects: Vec<_> = lake.store.list(Some(&prefix)).try_collect().await?;
    let skip = if lake.prefix.as_ref().is_empty() { 0 } else { lake.prefix.as_ref().len() + 1 };
    Ok(objects.into_iter().map(|object| object.location.as_ref()[skip..].to_owned()).collect())
}

pub(super) async fn put(lake: &Lake, key: &str, bytes: Bytes, sha256: &str) -> object_store::Result<()> {
    let mut attributes = Attributes::new();
    if lake.keeps_metadata {
        attributes.insert(Attribute::Metadata(SHA256.into()), sha256.to_owned().into());
    }
    let options = PutOptions { attributes, ..PutOptions::default() };
    lake.store.put_opts(&lake.path(key), PutPayload::from_bytes(bytes), options).await?;
    Ok(())
}

/// The bytes of an object; `None` when there is none.
pub(super) async fn get(lake: &Lake, key: &str) -> object_store::Result<Option<Bytes>> {
    match lake.store.get(&lake.path(key)).await {
        Ok(found) => Ok(Some(found.bytes().await?)),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// What stands under a key, compared with what should.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Match,
    Nothing,
    Other,
}

/// Compares the object under `key` with a size and hash: by its metadata where the store keeps any, else by its
/// bytes.
pub(super) async fn compare(lake: &Lake, key: &str, bytes: u64, sha256: &str) -> object_store::Result<Found> {
    let path: Path = lake.path(key);
    let options = GetOptions { head: lake.keeps_metadata, ..GetOptions::default() };
    let found = match lake.store.get_opts(&path, options).await {
        Ok(found) => found,
        Err(object_store::Error::NotFound { .. }) => return Ok(Found::Nothing),
        Err(error) => return Err(error),
    };
    let same = found.meta.size == bytes
        && if lake.keeps_metadata {
            found
                .attributes
                .get(&Attribute::Metadata(SHA256.into()))
                .is_some_and(|value| value.as_ref() == sha256)
        } else {
            hex::encode(Sha256::digest(&found.bytes().await?)) == sha256
        };
    Ok(if same { Found::Match } else { Found::Other })
}

/// Server-side copy; `false` when the source is not there.
pub(super) async fn copy(lake: &Lake, from: &str, to: &str) -> object_store::Result<bool> {
    match lake.store.copy(&lake.path(from), &lake.path(to)).await {
        Ok(()) => Ok(true),
        Err(object_store::Error::NotFound { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Deletes an object; one that is gone already is as good.
pub(super) async fn delete(lake: &Lake, key: &str) -> object_store::Result<()> {
    match lake.store.delete(&lake.path(key)).await {
        Ok(()) | Err(object_store::Error::NotFound { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}
