//! How a master gets into an etcd that is guarded, and what becomes of it when etcd is full: a real etcd, certificates
//! made here.

use std::path::Path;
use std::time::{Duration, Instant};

use etcd_client::{
    AlarmAction, AlarmOptions, AlarmType, Certificate, Client, CompactionOptions, ConnectOptions,
    DeleteOptions, Error, Identity, Permission, PermissionType, TlsOptions,
};
use millrace_e2e::{Authority, Certified, Etcd, Hand, millrace, signal};
use millrace_local::{PortBlock, etcd};
use serde_json::Value;
use tempfile::TempDir;

/// A wait longer than this is a hang, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
const PASSWORD: &str = "nobody-guesses-this-one";

/// One master at a time, and one worker.
struct Scene {
    folder: TempDir,
    ports: PortBlock,
}

impl Scene {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("folder"), ports: PortBlock::find().expect("free ports") }
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    fn start(&self, name: &str, arguments: &[&str]) -> Hand {
        let mut line = vec![millrace().display().to_string()];
        line.extend(arguments.iter().map(|argument| (*argument).to_owned()));
        let log = self.folder.path().join(format!("{name}.log"));
        let _ = std::fs::remove_file(&log);
        Hand::start(&line, &log)
    }

    fn master(&self, etcd: &str, flags: &[&str]) -> Hand {
        let (bind, page) =
            (format!("127.0.0.1:{}", self.ports.port(0)), format!("127.0.0.1:{}", self.ports.port(1)));
        let state = format!("etcd://{etcd}");
        let mut line =
            vec!["master", "--no-pipeline", "--state", &state, "--bind", &bind, "--http-bind", &page];
        line.extend(flags);
        self.start("master", &line)
    }

    fn worker(&self, name: &str) -> Hand {
        let master = format!("127.0.0.1:{}", self.ports.port(0));
        self.start(name, &["worker", "--master", &master, "--cores", "1", "--memory", "256MiB"])
    }

    /// Ids of the workers that the master knows as alive.
    async fn alive(&self) -> usize {
        let url = format!("http://127.0.0.1:{}/api/v1/workers", self.ports.port(1));
        let Ok(answer) = reqwest::get(url).await else { return 0 };
        let workers: Value =
            serde_json::from_slice(&answer.bytes().await.unwrap_or_default()).unwrap_or_default();
        workers.as_array().map_or(0, |all| all.iter().filter(|worker| worker["state"] == "ALIVE").count())
    }

    async fn until_alive(&self, workers: usize, master: &Hand) {
        let began = Instant::now();
        while self.alive().await != workers {
            assert!(began.elapsed() < PATIENCE, "{workers} workers are not alive\n{}", master.output());
            tokio::time::sleep(POLL).await;
        }
    }
}

async fn until_says(process: &Hand, words: &str) {
    let began = Instant::now();
    while !process.output().contains(words) {
        assert!(began.elapsed() < PATIENCE, "{words:?} is not in\n{}", process.output());
        tokio::time::sleep(POLL).await;
    }
}

async fn read(path: &Path) -> Vec<u8> {
    tokio::fs::read(path).await.expect("a file of the test")
}

/// A client that is no master: by certificate, and as `user` if one is given.
async fn client(etcd: &str, ca: &Path, own: &Certified, user: Option<&str>) -> Result<Client, Error> {
    let tls = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read(ca).await))
        .identity(Identity::from_pem(read(&own.certificate).await, read(&own.key).await));
    let mut options = ConnectOptions::new().with_tls(tls);
    if let Some(user) = user {
        options = options.with_user(user, PASSWORD);
    }
    Client::connect([etcd], Some(options)).await
}

/// From now on nobody gets in without a password, and `millrace` only to its own keys.
async fn enable_logins(client: &mut Client) -> Result<(), Error> {
    client.role_add("root").await?;
    client.user_add("root", PASSWORD, None).await?;
    client.user_grant_role("root", "root").await?;
    client.role_add("masters").await?;
    let all = Permission::new(PermissionType::Readwrite, "/millrace/").with_prefix();
    client.role_grant_permission("masters", all).await?;
    client.user_add("millrace", PASSWORD, None).await?;
    client.user_grant_role("millrace", "masters").await?;
    client.auth_enable().await.map(drop)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guarded_etcd_lets_in_who_is_known_and_others_are_told_by_which_flag() {
    let scene = Scene::new();
    let (ours, theirs) =
        (Authority::new(scene.folder.path(), "our-ca"), Authority::new(scene.folder.path(), "their-ca"));
    let server = ours.certify("etcd", &["127.0.0.1"]);
    let own = ours.certify("master", &["master.example"]);
    let tls = etcd::Tls {
        certificate: server.certificate.clone(),
        key: server.key.clone(),
        client_ca: ours.ca.clone(),
    };
    // Tokens live for a second: who stays must renew them.
    let etcd = Etcd::start_with(1, Some(tls), &["--auth-token", "simple", "--auth-token-ttl", "1"]).await;
    let endpoint = etcd.endpoints();
    let began = Instant::now();
    loop {
        let asked = async { enable_logins(&mut client(&endpoint, &ours.ca, &own, None).await?).await };
        match asked.await {
            Ok(()) => break,
            Err(error) => assert!(began.elapsed() < PATIENCE, "{error}"),
        }
        tokio::time::sleep(POLL).await;
    }

    let path = |path: &Path| path.display().to_string();
    let (ca, their_ca) = (path(&ours.ca), path(&theirs.ca));
    let (certificate, key) = (path(&own.certificate), path(&own.key));
    let (right, wrong) = (scene.file("right", PASSWORD), scene.file("wrong", "another"));
    let (right, wrong) = (format!("file:{right}"), format!("file:{wrong}"));
    let flags = |ca: &str, password: &str| -> Vec<String> {
        let flags = ["--etcd-ca", ca, "--etcd-certificate", &certificate, "--etcd-key", &key];
        let login = ["--etcd-user", "millrace", "--etcd-password", password];
        flags.into_iter().chain(login).map(str::to_owned).collect()
    };
    let start = |flags: &[String]| {
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        scene.master(&endpoint, &flags)
    };
    for (flags, words) in [
        (flags(&their_ca, &right), ["--etcd-ca", "UnknownIssuer"]),
        (flags(&ca, &wrong), ["--etcd-password", "invalid user ID or password"]),
        (flags(&ca, &right)[..6].to_vec(), ["--etcd-user", "permission denied"]),
        (Vec::new(), ["--etcd-ca", "etcd at"]),
    ] {
        let master = start(&flags);
        for words in words {
            until_says(&master, words).await;
        }
        let mut master = master;
        if !master.has_ended() {
            signal(master.pid(), libc::SIGKILL);
        }
        let _ = master.ended().await;
    }

    let master = start(&flags(&ca, &right));
    let first = scene.worker("first");
    scene.until_alive(1, &master).await;
    // A token that was given when the master's was is worth nothing any more.
    let mut idle = client(&endpoint, &ours.ca, &own, Some("millrace")).await.expect("let in");
    let began = Instant::now();
    while idle.get("/millrace/leader", None).await.is_ok() {
        assert!(began.elapsed() < PATIENCE, "tokens live for ever");
        tokio::time::sleep(Duration::from_millis(1500)).await;
    }
    let _second = scene.worker("second");
    scene.until_alive(2, &master).await;
    assert!(!first.output().contains("panicked"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_etcd_is_said_and_the_master_goes_on_when_there_is_room_again() {
    let scene = Scene::new();
    let etcd = Etcd::start_with(1, None, &["--quota-backend-bytes", "4194304"]).await;
    let endpoint = etcd.endpoints();
    let master = scene.master(&endpoint, &[]);
    let _first = scene.worker("first");
    scene.until_alive(1, &master).await;
    let mut filling = Client::connect([endpoint.as_str()], None).await.expect("etcd");
    let body = vec![b'x'; 256 << 10];
    let mut put = 0;
    while filling.put(format!("/others/{put}"), body.clone(), None).await.is_ok() {
        put += 1;
        assert!(put < 1000, "the quota does not bite");
    }
    let _second = scene.worker("second");
    until_says(&master, "database quota is used up").await;
    assert!(scene.alive().await < 2, "nothing is promised that is not stored");

    let revision =
        filling.delete("/others/", Some(DeleteOptions::new().with_prefix())).await.expect("deleted");
    let revision = revision.header().expect("a header").revision();
    filling.compact(revision, Some(CompactionOptions::new().with_physical())).await.expect("compacted");
    filling.defragment().await.expect("defragmented");
    // As `etcdctl alarm disarm` does: each by its member.
    let raised = filling.alarm(AlarmAction::Get, AlarmType::None, None).await.expect("alarms");
    assert!(!raised.alarms().is_empty(), "the quota raised no alarm");
    for alarm in raised.alarms() {
        let mut of = AlarmOptions::new();
        of.with_member(alarm.member_id());
        filling.alarm(AlarmAction::Deactivate, AlarmType::Nospace, Some(of)).await.expect("disarmed");
    }
    scene.until_alive(2, &master).await;
}
