//! Jobs in numbers, and the time until their pods are there.

use std::error::Error;
use std::fmt::Debug;
use std::pin::pin;
use std::time::{Duration, Instant, SystemTime};

use crds::contract::CONTRACT_VERSION;
use crds::{ScoringJob, TrainingJob};
use futures::stream::{self, StreamExt, TryStreamExt};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, ListParams, PostParams, WatchParams};
use kube::core::WatchEvent;
use kube::{Api, Resource};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tests::cluster::{Cluster, Namespace};

use crate::timed;

/// Time for the clearing away after a measurement.
const CLEARING: Duration = Duration::from_secs(300);
/// Connections that create at the same time.
pub(crate) const CONNECTIONS: usize = 32;

/// So many jobs of so many pods each.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) jobs: u32,
    pub(crate) pods: u32,
}

/// A control plane to put a load on.
pub(crate) struct Load<'a> {
    pub(crate) cluster: &'a Cluster,
}

impl<'a> Load<'a> {
    pub(crate) fn new(cluster: &'a Cluster) -> Load<'a> {
        Load { cluster }
    }

    /// Seconds for plain POSTs of pods like the operator's.
    pub(crate) async fn posts(&self, count: u32) -> Result<f64, Box<dyn Error>> {
        let namespace = self.cluster.namespace("posts").await;
        let pattern = pattern(&namespace).await?;
        let create = async {
            let api: Api<Pod> = namespace.api();
            stream::iter((0..count).map(Ok::<_, kube::Error>))
                .try_for_each_concurrent(CONNECTIONS, |index| {
                    let (mut pod, api) = (pattern.clone(), api.clone());
                    pod.metadata.name = Some(format!("p-{index}"));
                    async move { api.create(&PostParams::default(), &pod).await.map(drop) }
                })
                .await?;
            Ok(())
        };
        let seconds = self.time(&namespace, Shape { jobs: count, pods: 1 }, create).await?;
        self.clear(&namespace).await?;
        Ok(seconds)
    }

    /// Seconds for TrainingJobs.
    pub(crate) async fn training(&self, shape: Shape) -> Result<f64, Box<dyn Error>> {
        let namespace = self.cluster.namespace("ours").await;
        let pod = json!({"schedulerName": "nobody"});
        let create = create_all(namespace.api::<TrainingJob>(), shape.jobs, |index| job(index, shape.pods, &pod));
        let seconds = self.time(&namespace, shape, create).await?;
        self.clear(&namespace).await?;
        Ok(seconds)
    }

    /// Seconds for batch/v1 Indexed Jobs.
    pub(crate) async fn batch(&self, shape: Shape) -> Result<f64, Box<dyn Error>> {
        let namespace = self.cluster.namespace("batch").await;
        let pattern = pattern(&namespace).await?;
        let create = create_all(namespace.api::<Job>(), shape.jobs, |index| {
            json!({
                "metadata": {"name": format!("j-{index}")},
                "spec": {
                    "completions": shape.pods, "parallelism": shape.pods, "completionMode": "Indexed",
                    "template": {"spec": pattern.spec},
                },
            })
        });
        let seconds = self.time(&namespace, shape, create).await?;
        self.clear(&namespace).await?;
        Ok(seconds)
    }

    /// Lets a pod of a running gang fail again and again; tells the seconds until the last pod of the next attempt is there.
    pub(crate) async fn restarts(
        &self,
        pods: u32,
        times: u32,
        mut told: impl FnMut(f64),
    ) -> Result<(), Box<dyn Error>> {
        let namespace = self.cluster.namespace("gang").await;
        namespace.nodes(&["cpu", "cpu", "cpu"]).await;
        let mut manifest = job(0, pods, &json!({"nodeSelector": namespace.selector()}));
        manifest["spec"]["runPolicy"] = json!({"backoffLimit": 1000});
        namespace.create::<TrainingJob>(manifest).await;
        for attempt in 1..=times {
            let running = |job: Option<&TrainingJob>| {
                job.and_then(|job| job.status.as_ref()).is_some_and(|status| {
                    status.job.attempt == attempt && status.job.phase == crds::status::Phase::Running
                })
            };
            namespace.wait("j-0", running).await;
            // A preemption waits for no backoff, so that the time is the operator's own.
            let next = format!("trainyard.dev/attempt={}", attempt + 1);
            told(fail(&namespace, &format!("j-0-t{attempt}-7"), &next, pods).await?);
        }
        self.clear(&namespace).await
    }

    /// Seconds from the start of `create` until all pods of a shape have been added.
    pub(crate) async fn time(
        &self,
        namespace: &Namespace<'_>,
        shape: Shape,
        create: impl Future<Output = Result<(), Box<dyn Error>>>,
    ) -> Result<f64, Box<dyn Error>> {
        let pods = u64::from(shape.jobs) * u64::from(shape.pods);
        let api: Api<Pod> = namespace.api();
        let version = api.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version;
        let parameters = WatchParams::default().timeout(290);
        let watch = added(&api, &parameters, version.as_deref().unwrap_or_default(), pods);
        timed(async {
            futures::try_join!(create, watch)?;
            Ok(())
        })
        .await
    }

    /// Clears a namespace away before the next measurement begins.
    pub(crate) async fn clear(&self, namespace: &Namespace<'_>) -> Result<(), Box<dyn Error>> {
        let background = DeleteParams::background();
        let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::background() };
        delete_all(&namespace.api::<TrainingJob>(), &background).await?;
        delete_all(&namespace.api::<ScoringJob>(), &background).await?;
        delete_all(&namespace.api::<Job>(), &background).await?;
        delete_all(&namespace.api::<Pod>(), &now).await
    }
}

/// Deletes all objects of a kind, and waits until they are gone.
pub(crate) async fn delete_all<K>(api: &Api<K>, parameters: &DeleteParams) -> Result<(), Box<dyn Error>>
where
    K: Resource + Clone + Debug + DeserializeOwned,
{
    let start = Instant::now();
    loop {
        let fault = match api.list_metadata(&ListParams::default().limit(1)).await {
            Ok(left) if left.items.is_empty() => return Ok(()),
            // The API server cuts off a call that takes a minute, or has too much to do. What it has deleted is deleted.
            Ok(_) => api.delete_collection(parameters, &ListParams::default()).await.err(),
            Err(fault) => Some(fault),
        };
        if start.elapsed() > CLEARING {
            let why = fault.map_or_else(String::new, |fault| format!(": {fault}"));
            return Err(format!("{} is not empty after {} s{why}", api.resource_url(), CLEARING.as_secs()).into());
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

/// Creates so many objects.
pub(crate) async fn create_all<K>(api: Api<K>, count: u32, make: impl Fn(u32) -> Value) -> Result<(), Box<dyn Error>>
where
    K: Resource + Clone + Debug + Serialize + DeserializeOwned,
{
    stream::iter((0..count).map(Ok))
        .try_for_each_concurrent(CONNECTIONS, |index| {
            let (api, object) = (&api, make(index));
            async move {
                api.create(&PostParams::default(), &serde_json::from_value(object)?).await?;
                Ok(())
            }
        })
        .await
}

/// Lets a running pod fail; seconds until so many pods with a label have been added.
pub(crate) async fn fail(namespace: &Namespace<'_>, pod: &str, label: &str, pods: u32) -> Result<f64, Box<dyn Error>> {
    let api: Api<Pod> = namespace.api();
    let version = api.list_metadata(&ListParams::default().limit(1)).await?.metadata.resource_version;
    // Each got further than the one before: of those who don't, the second in a row is waited for.
    let step = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
    let told = json!({"contractVersion": CONTRACT_VERSION, "cause": "Preempted", "step": step, "message": "stopped"});
    namespace.pods().preempted(pod, &told.to_string()).await;
    let (start, labelled) = (Instant::now(), WatchParams::default().labels(label).timeout(290));
    added(&api, &labelled, &version.unwrap_or_default(), u64::from(pods)).await?;
    Ok(start.elapsed().as_secs_f64())
}

/// Waits for so many ADDED events. The API server ends watches that are slow to read: the next goes on from there.
async fn added(api: &Api<Pod>, parameters: &WatchParams, version: &str, count: u64) -> Result<(), Box<dyn Error>> {
    let (mut left, mut version) = (count, version.to_owned());
    while left > 0 {
        let mut events = pin!(api.watch_metadata(parameters, &version).await?);
        while left > 0
            && let Some(event) = events.next().await
        {
            let pod = match event? {
                WatchEvent::Added(pod) => {
                    left -= 1;
                    pod
                }
                WatchEvent::Modified(pod) | WatchEvent::Deleted(pod) => pod,
                WatchEvent::Bookmark(_) => continue,
                WatchEvent::Error(status) => return Err(format!("the watch ended: {status:?}").into()),
            };
            version = pod.metadata.resource_version.unwrap_or(version);
        }
    }
    Ok(())
}

pub(crate) fn job(index: u32, nodes: u32, pod: &Value) -> Value {
    json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": format!("j-{index}")},
        "spec": {
            "data": {"uri": "file:///data"},
            "infrastructure": {"device": "Cpu", "nodes": nodes, "pod": pod},
            "output": {"uri": "file:///out"},
        },
    })
}

/// A pod as the operator makes them, without what is its own.
pub(crate) async fn pattern(namespace: &Namespace<'_>) -> Result<Pod, Box<dyn Error>> {
    namespace.create::<TrainingJob>(job(0, 1, &json!({"schedulerName": "nobody"}))).await;
    let api: Api<Pod> = namespace.api();
    namespace.wait("j-0-t1-0", |pod: Option<&Pod>| pod.is_some()).await;
    let mut pod = api.get("j-0-t1-0").await?;
    pod.metadata = kube::core::ObjectMeta { labels: pod.metadata.labels, ..kube::core::ObjectMeta::default() };
    pod.status = None;
    namespace.api::<TrainingJob>().delete("j-0", &DeleteParams::default()).await?;
    let now = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
    match api.delete("j-0-t1-0", &now).await {
        // The garbage collector was faster.
        Err(kube::Error::Api(status)) if status.code == 404 => {}
        deleted => drop(deleted?),
    }
    namespace.wait("j-0-t1-0", |pod: Option<&Pod>| pod.is_none()).await;
    Ok(pod)
}
