//! Apache Kafka as one KRaft node (broker and controller in one process), small enough for a laptop.

use std::net::{SocketAddr, SocketAddrV4};
use std::path::{Path, PathBuf};
use std::{fs, io};

use tracing::debug;

use crate::get::{self, KafkaFiles, LOG4J};
use crate::host::Host;
use crate::part::{Part, PartError};
use crate::ports::PortUse;
use crate::probe::Probe;
use crate::process::{Process, Program};

/// Where a broker lives.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Takes data, configuration; made if absent.
    pub folder: PathBuf,
    pub log: PathBuf,
    /// Where it listens and what it advertises.
    pub host: Host,
    pub port: PortUse,
    pub controller_port: PortUse,
    /// A second way to it, for clients that are to come through a proxy.
    pub detour: Option<Detour>,
}

/// A listener that tells its clients another address than its own.
#[derive(Debug, Clone, Copy)]
pub struct Detour {
    pub port: PortUse,
    /// What it advertises: who comes by this listener goes on by that address.
    pub advertised: SocketAddr,
}

impl Settings {
    pub fn bootstrap_servers(&self) -> String {
        self.address().to_string()
    }

    fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.host.address, self.port.port)
    }
}

/// A broker over `settings`, its folder formatted if it is new; not started yet.
///
/// # Errors
/// When Java or Kafka can't be had, or the folder can't be formatted.
pub async fn prepare(settings: &Settings) -> Result<Part, PartError> {
    let files = get::kafka().await?;
    let folder = &settings.folder;
    let unwritable =
        |source| PartError::Io { what: format!("{} can't be written", folder.display()), source };
    fs::create_dir_all(folder).map_err(unwritable)?;
    let configuration = folder.join("server.properties");
    fs::write(&configuration, properties(settings)).map_err(unwritable)?;
    let logging = folder.join("log4j2.properties");
    fs::write(&logging, LOG4J).map_err(unwritable)?;
    if !data(folder).join("meta.properties").exists() {
        format(&files, &configuration, &settings.log).await?;
    }
    let mut program = java("Kafka", &settings.log);
    if let Some(archive) = &files.archive {
        program = program.argument(format!("-XX:SharedArchiveFile={archive}"));
    }
    let program = program
        .argument(format!("-Dlog4j2.configurationFile={}", logging.display()))
        .arguments(["-cp", &files.classpath, "kafka.Kafka"])
        .argument(&configuration);
    let probe = Probe::Kafka { address: settings.address() };
    // What is free here says nothing of another network.
    let is_here = settings.host.namespace.is_none();
    let own = [settings.port, settings.controller_port]
        .into_iter()
        .chain(settings.detour.map(|detour| detour.port));
    let ports = if is_here { own.collect() } else { Vec::new() };
    Ok(Part::new(program.on(&settings.host), ports, probe))
}

fn data(folder: &Path) -> PathBuf {
    folder.join("data")
}

/// The class archive was made with the same collector; it would be useless otherwise.
fn java(name: &str, log: &Path) -> Program {
    Program::new(name, "java", log).arguments(["-Xmx256m", "-XX:+UseSerialGC"])
}

async fn format(files: &KafkaFiles, configuration: &Path, log: &Path) -> Result<(), PartError> {
    let program = java("Kafka's format", log)
        .arguments(["-cp", &files.classpath, "kafka.tools.StorageTool", "format", "--cluster-id"])
        .argument(cluster_id().map_err(PartError::io("no random cluster id can be made"))?)
        .argument("--config")
        .argument(configuration);
    let process = Process::start(&program)
        .await
        .map_err(PartError::io("Kafka's folder can't be formatted with java"))?;
    let exit = process.ended().await;
    if exit.status.success() {
        debug!(configuration = %configuration.display(), "Kafka's folder is formatted");
        Ok(())
    } else {
        Err(crate::part::ended(&process, exit))
    }
}

/// 16 random bytes as Kafka writes its ids: base64 of 22 characters, not beginning with a dash (the tool would take
/// it for a flag).
fn cluster_id() -> io::Result<String> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut random = [0_u8; 21];
    io::Read::read_exact(&mut fs::File::open("/dev/urandom")?, &mut random)?;
    let tail = random.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 63)]));
    // The last character carries 4 of the 128 bits: `A` keeps the unused ones zero.
    Ok(std::iter::once('M').chain(tail.take(20)).chain(std::iter::once('A')).collect())
}

fn properties(settings: &Settings) -> String {
    let Settings {
        folder,
        port: PortUse { port, .. },
        controller_port: PortUse { port: controller, .. },
        ..
    } = settings;
    let data = data(folder);
    let host = settings.host.address;
    let (mut listeners, mut advertised) = (String::new(), String::new());
    if let Some(detour) = settings.detour {
        listeners = format!(",DETOUR://{host}:{}", detour.port.port);
        advertised = format!(",DETOUR://{}", detour.advertised);
    }
    format!(
        "# Written anew at each start.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{host}:{controller}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://{host}:{port},CONTROLLER://{host}:{controller}{listeners}
advertised.listeners=PLAINTEXT://{host}:{port}{advertised}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,DETOUR:PLAINTEXT
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
# One node: one copy of everything, and no more partitions of its own topics than it needs.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=6
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=6
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
# A broker that was killed is taken back after this and not after 9 s.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
# Small: threads and the cleaner's map (128 MB by default, touched at the start).
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=8388608
log.cleaner.io.buffer.size=262144
",
        data = data.display()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_ids_are_of_kafkas_form() {
        let (one, other) = (cluster_id().expect("id"), cluster_id().expect("id"));
        assert_eq!(one.len(), 22);
        assert_ne!(one, other);
    }
}
