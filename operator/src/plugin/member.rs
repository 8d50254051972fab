//! A pod of a job as it is shown: where it is, how it fares, and why it doesn't run if it doesn't.

use crds::contract::{Cause, TerminationMessage, labels};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerState, Pod, PodStatus};

use crate::build::pod::{CONTAINER, member_of};

/// A pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) pod: String,
    /// What its log lines are marked by: the attempt and the number in its gang, as in `2-0`; for an endpoint the revision and
    /// the end of the pod's name, as in `2-x7k9p`.
    pub(crate) mark: String,
    /// Number of its attempt, or of its revision.
    pub(crate) attempt: u32,
    pub(crate) index: u32,
    pub(crate) node: Option<String>,
    /// How it fares, in a word or two.
    pub(crate) state: String,
    pub(crate) health: Health,
    /// Why it doesn't run, or how it ended.
    pub(crate) why: String,
    /// When its container started.
    pub(crate) started: Option<Timestamp>,
    /// When its container ended.
    pub(crate) ended: Option<Timestamp>,
    /// GPUs that it asks for.
    pub(crate) gpus: u32,
}

/// Whether a pod needs a look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Health {
    /// It works.
    Running,
    /// It has done its work.
    Done,
    /// It is on its way up or down.
    #[default]
    Waiting,
    /// It ended badly.
    Failed,
}

impl Member {
    /// The pod as it is shown; `None` if its labels don't say which member it is. `resource` is the name of its GPUs.
    pub(crate) fn of(pod: &Pod, resource: &str) -> Option<Member> {
        let id = member_of(pod.metadata.labels.as_ref()?)?;
        Some(Member {
            index: id.index,
            mark: format!("{}-{}", id.attempt, id.index),
            ..Member::seen(pod, id.attempt, resource)?
        })
    }

    /// A pod of an endpoint; `None` if its labels don't say which revision it is of. `resource` is the name of its GPUs.
    pub(crate) fn of_endpoint(pod: &Pod, resource: &str) -> Option<Member> {
        let revision = pod.metadata.labels.as_ref()?.get(labels::ATTEMPT)?.parse().ok()?;
        let member = Member::seen(pod, revision, resource)?;
        let end = member.pod.rsplit('-').next().unwrap_or_default();
        Some(Member { mark: format!("{revision}-{end}"), ..member })
    }

    fn seen(pod: &Pod, attempt: u32, resource: &str) -> Option<Member> {
        let nothing = PodStatus::default();
        let status = pod.status.as_ref().unwrap_or(&nothing);
        let container = status.container_statuses.iter().flatten().find(|one| one.name == CONTAINER);
        let state = container.and_then(|one| one.state.clone()).unwrap_or_default();
        let (word, health, why) = fare(pod.metadata.deletion_timestamp.is_some(), status, &state);
        let running = state.running.as_ref().and_then(|running| running.started_at.as_ref());
        let terminated = state.terminated.as_ref();
        let limits = pod.spec.iter().flat_map(|spec| &spec.containers).filter(|one| one.name == CONTAINER);
        let limits = limits.filter_map(|one| one.resources.as_ref()?.limits.as_ref()?.get(resource));
        Some(Member {
            pod: pod.metadata.name.clone()?,
            attempt,
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            state: word,
            health,
            why,
            started: running.or(terminated.and_then(|end| end.started_at.as_ref())).map(|time| time.0),
            ended: terminated.and_then(|end| end.finished_at.as_ref()).map(|time| time.0),
            gpus: limits.filter_map(|count| count.0.parse::<u32>().ok()).sum(),
            ..Member::default()
        })
    }

    /// Those of a job's pods that are members, in the order of attempts.
    pub(crate) fn all(pods: &[Pod], resource: &str) -> Vec<Member> {
        let mut members: Vec<Member> = pods.iter().filter_map(|pod| Member::of(pod, resource)).collect();
        members.sort_by_key(|member| (member.attempt, member.index));
        members
    }

    /// Whether nothing more comes from it.
    pub(crate) fn has_ended(&self) -> bool {
        matches!(self.health, Health::Done | Health::Failed)
    }
}

/// How a pod fares: a word, whether that is well, and why.
fn fare(is_deleted: bool, status: &PodStatus, state: &ContainerState) -> (String, Health, String) {
    if let Some(end) = &state.terminated {
        let said = end.message.as_deref().and_then(|text| serde_json::from_str::<TerminationMessage>(text).ok());
        let cause = said.as_ref().map_or_else(|| Cause::from_exit_code(end.exit_code), |said| said.cause);
        let (word, health) = match end.exit_code {
            0 => ("Completed".to_owned(), Health::Done),
            // What such a code comes to is the job's to say.
            code if said.is_none() && matches!(cause, Cause::OtherPermanent | Cause::OtherRetryable) => {
                (format!("Exit code {code}"), Health::Failed)
            }
            code => (format!("{cause:?} ({code})"), Health::Failed),
        };
        let why = match (said, end.reason.as_deref()) {
            (Some(said), _) if end.exit_code != 0 => said.message,
            (None, Some("OOMKilled")) => "the kernel killed it for memory".to_owned(),
            _ => String::new(),
        };
        return (word, health, why);
    }
    let message = status.message.clone().unwrap_or_default();
    match status.phase.as_deref() {
        Some("Failed") => {
            return (status.reason.clone().unwrap_or_else(|| "Failed".to_owned()), Health::Failed, message);
        }
        Some("Succeeded") => return ("Completed".to_owned(), Health::Done, message),
        _ => {}
    }
    if is_deleted {
        return ("Stopping".to_owned(), Health::Waiting, String::new());
    }
    if let Some(waiting) = &state.waiting {
        let reason = waiting.reason.clone().unwrap_or_else(|| "Waiting".to_owned());
        return (reason, Health::Waiting, waiting.message.clone().unwrap_or_default());
    }
    if status.phase.as_deref() == Some("Running") {
        return ("Running".to_owned(), Health::Running, String::new());
    }
    let mut conditions = status.conditions.iter().flatten();
    let refused = conditions.find(|one| one.type_ == "PodScheduled" && one.status == "False");
    let why = refused.and_then(|one| one.message.clone()).unwrap_or(message);
    ("Pending".to_owned(), Health::Waiting, why)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn member(status: &Value) -> Member {
        let labels = json!({"trainyard.dev/attempt": "2", "trainyard.dev/member": "1"});
        let limits = json!({"nvidia.com/gpu": "8", "memory": "1Gi"});
        let pod = json!({
            "metadata": {"name": "a-t2-1", "labels": labels},
            "spec": {"nodeName": "n1", "containers": [{"name": CONTAINER, "resources": {"limits": limits}}]},
            "status": status,
        });
        Member::of(&serde_json::from_value(pod).expect("a pod"), "nvidia.com/gpu").expect("a member")
    }

    fn container(state: &Value) -> Value {
        json!({"phase": "Running", "containerStatuses": [
            {"name": CONTAINER, "image": "", "imageID": "", "ready": true, "restartCount": 0, "state": state}]})
    }

    #[test]
    fn a_pod_says_how_it_fares_and_why() {
        let said = json!({"contractVersion": 1, "cause": "Storage", "message": "no answer"}).to_string();
        let refused = json!([{"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available"}]);
        for (status, state, health, why) in [
            (container(&json!({"running": {}})), "Running", Health::Running, ""),
            (container(&json!({"terminated": {"exitCode": 0}})), "Completed", Health::Done, ""),
            (
                container(&json!({"terminated": {"exitCode": 162, "message": said}})),
                "Storage (162)",
                Health::Failed,
                "no answer",
            ),
            (
                container(&json!({"terminated": {"exitCode": 137, "reason": "OOMKilled"}})),
                "Exit code 137",
                Health::Failed,
                "the kernel killed it for memory",
            ),
            (container(&json!({"terminated": {"exitCode": 1}})), "Exit code 1", Health::Failed, ""),
            (
                container(&json!({"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}})),
                "ImagePullBackOff",
                Health::Waiting,
                "no such image",
            ),
            (json!({"phase": "Pending", "conditions": refused}), "Pending", Health::Waiting, "0/3 nodes are available"),
            (
                json!({"phase": "Failed", "reason": "Evicted", "message": "no disk"}),
                "Evicted",
                Health::Failed,
                "no disk",
            ),
        ] {
            let member = member(&status);
            assert_eq!((member.state.as_str(), member.health, member.why.as_str()), (state, health, why));
        }
    }

    #[test]
    fn a_pod_is_a_member_of_an_attempt_on_a_node_with_gpus() {
        let member = member(&json!({}));
        assert_eq!((member.mark.as_str(), member.node.as_deref(), member.gpus), ("2-1", Some("n1"), 8));
    }
}
