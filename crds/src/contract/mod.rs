//! What the operator and the trainer share, and nothing else; what stands here stands nowhere else.
//!
//! ```text
//! mod        names: API group, labels, annotations, environment, ports, paths
//! cause      exit codes: why a process ended
//! documents  what they tell each other: assignment, termination message, progress, state of an endpoint's pod
//! ```

mod cause;
mod documents;

pub use cause::Cause;
pub use documents::{
    Assignment, DEVICE_REASON_BYTES, DIAGNOSTIC_BYTES, DIAGNOSTICS, Diagnostic, JobResult, Progress, STAGE_BYTES,
    Serving, TerminationMessage,
};

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
    /// Fingerprint of the spec that a job's pod was made for, without what may change while the job runs.
    pub const SPEC: &str = "trainyard.dev/spec";
    /// Fingerprint of where a job's pod was to go: device, runtime, image, and what it asks of its node.
    pub const PLACE: &str = "trainyard.dev/place";
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
    /// Digest that the model folder of an endpoint must have, as in its revision; any will do without it.
    pub const MODEL_DIGEST: &str = "TRAINYARD_MODEL_DIGEST";
    /// File with the bearer token that requests to an endpoint must bear; no token is asked for without it.
    pub const TOKEN_FILE: &str = "TRAINYARD_TOKEN_FILE";
    /// `1`: scoring and serving compute a network in the order of operations of training's validation, to the same bits,
    /// at a lower rate.
    pub const EXACT: &str = "TRAINYARD_EXACT";
    /// Name of the node a pod runs on, for messages.
    pub const NODE_NAME: &str = "TRAINYARD_NODE_NAME";

    /// Variables of ours that a manifest may set by `infrastructure.pod.env`; Trainyard sets the others.
    pub const SETTINGS: [&str; 4] = [STORAGE_RETRY_SECONDS, DATA_CACHE, DATA_CACHE_BYTES, EXACT];

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
/// Seconds for which a pod of an endpoint that is told to stop still takes requests in: until then, others may not know of it.
pub const SERVE_DRAIN_SECONDS: u32 = 5;
/// Seconds from SIGTERM until the launcher of a pod kills its processes, unless told otherwise.
pub const STOP_SECONDS: u64 = 30;
/// Kubernetes' default path of a container's termination message.
pub const TERMINATION_LOG: &str = "/dev/termination-log";
/// Largest termination message that Kubernetes keeps, in bytes.
pub const TERMINATION_MESSAGE_BYTES: usize = 4096;
