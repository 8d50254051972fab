//! The commands for a cluster, in the order of a first day, with the operator that the chart's Deployment would start.

use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;
use tests::chart;
use tests::cluster::Cluster;
use tests::program::Operator;

use crate::story::{Story, blocks, manifest, root};

#[rustfmt::skip]
pub(crate) const COMMANDS: [&str; 23] = [
    "helm install trainyard charts/trainyard -n trainyard --create-namespace -f values.yaml --wait",
    "helm test trainyard -n trainyard",
    "kubectl create secret generic storage --from-literal=AWS_ACCESS_KEY_ID=... --from-literal=AWS_SECRET_ACCESS_KEY=... \
     --from-literal=AWS_REGION=...",
    "kubectl create secret docker-registry registry --docker-server=... --docker-username=... --docker-password=...",
    "kubectl apply -f crds/examples/claims.yaml",
    "kubectl wait --for=condition=Ready pod/fill --timeout=5m",
    "kubectl delete pod fill",
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
    "trainyard evaluations tj/flowers",
    "trainyard doctor",
    "helm upgrade trainyard charts/trainyard -n trainyard --reset-then-reuse-values --set metrics.serviceMonitor.enabled=true \
     --set metrics.podMonitor.enabled=true --set metrics.prometheusRule.enabled=true --set metrics.dashboard.enabled=true",
];

/// Volumes for the claims of the examples: nothing provisions any here.
fn volumes() -> String {
    let volume = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": name},
            "spec": {"accessModes": ["ReadWriteOnce"], "capacity": {"storage": "10Gi"}, "hostPath": {"path": "/tmp"},
                     "claimRef": {"namespace": "default", "name": name}},
        })
    };
    let items = ["datasets", "models"].map(volume);
    json!({"apiVersion": "v1", "kind": "List", "items": items}).to_string()
}

/// The values of the chart that the README has.
pub(crate) fn values() -> String {
    blocks("yaml").into_iter().find(|block| block.starts_with("image:")).expect("values")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_told_of_a_cluster_works() {
    let cluster = Cluster::start().await.unwrap_or_else(|fault| panic!("no control plane: {fault}"));
    let machines = cluster.namespace("machines").await;
    machines.nodes(&["cpu", "h200-580", "h200-580"]).await;
    let story = Story::new(cluster.kubeconfig());
    for folder in ["charts", "crds"] {
        std::os::unix::fs::symlink(root().join(folder), story.folder.path().join(folder)).expect("a link");
    }
    story.file("job.yaml", manifest("TrainingJob"));
    story.file("values.yaml", values());
    story.file("volumes.json", volumes());
    let definitions = chart::checker("helm").with_file_name("crds");
    std::os::unix::fs::symlink(definitions, story.folder.path().join("crds-of-prometheus")).expect("a link");
    let story = Arc::new(story);
    let does = |what: fn(&Story, &str) -> String| {
        let story = Arc::clone(&story);
        async move |command: &'static str| {
            let story = Arc::clone(&story);
            tokio::task::spawn_blocking(move || what(&story, command)).await.expect("the command succeeds")
        }
    };
    let (run, watch) = (does(Story::run), does(Story::watch));
    let [install, test, secret, registry, claims, filled, gone, apply, get, why, nodes, status, rest @ ..] = COMMANDS;
    let [follow, events, suspend, wait, retrain, top, report, bundle, evaluations, doctor, observe] = rest;

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
    run(registry).await;
    // The API server itself judges the pods of the examples and those that are printed.
    run("kubectl label namespace default pod-security.kubernetes.io/enforce=restricted").await;
    run("kubectl apply -f volumes.json").await;
    run(claims).await;
    run(filled).await;
    run(gone).await;
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
    let reported = run(report).await;
    assert!(reported.starts_with("pvc://models/flowers/report.html\n"), "{reported}");
    accepted(&story, &reported).await;
    let judged = run(evaluations).await;
    assert!(judged.starts_with("pvc://models/flowers, by tj/flowers\n"), "{judged}");
    accepted(&story, &judged).await;
    run(retrain).await;
    run(bundle).await;
    let found = run(doctor).await;
    assert!(found.contains("cuda-13.0, cpu of the operator trainyard/trainyard; a job on a GPU: "), "{found}");
    // The slash has kubectl follow the link.
    run("kubectl create -f crds-of-prometheus/").await;
    run("kubectl wait --for=condition=Established -f crds-of-prometheus/ --timeout=60s").await;
    assert!(run(observe).await.contains("STATUS: deployed"));
    operator.stop();
}

/// Holds the pod that a command printed makes against what the API server lets into a restricted namespace.
async fn accepted(story: &Arc<Story>, printed: &str) {
    let command = printed.lines().find(|line| line.contains(" run ")).expect("a command").trim();
    let (command, _) = command.split_once("}' ").expect("the end of the overrides");
    let command = format!("{}}}' --dry-run=server -o name", command.replace(" --rm -i -q", ""));
    let story = Arc::clone(story);
    let said = tokio::task::spawn_blocking(move || story.run(&command)).await.expect("the API server takes the pod");
    assert!(said.starts_with("pod/"), "{said}");
}
