use std::collections::BTreeMap;

use super::testing::Prefix;
use super::*;
use crate::store::etcd::testing::{lose_next, proxy};

fn put(key: &str, value: &str) -> Change {
    Change { key: key.to_owned(), value: Some(value.to_owned()) }
}

/// Waits until `store` leads.
async fn leads(store: &mut EtcdStore) -> Entries {
    loop {
        match store.load().await {
            Ok(entries) => return entries,
            Err(EtcdError::Standby { .. }) => tokio::time::sleep(Duration::from_millis(50)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test]
async fn one_leads_and_the_other_knows_who_and_takes_over_when_it_resigns() {
    let etcd = Prefix::new("resign");
    let (mut one, mut two) = (etcd.etcd_store("one"), etcd.etcd_store("two"));
    one.load().await.expect("it leads");
    one.commit(vec![put("a", "1")]).await.expect("committed");
    let refused = two.load().await.expect_err("one leads");
    assert!(
        matches!(&refused, EtcdError::Standby { leader: Some(leader) } if leader.address == "one:7077"),
        "{refused}"
    );
    assert!(refused.to_string().contains("one:7077"), "{refused}");
    // Its own leadership is not taken for another's.
    one.load().await.expect("it still leads");

    one.resign().await;
    assert_eq!(two.load().await.expect("it leads"), Entries::from([("a".into(), "1".into())]));
    assert!(matches!(one.commit(vec![put("a", "2")]).await, Err(EtcdError::Deposed)));
    assert_eq!(two.load().await.expect("loaded")["a"], "1");
}

#[tokio::test]
async fn a_leader_whose_lease_has_ended_writes_nothing_and_hears_of_it() {
    let etcd = Prefix::new("deposed");
    let (mut one, mut two) = (etcd.etcd_store("one"), etcd.etcd_store("two"));
    one.load().await.expect("it leads");
    one.commit(vec![put("a", "1")]).await.expect("committed");
    let (lost, lease) = (one.lost().expect("it leads"), one.term.as_ref().expect("it leads").lease);
    // As if it had been frozen: etcd ends the lease, and another leads, before it hears of that.
    etcd.client().await.lease_revoke(lease).await.expect("revoked");
    leads(&mut two).await;
    let refused = one.commit(vec![put("a", "2")]).await;
    assert!(matches!(refused, Err(EtcdError::Deposed)), "{refused:?}");
    assert_eq!(two.load().await.expect("loaded")["a"], "1");
    lost.cancelled().await;
    assert!(matches!(one.load().await, Err(EtcdError::Standby { .. })));
}

#[tokio::test]
async fn a_silent_leader_is_noticed_by_itself_and_by_the_others() {
    let etcd = Prefix::new("silent");
    let (mut one, mut two) = (etcd.etcd_store("one"), etcd.etcd_store("two"));
    one.load().await.expect("it leads");
    let lost = one.lost().expect("it leads");
    etcd.client().await.lease_revoke(one.term.as_ref().expect("it leads").lease).await.expect("revoked");
    lost.cancelled().await;
    // Its process is gone, and nobody keeps the lease alive.
    leads(&mut two).await;
    drop(two);
    leads(&mut one).await;
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_takes_effect_once() {
    let etcd = Prefix::new("lost");
    let proxy = proxy().await;
    let mut store = etcd.through(&proxy, "one");
    store.load().await.expect("it leads");
    let mut client = etcd.client().await;
    let mut version = async || {
        let found = client.get(format!("{}/sequence", etcd.location.prefix), None).await.expect("sequence");
        found.kvs().first().expect("the key").version()
    };
    let mut before = version().await;
    let (mut number, mut lost) = (0, 0);
    // The answer that is lost may have been a renewal of the leadership.
    while lost < 5 {
        number += 1;
        let losing = lose_next(&proxy);
        store.commit(vec![put("a", &number.to_string())]).await.expect("committed");
        let after = version().await;
        assert_eq!(after - before, 1, "commit {number} took effect once");
        proxy.end(&losing);
        lost += losing.bites();
        before = after;
    }
    assert_eq!(store.load().await.expect("loaded")["a"], number.to_string());
}

#[tokio::test]
async fn a_large_commit_that_a_crash_cuts_short_is_all_or_nothing() {
    let etcd = Prefix::new("staged");
    let old: Vec<Change> = (0..300).map(|number| put(&format!("{number:03}"), "old")).collect();
    let new: Vec<Change> = old.iter().map(|change| put(&change.key, "new")).collect();
    let count = pieces(new.clone()).len();
    assert_eq!(count, 3);
    let mut kept = BTreeMap::new();
    for step in 0..=2 * count {
        let mut store = etcd.etcd_store("one");
        store.load().await.expect("it leads");
        store.commit(old.clone()).await.expect("committed");
        store.crash_after = Some(step);
        store.commit(new.clone()).await.expect_err("crashed");
        store.resign().await;
        // What the crashed one could not do.
        etcd.client().await.delete(format!("{}/leader", etcd.location.prefix), None).await.expect("deleted");
        let mut next = etcd.etcd_store("two");
        let values: Vec<String> = next.load().await.expect("it leads").into_values().collect();
        assert!(values.windows(2).all(|pair| pair[0] == pair[1]), "step {step}: all or nothing");
        assert_eq!(values.len(), 300);
        kept.insert(step, values[0].clone());
        // Nothing is left of it.
        let left = etcd
            .client()
            .await
            .get(format!("{}/staged/", etcd.location.prefix), Some(GetOptions::new().with_prefix()))
            .await;
        assert_eq!(left.expect("found").kvs().len(), 0);
        next.resign().await;
    }
    let decided_at = kept.iter().find(|(_, value)| *value == "new").map(|(step, _)| *step);
    assert_eq!(decided_at, Some(count + 1), "{kept:?}");
    assert!(kept.iter().all(|(step, value)| (value == "new") == (*step > count)), "{kept:?}");
}

#[tokio::test]
async fn another_cluster_and_a_newer_format_are_refused() {
    let etcd = Prefix::new("cluster");
    etcd.etcd_store("one").load().await.expect("it leads");
    let refused = etcd.of_cluster("other").load().await.expect_err("another cluster");
    assert!(!refused.is_passing() && refused.to_string().contains("--cluster millrace"), "{refused}");
    let key = format!("{}/cluster", etcd.location.prefix);
    etcd.client().await.put(key, r#"{"cluster":"millrace","format":2}"#, None).await.expect("put");
    let refused = etcd.etcd_store("two").load().await.expect_err("newer");
    assert!(!refused.is_passing() && refused.to_string().contains("format 2"), "{refused}");
}

#[tokio::test]
async fn an_etcd_that_is_away_is_said_and_waited_for() {
    let location = EtcdLocation::parse("127.0.0.1:1").expect("a location");
    let etcd = Prefix::new("away");
    let mut store = EtcdStore { location, ..etcd.etcd_store("one") };
    let away = store.load().await.expect_err("nobody listens");
    assert!(away.is_passing() && away.to_string().contains("127.0.0.1:1"), "{away}");
}

#[test]
fn pieces_fit_in_a_transaction_and_keep_the_last_value() {
    let changes: Vec<Change> =
        (0..1000).map(|number| put(&format!("{}", number % 500), &"x".repeat(number))).collect();
    let pieces = pieces(changes);
    assert!(pieces.iter().all(|piece| piece.len() <= MOST_CHANGES));
    let all: Vec<&Change> = pieces.iter().flatten().collect();
    assert_eq!(all.len(), 500);
    assert!(all.iter().all(|change| change.value.as_ref().expect("a value").len() >= 500));
    let large: Vec<Change> =
        (0..10).map(|number| put(&format!("{number}"), &"x".repeat(MOST_BYTES / 2))).collect();
    assert!(super::pieces(large).len() >= 5);
    // What JSON writes as two bytes takes two in a staged piece.
    let quoted: Vec<Change> =
        (0..40).map(|number| put(&format!("{number}"), &"\"\n".repeat(MOST_BYTES / 64))).collect();
    assert!(super::pieces(quoted).iter().all(|piece| json(piece).len() <= MOST_BYTES + 2));
}

#[tokio::test]
async fn a_large_commit_of_texts_that_grow_in_json_is_taken() {
    let etcd = Prefix::new("quotes");
    let mut store = etcd.etcd_store("one");
    store.load().await.expect("it leads");
    let text = "\"\\\"".repeat(15_000);
    let changes: Vec<Change> = (0..60).map(|number| put(&format!("{number:02}"), &text)).collect();
    store.commit(changes).await.expect("committed");
    let loaded = store.load().await.expect("loaded");
    assert_eq!(loaded.len(), 60);
    assert!(loaded.values().all(|value| *value == text));
}
