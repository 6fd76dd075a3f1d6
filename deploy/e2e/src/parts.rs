//! A Kafka, an etcd and two S3 servers of the tests' own, in a folder that goes with them.

use anyhow::Context;
use millrace_local::s3::LOGIN;
use millrace_local::{Host, Part, PortBlock, PortUse, etcd, kafka, s3};
use millrace_types::LakeTarget;
use tempfile::TempDir;

use crate::s3proxy;

/// The bucket that the S3 server is made with.
pub const BUCKET: &str = "test.data.lake";
/// Named where a port is taken; the tests choose free ones.
const FLAG: &str = "a test of its own";

/// The parts, running.
pub struct Parts {
    pub kafka: Part,
    pub s3: Part,
    /// An S3 server by other people, for what must hold on both.
    second_s3: Part,
    second_s3_port: u16,
    pub etcd: Vec<Part>,
    etcd_settings: etcd::Settings,
    kafka_settings: kafka::Settings,
    s3_settings: s3::Settings,
    ports: PortBlock,
    folder: TempDir,
}

/// First port of a block that the parts leave to others.
const FREE_PORTS: u16 = 20;

impl Parts {
    /// Starts them and waits until they answer.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let ports = PortBlock::find().context("no free ports")?;
        let port = |index| PortUse { port: ports.port(index), flag: FLAG };
        let kafka_settings = kafka::Settings {
            folder: folder.path().join("kafka"),
            log: folder.path().join("kafka.log"),
            host: Host::default(),
            port: port(0),
            controller_port: port(1),
            detour: None,
        };
        let s3_settings = s3::Settings {
            folder: folder.path().join("s3"),
            log: folder.path().join("s3.log"),
            host: Host::default(),
            port: port(2),
            inner_ports: port(3),
            bucket: BUCKET.to_owned(),
        };
        let (access_key_id, secret_access_key) = s3::keep_login(folder.path(), LOGIN, LOGIN)?;
        let lake = LakeTarget {
            url: format!("s3://{BUCKET}/probe"),
            endpoint: Some(s3_settings.endpoint()),
            region: None,
            access_key_id,
            secret_access_key,
        };
        let second_lake = lake.clone();
        let mut kafka = kafka::prepare(&kafka_settings).await?;
        let mut s3 = s3::prepare(&s3_settings, lake).await?;
        let second = port(13);
        let second_lake = LakeTarget {
            url: format!("s3://{BUCKET}"),
            endpoint: Some(format!("http://127.0.0.1:{}", second.port)),
            ..second_lake
        };
        let etcd_settings = etcd::Settings {
            folder: folder.path().join("etcd"),
            ports: (14..17).map(|index| (port(index), port(index + 3))).collect(),
            ..etcd::Settings::default()
        };
        let mut etcd = etcd::prepare(&etcd_settings).await?;
        let (kafka_started, s3_started, etcd_started, second_s3) = tokio::join!(
            kafka.start(),
            s3.start(),
            etcd::start(&mut etcd),
            s3proxy::start(folder.path(), second, LOGIN, &second_lake)
        );
        kafka_started?;
        s3_started?;
        etcd_started?;
        let (second_s3, second_s3_port) = (second_s3?, second.port);
        Ok(Self {
            kafka,
            s3,
            second_s3,
            second_s3_port,
            etcd,
            etcd_settings,
            kafka_settings,
            s3_settings,
            ports,
            folder,
        })
    }

    pub fn kafka_servers(&self) -> String {
        self.kafka_settings.bootstrap_servers()
    }

    pub fn s3_endpoint(&self) -> String {
        self.s3_settings.endpoint()
    }

    /// Of the second, independent S3 server.
    pub fn second_s3_endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.second_s3_port)
    }

    /// Of the three members of etcd, separated by commas.
    pub fn etcd_endpoints(&self) -> String {
        self.etcd_settings.endpoints()
    }

    /// The `index`-th port that nobody else uses.
    pub fn free_port(&self, index: u16) -> u16 {
        self.ports.port(FREE_PORTS + index)
    }

    /// Where logs and state of a test go.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Stops them in order; dropping kills them.
    pub async fn stop(&mut self) {
        self.kafka.stop().await;
        self.s3.stop().await;
        // What they keep goes with the folder.
        self.second_s3.kill().await;
        for member in &mut self.etcd {
            member.kill().await;
        }
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("folder", &self.folder).finish_non_exhaustive()
    }
}
