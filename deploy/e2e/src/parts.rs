//! A Kafka and an S3 server of the tests' own, in a folder that goes with them.

use anyhow::Context;
use millrace_local::s3::LOGIN;
use millrace_local::{Part, PortBlock, PortUse, kafka, s3};
use millrace_types::LakeTarget;
use tempfile::TempDir;

/// The bucket that the S3 server is made with.
pub const BUCKET: &str = "test.data.lake";
/// Named where a port is taken; the tests choose free ones.
const FLAG: &str = "a test of its own";

/// Both parts, running.
pub struct Parts {
    pub kafka: Part,
    pub s3: Part,
    kafka_settings: kafka::Settings,
    s3_settings: s3::Settings,
    ports: PortBlock,
    folder: TempDir,
}

/// First port of a block that the parts leave to others.
const FREE_PORTS: u16 = 20;

impl Parts {
    /// Starts both and waits until they answer.
    pub async fn start() -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("no temporary folder")?;
        let ports = PortBlock::find().context("no free ports")?;
        let port = |index| PortUse { port: ports.port(index), flag: FLAG };
        let kafka_settings = kafka::Settings {
            folder: folder.path().join("kafka"),
            log: folder.path().join("kafka.log"),
            port: port(0),
            controller_port: port(1),
        };
        let s3_settings = s3::Settings {
            folder: folder.path().join("s3"),
            log: folder.path().join("s3.log"),
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
        let mut kafka = kafka::prepare(&kafka_settings).await?;
        let mut s3 = s3::prepare(&s3_settings, lake).await?;
        let (kafka_started, s3_started) = tokio::join!(kafka.start(), s3.start());
        kafka_started?;
        s3_started?;
        Ok(Self { kafka, s3, kafka_settings, s3_settings, ports, folder })
    }

    pub fn kafka_servers(&self) -> String {
        self.kafka_settings.bootstrap_servers()
    }

    pub fn s3_endpoint(&self) -> String {
        self.s3_settings.endpoint()
    }

    /// The `index`-th port that nobody else uses.
    pub fn free_port(&self, index: u16) -> u16 {
        self.ports.port(FREE_PORTS + index)
    }

    /// Where logs and state of a test go.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// Stops both in order; dropping kills them.
    pub async fn stop(&mut self) {
        self.kafka.stop().await;
        self.s3.stop().await;
    }
}

impl std::fmt::Debug for Parts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parts").field("folder", &self.folder).finish_non_exhaustive()
    }
}
