//! What the random histories of `decide` take for granted of an API server (`operator/src/decide/tests/interleavings/server.rs`),
//! held against the real one.

use std::pin::pin;

use crds::TrainingJob;
use futures::StreamExt;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions, WatchParams};
use kube::core::WatchEvent;
use kube::{Api, Resource, ResourceExt};
use serde_json::{Value, json};
use tests::cluster::{Cluster, Namespace};

/// A pod on a node that nobody plays: nothing happens to it but what the API server does by itself.
fn pod(name: &str, owner: &Value) -> Pod {
    let manifest = json!({
        "metadata": {"name": name, "ownerReferences": owner},
        "spec": {"nodeName": "nobodys", "containers": [{"name": "trainer", "image": "none"}], "terminationGracePeriodSeconds": 30},
    });
    serde_json::from_value(manifest).expect("a pod")
}

/// A control plane that knows our kinds.
async fn cluster() -> &'static Cluster {
    let cluster = Cluster::shared().await;
    cluster.definitions().await;
    cluster
}

/// A job that no operator works on.
async fn job(namespace: &Namespace<'_>, name: &str) -> TrainingJob {
    let manifest = json!({
        "apiVersion": "trainyard.dev/v1alpha1", "kind": "TrainingJob", "metadata": {"name": name},
        "spec": {
            "data": {"uri": "file:///data"}, "output": {"uri": "file:///out"}, "managedBy": "example.org/nobody",
        },
    });
    let job: TrainingJob = namespace.create(manifest).await;
    assert_eq!(job.spec.managed_by.as_deref(), Some("example.org/nobody"), "it is taken as it was given");
    job
}

/// Deletes a pod under the precondition of a UID.
fn of(uid: &str, grace_period_seconds: Option<u32>) -> DeleteParams {
    let preconditions = Some(Preconditions { uid: Some(uid.to_owned()), resource_version: None });
    DeleteParams { grace_period_seconds, preconditions, ..DeleteParams::default() }
}

fn code<T>(result: Result<T, kube::Error>) -> Option<u16> {
    match result {
        Err(kube::Error::Api(status)) => Some(status.code),
        _ => None,
    }
}

#[tokio::test]
async fn a_name_is_given_once_and_stays_with_its_first_pod() {
    let namespace = cluster().await.namespace("premises").await;
    let pods: Api<Pod> = namespace.api();
    let first = pods.create(&PostParams::default(), &pod("a", &json!([]))).await.unwrap();
    assert_eq!(code(pods.create(&PostParams::default(), &pod("a", &json!([]))).await), Some(409));
    assert_eq!(pods.get("a").await.unwrap().uid(), first.uid());
}

#[tokio::test]
async fn a_deletion_takes_the_pod_of_its_uid_or_none() {
    let namespace = cluster().await.namespace("premises").await;
    let pods: Api<Pod> = namespace.api();
    let there = pods.create(&PostParams::default(), &pod("a", &json!([]))).await.unwrap();
    assert_eq!(code(pods.delete("a", &of("another", Some(0))).await), Some(409));
    let uid = there.uid().expect("a UID");
    assert_eq!(pods.get("a").await.unwrap().uid().as_ref(), Some(&uid));

    pods.delete("a", &of(&uid, None)).await.unwrap();
    let stopping = pods.get("a").await.expect("it has its grace period, and lives on");
    assert!(stopping.metadata.deletion_timestamp.is_some());
    assert_eq!(code(pods.create(&PostParams::default(), &pod("a", &json!([]))).await), Some(409), "its name is taken");
    pods.delete("a", &of(&uid, Some(0))).await.unwrap();
    assert_eq!(pods.get_opt("a").await.unwrap(), None, "by force it is gone at once");
    assert_eq!(code(pods.delete("a", &of(&uid, Some(0))).await), Some(404));
}

#[tokio::test]
async fn a_status_is_taken_over_the_version_it_was_decided_on_and_no_other() {
    let namespace = cluster().await.namespace("premises").await;
    let jobs: Api<TrainingJob> = namespace.api();
    let version = |job: &TrainingJob| job.resource_version().expect("a version");
    let first = job(&namespace, "a").await;
    let write = async |version: &str, message: &str| {
        let status = json!({
            "apiVersion": TrainingJob::api_version(&()), "kind": TrainingJob::kind(&()),
            "metadata": {"name": "a", "resourceVersion": version},
            "status": {"phase": "Pending", "message": message},
        });
        jobs.patch_status("a", &PatchParams::apply("trainyard").force(), &Patch::Apply(&status)).await
    };
    let second = write(&version(&first), "one").await.unwrap();
    assert_eq!(code(write(&version(&first), "late").await), Some(409));
    assert_eq!(jobs.get("a").await.unwrap().status.expect("a status").job.message, "one");

    jobs.delete("a", &DeleteParams::default()).await.unwrap();
    assert_eq!(code(write(&version(&second), "gone").await), Some(404));
    let again = job(&namespace, "a").await;
    assert_eq!(code(write(&version(&second), "of the one before").await), Some(409));
    assert!(again.status.is_none() && jobs.get("a").await.unwrap().status.is_none());
}

#[tokio::test]
async fn pods_of_a_job_that_was_made_again_keep_their_names_until_they_go() {
    let namespace = cluster().await.namespace("premises").await;
    let (jobs, pods): (Api<TrainingJob>, Api<Pod>) = (namespace.api(), namespace.api());
    let first = job(&namespace, "a").await;
    let owner = json!([first.controller_owner_ref(&()).expect("a reference")]);
    let old = pods.create(&PostParams::default(), &pod("a-t1-0", &owner)).await.unwrap();
    jobs.delete("a", &DeleteParams::background()).await.unwrap();
    let second = job(&namespace, "a").await;
    let owner = json!([second.controller_owner_ref(&()).expect("a reference")]);
    assert_eq!(code(pods.create(&PostParams::default(), &pod("a-t1-0", &owner)).await), Some(409));

    pods.delete("a-t1-0", &of(&old.uid().expect("a UID"), Some(0))).await.unwrap();
    let new = pods.create(&PostParams::default(), &pod("a-t1-0", &owner)).await.unwrap();
    assert_ne!(new.uid(), old.uid());
}

#[tokio::test]
async fn the_watch_tells_every_change_of_a_pod_in_its_order() {
    let namespace = cluster().await.namespace("premises").await;
    let pods: Api<Pod> = namespace.api();
    let made = pods.create(&PostParams::default(), &pod("a", &json!([]))).await.unwrap();
    for phase in ["Running", "Failed"] {
        namespace.pods().patch_status("a", json!({"phase": phase})).await;
    }
    pods.delete("a", &of(&made.uid().expect("a UID"), Some(0))).await.unwrap();

    let version = made.resource_version().expect("a version");
    let mut events = pin!(pods.watch(&WatchParams::default().timeout(60), &version).await.unwrap());
    let mut told = Vec::new();
    while let Some(event) = events.next().await {
        let phase = |pod: Pod| pod.status.and_then(|status| status.phase).unwrap_or_default();
        match event.unwrap() {
            WatchEvent::Added(pod) => told.push(format!("added {}", phase(pod))),
            WatchEvent::Modified(pod) => told.push(format!("modified {}", phase(pod))),
            WatchEvent::Deleted(_) => break,
            WatchEvent::Bookmark(_) => {}
            WatchEvent::Error(status) => panic!("{status:?}"),
        }
    }
    told.dedup();
    assert_eq!(told, ["modified Running", "modified Failed"]);
}
