//! The commands for a cluster, in the order of a first day, with the operator that the chart's Deployment would start.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use tests::cluster::Cluster;
use tests::program::Operator;

use crate::story::{Story, manifest, root};

#[rustfmt::skip]
pub(crate) const COMMANDS: [&str; 17] = [
    "helm install trainyard charts/trainyard -n trainyard --create-namespace --wait",
    "helm test trainyard -n trainyard",
    "kubectl create secret generic storage --from-literal=AWS_ACCESS_KEY_ID=... --from-literal=AWS_SECRET_ACCESS_KEY=... \
     --from-literal=AWS_REGION=...",
    "kubectl apply -f job.yaml",
    "kubectl get tj -w",
    "trainyard why tj/flowers",
    "trainyard nodes",
    "trainyard status",
    "trainyard status flowers --watch",
    "trainyard events flowers",
    "trainyard suspend flowers",
    "trainyard wait flowers --for Succeeded --timeout 2h",
    "trainyard retrain flowers --gpus 8 --nodes 2",
    "trainyard top -A",
    "trainyard report flowers",
    "trainyard support-bundle",
    "trainyard doctor",
];

/// The claims that the manifests name, bound to volumes.
fn claims() -> String {
    let pair = |name: &str| {
        let claim = json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteMany"], "resources": {"requests": {"storage": "1Gi"}}, "storageClassName": "",
                     "volumeName": name},
        });
        let volume = json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteMany"], "capacity": {"storage": "1Gi"}, "storageClassName": "",
                     "hostPath": {"path": "/tmp"}, "claimRef": {"namespace": "default", "name": name}},
        });
        [volume, claim]
    };
    let items = [pair("datasets"), pair("models")].concat();
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_a_cluster_works() {
    let cluster = Cluster::start().await.unwrap_or_else(|fault| panic!("no control plane: {fault}"));
    let machines = cluster.namespace("machines").await;
    machines.nodes(&["cpu", "h200-580", "h200-580"]).await;
    let story = Story::new(cluster.kubeconfig());
    std::os::unix::fs::symlink(root().join("charts"), story.folder.path().join("charts")).expect("a link");
    story.file("job.yaml", manifest("TrainingJob"));
    story.file("claims.json", claims());
    let story = Arc::new(story);
    let does = |what: fn(&Story, &str) -> String| {
        let story = Arc::clone(&story);
        async move |command: &'static str| {
            let story = Arc::clone(&story);
            tokio::task::spawn_blocking(move || what(&story, command)).await.expect("the command succeeds")
        }
    };
    let (run, watch) = (does(Story::run), does(Story::watch));
    let [install, test, secret, apply, get, why, nodes, status, follow, events, suspend, wait, rest @ ..] = COMMANDS;
    let [retrain, top, report, bundle, doctor] = rest;

    assert!(run(install).await.contains("STATUS: deployed"));
    let release = cluster.existing_namespace("trainyard").await;
    let user = release.user_of("trainyard").await;
    let deployment = release.api::<Deployment>().get("trainyard").await.expect("a Deployment");
    let catalogue = release.api::<ConfigMap>().get("trainyard-catalogue").await.expect("a catalogue");
    let operator = Operator::of(&json!(deployment), &json!(catalogue), &user);
    let tester = async { release.pods().finish("trainyard-test", 0, "").await };
    let (said, ()) = tokio::join!(run(test), tester);
    assert!(said.contains("Succeeded"), "{said}");

    run(secret).await;
    run("kubectl apply -f claims.json").await;
    run(apply).await;
    let pods = cluster.existing_namespace("default").await;
    pods.pods().running("flowers-t1-0").await;
    assert!(watch(get).await.contains("flowers"));
    let judged = run(why).await;
    assert!(
        judged.contains("h200-580") && judged.contains("Judged as by the operator trainyard/trainyard"),
        "{judged}"
    );
    assert!(run(nodes).await.contains("h200-580"));
    assert!(run(status).await.contains("tj/flowers"));
    assert!(watch(follow).await.contains("flowers-t1-0"));
    run(events).await;
    run(suspend).await;
    pods.pods().gone("flowers-t1-0").await;
    run("trainyard wait flowers --for Suspended --timeout 60s").await;
    run("trainyard resume flowers").await;
    assert!(run(top).await.contains("flowers"));
    let result = json!({"uri": "pvc://models/flowers", "metricName": "accuracy", "metric": 0.9});
    let message = json!({"contractVersion": 1, "cause": "Completed", "message": "done", "result": result}).to_string();
    pods.pods().finish("flowers-t2-0", 0, &message).await;
    run(wait).await;
    assert!(run(report).await.contains("report.html"));
    run(retrain).await;
    run(bundle).await;
    run(doctor).await;
    operator.stop();
}
