//! Stories of the store: a master that starts again, one whose store is gone, records that can't be.

use millrace_types::{Epoch, Millis};

use super::support::{Cluster, worker_id};
use crate::{Coordinator, Directive, Record, RecordBody, RestoreError, Settings, SlotRecord, WorkerState};

#[test]
fn running_workers_are_taken_back_and_never_pause() {
    let mut cluster = Cluster::started(&["a", "b", "c"], 6);
    let before = cluster.owners();
    cluster.restart_master();
    assert_eq!(cluster.owners(), before, "the store knows it all");
    assert_eq!(cluster.worker("b").state, WorkerState::Unknown);
    for worker in ["c", "a", "b"] {
        cluster.now += 900;
        let told = cluster.register(worker);
        assert_eq!(told, vec![]);
    }
    let told = cluster.pass(10_000);
    assert_eq!((told, cluster.owners()), (vec![], before));
    assert_eq!(cluster.view().losses, vec![]);
}

#[test]
fn a_worker_that_died_with_the_master_is_lost_after_a_lease() {
    let mut cluster = Cluster::started(&["a", "b", "c"], 6);
    cluster.restart_master();
    cluster.running.remove(&worker_id("b"));
    cluster.register("a");
    cluster.register("c");
    cluster.pass(2_900);
    assert_eq!(cluster.worker("b").slots.len(), 2);
    cluster.pass(200);
    assert_eq!(cluster.worker("b").state, WorkerState::Dead);
    assert_eq!((cluster.worker("a").slots.len(), cluster.worker("c").slots.len()), (3, 3));
}

#[test]
fn epochs_go_on_rising_after_a_restart() {
    let mut cluster = Cluster::started(&["a", "b"], 2);
    cluster.restart_master();
    cluster.running.clear();
    cluster.register("a");
    cluster.pass(5_000);
    let owners = cluster.owners();
    assert!(owners.values().all(|(owner, _)| owner == "a"));
    assert_eq!(owners.values().filter(|(_, epoch)| *epoch == Epoch(2)).count(), 1, "{owners:?}");
}

#[test]
fn slots_of_a_pipeline_that_the_store_lost_are_revoked() {
    let mut cluster = Cluster::started(&["a"], 2);
    cluster.store.clear();
    cluster.restart_master();
    let told = cluster.register("a");
    let revoked = told.iter().filter(|directive| matches!(directive, Directive::Revoke { .. })).count();
    assert_eq!(revoked, 2);
}

#[test]
fn dead_workers_stay_dead_for_the_next_master() {
    let mut cluster = Cluster::started(&["a", "b"], 2);
    cluster.lose_session("b");
    cluster.pass(1_000);
    cluster.restart_master();
    assert_eq!(cluster.worker("b").state, WorkerState::Dead);
    cluster.register("a");
    cluster.pass(10_000);
    assert_eq!(cluster.view().losses, vec![], "it is not lost a second time");
}

fn refusal(change: impl FnOnce(&mut Vec<Record>)) -> RestoreError {
    let cluster = Cluster::started(&["a"], 3);
    let mut records: Vec<Record> = cluster.store.values().cloned().collect();
    change(&mut records);
    Coordinator::restore(Settings::default(), records, Millis(0)).expect_err("refused")
}

fn slots_of(records: &mut [Record]) -> &mut std::collections::BTreeMap<i32, SlotRecord> {
    let found = records.iter_mut().find_map(|record| match &mut record.body {
        RecordBody::Slots { slots, .. } => Some(slots),
        RecordBody::Pipeline(_) | RecordBody::Completed(_) | RecordBody::Worker { .. } => None,
    });
    found.expect("a group")
}

#[test]
fn records_that_no_build_wrote_are_refused() {
    assert!(matches!(refusal(|records| records[0].version = 1), RestoreError::Version { version: 1, .. }));
    assert!(matches!(refusal(|records| records.push(records[0].clone())), RestoreError::Twice { .. }));
    let damaged: [fn(&mut Vec<Record>); 5] = [
        |records| records.retain(|record| !matches!(record.body, RecordBody::Pipeline(_))),
        |records| records.retain(|record| !matches!(record.body, RecordBody::Slots { .. })),
        |records| {
            slots_of(records).remove(&1);
        },
        |records| {
            slots_of(records).insert(-1, SlotRecord::default());
        },
        |records| {
            slots_of(records).insert(3, SlotRecord { opened: true, ..SlotRecord::default() });
        },
    ];
    for change in damaged {
        let refused = refusal(change);
        assert!(matches!(refused, RestoreError::Damaged { .. }), "{refused}");
    }
}

#[test]
fn settings_that_dont_fit_together_are_refused() {
    let refuse =
        |settings| Coordinator::restore(settings, vec![], Millis(0)).expect_err("refused").to_string();
    let default = Settings::default;
    assert!(refuse(Settings { lease: Millis(900), ..default() }).starts_with("lease = 900 ms: expected"));
    assert!(refuse(Settings { heartbeat: Millis(0), ..default() }).starts_with("heartbeat = 0 ms"));
    assert!(refuse(Settings { first_retry: Millis(0), ..default() }).starts_with("first_retry = 0 ms"));
    assert!(refuse(Settings { longest_retry: Millis(10), ..default() }).starts_with("longest_retry = 10 ms"));
}

#[test]
fn a_slot_whose_stored_owner_is_dead_or_gone_is_free() {
    for gone in [false, true] {
        let mut cluster = Cluster::started(&["a"], 1);
        for record in cluster.store.values_mut() {
            if let RecordBody::Worker { dead, .. } = &mut record.body {
                *dead = true;
            }
        }
        cluster.store.retain(|_, record| !gone || !matches!(record.body, RecordBody::Worker { .. }));
        cluster.restart_master();
        assert_eq!(cluster.owners().len(), 0);
        cluster.register("b");
        cluster.pass(1_000);
        assert_eq!(cluster.owners()[&0], ("b".to_owned(), Epoch(2)));
    }
}
