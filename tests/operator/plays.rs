//! Lives of jobs that have to come to the same end whatever happens to the operator and to its writes: a job starts, succeeds,
//! fails by a cause of each policy, is suspended and deleted in each phase, meets its deadline, goes when its time is over, loses
//! its node, is changed, and follows one of its name; an endpoint answers, is changed, scaled and suspended.

use std::collections::BTreeSet;
use std::fmt::Debug;

use crds::contract::Cause;
use crds::status::{AttemptRecord, EndpointPhase, JobStatus, ModelEndpointStatus, Phase};
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use futures::future::{FutureExt, LocalBoxFuture};
use k8s_openapi::NamespaceResourceScope;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Node, Service, ServiceAccount};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::{DeleteParams, ListParams};
use kube::{Api, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::yard::{Yard, said, scored, trained};

/// What happens in a life.
pub(crate) struct Play {
    pub(crate) name: &'static str,
    /// The nodes that it takes place on.
    pub(crate) nodes: &'static [&'static str],
    pub(crate) act: for<'a> fn(&'a Yard) -> LocalBoxFuture<'a, End>,
}

const CPU: &[&str] = &["cpu"];
const TWO: &[&str] = &["cpu", "cpu"];
const GPU: &[&str] = &["h200-580", "b200-590"];

/// All plays.
#[rustfmt::skip]
pub(crate) static PLAYS: [Play; 17] = [
    Play { name: "restarted", nodes: CPU, act: |yard| restarted(yard).boxed_local() },
    Play { name: "suspended", nodes: CPU, act: |yard| suspended(yard).boxed_local() },
    Play { name: "shards", nodes: CPU, act: |yard| shards(yard).boxed_local() },
    Play { name: "suspended-early", nodes: CPU, act: |yard| suspended_before_it_runs(yard).boxed_local() },
    Play { name: "suspended-late", nodes: CPU, act: |yard| suspended_while_it_restarts(yard).boxed_local() },
    Play { name: "deleted", nodes: CPU, act: |yard| deleted_in_each_phase(yard).boxed_local() },
    Play { name: "followed", nodes: CPU, act: |yard| followed_by_one_of_its_name(yard).boxed_local() },
    Play { name: "deadline", nodes: CPU, act: |yard| deadline(yard).boxed_local() },
    Play { name: "expired", nodes: CPU, act: |yard| expired(yard).boxed_local() },
    Play { name: "node-lost", nodes: TWO, act: |yard| node_lost(yard).boxed_local() },
    Play { name: "elsewhere", nodes: GPU, act: |yard| elsewhere(yard).boxed_local() },
    Play { name: "preempted", nodes: CPU, act: |yard| preempted(yard).boxed_local() },
    Play { name: "changed", nodes: GPU, act: |yard| changed(yard).boxed_local() },
    Play { name: "rejected", nodes: CPU, act: |yard| rejected(yard).boxed_local() },
    Play { name: "refused", nodes: CPU, act: |yard| refused_for_a_while(yard).boxed_local() },
    Play { name: "served", nodes: CPU, act: |yard| served(yard).boxed_local() },
    Play { name: "scaled", nodes: CPU, act: |yard| scaled(yard).boxed_local() },
];

/// What is the same at the end of every life.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct End {
    /// `None` where the job is gone, or is an endpoint.
    phase: Option<Phase>,
    /// Attempts, restarts and failures; of an endpoint its revision, the newest one and the pods that answer.
    counts: (u32, u32, u32),
    causes: Vec<(u32, Cause)>,
    result: String,
    /// Names of pods; of an endpoint, whose pods have names of their ReplicaSet's, of what else belongs to it.
    pods: BTreeSet<String>,
}

fn causes(attempts: &[AttemptRecord]) -> Vec<(u32, Cause)> {
    let mut causes: Vec<_> = attempts.iter().map(|attempt| (attempt.number, attempt.cause)).collect();
    causes.sort();
    causes
}

fn end(status: &JobStatus, result: String, pods: BTreeSet<String>) -> End {
    End {
        phase: Some(status.phase),
        counts: (status.attempt, status.restarts, status.failures),
        causes: causes(&status.attempts),
        result,
        pods,
    }
}

async fn training_end(yard: &Yard, phase: Phase) -> End {
    let status = yard.phase("a", phase).await;
    end(&status, json!(yard.model("a").await).to_string(), yard.pods().await)
}

async fn endpoint_end(yard: &Yard, status: ModelEndpointStatus) -> End {
    let mut parts = BTreeSet::new();
    parts.extend(names::<Deployment>(yard).await);
    parts.extend(names::<Service>(yard).await);
    parts.extend(names::<PodDisruptionBudget>(yard).await);
    parts.extend(names::<HorizontalPodAutoscaler>(yard).await);
    End {
        phase: None,
        counts: (status.revision, status.latest_revision, status.ready_replicas),
        causes: Vec::new(),
        result: status.message,
        pods: parts,
    }
}

/// Kinds and names of the objects of a kind.
async fn names<K>(yard: &Yard) -> Vec<String>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Clone + Debug + DeserializeOwned,
{
    let all = yard.namespace.api::<K>().list_metadata(&ListParams::default()).await.expect("a list");
    all.iter().map(|one| format!("{} {}", K::kind(&()), one.name_any())).collect()
}

/// Waits until neither a job nor a pod is left.
async fn nothing_is_left(yard: &Yard) -> End {
    // A garbage collector that has just started takes up to 30 s to learn of a new kind.
    yard.patiently(async || yard.pods().await.is_empty()).await;
    let jobs = yard.namespace.api::<TrainingJob>().list(&ListParams::default()).await.expect("a list of jobs");
    assert_eq!(jobs.items.len(), 0);
    End { phase: None, counts: (0, 0, 0), causes: Vec::new(), result: String::new(), pods: BTreeSet::new() }
}

/// A gang of two loses one, starts again and trains its model.
async fn restarted(yard: &Yard) -> End {
    yard.train("a", json!({"infrastructure": {"nodes": 2}})).await;
    let pods = yard.namespace.pods();
    pods.running("a-t1-0").await;
    pods.finish("a-t1-1", 162, &said("Storage", "the volume is gone")).await;
    pods.running("a-t2-1").await;
    pods.finish("a-t2-1", 0, "").await;
    pods.finish("a-t2-0", 0, &trained()).await;
    training_end(yard, Phase::Succeeded).await
}

/// A job is suspended while it runs, goes on, and meets data that can't be used.
async fn suspended(yard: &Yard) -> End {
    yard.train("a", json!({})).await;
    yard.namespace.pods().running("a-t1-0").await;
    yard.phase("a", Phase::Running).await;
    yard.suspend("a", true).await;
    yard.namespace.pods().gone("a-t1-0").await;
    yard.phase("a", Phase::Suspended).await;
    yard.suspend("a", false).await;
    yard.namespace.pods().finish("a-t2-0", 65, &said("BadData", "cat/7.jpg is truncated")).await;
    training_end(yard, Phase::Failed).await
}

/// Three shards, one at a time, of which one is tried twice.
async fn shards(yard: &Yard) -> End {
    yard.score("a", json!({"shards": 3, "parallelism": 1})).await;
    let pods = yard.namespace.pods();
    pods.finish("a-s1-0", 0, &scored(10)).await;
    pods.finish("a-s1-1", 161, "").await;
    // While the second shard waits for its restart, the third has its place; a crash may change their order.
    let (second, third) = (scored(20), scored(30));
    futures::join!(pods.finish("a-s2-1", 0, &second), pods.finish("a-s1-2", 0, &third));
    let done = |job: Option<&ScoringJob>| {
        job.and_then(|job| job.status.as_ref()).is_some_and(|status| status.job.phase.is_terminal())
    };
    let job: Option<ScoringJob> = yard.namespace.wait("a", done).await;
    let status = job.and_then(|job| job.status).expect("a status");
    end(&status.job, json!(status.rows).to_string(), yard.pods().await)
}

/// A job is suspended before its start, and again before its pod has a node.
async fn suspended_before_it_runs(yard: &Yard) -> End {
    let spec = json!({"infrastructure": {"pod": {"schedulerName": "nobody"}}, "runPolicy": {"suspend": true}});
    yard.train("a", spec).await;
    yard.phase("a", Phase::Suspended).await;
    yard.suspend("a", false).await;
    yard.phase("a", Phase::Starting).await;
    yard.suspend("a", true).await;
    yard.namespace.pods().gone("a-t1-0").await;
    yard.phase("a", Phase::Suspended).await;
    yard.suspend("a", false).await;
    yard.place("a-t2-0").await;
    yard.namespace.pods().finish("a-t2-0", 0, &trained()).await;
    training_end(yard, Phase::Succeeded).await
}

/// A gang is suspended while what is left of it is being stopped: that failure costs nothing.
async fn suspended_while_it_restarts(yard: &Yard) -> End {
    yard.train("a", json!({"infrastructure": {"nodes": 2}})).await;
    let pods = yard.namespace.pods();
    pods.running("a-t1-0").await;
    pods.running("a-t1-1").await;
    yard.phase("a", Phase::Running).await;
    yard.hold("a-t1-0").await;
    pods.finish("a-t1-1", 162, "").await;
    yard.stopping("a-t1-0").await;
    yard.suspend("a", true).await;
    yard.let_go("a-t1-0").await;
    pods.gone("a-t1-0").await;
    yard.phase("a", Phase::Suspended).await;
    yard.suspend("a", false).await;
    pods.running("a-t2-1").await;
    pods.finish("a-t2-1", 0, "").await;
    pods.finish("a-t2-0", 0, &trained()).await;
    training_end(yard, Phase::Succeeded).await
}

async fn deleted_in_each_phase(yard: &Yard) -> End {
    let pods = yard.namespace.pods();
    yard.train("pending", json!({"infrastructure": {"device": "Gpu"}})).await;
    yard.until("pending", |status| status.phase == Phase::Pending && !status.conditions.is_empty()).await;
    yard.delete("pending").await;

    yard.train("suspended", json!({"runPolicy": {"suspend": true}})).await;
    yard.phase("suspended", Phase::Suspended).await;
    yard.delete("suspended").await;

    yard.train("starting", json!({"infrastructure": {"pod": {"schedulerName": "nobody"}}})).await;
    yard.phase("starting", Phase::Starting).await;
    yard.delete("starting").await;

    yard.train("running", json!({})).await;
    yard.phase("running", Phase::Running).await;
    yard.delete("running").await;

    yard.train("restarting", json!({"infrastructure": {"nodes": 2}})).await;
    yard.phase("restarting", Phase::Running).await;
    yard.hold("restarting-t1-0").await;
    pods.finish("restarting-t1-1", 162, "").await;
    yard.phase("restarting", Phase::Restarting).await;
    yard.delete("restarting").await;
    yard.let_go("restarting-t1-0").await;

    yard.train("finished", json!({})).await;
    pods.finish("finished-t1-0", 0, &trained()).await;
    yard.phase("finished", Phase::Succeeded).await;
    yard.delete("finished").await;
    nothing_is_left(yard).await
}

/// A job is deleted while it runs, and one of its name starts anew.
async fn followed_by_one_of_its_name(yard: &Yard) -> End {
    yard.train("a", json!({})).await;
    yard.phase("a", Phase::Running).await;
    yard.delete("a").await;
    let second = yard.train("a", json!({})).await;
    yard.patiently(async || yard.is_owned_by("a-t1-0", &second).await).await;
    yard.namespace.pods().finish("a-t1-0", 0, &trained()).await;
    training_end(yard, Phase::Succeeded).await
}

async fn deadline(yard: &Yard) -> End {
    yard.train("a", json!({"runPolicy": {"activeDeadlineSeconds": 2}})).await;
    yard.phase("a", Phase::Failed).await;
    yard.namespace.pods().gone("a-t1-0").await;
    training_end(yard, Phase::Failed).await
}

/// A job goes, with its pods, when its time is over.
async fn expired(yard: &Yard) -> End {
    yard.train("a", json!({"runPolicy": {"ttlSecondsAfterFinished": 1}})).await;
    yard.namespace.pods().finish("a-t1-0", 0, &trained()).await;
    yard.namespace.wait("a", |job: Option<&TrainingJob>| job.is_none()).await;
    nothing_is_left(yard).await
}

/// The node of a running pod is deleted.
async fn node_lost(yard: &Yard) -> End {
    yard.train("a", json!({})).await;
    let pods = yard.namespace.pods();
    let node = pods.running("a-t1-0").await.spec.and_then(|spec| spec.node_name).expect("a node");
    yard.phase("a", Phase::Running).await;
    let nodes = Api::<Node>::all(yard.namespace.client());
    nodes.delete(&node, &DeleteParams::default()).await.expect("a node");
    pods.running("a-t2-0").await;
    pods.gone("a-t1-0").await;
    pods.finish("a-t2-0", 0, &trained()).await;
    training_end(yard, Phase::Succeeded).await
}

/// Two nodes, of which neither has a GPU that works.
async fn elsewhere(yard: &Yard) -> End {
    yard.train("a", json!({"infrastructure": {"device": "Gpu"}})).await;
    let pods = yard.namespace.pods();
    pods.finish("a-t1-0", 160, &said("NodeFault", "the GPU fell off the bus")).await;
    pods.finish("a-t2-0", 69, &said("GpuUnsupported", "driver 999 is too old")).await;
    training_end(yard, Phase::Failed).await
}

/// A preemption and an eviction cost no restart, of which none is allowed.
async fn preempted(yard: &Yard) -> End {
    yard.train("a", json!({"runPolicy": {"backoffLimit": 0}})).await;
    let pods = yard.namespace.pods();
    pods.preempted("a-t1-0", "").await;
    pods.running("a-t2-0").await;
    pods.evicted_by_kubelet("a-t2-0", "The node was low on resource: memory").await;
    pods.finish("a-t3-0", 0, &trained()).await;
    training_end(yard, Phase::Succeeded).await
}

/// A job that fits nowhere is suspended, goes on, and is changed until it fits; then its limit is lowered.
async fn changed(yard: &Yard) -> End {
    yard.train("a", json!({"infrastructure": {"device": "Gpu", "gpusPerNode": 64}})).await;
    yard.until("a", |status| status.phase == Phase::Pending && !status.conditions.is_empty()).await;
    yard.suspend("a", true).await;
    yard.phase("a", Phase::Suspended).await;
    yard.suspend("a", false).await;
    yard.phase("a", Phase::Pending).await;
    yard.change::<TrainingJob>("a", json!({"infrastructure": {"gpusPerNode": 8}})).await;
    yard.phase("a", Phase::Running).await;
    yard.change_policy("a", json!({"backoffLimit": 0})).await;
    yard.namespace.pods().finish("a-t1-0", 161, "").await;
    training_end(yard, Phase::Failed).await
}

/// The API server finds the pods invalid.
async fn rejected(yard: &Yard) -> End {
    let term = json!({"matchExpressions": [{"key": "a", "operator": "Sometimes"}]});
    let required = json!({"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}});
    yard.train("a", json!({"infrastructure": {"pod": {"affinity": {"nodeAffinity": required}}}})).await;
    training_end(yard, Phase::Failed).await
}

/// The API server takes no pods of the job until its service account is there.
async fn refused_for_a_while(yard: &Yard) -> End {
    yard.train("a", json!({"infrastructure": {"pod": {"serviceAccountName": "trainer"}}})).await;
    let is_told = async || {
        let job: TrainingJob = yard.namespace.api().get("a").await.expect("a job");
        job.status.is_some_and(|status| status.job.message.contains("serviceaccount \"trainer\" not found"))
    };
    // What has been refused many times is tried again after a minute at most.
    yard.patiently(is_told).await;
    yard.namespace.create::<ServiceAccount>(json!({"metadata": {"name": "trainer"}})).await;
    yard.patiently(async || yard.pods().await.contains("a-t1-0")).await;
    yard.namespace.pods().finish("a-t1-0", 0, &trained()).await;
    training_end(yard, Phase::Succeeded).await
}

/// An endpoint answers, and is changed so that other pods take over.
async fn served(yard: &Yard) -> End {
    yard.serve("a", json!({})).await;
    yard.ready("a", 1).await;
    yard.change::<ModelEndpoint>("a", json!({"explain": true})).await;
    let status = yard.ready("a", 2).await;
    endpoint_end(yard, status).await
}

/// An endpoint gets an autoscaler and loses it, is suspended and goes on.
async fn scaled(yard: &Yard) -> End {
    yard.serve("a", json!({"autoscaling": {"minReplicas": 1, "maxReplicas": 3, "scaleTarget": 20}})).await;
    yard.ready("a", 1).await;
    yard.namespace.wait("a-m", |autoscaler: Option<&HorizontalPodAutoscaler>| autoscaler.is_some()).await;
    yard.change::<ModelEndpoint>("a", json!({"autoscaling": null})).await;
    yard.namespace.wait("a-m", |autoscaler: Option<&HorizontalPodAutoscaler>| autoscaler.is_none()).await;
    yard.change::<ModelEndpoint>("a", json!({"suspend": true})).await;
    yard.endpoint_until("a", |status| status.phase == EndpointPhase::Suspended).await;
    yard.change::<ModelEndpoint>("a", json!({"suspend": false})).await;
    let status = yard.ready("a", 1).await;
    endpoint_end(yard, status).await
}
