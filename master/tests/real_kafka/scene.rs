//! A master of its own on the shared Kafka, its state and its lake in folders that go away with it.

use std::net::TcpListener;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use clap::Parser;
use millrace_common::kafka::{client_config, ensure_topics, partition_counts};
use millrace_common::shutdown::Shutdown;
use millrace_common::types::{LakeTarget, RollPolicy, StartPosition, TransformDefinition};
use millrace_master::{Config, Draft, Error};
use millrace_proto::v1::master_client::MasterClient;
use millrace_proto::v1::{
    DescribePipelineRequest, KillPipelineRequest, ListPipelinesRequest, PipelineStage, SubmitPipelineRequest,
    SubmitPipelineResponse,
};
use millrace_transform::Registry;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewPartitions, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;
use serde_json::Value;
use tokio::task::JoinHandle;
use tonic::Status;
use tonic::transport::Channel;

/// A wait longer than this is a hang, however slow the machine.
const PATIENCE: Duration = Duration::from_secs(120);

#[derive(Debug, Parser)]
struct CommandLine {
    #[command(flatten)]
    config: Config,
}

pub(crate) struct Scene {
    servers: String,
    pub(crate) raw: String,
    pub(crate) enriched: String,
    folder: tempfile::TempDir,
    master: Running,
}

struct Running {
    client: MasterClient<Channel>,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), Error>>,
}

impl Running {
    async fn start(state: &str) -> Self {
        let port =
            || TcpListener::bind("127.0.0.1:0").expect("listener").local_addr().expect("address").port();
        let (bind, page) = (format!("127.0.0.1:{}", port()), format!("127.0.0.1:{}", port()));
        let flags = ["master", "--bind", &bind, "--http-bind", &page, "--state", state, "--no-pipeline"];
        let refresh = ["--metadata-refresh", "200ms"];
        let config = CommandLine::parse_from(flags.into_iter().chain(refresh)).config;
        let shutdown = Shutdown::new();
        let task = tokio::spawn(millrace_master::run(config, Registry::default(), shutdown.clone()));
        let began = Instant::now();
        let client = loop {
            match MasterClient::connect(format!("http://{bind}")).await {
                Ok(client) => break client,
                Err(error) => assert!(began.elapsed() < PATIENCE && !task.is_finished(), "{error}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        Self { client, shutdown, task }
    }

    async fn stop(self) {
        self.shutdown.begin();
        self.task.await.expect("no panic").expect("no error");
    }
}

impl Scene {
    /// A source topic of `partitions`, and a master without pipelines.
    pub(crate) async fn start(name: &str, partitions: i32) -> Self {
        let servers = std::env::var("MILLRACE_TEST_KAFKA").unwrap_or_else(|_| {
            panic!("MILLRACE_TEST_KAFKA is not set: expected host:port of a Kafka for tests")
        });
        let raw = format!("master-{name}-{:08x}.raw", rand::random::<u32>());
        ensure_topics(&servers, &[&raw], &[], partitions).await.expect("source topic");
        let folder = tempfile::tempdir().expect("folder");
        let state = format!("file:{}", folder.path().join("state").display());
        let enriched = raw.replace(".raw", ".enriched");
        Self { servers, raw, enriched, master: Running::start(&state).await, folder }
    }

    pub(crate) async fn stop(self) {
        self.master.stop().await;
    }

    /// Changes one setting of a topic, which is made if it is absent.
    pub(crate) async fn set(&self, topic: &str, setting: &str, value: &str) {
        ensure_topics(&self.servers, &[topic], &[], 1).await.expect("topic");
        let admin: AdminClient<DefaultClientContext> =
            client_config(&self.servers, "test").create().expect("admin client");
        let config = AlterConfig::new(ResourceSpecifier::Topic(topic)).set(setting, value);
        for altered in admin.alter_configs([&config], &AdminOptions::new()).await.expect("answered") {
            altered.expect("altered");
        }
    }

    /// The master ends, and another one goes on with its state.
    pub(crate) async fn restart(&mut self) {
        let state = format!("file:{}", self.folder.path().join("state").display());
        let (shutdown, client) = (self.master.shutdown.clone(), self.master.client.clone());
        let task = std::mem::replace(&mut self.master.task, tokio::spawn(async { Ok(()) }));
        Running { client, shutdown, task }.stop().await;
        self.master = Running::start(&state).await;
    }

    pub(crate) fn lake_folder(&self) -> PathBuf {
        self.folder.path().join("lake")
    }

    pub(crate) fn draft(&self, name: &str) -> Draft {
        Draft {
            name: name.into(),
            kafka: self.servers.clone(),
            topics: vec![self.raw.clone()],
            start: StartPosition::Earliest,
            transform: TransformDefinition { kind: "clicks".into(), options: serde_json::Map::new() },
            duplicate_window: None,
            enriched_topic: Some(self.enriched.clone()),
            invalid_topic: self.raw.replace(".raw", ".invalid"),
            lake: Some(LakeTarget::new(format!("file://{}", self.lake_folder().display()))),
            roll: RollPolicy::default(),
            commit_interval_ms: 1000,
            max_rate: None,
            weight: 1,
            user: "somebody".into(),
        }
    }

    pub(crate) async fn submit(
        &mut self,
        draft: &Draft,
        resume: bool,
    ) -> Result<SubmitPipelineResponse, Status> {
        self.ask_to_admit(draft, resume, false).await
    }

    pub(crate) async fn dry_run(&mut self, draft: &Draft) -> Result<SubmitPipelineResponse, Status> {
        self.ask_to_admit(draft, false, true).await
    }

    async fn ask_to_admit(
        &mut self,
        draft: &Draft,
        resume: bool,
        dry_run: bool,
    ) -> Result<SubmitPipelineResponse, Status> {
        let draft_json = serde_json::to_string(draft).expect("json");
        let request = SubmitPipelineRequest { draft_json, file: "p.toml".into(), resume, dry_run };
        Ok(self.master.client.submit_pipeline(request).await?.into_inner())
    }

    pub(crate) async fn kill(&mut self, pipeline: &str) -> Result<PipelineStage, Status> {
        let request = KillPipelineRequest { pipeline: pipeline.into() };
        let answer = self.master.client.kill_pipeline(request).await?.into_inner();
        Ok(answer.pipeline.expect("the pipeline after it"))
    }

    pub(crate) async fn describe(&self, pipeline: &str) -> Value {
        let request = DescribePipelineRequest { pipeline: pipeline.into() };
        let answer = self.master.client.clone().describe_pipeline(request).await.expect("known").into_inner();
        serde_json::from_str(&answer.pipeline_json).expect("json")
    }

    pub(crate) async fn list(&self) -> Value {
        let answer = self.master.client.clone().list_pipelines(ListPipelinesRequest {}).await.expect("list");
        serde_json::from_str(&answer.into_inner().pipelines_json).expect("json")
    }

    /// Waits until the pipeline `clicks` is as it should be.
    pub(crate) async fn until(&self, what: &str, reached: impl Fn(&Value) -> bool) {
        let began = Instant::now();
        loop {
            let shown = self.describe("clicks").await;
            if reached(&shown) {
                return;
            }
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}\n{shown:#}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// What the lake says of its owner.
    pub(crate) fn claim(&self) -> Value {
        let text = std::fs::read(self.lake_folder().join("_millrace/pipeline.json")).expect("a claim");
        serde_json::from_slice(&text).expect("json")
    }

    pub(crate) async fn partitions(&self, topic: &str) -> Option<i32> {
        partition_counts(&self.servers, &[topic]).await.expect("metadata").get(topic).copied()
    }

    fn admin(&self) -> AdminClient<DefaultClientContext> {
        client_config(&self.servers, "test").create().expect("client")
    }

    pub(crate) async fn extend_source(&self, partitions: usize) {
        let new = NewPartitions::new(&self.raw, partitions);
        let done = self.admin().create_partitions(&[new], &AdminOptions::new()).await.expect("asked");
        done.into_iter().for_each(|result| drop(result.expect("extended")));
    }

    pub(crate) async fn delete_source(&self) {
        let done = self.admin().delete_topics(&[&self.raw], &AdminOptions::new()).await.expect("asked");
        done.into_iter().for_each(|result| drop(result.expect("deleted")));
    }
}
