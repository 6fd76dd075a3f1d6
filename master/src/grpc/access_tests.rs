//! Who is let in, and what those hear who are not: real handshakes with certificates made for the test.

use std::path::{Path, PathBuf};

use millrace_common::tls::{ClientFlags, ServerFlags};
use millrace_common::types::SecretReference;
use millrace_proto::channel::{self, Access};
use millrace_proto::v1::master_client::MasterClient;
use millrace_transform::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tempfile::TempDir;
use tonic::Code;

use super::*;
use crate::store::Store;
use crate::testing::{sources_on, worker};

type Authority = CertifiedIssuer<'static, KeyPair>;

fn authority() -> Authority {
    let mut parameters = CertificateParams::new(Vec::new()).expect("parameters");
    parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(parameters, KeyPair::generate().expect("key")).expect("authority")
}

/// Certificates in files, and a master that uses some of them.
struct Scene {
    folder: TempDir,
    authority: Authority,
    shutdown: Shutdown,
    address: String,
}

impl Scene {
    /// `flags`: of the master, from the folder with its certificate.
    async fn start(flags: impl FnOnce(&Path) -> ServerFlags) -> Self {
        let (folder, authority) = (tempfile::tempdir().expect("folder"), authority());
        std::fs::write(folder.path().join("ca.pem"), authority.pem()).expect("written");
        write(folder.path(), "master", &authority, &["127.0.0.1"], false);
        let access = flags(folder.path());
        let shutdown = Shutdown::new();
        let sources = sources_on(Store::memory(), &shutdown).await;
        let admission = Admission::new(sources.handle.clone(), Registry::default(), None);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let bound = listener.local_addr().expect("address");
        let doors = Doors {
            listener,
            tls: access.tls("the master", bound, PROTOCOL).expect("files"),
            token: access.token().expect("token"),
            lease: Duration::from_secs(3),
        };
        shutdown.spawn("grpc", serve(doors, sources, admission, shutdown.clone()));
        Self { folder, authority, shutdown, address: bound.to_string() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Flags of a client with a certificate of the master's own authority for these hosts.
    fn client(&self, name: &str, hosts: &[&str]) -> ClientFlags {
        write(self.folder.path(), name, &self.authority, hosts, false);
        ClientFlags {
            tls_certificate: Some(self.path(&format!("{name}.pem"))),
            tls_key: Some(self.path(&format!("{name}.key"))),
            ..self.anonymous()
        }
    }

    /// Flags of a client that knows the authority, and shows nothing.
    fn anonymous(&self) -> ClientFlags {
        ClientFlags { tls_ca: Some(self.path("ca.pem")), ..ClientFlags::default() }
    }

    async fn connect(&self, flags: &ClientFlags) -> Result<MasterClient<Access>, String> {
        let longest = Duration::from_secs(10);
        let connected = channel::connect(&self.address, flags, longest, |endpoint| endpoint).await;
        connected.map(MasterClient::new).map_err(|error| error.to_string())
    }

    /// What a question is answered with, by the master or by the transport.
    async fn ask(&self, flags: &ClientFlags) -> Result<(), String> {
        let mut client = self.connect(flags).await?;
        let answer = client.list_workers(ListWorkersRequest {}).await;
        answer.map(drop).map_err(|status| channel::words(&status))
    }

    /// The answer to a registration from `host` under `id`.
    async fn register(&self, flags: &ClientFlags, id: &str, host: &str) -> Result<(), Status> {
        let mut client = self.connect(flags).await.expect("a connection");
        let (outbound, messages) = mpsc::channel(8);
        let mut spec = worker(id, 9000);
        spec.host = host.to_owned();
        outbound.send(WorkerMessage::register(&spec, &[])).await.expect("sent");
        client.session(ReceiverStream::new(messages)).await?.into_inner().message().await.map(drop)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.shutdown.begin();
    }
}

/// `name.pem` and `name.key`.
fn write(folder: &Path, name: &str, authority: &Authority, hosts: &[&str], is_expired: bool) {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut parameters = CertificateParams::new(hosts).expect("hosts");
    if is_expired {
        parameters.not_after = rcgen::date_time_ymd(2001, 1, 1);
    }
    let key = KeyPair::generate().expect("key");
    let certificate = parameters.signed_by(&key, authority).expect("certificate");
    std::fs::write(folder.join(format!("{name}.pem")), certificate.pem()).expect("written");
    std::fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).expect("written");
}

fn with_certificate(folder: &Path) -> ServerFlags {
    ServerFlags {
        tls_certificate: Some(folder.join("master.pem")),
        tls_key: Some(folder.join("master.key")),
        ..ServerFlags::default()
    }
}

fn mutual(folder: &Path) -> ServerFlags {
    ServerFlags { tls_client_ca: Some(folder.join("ca.pem")), ..with_certificate(folder) }
}

#[tokio::test]
async fn over_tls_the_master_is_known_by_its_authority_and_its_name() {
    let scene = Scene::start(with_certificate).await;
    scene.ask(&scene.anonymous()).await.expect("let in");

    std::fs::write(scene.path("other-ca.pem"), authority().pem()).expect("written");
    let other = ClientFlags { tls_ca: Some(scene.path("other-ca.pem")), ..ClientFlags::default() };
    let refused = scene.ask(&other).await.expect_err("another authority");
    assert!(
        refused.contains(&scene.address) && refused.contains("not of an authority in --tls-ca"),
        "{refused}"
    );

    let refused = scene.ask(&ClientFlags::default()).await.expect_err("plain text");
    assert!(refused.contains("it may speak TLS: give --tls-ca"), "{refused}");

    let absent = ClientFlags { tls_ca: Some(scene.path("absent.pem")), ..ClientFlags::default() };
    let refused = scene.ask(&absent).await.expect_err("no file");
    assert!(refused.contains("--tls-ca") && refused.contains("absent.pem"), "{refused}");
}

#[tokio::test]
async fn a_master_of_another_name_or_of_yesterday_is_not_believed() {
    for (hosts, is_expired, words) in
        [(["elsewhere.example"], false, "another host's"), (["127.0.0.1"], true, "has expired")]
    {
        let scene = Scene::start(with_certificate).await;
        write(scene.folder.path(), "master", &scene.authority, &hosts, is_expired);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
        let address = listener.local_addr().expect("address");
        let tls = with_certificate(scene.folder.path()).tls("the master", address, PROTOCOL).expect("files");
        let sources = sources_on(Store::memory(), &scene.shutdown).await;
        let admission = Admission::new(sources.handle.clone(), Registry::default(), None);
        let doors = Doors { listener, tls, token: None, lease: Duration::from_secs(3) };
        scene.shutdown.spawn("grpc", serve(doors, sources, admission, scene.shutdown.clone()));
        let longest = Duration::from_secs(10);
        let refused =
            channel::connect(&address.to_string(), &scene.anonymous(), longest, |endpoint| endpoint)
                .await
                .map(drop)
                .expect_err("not believed")
                .to_string();
        assert!(refused.contains(words), "{refused}");
    }
}

#[tokio::test]
async fn tls_to_a_master_that_speaks_plain_text_is_explained() {
    let scene = Scene::start(|_| ServerFlags::default()).await;
    scene.ask(&ClientFlags::default()).await.expect("plain text on the loopback device");
    let refused = scene.ask(&scene.anonymous()).await.expect_err("plain text");
    assert!(refused.contains("it speaks plain text"), "{refused}");
}

#[tokio::test]
async fn with_mutual_tls_a_caller_needs_a_certificate_of_the_authority() {
    let scene = Scene::start(mutual).await;
    scene.ask(&scene.client("person", &["laptop.example"])).await.expect("let in");

    let refused = scene.ask(&scene.anonymous()).await.expect_err("no certificate");
    assert!(refused.contains("give --tls-certificate and --tls-key"), "{refused}");

    write(scene.folder.path(), "stranger", &authority(), &["laptop.example"], false);
    let stranger = ClientFlags {
        tls_certificate: Some(scene.path("stranger.pem")),
        tls_key: Some(scene.path("stranger.key")),
        ..scene.anonymous()
    };
    let refused = scene.ask(&stranger).await.expect_err("another authority");
    assert!(refused.contains("--tls-client-ca"), "{refused}");

    let mut mixed = scene.client("mixed", &["laptop.example"]);
    mixed.tls_key = Some(scene.path("stranger.key"));
    let refused = scene.ask(&mixed).await.expect_err("no pair");
    assert!(refused.contains("--tls-key"), "{refused}");
}

#[tokio::test]
async fn a_worker_may_only_be_where_its_certificate_says() {
    let scene = Scene::start(mutual).await;
    let flags = scene.client("worker", &["host-a.example", "10.1.2.3"]);
    scene.register(&flags, "worker-1-host-a.example-9000", "host-a.example").await.expect("its own");
    scene.register(&flags, "worker-2-10.1.2.3-9000", "10.1.2.3").await.expect("its own address");
    let refused = scene.register(&flags, "worker-3-host-b.example-9000", "host-b.example").await;
    let refused = refused.expect_err("another's host");
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert!(refused.message().contains("host-b.example"), "{refused}");
    let refused = scene.register(&flags, "worker-4-host-b.example-9000", "host-a.example").await;
    assert!(refused.expect_err("another's id").message().contains("not of its host"));
}

#[tokio::test]
async fn without_the_clusters_token_nobody_is_answered() {
    let scene = Scene::start(|folder| {
        std::fs::write(folder.join("token"), "open-sesame\n").expect("written");
        let token = SecretReference::File(folder.join("token").display().to_string());
        ServerFlags { token: Some(token), ..ServerFlags::default() }
    })
    .await;
    let token = |text: &str| {
        let path = scene.path("shown");
        std::fs::write(&path, text).expect("written");
        let token = Some(SecretReference::File(path.display().to_string()));
        ClientFlags { token, ..ClientFlags::default() }
    };
    scene.ask(&token("open-sesame")).await.expect("let in");
    let refused = scene.ask(&token("open-barley")).await.expect_err("another token");
    assert!(refused.contains("the token is another one") && !refused.contains("sesame"), "{refused}");
    let refused = scene.ask(&ClientFlags::default()).await.expect_err("no token");
    assert!(refused.contains("a token is expected"), "{refused}");
    let refused = scene.register(&ClientFlags::default(), "worker-1-127.0.0.1-9000", "127.0.0.1").await;
    assert_eq!(refused.expect_err("no token").code(), Code::Unauthenticated);
}

#[tokio::test]
async fn files_that_tls_can_not_be_made_of_are_named() {
    let scene = Scene::start(mutual).await;
    let at = "127.0.0.1:7077".parse().expect("address");
    let refused = |flags: ServerFlags| {
        flags.tls("the master", at, PROTOCOL).map(drop).expect_err("refused").to_string()
    };
    let good = mutual(scene.folder.path());
    let absent = ServerFlags { tls_certificate: Some(scene.path("absent.pem")), ..good.clone() };
    assert!(refused(absent).contains("absent.pem"));
    write(scene.folder.path(), "other", &scene.authority, &["x.example"], false);
    let mixed = ServerFlags { tls_key: Some(scene.path("other.key")), ..good.clone() };
    assert!(refused(mixed).contains("don't make a pair"));
    let no_authority = ServerFlags { tls_client_ca: Some(scene.path("other.key")), ..good };
    assert!(refused(no_authority).contains("--tls-client-ca"));
}
