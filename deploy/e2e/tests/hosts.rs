//! Master, workers, Kafka, S3 and collector on hosts of their own, under mutual TLS and a token. One host after the
//! other is cut off, in each direction, and healed; every event is accounted for in the end.

use std::path::Path;
use std::time::{Duration, Instant};

use millrace_e2e::{
    Authority, Certified, Cut, Hand, Network, NetworkHost, cursor, in_own_network, millrace, signal,
};
use millrace_local::s3::{self, LOGIN};
use millrace_local::{Part, PortUse, kafka};
use millrace_types::LakeTarget;
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

/// A wait longer than this is a hang, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(180);
const POLL: Duration = Duration::from_millis(100);
const BUCKET: &str = "hosts.data.lake";
const PARTITIONS: usize = 6;
/// Every host is empty: the usual ports are free.
const FLAG: &str = "a host of its own";

/// A cluster on hosts. Its logs are kept when the test fails.
struct Hosts {
    folder: Option<TempDir>,
    client: reqwest::Client,
    person: Vec<(&'static str, String)>,
    lake: LakeTarget,
    master: NetworkHost,
    kafka: kafka::Settings,
    workers: Vec<(NetworkHost, Hand)>,
    _network: Network,
    _parts: [Part; 2],
    _processes: Vec<Hand>,
}

fn path(path: &Path) -> &str {
    path.to_str().expect("text")
}

/// What a process on a host shows and asks for.
fn certified<'a>(certified: &'a Certified, authority: &'a Authority, token: &'a str) -> Vec<&'a str> {
    let (certificate, key) = (path(&certified.certificate), path(&certified.key));
    let ca = path(&authority.ca);
    vec!["--tls-certificate", certificate, "--tls-key", key, "--tls-client-ca", ca, "--token", token]
}

impl Hosts {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let network = Network::new().await;
        let at = |port| PortUse { port, flag: FLAG };
        let log = |name: &str| folder.path().join(format!("{name}.log"));

        let kafka_settings = kafka::Settings {
            folder: folder.path().join("kafka"),
            log: log("kafka"),
            host: network.host("kafka", 1).await.for_part(),
            port: at(9092),
            controller_port: at(9093),
            detour: None,
        };
        let s3_settings = s3::Settings {
            folder: folder.path().join("s3"),
            log: log("s3"),
            host: network.host("s3", 2).await.for_part(),
            port: at(9000),
            inner_ports: at(9100),
            bucket: BUCKET.to_owned(),
        };
        let (access_key_id, secret_access_key) =
            s3::keep_login(folder.path(), LOGIN, LOGIN).expect("the login is kept");
        let lake = LakeTarget {
            url: format!("s3://{BUCKET}/clicks"),
            endpoint: Some(s3_settings.endpoint()),
            region: None,
            access_key_id,
            secret_access_key,
        };
        let mut kafka = kafka::prepare(&kafka_settings).await.expect("Kafka");
        let mut s3 = s3::prepare(&s3_settings, lake.clone()).await.expect("S3");
        let (kafka_started, s3_started) = tokio::join!(kafka.start(), s3.start());
        kafka_started.expect("Kafka");
        s3_started.expect("S3");

        let authority = Authority::new(folder.path(), "ca");
        let token_file = folder.path().join("token");
        std::fs::write(&token_file, "a-token-that-nobody-guesses\n").expect("written");
        let token = format!("file:{}", token_file.display());
        let program = millrace().display().to_string();
        let servers = kafka_settings.bootstrap_servers();

        // Listens everywhere, and tells its address.
        let master_host = network.host("master", 3).await;
        let master_address = master_host.address.to_string();
        let shown = authority.certify("master", &[&master_address]);
        let state = format!("file:{}", folder.path().join("state").display());
        let (key_id, key) = (lake.access_key_id.to_string(), lake.secret_access_key.to_string());
        let mut line =
            vec![program.as_str(), "master", "--bind", "0.0.0.0:7077", "--advertise", &master_address];
        line.extend(["--http-bind", "0.0.0.0:18080", "--state", &state, "--kafka", &servers]);
        line.extend(["--lake", &lake.url, "--s3-endpoint", lake.endpoint.as_deref().expect("given")]);
        line.extend(["--s3-access-key-id", &key_id, "--s3-secret-access-key", &key]);
        line.extend(["--roll-age", "1s", "--roll-idle", "1s"]);
        line.extend(certified(&shown, &authority, &token));
        let master = master_host.start(&line, &log("master"));

        let collector_host = network.host("collector", 4).await;
        let collect = format!("{}:60000", collector_host.address);
        let line = [program.as_str(), "ingest", "--bind", &collect, "--kafka", &servers];
        let collector = collector_host.start(&line, &log("collector"));

        let mut workers = Vec::new();
        for number in 11..=13 {
            let name = format!("worker-{number}");
            let host = network.host(&name, number).await;
            let address = host.address.to_string();
            let shown = authority.certify(&name, &[&address]);
            let masters = format!("{master_address}:7077");
            let mut line = vec![program.as_str(), "worker", "--master", &masters, "--cores", "1"];
            line.extend(["--memory", "256MiB", "--tls-ca", path(&authority.ca)]);
            // One of them listens everywhere, too.
            match number {
                12 => line.extend(["--bind", "0.0.0.0", "--advertise", &address]),
                _ => line.extend(["--bind", &address]),
            }
            line.extend(certified(&shown, &authority, &token));
            let process = host.start(&line, &log(&name));
            workers.push((host, process));
        }

        let shown = authority.certify("person", &["person.example"]);
        Self {
            client: reqwest::Client::builder().timeout(POLL * 50).no_proxy().build().expect("client"),
            person: vec![
                ("MILLRACE_MASTER", format!("{master_address}:7077")),
                ("MILLRACE_TLS_CA", path(&authority.ca).to_owned()),
                ("MILLRACE_TLS_CERTIFICATE", path(&shown.certificate).to_owned()),
                ("MILLRACE_TLS_KEY", path(&shown.key).to_owned()),
                ("MILLRACE_TOKEN_AT", token),
                ("AWS_ACCESS_KEY_ID", LOGIN.to_owned()),
                ("AWS_SECRET_ACCESS_KEY", LOGIN.to_owned()),
            ],
            folder: Some(folder),
            lake,
            master: master_host,
            kafka: kafka_settings,
            workers,
            _network: network,
            _parts: [kafka, s3],
            _processes: vec![master, collector],
        }
    }

    fn folder(&self) -> &Path {
        self.folder.as_ref().expect("kept until the drop").path()
    }

    fn page(&self) -> String {
        format!("http://{}:18080", self.master.address)
    }

    /// What a person at the desk is answered, with or without some of what lets them in; and whether it went well.
    async fn run(&self, arguments: &[&str], without: &[&str]) -> (String, bool) {
        let person = self.person.iter().filter(|(name, _)| !without.contains(name));
        let mut command = Command::new(millrace());
        command
            .args(arguments)
            .env_clear()
            .envs(person.map(|(name, value)| (name, value)))
            .kill_on_drop(true);
        let output = tokio::time::timeout(PATIENCE, command.output()).await;
        let output = output.unwrap_or_else(|_| panic!("{arguments:?} hangs")).expect("it starts");
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (text, output.status.success())
    }

    async fn list(&self, what: &str) -> Vec<Value> {
        let url = format!("{}/api/v1/{what}", self.page());
        let Ok(answer) = self.client.get(url).send().await else { return Vec::new() };
        let bytes = answer.bytes().await.unwrap_or_default();
        let value: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        value.as_array().cloned().unwrap_or_default()
    }

    /// Waits until `reached(workers, slots)`.
    async fn until(&self, what: &str, reached: impl Fn(&[Value], &[Value]) -> bool) {
        let began = Instant::now();
        loop {
            let (workers, slots) = (self.list("workers").await, self.list("slots").await);
            if reached(&workers, &slots) {
                return;
            }
            assert!(
                began.elapsed() < PATIENCE,
                "not within {PATIENCE:?}: {what}\nworkers {workers:#?}\nslots {slots:#?}\nlogs in {}",
                self.folder().display()
            );
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until the lake has got more of every partition.
    async fn until_all_commit(&self) {
        let before = self.list("slots").await;
        self.until("every slot commits", |_, slots| {
            slots.len() == PARTITIONS
                && slots.iter().zip(&before).all(|(now, before)| cursor(now) > cursor(before))
        })
        .await;
    }
}

impl Drop for Hosts {
    fn drop(&mut self) {
        if std::thread::panicking()
            && let Some(folder) = self.folder.take()
        {
            eprintln!("the hosts' files are kept in {}", folder.keep().display());
        }
    }
}

/// The worker on `host`, as the master tells it.
fn worker_on<'a>(workers: &'a [Value], host: &NetworkHost) -> Option<&'a Value> {
    let address = host.address.to_string();
    workers.iter().rfind(|worker| worker["host"] == address.as_str())
}

/// Whether every slot runs on a worker that is alive; how many on the one with `id`.
fn running(workers: &[Value], slots: &[Value], id: &Value) -> Option<usize> {
    let is_alive =
        |owner: &Value| workers.iter().any(|worker| worker["id"] == *owner && worker["state"] == "ALIVE");
    let all = slots.len() == PARTITIONS
        && slots.iter().all(|slot| slot["state"] == "running" && is_alive(&slot["owner"]));
    all.then(|| slots.iter().filter(|slot| slot["owner"] == *id).count())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs network namespaces: `make test-hosts`"]
async fn a_host_that_is_cut_off_loses_its_slots_and_nothing_else() {
    if !in_own_network("a_host_that_is_cut_off_loses_its_slots_and_nothing_else").await {
        return;
    }
    let mut hosts = Hosts::start().await;
    hosts
        .until("every worker has slots", |workers, slots| {
            hosts.workers.iter().all(|(host, _)| {
                worker_on(workers, host)
                    .is_some_and(|worker| running(workers, slots, &worker["id"]).is_some_and(|own| own > 0))
            })
        })
        .await;
    let ledger = hosts.folder().join("ledger.jsonl");
    let collect = "http://10.79.0.4:60000/collect";
    let program = millrace().display().to_string();
    let line = [&program, "generate", "--url", collect, "--rate", "300", "--ledger", path(&ledger)];
    let mut generator = Hand::start(&line.map(str::to_owned), &hosts.folder().join("generator.log"));
    hosts.until_all_commit().await;

    // Only who is known, and has the token, sees anything, at the master or at a worker.
    let (text, ok) = hosts.run(&["workers"], &[]).await;
    assert!(ok && text.matches("ALIVE").count() == 3, "{text}");
    let (text, ok) = hosts.run(&["tail", "-n", "3"], &[]).await;
    assert!(ok && text.contains("acme.clickstream.raw.events/"), "{text}");
    for without in [
        &["MILLRACE_TLS_CERTIFICATE", "MILLRACE_TLS_KEY"][..],
        &["MILLRACE_TOKEN_AT"],
        &["MILLRACE_TLS_CA", "MILLRACE_TLS_CERTIFICATE", "MILLRACE_TLS_KEY"],
    ] {
        let (text, ok) = hosts.run(&["tail", "-n", "3"], without).await;
        assert!(!ok && !text.contains("acme.clickstream.raw.events/"), "without {without:?}: {text}");
    }

    for (victim, cut) in [Cut::Outbound, Cut::Inbound, Cut::Both].into_iter().enumerate() {
        let host = &hosts.workers[victim].0;
        let workers = hosts.list("workers").await;
        let id = worker_on(&workers, host).expect("it is known")["id"].clone();
        host.cut(cut).await;
        hosts
            .until(&format!("{cut:?}: its slots run on other hosts"), |workers, slots| {
                worker_on(workers, host).is_some_and(|worker| worker["state"] == "DEAD")
                    && running(workers, slots, &id) == Some(0)
            })
            .await;
        hosts.until_all_commit().await;
        host.heal(cut).await;
        hosts
            .until(&format!("{cut:?} healed: it takes slots again"), |workers, slots| {
                worker_on(workers, host)
                    .is_some_and(|worker| worker["id"] == id && worker["state"] == "ALIVE")
                    && running(workers, slots, &id).is_some_and(|own| own > 0)
            })
            .await;
        hosts.until_all_commit().await;
    }
    for (host, process) in &mut hosts.workers {
        assert!(!process.has_ended(), "the worker on {} ended:\n{}", host.address, process.output());
    }

    signal(generator.pid(), libc::SIGINT);
    assert!(generator.ended().await.success(), "{}", generator.output());
    hosts
        .until("topic and lake have all of it", |_, slots| {
            slots.len() == PARTITIONS
                && slots.iter().all(|slot| {
                    let end = slot["end"].as_i64();
                    end.is_some()
                        && slot["lake_cursor"].as_i64() >= end
                        && slot["topic_cursor"].as_i64() >= end
                })
        })
        .await;
    let (page, servers) = (hosts.page(), hosts.kafka.bootstrap_servers());
    let mut line = vec!["verify", "--page", &page, "--kafka", &servers, "--lake", &hosts.lake.url, "--json"];
    line.extend(["--s3-endpoint", hosts.lake.endpoint.as_deref().expect("given"), "--ledger", path(&ledger)]);
    let (report, ok) = hosts.run(&line, &[]).await;
    assert!(ok, "{report}");
}
