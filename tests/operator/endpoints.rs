//! Endpoints on a real API server, with the controllers of Deployments and autoscalers, and pods that KWOK plays.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use crds::contract::SERVE_PORT;
use crds::status::{EndpointPhase, ModelEndpointStatus};
use crds::{ModelEndpoint, TrainingJob};
use http::Method;
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams};
use serde_json::{Value, json};
use tests::cluster::Leader;

use crate::wire::Fate;
use crate::yard::{Yard, trained};

/// Where KWOK starts no pod: nothing plays a node of this name.
const NOWHERE: &str = "nowhere";

impl Yard {
    pub(crate) async fn ready(&self, name: &str, revision: u32) -> ModelEndpointStatus {
        self.endpoint_until(name, move |status| {
            status.phase == EndpointPhase::Ready && status.revision == revision && status.latest_revision == revision
        })
        .await
    }

    async fn deployment(&self, name: &str) -> Deployment {
        self.namespace.api().get(&format!("{name}-m")).await.expect("a Deployment")
    }
}

/// The one container of a Deployment's pods.
fn container(deployment: &Deployment) -> Value {
    json!(deployment)["spec"]["template"]["spec"]["containers"][0].clone()
}

/// What the server is told.
fn assignment(deployment: &Deployment) -> Value {
    let container = container(deployment);
    let variables = container["env"].as_array().expect("variables");
    let found = variables.iter().find(|variable| variable["name"] == "TRAINYARD_ASSIGNMENT").expect("an assignment");
    serde_json::from_str(found["value"].as_str().expect("text")).expect("JSON")
}

#[tokio::test]
async fn an_endpoint_comes_to_answer_with_all_that_belongs_to_it() {
    let yard = Yard::new("me-life", &["cpu"]).await;
    yard.claim("models").await;
    let service = json!({"port": 80, "annotations": {"example.com/dns": "a"}});
    yard.serve("a", json!({"replicas": 2, "model": {"uri": "pvc://models/a"}, "service": service})).await;
    let status = yard.ready("a", 1).await;
    assert_eq!((status.replicas, status.ready_replicas), (2, 2));
    assert_eq!(status.url, Some(format!("http://a-m.{}.svc:80", yard.namespace.name())));
    assert_eq!(status.message, "All 2 replicas answer by revision 1");
    assert_eq!(status.model.map(|model| model.uri).as_deref(), Some("pvc://models/a"));

    let deployment = yard.deployment("a").await;
    let told = assignment(&deployment);
    assert_eq!(
        (&told["kind"], &told["attempt"], &told["spec"]["model"], &told["spec"]["infrastructure"]["device"]),
        (&json!("ModelEndpoint"), &json!(1), &json!({"uri": "file:///volumes/models/a"}), &json!("Cpu"))
    );
    let container = container(&deployment);
    assert_eq!(container["args"], json!(["serve"]));
    assert_eq!(
        container["readinessProbe"]["httpGet"],
        json!({"path": "/v2/health/ready", "port": "http", "scheme": "HTTP"})
    );
    assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], json!(true));
    let void = json!({"name": "NVIDIA_VISIBLE_DEVICES", "value": "void"});
    assert!(container["env"].as_array().expect("variables").contains(&void), "{container}");
    let spec = &json!(deployment)["spec"];
    assert_eq!(spec["strategy"]["rollingUpdate"], json!({"maxSurge": 1, "maxUnavailable": 0}));
    assert_eq!(spec["template"]["spec"]["automountServiceAccountToken"], json!(false));
    let service: Service = yard.namespace.api().get("a-m").await.expect("a Service");
    let service = json!(service);
    assert_eq!((&service["spec"]["ports"][0]["port"], &service["spec"]["type"]), (&json!(80), &json!("ClusterIP")));
    assert_eq!(service["metadata"]["annotations"]["example.com/dns"], json!("a"));
    let budget: PodDisruptionBudget = yard.namespace.api().get("a-m").await.expect("a budget");
    assert_eq!(json!(budget)["spec"]["maxUnavailable"], json!(1));
    yard.patiently(async || {
        let events = yard.events().await;
        events.contains("NewRevision") && events.contains("ReplicasReady")
    })
    .await;

    // What was deleted or changed by hand is put right, and what was taken out of the spec goes.
    yard.namespace.api::<Service>().delete("a-m", &DeleteParams::default()).await.expect("a deletion");
    yard.namespace.wait("a-m", |service: Option<&Service>| service.is_some()).await;
    let is_right = |service: Option<&Service>| {
        let ports = service.and_then(|service| service.spec.as_ref()?.ports.clone()).unwrap_or_default();
        ports.len() == 2
            && ports.iter().all(|one| json!(one.target_port) == json!(one.name))
            && ports.iter().any(|one| one.port == 80)
    };
    for port in [json!({"name": "http", "port": 80, "targetPort": 9}), json!({"name": "http", "port": 81})] {
        let wrong = Patch::Merge(json!({"spec": {"ports": [port]}}));
        let changed: Service =
            yard.namespace.api().patch("a-m", &PatchParams::default(), &wrong).await.expect("a change");
        assert!(!is_right(Some(&changed)));
        yard.namespace.wait("a-m", is_right).await;
    }
    yard.change::<ModelEndpoint>("a", json!({"service": {"annotations": {"example.com/dns": null}}})).await;
    let bare = |service: Option<&Service>| {
        let annotations = service.and_then(|service| service.metadata.annotations.clone()).unwrap_or_default();
        service.is_some() && !annotations.contains_key("example.com/dns")
    };
    yard.namespace.wait("a-m", bare).await;
    yard.namespace.api::<Deployment>().delete("a-m", &DeleteParams::default()).await.expect("a deletion");
    yard.ready("a", 2).await;
}

#[tokio::test]
async fn pods_that_somebody_has_changed_are_put_right() {
    let yard = Yard::new("me-changed", &["cpu"]).await;
    yard.serve("a", json!({})).await;
    yard.ready("a", 1).await;
    let image = container(&yard.deployment("a").await)["image"].clone();
    let wrong = json!({"spec": {"template": {"spec": {"containers": [{"name": "trainer", "image": "other:1"}]}}}});
    let deployments: Api<Deployment> = yard.namespace.api();
    let changed = deployments.patch("a-m", &PatchParams::default(), &Patch::Strategic(wrong)).await.expect("a change");
    assert_eq!(container(&changed)["image"], json!("other:1"));
    let is_right = |there: Option<&Deployment>| there.is_some_and(|there| container(there)["image"] == image);
    yard.namespace.wait("a-m", is_right).await;
    yard.ready("a", 1).await;
    yard.patiently(async || yard.events().await.contains("TemplateChanged")).await;
}

#[tokio::test]
async fn a_new_revision_takes_over_and_one_that_never_gets_ready_is_held() {
    let yard = Yard::new("me-hold", &["cpu"]).await;
    yard.serve("a", json!({"replicas": 2, "progressDeadlineSeconds": 10})).await;
    yard.ready("a", 1).await;
    yard.change::<ModelEndpoint>("a", json!({"explain": true})).await;
    yard.ready("a", 2).await;
    assert_eq!(assignment(&yard.deployment("a").await)["spec"]["explain"], json!(true));

    let pod = json!({"pod": {"nodeSelector": {"kubernetes.io/hostname": NOWHERE}}});
    yard.change::<ModelEndpoint>("a", json!({"infrastructure": pod})).await;
    let held = yard.endpoint_until("a", |status| status.phase == EndpointPhase::Held).await;
    assert_eq!((held.revision, held.latest_revision, held.ready_replicas), (2, 3, 2));
    assert!(
        held.message.starts_with("Revision 3 did not get ready within 10 s: no node has a place for it"),
        "{held:?}"
    );
    assert!(held.message.contains("Revision 2 goes on answering"), "{held:?}");
    yard.patiently(async || yard.events().await.contains("ProgressDeadlineExceeded")).await;

    let back = json!({"infrastructure": {"pod": {"nodeSelector": {"kubernetes.io/hostname": null}}}});
    yard.change::<ModelEndpoint>("a", back).await;
    yard.ready("a", 4).await;
}

#[tokio::test]
async fn an_endpoint_is_scaled_by_people_and_by_an_autoscaler_through_one_number() {
    let yard = Yard::new("me-scale", &["cpu"]).await;
    yard.serve("a", json!({})).await;
    yard.ready("a", 1).await;
    let endpoints: Api<ModelEndpoint> = yard.namespace.api();
    let scale = Patch::Merge(json!({"spec": {"replicas": 3}}));
    let scaled = endpoints.patch_scale("a", &PatchParams::default(), &scale).await.expect("a scale");
    let selector = scaled.status.and_then(|status| status.selector);
    assert!(selector.is_some_and(|selector| selector.contains("trainyard.dev/job=a")), "for autoscalers");
    let status = yard.endpoint_until("a", |status| status.ready_replicas == 3).await;
    assert_eq!((status.latest_revision, status.replicas), (1, 3), "the pods stay as they are");

    yard.change::<ModelEndpoint>("a", json!({"autoscaling": {"minReplicas": 4, "maxReplicas": 6, "scaleTarget": 20}}))
        .await;
    yard.patiently(async || {
        let status = yard.endpoint_until("a", |_| true).await;
        status.ready_replicas == 4
    })
    .await;
    let autoscaler: HorizontalPodAutoscaler = yard.namespace.api().get("a-m").await.expect("an autoscaler");
    let spec = &json!(autoscaler)["spec"];
    assert_eq!(
        spec["scaleTargetRef"],
        json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": "ModelEndpoint", "name": "a"})
    );
    assert_eq!(spec["metrics"][0]["pods"]["metric"]["name"], json!("trainyard_queue_milliseconds"));
    yard.change::<ModelEndpoint>("a", json!({"autoscaling": null})).await;
    yard.namespace.wait("a-m", |autoscaler: Option<&HorizontalPodAutoscaler>| autoscaler.is_none()).await;

    yard.change::<ModelEndpoint>("a", json!({"suspend": true})).await;
    let status = yard.endpoint_until("a", |status| status.phase == EndpointPhase::Suspended).await;
    assert_eq!((status.replicas, status.ready_replicas, status.latest_revision), (0, 0, 1));
    yard.namespace.wait("a-m", |service: Option<&Service>| service.is_some()).await;
    yard.change::<ModelEndpoint>("a", json!({"suspend": false})).await;
    let status = yard.ready("a", 1).await;
    assert_eq!(status.ready_replicas, 4);
}

#[tokio::test]
async fn the_model_of_a_job_is_waited_for_and_a_newer_one_is_followed_if_asked() {
    let yard = Yard::new("me-follow", &["cpu"]).await;
    yard.claim("models").await;
    yard.serve("stays", json!({"model": {"uri": null, "trainingJob": "a"}})).await;
    yard.serve("follows", json!({"model": {"uri": null, "trainingJob": "a"}, "followTrainingJob": true})).await;
    let waits = |status: &ModelEndpointStatus| status.message.starts_with("waits for the TrainingJob a: there is none");
    yard.endpoint_until("stays", waits).await;
    assert!(yard.events().await.contains("WaitingForModel"), "{:?}", yard.events().await);
    yard.train("a", json!({"output": {"uri": "pvc://models/first"}})).await;
    yard.namespace.pods().finish("a-t1-0", 0, &trained()).await;
    let model = |status: ModelEndpointStatus| status.model.map(|model| (model.uri, model.metric));
    for name in ["stays", "follows"] {
        assert_eq!(model(yard.ready(name, 1).await), Some(("pvc://models/first".to_owned(), Some(0.97))));
    }
    yard.namespace.api::<TrainingJob>().delete("a", &DeleteParams::default()).await.expect("a deletion");
    yard.namespace.pods().gone("a-t1-0").await;
    yard.train("a", json!({"output": {"uri": "pvc://models/second"}})).await;
    yard.namespace.pods().finish("a-t1-0", 0, &trained()).await;
    assert_eq!(model(yard.ready("follows", 2).await), Some(("pvc://models/second".to_owned(), Some(0.97))));
    assert_eq!(model(yard.ready("stays", 1).await), Some(("pvc://models/first".to_owned(), Some(0.97))));
}

#[tokio::test]
async fn an_endpoint_takes_a_gpu_if_there_is_one_and_says_when_it_cannot_use_it() {
    let yard = Yard::new("me-gpu", &["h200-580", "cpu"]).await;
    let anywhere = json!({"infrastructure": {"device": "Auto"}});
    yard.serve("auto", anywhere.clone()).await;
    let status = yard.ready("auto", 1).await;
    let placement = status.placement.expect("a placement");
    assert_eq!((json!(placement.device), placement.gpus), (json!("Gpu"), 1));
    let deployment = yard.deployment("auto").await;
    assert_eq!(container(&deployment)["resources"]["limits"], json!({"nvidia.com/gpu": "1"}));
    let pods = yard.namespace.api::<Pod>().list(&ListParams::default().labels("trainyard.dev/job=auto")).await;
    let pod = pods.expect("pods").items.remove(0);
    let node = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()).unwrap_or_default();
    assert!(node.starts_with("h200"), "{node}");

    // Its pod says that it computes on a CPU.
    let said = json!({
        "contractVersion": 1, "revision": 1, "ready": true, "device": "Cpu", "deviceReason": "the driver is too old",
        "digest": format!("sha256:{}", "ab".repeat(32)),
    });
    let server = Leader::start((Ipv4Addr::new(127, 7, 1, 1), SERVE_PORT), move |_| said.clone()).await;
    server.lead(&yard.namespace.pods(), pod.metadata.name.as_deref().unwrap_or_default()).await;
    let status =
        yard.endpoint_until("auto", |status| status.model.as_ref().is_some_and(|it| it.digest.is_some())).await;
    let placement = status.placement.expect("a placement");
    assert_eq!(json!(placement.device), json!("Cpu"));
    assert_eq!(placement.reason, "a pod with a GPU computes on CPUs: the driver is too old");
    yard.patiently(async || yard.events().await.contains("NoGpu")).await;

    let cpus = Yard::new("me-cpu", &["cpu"]).await;
    cpus.serve("auto", anywhere).await;
    let placement = cpus.ready("auto", 1).await.placement.expect("a placement");
    assert_eq!(json!(placement.device), json!("Cpu"));
    assert!(placement.reason.starts_with("no GPUs for this job"), "{placement:?}");
    cpus.serve("gpu", json!({"infrastructure": {"device": "Gpu"}})).await;
    let status = cpus.endpoint_until("gpu", |status| !status.message.is_empty()).await;
    assert_eq!(status.phase, EndpointPhase::Pending);
    let condition = status.conditions.iter().find(|condition| condition.type_ == "Schedulable").expect("a condition");
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "NoFittingNode"));
}

#[tokio::test]
async fn a_token_is_mounted_as_a_file_and_never_read() {
    let yard = Yard::new("me-token", &["cpu"]).await;
    yard.serve("a", json!({"authentication": {"bearerToken": {"name": "a-token", "key": "bearer"}}})).await;
    yard.endpoint_until("a", |status| status.latest_revision == 1).await;
    let deployment = yard.deployment("a").await;
    let volumes = &json!(deployment)["spec"]["template"]["spec"]["volumes"];
    let token = volumes.as_array().expect("volumes").iter().find(|volume| volume["name"] == "token").expect("a volume");
    assert_eq!(token["secret"]["items"], json!([{"key": "bearer", "path": "token"}]));
    let file = json!({"name": "TRAINYARD_TOKEN_FILE", "value": "/run/trainyard/token"});
    assert!(container(&deployment)["env"].as_array().expect("variables").contains(&file));
}

#[tokio::test]
async fn what_a_bad_spec_asks_for_is_told_and_does_not_touch_who_answers() {
    let yard = Yard::new("me-bad", &["cpu"]).await;
    yard.serve("a", json!({"infrastructure": {"processesPerNode": 2}})).await;
    let status = yard.endpoint_until("a", |status| status.phase == EndpointPhase::Failed).await;
    assert!(status.message.contains("a replica computes with one process"), "{status:?}");
    yard.change::<ModelEndpoint>("a", json!({"infrastructure": {"processesPerNode": 1}})).await;
    yard.ready("a", 1).await;
    // What only the API server knows to be wrong.
    let wrong = json!({"pod": {"podSecurityContext": {"runAsUser": -1}}});
    yard.change::<ModelEndpoint>("a", json!({"infrastructure": wrong})).await;
    let held = yard.endpoint_until("a", |status| status.phase == EndpointPhase::Held).await;
    assert_eq!((held.revision, held.ready_replicas), (1, 1));
    assert!(held.message.contains("runAsUser"), "{held:?}");
    yard.change::<ModelEndpoint>("a", json!({"infrastructure": {"pod": {"podSecurityContext": null}}})).await;
    yard.ready("a", 1).await;
}

#[tokio::test]
async fn an_endpoint_that_is_made_anew_waits_for_what_the_old_one_has_left() {
    let yard = Yard::new("me-anew", &["cpu"]).await;
    yard.serve("a", json!({})).await;
    yard.ready("a", 1).await;
    yard.namespace.api::<ModelEndpoint>().delete("a", &DeleteParams::default()).await.expect("a deletion");
    yard.serve("a", json!({"explain": true})).await;
    yard.ready("a", 1).await;
    assert_eq!(assignment(&yard.deployment("a").await)["spec"]["explain"], json!(true));
}

#[tokio::test]
async fn a_service_and_a_deployment_of_somebody_else_are_told_of_and_never_touched() {
    let yard = Yard::new("me-taken", &["cpu"]).await;
    let theirs = json!({"app": "theirs"});
    let service = json!({"metadata": {"name": "a-m"}, "spec": {"selector": theirs, "ports": [{"port": 80}]}});
    let service: Service = yard.namespace.create(service).await;
    let pod = json!({"metadata": {"labels": theirs}, "spec": {"containers": [{"name": "a", "image": "none"}]}});
    let spec = json!({"replicas": 0, "selector": {"matchLabels": theirs}, "template": pod});
    let deployment: Deployment = yard.namespace.create(json!({"metadata": {"name": "a-m"}, "spec": spec})).await;
    yard.serve("a", json!({})).await;
    let told = |kind: &str| {
        let sentence = format!("{kind} a-m exists and belongs to somebody else: delete it, or take another name");
        move |status: &ModelEndpointStatus| status.message.contains(&sentence)
    };
    yard.endpoint_until("a", told("Service")).await;
    let there: Service = yard.namespace.api().get("a-m").await.expect("their Service");
    assert_eq!(there, service);
    yard.namespace.api::<Service>().delete("a-m", &DeleteParams::default()).await.expect("a deletion");
    yard.endpoint_until("a", told("Deployment")).await;
    let there = yard.deployment("a").await;
    // Its status is its controller's.
    assert_eq!((&there.metadata.owner_references, &there.spec), (&None, &deployment.spec));
    yard.namespace.api::<Deployment>().delete("a-m", &DeleteParams::default()).await.expect("a deletion");
    yard.ready("a", 1).await;
}

#[tokio::test]
async fn nothing_is_written_to_an_endpoint_that_is_as_it_should_be() {
    let mut yard = Yard::idle("me-rest", &["cpu"]).await;
    let writes = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&writes);
    yard.start_operator_through(move |request| {
        let path = request.uri().path();
        let is_about_it = path.ends_with("/a-m") || path.ends_with("/a/status");
        counted.fetch_add(u32::from(is_about_it && request.method() != Method::GET), Ordering::SeqCst);
        Fate::Pass
    });
    yard.serve("a", json!({})).await;
    yard.ready("a", 1).await;
    // While others come to answer, its own pods have settled.
    yard.serve("b", json!({})).await;
    yard.ready("b", 1).await;
    let before = writes.load(Ordering::SeqCst);
    assert!(before >= 4, "a Service, a budget, a Deployment and a status: {before}");
    let poke = Patch::Merge(json!({"metadata": {"annotations": {"example.com/poked": "1"}}}));
    yard.namespace.api::<ModelEndpoint>().patch("a", &PatchParams::default(), &poke).await.expect("a change");
    yard.serve("c", json!({})).await;
    yard.ready("c", 1).await;
    assert_eq!(writes.load(Ordering::SeqCst), before);
}
