//! Three masters on an etcd of three members, each of which is lost in turn while two workers go on.

use std::collections::BTreeMap;

use millrace_e2e::{Cluster, Etcd, Hand, make_topics, millrace, produce, read_committed, signal};
use serde_json::Value;

const PARTITIONS: i32 = 4;
/// However slow the machine, the workers find the next leader before it takes them for dead.
const PATIENT_LEASE: &str = "15s";

struct Scene {
    cluster: Cluster,
    etcd: Etcd,
    raw: String,
    enriched: String,
    produced: usize,
}

impl Scene {
    async fn start() -> Self {
        let etcd = Etcd::start().await;
        let cluster = Cluster::with_masters(&millrace(), &etcd.endpoints(), 3, PATIENT_LEASE).await;
        let name = |of: &str| format!("failover-{of}-{}", std::process::id());
        let (raw, enriched, invalid) = (name("raw"), name("enriched"), name("invalid"));
        make_topics(&cluster.kafka, &[&raw], PARTITIONS).await;
        let file = format!(
            "name = \"failover\"\nkafka = \"{}\"\n[source]\ntopics = [\"{raw}\"]\n[transform]\nkind = \"raw\"\n\
             [sinks]\nenriched_topic = \"{enriched}\"\ninvalid_topic = \"{invalid}\"\ncommit_interval = \"100ms\"\n\
             [sinks.lake]\nurl = \"file://{}/lake\"\nroll_age = \"1s\"\n",
            cluster.kafka,
            cluster.folder().display()
        );
        cluster.submit("failover", &file).await;
        Self { cluster, etcd, raw, enriched, produced: 0 }
    }

    /// Sends records and waits until they are on the enriched topic, whoever leads.
    async fn the_slots_go_on(&mut self) {
        let first = self.produced;
        self.produced += 40;
        produce(
            &self.cluster.kafka,
            &self.raw,
            (first..self.produced).map(|number| format!("record {number}")),
        );
        let (kafka, enriched, produced) = (&self.cluster.kafka, &self.enriched, self.produced);
        self.cluster
            .until("the records are on the enriched topic", || async {
                read_committed(kafka, enriched).await.len() >= produced
            })
            .await;
    }

    /// Owner and epoch of each slot, when the leader knows all of them to run.
    async fn owners(&self) -> BTreeMap<String, (String, u64)> {
        self.cluster
            .until("all slots run, and all workers are heard", || async {
                let slots = self.cluster.slots().await;
                slots.len() == 4 && slots.iter().all(|slot| slot["state"] == "running") && {
                    let workers = self.cluster.get("/api/v1/workers").await.unwrap_or_default();
                    workers.as_array().is_some_and(|all| all.iter().all(|worker| worker["state"] == "ALIVE"))
                }
            })
            .await;
        let text = |slot: &Value, key: &str| slot[key].as_str().expect("text").to_owned();
        let slots = self.cluster.slots().await;
        slots
            .iter()
            .map(|slot| {
                (text(slot, "slot"), (text(slot, "owner"), slot["epoch"].as_u64().expect("a number")))
            })
            .collect()
    }

    /// Waits until another master than `before` leads.
    async fn leader_after(&self, before: u16) -> u16 {
        self.cluster
            .until("another master leads", || async {
                self.cluster.leader().await.is_some_and(|leader| leader != before)
            })
            .await;
        self.cluster.leader().await.expect("it leads")
    }

    async fn leader(&self) -> u16 {
        self.cluster.until("a master leads", || async { self.cluster.leader().await.is_some() }).await;
        self.cluster.leader().await.expect("it leads")
    }

    async fn until_standby(&self, number: u16) {
        self.cluster
            .until("it stands by", || async {
                self.cluster.status(number).await.as_deref() == Some("STANDBY")
            })
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn masters_and_members_of_etcd_come_and_go_and_no_slot_notices() {
    let mut scene = Scene::start().await;
    let _workers: Vec<Hand> = (0..2).map(|number| scene.cluster.worker(number)).collect();
    scene.the_slots_go_on().await;
    let owners = scene.owners().await;
    assert_eq!(owners.len(), 4);

    // Killed.
    let first = scene.leader().await;
    signal(scene.cluster.masters[usize::from(first)].pid(), libc::SIGKILL);
    scene.the_slots_go_on().await;
    let second = scene.leader_after(first).await;
    assert_eq!(scene.owners().await, owners, "after a killed leader");
    scene.cluster.masters[usize::from(first)] = scene.cluster.master(first);
    scene.until_standby(first).await;
    // A standby's own word leads the command line to the leader.
    assert!(scene.cluster.run(&["workers"]).await.contains("ALIVE"));

    // Stopped in order.
    let stopped = &mut scene.cluster.masters[usize::from(second)];
    signal(stopped.pid(), libc::SIGTERM);
    assert!(stopped.ended().await.success(), "{}", stopped.output());
    assert!(stopped.output().contains("leadership given up"), "{}", stopped.output());
    let third = scene.leader_after(second).await;
    assert_eq!(scene.owners().await, owners, "after a leader that resigned");
    scene.cluster.masters[usize::from(second)] = scene.cluster.master(second);
    scene.until_standby(second).await;

    // Frozen beyond its lease, and thawed: it is a standby, and nothing that it did counts.
    let frozen = scene.cluster.masters[usize::from(third)].pid();
    signal(frozen, libc::SIGSTOP);
    let fourth = scene.leader_after(third).await;
    scene.the_slots_go_on().await;
    signal(frozen, libc::SIGCONT);
    scene.until_standby(third).await;
    // Workers notice a leader that is silent after seconds: who finds the next one too late gets its slots anew.
    drop(scene.owners().await);
    assert_eq!(scene.leader().await, fourth);

    // A member of etcd is lost: the masters go on writing.
    scene.etcd.kill(0).await;
    scene.cluster.run(&["pause", "failover"]).await;
    scene.cluster.run(&["resume", "failover"]).await;
    let owners = scene.owners().await;
    scene.the_slots_go_on().await;

    // All of etcd is lost: nobody leads, and the slots go on.
    scene.etcd.kill(1).await;
    scene.etcd.kill(2).await;
    scene.cluster.until("nobody leads", || async { scene.cluster.leader().await.is_none() }).await;
    scene.the_slots_go_on().await;
    scene.etcd.restart().await;
    scene.leader().await;
    assert_eq!(scene.owners().await, owners, "after etcd was away");

    scene.the_slots_go_on().await;
    let produced = scene.produced;
    scene
        .cluster
        .until("the lake holds everything", || async {
            let slots = scene.cluster.slots().await;
            let rows: i64 = slots.iter().filter_map(|slot| slot["lake_cursor"].as_i64()).sum();
            rows >= i64::try_from(produced).expect("few")
        })
        .await;
    let lake = format!("file://{}/lake", scene.cluster.folder().display());
    scene.cluster.run(&["verify", "--kafka", &scene.cluster.kafka, "--lake", &lake]).await;
}
