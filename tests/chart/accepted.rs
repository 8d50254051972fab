//! What a real API server says of what the chart renders to, in a namespace that enforces the Pod Security level
//! `restricted`; and that no field is younger than the oldest Kubernetes that the chart is for.

use std::fs;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace as NamespaceObject, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Patch, PatchParams, ValidationDirective};
use kube::{Api, Client};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tests::chart;
use tests::cluster::{Cluster, Namespace, dynamic};

use crate::golden::{SETS, rendered};

/// A namespace whose pods must be as restricted as can be.
pub(crate) async fn restricted<'a>(cluster: &'a Cluster, name: &str) -> Namespace<'a> {
    let namespace = cluster.namespace(name).await;
    let labels = json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}});
    let all = Api::<NamespaceObject>::all(namespace.client());
    all.patch(namespace.name(), &PatchParams::default(), &Patch::Merge(labels)).await.expect("a label");
    namespace
}

/// Applies as `kubectl apply --server-side --dry-run=server --validate=strict` does.
async fn dry_run(client: &Client, namespace: &str, object: &Value) {
    let parameters = PatchParams {
        dry_run: true,
        field_validation: Some(ValidationDirective::Strict),
        ..PatchParams::apply("tests").force()
    };
    let (api, name) = dynamic(client, namespace, object);
    let applied = api.patch(&name, &parameters, &Patch::Apply(object)).await;
    applied.map(drop).unwrap_or_else(|fault| panic!("{} {name}: {fault}", object["kind"]));
}

/// The pod of a Deployment, or the pod itself.
fn pod(object: &Value, namespace: &str) -> Option<Value> {
    let mut pod = match object["kind"].as_str()? {
        "Deployment" => object["spec"]["template"].clone(),
        "Pod" => object.clone(),
        _ => return None,
    };
    (pod["apiVersion"], pod["kind"]) = (json!("v1"), json!("Pod"));
    (pod["metadata"]["name"], pod["metadata"]["namespace"]) = (json!("pod"), json!(namespace));
    Some(pod)
}

#[tokio::test]
async fn an_api_server_accepts_all_that_the_chart_renders_to() {
    let cluster = Cluster::shared().await;
    let namespace = restricted(cluster, "accepted").await;
    let client = namespace.client();
    // The Prometheus operator's own definitions, so that its objects are looked at as well.
    for kind in ["servicemonitors", "podmonitors", "prometheusrules"] {
        let path = chart::checker("crds").join(format!("monitoring.coreos.com_{kind}.yaml"));
        cluster.definition(&fs::read_to_string(path).expect("a definition")).await;
    }
    namespace.create::<ServiceAccount>(json!({"metadata": {"name": "trainyard"}})).await;
    namespace.create::<ServiceAccount>(json!({"metadata": {"name": "vision-operator"}})).await;
    for set in SETS {
        let elsewhere = ["--set", &format!("scope.namespace={}", namespace.name())];
        let more: &[&str] = if set == "namespaced" { &elsewhere } else { &[] };
        for object in chart::objects(&rendered(set, namespace.name(), more)) {
            dry_run(&client, namespace.name(), &object).await;
            if let Some(pod) = pod(&object, namespace.name()) {
                dry_run(&client, namespace.name(), &pod).await;
            }
        }
    }
}

#[tokio::test]
async fn the_namespace_refuses_a_pod_that_is_less_restricted() {
    let namespace = restricted(Cluster::shared().await, "refused").await;
    let objects = chart::render("a", namespace.name(), &["--set", "securityContext=null,serviceAccount.create=false"]);
    let loose = objects.iter().find_map(|object| pod(object, namespace.name())).expect("a pod");
    let pods: Api<Pod> = namespace.api();
    let created = pods.create(&Default::default(), &serde_json::from_value(loose).expect("a pod")).await;
    let refusal = created.expect_err("it may do too much").to_string();
    assert!(refusal.contains("violates PodSecurity \"restricted"), "{refusal}");
}

/// An object as the types of the oldest Kubernetes have it: fields that they don't know are lost.
fn of_the_oldest<K: Serialize + DeserializeOwned>(object: &Value) -> Value {
    let typed: K = serde_json::from_value(object.clone()).unwrap_or_else(|fault| panic!("{fault}: {object}"));
    serde_json::to_value(typed).expect("JSON")
}

/// Without what is empty, which the types leave out in part, and with 1 as 1.0.
fn without_empty(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Object(fields) => {
            let kept = fields.iter().map(|(name, value)| (name.clone(), without_empty(value)));
            kept.filter(|(_, value)| *value != json!({}) && *value != json!([]) && !value.is_null()).collect()
        }
        Value::Array(items) => items.iter().map(without_empty).collect(),
        other => other.clone(),
    }
}

#[test]
fn no_field_is_younger_than_the_oldest_kubernetes_that_the_chart_is_for() {
    // The workspace builds with the types of Kubernetes 1.33: this fails to compile when that changes.
    k8s_openapi::k8s_if_1_33! {
        let oldest = "1.33";
    }
    let text = fs::read_to_string(chart::folder().join("Chart.yaml")).unwrap();
    assert!(text.contains(&format!("kubeVersion: \">={oldest}.0-0\"")), "{text}");
    for set in SETS {
        for object in chart::objects(&rendered(set, "trainyard", &[])) {
            let known = match (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()) {
                ("apps/v1", "Deployment") => of_the_oldest::<Deployment>(&object),
                ("v1", "ConfigMap") => of_the_oldest::<ConfigMap>(&object),
                ("v1", "Pod") => of_the_oldest::<Pod>(&object),
                ("v1", "Service") => of_the_oldest::<Service>(&object),
                ("v1", "ServiceAccount") => of_the_oldest::<ServiceAccount>(&object),
                ("networking.k8s.io/v1", "NetworkPolicy") => of_the_oldest::<NetworkPolicy>(&object),
                ("policy/v1", "PodDisruptionBudget") => of_the_oldest::<PodDisruptionBudget>(&object),
                ("rbac.authorization.k8s.io/v1", "ClusterRole") => of_the_oldest::<ClusterRole>(&object),
                ("rbac.authorization.k8s.io/v1", "ClusterRoleBinding") => of_the_oldest::<ClusterRoleBinding>(&object),
                ("rbac.authorization.k8s.io/v1", "Role") => of_the_oldest::<Role>(&object),
                ("rbac.authorization.k8s.io/v1", "RoleBinding") => of_the_oldest::<RoleBinding>(&object),
                ("apiextensions.k8s.io/v1", "CustomResourceDefinition") => {
                    of_the_oldest::<CustomResourceDefinition>(&object)
                }
                ("monitoring.coreos.com/v1", "ServiceMonitor" | "PodMonitor" | "PrometheusRule") => object.clone(),
                other => panic!("{set} has an object of another kind: {other:?}"),
            };
            assert_eq!(without_empty(&known), without_empty(&object), "{set}");
        }
    }
}
