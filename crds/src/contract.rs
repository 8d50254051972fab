//! Every name that the operator and the trainer share, and nothing else: API group, labels, environment, ports, exit
//! codes, the termination message and the progress document. A name that stands here stands nowhere else.

use serde::{Deserialize, Serialize};

use crate::status::bounded_to;

/// API group of the three kinds.
pub const GROUP: &str = "trainyard.dev";
/// API version of the three kinds.
pub const VERSION: &str = "v1alpha1";
/// Version of the documents below. Readers ignore fields they don't know; a document of a later version is still read.
pub const CONTRACT_VERSION: u32 = 1;

/// Name of Trainyard's controller in `spec.managedBy`.
pub const MANAGER: &str = "trainyard.dev/operator";

/// Labels on what the operator creates.
pub mod labels {
    /// Name of the owning resource.
    pub const JOB: &str = "trainyard.dev/job";
    /// Kind of the owning resource: `TrainingJob`, `ScoringJob` or `ModelEndpoint`.
    pub const KIND: &str = "trainyard.dev/kind";
    /// Number of the attempt that the pod belongs to, from 1. An older number is garbage.
    pub const ATTEMPT: &str = "trainyard.dev/attempt";
    /// Index of the pod in its gang, from 0: the node rank of a TrainingJob, the shard of a ScoringJob.
    pub const MEMBER: &str = "trainyard.dev/member";
}

/// Annotations on what the operator creates.
pub mod annotations {
    /// Which revision of an endpoint a pod belongs to, of which model, placed how: JSON.
    pub const REVISION: &str = "trainyard.dev/revision";
    /// Fingerprint of the object as it was applied last: what was taken out of it since is seen by this.
    pub const APPLIED: &str = "trainyard.dev/applied";
}

/// Names of figures of an endpoint's pods that autoscalers scale by, as their `/metrics` have them. Both are gauges over the last
/// half minute.
pub mod metrics {
    /// Mean milliseconds that a request waited for its batch.
    pub const QUEUE_MILLISECONDS: &str = "trainyard_queue_milliseconds";
    /// Requests answered each second.
    pub const REQUESTS_PER_SECOND: &str = "trainyard_requests_per_second";
}

/// Paths that a pod of an endpoint answers.
pub mod paths {
    /// Whether requests are answered, by the Open Inference Protocol. It asks for no token.
    pub const READY: &str = "/v2/health/ready";
    /// Whether the server lives, by the Open Inference Protocol. It asks for no token.
    pub const LIVE: &str = "/v2/health/live";
    /// [`Serving`](super::Serving), as JSON. It asks for no token.
    pub const SERVING: &str = "/serving";
}

/// Names of environment variables.
pub mod env {
    /// The job that a trainer pod works on: an [`Assignment`](super::Assignment) as JSON.
    pub const ASSIGNMENT: &str = "TRAINYARD_ASSIGNMENT";
    /// Port on which rank 0 serves `GET /progress` and `GET /metrics`; [`PROGRESS_PORT`](super::PROGRESS_PORT) if unset, none if `0`.
    pub const PROGRESS_PORT: &str = "TRAINYARD_PROGRESS_PORT";
    /// File that receives the termination message; [`TERMINATION_LOG`](super::TERMINATION_LOG) if unset.
    pub const TERMINATION_LOG: &str = "TRAINYARD_TERMINATION_LOG";
    /// Address that the progress server binds to; every address if unset. A run without a cluster sets `127.0.0.1`.
    pub const PROGRESS_ADDR: &str = "TRAINYARD_PROGRESS_ADDR";
    /// Seconds that the processes of a pod have from SIGTERM until the launcher kills them;
    /// [`STOP_SECONDS`](super::STOP_SECONDS) if unset. The pod's grace period is longer, so that the reason is still told.
    pub const STOP_SECONDS: &str = "TRAINYARD_STOP_SECONDS";
    /// Process number of whoever started this process and wants it to die with it; unset where nobody does.
    pub const PARENT_PID: &str = "TRAINYARD_PARENT_PID";
    /// Seconds for which a request to a store is tried again before the job ends for it; 120 without it. A checkpoint is tried
    /// five times as long, while the training goes on.
    pub const STORAGE_RETRY_SECONDS: &str = "TRAINYARD_STORAGE_RETRY_SECONDS";
    /// Folder in which what is read from a store is kept for the next epoch; none is without it. All processes of a node may share it.
    pub const DATA_CACHE: &str = "TRAINYARD_DATA_CACHE";
    /// Bytes that [`DATA_CACHE`] may take: what was not used for longest makes room.
    pub const DATA_CACHE_BYTES: &str = "TRAINYARD_DATA_CACHE_BYTES";
    /// File with the bearer token that requests to an endpoint must bear; no token is asked for without it.
    pub const TOKEN_FILE: &str = "TRAINYARD_TOKEN_FILE";
    /// `1`: scoring and serving compute a network in the order of operations of training's validation, to the same bits,
    /// at a lower rate.
    pub const EXACT: &str = "TRAINYARD_EXACT";
    /// Name of the node a pod runs on, for messages.
    pub const NODE_NAME: &str = "TRAINYARD_NODE_NAME";

    // What torchrun sets for each process.
    /// Rank of the process among all processes, from 0.
    pub const RANK: &str = "RANK";
    /// Number of processes.
    pub const WORLD_SIZE: &str = "WORLD_SIZE";
    /// Rank of the process among those of its pod, from 0.
    pub const LOCAL_RANK: &str = "LOCAL_RANK";
    /// Number of processes of a pod.
    pub const LOCAL_WORLD_SIZE: &str = "LOCAL_WORLD_SIZE";
    /// Rank of the pod among the pods, from 0.
    pub const GROUP_RANK: &str = "GROUP_RANK";
    /// Host of the rendezvous store.
    pub const MASTER_ADDR: &str = "MASTER_ADDR";
    /// Port of the rendezvous store.
    pub const MASTER_PORT: &str = "MASTER_PORT";
    /// Restarts of the gang before this attempt.
    pub const TORCHELASTIC_RESTART_COUNT: &str = "TORCHELASTIC_RESTART_COUNT";
    /// Rendezvous key: unique for each attempt of each job.
    pub const TORCHELASTIC_RUN_ID: &str = "TORCHELASTIC_RUN_ID";
    /// `True` where torchrun itself serves the rendezvous store, and rank 0 does not.
    pub const TORCHELASTIC_USE_AGENT_STORE: &str = "TORCHELASTIC_USE_AGENT_STORE";

    // What torchrun reads for each pod.
    /// Number of pods.
    pub const PET_NNODES: &str = "PET_NNODES";
    /// Number of processes of a pod.
    pub const PET_NPROC_PER_NODE: &str = "PET_NPROC_PER_NODE";
    /// Rank of the pod among the pods, from 0.
    pub const PET_NODE_RANK: &str = "PET_NODE_RANK";
    /// Host of the rendezvous store.
    pub const PET_MASTER_ADDR: &str = "PET_MASTER_ADDR";
    /// Port of the rendezvous store.
    pub const PET_MASTER_PORT: &str = "PET_MASTER_PORT";
}

/// Port of the rendezvous store in a pod (torchrun's default).
pub const RENDEZVOUS_PORT: u16 = 29500;
/// Port on which rank 0 serves its progress in a pod.
pub const PROGRESS_PORT: u16 = 29501;
/// Port on which a pod of an endpoint serves REST, the page for people, `/metrics`, health and `GET /serving`.
pub const SERVE_PORT: u16 = 8080;
/// Port on which a pod of an endpoint serves gRPC.
pub const SERVE_GRPC_PORT: u16 = 8081;
/// Argument with which a pod of an endpoint starts the trainer.
pub const SERVE_COMMAND: &str = "serve";
/// Seconds from SIGTERM until the launcher of a pod kills its processes, unless told otherwise.
pub const STOP_SECONDS: u64 = 30;
/// Kubernetes' default path of a container's termination message.
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// Largest termination message that Kubernetes keeps, in bytes.
pub const TERMINATION_MESSAGE_BYTES: usize = 4096;

/// Longest name of a stage, in bytes.
pub const STAGE_BYTES: usize = 64;
/// Most diagnostics of a job.
pub const DIAGNOSTICS: usize = 8;
/// Longest text of a diagnostic, in bytes.
pub const DIAGNOSTIC_BYTES: usize = 512;

/// Why a process of a job ended, as its exit code says. 1 to 127 are permanent, 128 to 255 are worth a retry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Cause {
    /// The job is done.
    Completed,
    /// 64: the manifest asks for what can't be done.
    BadSpec,
    /// 65: the data is there and can't be used.
    BadData,
    /// 66: the data, a model or a file is not there.
    DataMissing,
    /// 69: the node's CUDA driver or the GPU's architecture does not fit the runtime. Place elsewhere.
    GpuUnsupported,
    /// 70: a defect of the trainer.
    Bug,
    /// 71: host memory ran out.
    HostMemory,
    /// 72: GPU memory ran out. The same shape will never fit.
    GpuMemory,
    /// 73: the loss or a gradient is not finite.
    NotFinite,
    /// 77: a permission is missing.
    Permission,
    /// 143: stopped by SIGTERM with a checkpoint committed. Costs no retry.
    Preempted,
    /// 160: the GPU or the node is at fault. That node is left out of the next attempt.
    NodeFault,
    /// 161: a peer was lost or a collective timed out.
    PeerLost,
    /// 162: storage or the network failed.
    Storage,
    /// Any other code from 1 to 127: permanent.
    OtherPermanent,
    /// Any other code from 128 to 255 (a signal, say): worth a retry.
    OtherRetryable,
}

impl Cause {
    /// Every cause with an exit code of its own, in the order of the codes.
    pub const CODES: [(i32, Cause); 14] = [
        (0, Cause::Completed),
        (64, Cause::BadSpec),
        (65, Cause::BadData),
        (66, Cause::DataMissing),
        (69, Cause::GpuUnsupported),
        (70, Cause::Bug),
        (71, Cause::HostMemory),
        (72, Cause::GpuMemory),
        (73, Cause::NotFinite),
        (77, Cause::Permission),
        (143, Cause::Preempted),
        (160, Cause::NodeFault),
        (161, Cause::PeerLost),
        (162, Cause::Storage),
    ];

    /// The cause that an exit code stands for; codes of a later contract map by their range.
    pub fn from_exit_code(code: i32) -> Cause {
        match Self::CODES.iter().find(|(known, _)| *known == code) {
            Some((_, cause)) => *cause,
            None if (1..128).contains(&code) => Cause::OtherPermanent,
            None => Cause::OtherRetryable,
        }
    }

    /// The exit code of this cause; a cause without a code of its own has 1 or 255.
    pub fn exit_code(self) -> i32 {
        match Self::CODES.iter().find(|(_, cause)| *cause == self) {
            Some((code, _)) => *code,
            None if self == Cause::OtherPermanent => 1,
            None => 255,
        }
    }

    /// Whether another attempt can end differently.
    pub fn is_retryable(self) -> bool {
        self == Cause::GpuUnsupported || self.exit_code() >= 128
    }

    /// Whether a restart for this cause counts against `backoffLimit`.
    pub fn costs_budget(self) -> bool {
        !matches!(self, Cause::Completed | Cause::Preempted)
    }
}

/// What a trainer pod is told to do: the whole resource, in the environment variable [`env::ASSIGNMENT`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Assignment<Spec> {
    /// [`CONTRACT_VERSION`] of the writer.
    pub contract_version: u32,
    /// Kind of the resource.
    pub kind: String,
    /// Name of the resource.
    pub name: String,
    /// Namespace of the resource; `local` for a run without a cluster.
    pub namespace: String,
    /// UID of the resource: it claims the output.
    pub uid: String,
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
    /// [`CONTRACT_VERSION`] of the writer.
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
    /// [`CONTRACT_VERSION`] of the writer.
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

/// Longest reason for a device, in bytes.
pub const DEVICE_REASON_BYTES: usize = 512;

/// What a pod of an endpoint answers to `GET /serving`. Its [`Assignment`] is of kind `ModelEndpoint`, with the number of the
/// revision as the attempt, and `spec.model.uri` set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Serving {
    /// [`CONTRACT_VERSION`] of the writer.
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
    /// Digest of the model folder's manifest: `sha256:` and 64 hexadecimal digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
}

impl Serving {
    /// The same within the bounds of a status, whoever answers. What is no digest is left out.
    pub fn bounded(mut self) -> Serving {
        self.device_reason = bounded_to(&self.device_reason, DEVICE_REASON_BYTES);
        let is_digest = |text: &String| {
            text.strip_prefix("sha256:")
                .is_some_and(|digits| digits.len() == 64 && digits.bytes().all(|byte| byte.is_ascii_hexdigit()))
        };
        self.digest = self.digest.filter(is_digest);
        self
    }
}
