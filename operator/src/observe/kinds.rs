//! What a TrainingJob or a ScoringJob wishes, seen as gangs.

use crds::infrastructure::{Device, Infrastructure};
use crds::run_policy::RunPolicy;
use crds::{ScoringJob, TrainingJob};
use kube::Resource;
use serde::Serialize;
use serde_json::json;

use super::{Backoff, Job};
use crate::build::fingerprint;

/// Fields of a spec that may change while a job runs, or can't change at all.
const NOT_FROZEN: [&str; 3] = ["runPolicy", "parallelism", "managedBy"];

/// What the place that a job runs in adds to its wishes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Whether there is another node that a restart could go to.
    pub elsewhere: bool,
    /// Waiting time before a restart.
    pub backoff: Backoff,
    /// Seconds from a graceful stop to a forced one; `None` where the platform sees to it.
    pub grace_seconds: Option<u64>,
}

impl Setting {
    /// A cluster: restarts go anywhere, and the kubelet sees to the end of a grace period.
    pub fn anywhere(backoff: Backoff) -> Setting {
        Setting { elsewhere: true, backoff, grace_seconds: None }
    }
}

impl Job {
    /// A TrainingJob: one gang of `nodes` members.
    pub fn of_training(job: &TrainingJob, setting: Setting) -> Job {
        let spec = &job.spec;
        Job {
            gangs: 1,
            gang_size: spec.infrastructure.nodes,
            output: spec.output.uri.clone(),
            ..job_of(job, spec, &spec.infrastructure, &spec.run_policy, setting)
        }
    }

    /// A ScoringJob: one gang of one member for each shard.
    pub fn of_scoring(job: &ScoringJob, setting: Setting) -> Job {
        let spec = &job.spec;
        Job {
            gangs: spec.shards,
            parallelism: spec.parallelism(),
            output: spec.output.uri.clone(),
            ..job_of(job, spec, &spec.infrastructure, &spec.run_policy, setting)
        }
    }
}

/// The fingerprint of what can't change once the job has started.
fn frozen(spec: &impl Serialize) -> u64 {
    let mut spec = json!(spec);
    if let Some(fields) = spec.as_object_mut() {
        fields.retain(|name, _| !NOT_FROZEN.contains(&name.as_str()));
    }
    fingerprint::number(&spec)
}

fn job_of<K: Resource<DynamicType = ()>>(
    resource: &K,
    spec: &impl Serialize,
    infrastructure: &Infrastructure,
    policy: &RunPolicy,
    setting: Setting,
) -> Job {
    let metadata = resource.meta();
    Job {
        kind: K::kind(&()).into_owned(),
        namespace: metadata.namespace.clone().unwrap_or_default(),
        name: metadata.name.clone().unwrap_or_default(),
        uid: metadata.uid.clone().unwrap_or_default(),
        created: metadata.creation_timestamp.as_ref().map(|time| time.0.as_second()),
        generation: metadata.generation.unwrap_or_default(),
        spec: frozen(spec),
        gangs: 1,
        gang_size: 1,
        parallelism: 1,
        is_auto: infrastructure.device == Device::Auto,
        output: String::new(),
        suspend: policy.suspend,
        elsewhere: setting.elsewhere,
        backoff_limit: policy.backoff_limit,
        exit_codes: infrastructure.image.is_some().then(|| policy.exit_codes.clone()),
        active_deadline_seconds: policy.active_deadline_seconds.map(u64::from),
        stall_deadline_seconds: Some(u64::from(policy.stall_deadline_seconds)).filter(|seconds| *seconds > 0),
        backoff: setting.backoff,
        grace_seconds: setting.grace_seconds,
    }
}
