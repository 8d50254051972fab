//! The life of pods, told by the test in place of a kubelet: KWOK lets a pod run as soon as it is on a node, and the test
//! says how it ends.

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::Api;
use kube::api::{DeleteParams, EvictParams, Patch, PatchParams};
use serde_json::{Value, json};

use super::Namespace;

/// The pods of a namespace. As [`Namespace`], its methods panic where the control plane refuses.
pub struct Pods<'a> {
    namespace: &'a Namespace<'a>,
    api: Api<Pod>,
}

impl<'a> Pods<'a> {
    pub(super) fn new(namespace: &'a Namespace<'a>) -> Pods<'a> {
        Pods { namespace, api: namespace.api() }
    }

    /// Waits until a pod runs: it has been placed, and KWOK has started it.
    pub async fn running(&self, name: &str) -> Pod {
        self.phase(name, "Running").await
    }

    /// Waits until a pod has a phase.
    pub async fn phase(&self, name: &str, phase: &'static str) -> Pod {
        let has = move |pod: Option<&Pod>| pod.and_then(|pod| pod.status.as_ref()?.phase.as_deref()) == Some(phase);
        let pod = self.namespace.wait(name, has).await;
        pod.unwrap_or_else(|| panic!("pod {name} went while it was waited for"))
    }

    /// Waits until the scheduler has said that a pod fits nowhere, and returns its reasons.
    pub async fn unschedulable(&self, name: &str) -> String {
        fn message(pod: &Pod) -> Option<String> {
            let mut conditions = pod.status.as_ref()?.conditions.iter().flatten();
            let refused = conditions.find(|condition| condition.reason.as_deref() == Some("Unschedulable"))?;
            refused.message.clone()
        }
        let pod = self.namespace.wait(name, |pod: Option<&Pod>| pod.and_then(message).is_some()).await;
        pod.as_ref().and_then(message).unwrap_or_default()
    }

    /// Waits until a pod is gone.
    pub async fn gone(&self, name: &str) {
        self.namespace.wait(name, |pod: Option<&Pod>| pod.is_none()).await;
    }

    /// Lets a running pod's containers end with an exit code and a termination message.
    pub async fn finish(&self, name: &str, exit_code: i32, message: &str) {
        let reason = if exit_code == 0 { "Completed" } else { "Error" };
        self.fail_with(name, reason, exit_code, message).await;
    }

    /// Lets a running pod's containers be killed for memory.
    pub async fn out_of_memory(&self, name: &str) {
        self.fail_with(name, "OOMKilled", 137, "").await;
    }

    /// Lets a running pod's containers end with a reason of the container runtime's, an exit code and a termination
    /// message.
    pub async fn fail_with(&self, name: &str, reason: &str, exit_code: i32, message: &str) {
        let pod = self.running(name).await;
        let now = Timestamp::now();
        let containers = pod.spec.map(|spec| spec.containers).unwrap_or_default();
        let statuses: Vec<_> = containers
            .into_iter()
            .map(|container| {
                let terminated = json!({
                    "exitCode": exit_code, "reason": reason, "message": message, "startedAt": now, "finishedAt": now,
                });
                json!({
                    "name": container.name, "image": container.image, "imageID": "", "restartCount": 0, "ready": false,
                    "started": false, "state": {"terminated": terminated, "running": null},
                })
            })
            .collect();
        let reason = if exit_code == 0 { "PodCompleted" } else { "PodFailed" };
        let condition =
            |kind: &str| json!({"type": kind, "status": "False", "reason": reason, "lastTransitionTime": now});
        let status = json!({
            "phase": if exit_code == 0 { "Succeeded" } else { "Failed" },
            "conditions": [condition("Ready"), condition("ContainersReady")],
            "containerStatuses": statuses,
        });
        self.patch_status(name, status).await;
    }

    /// Fails a pod as a kubelet does that is short of something: no container says how it ended.
    pub async fn evicted_by_kubelet(&self, name: &str, message: &str) {
        let status = json!({
            "phase": "Failed",
            "reason": "Evicted",
            "message": message,
            "conditions": [{
                "type": "DisruptionTarget", "status": "True", "reason": "TerminationByKubelet", "message": message,
                "lastTransitionTime": Timestamp::now(),
            }],
        });
        self.patch_status(name, status).await;
    }

    /// Lets a running pod be stopped as for another one of a higher priority: it is marked, and its process ends as asked, with
    /// this termination message.
    pub async fn preempted(&self, name: &str, message: &str) {
        self.running(name).await;
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler",
            "lastTransitionTime": Timestamp::now(),
        });
        self.patch_status(name, json!({"conditions": [condition]})).await;
        self.finish(name, 143, message).await;
    }

    /// Evicts a pod through the API, as a drained node does: it is marked, and deleted.
    pub async fn evict(&self, name: &str) {
        let evicted = self.api.evict(name, &EvictParams::default()).await;
        evicted.unwrap_or_else(|fault| panic!("can't evict {name}: {fault}"));
    }

    /// Deletes a pod.
    pub async fn delete(&self, name: &str) {
        let deleted = self.api.delete(name, &DeleteParams::default()).await;
        deleted.map(drop).unwrap_or_else(|fault| panic!("can't delete {name}: {fault}"));
    }

    /// Merges into a pod's status what only a kubelet knows. Lists are merged by their keys.
    pub async fn patch_status(&self, name: &str, status: Value) {
        let patch = Patch::Strategic(json!({"status": status}));
        let patched = self.api.patch_status(name, &PatchParams::default(), &patch).await;
        patched.map(drop).unwrap_or_else(|fault| panic!("can't patch the status of {name}: {fault}"));
    }
}
