//! Names of what the operator makes for a job. They follow from the job, the attempt and the member alone, so that what was
//! made before a crash is found again after it.
//!
//! A job's name has 48 characters at most, so a pod's name is a host name as well.

use crate::observe::{Job, MemberId};

/// The kind of an endpoint.
pub(crate) const ENDPOINT: &str = "ModelEndpoint";

/// The letter of a kind: a TrainingJob and a ScoringJob of one name don't meet.
fn letter(kind: &str) -> char {
    kind.chars().next().map_or('j', |first| first.to_ascii_lowercase())
}

/// Name and host name of a member's pod.
pub fn pod(job: &Job, id: MemberId) -> String {
    pod_of(&job.kind, &job.name, id)
}

/// The same by the job's kind and name.
pub fn pod_of(kind: &str, job: &str, id: MemberId) -> String {
    format!("{job}-{}{}-{}", letter(kind), id.attempt, id.index)
}

/// Name of the headless Service by which the members of a gang find each other, and of the job's disruption budget.
pub fn service(job: &Job) -> String {
    format!("{}-{}", job.name, letter(&job.kind))
}

/// Name of an endpoint's Deployment, Service, disruption budget and autoscaler.
pub fn of_endpoint(endpoint: &str) -> String {
    format!("{endpoint}-{}", letter(ENDPOINT))
}

/// Where the leader of a member's gang is found.
pub fn leader(job: &Job, id: MemberId) -> String {
    let leader = MemberId { index: job.members_of(job.gang_of(id.index)).start, ..id };
    match job.gang_size {
        1 => "127.0.0.1".to_owned(),
        _ => format!("{}.{}.{}.svc", pod(job, leader), service(job), job.namespace),
    }
}
