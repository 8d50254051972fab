//! Pods and nodes: who lands where, and that a pod's life goes as the test tells it.

use k8s_openapi::api::core::v1::{Namespace as NamespaceObject, Node, Pod};
use kube::Api;
use kube::api::ListParams;
use kube::runtime::wait::await_condition;
use serde_json::{Value, json};
use tests::cluster::{Cluster, Namespace, OWNER_LABEL, PATIENCE, templates};

/// A pod for this test's nodes that asks for so many of a resource.
fn pod(namespace: &Namespace<'_>, name: &str, resource: &str, count: u32) -> Value {
    json!({
        "metadata": {"name": name},
        "spec": {
            "restartPolicy": "Never",
            "nodeSelector": namespace.selector(),
            "containers": [{"name": "main", "image": "none", "resources": {"limits": {resource: count.to_string()}}}],
        },
    })
}

async fn node_of(namespace: &Namespace<'_>, pod: &Value) -> String {
    let name = pod["metadata"]["name"].as_str().unwrap();
    namespace.create::<Pod>(pod).await;
    namespace.pods().running(name).await.spec.unwrap().node_name.unwrap()
}

#[tokio::test]
async fn a_pod_lands_where_there_is_what_it_asks_for() {
    let namespace = Cluster::shared().await.namespace("gpus").await;
    let names = namespace.pool("mixed").await;
    assert_eq!(names.len(), templates().len());

    let mut modern = pod(&namespace, "modern", "nvidia.com/gpu", 8);
    modern["spec"]["nodeSelector"]["nvidia.com/gpu.product"] = json!("NVIDIA-H200");
    assert!(node_of(&namespace, &modern).await.starts_with("h200-580-"));

    let slice = pod(&namespace, "slice", "nvidia.com/mig-3g.20gb", 1);
    assert!(node_of(&namespace, &slice).await.starts_with("a100-mig-mixed-"));

    namespace.create::<Pod>(pod(&namespace, "too-many", "nvidia.com/gpu", 100)).await;
    let why = namespace.pods().unschedulable("too-many").await;
    assert!(why.contains("Insufficient nvidia.com/gpu"), "{why}");
}

#[tokio::test]
async fn drivers_are_labelled_from_418_to_590() {
    let namespace = Cluster::shared().await.namespace("labels").await;
    namespace.pool("mixed").await;
    let own = ListParams::default().labels(&format!("{OWNER_LABEL}={}", namespace.name()));
    let nodes = Api::<Node>::all(namespace.client()).list(&own).await.unwrap();
    let mut drivers: Vec<u32> = nodes
        .iter()
        .filter_map(|node| {
            let labels = node.metadata.labels.as_ref()?;
            let new = labels.get("nvidia.com/cuda.driver-version.major");
            new.or(labels.get("nvidia.com/cuda.driver.major"))?.parse().ok()
        })
        .collect();
    drivers.sort_unstable();
    assert_eq!(drivers, [418, 440, 450, 470, 525, 525, 535, 535, 550, 550, 580, 590]);
}

/// How a pod's first container ended: phase, exit code, reason, message.
fn end(pod: &Pod) -> (String, i32, String, String) {
    let status = pod.status.clone().unwrap();
    let state = status.container_statuses.unwrap().remove(0).state.unwrap().terminated.unwrap();
    (status.phase.unwrap(), state.exit_code, state.reason.unwrap_or_default(), state.message.unwrap_or_default())
}

#[tokio::test]
async fn a_pod_ends_as_the_test_tells() {
    let namespace = Cluster::shared().await.namespace("ends").await;
    namespace.nodes(&["cpu"]).await;
    let pods = namespace.pods();
    for name in ["good", "bad", "greedy", "starved", "drained", "own"] {
        let mut pod = pod(&namespace, name, "cpu", 1);
        if name == "own" {
            pod["metadata"]["annotations"] = json!({"tests/complete": "true"});
        }
        namespace.create::<Pod>(pod).await;
    }
    pods.finish("good", 0, "").await;
    pods.finish("bad", 65, "{\"cause\": \"bad data\"}").await;
    pods.out_of_memory("greedy").await;
    pods.running("starved").await;
    pods.evicted_by_kubelet("starved", "The node was low on resource: memory.").await;
    pods.running("drained").await;
    pods.evict("drained").await;

    let text = |text: &str| text.to_owned();
    assert_eq!(
        [
            end(&pods.phase("good", "Succeeded").await),
            end(&pods.phase("bad", "Failed").await),
            end(&pods.phase("greedy", "Failed").await),
            end(&pods.phase("own", "Succeeded").await),
        ],
        [
            (text("Succeeded"), 0, text("Completed"), text("")),
            (text("Failed"), 65, text("Error"), text("{\"cause\": \"bad data\"}")),
            (text("Failed"), 137, text("OOMKilled"), text("")),
            (text("Succeeded"), 0, text("Completed"), text("")),
        ]
    );
    assert_eq!(pods.phase("starved", "Failed").await.status.unwrap().reason.as_deref(), Some("Evicted"));
    pods.gone("drained").await;
}

#[tokio::test]
async fn a_pod_on_a_dead_node_stays_until_the_node_returns() {
    let cluster = Cluster::shared().await;
    let namespace = cluster.namespace("dead").await;
    let nodes = namespace.nodes(&["h100-550", "h100-550"]).await;
    let node = node_of(&namespace, &pod(&namespace, "lost", "nvidia.com/gpu", 8)).await;
    assert_ne!(node_of(&namespace, &pod(&namespace, "witness", "nvidia.com/gpu", 8)).await, node);
    assert!(nodes.contains(&node));
    cluster.node_down(&node).await;
    let pods = namespace.pods();
    pods.delete("lost").await;
    // KWOK hears of pods in order: when the second is gone, it would have taken the first one.
    pods.delete("witness").await;
    pods.gone("witness").await;
    let lost = namespace.api::<Pod>().get("lost").await.unwrap();
    assert!(lost.metadata.deletion_timestamp.is_some());
    cluster.node_up(&node).await;
    pods.gone("lost").await;
}

#[tokio::test]
async fn a_test_takes_its_namespace_and_nodes_with_it() {
    let cluster = Cluster::shared().await;
    let client = cluster.client().await;
    let namespace = cluster.namespace("over").await;
    let nodes = namespace.nodes(&["cpu"]).await;
    let name = namespace.name().to_owned();
    drop(namespace);
    assert!(Api::<Node>::all(client.clone()).get_opt(&nodes[0]).await.unwrap().is_none());
    let gone =
        await_condition(Api::<NamespaceObject>::all(client), &name, |found: Option<&NamespaceObject>| found.is_none());
    tokio::time::timeout(PATIENCE, gone).await.expect("the namespace stays").unwrap();
}
