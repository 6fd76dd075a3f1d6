//! Admitting pipelines that people submit: the draft is checked again, then Kafka and the lake are asked, and only
//! then is anything made or claimed. Everything that is wrong is told at once, with what to do.

use std::time::Duration;

use millrace_common::types::{InvalidDefinition, PipelineDefinition, PipelineId};
use millrace_master_core::{Event, PipelineView};
use millrace_transform::Registry;
use tokio::sync::Mutex;
use tracing::info;

use crate::draft::{Draft, change};
use crate::handle::{Handle, Look};
use crate::pipelines::Refusal;
use crate::topic_check::{self, Needs};
use crate::{kafka_check, lake_claim, topics};

/// Kafka and the lake answer within this, or the submission is refused for now.
const DEADLINE: Duration = Duration::from_secs(45);

/// What a person asks for.
#[derive(Debug)]
pub(crate) struct Submission {
    pub(crate) draft: Draft,
    /// The file's name, for lines to type.
    pub(crate) file: String,
    /// Go on with the known pipeline of this name.
    pub(crate) resume: bool,
    /// Check everything, change nothing.
    pub(crate) dry_run: bool,
}

/// A pipeline that may run.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Admitted {
    /// `None` for the dry run of a new one.
    pub(crate) pipeline: Option<PipelineId>,
    /// What was found and done.
    pub(crate) notes: Vec<String>,
}

#[derive(Debug)]
pub(crate) struct Admission {
    handle: Handle,
    transforms: Registry,
    /// Name of a pipeline that the master itself is about to admit.
    own: Option<&'static str>,
    /// One submission at a time: the second one sees the first.
    turn: Mutex<()>,
}

/// What Kafka and the lake say.
struct Surroundings {
    /// Of each source topic.
    counts: Vec<i32>,
    lake_owner: Option<PipelineId>,
    /// What should be known, though nothing stands against it.
    notes: Vec<String>,
}

impl Admission {
    pub(crate) fn new(handle: Handle, transforms: Registry, own: Option<&'static str>) -> Self {
        Self { handle, transforms, own, turn: Mutex::new(()) }
    }

    /// Admits the pipeline, or tells all that stands against it.
    pub(crate) async fn submit(&self, submission: Submission) -> Result<Admitted, Refusal> {
        let problems = submission.draft.check(&self.transforms);
        if !problems.is_empty() {
            return Err(Refusal::Usage(InvalidDefinition(problems).to_string()));
        }
        let _turn = self.turn.lock().await;
        match tokio::time::timeout(DEADLINE, self.admit(&submission)).await {
            Ok(answer) => answer,
            Err(_) => Err(Refusal::Unavailable(format!(
                "Kafka and the lake did not answer within {} s: submit it again",
                DEADLINE.as_secs()
            ))),
        }
    }

    async fn admit(&self, submission: &Submission) -> Result<Admitted, Refusal> {
        let look = self.handle.look().await?;
        let stored = self.known(submission, &look)?;
        let draft = &submission.draft;
        let changed = match stored {
            None => None,
            Some(view) => Some(
                change(&view.definition, draft, &self.transforms)
                    .map_err(|problems| Refusal::Now(InvalidDefinition(problems).to_string()))?,
            ),
        };
        let id = changed.as_ref().map(|definition| definition.id.clone());
        let Surroundings { counts, lake_owner, notes: warnings } = surroundings(draft).await?;
        if let Some(owner) = lake_owner.filter(|owner| id.as_ref() != Some(owner)) {
            check_owner(&owner, submission, &look, id.is_none())?;
        }
        let mut notes = vec![found(draft, &counts)];
        notes.extend(warnings);
        if submission.dry_run {
            notes.push("nothing was changed: it was a dry run".into());
            return Ok(Admitted { pipeline: id, notes });
        }
        let definition = match changed {
            Some(definition) => definition,
            None => {
                let reserved = self.handle.reserve(&draft.name).await?;
                let (id, at_ms) = (reserved.pipeline, reserved.submitted_at_ms);
                draft.definition(id, at_ms, counts.clone(), &self.transforms)
            }
        };
        notes.extend(self.make(&definition, stored, &counts).await?);
        Ok(Admitted { pipeline: Some(definition.id), notes })
    }

    /// The pipeline to go on with; `None` for a new one.
    fn known<'a>(
        &self,
        submission: &Submission,
        look: &'a Look,
    ) -> Result<Option<&'a PipelineView>, Refusal> {
        let Submission { draft: Draft { name, .. }, file, resume, .. } = submission;
        let mut all = look.view.pipelines.iter().chain(&look.view.completed);
        match (all.find(|view| view.definition.name == *name), resume) {
            (Some(view), true) => Ok(Some(view)),
            (Some(view), false) => Err(Refusal::Now(format!(
                "the name {name} is taken by pipeline {}, which is {}; to go on with it type\n  \
                 millrace submit {file} --resume\n\
                 or give the new pipeline another name and sinks of its own",
                view.definition.id,
                view.state.as_str(),
            ))),
            (None, true) => Err(Refusal::Now(format!(
                "no pipeline named {name} is known here, so there is nothing to resume; a new one is submitted by\n  \
                 millrace submit {file}"
            ))),
            (None, false) if self.own == Some(name) => Err(Refusal::Now(format!(
                "the master itself makes the pipeline {name} as soon as Kafka and its lake answer: choose another \
                 name, or start the master with --no-pipeline"
            ))),
            (None, false) => Ok(None),
        }
    }

    /// Makes topics, claims the lake, and hands the pipeline to the driver.
    async fn make(
        &self,
        definition: &PipelineDefinition,
        stored: Option<&PipelineView>,
        counts: &[i32],
    ) -> Result<Vec<String>, Refusal> {
        let unavailable = |reason: String| Refusal::Unavailable(reason);
        let mut notes = topics::prepare(definition, topics::widest(counts))
            .await
            .map_err(|error| unavailable(error.to_string()))?;
        let claimed = match stored {
            None => lake_claim::claim(definition).await,
            Some(_) => lake_claim::renew(definition).await,
        };
        claimed.map_err(|error| {
            let words = error.to_string();
            if error.is_passing() { Refusal::Unavailable(words) } else { Refusal::Now(words) }
        })?;
        let (boxed, partitions) = (Box::new(definition.clone()), topics::as_event(counts));
        let event = match stored {
            None => Event::PipelineSubmitted { definition: boxed, partitions },
            Some(view) => {
                notes.push(if view.definition == *definition {
                    "it goes on as it was".to_owned()
                } else {
                    "its partitions are given up and granted again with the changed settings".to_owned()
                });
                Event::PipelineResubmitted { definition: boxed, partitions }
            }
        };
        self.handle.apply(event).await?;
        info!(pipeline = %definition.id, resumed = stored.is_some(), "pipeline admitted");
        Ok(notes)
    }
}

/// The lake has an owner already: only the reservation of this very name may be it.
fn check_owner(
    owner: &PipelineId,
    submission: &Submission,
    look: &Look,
    is_new: bool,
) -> Result<(), Refusal> {
    let Draft { name, lake, .. } = &submission.draft;
    let mut all = look.view.pipelines.iter().chain(&look.view.completed);
    let known = all.find(|view| view.definition.id == *owner);
    if known.is_none() && is_new && look.reserved.get(name) == Some(owner) {
        return Ok(());
    }
    let url = lake.as_ref().map(|lake| lake.url.trim_end_matches('/')).unwrap_or_default();
    let go_on = match known {
        Some(view) => format!(
            "to go on with that one, write name = {:?} and its own settings into the file and type\n  \
             millrace submit {} --resume",
            view.definition.name, submission.file
        ),
        None => {
            "this master does not know it: to go on with that one, start the master with the --state that \
                 knows it"
                .to_owned()
        }
    };
    Err(Refusal::Now(format!(
        "the lake {url} belongs to pipeline {owner}: rows of another one would stand there beside its own;\n{go_on}\n\
         or give this pipeline a prefix of its own, such as\n  url = \"{url}-{name}\""
    )))
}

/// Asks Kafka and the lake at the same time.
async fn surroundings(draft: &Draft) -> Result<Surroundings, Refusal> {
    let kafka = async {
        kafka_check::check(&draft.kafka).await.map_err(|error| (error.is_passing(), error.to_string()))?;
        let counts = match topics::source_counts(&draft.kafka, &draft.topics).await {
            Ok(Ok(counts)) => counts,
            Ok(Err(absent)) => return Err((false, absent_topics(&absent, &draft.kafka))),
            Err(error) => return Err((true, error.to_string())),
        };
        let notes = topic_check::check(Needs::from(draft)).await;
        Ok((counts, notes.map_err(|error| (error.is_passing(), error.to_string()))?))
    };
    let lake = async {
        match &draft.lake {
            Some(target) => {
                lake_claim::owner(target).await.map_err(|error| (error.is_passing(), error.to_string()))
            }
            None => Ok(None),
        }
    };
    match tokio::join!(kafka, lake) {
        (Ok((counts, notes)), Ok(lake_owner)) => Ok(Surroundings { counts, lake_owner, notes }),
        (kafka, lake) => {
            let failures: Vec<(bool, String)> = kafka.err().into_iter().chain(lake.err()).collect();
            let words: Vec<&str> = failures.iter().map(|(_, words)| words.as_str()).collect();
            let words = format!("the pipeline can't be admitted:\n  {}", words.join("\n  "));
            let passing = failures.iter().all(|(passing, _)| *passing);
            Err(if passing { Refusal::Unavailable(words) } else { Refusal::Now(words) })
        }
    }
}

fn absent_topics(absent: &[String], servers: &str) -> String {
    let (noun, verb) = if absent.len() == 1 { ("topic", "does") } else { ("topics", "do") };
    format!(
        "source.topics: {noun} {} {verb} not exist at {servers}: make them first, a pipeline makes only what it writes to",
        absent.join(", ")
    )
}

fn found(draft: &Draft, counts: &[i32]) -> String {
    let each: Vec<String> =
        draft.topics.iter().zip(counts).map(|(topic, count)| format!("{topic} ({count})")).collect();
    format!("source topics with their partitions: {}", each.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::draft::tests::draft;
    use crate::testing::{sources, submitted};

    fn submission(draft: Draft, resume: bool) -> Submission {
        Submission { draft, file: "clicks.toml".into(), resume, dry_run: false }
    }

    async fn refusal(handle: &Handle, submission: Submission) -> Refusal {
        let own = Some("own");
        let admission = Admission::new(handle.clone(), Registry::default(), own);
        admission.submit(submission).await.expect_err("refused")
    }

    #[tokio::test]
    async fn what_can_be_told_without_kafka_is_told_without_it() {
        let (sources, _shutdown) = sources().await;
        let handle = &sources.handle;
        handle.apply(submitted()).await.expect("submitted");
        let named = |name: &str| Draft { name: name.into(), ..draft() };

        let malformed = refusal(handle, submission(Draft { max_rate: Some(0), ..named("a b") }, false)).await;
        assert!(
            matches!(&malformed, Refusal::Usage(words) if words.contains("name = ") && words.contains("max_rate")),
            "{malformed}"
        );
        let taken = refusal(handle, submission(named("clickstream"), false)).await.to_string();
        assert!(
            taken.contains("WAITING") && taken.contains("millrace submit clicks.toml --resume"),
            "{taken}"
        );
        let unknown = refusal(handle, submission(named("views"), true)).await.to_string();
        assert!(unknown.contains("nothing to resume"), "{unknown}");
        let own = refusal(handle, submission(named("own"), false)).await.to_string();
        assert!(own.contains("--no-pipeline"), "{own}");
        // The built-in pipeline of the tests has another lake and no enriched topic.
        let another = refusal(handle, submission(named("clickstream"), true)).await.to_string();
        assert!(another.contains("sinks.lake.url") && another.contains("sinks.enriched_topic"), "{another}");
    }
}
