//! An endpoint's Deployment as it is.

use k8s_openapi::api::apps::v1::Deployment;
use serde_json::json;

use super::Record;
use super::server::record_of;
use crate::build::fingerprint::fingerprint;

/// What a decision needs to know of a Deployment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rollout {
    /// Its UID.
    pub uid: String,
    /// The revision that its template makes; `None` if the template is not of our making.
    pub record: Option<Record>,
    /// Fingerprint of what the pods are made from, as the API server has it, behind the version of who has taken it: another one may
    /// know other fields. What others add to the pods' metadata is theirs.
    pub template: String,
    /// Pods that it is to have.
    pub wished: u32,
    /// Seconds within which a new revision must be ready.
    pub deadline_seconds: u32,
    /// Whether its controller has seen it as it is now: what follows is of an older version otherwise.
    pub is_seen: bool,
    /// Pods that there are, of all revisions.
    pub replicas: u32,
    /// Pods of the newest revision.
    pub updated: u32,
    /// Pods that answer, of all revisions.
    pub ready: u32,
    /// Whether the newest revision did not get ready in time.
    pub is_overdue: bool,
    /// Why pods can't be made, as the API server says: a quota, a missing account. Empty if they can.
    pub refused: String,
}

impl Rollout {
    /// The facts of a Deployment.
    pub fn of(deployment: &Deployment) -> Rollout {
        let (spec, status) =
            (deployment.spec.clone().unwrap_or_default(), deployment.status.clone().unwrap_or_default());
        let number = |number: Option<i32>| number.and_then(|number| u32::try_from(number).ok()).unwrap_or(0);
        let conditions = status.conditions.unwrap_or_default();
        let condition = |kind: &str| conditions.iter().find(|condition| condition.type_ == kind);
        let is_seen = status.observed_generation >= deployment.metadata.generation;
        let refused = condition("ReplicaFailure").filter(|condition| condition.status == "True");
        Rollout {
            uid: deployment.metadata.uid.clone().unwrap_or_default(),
            record: spec.template.metadata.as_ref().and_then(record_of),
            template: format!("{}-{}", env!("CARGO_PKG_VERSION"), fingerprint(&json!(spec.template.spec))),
            wished: number(spec.replicas.or(Some(1))),
            deadline_seconds: number(spec.progress_deadline_seconds),
            is_seen,
            replicas: number(status.replicas),
            updated: number(status.updated_replicas),
            ready: number(status.ready_replicas),
            is_overdue: is_seen
                && condition("Progressing").is_some_and(|condition| {
                    condition.status == "False" && condition.reason.as_deref() == Some("ProgressDeadlineExceeded")
                }),
            refused: refused.and_then(|condition| condition.message.clone()).unwrap_or_default(),
        }
    }

    /// Whether all pods are of the newest revision, and answer.
    pub fn is_complete(&self, wished: u32) -> bool {
        self.is_seen && [self.wished, self.replicas, self.updated, self.ready] == [wished; 4]
    }
}
