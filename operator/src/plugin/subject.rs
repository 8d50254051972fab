//! What a command was typed for: a job or an endpoint, and what is told of either in the same words.

use k8s_openapi::api::core::v1::Pod;
use kube::api::ListParams;
use serde_json::Value;

use super::access::Cluster;
use super::advice;
use super::endpoint::{self, Endpoint};
use super::error::PluginError;
use super::job::Job;
use super::member::Member;
use crate::build::endpoint::selector;

/// What was named, as it is now.
pub(crate) enum Subject {
    Job(Job),
    Endpoint(Endpoint),
}

impl Subject {
    /// The job or endpoint that `typed` names.
    pub(crate) async fn find(cluster: &Cluster, typed: &str) -> Result<Subject, PluginError> {
        match cluster.meant(typed).await? {
            Some(endpoint) => Ok(Subject::Endpoint(endpoint)),
            None => cluster.find(typed).await.map(Subject::Job),
        }
    }

    /// The newest state; `None` if it is gone.
    pub(crate) async fn again(&self, cluster: &Cluster) -> Result<Option<Subject>, PluginError> {
        Ok(match self {
            Subject::Job(job) => cluster.again(job).await?.map(Subject::Job),
            Subject::Endpoint(endpoint) => cluster.endpoint(&endpoint.name).await?.map(Subject::Endpoint),
        })
    }

    /// Its kind and name as commands take them: `tj/flowers`.
    pub(crate) fn title(&self) -> String {
        match self {
            Subject::Job(job) => job.title(),
            Subject::Endpoint(endpoint) => endpoint.title(),
        }
    }

    /// The whole object.
    pub(crate) fn value(&self) -> &Value {
        match self {
            Subject::Job(job) => &job.value,
            Subject::Endpoint(endpoint) => &endpoint.value,
        }
    }

    /// Where it stands: its phase, and the sentence that goes with it.
    pub(crate) fn standing(&self) -> String {
        match self {
            Subject::Job(job) => format!("{}: {}", job.phase(), job.status.message),
            Subject::Endpoint(endpoint) => format!("{}: {}", endpoint.phase(), endpoint.status.message),
        }
    }

    /// The same, with its name before it.
    pub(crate) fn line(&self) -> String {
        format!("{} {}", self.title(), self.standing())
    }

    /// What to do next.
    pub(crate) fn next(&self) -> String {
        match self {
            Subject::Job(job) => advice::next(job),
            Subject::Endpoint(endpoint) => endpoint::next(endpoint),
        }
    }

    /// Its pods, in the order of attempts or revisions.
    pub(crate) async fn members(&self, cluster: &Cluster) -> Result<Vec<Member>, PluginError> {
        match self {
            Subject::Job(job) => Ok(Member::all(&cluster.pods(job).await?, &job.infrastructure.gpu.resource_name)),
            Subject::Endpoint(endpoint) => {
                let labels = ListParams::default().labels(&selector(&endpoint.name));
                let pods = cluster.api::<Pod>().list(&labels).await?.items;
                let mut members: Vec<Member> =
                    pods.iter().filter_map(|pod| Member::of_endpoint(pod, &endpoint.resource)).collect();
                members.sort_by(|a, b| (a.attempt, &a.pod).cmp(&(b.attempt, &b.pod)));
                Ok(members)
            }
        }
    }
}
