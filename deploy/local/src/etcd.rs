//! A cluster of etcd, each member a process of its own.

use std::fs;
use std::path::PathBuf;

use crate::get;
use crate::part::{Part, PartError};
use crate::ports::PortUse;
use crate::probe::Probe;
use crate::process::Program;

/// Where a cluster lives.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// Takes each member's data and log; made if absent.
    pub folder: PathBuf,
    /// Of each member: for clients, and for its fellows.
    pub ports: Vec<(PortUse, PortUse)>,
    /// Speak TLS with clients, and let in only those of this authority.
    pub tls: Option<Tls>,
    /// Further arguments of each member.
    pub arguments: Vec<String>,
}

/// Files in PEM.
#[derive(Debug, Clone)]
pub struct Tls {
    pub certificate: PathBuf,
    pub key: PathBuf,
    pub client_ca: PathBuf,
}

impl Tls {
    fn arguments(&self) -> Vec<String> {
        let files = [
            ("--cert-file", &self.certificate),
            ("--key-file", &self.key),
            ("--trusted-ca-file", &self.client_ca),
        ];
        let files = files.into_iter().flat_map(|(flag, file)| [flag.to_owned(), file.display().to_string()]);
        files.chain(["--client-cert-auth".to_owned()]).collect()
    }
}

impl Settings {
    /// `host:port` of all members, separated by commas.
    pub fn endpoints(&self) -> String {
        let endpoints = self.ports.iter().map(|(client, _)| format!("127.0.0.1:{}", client.port));
        endpoints.collect::<Vec<_>>().join(",")
    }
}

/// The members; none is started yet, and none is ready before most of them run: launch them all, then await them.
///
/// # Errors
/// When etcd can't be had, or the folder can't be made.
pub async fn prepare(settings: &Settings) -> Result<Vec<Part>, PartError> {
    let etcd = get::etcd().await?;
    let folder = &settings.folder;
    fs::create_dir_all(folder).map_err(PartError::io(format!("{} can't be made", folder.display())))?;
    let name = |number: usize| format!("etcd-{number}");
    let url = |port: &PortUse| format!("http://127.0.0.1:{}", port.port);
    let scheme = if settings.tls.is_some() { "https" } else { "http" };
    let client_url = |port: &PortUse| format!("{scheme}://127.0.0.1:{}", port.port);
    let peers = settings
        .ports
        .iter()
        .enumerate()
        .map(|(number, (_, peer))| format!("{}={}", name(number), url(peer)));
    let cluster = peers.collect::<Vec<_>>().join(",");
    let members = settings.ports.iter().enumerate().map(|(number, (client, peer))| {
        let program = Program::new(name(number), &etcd, folder.join(format!("{}.log", name(number))))
            .arguments(["--name", &name(number)])
            .arguments(["--data-dir", &folder.join(name(number)).display().to_string()])
            .arguments(["--listen-client-urls", &client_url(client)])
            .arguments(["--advertise-client-urls", &client_url(client)])
            .arguments(["--listen-peer-urls", &url(peer), "--initial-advertise-peer-urls", &url(peer)])
            .arguments(["--initial-cluster", &cluster, "--initial-cluster-state", "new"])
            .arguments(settings.tls.iter().flat_map(Tls::arguments))
            .arguments(&settings.arguments);
        let probe = match settings.tls {
            None => Probe::Http { url: format!("{}/health", url(client)) },
            // Its health is told to certified clients only.
            Some(_) => Probe::Tcp { port: client.port },
        };
        Part::new(program, vec![*client, *peer], probe)
    });
    Ok(members.collect())
}

/// Starts all members and waits until they answer.
///
/// # Errors
/// As of [`Part::start`].
pub async fn start(members: &mut [Part]) -> Result<(), PartError> {
    for member in members.iter_mut() {
        member.launch().await?;
    }
    for member in members {
        member.ready().await?;
    }
    Ok(())
}
