//! A job of this machine: its manifest, its folder, and whether and how it goes on from an earlier run.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use crds::check::Resource;
use crds::contract::{Progress, STOP_SECONDS};
use crds::fault::Fault;
use crds::infrastructure::Infrastructure;
use crds::status::Phase;
use crds::{ScoringJob, TrainingJob};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::core::ObjectMeta;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::error::RunError;
use super::folder::{self, JobFolder, Memory};
use super::inputs;
use crate::build::status;
use crate::manifest::Manifest;
use crate::observe::{Backoff, Job, Ledger, Setting, Stage};

/// Namespace of a manifest that names none.
pub(super) const NAMESPACE: &str = "local";
/// What running on one machine adds to a job's wishes: nowhere else to go, and a person who waits.
const SETTING: Setting = Setting {
    elsewhere: false,
    backoff: Backoff { first_seconds: 1, most_seconds: 60 },
    // The launcher kills its processes before, and still tells why.
    grace_seconds: Some(STOP_SECONDS + 10),
};

/// A TrainingJob or a ScoringJob, with the metadata that the API server would have given it.
#[derive(Clone, Debug)]
pub(crate) struct LocalJob {
    work: Work,
    /// The spec as it was given.
    pub(crate) spec: Value,
}

#[derive(Clone, Debug)]
enum Work {
    Training(Box<TrainingJob>),
    Scoring(Box<ScoringJob>),
}

/// How a run begins.
#[derive(Debug, PartialEq)]
pub(crate) enum Beginning {
    /// There is nothing from before.
    New,
    /// An earlier run was stopped, or ended without a word; it goes on.
    Resumed,
    /// An earlier run failed; it is tried again.
    Again {
        /// Why it had failed.
        message: String,
    },
    /// It is done already.
    Finished,
}

impl LocalJob {
    /// The job of a manifest.
    ///
    /// # Errors
    /// [`RunError::Manifest`] if it is of a kind, or asks for something, that only a cluster has.
    pub(crate) fn new(manifest: &Manifest) -> Result<LocalJob, RunError> {
        let refuse = |path: &str, message: String, hint: &str| {
            RunError::Manifest(vec![manifest.locate(Fault::error(path, message, hint))])
        };
        let mut work = match manifest.resource.clone() {
            Resource::TrainingJob(job) => Work::Training(job),
            Resource::ScoringJob(job) => Work::Scoring(job),
            Resource::ModelEndpoint(_) => {
                return Err(refuse("kind", "a ModelEndpoint has no end, and is no job".to_owned(), ""));
            }
        };
        if work.infrastructure().image.is_some() {
            let message = "a custom image needs a cluster: trainyard run starts Trainyard's own trainer";
            return Err(refuse("spec.infrastructure.image", message.to_owned(), "Leave it out"));
        }
        let namespace = work.metadata_mut().namespace.get_or_insert_with(|| NAMESPACE.to_owned());
        let label = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if namespace.is_empty() || namespace.len() > 63 || !namespace.chars().all(label) {
            let message = format!("{namespace:?} is not a name that a namespace can have");
            return Err(refuse("metadata.namespace", message, "Names have a-z, 0-9 and -, and at most 63 characters"));
        }
        Ok(LocalJob { work, spec: manifest.value["spec"].clone() })
    }

    /// The job as `decide` sees it.
    pub(crate) fn wishes(&self, memory: &Memory, suspend: bool) -> Job {
        let job = match &self.work {
            Work::Training(job) => Job::of_training(job, SETTING),
            Work::Scoring(job) => Job::of_scoring(job, SETTING),
        };
        Job { uid: memory.uid.clone(), generation: memory.generation, suspend: job.suspend || suspend, ..job }
    }

    /// Where it runs.
    pub(crate) fn infrastructure(&self) -> &Infrastructure {
        self.work.infrastructure()
    }

    /// Its status.
    pub(crate) fn status(&self, ledger: &Ledger, before: &Value, now: Timestamp) -> Value {
        let known: Vec<Condition> =
            before.get("conditions").cloned().and_then(|list| serde_json::from_value(list).ok()).unwrap_or_default();
        let mut status = match self.work {
            Work::Training(_) => json!(status::training(ledger, None, &known, now)),
            Work::Scoring(_) => json!(status::scoring(ledger, None, &known, now)),
        };
        // The job's folder has the whole memory in a file of its own.
        if let Some(fields) = status.as_object_mut() {
            fields.remove("memory");
        }
        status
    }

    /// Kind and name, for people.
    pub(crate) fn title(&self) -> String {
        format!("{} {}", self.kind(), self.name())
    }

    /// Namespace.
    pub(crate) fn namespace(&self) -> &str {
        self.work.metadata().namespace.as_deref().unwrap_or(NAMESPACE)
    }

    fn name(&self) -> &str {
        self.work.metadata().name.as_deref().unwrap_or_default()
    }

    /// Name of the kind.
    pub(crate) fn kind(&self) -> &'static str {
        match self.work {
            Work::Training(_) => "TrainingJob",
            Work::Scoring(_) => "ScoringJob",
        }
    }

    /// Its folder.
    pub(crate) fn folder(&self, state: &Path) -> PathBuf {
        folder::path_of(state, self.namespace(), self.kind(), self.name())
    }
}

impl Work {
    fn metadata(&self) -> &ObjectMeta {
        match self {
            Work::Training(job) => &job.metadata,
            Work::Scoring(job) => &job.metadata,
        }
    }

    fn metadata_mut(&mut self) -> &mut ObjectMeta {
        match self {
            Work::Training(job) => &mut job.metadata,
            Work::Scoring(job) => &mut job.metadata,
        }
    }

    fn infrastructure(&self) -> &Infrastructure {
        match self {
            Work::Training(job) => &job.spec.infrastructure,
            Work::Scoring(job) => &job.spec.infrastructure,
        }
    }
}

/// Takes up what an earlier run left, or begins anew.
///
/// # Errors
/// [`RunError::Changed`] if the job has started with another spec; [`RunError::State`], [`RunError::Io`].
pub(crate) fn take_up(
    job: &LocalJob,
    manifest: &Manifest,
    folder: &JobFolder,
    now: Timestamp,
) -> Result<(Memory, Beginning), RunError> {
    let (Some(memory), Some(old)) = (folder.memory()?, folder.manifest()?) else {
        folder.keep_manifest(&manifest.value)?;
        let memory = Memory { uid: Uuid::new_v4().to_string(), generation: 1, ledger: Ledger::default() };
        return Ok((memory, Beginning::New));
    };
    let mut memory = memory;
    if old.get("spec") != manifest.value.get("spec") {
        if memory.ledger.phase == Phase::Failed && trained_nothing(&memory.ledger) {
            let gangs = job.wishes(&memory, false).gangs;
            memory.ledger.gangs.retain(|number, _| *number < gangs);
        } else {
            let mut old = old;
            old["status"] = folder.status::<Value>()?.unwrap_or_default();
            manifest
                .check_update(&old)
                .map_err(|faults| RunError::Changed { faults, folder: folder.path().to_owned() })?;
        }
        memory.generation += 1;
        folder.keep_manifest(&manifest.value)?;
    }
    let beginning = match memory.ledger.phase {
        Phase::Succeeded => Beginning::Finished,
        Phase::Failed => {
            let message = memory.ledger.message.clone();
            reopen(&mut memory.ledger, now);
            Beginning::Again { message }
        }
        _ if memory.ledger.attempt == 0 => Beginning::New,
        _ => Beginning::Resumed,
    };
    // A person who runs it again has waited long enough.
    for gang in memory.ledger.gangs.values_mut() {
        if let Stage::Waiting { not_before } = &mut gang.stage {
            *not_before = now.min(*not_before);
        }
    }
    Ok((memory, beginning))
}

/// What is said to whoever stops a job that is so far. A checkpoint comes of steps alone, not of what prepares them.
pub(crate) fn stopping(kind: &str, attempt: u32, progress: Option<&Progress>) -> String {
    let steps = progress.is_some_and(|progress| progress.attempt == attempt && progress.stage != "Preparing");
    let first = match kind {
        "TrainingJob" if steps => ": the step is finished first, then a checkpoint is committed",
        _ => "",
    };
    format!("Stopping{first}. Once more kills it at once")
}

/// Makes a failed job one that is tried again: the person who runs it has looked into it. Its attempts count on.
fn reopen(ledger: &mut Ledger, now: Timestamp) {
    for gang in ledger.gangs.values_mut() {
        gang.stage = Stage::Waiting { not_before: now };
        (gang.failures, gang.streak) = (0, 0);
    }
    ledger.phase = Phase::Pending;
    ledger.failure = None;
    ledger.failures = 0;
    ledger.completion_time = None;
    ledger.active_seconds = 0;
}

/// Whether the rows of a scoring, by its resolved spec, are those of another model than is there now. What can't be read of
/// either, as in a store, is no reason to say so.
pub(crate) fn is_outdated(spec: &Value) -> bool {
    let read = |folder: &str, name: &str| {
        let folder = spec.pointer(folder)?.as_str()?.strip_prefix("file://")?;
        fs::read(Path::new(folder).join(name)).ok()
    };
    let rows = read("/output/uri", "manifest.json").and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok());
    let scored_by = rows.as_ref().and_then(|rows| rows["modelDigest"].as_str());
    let now = read("/model/uri", "model.json").map(|bytes| {
        let digits = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        format!("sha256:{digits}")
    });
    scored_by.zip(now).is_some_and(|(then, now)| then != now)
}

fn trained_nothing(ledger: &Ledger) -> bool {
    let progress = ledger.progress.as_ref();
    progress.is_none_or(|progress| progress.step == 0 && progress.checkpoint_step.is_none())
        && ledger.attempts.iter().all(|attempt| attempt.failure.step.unwrap_or(0) == 0)
        && ledger.done.is_empty()
}

/// Puts the state and the output of an earlier run aside. Returns what was moved, and where to.
///
/// # Errors
/// [`RunError::Locked`] if that run goes on, [`RunError::Io`].
pub(crate) fn start_over(
    job: &LocalJob,
    state: &Path,
    mounts: &BTreeMap<String, String>,
) -> Result<Vec<(PathBuf, PathBuf)>, RunError> {
    let path = job.folder(state);
    let mut moved = Vec::new();
    let output = inputs::output_folder(&job.spec, mounts);
    if path.exists() {
        let lock = JobFolder::open(path.clone(), &job.title())?;
        let aside = folder::aside(&path);
        fs::rename(&path, &aside).map_err(RunError::io("move", &path))?;
        drop(lock);
        moved.push((path, aside));
    }
    if let Some(output) = output.filter(|output| output.exists()) {
        let aside = folder::aside(&output);
        fs::rename(&output, &aside).map_err(RunError::io("move", &output))?;
        moved.push((output, aside));
    }
    Ok(moved)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_stops_a_job_is_promised_a_checkpoint_of_steps_alone() {
        let at = |attempt, stage: &str| Progress { attempt, stage: stage.to_owned(), ..Progress::default() };
        let promise = |kind, progress: Option<&Progress>| stopping(kind, 2, progress).contains("checkpoint");
        assert!(promise("TrainingJob", Some(&at(2, "Training"))));
        for (kind, progress) in [
            ("TrainingJob", None),
            ("TrainingJob", Some(at(2, "Preparing"))),
            ("TrainingJob", Some(at(1, "Training"))),
            ("ScoringJob", Some(at(2, "Scoring"))),
        ] {
            assert!(!promise(kind, progress.as_ref()), "{kind} {progress:?}");
        }
    }
}
