//! Nodes that KWOK plays, from the files in `tests/cluster/nodes`: capacity, and the labels of GPU Feature Discovery as it
//! wrote them when those drivers were new. Each test has nodes of its own, told apart by a label.

use std::fs;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::runtime::wait::Condition;
use serde_json::{Value, json};

use super::namespace::{create, wait};
use super::programs::module;
use super::{Cluster, Namespace};

/// The label that says to which namespace, and thereby test, a node belongs.
pub const OWNER_LABEL: &str = "trainyard-test";

/// KWOK plays the nodes that have this label.
const PLAYED: &str = "kwok.x-k8s.io/node";

/// Names of all files in `tests/cluster/nodes`, sorted.
///
/// # Panics
/// Where the folder can't be read.
pub fn templates() -> Vec<String> {
    let folder = module().join("nodes");
    let entries = fs::read_dir(&folder).unwrap_or_else(|fault| panic!("{}: {fault}", folder.display()));
    let mut names: Vec<_> =
        entries.filter_map(|entry| Some(entry.ok()?.file_name().to_str()?.strip_suffix(".yaml")?.to_owned())).collect();
    names.sort();
    names
}

/// Names of the files that a pool has.
fn pool(name: &str) -> Vec<String> {
    let named = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    match name {
        "mixed" => templates(),
        "cpu" => named(&["cpu"; 4]),
        "h100" => named(&["h100-550"; 4]),
        "shared" => named(&["a100-mig-single", "a100-mig-mixed", "t4-time-sliced", "l4-mps"]),
        "old" => named(&["v100-418", "t4-440", "a100-450"]),
        "unlabelled" => named(&["gpu-unlabelled"; 2]),
        _ => panic!("there is no pool {name}: there are mixed, cpu, h100, shared, old and unlabelled"),
    }
}

fn template(name: &str) -> Value {
    let path = module().join("nodes").join(name).with_extension("yaml");
    let text = fs::read_to_string(&path)
        .unwrap_or_else(|fault| panic!("{}: {fault}. There are: {}", path.display(), templates().join(", ")));
    serde_saphyr::from_str(&text).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()))
}

fn ready(status: &'static str) -> impl Condition<Node> {
    move |node: Option<&Node>| {
        let conditions = node.and_then(|node| node.status.as_ref()?.conditions.as_ref());
        conditions.into_iter().flatten().any(|condition| condition.type_ == "Ready" && condition.status == status)
    }
}

impl Namespace<'_> {
    /// Adds nodes from files of `tests/cluster/nodes`, and waits until they are ready and free of taints. Returns their
    /// names.
    pub async fn nodes(&self, templates: &[&str]) -> Vec<String> {
        let api = Api::<Node>::all(self.client());
        let mut names = Vec::new();
        for (index, file) in templates.iter().enumerate() {
            let mut node = template(file);
            let name = format!("{file}-{index}.{}", self.name());
            node["metadata"]["name"] = json!(name);
            node["metadata"]["labels"]["kubernetes.io/hostname"] = json!(name);
            node["metadata"]["labels"][OWNER_LABEL] = json!(self.name());
            create(&api, node).await;
            names.push(name);
        }
        for name in &names {
            let taintless = |node: Option<&Node>| {
                node.and_then(|node| node.spec.as_ref()).is_none_or(|spec| spec.taints.iter().flatten().count() == 0)
            };
            wait(api.clone(), name, ready("True").and(taintless)).await;
        }
        names
    }

    /// Adds a pool of nodes: `mixed` (one of each file), `cpu`, `h100`, `shared`, `old` or `unlabelled`. Returns their
    /// names.
    pub async fn pool(&self, name: &str) -> Vec<String> {
        let files = pool(name);
        self.nodes(&files.iter().map(String::as_str).collect::<Vec<_>>()).await
    }
}

impl Cluster {
    /// Takes a node down as a power cut would: nobody plays it any more, and the node is said to be unreachable at once
    /// instead of after a minute. Its pods stay as they are; those that are deleted stay Terminating.
    ///
    /// # Panics
    /// Where the control plane refuses.
    pub async fn node_down(&self, name: &str) {
        let api = Api::<Node>::all(self.client().await);
        self.play(&api, name, Value::Null).await;
        self.players_have_seen(&api, name).await;
        let condition = json!({
            "type": "Ready", "status": "Unknown", "reason": "NodeStatusUnknown", "message": "Kubelet stopped posting node status.",
        });
        let status = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        api.patch_status(name, &PatchParams::default(), &status)
            .await
            .unwrap_or_else(|fault| panic!("{name}: {fault}"));
        // The node lifecycle controller has seen it when it has tainted the node.
        let unreachable = |node: Option<&Node>| {
            let taints = node.and_then(|node| node.spec.as_ref()?.taints.as_ref());
            taints.into_iter().flatten().any(|taint| taint.key == "node.kubernetes.io/unreachable")
        };
        wait(api, name, ready("Unknown").and(unreachable)).await;
    }

    /// Lets a node report a condition, as a monitor of its GPUs does.
    ///
    /// # Panics
    /// Where the control plane refuses.
    pub async fn node_reports(&self, name: &str, kind: &str, message: &str) {
        let api = Api::<Node>::all(self.client().await);
        let condition = json!({"type": kind, "status": "True", "reason": "Reported", "message": message});
        let status = Patch::Strategic(json!({"status": {"conditions": [condition]}}));
        let reported = api.patch_status(name, &PatchParams::default(), &status).await;
        reported.map(drop).unwrap_or_else(|fault| panic!("{name}: {fault}"));
    }

    /// Lets a node that was taken down return.
    ///
    /// # Panics
    /// Where the control plane refuses.
    pub async fn node_up(&self, name: &str) {
        let api = Api::<Node>::all(self.client().await);
        self.play(&api, name, json!("fake")).await;
        wait(api, name, ready("True")).await;
    }

    /// Waits until KWOK has heard what was last written to a node: it takes the nodes' changes in order, so that it has
    /// when a node that was added later is ready.
    async fn players_have_seen(&self, api: &Api<Node>, name: &str) {
        let witness = format!("{name}.witness");
        let mut node = template("cpu");
        node["metadata"]["name"] = json!(witness);
        node["spec"] = json!({"unschedulable": true});
        create(api, node).await;
        wait(api.clone(), &witness, ready("True")).await;
        let deleted = api.delete(&witness, &DeleteParams::default()).await;
        deleted.map(drop).unwrap_or_else(|fault| panic!("{witness}: {fault}"));
    }

    async fn play(&self, api: &Api<Node>, name: &str, by: Value) {
        let patch = Patch::Merge(json!({"metadata": {"labels": {PLAYED: by}}}));
        api.patch(name, &PatchParams::default(), &patch).await.unwrap_or_else(|fault| panic!("{name}: {fault}"));
    }
}
