//! A second S3 server, by other people than the first: S3Proxy with its objects in memory. What Millrace asks of a
//! store must hold on both.

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context, ensure};
use millrace_common::lake;
use millrace_local::{Part, PortUse, Probe, Program};
use millrace_types::LakeTarget;
use object_store::{ObjectStore, ObjectStoreExt, PutPayload};
use tokio::process::Command;

/// A server with the bucket and the login of `lake`, whose files are in `folder`; it runs.
pub(crate) async fn start(
    folder: &Path,
    port: PortUse,
    login: &str,
    lake: &LakeTarget,
) -> anyhow::Result<Part> {
    let jars = get("s3proxy", "classpath").await?;
    let settings = folder.join("s3proxy.properties");
    let text = format!(
        "s3proxy.endpoint=http://127.0.0.1:{}\ns3proxy.authorization=aws-v4\ns3proxy.identity={login}\n\
         s3proxy.credential={login}\njclouds.provider=transient-nio2\n\
         # Without it a deletion's checksum is refused rather than not looked at.\n\
         s3proxy.ignore-unknown-headers=true\n",
        port.port
    );
    std::fs::write(&settings, text).with_context(|| format!("{} can't be written", settings.display()))?;
    let program = Program::new("S3Proxy", "java", folder.join("s3proxy.log"))
        .arguments([
            "-Xmx192m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-DLOG_LEVEL=warn",
            "-cp",
            &jars,
        ])
        .arguments(["org.gaul.s3proxy.Main", "--properties"])
        .argument(settings);
    let mut part = Part::new(program, vec![port], Probe::Tcp { port: port.port });
    part.start().await?;
    // A PUT of no key makes the bucket. Its answer has no ETag, which the client takes for a failure: what counts is
    // whether the bucket is there then.
    let bucket = lake::open(lake).context("the bucket's address")?;
    let made = bucket.store.put(&object_store::path::Path::default(), PutPayload::default()).await;
    let listed = bucket.store.list_with_delimiter(None).await;
    listed.with_context(|| format!("S3Proxy makes no bucket: {made:?}"))?;
    Ok(part)
}

/// Where what the tests need stands on this machine: gets it, if it is not there.
pub(crate) async fn get(what: &str, key: &str) -> anyhow::Result<String> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/parts/get");
    let got = Command::new("bash")
        .args([script, what])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("{script} can't be run"))?;
    ensure!(got.status.success(), "{script} {what} failed: {}", got.status);
    let answer = String::from_utf8_lossy(&got.stdout).into_owned();
    let value = answer.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    value.map(str::to_owned).with_context(|| format!("{script} {what} gave no {key}: {answer:?}"))
}
