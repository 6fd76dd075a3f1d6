//! What every store must do, on each of them.

use super::etcd::testing;
use super::{Change, Entries, Store};

fn put(key: &str, value: &str) -> Change {
    Change { key: key.to_owned(), value: Some(value.to_owned()) }
}

fn remove(key: &str) -> Change {
    Change { key: key.to_owned(), value: None }
}

fn entries<const N: usize>(pairs: [(&str, &str); N]) -> Entries {
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// `again`: closes the store and opens it as another process would; memory stays what it is.
async fn holds_the_contract(mut store: Store, again: impl AsyncFn(Store) -> Store) {
    assert_eq!(store.load().await.expect("empty"), Entries::new());
    store.commit(Vec::new()).await.expect("nothing to do");
    store.commit(vec![put("a", "1"), put("b/c", "ü \"2\"\n"), put("gone", "3")]).await.expect("committed");
    store.commit(vec![put("a", "4"), remove("gone"), remove("never there")]).await.expect("committed");
    let expected = entries([("a", "4"), ("b/c", "ü \"2\"\n")]);
    assert_eq!(store.load().await.expect("loaded"), expected);
    let mut store = again(store).await;
    assert_eq!(store.load().await.expect("loaded"), expected);

    // Of two changes of a key the last one counts.
    store.commit(vec![put("a", "5"), remove("a"), remove("b/c"), put("b/c", "6")]).await.expect("committed");
    assert_eq!(store.load().await.expect("loaded"), entries([("b/c", "6")]));

    // More keys and bytes than etcd takes in one transaction.
    let long = "x".repeat(20_000);
    let many: Vec<Change> = (0..300).map(|number| put(&format!("many/{number}"), &long)).collect();
    store.commit(many.clone()).await.expect("committed");
    let mut store = again(store).await;
    let loaded = store.load().await.expect("loaded");
    assert_eq!(loaded.len(), 301);
    assert!(loaded.iter().filter(|(key, _)| key.starts_with("many/")).all(|(_, value)| *value == long));
    let removals = many.into_iter().map(|change| remove(&change.key)).collect();
    store.commit(removals).await.expect("committed");
    assert_eq!(store.load().await.expect("loaded"), entries([("b/c", "6")]));
}

#[tokio::test]
async fn memory_holds_the_contract() {
    holds_the_contract(Store::memory(), async |store| store).await;
}

#[tokio::test]
async fn a_folder_holds_the_contract() {
    let folder = tempfile::tempdir().expect("folder");
    let open = async || Store::file(folder.path().into()).await.expect("store");
    holds_the_contract(open().await, async |store| {
        drop(store);
        open().await
    })
    .await;
}

#[tokio::test]
async fn etcd_holds_the_contract() {
    let etcd = testing::Prefix::new("contract");
    let open = || etcd.store("one");
    holds_the_contract(open(), async |mut store| {
        store.resign().await;
        open()
    })
    .await;
}
