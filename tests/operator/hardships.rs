//! Jobs that meet what nobody meant: fields of the wrong type, a cluster that takes no pods for a while, a catalogue that has
//! changed, a node that goes, a GPU that turns out too old.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crds::ScoringJob;
use crds::infrastructure::Device;
use crds::status::{JobStatus, Phase};
use http::{Method, StatusCode};
use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::Api;
use kube::api::{DeleteParams, Patch, PatchParams};
use operator::cluster::Settings;
use operator::placement::Catalogue;
use serde_json::json;

use crate::wire::{self, Fate};
use crate::yard::{Yard, said, scored};

#[tokio::test]
async fn a_field_of_the_wrong_type_fails_its_job_and_no_other() {
    let mut yard = Yard::idle("misfit", &["cpu"]).await;
    // The schema leaves these objects to the pod's own, which says no to them.
    yard.train("misfit", json!({"infrastructure": {"pod": {"podSecurityContext": {"fsGroup": "1000"}}}})).await;
    yard.train("good", json!({})).await;
    // The first list of the operator has both.
    yard.start_operator();
    let status = yard.phase("misfit", Phase::Failed).await;
    for text in ["spec.infrastructure.pod.podSecurityContext", "\"1000\"", "expected i64"] {
        assert!(status.message.contains(text), "{text}: {}", status.message);
    }
    yard.phase("good", Phase::Running).await;
    yard.train("later", json!({"infrastructure": {"pod": {"volumes": [{"name": "d", "hostPath": "/data"}]}}})).await;
    assert!(yard.phase("later", Phase::Failed).await.message.contains("pod.volumes[0]"));
}

#[tokio::test]
async fn a_cluster_that_takes_no_pods_is_told_of_until_it_does() {
    let mut yard = Yard::idle("lasting", &["cpu"]).await;
    let is_down = Arc::new(AtomicBool::new(true));
    let down = Arc::clone(&is_down);
    yard.start_operator_through(move |request| {
        let creates = request.method() == Method::POST && request.uri().path().ends_with("/pods");
        // As with an admission webhook that nobody answers.
        if creates && down.load(Ordering::SeqCst) {
            Fate::Refused(StatusCode::INTERNAL_SERVER_ERROR)
        } else {
            Fate::Pass
        }
    });
    yard.train("a", json!({})).await;
    let told = yard.until("a", |status| status.message.contains("takes nothing more of it now")).await;
    assert!(
        told.message.contains("create pod a-t1-0") && told.message.contains("refused by the test"),
        "{}",
        told.message
    );
    assert_eq!(told.phase, Phase::Pending);
    is_down.store(false, Ordering::SeqCst);
    yard.phase("a", Phase::Running).await;
}

#[tokio::test]
async fn an_api_server_that_is_busy_is_asked_again_when_it_says() {
    let mut yard = Yard::idle("busy", &["cpu"]).await;
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = Arc::clone(&asked);
    yard.start_operator_with(wire::patient(yard.namespace.client(), move |request| {
        if request.method() != Method::POST || !request.uri().path().ends_with("/pods") {
            return Fate::Pass;
        }
        let mut log = log.lock().expect("no panic");
        log.push(Instant::now());
        if log.len() == 1 { Fate::Busy(3) } else { Fate::Pass }
    }));
    yard.train("a", json!({})).await;
    yard.phase("a", Phase::Running).await;
    let asked = asked.lock().expect("no panic");
    assert_eq!(asked.len(), 2, "by the client itself: a look that failed would have asked before");
    assert!(asked[1] - asked[0] >= Duration::from_secs(3), "{asked:?}");
}

#[tokio::test]
async fn a_pod_of_somebody_else_that_has_the_name_of_ones_own_is_told_of() {
    let yard = Yard::new("taken-pod", &["cpu"]).await;
    let theirs = json!({
        "metadata": {"name": "a-t1-0"},
        "spec": {"containers": [{"name": "a", "image": "none"}], "schedulerName": "nobody"},
    });
    yard.namespace.create::<Pod>(theirs).await;
    yard.train("a", json!({})).await;
    let told =
        yard.until("a", |status| status.message.contains("pod a-t1-0 exists and belongs to somebody else")).await;
    assert_eq!(told.phase, Phase::Pending);
    yard.namespace.pods().delete("a-t1-0").await;
    yard.phase("a", Phase::Running).await;
}

#[tokio::test]
async fn a_service_and_a_budget_of_somebody_else_are_neither_written_over_nor_deleted() {
    let yard = Yard::new("taken", &["cpu"]).await;
    let theirs = json!({"matchLabels": {"app": "theirs"}});
    let service = json!({
        "metadata": {"name": "a-t"}, "spec": {"selector": theirs["matchLabels"], "ports": [{"port": 80}]},
    });
    let service: Service = yard.namespace.create(service).await;
    let budget = json!({"metadata": {"name": "a-t"}, "spec": {"maxUnavailable": 1, "selector": theirs}});
    let budget: PodDisruptionBudget = yard.namespace.create(budget).await;
    yard.train("a", json!({"infrastructure": {"nodes": 2}})).await;
    let told =
        yard.until("a", |status| status.message.contains("Service a-t exists and belongs to somebody else")).await;
    assert_eq!(told.phase, Phase::Starting);
    let there: Service = yard.namespace.api().get("a-t").await.expect("their Service");
    assert_eq!((there.metadata.owner_references, there.spec), (None, service.spec));

    // Without the Service they can't find one another; without the budget they run.
    yard.namespace.api::<Service>().delete("a-t", &DeleteParams::default()).await.expect("deleted");
    yard.phase("a", Phase::Running).await;
    yard.patiently(async || yard.events().await.contains("Unprotected")).await;
    let ours: Service = yard.namespace.api().get("a-t").await.expect("a Service");
    yard.namespace.pods().finish("a-t1-1", 162, "").await;
    yard.until("a", |status| status.attempt == 2 && status.phase == Phase::Running).await;
    let again: Service = yard.namespace.api().get("a-t").await.expect("a Service");
    assert_ne!(again.metadata.uid, ours.metadata.uid, "ours was deleted while nobody was to be found");
    let there: PodDisruptionBudget = yard.namespace.api().get("a-t").await.expect("their budget");
    assert_eq!(
        (there.metadata.uid, there.metadata.owner_references, there.spec),
        (budget.metadata.uid, None, budget.spec)
    );
}

#[tokio::test]
async fn an_operator_that_starts_anew_takes_its_own_service_and_budget_for_its_own() {
    let mut yard = Yard::new("own", &["cpu"]).await;
    yard.train("a", json!({"infrastructure": {"nodes": 2}})).await;
    yard.phase("a", Phase::Running).await;
    yard.kill_operator().await;
    yard.start_operator();
    yard.namespace.pods().finish("a-t1-1", 162, "").await;
    let status = yard.until("a", |status| status.attempt == 2 && status.phase == Phase::Running).await;
    assert!(status.message.contains("Attempt 2 runs"), "{}", status.message);
    assert!(!yard.events().await.contains("Unprotected"));
    let job: crds::TrainingJob = yard.namespace.api().get("a").await.expect("a job");
    let budget: PodDisruptionBudget = yard.namespace.api().get("a-t").await.expect("a budget");
    let owner = budget.metadata.owner_references.and_then(|owners| owners.into_iter().next()).expect("an owner");
    assert_eq!(Some(owner.uid), job.metadata.uid);
}

#[tokio::test]
async fn a_runtime_that_has_left_the_catalogue_is_no_fault_of_a_job_that_did_not_name_it() {
    let mut yard = Yard::idle("catalogue", &["cpu"]).await;
    let runtimes = |name: &str| {
        Catalogue::parse(&format!("runtimes: [{{name: {name}, image: registry.example.com/trainer:1}}]"))
            .expect("a catalogue")
    };
    yard.start_operator_by(Settings { catalogue: runtimes("old"), ..yard.settings() });
    yard.score("a", json!({"shards": 2, "parallelism": 1})).await;
    yard.namespace.pods().running("a-s1-0").await;
    let placed = yard.namespace.wait("a", |job: Option<&ScoringJob>| {
        job.and_then(|job| job.status.as_ref()).is_some_and(|status| status.job.phase == Phase::Running)
    });
    let placement =
        placed.await.and_then(|job| job.status).and_then(|status| status.job.placement).expect("a placement");
    assert_eq!(placement.runtime.as_deref(), Some("old"));

    yard.kill_operator().await;
    yard.start_operator_by(Settings { catalogue: runtimes("new"), ..yard.settings() });
    yard.namespace.pods().finish("a-s1-0", 0, &scored(5)).await;
    yard.namespace.pods().running("a-s1-1").await;
}

#[tokio::test]
async fn pods_whose_node_went_before_they_had_it_are_told_of_or_made_for_another() {
    let mut yard = Yard::idle("homeless", &["h200-580", "cpu"]).await;
    let nodes = Api::<Node>::all(yard.namespace.client());
    let gpus = format!("h200-580-0.{}", yard.namespace.name());
    let cordoned = Patch::Merge(json!({"spec": {"unschedulable": true}}));
    nodes.patch(&gpus, &PatchParams::default(), &cordoned).await.expect("a node");
    yard.start_operator();
    for (name, device) in [("auto", "Auto"), ("gpu", "Gpu")] {
        yard.train(name, json!({"infrastructure": {"device": device}})).await;
        let waits = yard.until(name, |status| status.message.contains("Unschedulable")).await;
        assert_eq!(waits.placement.map(|placement| placement.device), Some(Device::Gpu), "it may be back");
    }
    nodes.delete(&gpus, &DeleteParams::default()).await.expect("a node");
    let fits_nowhere = |status: &JobStatus| {
        status.conditions.iter().any(|one| one.type_ == "Schedulable" && one.reason == "NoFittingNode")
    };
    let told = yard.until("gpu", fits_nowhere).await;
    assert_eq!((told.phase, told.attempt), (Phase::Starting, 1), "{}", told.message);
    yard.patiently(async || yard.pods().await.contains("auto-t2-0")).await;
    let runs = yard.until("auto", |status| status.attempt == 2 && status.phase == Phase::Running).await;
    assert_eq!((runs.failures, runs.placement.map(|placement| placement.device)), (0, Some(Device::Cpu)));
}

#[tokio::test]
async fn where_the_device_is_auto_a_gpu_at_fault_is_waited_for_or_another_one_taken() {
    let yard = Yard::new("auto-fault", &["gpu-unlabelled", "cpu"]).await;
    yard.train("a", json!({"infrastructure": {"device": "Auto"}})).await;
    yard.namespace.pods().running("a-t1-0").await;
    yard.namespace.pods().finish("a-t1-0", 160, &said("NodeFault", "Xid 79")).await;
    let left_out = |status: &JobStatus| status.message.contains("are tried again after a while");
    let waits = yard.until("a", |status| left_out(status) || status.attempt > 1).await;
    assert_eq!((waits.attempt, waits.phase), (1, Phase::Restarting), "{}", waits.message);
    yard.namespace.nodes(&["h200-580"]).await;
    let again = yard.until("a", |status| status.attempt == 2 && status.phase == Phase::Running).await;
    assert_eq!(again.placement.map(|placement| placement.device), Some(Device::Gpu));
}

#[tokio::test]
async fn where_the_device_is_auto_a_gpu_that_is_too_old_leaves_the_cpus() {
    let yard = Yard::new("auto", &["gpu-unlabelled", "cpu"]).await;
    yard.train("a", json!({"infrastructure": {"device": "Auto"}})).await;
    let pods = yard.namespace.pods();
    pods.running("a-t1-0").await;
    let placed = yard.phase("a", Phase::Running).await.placement.expect("a placement");
    assert_eq!(placed.device, Device::Gpu);
    assert!(placed.node.is_some(), "the column NODE has something to show");
    pods.finish("a-t1-0", 69, &said("GpuUnsupported", "driver 418 is too old")).await;
    pods.running("a-t2-0").await;
    let again = yard.until("a", |status| status.attempt == 2 && status.phase == Phase::Running).await;
    assert_eq!(again.placement.map(|placement| placement.device), Some(Device::Cpu));
}
