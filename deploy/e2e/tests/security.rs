//! Who is refused on the cluster's own wire, and what both sides say of it: real processes, certificates made here.

use std::path::Path;
use std::process::Output;
use std::time::{Duration, Instant};

use millrace_e2e::{Authority, Certified, Hand, millrace};
use millrace_local::PortBlock;
use tempfile::TempDir;
use tokio::process::Command;

/// A wait longer than this is a hang, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(50);
const TOKEN: &str = "a-token-that-nobody-guesses";

/// Certificates, and ports for one master at a time.
struct Scene {
    folder: TempDir,
    ports: PortBlock,
    ours: Authority,
    theirs: Authority,
    /// A certificate of ours for 127.0.0.1.
    server: Certified,
    /// A certificate of ours for a person.
    person: Certified,
}

/// How a process ended, and everything it printed.
struct Said {
    ok: bool,
    code: Option<i32>,
    text: String,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let ours = Authority::new(folder.path(), "our-ca");
        let theirs = Authority::new(folder.path(), "their-ca");
        let server = ours.certify("server", &["127.0.0.1"]);
        let person = ours.certify("person", &["person.example"]);
        Self { ports: PortBlock::find().expect("free ports"), folder, ours, theirs, server, person }
    }

    fn master_address(&self) -> String {
        format!("127.0.0.1:{}", self.ports.port(0))
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("written");
        path.display().to_string()
    }

    /// A master with these flags; it is there when its page says so.
    async fn master(&self, flags: &[&str]) -> Hand {
        let page = format!("127.0.0.1:{}", self.ports.port(1));
        let program = millrace().display().to_string();
        let bind = self.master_address();
        let mut line: Vec<String> =
            [&program, "master", "--no-pipeline", "--state", "memory", "--bind", &bind, "--http-bind", &page]
                .map(str::to_owned)
                .into();
        line.extend(flags.iter().map(|flag| (*flag).to_owned()));
        let log = self.folder.path().join("master.log");
        // The one before must not be looked into.
        let _ = std::fs::remove_file(&log);
        let mut master = Hand::start(&line, &log);
        let began = Instant::now();
        while reqwest::get(format!("http://{page}/api/v1/workers")).await.is_err() {
            assert!(!master.has_ended() && began.elapsed() < PATIENCE, "{}", master.output());
            tokio::time::sleep(POLL).await;
        }
        master
    }

    /// What the command line says to a master at `address`.
    async fn ask_at(&self, address: &str, flags: &[&str]) -> Said {
        said(&["workers", "--master", address], flags).await
    }

    async fn ask(&self, flags: &[&str]) -> Said {
        self.ask_at(&self.master_address(), flags).await
    }
}

async fn said(line: &[&str], flags: &[&str]) -> Said {
    let run = Command::new(millrace()).args(line).args(flags).kill_on_drop(true).output();
    let Output { status, stdout, stderr } = tokio::time::timeout(PATIENCE, run)
        .await
        .unwrap_or_else(|_| panic!("{line:?} hangs"))
        .expect("it starts");
    let text = String::from_utf8_lossy(&stdout).into_owned() + &String::from_utf8_lossy(&stderr);
    assert!(!text.contains(TOKEN), "a secret is shown: {text}");
    assert!(!text.contains("panicked"), "{text}");
    Said { ok: status.success(), code: status.code(), text }
}

async fn until(what: &str, process: &Hand, reached: impl Fn(&str) -> bool) {
    let began = Instant::now();
    while !reached(&process.output()) {
        assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{}", process.output());
        tokio::time::sleep(POLL).await;
    }
}

/// The log says all of it in one line, and is no riddle.
async fn until_log(process: &Hand, words: &[&str]) {
    let has = |line: &str| words.iter().all(|word| line.contains(word));
    until(&format!("a line with {words:?}"), process, |log| log.lines().any(has)).await;
}

fn shown(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn pair(certified: &Certified) -> [&str; 4] {
    ["--tls-certificate", shown(&certified.certificate), "--tls-key", shown(&certified.key)]
}

/// Asserts that the answer is a refusal which says all of `words`.
fn refused(said: &Said, words: &[&str]) {
    assert!(!said.ok, "{}", said.text);
    for word in words {
        assert!(said.text.contains(word), "{word:?} is missing: {}", said.text);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_master_that_cannot_be_trusted_is_refused_and_both_sides_say_why() {
    let scene = Scene::new();
    let address = scene.master_address();
    let ours = ["--tls-ca", shown(&scene.ours.ca)];

    // The CA of somebody else.
    let master = scene.master(&pair(&scene.server)).await;
    let answer = scene.ask(&["--tls-ca", shown(&scene.theirs.ca)]).await;
    refused(&answer, &[&address, "not of an authority in --tls-ca", "their-ca.pem"]);
    until_log(
        &master,
        &["connection refused", "peer=127.0.0.1", "does not know the authority", "server.pem", "--tls-ca"],
    )
    .await;
    let answer = scene.ask(&ours).await;
    assert!(answer.ok, "{}", answer.text);
    // Plain text to TLS.
    let answer = scene.ask(&[]).await;
    refused(&answer, &[&address, "may speak TLS", "--tls-ca"]);
    until_log(&master, &["connection refused", "plain text", "TLS is spoken here"]).await;
    drop(master);

    let expired = scene.ours.certify_expired("old-server", &["127.0.0.1"]);
    let master = scene.master(&pair(&expired)).await;
    refused(&scene.ask(&ours).await, &[&address, "has expired at 20", "renewed"]);
    until_log(&master, &["connection refused", "old-server.pem has expired"]).await;
    drop(master);

    let other = scene.ours.certify("other-server", &["other.example", "10.1.2.3"]);
    let master = scene.master(&pair(&other)).await;
    refused(&scene.ask(&ours).await, &[&address, "other.example, 10.1.2.3", "another host's"]);
    until_log(&master, &["connection refused", "refuses the certificate", "other-server.pem", "not in it"])
        .await;
    drop(master);

    // TLS to plain text.
    let master = scene.master(&[]).await;
    refused(&scene.ask(&ours).await, &[&address, "it speaks plain text", "--tls-certificate"]);
    until_log(&master, &["connection refused", "it speaks TLS", "--tls-ca"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_a_good_certificate_is_refused_and_both_sides_say_why() {
    let scene = Scene::new();
    let address = scene.master_address();
    let ca = shown(&scene.ours.ca);
    let flags = [pair(&scene.server).as_slice(), &["--tls-client-ca", ca]].concat();
    let master = scene.master(&flags).await;
    let ask = async |certified: &Certified| {
        scene.ask(&[pair(certified).as_slice(), &["--tls-ca", ca]].concat()).await
    };

    refused(&scene.ask(&["--tls-ca", ca]).await, &[&address, "wants a certificate", "--tls-certificate"]);
    until_log(&master, &["connection refused", "shows no certificate", "--tls-client-ca", "our-ca.pem"])
        .await;

    let stranger = scene.theirs.certify("stranger", &["person.example"]);
    refused(
        &ask(&stranger).await,
        &[&address, "does not know the authority", "stranger.pem", "--tls-client-ca"],
    );
    until_log(&master, &["connection refused", "not of an authority in --tls-client-ca", "our-ca.pem"]).await;

    let expired = scene.ours.certify_expired("old-person", &["person.example"]);
    refused(&ask(&expired).await, &[&address, "old-person.pem has expired", "renew"]);
    until_log(&master, &["connection refused", "its certificate has expired at 20"]).await;

    let answer = ask(&scene.person).await;
    assert!(answer.ok, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_that_cannot_be_used_are_named_before_anything_else() {
    let scene = Scene::new();
    let ca = shown(&scene.ours.ca);
    let (certificate, key) = (shown(&scene.server.certificate), shown(&scene.server.key));
    let other_key = shown(&scene.person.key);
    let empty = scene.file("empty", "");
    let two_words = scene.file("two-words", "two words");
    for (flags, words) in [
        (
            vec!["--tls-certificate", "/nowhere/a.pem", "--tls-key", key],
            vec!["--tls-certificate /nowhere/a.pem"],
        ),
        (
            vec!["--tls-certificate", certificate, "--tls-key", "/nowhere/a.key"],
            vec!["--tls-key /nowhere/a.key"],
        ),
        (
            vec!["--tls-certificate", certificate, "--tls-key", other_key],
            vec!["don't make a pair", "person.key"],
        ),
        (vec!["--tls-certificate", &empty, "--tls-key", key], vec!["no certificate in it", "empty"]),
        (vec!["--tls-certificate", certificate], vec!["--tls-key"]),
        (vec!["--token", "file:/nowhere/token"], vec!["--token", "/nowhere/token"]),
        (vec!["--token", "env:MILLRACE_TEST_NOT_SET"], vec!["--token", "MILLRACE_TEST_NOT_SET"]),
        (vec!["--token", &format!("file:{two_words}")], vec!["--token"]),
    ] {
        // A process that goes on would listen on these.
        let bind = [scene.master_address(), format!("127.0.0.1:{}", scene.ports.port(1))];
        let master =
            ["master", "--no-pipeline", "--state", "memory", "--bind", &bind[0], "--http-bind", &bind[1]];
        refused(&said(&master, &flags).await, &words);
        let with_ca = [flags.as_slice(), &["--tls-ca", ca]].concat();
        refused(&said(&["worker", "--master", &bind[0]], &with_ca).await, &words);
        let answer = scene.ask(&with_ca).await;
        refused(&answer, &words);
        assert_eq!(answer.code, Some(2), "what was typed is wrong: {}", answer.text);
    }
    for flag in ["--tls-ca", "--tls-client-ca"] {
        let flags = [pair(&scene.server).as_slice(), &[flag, "/nowhere/ca.pem"]].concat();
        let line: &[&str] = if flag == "--tls-ca" { &["workers"] } else { &["master", "--no-pipeline"] };
        refused(
            &said(line, &flags).await,
            &[&format!("{flag} /nowhere/ca.pem"), "the certificates of authorities"],
        );
    }
    let answer = scene.ask(&["--token", "the-token-itself-by-mistake"]).await;
    refused(&answer, &["--token", "env:NAME or file:/PATH"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plain_text_does_not_leave_the_machine_unless_somebody_insists() {
    let scene = Scene::new();
    let far = "203.0.113.7:7077";
    let token = format!("file:{}", scene.file("token", TOKEN));
    let port = scene.ports.port(0).to_string();
    let anywhere = format!("0.0.0.0:{port}");
    let master =
        ["master", "--no-pipeline", "--state", "memory", "--bind", &anywhere, "--advertise", "here.example"];
    let words = ["listens on 0.0.0.0", "--tls-certificate", "--insecure"];
    refused(&said(&master, &["--http-bind", "127.0.0.1:0"]).await, &words);
    // A token does not make it secret.
    refused(&said(&master, &["--http-bind", "127.0.0.1:0", "--token", &token]).await, &words);
    let worker = ["worker", "--master", "127.0.0.1:1", "--bind", "0.0.0.0", "--advertise", "here.example"];
    refused(&said(&worker, &[]).await, &["Arrow Flight listens on 0.0.0.0", "--insecure"]);
    refused(&said(&["worker", "--master", far], &[]).await, &[far, "--tls-ca", "--insecure"]);
    let answer = scene.ask_at(far, &["--token", &token]).await;
    refused(&answer, &[far, "--tls-ca", "--insecure"]);
    assert_eq!(answer.code, Some(2), "{}", answer.text);
    // Somebody insists, and has to say where that is.
    let nowhere = ["worker", "--master", "127.0.0.1:1", "--bind", "0.0.0.0", "--insecure"];
    refused(&said(&nowhere, &[]).await, &["--bind 0.0.0.0", "--advertise HOST"]);
    let nowhere = ["master", "--no-pipeline", "--state", "memory", "--bind", &anywhere, "--insecure"];
    refused(&said(&nowhere, &["--http-bind", "127.0.0.1:0"]).await, &[&anywhere, "--advertise HOST"]);
    let line = [
        &millrace().display().to_string(),
        "master",
        "--no-pipeline",
        "--state",
        "memory",
        "--insecure",
        "--advertise",
        "here.example",
        "--bind",
        &anywhere,
        "--http-bind",
        "127.0.0.1:0",
    ]
    .map(str::to_owned);
    let master = Hand::start(&line, &scene.folder.path().join("insecure.log"));
    until_log(&master, &["master starts"]).await;
    let answer = scene.ask(&[]).await;
    assert!(answer.ok, "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_token_nobody_is_let_in() {
    let scene = Scene::new();
    let token = format!("file:{}", scene.file("token", TOKEN));
    let master = scene.master(&["--token", &token]).await;
    let address = scene.master_address();
    refused(&scene.ask(&[]).await, &["a token is expected", "--token"]);
    until_log(&master, &["call refused", "peer=", "127.0.0.1", "a token is expected"]).await;
    let wrong = format!("file:{}", scene.file("wrong", "a-token-that-is-not-the-one"));
    refused(&scene.ask(&["--token", &wrong]).await, &["the token is another one", "--token"]);
    until_log(&master, &["call refused", "the token is another one"]).await;
    let answer = scene.ask(&["--token", &token]).await;
    assert!(answer.ok, "{}", answer.text);
    let program = millrace().display().to_string();
    let line = [&program, "worker", "--master", &address, "--memory", "128MiB", "--token", &wrong];
    let worker = Hand::start(&line.map(str::to_owned), &scene.folder.path().join("worker.log"));
    until_log(&worker, &["the master refuses this worker", "the token is another one"]).await;
    assert!(!master.output().contains(TOKEN), "a secret is in the log");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_registers_from_the_host_in_its_certificate_and_no_other() {
    let scene = Scene::new();
    let ca = shown(&scene.ours.ca);
    let flags = [pair(&scene.server).as_slice(), &["--tls-client-ca", ca]].concat();
    let master = scene.master(&flags).await;
    let address = scene.master_address();
    let program = millrace().display().to_string();
    let node = scene.ours.certify("node-1", &["127.0.0.1", "node-1.example"]);
    let start = |log: &str, more: &[&str]| {
        let mut line =
            vec![program.as_str(), "worker", "--master", &address, "--memory", "128MiB", "--tls-ca", ca];
        line.extend(pair(&node));
        line.extend(more);
        let line: Vec<String> = line.into_iter().map(str::to_owned).collect();
        Hand::start(&line, &scene.folder.path().join(log))
    };
    let worker = start("node-1.log", &["--advertise", "node-1.example"]);
    until_log(&worker, &["registered", "node-1.example"]).await;

    let port = scene.ports.port(5).to_string();
    let thief = start("thief.log", &["--advertise", "node-2.example", "--port", &port]);
    let words =
        ["node-2.example", "its certificate does not name that host", "node-1.example", "--advertise"];
    until_log(&thief, &[words.as_slice(), &["the master refuses this worker"]].concat()).await;
    until_log(&master, &["a worker that does not belong is refused", "node-2.example", "node-1.example"])
        .await;
    let ready = reqwest::get(format!("http://127.0.0.1:{port}/readyz")).await.expect("an answer");
    assert_eq!(ready.status(), 503);
    let reason = ready.text().await.expect("text");
    assert!(words.iter().all(|word| reason.contains(word)), "{reason}");
    let answer = scene.ask(&[pair(&scene.person).as_slice(), &["--tls-ca", ca]].concat()).await;
    assert!(answer.ok && !answer.text.contains("node-2"), "{}", answer.text);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_replaced_is_shown_to_new_connections() {
    let scene = Scene::new();
    let master = scene.master(&pair(&scene.server)).await;
    let theirs = ["--tls-ca", shown(&scene.theirs.ca)];
    refused(&scene.ask(&theirs).await, &["not of an authority in --tls-ca"]);
    // Half of it is there for a moment.
    let new = scene.theirs.certify("new-server", &["127.0.0.1"]);
    std::fs::copy(&new.certificate, &scene.server.certificate).expect("copied");
    until_log(&master, &["the certificate stays as it was", "don't make a pair"]).await;
    let answer = scene.ask(&["--tls-ca", shown(&scene.ours.ca)]).await;
    assert!(answer.ok, "{}", answer.text);
    std::fs::copy(&new.key, &scene.server.key).expect("copied");
    until_log(&master, &["certificate and key read again"]).await;
    let answer = scene.ask(&theirs).await;
    assert!(answer.ok, "{}", answer.text);
}
