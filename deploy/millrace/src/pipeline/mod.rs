//! `millrace submit`, `pipelines`, `describe`, `pause`, `resume` and `kill`: what people do with pipelines. Each asks a
//! master and prints its answer; only a file's own form is judged here.

mod file;
mod section;
mod show;

use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_proto::channel::Access;
use millrace_proto::v1::master_client::MasterClient;
use millrace_proto::v1::{
    DescribePipelineRequest, KillPipelineRequest, ListPipelinesRequest, PausePipelineRequest, PipelineStage,
    ResumePipelineRequest, SubmitPipelineRequest,
};
use millrace_transform::Registry;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::ask::{Error, Masters};

/// Answers that need nobody but the master.
const DEADLINE: Duration = Duration::from_secs(10);
/// The master asks Kafka and the lake before it answers.
const SUBMIT_DEADLINE: Duration = Duration::from_secs(60);
/// A larger file is no pipeline.
const LARGEST_FILE: u64 = 1 << 20;

/// A pipeline's file, and what is wanted of it.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Examples:\n  millrace submit clicks.toml --dry-run\n  millrace submit clicks.toml\n  \
    millrace submit clicks.toml --resume\n\n\
    Every key of the file is explained in docs/pipelines.md. Exit code 2: the file or the command line is malformed; \
    1: refused, or no master answers."
)]
pub(crate) struct Submit {
    /// The pipeline's file.
    #[arg(value_name = "FILE.toml")]
    file: PathBuf,
    #[command(flatten)]
    masters: Masters,
    /// Go on with the known pipeline of this name, where it stands; what the file changes in limits, addresses and
    /// options counts from then on.
    #[arg(long)]
    resume: bool,
    /// Check everything, here and at the master, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Which pipelines are listed, and how.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  millrace pipelines\n  millrace pipelines --json")]
pub(crate) struct List {
    #[command(flatten)]
    masters: Masters,
    /// Print a JSON array instead of a table.
    #[arg(long)]
    json: bool,
}

/// Which pipeline is shown, and how.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:\n  millrace describe clicks\n  millrace describe clicks-3f9a2c --json")]
pub(crate) struct Describe {
    /// The pipeline's name or id.
    #[arg(value_name = "NAME|ID")]
    pipeline: String,
    #[command(flatten)]
    masters: Masters,
    /// Print a JSON object.
    #[arg(long)]
    json: bool,
}

/// Which pipeline is meant.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Target {
    /// The pipeline's name or id.
    #[arg(value_name = "NAME|ID")]
    pipeline: String,
    #[command(flatten)]
    masters: Masters,
}

/// Checks the file and hands it to the master.
pub(crate) async fn submit(config: Submit, transforms: &Registry) -> Result<(), Error> {
    let Submit { file, masters, resume, dry_run } = config;
    let text = contents(&file).map_err(Error::Usage)?;
    let user = std::env::var("USER").unwrap_or_else(|_| "unknown".into());
    let draft = file::read(&text, user, transforms)
        .map_err(|invalid| Error::Usage(format!("{}: {invalid}", file.display())))?;
    let draft_json = serde_json::to_string(&draft).map_err(Error::unreadable)?;
    let request = SubmitPipelineRequest { draft_json, file: file.display().to_string(), resume, dry_run };
    let question = async |mut master: MasterClient<Access>| master.submit_pipeline(request.clone()).await;
    let answer = masters.ask(SUBMIT_DEADLINE, question).await?;
    let (name, id) = (&draft.name, &answer.pipeline);
    match (dry_run, resume) {
        (true, _) => println!("pipeline {name} can be {}", if resume { "resumed" } else { "submitted" }),
        (false, true) => println!("pipeline {id} goes on"),
        (false, false) => println!("pipeline {id} is submitted"),
    }
    for note in answer.notes {
        println!("  {note}");
    }
    if !dry_run {
        println!("see it with: millrace describe {name}");
    }
    Ok(())
}

/// Blocking, but the process does nothing else yet.
fn contents(file: &Path) -> Result<String, String> {
    let shown = file.display();
    let size = std::fs::metadata(file).map_err(|error| format!("{shown} can't be read: {error}"))?.len();
    if size > LARGEST_FILE {
        return Err(format!(
            "{shown} has {size} bytes: expected a pipeline's file of at most {LARGEST_FILE}"
        ));
    }
    std::fs::read_to_string(file).map_err(|error| format!("{shown} can't be read: {error}"))
}

/// Prints all pipelines that the master keeps.
pub(crate) async fn list(config: List) -> Result<(), Error> {
    let question =
        async |mut master: MasterClient<Access>| master.list_pipelines(ListPipelinesRequest {}).await;
    let json = config.masters.ask(DEADLINE, question).await?.pipelines_json;
    if config.json {
        println!("{:#}", parse::<Value>(&json)?);
    } else {
        print!("{}", show::pipelines(&parse::<Vec<_>>(&json)?));
    }
    Ok(())
}

/// Prints one pipeline and its partitions.
pub(crate) async fn describe(config: Describe) -> Result<(), Error> {
    let request = DescribePipelineRequest { pipeline: config.pipeline };
    let question = async |mut master: MasterClient<Access>| master.describe_pipeline(request.clone()).await;
    let json = config.masters.ask(DEADLINE, question).await?.pipeline_json;
    if config.json {
        println!("{:#}", parse::<Value>(&json)?);
    } else {
        print!("{}", show::detail(&parse(&json)?));
    }
    Ok(())
}

/// Stops a pipeline after a last commit; it can be resumed.
pub(crate) async fn pause(Target { pipeline, masters }: Target) -> Result<(), Error> {
    let request = PausePipelineRequest { pipeline };
    let question = async |mut master: MasterClient<Access>| master.pause_pipeline(request.clone()).await;
    print_stage(masters.ask(DEADLINE, question).await?.pipeline)
}

/// Lets a paused pipeline, or the halted partitions of a running one, go on.
pub(crate) async fn resume(Target { pipeline, masters }: Target) -> Result<(), Error> {
    let request = ResumePipelineRequest { pipeline };
    let question = async |mut master: MasterClient<Access>| master.resume_pipeline(request.clone()).await;
    print_stage(masters.ask(DEADLINE, question).await?.pipeline)
}

/// Ends a pipeline after a last commit; its record, topics and lake stay.
pub(crate) async fn kill(Target { pipeline, masters }: Target) -> Result<(), Error> {
    let request = KillPipelineRequest { pipeline };
    let question = async |mut master: MasterClient<Access>| master.kill_pipeline(request.clone()).await;
    print_stage(masters.ask(DEADLINE, question).await?.pipeline)
}

fn print_stage(stage: Option<PipelineStage>) -> Result<(), Error> {
    let stage = stage.ok_or_else(|| Error::unreadable("no pipeline in the answer"))?;
    println!("{}", show::stage(&stage));
    Ok(())
}

fn parse<T: DeserializeOwned>(json: &str) -> Result<T, Error> {
    serde_json::from_str(json).map_err(Error::unreadable)
}
