//! What the pods of a job are made of, where a platform team looks first.

use crds::TrainingJob;
use crds::status::Phase;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::{Patch, PatchParams};
use serde_json::{Value, json};

use crate::yard::Yard;

/// The value of a variable in the pod's only container.
fn variable<'a>(pod: &'a Value, name: &str) -> &'a Value {
    let variables = pod.pointer("/spec/containers/0/env").and_then(Value::as_array).expect("an environment");
    variables.iter().find(|one| one["name"] == name).map_or(&Value::Null, |one| &one["value"])
}

#[tokio::test]
async fn pods_pass_the_restricted_profile_with_a_budget_and_no_token() {
    let mut yard = Yard::idle("restricted", &["cpu", "h200-580"]).await;
    let namespaces = Api::<Namespace>::all(yard.namespace.client());
    let label = Patch::Merge(json!({"metadata": {"labels": {"pod-security.kubernetes.io/enforce": "restricted"}}}));
    namespaces.patch(yard.namespace.name(), &PatchParams::default(), &label).await.expect("a namespace");
    yard.start_operator();
    let fetch = json!({"name": "fetch", "image": "registry.example.com/fetch:1"});
    let pod = json!({"sharedMemory": "2Gi", "terminationGracePeriodSeconds": 90, "initContainers": [fetch]});
    yard.train("cpus", json!({"infrastructure": {"nodes": 2, "pod": pod}})).await;
    yard.train("gpus", json!({"infrastructure": {"device": "Gpu", "gpusPerNode": 2}})).await;
    let pods = yard.namespace.pods();
    let (cpu, gpu) = (json!(pods.running("cpus-t1-1").await), json!(pods.running("gpus-t1-0").await));

    assert_eq!(
        cpu.pointer("/spec/containers/0/securityContext"),
        Some(&json!({
            "allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}, "readOnlyRootFilesystem": true,
        }))
    );
    assert_eq!(
        cpu.pointer("/spec/securityContext"),
        Some(&json!({
            "runAsNonRoot": true, "runAsUser": 65532, "runAsGroup": 65532, "fsGroup": 65532,
            "fsGroupChangePolicy": "OnRootMismatch", "seccompProfile": {"type": "RuntimeDefault"},
        }))
    );
    assert_eq!(cpu.pointer("/spec/automountServiceAccountToken"), Some(&json!(false)));
    let ports = cpu.pointer("/spec/containers/0/ports").and_then(Value::as_array).expect("ports");
    assert_eq!(ports.iter().map(|port| &port["name"]).collect::<Vec<_>>(), ["rendezvous", "progress"]);
    assert_eq!(cpu.pointer("/spec/terminationGracePeriodSeconds"), Some(&json!(90)));
    assert_eq!(variable(&cpu, "TRAINYARD_STOP_SECONDS"), "80", "the launcher ends before the kubelet's patience does");
    assert_eq!(
        (variable(&cpu, "NVIDIA_VISIBLE_DEVICES"), variable(&gpu, "NVIDIA_VISIBLE_DEVICES")),
        (&json!("void"), &Value::Null)
    );
    assert_eq!(gpu.pointer("/spec/containers/0/resources/limits"), Some(&json!({"nvidia.com/gpu": "2"})));
    let volumes = cpu.pointer("/spec/volumes").and_then(Value::as_array).expect("volumes");
    let memory = json!({"name": "shared-memory", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}});
    assert!(volumes.contains(&memory), "{volumes:?}");

    yard.phase("cpus", Phase::Running).await;
    let budget: PodDisruptionBudget = yard.namespace.api().get("cpus-t").await.expect("a budget");
    assert_eq!(json!(budget.spec)["minAvailable"], 1, "a drain takes one pod at a time");
    let none: Option<PodDisruptionBudget> = yard.namespace.api().get_opt("gpus-t").await.expect("an answer");
    assert!(none.is_none(), "a pod alone is no gang");
}

#[tokio::test]
async fn an_image_of_ones_own_gets_torchruns_environment_and_keeps_its_user() {
    let yard = Yard::new("custom", &["cpu"]).await;
    let own = json!({"image": "registry.example.com/trainer:2", "command": ["torchrun", "train.py"], "nodes": 2});
    yard.train("a", json!({"infrastructure": own})).await;
    let pod = json!(yard.namespace.pods().running("a-t1-1").await);
    let leader = format!("a-t1-0.a-t.{}.svc", yard.namespace.name());
    for (name, value) in [
        ("PET_NNODES", "2"),
        ("PET_NODE_RANK", "1"),
        ("PET_NPROC_PER_NODE", "1"),
        ("PET_MASTER_ADDR", leader.as_str()),
        ("PET_MASTER_PORT", "29500"),
        ("TORCHELASTIC_RESTART_COUNT", "0"),
        ("MASTER_ADDR", leader.as_str()),
        ("MASTER_PORT", "29500"),
        ("RANK", "1"),
        ("WORLD_SIZE", "2"),
        ("LOCAL_RANK", "0"),
        ("LOCAL_WORLD_SIZE", "1"),
        ("GROUP_RANK", "1"),
    ] {
        assert_eq!(variable(&pod, name), value, "{name}");
    }
    assert_eq!(
        pod.pointer("/spec/containers/0/env").and_then(|env| env.as_array()?.iter().find(|one| one["name"] == "HOME")),
        None
    );
    let container = pod.pointer("/spec/containers/0").expect("a container");
    assert_eq!(
        (&container["image"], &container["command"], &container["args"]),
        (&json!("registry.example.com/trainer:2"), &json!(["torchrun", "train.py"]), &Value::Null)
    );
    assert_eq!(pod.pointer("/spec/securityContext/runAsUser"), None);
    assert_eq!(container["terminationMessagePolicy"], "FallbackToLogsOnError");
    let ports = container["ports"].as_array().expect("ports").iter().map(|port| &port["name"]);
    assert_eq!(ports.collect::<Vec<_>>(), ["rendezvous"], "a PodMonitor looks for no figures here");
    let memory = json!({"name": "shared-memory", "emptyDir": {"medium": "Memory"}});
    assert!(pod.pointer("/spec/volumes").and_then(Value::as_array).expect("volumes").contains(&memory));
}

#[tokio::test]
async fn a_job_of_another_controllers_is_left_alone() {
    let yard = Yard::new("managed", &["cpu"]).await;
    yard.train("theirs", json!({"managedBy": "example.org/another"})).await;
    yard.train("ours", json!({"managedBy": "trainyard.dev/operator"})).await;
    yard.phase("ours", Phase::Running).await;
    let theirs: TrainingJob = yard.namespace.api().get("theirs").await.expect("a job");
    assert!(theirs.status.is_none(), "{:?}", theirs.status);
    let pods: Vec<Pod> = yard.namespace.api().list(&kube::api::ListParams::default()).await.expect("pods").items;
    assert_eq!(pods.len(), 1);
}
