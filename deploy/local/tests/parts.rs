//! The real parts: started, killed, and started again on the same ports and data.

use millrace_common::{kafka as topics, lake};
use millrace_local::{Host, PortBlock, PortUse, kafka, s3};
use millrace_types::LakeTarget;
use object_store::ObjectStoreExt;

const FLAG: &str = "--port";

#[tokio::test]
async fn a_killed_broker_comes_back_with_its_topics() {
    let folder = tempfile::tempdir().expect("folder");
    let ports = PortBlock::find().expect("ports");
    let settings = kafka::Settings {
        folder: folder.path().join("kafka"),
        log: folder.path().join("kafka.log"),
        host: Host::default(),
        port: PortUse { port: ports.port(0), flag: FLAG },
        controller_port: PortUse { port: ports.port(1), flag: FLAG },
        detour: None,
    };
    let mut broker = kafka::prepare(&settings).await.expect("prepared");
    broker.start().await.expect("starts");
    let servers = settings.bootstrap_servers();
    topics::ensure_topics(&servers, &["kept"], &[], 3).await.expect("topic");

    let mut second = kafka::prepare(&settings).await.expect("prepared");
    let message = second.start().await.expect_err("the port is taken").to_string();
    assert!(message.contains("java (pid ") && message.contains(FLAG), "{message}");

    broker.kill().await.expect("it ran");
    broker.start().await.expect("starts again");
    let found = topics::partition_counts(&servers, &["kept"]).await.expect("asked");
    assert_eq!(found.get("kept"), Some(&3));
    assert!(broker.stop().await.is_some());
}

#[tokio::test]
async fn a_killed_s3_server_comes_back_with_its_objects() {
    let folder = tempfile::tempdir().expect("folder");
    let ports = PortBlock::find().expect("ports");
    let settings = s3::Settings {
        folder: folder.path().join("s3"),
        log: folder.path().join("s3.log"),
        host: Host::default(),
        port: PortUse { port: ports.port(0), flag: FLAG },
        inner_ports: PortUse { port: ports.port(10), flag: FLAG },
        bucket: "some.bucket".to_owned(),
    };
    let (access_key_id, secret_access_key) =
        s3::keep_login(folder.path(), s3::LOGIN, s3::LOGIN).expect("login");
    let target = LakeTarget {
        url: "s3://some.bucket/lake".to_owned(),
        endpoint: Some(settings.endpoint()),
        region: None,
        access_key_id,
        secret_access_key,
    };
    let mut server = s3::prepare(&settings, target.clone()).await.expect("prepared");
    server.start().await.expect("starts");
    let lake = lake::open(&target).expect("lake");
    lake.store.put(&lake.path("kept"), "words".into()).await.expect("put");

    let (_, wrong) = s3::keep_login(&folder.path().join("wrong"), s3::LOGIN, "wrong").expect("login");
    let refused = lake::open(&LakeTarget { secret_access_key: wrong, ..target }).expect("lake");
    let error = refused.store.get(&lake.path("kept")).await.expect_err("a wrong login is refused");
    assert!(matches!(error, object_store::Error::PermissionDenied { .. }), "{error}");

    server.kill().await.expect("it ran");
    server.start().await.expect("starts again");
    let kept = lake.store.get(&lake.path("kept")).await.expect("get").bytes().await.expect("bytes");
    assert_eq!(kept, "words");
    assert!(server.stop().await.is_some());
}
