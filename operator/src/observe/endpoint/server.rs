//! A pod of an endpoint as it is: whether it answers, and if not, why.

use crds::contract::{TerminationMessage, annotations, labels};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod};
use kube::core::ObjectMeta;

use super::Record;
use crate::build::pod::CONTAINER;
use crate::observe::End;

/// Reasons for which a container waits in the course of things.
const ROUTINE: [&str; 3] = ["ContainerCreating", "PodInitializing", ""];

/// One pod of an endpoint.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Server {
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: String,
    /// Number of its revision.
    pub revision: u32,
    /// Its revision.
    pub record: Option<Record>,
    /// Whether it answers. One that is being deleted does not count.
    pub is_ready: bool,
    /// Whether it is being deleted.
    pub is_going: bool,
    /// Its address, once it has one.
    pub address: Option<String>,
    /// Why it does not answer: a sentence, or empty where there is nothing to say.
    pub why: String,
}

/// The revision that the metadata of a pod, or of a template, tells of.
pub(super) fn record_of(metadata: &ObjectMeta) -> Option<Record> {
    serde_json::from_str(metadata.annotations.as_ref()?.get(annotations::REVISION)?).ok()
}

impl Server {
    /// The facts of a pod; `None` if it is none of an endpoint's.
    pub fn of(pod: &Pod) -> Option<Server> {
        let revision = pod.metadata.labels.as_ref()?.get(labels::ATTEMPT)?.parse().ok()?;
        let status = pod.status.clone().unwrap_or_default();
        let is_going = pod.metadata.deletion_timestamp.is_some();
        let condition = |kind: &str, holds: &str| {
            let mut conditions = status.conditions.iter().flatten();
            conditions.find(|condition| condition.type_ == kind && condition.status == holds)
        };
        let is_ready = !is_going && condition("Ready", "True").is_some();
        let container = status.container_statuses.iter().flatten().find(|container| container.name == CONTAINER);
        let unplaced = condition("PodScheduled", "False").map(|condition| {
            let said = condition.message.clone().or_else(|| condition.reason.clone()).unwrap_or_default();
            format!("no node has a place for it: {said}")
        });
        let why = match is_ready {
            true => String::new(),
            false => unplaced.or_else(|| container.map(trouble)).unwrap_or_default(),
        };
        Some(Server {
            name: pod.metadata.name.clone()?,
            uid: pod.metadata.uid.clone()?,
            revision,
            record: record_of(&pod.metadata),
            is_ready,
            is_going,
            address: status.pod_ip.clone(),
            why,
        })
    }
}

/// Why a container does not answer, as far as the kubelet or the server itself has said so.
fn trouble(container: &ContainerStatus) -> String {
    let state = container.state.clone().unwrap_or_default();
    let last = container.last_state.as_ref().and_then(|state| state.terminated.as_ref());
    if let Some(ended) = state.terminated.as_ref().or(last.filter(|_| state.running.is_none())) {
        return ended_by(ended);
    }
    let Some(waiting) = state.waiting else { return String::new() };
    let (reason, said) = (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default());
    match (ROUTINE.contains(&reason.as_str()), said.as_str()) {
        (true, _) => String::new(),
        (false, "") => reason,
        (false, said) => format!("{reason}: {said}"),
    }
}

/// What a server that ended has said, or what its exit code says.
fn ended_by(ended: &ContainerStateTerminated) -> String {
    let text = ended.message.as_deref().unwrap_or_default();
    let said: Option<TerminationMessage> = serde_json::from_str(text).ok();
    let end = End::from_exit(ended.exit_code, said, Timestamp::UNIX_EPOCH);
    let what = match ended.reason.as_deref() {
        Some("OOMKilled") => "it took more memory than its limit allows".to_owned(),
        _ => end.message.trim_end_matches('.').to_owned(),
    };
    match end.hint.as_str() {
        "" => format!("its server ended ({:?}): {what}", end.cause),
        hint => format!("its server ended ({:?}): {what}. {}", end.cause, hint.trim_end_matches('.')),
    }
}
