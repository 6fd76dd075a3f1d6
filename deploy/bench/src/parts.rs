//! A Kafka and an S3 server of the bench's own, and the ports and the folder of everything that runs beside them.

use std::path::Path;

use anyhow::Context;
use millrace_local::s3::LOGIN;
use millrace_local::{Host, Part, PortBlock, PortUse, kafka, s3};
use millrace_types::LakeTarget;
use tempfile::TempDir;

const BUCKET: &str = "bench.data.lake";
/// Named where a port is taken; the bench chooses free ones.
const FLAG: &str = "the bench";
/// First port of the block that the parts leave to others.
const FREE_PORTS: u16 = 20;

/// The parts, running. Dropping them kills them and deletes what they kept.
pub(crate) struct Parts {
    kafka: Part,
    s3: Part,
    kafka_settings: kafka::Settings,
    lake: LakeTarget,
    ports: PortBlock,
    folder: TempDir,
}

impl Parts {
    /// Starts them and waits until they answer.
    pub(crate) async fn start() -> anyhow::Result<Self> {
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
            url: format!("s3://{BUCKET}"),
            endpoint: Some(s3_settings.endpoint()),
            region: None,
            access_key_id,
            secret_access_key,
        };
        let mut kafka = kafka::prepare(&kafka_settings).await?;
        let mut s3 = s3::prepare(&s3_settings, lake.clone()).await?;
        let (kafka_started, s3_started) = tokio::join!(kafka.start(), s3.start());
        kafka_started?;
        s3_started?;
        Ok(Self { kafka, s3, kafka_settings, lake, ports, folder })
    }

    pub(crate) fn servers(&self) -> String {
        self.kafka_settings.bootstrap_servers()
    }

    /// A lake at `prefix` of the bucket.
    pub(crate) fn lake(&self, prefix: &str) -> LakeTarget {
        LakeTarget { url: format!("{}/{prefix}", self.lake.url), ..self.lake.clone() }
    }

    /// The `index`-th port that the parts do not use.
    pub(crate) fn free_port(&self, index: u16) -> u16 {
        self.ports.port(FREE_PORTS + index)
    }

    /// Where logs and state go.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Bytes that Kafka keeps of a topic's records, as they lie on its disk.
    pub(crate) fn topic_bytes(&self, topic: &str) -> anyhow::Result<u64> {
        let mut bytes = 0;
        let folders = std::fs::read_dir(self.kafka_settings.folder.join("data"))?;
        for folder in folders {
            let folder = folder?;
            let name = folder.file_name().to_string_lossy().into_owned();
            let is_partition = name.rsplit_once('-').is_some_and(|(name, _)| name == topic);
            if !is_partition {
                continue;
            }
            for file in std::fs::read_dir(folder.path())? {
                let file = file?;
                if file.path().extension().is_some_and(|extension| extension == "log") {
                    bytes += file.metadata()?.len();
                }
            }
        }
        Ok(bytes)
    }

    pub(crate) async fn stop(&mut self) {
        // What they keep goes with the folder.
        self.kafka.kill().await;
        self.s3.kill().await;
    }
}
