//! Jobs of the peers in numbers, of the same pods as the operator's.

use std::error::Error;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use kube::api::{ApiResource, DeleteParams, DynamicObject, ListParams};
use kube::core::GroupVersionKind;
use kube::runtime::wait::await_condition;
use kube::{Api, Client};
use serde_json::{Value, json};
use tests::cluster::Namespace;

use crate::load::{Load, Shape, create_all, delete_all, fail, pattern};

pub(crate) const JOB_SET: (&str, &str, &str) = ("jobset.x-k8s.io", "v1alpha2", "JobSet");
const TRAIN_JOB: (&str, &str, &str) = ("trainer.kubeflow.org", "v1alpha1", "TrainJob");
const RUNTIME: (&str, &str, &str) = ("trainer.kubeflow.org", "v1alpha1", "TrainingRuntime");
/// The label with the number of restarts before a JobSet's pod.
const ATTEMPT: &str = "jobset.sigs.k8s.io/restart-attempt";

impl Load<'_> {
    /// Seconds for JobSets of one Indexed Job.
    pub(crate) async fn jobsets(&self, shape: Shape) -> Result<f64, Box<dyn Error>> {
        let namespace = self.cluster.namespace("jobset").await;
        let pod = json!(pattern(&namespace).await?.spec);
        let create = create_all(api(namespace.client(), namespace.name(), JOB_SET), shape.jobs, |index| {
            jobset(index, shape.pods, &pod)
        });
        let seconds = self.time(&namespace, shape, create).await?;
        self.clear_peers(&namespace).await?;
        Ok(seconds)
    }

    /// Seconds for TrainJobs of a runtime for PyTorch.
    pub(crate) async fn trainjobs(&self, shape: Shape) -> Result<f64, Box<dyn Error>> {
        let namespace = self.cluster.namespace("trainjob").await;
        let mut pod = json!(pattern(&namespace).await?.spec);
        // The container into which Kubeflow Trainer writes the environment.
        pod["containers"][0]["name"] = json!("node");
        let runtime = json!({
            "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainingRuntime", "metadata": {"name": "torch"},
            "spec": {
                "mlPolicy": {"numNodes": 1, "torch": {"numProcPerNode": "auto"}},
                "template": {"spec": {"replicatedJobs": [{
                    "name": "node",
                    "template": {
                        "metadata": {"labels": {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}},
                        "spec": {"template": {"spec": pod}},
                    },
                }]}},
            },
        });
        create_all(api(namespace.client(), namespace.name(), RUNTIME), 1, |_| runtime.clone()).await?;
        let create = create_all(api(namespace.client(), namespace.name(), TRAIN_JOB), shape.jobs, |index| {
            json!({
                "apiVersion": "trainer.kubeflow.org/v1alpha1", "kind": "TrainJob",
                "metadata": {"name": format!("j-{index}")},
                "spec": {
                    "runtimeRef": {"kind": "TrainingRuntime", "name": "torch"},
                    "trainer": {"numNodes": shape.pods},
                },
            })
        });
        let seconds = self.time(&namespace, shape, create).await?;
        self.clear_peers(&namespace).await?;
        Ok(seconds)
    }

    /// As [`Load::restarts`], of a JobSet.
    pub(crate) async fn jobset_restarts(
        &self,
        pods: u32,
        times: u32,
        mut told: impl FnMut(f64),
    ) -> Result<(), Box<dyn Error>> {
        let namespace = self.cluster.namespace("jobset-gang").await;
        let mut pod = pattern(&namespace).await?.spec.unwrap_or_default();
        (pod.scheduler_name, pod.node_selector) = (None, Some(namespace.selector()));
        namespace.nodes(&["cpu", "cpu", "cpu"]).await;
        let sets = api(namespace.client(), namespace.name(), JOB_SET);
        create_all(sets.clone(), 1, |index| jobset(index, pods, &json!(pod))).await?;
        for attempt in 0..times {
            let running = |set: Option<&DynamicObject>| {
                let status = |path| set.and_then(|set| set.data.pointer(path)).and_then(Value::as_u64);
                status("/status/restarts").unwrap_or(0) == u64::from(attempt)
                    && status("/status/replicatedJobsStatus/0/ready") == Some(1)
            };
            let patience = Duration::from_secs(120);
            tokio::time::timeout(patience, await_condition(sets.clone(), "j-0", running)).await??;
            let seventh = format!("{ATTEMPT}={attempt},batch.kubernetes.io/job-completion-index=7");
            let found = namespace.api::<Pod>().list_metadata(&ListParams::default().labels(&seventh)).await?;
            let name = found.items.into_iter().next().and_then(|pod| pod.metadata.name).ok_or("no seventh pod")?;
            told(fail(&namespace, &name, &format!("{ATTEMPT}={}", attempt + 1), pods).await?);
        }
        self.clear_peers(&namespace).await
    }

    /// Clears the peers' jobs away, as long as their managers run, and then the rest.
    async fn clear_peers(&self, namespace: &Namespace<'_>) -> Result<(), Box<dyn Error>> {
        for kind in [TRAIN_JOB, RUNTIME, JOB_SET] {
            delete_all(&api(namespace.client(), namespace.name(), kind), &DeleteParams::background()).await?;
        }
        self.clear(namespace).await
    }
}

pub(crate) fn api(client: Client, namespace: &str, (group, version, kind): (&str, &str, &str)) -> Api<DynamicObject> {
    let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind));
    Api::namespaced_with(client, namespace, &resource)
}

pub(crate) fn jobset(index: u32, pods: u32, pod: &Value) -> Value {
    json!({
        "apiVersion": "jobset.x-k8s.io/v1alpha2", "kind": "JobSet", "metadata": {"name": format!("j-{index}")},
        "spec": {
            "failurePolicy": {"maxRestarts": 1000},
            "replicatedJobs": [{
                "name": "node", "replicas": 1,
                "template": {"spec": {
                    "completions": pods, "parallelism": pods, "backoffLimit": 0, "template": {"spec": pod},
                }},
            }],
        },
    })
}
