//! What the operator and the trainer tell each other, as JSON, and the bounds of what they tell.

use serde::{Deserialize, Serialize};

use super::Cause;
use crate::status::bounded_to;

/// Longest name of a stage, in bytes.
pub const STAGE_BYTES: usize = 64;
/// Most diagnostics of a job.
pub const DIAGNOSTICS: usize = 8;
/// Longest text of a diagnostic, in bytes.
pub const DIAGNOSTIC_BYTES: usize = 512;
/// Longest reason for a device, in bytes.
pub const DEVICE_REASON_BYTES: usize = 512;

/// What a trainer pod is told to do: the whole resource, in the environment variable [`env::ASSIGNMENT`](super::env::ASSIGNMENT).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment<Spec> {
    /// [`CONTRACT_VERSION`](super::CONTRACT_VERSION) of the writer.
    pub contract_version: u32,
    /// Kind of the resource.
    pub kind: String,
    /// Name of the resource.
    pub name: String,
    /// Namespace of the resource; `local` for a run without a cluster.
    pub namespace: String,
    /// UID of the resource: it claims the output.
    pub uid: String,
    /// When the resource was created, in seconds since 1970: of two TrainingJobs of one name the later one takes the output of the
    /// other over. None without a cluster.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<i64>,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Index of this pod in its gang, from 0.
    pub member: u32,
    /// Members of the gang: pods of a TrainingJob, shards of a ScoringJob.
    pub members: u32,
    /// The spec, as applied, with every URI one that the trainer can open: `pvc://` has become `file://`.
    pub spec: Spec,
}

/// What a process says when it ends, as JSON in its termination message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TerminationMessage {
    /// [`CONTRACT_VERSION`](super::CONTRACT_VERSION) of the writer.
    pub contract_version: u32,
    /// Why it ended.
    pub cause: Cause,
    /// Rank of the process that ended first, if it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rank: Option<u32>,
    /// Name of its node, where known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Optimizer steps done by the whole job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step: Option<u64>,
    /// What went wrong, where: a sentence.
    pub message: String,
    /// What to do about it: a sentence, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// The result of a job that completed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<JobResult>,
}

/// What a completed job leaves behind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct JobResult {
    /// URI of the model folder (TrainingJob) or of the output (ScoringJob).
    pub uri: String,
    /// Digest of what was committed: `sha256:` and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// Name of the figure, such as `accuracy`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric_name: Option<String>,
    /// The figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<f64>,
    /// Probability from which on the model decides for the second of two classes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Inputs of a scoring job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_in: Option<u64>,
    /// Rows written by a scoring job: one for each input.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_out: Option<u64>,
    /// Rows that carry an error instead of probabilities.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_failed: Option<u64>,
    /// What a person should know although the job is done: a sentence.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// What rank 0 answers to `GET /progress`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Progress {
    /// [`CONTRACT_VERSION`](super::CONTRACT_VERSION) of the writer.
    pub contract_version: u32,
    /// Number of the attempt.
    pub attempt: u32,
    /// What the process does at present: `Preparing`, `Training`, `Validating`, `Saving`, `Scoring`.
    pub stage: String,
    /// Epoch under way, from 1 (training).
    pub epoch: u32,
    /// Epochs in all (training).
    pub epochs: u32,
    /// Optimizer steps (training) or rows (scoring) done.
    pub step: u64,
    /// Optimizer steps or rows in all.
    pub total_steps: u64,
    /// Mean loss over the last steps.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loss: Option<f64>,
    /// The newest validation figure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metric: Option<f64>,
    /// Images per second over all ranks.
    pub images_per_second: f64,
    /// Seconds left at this rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub eta_seconds: Option<u64>,
    /// Step of the newest committed checkpoint.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkpoint_step: Option<u64>,
    /// Bytes of gradients that each process has handed to the network since the attempt began; none for one process.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gradient_bytes: Option<u64>,
    /// What was found in the data before training; at most [`DIAGNOSTICS`].
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub diagnostics: Vec<Diagnostic>,
}

impl Progress {
    /// The same within the bounds of a status: whoever answers, texts are cut, and diagnostics are [`DIAGNOSTICS`] at most.
    pub fn bounded(mut self) -> Progress {
        self.stage = bounded_to(&self.stage, STAGE_BYTES);
        self.diagnostics.truncate(DIAGNOSTICS);
        for diagnostic in &mut self.diagnostics {
            *diagnostic = Diagnostic::new(&diagnostic.check, &diagnostic.text);
        }
        self
    }
}

/// Something that a person should know about a job that runs all the same.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Diagnostic {
    /// What was looked at: a word or two.
    pub check: String,
    /// What was found: a sentence of at most [`DIAGNOSTIC_BYTES`] bytes.
    pub text: String,
}

impl Diagnostic {
    /// A diagnostic within its bounds: what is cut shows by an ellipsis.
    pub fn new(check: &str, text: &str) -> Diagnostic {
        Diagnostic { check: bounded_to(check, DIAGNOSTIC_BYTES), text: bounded_to(text, DIAGNOSTIC_BYTES) }
    }
}

/// What a pod of an endpoint answers to `GET /serving`. Its [`Assignment`] is of kind `ModelEndpoint`, with the number of the
/// revision as the attempt, and `spec.model.uri` set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Serving {
    /// [`CONTRACT_VERSION`](super::CONTRACT_VERSION) of the writer.
    pub contract_version: u32,
    /// Number of the revision.
    pub revision: u32,
    /// Whether requests are answered.
    pub ready: bool,
    /// What computes: `Cpu` or `Gpu`.
    pub device: String,
    /// Why it computes there, where that was not asked for: a sentence, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub device_reason: String,
    /// Why a newer model in the folder is not the one that answers: a sentence, or empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub held_up: String,
    /// Digest of the model folder's manifest: `sha256:` and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl Serving {
    /// The same within the bounds of a status, whoever answers. What is no digest is left out.
    pub fn bounded(mut self) -> Serving {
        self.device_reason = bounded_to(&self.device_reason, DEVICE_REASON_BYTES);
        self.held_up = bounded_to(&self.held_up, DEVICE_REASON_BYTES);
        let is_digest = |text: &String| {
            text.strip_prefix("sha256:")
                .is_some_and(|digits| digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        self.digest = self.digest.filter(is_digest);
        self
    }
}
