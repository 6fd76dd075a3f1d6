//! What this process runs on and with, for people: its version, its flags, the machine. Secrets are never shown; what
//! could hold one is hidden by its name.

use std::fs;

use millrace_common::types::VERSION;
use schemars::JsonSchema;
use serde::Serialize;

/// Stands where a secret would.
const HIDDEN: &str = "(hidden)";
/// Whatever bears one of these words may hold a secret.
const SECRET_WORDS: [&str; 6] = ["secret", "password", "token", "credential", "access_key", "headers"];
/// Variables of the environment that change what Millrace does begin so.
const OWN: [&str; 6] = ["MILLRACE_", "AWS_", "OTEL_", "RUST_", "TOKIO_", "SSL_"];

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Environment {
    pub(crate) version: &'static str,
    /// Of the library that speaks with Kafka.
    pub(crate) librdkafka: String,
    pub(crate) pid: u32,
    /// As it was started; values that could be secrets are hidden.
    pub(crate) command_line: Vec<String>,
    /// Variables that Millrace and its libraries read, hidden as above.
    pub(crate) variables: Vec<Variable>,
    pub(crate) folder: Option<String>,
    pub(crate) host: Option<String>,
    pub(crate) kernel: Option<String>,
    pub(crate) processor: Option<String>,
    /// That the process may use.
    pub(crate) cores: Option<usize>,
    /// Of the machine.
    pub(crate) memory_bytes: Option<u64>,
    pub(crate) resident_bytes: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, JsonSchema)]
pub(crate) struct Variable {
    pub(crate) name: String,
    pub(crate) value: String,
}

impl Environment {
    /// Of this process, now.
    pub(crate) fn of_this_process() -> Self {
        let read = |path: &str| fs::read_to_string(path).ok();
        let line = |path: &str, name: &str| {
            let text = read(path)?;
            let (_, value) = text.lines().find(|line| line.starts_with(name))?.split_once(':')?;
            Some(value.trim().to_owned())
        };
        let trimmed = |path: &str| read(path).map(|text| text.trim().to_owned());
        let memory = line("/proc/meminfo", "MemTotal");
        let kib = memory.and_then(|text| text.split(' ').next()?.parse::<u64>().ok());
        Self {
            version: VERSION,
            librdkafka: rdkafka::util::get_rdkafka_version().1,
            pid: std::process::id(),
            command_line: shown(std::env::args_os().map(|argument| argument.to_string_lossy().into_owned())),
            variables: variables(std::env::vars_os().map(|(name, value)| {
                (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned())
            })),
            folder: std::env::current_dir().ok().map(|folder| folder.display().to_string()),
            host: trimmed("/proc/sys/kernel/hostname"),
            kernel: trimmed("/proc/sys/kernel/osrelease").map(|release| format!("Linux {release}")),
            processor: line("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().ok().map(usize::from),
            memory_bytes: kib.map(|kib| kib << 10),
            resident_bytes: millrace_common::telemetry::process::resident_bytes(),
        }
    }
}

fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase().replace('-', "_");
    SECRET_WORDS.iter().any(|word| name.contains(word))
}

/// A value without the login that an address may hold.
fn without_login(value: &str) -> String {
    let mut rest = value;
    let mut told = String::with_capacity(value.len());
    while let Some((before, after)) = rest.split_once("://") {
        let authority = after.find(['/', '?', '#']).unwrap_or(after.len());
        told.push_str(before);
        told.push_str("://");
        rest = match after[..authority].rfind('@') {
            Some(at) => {
                told.push_str(HIDDEN);
                &after[at..]
            }
            None => after,
        };
    }
    told.push_str(rest);
    told
}

/// A command line: what follows a flag with a secret's name is hidden.
fn shown(arguments: impl Iterator<Item = String>) -> Vec<String> {
    let mut hides_next = false;
    arguments
        .map(|argument| {
            let is_flag = argument.starts_with("--");
            if std::mem::take(&mut hides_next) && !is_flag {
                return HIDDEN.to_owned();
            }
            match argument.split_once('=') {
                Some((flag, _)) if is_flag && is_secret(flag) => format!("{flag}={HIDDEN}"),
                _ => {
                    hides_next = is_flag && is_secret(&argument);
                    without_login(&argument)
                }
            }
        })
        .collect()
}

fn variables(all: impl Iterator<Item = (String, String)>) -> Vec<Variable> {
    let own = all.filter(|(name, _)| OWN.iter().any(|own| name.starts_with(own)));
    let mut told: Vec<Variable> = own
        .map(|(name, value)| {
            let value = if is_secret(&name) { HIDDEN.to_owned() } else { without_login(&value) };
            Variable { name, value }
        })
        .collect();
    told.sort_by(|a, b| a.name.cmp(&b.name));
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_secret_is_told() {
        let line = [
            "millrace",
            "master",
            "--token",
            "s3cr3t",
            "--s3-secret-access-key=s3cr3t",
            "--bind",
            "1.2.3.4:5",
        ];
        let line = shown(
            line.map(str::to_owned).into_iter().chain(
                [
                    "--state",
                    "etcd://root:s3cr3t@10.0.0.1,10.0.0.2/x",
                    "--password",
                    "--otlp=http://a:s3cr3t@b/c",
                ]
                .map(str::to_owned),
            ),
        );
        let text = line.join(" ");
        assert!(!text.contains("s3cr3t"), "{text}");
        for kept in ["--bind 1.2.3.4:5", "etcd://(hidden)@10.0.0.1,10.0.0.2/x", "--otlp=http://(hidden)@b/c"]
        {
            assert!(text.contains(kept), "{kept}: {text}");
        }
        let told = variables(
            [
                ("AWS_SECRET_ACCESS_KEY", "s3cr3t"),
                ("AWS_ACCESS_KEY_ID", "s3cr3t"),
                ("AWS_SESSION_TOKEN", "s3cr3t"),
                ("OTEL_EXPORTER_OTLP_HEADERS", "authorization=s3cr3t"),
                ("MILLRACE_STATE", "etcd://a:s3cr3t@b"),
                ("MILLRACE_LOG", "info"),
                ("HOME", "/root"),
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into_iter(),
        );
        let text = format!("{told:?}");
        assert!(!text.contains("s3cr3t") && text.contains("info") && !text.contains("HOME"), "{text}");
    }

    #[test]
    fn this_process_has_a_kernel_and_cores() {
        let told = Environment::of_this_process();
        assert!(told.kernel.is_some_and(|kernel| !kernel.is_empty()) && told.cores > Some(0));
        assert!(told.memory_bytes > told.resident_bytes && !told.librdkafka.is_empty());
    }
}
