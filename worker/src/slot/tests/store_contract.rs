//! What the protocol asks of an object store, asked of each kind: SeaweedFS, a second S3 server by other people
//! (`MILLRACE_TEST_SECOND_S3`), and a folder. A store on which one of these fails would lose or double rows.

use bytes::Bytes;
use object_store::{GetOptions, GetRange, ObjectStore, PutMode, PutPayload};
use sha2::{Digest, Sha256};

use super::*;
use crate::slot::staging::{self, Found};
use millrace_common::types::SecretReference;

/// A lake of its own in each store.
struct Store {
    lake: Lake,
    target: LakeTarget,
    slot: SlotId,
    _folder: tempfile::TempDir,
}

fn on_s3(variable: &str) -> Store {
    let bucket = test_server("MILLRACE_TEST_BUCKET");
    open(|run| LakeTarget {
        endpoint: Some(test_server(variable)),
        ..LakeTarget::new(format!("s3://{bucket}/contract-{run:016x}/lake"))
    })
}

fn in_a_folder() -> Store {
    let folder = tempfile::tempdir().expect("folder");
    let url = format!("file://{}/lake", folder.path().display());
    Store { _folder: folder, ..open(|_| LakeTarget::new(url)) }
}

fn open(target: impl FnOnce(u64) -> LakeTarget) -> Store {
    let target = target(rand::rng().random());
    Store {
        lake: lake::open(&target).expect("lake"),
        target,
        slot: "contract-1/0-3".parse().expect("slot"),
        _folder: tempfile::tempdir().expect("folder"),
    }
}

fn hash(bytes: &[u8]) -> String {
    hex::encode(Sha256::digest(bytes))
}

/// Larger than what one frame or chunk holds.
fn body() -> Bytes {
    (0..3_000_000_u32).map(|n| (n % 251) as u8).collect()
}

const FINAL: &str = "year=2024/month=01/day=15/contract-1-0-3-0-0.parquet";

/// Staged with its hash, copied by the server to its final key, recognised there, and deleted where it was staged.
async fn a_file_is_staged_copied_recognised_and_deleted(store: &Store) {
    let Store { lake, slot, .. } = store;
    let (body, staged) = (body(), staging::staged_key(slot, "parquet"));
    let (size, sha256) = (body.len() as u64, hash(&body));
    assert_eq!(staging::compare(lake, &staged, size, &sha256).await.expect("nothing yet"), Found::Nothing);
    staging::put(lake, &staged, body.clone(), &sha256).await.expect("put");
    assert_eq!(staging::compare(lake, &staged, size, &sha256).await.expect("staged"), Found::Match);
    assert_eq!(staging::list_staged(lake, slot).await.expect("list"), std::slice::from_ref(&staged));

    assert!(staging::copy(lake, &staged, FINAL).await.expect("copy"));
    // The hash came along: of a store that forgets it on a copy, no file could be trusted.
    assert_eq!(staging::compare(lake, FINAL, size, &sha256).await.expect("copied"), Found::Match);
    assert_eq!(staging::compare(lake, FINAL, size, &hash(b"other")).await.expect("copied"), Found::Other);
    assert_eq!(staging::compare(lake, FINAL, size + 1, &sha256).await.expect("copied"), Found::Other);
    assert_eq!(staging::get(lake, FINAL).await.expect("get").as_ref(), Some(&body));

    // Again, over what is there: as a repeated publication does.
    assert!(staging::copy(lake, &staged, FINAL).await.expect("copy"));
    staging::delete(lake, &staged).await.expect("delete");
    staging::delete(lake, &staged).await.expect("what is gone is as good as deleted");
    assert_eq!(staging::get(lake, &staged).await.expect("gone"), None);
    assert!(!staging::copy(lake, &staged, FINAL).await.expect("a source that is gone is told, not an error"));
    assert_eq!(staging::compare(lake, FINAL, size, &sha256).await.expect("still"), Found::Match);
    assert!(staging::list_staged(lake, slot).await.expect("list").is_empty());
}

/// A list holds what was put a moment ago, all of it, beyond a page of the server's, and of this slot only.
async fn a_list_is_complete_at_once(store: &Store) {
    let Store { lake, slot, .. } = store;
    let other: SlotId = "contract-1/0-30".parse().expect("slot");
    staging::put(lake, &staging::staged_key(&other, "json"), Bytes::from_static(b"{}"), &hash(b"{}"))
        .await
        .expect("put");
    let mut keys: Vec<String> = (0..1100).map(|_| staging::staged_key(slot, "parquet")).collect();
    let puts = keys.iter().map(|key| staging::put(lake, key, Bytes::from_static(b"x"), ""));
    let puts: Vec<_> =
        futures::StreamExt::collect(futures::StreamExt::buffer_unordered(futures::stream::iter(puts), 16))
            .await;
    for put in puts {
        put.expect("put");
    }
    let mut listed = staging::list_staged(lake, slot).await.expect("list");
    keys.sort_unstable();
    listed.sort_unstable();
    assert_eq!(listed, keys);
}

/// Of two who claim a prefix one wins, and the winner's claim stays. S3Proxy looks first and writes then: of two at the
/// very same moment both win there, so it is asked by one after the other.
async fn a_claim_is_won_once(store: &Store, at_once: bool) {
    let lake = &store.lake;
    let path = lake.path("_millrace/pipeline.json");
    let claim = |text: &'static str| {
        let (lake, path) = (lake.clone(), path.clone());
        async move {
            lake.store.put_opts(&path, PutPayload::from_static(text.as_bytes()), PutMode::Create.into()).await
        }
    };
    let (first, second) = match at_once {
        true => tokio::join!(claim("first"), claim("second")),
        false => (claim("first").await, claim("second").await),
    };
    let won = match (first, second) {
        (Ok(_), Err(object_store::Error::AlreadyExists { .. })) => "first",
        (Err(object_store::Error::AlreadyExists { .. }), Ok(_)) => "second",
        both => panic!("one of two must win: {both:?}"),
    };
    let lost = claim("third").await.expect_err("taken");
    assert!(matches!(lost, object_store::Error::AlreadyExists { .. }), "{lost}");
    assert_eq!(staging::get(lake, "_millrace/pipeline.json").await.expect("get").expect("there"), won);
}

/// Parts of a file are read without the rest: footers first.
async fn ranges_are_exact(store: &Store) {
    let lake = &store.lake;
    let body = body();
    staging::put(lake, FINAL, body.clone(), &hash(&body)).await.expect("put");
    let path = lake.path(FINAL);
    let head = lake.store.head(&path).await.expect("head");
    assert_eq!(head.size, body.len() as u64);
    assert_eq!(lake.store.get_range(&path, 7..1_000_007).await.expect("range"), body.slice(7..1_000_007));
    let ranges = [0..1, 100..200, 2_999_999..3_000_000];
    let parts = lake.store.get_ranges(&path, &ranges).await.expect("ranges");
    for (part, range) in parts.iter().zip(ranges) {
        assert_eq!(*part, body.slice(range.start as usize..range.end as usize));
    }
    let options = GetOptions { range: Some(GetRange::Suffix(8)), ..GetOptions::default() };
    let footer = lake.store.get_opts(&path, options).await.expect("suffix").bytes().await.expect("bytes");
    assert_eq!(footer, body.slice(body.len() - 8..));
}

/// Another login sees nothing and changes nothing, and the answer says that it is the login.
async fn a_wrong_login_is_refused(store: &Store) {
    let folder = tempfile::tempdir().expect("folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "not-the-secret").expect("secret");
    let wrong = SecretReference::File(secret.display().to_string());
    let target = LakeTarget { secret_access_key: wrong, ..store.target.clone() };
    let lake = lake::open(&target).expect("lake");
    staging::put(&store.lake, FINAL, Bytes::from_static(b"mine"), &hash(b"mine")).await.expect("put");
    let refusals = [
        staging::put(&lake, FINAL, Bytes::from_static(b"theirs"), "").await.expect_err("put"),
        staging::get(&lake, FINAL).await.expect_err("get"),
        staging::delete(&lake, FINAL).await.expect_err("delete"),
        staging::list_staged(&lake, &store.slot).await.expect_err("list"),
    ];
    for refused in refusals {
        let is_login = matches!(
            refused,
            object_store::Error::PermissionDenied { .. } | object_store::Error::Unauthenticated { .. }
        );
        // A refused list has no kind of its own in object_store, only the server's words.
        assert!(is_login || refused.to_string().contains("SignatureDoesNotMatch"), "{refused:?}");
    }
    assert_eq!(staging::get(&store.lake, FINAL).await.expect("get").expect("there"), "mine");
}

async fn keeps_the_contract(store: fn() -> Store, claims_at_once: bool) {
    a_file_is_staged_copied_recognised_and_deleted(&store()).await;
    a_list_is_complete_at_once(&store()).await;
    a_claim_is_won_once(&store(), claims_at_once).await;
    ranges_are_exact(&store()).await;
}

#[tokio::test]
async fn seaweedfs_keeps_the_contract() {
    keeps_the_contract(|| on_s3("MILLRACE_TEST_S3"), true).await;
    a_wrong_login_is_refused(&on_s3("MILLRACE_TEST_S3")).await;
}

#[tokio::test]
async fn s3proxy_keeps_the_contract() {
    keeps_the_contract(|| on_s3("MILLRACE_TEST_SECOND_S3"), false).await;
    a_wrong_login_is_refused(&on_s3("MILLRACE_TEST_SECOND_S3")).await;
}

#[tokio::test]
async fn a_folder_keeps_the_contract() {
    keeps_the_contract(in_a_folder, true).await;
}
