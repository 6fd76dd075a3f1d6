//! SeaweedFS's `weed mini`: an S3 server in one process, with its files in a folder.

use std::net::SocketAddrV4;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use millrace_types::{LakeTarget, SecretReference};

use crate::get;
use crate::host::Host;
use crate::part::{Part, PartError};
use crate::ports::PortUse;
use crate::probe::Probe;
use crate::process::Program;

/// The login of the local S3 server.
pub const LOGIN: &str = "minioadmin";
/// How many ports the server's own services take, one after the other.
pub const INNER_PORTS: u16 = 9;
/// It takes memory up to this for its caches and then collects; more only if it must.
const MEMORY_TARGET: &str = "128MiB";

/// Where an S3 server lives.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Takes the data; made if absent.
    pub folder: PathBuf,
    pub log: PathBuf,
    /// Where it listens.
    pub host: Host,
    pub port: PortUse,
    /// The first of [`INNER_PORTS`] ports.
    pub inner_ports: PortUse,
    /// Made if absent.
    pub bucket: String,
}

impl Settings {
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address())
    }

    fn address(&self) -> SocketAddrV4 {
        SocketAddrV4::new(self.host.address, self.port.port)
    }
}

/// Keeps `access_key_id` and `secret_access_key` in files of `folder` that only the user reads. A worker that is
/// started by hand knows no environment: it gets the files' names with its first grant.
///
/// # Errors
/// When the files can't be written.
pub fn keep_login(
    folder: &Path,
    access_key_id: &str,
    secret_access_key: &str,
) -> io::Result<(SecretReference, SecretReference)> {
    fs::create_dir_all(folder)?;
    let keep = |name: &str, value: &str| {
        let path = std::path::absolute(folder.join(name))?;
        fs::write(&path, "")?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
        fs::write(&path, value)?;
        Ok::<_, io::Error>(SecretReference::File(path.to_string_lossy().into_owned()))
    };
    Ok((keep("s3-access-key-id", access_key_id)?, keep("s3-secret-access-key", secret_access_key)?))
}

/// A server over `settings`; not started yet. `lake` is the lake in it, with the login.
///
/// # Errors
/// When `weed` can't be had, or the folder can't be made.
pub async fn prepare(settings: &Settings, lake: LakeTarget) -> Result<Part, PartError> {
    let weed = get::weed().await?;
    let folder = &settings.folder;
    fs::create_dir_all(folder).map_err(PartError::io(format!("{} can't be made", folder.display())))?;
    let inner: Vec<PortUse> = (0..INNER_PORTS)
        .map(|step| PortUse {
            port: settings.inner_ports.port.saturating_add(step),
            flag: settings.inner_ports.flag,
        })
        .collect();
    let services = [
        "s3.port.grpc",
        "master.port",
        "master.port.grpc",
        "volume.port",
        "volume.port.grpc",
        "filer.port",
        "filer.port.grpc",
        "admin.port",
        "admin.port.grpc",
    ];
    let program = Program::new("S3", weed, &settings.log)
        .argument("mini")
        .argument(format!("-dir={}", folder.display()))
        .argument(format!("-ip={}", settings.host.address))
        .argument(format!("-ip.bind={}", settings.host.address))
        .argument(format!("-s3.port={}", settings.port.port))
        .arguments(services.iter().zip(&inner).map(|(service, port)| format!("-{service}={}", port.port)))
        // What nobody here uses; and nothing is reported to anybody.
        .arguments(["-s3.port.iceberg=0", "-s3.port.lance=0", "-webdav=false", "-admin.ui=false"])
        .argument("-master.telemetry=false")
        .environment("AWS_ACCESS_KEY_ID", LOGIN)
        .environment("AWS_SECRET_ACCESS_KEY", LOGIN)
        .environment("S3_BUCKET", &settings.bucket)
        .environment("GOMEMLIMIT", MEMORY_TARGET);
    // What is free here says nothing of another network.
    let is_here = settings.host.namespace.is_none();
    let ports = if is_here { std::iter::once(settings.port).chain(inner).collect() } else { Vec::new() };
    Ok(Part::new(program.on(&settings.host), ports, Probe::S3 { address: settings.address(), lake }))
}
