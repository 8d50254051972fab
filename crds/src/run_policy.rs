//! How long, how often and when a job runs; and in which queue. The words are those of batch/v1 Job where it has them.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How long, how often and when a job runs. All of it can be changed at any time.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RunPolicy {
    /// True: no pods. Those that run commit a checkpoint and end; set to false, the job goes on from there.
    pub suspend: bool,
    /// Restarts after which the job fails, of a ScoringJob those of any one shard. Ends that the cluster brought about don't
    /// count: eviction, preemption, a node that was removed. Nor does it when pods gave up since others of the job had found no node.
    #[schemars(range(min = 0, max = 1000))]
    pub backoff_limit: u32,
    /// What exit codes of a custom image come to. One that is not named: 1 to 63 are tried again, and so are 128 to 255; the
    /// others end the job. What a process says by Trainyard's contract, or the driver of its GPU, goes before that.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schemars(
        length(max = 64),
        extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["code"])
    )]
    pub exit_codes: Vec<ExitCode>,
    /// Seconds that the job may take, waiting for a place and restarts included and suspensions not. If absent: no limit.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 2_147_483_647))]
    pub active_deadline_seconds: Option<u32>,
    /// Seconds after its end at which the job and its pods are deleted; the model stays. If absent: never. A TrainingJob whose
    /// model something waits for stays for half a minute at least.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub ttl_seconds_after_finished: Option<u32>,
    /// Seconds without progress after which the attempt is ended and another one starts, each shard by its own progress. 0: never.
    /// Custom images that don't tell their progress have no such deadline.
    #[schemars(range(min = 0, max = 2_147_483_647))]
    pub stall_deadline_seconds: u32,
}

impl Default for RunPolicy {
    fn default() -> Self {
        RunPolicy {
            suspend: false,
            backoff_limit: 6,
            exit_codes: Vec::new(),
            active_deadline_seconds: None,
            ttl_seconds_after_finished: None,
            stall_deadline_seconds: 1800,
        }
    }
}

/// What an exit code of a custom image comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ExitCode {
    /// The code, which stands in the list once. 137 is a process that was killed, 143 one that was stopped.
    #[schemars(range(min = 1, max = 255))]
    pub code: i32,
    /// What is done when the process that failed first ended with it.
    pub action: ExitAction,
}

/// What is done about an exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum ExitAction {
    /// The job fails at once.
    Fail,
    /// Another attempt, which counts against backoffLimit, unless other pods of the job had found no node yet.
    Restart,
    /// The same, and for an hour on another node.
    RestartElsewhere,
    /// Another attempt that doesn't count. One that ended soon is waited for, longer each time.
    Ignore,
}

/// How the pods get their places.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct Scheduling {
    /// Name of a Kueue LocalQueue in this namespace. If absent: no queue.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "crate::schema::resource_name")]
    pub queue_name: Option<String>,
    /// What starts the pods all together or not at all. In this version nothing can: Auto is as None, and the others are refused.
    pub gang: Gang,
}

/// What starts pods all together or not at all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Gang {
    /// What the cluster has. In this version that is None, whatever it has.
    #[default]
    Auto,
    /// Kubernetes' own PodGroup of scheduling.k8s.io.
    Native,
    /// Volcano's PodGroup.
    Volcano,
    /// The coscheduling plug-in's PodGroup.
    Coscheduling,
    /// Nothing: each pod starts when it can, and the job waits for the last one, which costs it no restart.
    None,
}
