//! What the operator says about each kind. Every list and every text has a bound, so that a status stays small whatever
//! happens to a job.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::contract::{Cause, Diagnostic};
use crate::infrastructure::Device;

/// Longest text in a status, in bytes.
pub const MESSAGE_BYTES: usize = 1024;
/// Attempts that a status keeps: the first one and the last nine.
pub const ATTEMPTS_KEPT: usize = 10;
/// Characters of `memory` at most: thousands of shards that are under way at a time.
pub const MEMORY_CHARACTERS: usize = 1 << 20;
/// Most nodes that a status names as left out.
pub const NODES_KEPT: usize = 64;

/// Where a job stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Phase {
    /// Its pods are not there yet; the message says what they wait for.
    #[default]
    Pending,
    /// Its pods are there; not all of them work yet. The message says what they wait for.
    Starting,
    /// It works.
    Running,
    /// An attempt has ended and the next one is about to start.
    Restarting,
    /// It has no pods because runPolicy.suspend is true.
    Suspended,
    /// It is done. Nothing changes any more.
    Succeeded,
    /// It has failed for good. Nothing changes any more.
    Failed,
}

impl Phase {
    /// Whether nothing changes any more.
    pub fn is_terminal(self) -> bool {
        matches!(self, Phase::Succeeded | Phase::Failed)
    }
}

/// Where an endpoint stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum EndpointPhase {
    /// It waits for its model or for places.
    #[default]
    Pending,
    /// Its first pods start.
    Starting,
    /// All replicas of the newest revision answer.
    Ready,
    /// A new revision takes the place of the old one, which answers meanwhile.
    Updating,
    /// A new revision could not be made, or did not get ready in time. The old one goes on answering.
    Held,
    /// Fewer replicas answer than there should be.
    Degraded,
    /// It has no pods because suspend is true, or replicas is 0.
    Suspended,
    /// Nothing answers, and nothing will without a change.
    Failed,
}

/// Where a job stands, whatever its kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    /// Where the job stands, in a word.
    pub phase: Phase,
    /// Where the job stands, in a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Where the job stands, for machines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status is about.
    pub observed_generation: i64,
    /// Number of the newest attempt, from 1; 0 before the first one. It never falls.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub attempt: u32,
    /// Attempts after the first one.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub restarts: u32,
    /// Ends of attempts that count against runPolicy.backoffLimit, those of all shards together.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub failures: u32,
    /// When the first attempt began.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::time")]
    pub start_time: Option<Time>,
    /// When the job succeeded or failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::time")]
    pub completion_time: Option<Time>,
    /// Seconds not suspended until activeSince, which runPolicy.activeDeadlineSeconds counts.
    #[schemars(range(min = 0, max = 4_294_967_295_u64))]
    pub active_seconds: i64,
    /// Since when the job has not been suspended; absent while it is, and once it is done.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::time")]
    pub active_since: Option<Time>,
    /// How far the job is; a step of a ScoringJob is a row.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressStatus>,
    /// Where the newest attempt runs, and why there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Attempts that have ended: the first one and the last nine. Of several shards, those that failed or were stopped.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 10))]
    pub attempts: Vec<AttemptRecord>,
    /// Nodes that the next attempt leaves out, because a GPU or the node itself failed there.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = 64), inner(length(max = 253)))]
    pub excluded_nodes: Vec<String>,
    /// What the operator remembers between two decisions and nobody else needs, as JSON: the gangs under way, the shards
    /// that are done, failures in a row.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = MEMORY_CHARACTERS))]
    pub memory: String,
}

/// Where a TrainingJob stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct TrainingJobStatus {
    /// What every kind of job tells.
    #[serde(flatten)]
    pub job: JobStatus,
    /// What was found in the data before training, and a person should know: classes that are rare or missing in the
    /// validation images, duplicates, tiny images. The report has all of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::diagnostics")]
    pub diagnostics: Vec<Diagnostic>,
    /// The trained model, once the job has succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelStatus>,
}

/// Where a ScoringJob stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ScoringJobStatus {
    /// What every kind of job tells.
    #[serde(flatten)]
    pub job: JobStatus,
    /// Images and rows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rows: Option<RowCounts>,
    /// Shards that are done.
    #[schemars(range(min = 0, max = 4096))]
    pub shards_done: u32,
    /// The rows, once the job has succeeded, and the figure that evaluate asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub output: Option<ModelStatus>,
}

/// Where a ModelEndpoint stands.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelEndpointStatus {
    /// Where the endpoint stands, in a word.
    pub phase: EndpointPhase,
    /// Where the endpoint stands, in a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
    /// Where the endpoint stands, for machines.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "crate::schema::conditions")]
    pub conditions: Vec<Condition>,
    /// Generation of the spec that this status is about.
    pub observed_generation: i64,
    /// Pods that there are.
    #[schemars(range(min = 0, max = 100_000))]
    pub replicas: u32,
    /// Pods that answer.
    #[schemars(range(min = 0, max = 100_000))]
    pub ready_replicas: u32,
    /// Label selector of the pods, for autoscalers.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub selector: String,
    /// Where requests go to.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 1024))]
    pub url: Option<String>,
    /// Where the pods run, and why there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// The model that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub model: Option<ModelStatus>,
    /// Name of the TrainingJob that left the model that answers, if the endpoint named it so. It stays when the TrainingJob is gone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub training_job: Option<String>,
    /// Number of the revision that answers, from 1; while a new one takes its place, that of the old one.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub revision: u32,
    /// Fingerprint of what the pods of the newest revision were made from, behind the operator's version. Where the Deployment has
    /// something else, somebody has changed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub template: Option<String>,
    /// Number of the newest revision. It never falls.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub latest_revision: u32,
}

/// How far a job is.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ProgressStatus {
    /// Epoch under way, from 1 (training).
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub epoch: u32,
    /// Optimizer steps (training) or rows (scoring) done.
    pub step: i64,
    /// Optimizer steps or rows in all.
    pub total_steps: i64,
    /// Share of the steps that is done, in per cent, rounded down.
    #[schemars(range(min = 0, max = 100))]
    pub percent: u32,
    /// Mean loss over the last steps.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The newest validation figure.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<f64>,
    /// Images per second over all processes.
    pub images_per_second: f64,
    /// Seconds left at this rate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<i64>,
    /// Step of the newest committed checkpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint_step: Option<i64>,
    /// When the job said so.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::time")]
    pub updated_at: Option<Time>,
}

/// Images and rows of a scoring job.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RowCounts {
    /// Images found.
    pub found: i64,
    /// Rows written: one for each image once the job is done.
    pub written: i64,
    /// Rows with an error in the place of a result.
    pub failed: i64,
}

/// Where it runs, and why there.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Placement {
    /// What computes: Gpu or Cpu.
    pub device: Device,
    /// GPUs in all, of a ScoringJob those of the shards at a time; 0 on CPUs.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub gpus: u32,
    /// Name of the runtime in the operator's catalogue.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub runtime: Option<String>,
    /// Node of the first pod, once all pods of a TrainingJob work.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,
    /// Why there: a sentence.
    #[serde(skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub reason: String,
}

/// An attempt that has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AttemptRecord {
    /// Number of the attempt, from 1.
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub number: u32,
    /// Shard that it was an attempt of, from 0; absent where there is one only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 4095))]
    pub shard: Option<u32>,
    /// When its first pod started; absent if none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::time")]
    pub start: Option<Time>,
    /// When it had ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::time")]
    pub end: Option<Time>,
    /// Why it ended.
    #[schemars(schema_with = "crate::schema::cause")]
    pub cause: Cause,
    /// Exit code of the process that ended first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Node of that process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub node: Option<String>,
    /// Rank of that process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub rank: Option<u32>,
    /// Step that it had come to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<i64>,
    /// What went wrong and what to do: a sentence or two.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    #[schemars(length(max = 1024))]
    pub message: String,
}

/// What a job has committed, or an endpoint serves.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct ModelStatus {
    /// Where it is.
    #[schemars(length(max = 2048))]
    pub uri: String,
    /// Its digest: sha256: and 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 71))]
    pub digest: Option<String>,
    /// Name of the figure, such as accuracy.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 63))]
    pub metric_name: Option<String>,
    /// The figure on images that were not trained on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metric: Option<f64>,
    /// Probability from which on the model decides for a class.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
}

/// `text`, cut at a character so that it has at most [`MESSAGE_BYTES`] bytes; what is cut shows by an ellipsis.
pub fn bounded(text: &str) -> String {
    bounded_to(text, MESSAGE_BYTES)
}

/// `text`, cut likewise to at most `bytes` bytes.
pub(crate) fn bounded_to(text: &str, bytes: usize) -> String {
    const ELLIPSIS: char = '…';
    if text.len() <= bytes {
        return text.to_owned();
    }
    let room = bytes.saturating_sub(ELLIPSIS.len_utf8());
    let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    format!("{}{ELLIPSIS}", &text[..end])
}

/// Adds an ended attempt, keeping the first one and the last nine. One whose number is already there replaces it, so that an
/// attempt counts once however often its end is seen.
pub fn push_attempt(attempts: &mut Vec<AttemptRecord>, mut ended: AttemptRecord) {
    ended.message = bounded(&ended.message);
    match attempts.iter_mut().find(|known| (known.number, known.shard) == (ended.number, ended.shard)) {
        Some(known) => *known = ended,
        None => attempts.push(ended),
    }
    attempts.sort_by_key(|attempt| attempt.number);
    while attempts.len() > ATTEMPTS_KEPT {
        attempts.remove(1);
    }
}
