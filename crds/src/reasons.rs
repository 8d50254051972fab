//! Types and reasons of conditions. Reasons of failures are the names of [`Cause`](crate::contract::Cause).

/// Types of conditions.
pub mod condition {
    /// The spec can be carried out.
    pub const VALID: &str = "Valid";
    /// There can be places for the pods.
    pub const SCHEDULABLE: &str = "Schedulable";
    /// The pods work.
    pub const RUNNING: &str = "Running";
    /// There are no pods because the job is suspended.
    pub const SUSPENDED: &str = "Suspended";
    /// The job is done.
    pub const COMPLETE: &str = "Complete";
    /// The job has failed for good.
    pub const FAILED: &str = "Failed";
    /// The job makes no progress.
    pub const STALLED: &str = "Stalled";
    /// The endpoint answers.
    pub const READY: &str = "Ready";
    /// A new revision takes the place of the old one.
    pub const PROGRESSING: &str = "Progressing";
}

/// Reasons of conditions and events.
pub mod reason {
    /// The spec was accepted.
    pub const ACCEPTED: &str = "Accepted";
    /// The spec can't be carried out.
    pub const BAD_SPEC: &str = "BadSpec";
    /// The pods were created.
    pub const PODS_CREATED: &str = "PodsCreated";
    /// Pods wait for places.
    pub const WAITING_FOR_PODS: &str = "WaitingForPods";
    /// The job waits for the job whose model it needs.
    pub const WAITING_FOR_MODEL: &str = "WaitingForModel";
    /// The model that the job needs will never be there.
    pub const MODEL_MISSING: &str = "ModelMissing";
    /// The API server takes no pods for now: a quota is spent, a service account is missing, a right is, a name is taken.
    pub const PODS_REFUSED: &str = "PodsRefused";
    /// The disruption budget of a gang may not be made: a drain may take several of its pods at once.
    pub const UNPROTECTED: &str = "Unprotected";
    /// The scheduler finds no node for a pod now.
    pub const UNSCHEDULABLE: &str = "Unschedulable";
    /// Something that the spec asks for has no effect.
    pub const NO_EFFECT: &str = "NoEffect";
    /// A pod can't start.
    pub const POD_NOT_STARTING: &str = "PodNotStarting";
    /// A node was left out of the next attempts.
    pub const NODE_EXCLUDED: &str = "NodeExcluded";
    /// The job waits in its queue.
    pub const QUEUED: &str = "Queued";
    /// No node can ever give what the job needs.
    pub const NO_FITTING_NODE: &str = "NoFittingNode";
    /// GPUs were asked for if there are any, and there are.
    pub const GPU_FOUND: &str = "GpuFound";
    /// GPUs were asked for if there are any, and there are none.
    pub const NO_GPU: &str = "NoGpu";
    /// All pods work.
    pub const ALL_RUNNING: &str = "AllRunning";
    /// An attempt has ended and another one starts.
    pub const RESTARTING: &str = "Restarting";
    /// An attempt was asked to end, and saved what it had done; another one starts.
    pub const PREEMPTED: &str = "Preempted";
    /// The cluster ended an attempt; another one starts.
    pub const DISRUPTED: &str = "Disrupted";
    /// The job was suspended.
    pub const SUSPENDED: &str = "Suspended";
    /// The job goes on.
    pub const RESUMED: &str = "Resumed";
    /// The job is done.
    pub const COMPLETED: &str = "Completed";
    /// As many restarts as runPolicy.backoffLimit allows have failed.
    pub const BACKOFF_LIMIT_EXCEEDED: &str = "BackoffLimitExceeded";
    /// runPolicy.activeDeadlineSeconds has passed.
    pub const DEADLINE_EXCEEDED: &str = "DeadlineExceeded";
    /// runPolicy.stallDeadlineSeconds passed without progress.
    pub const NO_PROGRESS: &str = "NoProgress";
    /// The job makes progress.
    pub const PROGRESSING: &str = "Progressing";
    /// A new revision of an endpoint starts.
    pub const NEW_REVISION: &str = "NewRevision";
    /// Somebody has changed what an endpoint's pods are made from, and it is put right.
    pub const TEMPLATE_CHANGED: &str = "TemplateChanged";
    /// An endpoint's new revision did not get ready in time.
    pub const PROGRESS_DEADLINE_EXCEEDED: &str = "ProgressDeadlineExceeded";
    /// Enough replicas of an endpoint answer.
    pub const REPLICAS_READY: &str = "ReplicasReady";
    /// Too few replicas of an endpoint answer.
    pub const REPLICAS_UNAVAILABLE: &str = "ReplicasUnavailable";
}
