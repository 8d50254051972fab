//! A namespace with an operator that works in it, and jobs in a few words.

use std::collections::BTreeSet;
use std::time::Duration;

use crds::status::{JobStatus, ModelEndpointStatus, ModelStatus, Phase};
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use http::Request;
use k8s_openapi::api::core::v1::{Event, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::client::Body;
use kube::core::Status;
use kube::{Api, Client};
use operator::cluster::{self, Settings};
use operator::observe::Backoff;
use operator::placement::Catalogue;
use serde_json::{Value, json};
use tests::cluster::{Cluster, Namespace, OWNER_LABEL};
use tokio::task::JoinHandle;

use crate::wire::{self, Fate};

/// A namespace with an operator.
pub(crate) struct Yard {
    pub(crate) namespace: Namespace<'static>,
    operator: Option<JoinHandle<()>>,
}

impl Yard {
    /// A fresh one, with these nodes.
    pub(crate) async fn new(name: &str, nodes: &[&str]) -> Yard {
        let mut yard = Yard::idle(name, nodes).await;
        yard.start_operator();
        yard
    }

    /// One whose operator is yet to be started.
    pub(crate) async fn idle(name: &str, nodes: &[&str]) -> Yard {
        let cluster = Cluster::shared().await;
        cluster.definitions().await;
        let namespace = cluster.namespace(name).await;
        namespace.nodes(nodes).await;
        Yard { namespace, operator: None }
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            namespace: Some(self.namespace.name().to_owned()),
            reads_nodes: true,
            autoscaled: false,
            catalogue: Catalogue::built_in(),
            backoff: Backoff { first_seconds: 1, most_seconds: 2 },
            poll_every: Duration::from_secs(1),
            leadership: None,
            listen: ([127, 0, 0, 1], 0).into(),
        }
    }

    pub(crate) fn start_operator(&mut self) {
        self.start_operator_with(self.namespace.client());
    }

    /// Starts the operator with requests that meet the fate that `fate` gives them.
    pub(crate) fn start_operator_through(&mut self, fate: impl Fn(&Request<Body>) -> Fate + Send + 'static) {
        self.start_operator_with(wire::client(self.namespace.client(), fate));
    }

    /// Starts the operator with a client of the test's own.
    pub(crate) fn start_operator_with(&mut self, client: Client) {
        self.start(client, self.settings());
    }

    /// Starts the operator with settings of the test's own.
    pub(crate) fn start_operator_by(&mut self, settings: Settings) {
        self.start(self.namespace.client(), settings);
    }

    fn start(&mut self, client: Client, settings: Settings) {
        let run = cluster::run(client, settings, Box::pin(std::future::pending()));
        self.operator = Some(tokio::spawn(async move {
            let end = run.await;
            panic!("the operator ended: {end:?}");
        }));
    }

    /// Hands the running operator over: who takes it sees to its end.
    pub(crate) fn take_operator(&mut self) -> JoinHandle<()> {
        self.operator.take().expect("an operator")
    }

    /// Kills the operator in the middle of whatever it does.
    pub(crate) async fn kill_operator(&mut self) {
        if let Some(operator) = self.operator.take() {
            operator.abort();
            let end = operator.await;
            assert!(end.is_err_and(|end| end.is_cancelled()), "the operator had ended before");
        }
    }

    /// A TrainingJob on this test's nodes: `change` is merged into its spec.
    pub(crate) async fn train(&self, name: &str, change: Value) -> TrainingJob {
        let mut spec = json!({
            "data": {"uri": "file:///data/images"},
            "infrastructure": {"device": "Cpu", "pod": {"nodeSelector": self.namespace.selector()}},
            "output": {"uri": "file:///data/a"},
        });
        merge(&mut spec, change);
        let job = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name}, "spec": spec,
        });
        self.namespace.create(job).await
    }

    /// A ScoringJob on this test's nodes.
    pub(crate) async fn score(&self, name: &str, change: Value) -> ScoringJob {
        let mut spec = json!({
            "model": {"uri": "file:///data/a"},
            "data": {"uri": "file:///data/images"},
            "infrastructure": {"device": "Cpu", "pod": {"nodeSelector": self.namespace.selector()}},
            "output": {"uri": "file:///data/scores"},
        });
        merge(&mut spec, change);
        let job = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "ScoringJob", "metadata": {"name": name}, "spec": spec,
        });
        self.namespace.create(job).await
    }

    /// A ModelEndpoint on this test's nodes.
    pub(crate) async fn serve(&self, name: &str, change: Value) -> ModelEndpoint {
        let mut spec = json!({
            "model": {"uri": "file:///data/model"},
            "infrastructure": {"device": "Cpu", "pod": {"nodeSelector": self.namespace.selector()}},
        });
        merge(&mut spec, change);
        let endpoint = json!({
            "apiVersion": "trainyard.dev/v1alpha1", "kind": "ModelEndpoint", "metadata": {"name": name}, "spec": spec,
        });
        self.namespace.create(endpoint).await
    }

    /// Waits until a ModelEndpoint's status is as wished.
    pub(crate) async fn endpoint_until(
        &self,
        name: &str,
        holds: impl Fn(&ModelEndpointStatus) -> bool + Send,
    ) -> ModelEndpointStatus {
        let condition =
            move |endpoint: Option<&ModelEndpoint>| endpoint.and_then(|it| it.status.as_ref()).is_some_and(&holds);
        let endpoint = self.namespace.wait(name, condition).await;
        endpoint.and_then(|endpoint| endpoint.status).unwrap_or_else(|| panic!("{name} went while it was waited for"))
    }

    /// A claim with a volume of its own.
    pub(crate) async fn claim(&self, name: &str) {
        let spec = json!({
            "accessModes": ["ReadWriteMany"], "storageClassName": "", "resources": {"requests": {"storage": "1Gi"}},
            "volumeName": format!("{}-{name}", self.namespace.name()),
        });
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec,
        });
        let claim: PersistentVolumeClaim = self.namespace.create(claim).await;
        let reference = json!({
            "namespace": self.namespace.name(), "name": name, "uid": claim.metadata.uid,
        });
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": spec["volumeName"]},
            "spec": {
                "accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"}, "storageClassName": "",
                "hostPath": {"path": "/tmp"}, "claimRef": reference,
            },
        });
        let volume: PersistentVolume = serde_json::from_value(volume).expect("a volume");
        let volumes = Api::<PersistentVolume>::all(self.namespace.client());
        volumes.create(&PostParams::default(), &volume).await.expect("a new volume");
    }

    /// Waits until a TrainingJob's status is as wished.
    pub(crate) async fn until(&self, name: &str, holds: impl Fn(&JobStatus) -> bool + Send) -> JobStatus {
        let condition =
            move |job: Option<&TrainingJob>| job.and_then(|job| job.status.as_ref()).is_some_and(|s| holds(&s.job));
        let job = self.namespace.wait(name, condition).await;
        job.and_then(|job| job.status).unwrap_or_else(|| panic!("{name} went while it was waited for")).job
    }

    pub(crate) async fn phase(&self, name: &str, phase: Phase) -> JobStatus {
        self.until(name, move |status| status.phase == phase).await
    }

    /// The model that a TrainingJob's status names.
    pub(crate) async fn model(&self, name: &str) -> Option<ModelStatus> {
        let job: TrainingJob = self.namespace.api().get(name).await.expect("a job");
        job.status?.model
    }

    pub(crate) async fn change<K>(&self, name: &str, spec: Value)
    where
        K: kube::Resource<Scope = k8s_openapi::NamespaceResourceScope, DynamicType = ()>
            + Clone
            + std::fmt::Debug
            + serde::de::DeserializeOwned,
    {
        let patch = Patch::Merge(json!({"spec": spec}));
        self.namespace.api::<K>().patch(name, &PatchParams::default(), &patch).await.expect("a change");
    }

    /// Suspends a TrainingJob or lets it go on, and waits until the operator has said that it knows.
    pub(crate) async fn suspend(&self, name: &str, suspend: bool) {
        self.change_policy(name, json!({"suspend": suspend})).await;
    }

    /// Changes the run policy of a TrainingJob, and waits until the operator has said that it knows.
    pub(crate) async fn change_policy(&self, name: &str, change: Value) {
        self.change::<TrainingJob>(name, json!({"runPolicy": change})).await;
        let job: TrainingJob = self.namespace.api().get(name).await.expect("a job");
        let generation = job.metadata.generation.unwrap_or_default();
        self.until(name, move |status| status.observed_generation >= generation).await;
    }

    /// Puts a pod that no scheduler takes on a node of this test's.
    pub(crate) async fn place(&self, pod: &str) {
        self.namespace.wait(pod, |pod: Option<&Pod>| pod.is_some()).await;
        let own = ListParams::default().labels(&format!("{OWNER_LABEL}={}", self.namespace.name()));
        let nodes = Api::<Node>::all(self.namespace.client()).list(&own).await.expect("a list of nodes");
        let node = nodes.items.into_iter().find_map(|node| node.metadata.name).expect("a node");
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let pods = self.namespace.api::<Pod>();
        let bound: Result<Status, _> = pods.create_subresource("binding", pod, &PostParams::default(), &binding).await;
        bound.expect("a binding");
    }

    /// Keeps a pod from going when it is stopped, until it is let go.
    pub(crate) async fn hold(&self, pod: &str) {
        self.hold_by(pod, json!(["example.org/held"])).await;
    }

    pub(crate) async fn let_go(&self, pod: &str) {
        self.hold_by(pod, Value::Null).await;
    }

    async fn hold_by(&self, pod: &str, finalizers: Value) {
        let patch = Patch::Merge(json!({"metadata": {"finalizers": finalizers}}));
        self.namespace.api::<Pod>().patch(pod, &PatchParams::default(), &patch).await.expect("a pod");
    }

    /// Waits until a pod is being stopped.
    pub(crate) async fn stopping(&self, pod: &str) {
        let stops = |pod: Option<&Pod>| pod.is_some_and(|pod| pod.metadata.deletion_timestamp.is_some());
        self.namespace.wait(pod, stops).await;
    }

    /// Deletes a job, and waits until it is gone. Its pods go later.
    pub(crate) async fn delete(&self, name: &str) {
        let jobs = self.namespace.api::<TrainingJob>();
        jobs.delete(name, &DeleteParams::default()).await.expect("a job");
        self.namespace.wait(name, |job: Option<&TrainingJob>| job.is_none()).await;
    }

    /// Waits for what takes longer than the patience of a single wait.
    pub(crate) async fn patiently(&self, holds: impl AsyncFn() -> bool) {
        for _ in 0..700 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(300)).await;
        }
        panic!("in 210 s it did not come about");
    }

    /// Whether there is a pod of this name that this very job owns.
    pub(crate) async fn is_owned_by(&self, pod: &str, job: &TrainingJob) -> bool {
        let pod: Option<Pod> = self.namespace.api().get_opt(pod).await.expect("an answer");
        let owners = pod.and_then(|pod| pod.metadata.owner_references).unwrap_or_default();
        owners.first().is_some_and(|owner| Some(&owner.uid) == job.metadata.uid.as_ref())
    }

    /// Names of the pods that there are.
    pub(crate) async fn pods(&self) -> BTreeSet<String> {
        let pods = self.namespace.api::<Pod>().list(&ListParams::default()).await.expect("a list of pods");
        pods.items.into_iter().filter_map(|pod| pod.metadata.name).collect()
    }

    /// Ends, and lets what was made be cleared away while other lives go on.
    pub(crate) fn leave(self) {
        tokio::task::spawn_blocking(move || drop(self));
    }

    /// Reasons of the events that were published.
    pub(crate) async fn events(&self) -> BTreeSet<String> {
        let events = self.namespace.api::<Event>().list(&ListParams::default()).await.expect("a list of events");
        let ours = events
            .items
            .into_iter()
            .filter(|event| event.reporting_component.as_deref() == Some("trainyard.dev/operator"));
        ours.filter_map(|event| event.reason).collect()
    }
}

impl Drop for Yard {
    fn drop(&mut self) {
        if let Some(operator) = &self.operator {
            operator.abort();
        }
    }
}

/// What a trainer says at its end.
pub(crate) fn said(cause: &str, message: &str) -> String {
    json!({"contractVersion": 1, "cause": cause, "rank": 1, "step": 7, "message": message}).to_string()
}

/// What a trainer says that has trained a model.
pub(crate) fn trained() -> String {
    json!({
        "contractVersion": 1, "cause": "Completed", "message": "done",
        "result": {"uri": "file:///volumes/models/a", "metricName": "accuracy", "metric": 0.97},
    })
    .to_string()
}

/// What a trainer says that has scored so many rows.
pub(crate) fn scored(rows: u64) -> String {
    json!({
        "contractVersion": 1, "cause": "Completed", "message": "done",
        "result": {"uri": "file:///volumes/scores/a", "rowsIn": rows, "rowsOut": rows, "rowsFailed": 1},
    })
    .to_string()
}

pub(crate) fn merge(into: &mut Value, change: Value) {
    match (into, change) {
        (Value::Object(into), Value::Object(change)) => {
            for (name, value) in change {
                merge(into.entry(name).or_insert(Value::Null), value);
            }
        }
        (into, change) => *into = change,
    }
}
