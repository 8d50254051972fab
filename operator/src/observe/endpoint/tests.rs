//! Facts out of objects as the API server has them.

use crds::contract::{annotations, labels};
use crds::infrastructure::Device;
use crds::status::ModelStatus;
use crds::{ModelEndpoint, ModelEndpointSpec};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use super::{Choice, Endpoint, Part, Record, Rollout, Server, balancer};

fn record(number: u32) -> Record {
    Record {
        number,
        fingerprint: "f".to_owned(),
        training_job: None,
        model: ModelStatus { uri: "pvc://models/a".to_owned(), ..ModelStatus::default() },
        place: Choice { device: Device::Cpu, runtime: None, gpus: 0, reason: "asked for".to_owned() },
    }
}

#[expect(clippy::needless_pass_by_value, reason = "tests write the status in place")]
fn pod(status: Value) -> Server {
    let record = serde_json::to_string(&record(2)).expect("JSON");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {
            "name": "a-m-1-x", "uid": "u", "labels": {labels::ATTEMPT: "2"}, "annotations": {annotations::REVISION: record},
        },
        "status": status,
    }))
    .expect("a pod");
    Server::of(&pod).expect("facts")
}

#[expect(clippy::needless_pass_by_value, reason = "tests write the state in place")]
fn container(state: Value, last: Value) -> Value {
    let container = json!({"name": "trainer", "image": "", "imageID": "", "ready": false, "restartCount": 1, "state": state, "lastState": last});
    json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "False"}], "containerStatuses": [container]})
}

#[test]
fn a_pod_tells_whether_it_answers_and_if_not_why() {
    let said = json!({"contractVersion": 1, "cause": "DataMissing", "message": "there is no model.json in file:///volumes/models/a.", "hint": "give a model folder"});
    let ended = |code: i32, reason: &str, message: &str| json!({"terminated": {"exitCode": code, "reason": reason, "message": message}});
    let waits = |reason: &str, message: &str| json!({"waiting": {"reason": reason, "message": message}});
    for (status, why) in [
        (json!({"conditions": [{"type": "Ready", "status": "True"}]}), ""),
        (container(waits("ContainerCreating", ""), json!({})), ""),
        (container(waits("ImagePullBackOff", "no such image"), json!({})), "ImagePullBackOff: no such image"),
        (
            container(waits("CrashLoopBackOff", "back-off"), ended(66, "Error", &said.to_string())),
            "its server ended (DataMissing): there is no model.json in file:///volumes/models/a. give a model folder",
        ),
        (
            container(waits("CrashLoopBackOff", "back-off"), ended(137, "OOMKilled", "")),
            "its server ended (OtherRetryable): it took more memory than its limit allows",
        ),
        (container(json!({"running": {}}), ended(1, "Error", "")), ""),
        (
            json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/4 nodes are available"}]}),
            "no node has a place for it: 0/4 nodes are available",
        ),
    ] {
        let server = pod(status);
        assert_eq!(server.why, why);
        assert_eq!((server.revision, server.record), (2, Some(record(2))));
    }
}

#[test]
fn a_deployment_tells_of_its_rollout() {
    let annotation = serde_json::to_string(&record(3)).expect("JSON");
    let deployment: Deployment = serde_json::from_value(json!({
        "metadata": {"name": "a-m", "uid": "u", "generation": 4},
        "spec": {
            "replicas": 3, "progressDeadlineSeconds": 60, "selector": {},
            "template": {
                "metadata": {"annotations": {annotations::REVISION: annotation}},
                "spec": {"containers": [{"name": "trainer", "image": "t:1"}]},
            },
        },
        "status": {
            "observedGeneration": 4, "replicas": 4, "updatedReplicas": 1, "readyReplicas": 3,
            "conditions": [
                {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"},
                {"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate", "message": "exceeded quota"},
            ],
        },
    }))
    .expect("a Deployment");
    let expected = Rollout {
        uid: "u".to_owned(),
        record: Some(record(3)),
        template: String::new(),
        wished: 3,
        deadline_seconds: 60,
        is_seen: true,
        replicas: 4,
        updated: 1,
        ready: 3,
        is_overdue: true,
        refused: "exceeded quota".to_owned(),
    };
    let template = Rollout::of(&deployment).template;
    let expected = Rollout { template: template.clone(), ..expected };
    assert_eq!(Rollout::of(&deployment), expected);
    let mut newer = deployment;
    newer.metadata.generation = Some(5);
    assert_eq!(Rollout::of(&newer), Rollout { is_seen: false, is_overdue: false, ..expected });

    let spec = newer.spec.as_mut().expect("a spec");
    let restarted = ("kubectl.kubernetes.io/restartedAt".to_owned(), "now".to_owned());
    spec.template.metadata.get_or_insert_default().annotations.get_or_insert_default().extend([restarted]);
    assert_eq!(Rollout::of(&newer).template, template, "they are only made anew");
    let pods = newer.spec.as_mut().and_then(|spec| spec.template.spec.as_mut()).expect("pods");
    pods.containers[0].image = Some("t:2".to_owned());
    assert_ne!(Rollout::of(&newer).template, template);
}

#[test]
fn a_part_is_as_wished_when_it_has_what_was_wished_whatever_else_it_has() {
    let wished = json!({"metadata": {"annotations": {"a": "1"}}, "spec": {"ports": [{"name": "http", "port": 80}], "type": "ClusterIP"}});
    let seen = |port: u16, annotation: &str| {
        json!({
            "metadata": {"annotations": {"a": annotation, "b": "2"}, "uid": "u"},
            "spec": {"ports": [{"name": "grpc", "port": 81}, {"name": "http", "port": port, "nodePort": 3000}], "type": "ClusterIP"},
            "status": {"loadBalancer": {"ingress": [{"ip": "fd00::1"}]}},
        })
    };
    assert_eq!(Part::of(None, &wished), Part::Missing);
    assert_eq!(Part::of(Some(&seen(80, "1")), &wished), Part::AsWished);
    assert_eq!(Part::of(Some(&seen(90, "1")), &wished), Part::Differs);
    assert_eq!(Part::of(Some(&seen(80, "2")), &wished), Part::Differs);
    assert_eq!(balancer(&seen(80, "1")).as_deref(), Some("[fd00::1]"));
    assert_eq!(
        balancer(&json!({"status": {"loadBalancer": {"ingress": [{"hostname": "a.example"}]}}})).as_deref(),
        Some("a.example")
    );
    assert_eq!(balancer(&json!({})), None);
}

#[test]
fn a_recipe_is_what_makes_pods_and_differs_from_the_default() {
    let recipe = |spec: Value| {
        let spec: ModelEndpointSpec = serde_json::from_value(spec).expect("a spec");
        Endpoint::of(&ModelEndpoint::new("a", spec)).recipe
    };
    let least = json!({"model": {"uri": "pvc://models/a"}});
    assert_eq!(recipe(least), json!({}));
    let apart = json!({
        "model": {"trainingJob": "a"}, "followTrainingJob": true, "replicas": 3, "autoscaling": {"maxReplicas": 3},
        "service": {"port": 80}, "suspend": true, "progressDeadlineSeconds": 30, "batching": {"maxBatchSize": 16},
    });
    assert_eq!(recipe(apart), json!({}));
    let other = json!({"model": {}, "batching": {"maxBatchSize": 8}, "infrastructure": {"pod": {"labels": {"team": "vision"}}}});
    assert_eq!(
        recipe(other),
        json!({"batching": {"maxBatchSize": 8}, "infrastructure": {"pod": {"labels": {"team": "vision"}}}})
    );
}
