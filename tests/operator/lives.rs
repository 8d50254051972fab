//! Jobs from their start to their end, and what people do to them on the way.

use crds::status::{Phase, ScoringJobStatus};
use crds::{ScoringJob, TrainingJob};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use kube::api::DeleteParams;
use serde_json::json;

use crate::yard::{Yard, scored, trained};

#[tokio::test]
async fn a_training_of_two_nodes_runs_to_its_model() {
    let yard = Yard::new("train", &["h200-580", "h200-580"]).await;
    yard.train("a", json!({"infrastructure": {"device": "Auto", "nodes": 2, "gpusPerNode": 8}})).await;
    let pods = yard.namespace.pods();
    let pod = pods.running("a-t1-1").await;
    pods.running("a-t1-0").await;
    let spec = pod.spec.expect("a spec");
    let variables = spec.containers[0].env.clone().unwrap_or_default();
    let variable = |name: &str| variables.iter().find(|one| one.name == name).and_then(|one| one.value.clone());
    let leader = format!("a-t1-0.a-t.{}.svc", yard.namespace.name());
    assert_eq!(variable("PET_MASTER_ADDR"), Some(leader));
    assert_eq!((variable("PET_NNODES").as_deref(), variable("PET_NODE_RANK").as_deref()), (Some("2"), Some("1")));
    assert_eq!((spec.subdomain.as_deref(), spec.hostname.as_deref()), (Some("a-t"), Some("a-t1-1")));
    assert_eq!(spec.automount_service_account_token, Some(false));

    let status = yard.phase("a", Phase::Running).await;
    let service: Option<Service> = yard.namespace.api().get_opt("a-t").await.unwrap();
    let budget: Option<PodDisruptionBudget> = yard.namespace.api().get_opt("a-t").await.unwrap();
    assert!(service.is_some() && budget.is_some(), "who says that it runs has connected and protected it");
    let placement = status.placement.expect("a placement");
    assert_eq!((format!("{:?}", placement.device), placement.gpus), ("Gpu".to_owned(), 16), "{placement:?}");
    pods.finish("a-t1-1", 0, "").await;
    pods.finish("a-t1-0", 0, &trained()).await;
    let status = yard.phase("a", Phase::Succeeded).await;
    let model = yard.model("a").await.expect("a model");
    assert_eq!((model.uri.as_str(), model.metric), ("file:///data/a", Some(0.97)));
    assert_eq!((status.attempt, status.restarts, status.failures), (1, 0, 0));
    assert!(status.completion_time.is_some());
    assert_eq!(yard.pods().await.len(), 2, "pods stay for their logs");

    // It is at rest: nothing is written any more.
    let version = |job: TrainingJob| job.metadata.resource_version;
    let before = version(yard.namespace.api().get("a").await.unwrap());
    tokio::time::sleep(std::time::Duration::from_secs(2)).await;
    assert_eq!(version(yard.namespace.api().get("a").await.unwrap()), before);
    let events = yard.events().await;
    assert!(["AllRunning", "Completed"].iter().all(|reason| events.contains(*reason)), "{events:?}");
}

#[tokio::test]
async fn a_suspended_job_has_no_pods_and_goes_on_with_the_next_attempt() {
    let yard = Yard::new("suspend", &["cpu"]).await;
    yard.train("a", json!({"runPolicy": {"suspend": true}})).await;
    yard.phase("a", Phase::Suspended).await;
    assert!(yard.pods().await.is_empty());
    yard.change::<TrainingJob>("a", json!({"runPolicy": {"suspend": false}})).await;
    yard.namespace.pods().running("a-t1-0").await;
    yard.phase("a", Phase::Running).await;
    yard.change::<TrainingJob>("a", json!({"runPolicy": {"suspend": true}})).await;
    yard.namespace.pods().gone("a-t1-0").await;
    let status = yard.phase("a", Phase::Suspended).await;
    assert_eq!((status.failures, status.attempt), (0, 1));
    yard.change::<TrainingJob>("a", json!({"runPolicy": {"suspend": false}})).await;
    yard.namespace.pods().running("a-t2-0").await;
    yard.namespace.pods().finish("a-t2-0", 0, &trained()).await;
    let status = yard.phase("a", Phase::Succeeded).await;
    assert_eq!((status.attempt, status.restarts, status.failures), (2, 1, 0));
}

#[tokio::test]
async fn shards_are_scored_a_few_at_a_time_and_counted_together() {
    let yard = Yard::new("score", &["cpu"]).await;
    yard.claim("models").await;
    yard.train("t", json!({"output": {"uri": "pvc://models/t"}})).await;
    let model = json!({"model": {"trainingJob": "t"}, "shards": 3, "parallelism": 2});
    let mut job = model.clone();
    job["model"]["uri"] = json!(null);
    yard.score("a", job).await;
    let waits = |job: Option<&ScoringJob>| {
        job.and_then(|job| job.status.as_ref()).is_some_and(|status| status.job.message.contains("TrainingJob t"))
    };
    yard.namespace.wait("a", waits).await;
    yard.namespace.pods().finish("t-t1-0", 0, &trained()).await;
    let pods = yard.namespace.pods();
    let pod = pods.running("a-s1-0").await;
    let told = format!("{pod:?}");
    assert!(told.contains("file:///volumes/models/t"), "the model of the job it waited for: {told}");
    let volumes = pod.spec.and_then(|spec| spec.volumes).unwrap_or_default();
    let claims: Vec<_> = volumes.into_iter().filter_map(|volume| volume.persistent_volume_claim).collect();
    assert_eq!(claims.len(), 1, "the claim that the model lies on, which this job does not name");
    assert_eq!((claims[0].claim_name.as_str(), claims[0].read_only), ("models", Some(true)));
    pods.running("a-s1-1").await;
    assert!(!yard.pods().await.contains("a-s1-2"), "two at a time");
    pods.finish("a-s1-0", 0, &scored(10)).await;
    pods.running("a-s1-2").await;
    pods.finish("a-s1-1", 162, "").await;
    pods.running("a-s2-1").await;
    pods.finish("a-s2-1", 0, &scored(20)).await;
    pods.finish("a-s1-2", 0, &scored(30)).await;
    let done = |job: Option<&ScoringJob>| {
        job.and_then(|job| job.status.as_ref()).is_some_and(|status| status.job.phase == Phase::Succeeded)
    };
    let status: ScoringJobStatus =
        yard.namespace.wait("a", done).await.and_then(|job: ScoringJob| job.status).expect("a status");
    let rows = status.rows.expect("rows");
    assert_eq!((rows.found, rows.written, rows.failed), (60, 60, 3));
    assert_eq!((status.shards_done, status.job.restarts, status.job.failures), (3, 1, 1));
}

#[tokio::test]
async fn a_job_that_is_retrained_has_the_claims_that_the_data_of_the_first_one_lies_on() {
    let yard = Yard::new("retrain", &["cpu"]).await;
    for claim in ["images", "models"] {
        yard.claim(claim).await;
    }
    let data = json!({"data": {"uri": "pvc://images/train"}, "output": {"uri": "pvc://models/first"}});
    yard.train("first", data).await;
    // The third takes its data from the second, which has taken it from the first.
    for (name, from) in [("second", "first"), ("third", "second")] {
        yard.namespace.pods().finish(&format!("{from}-t1-0"), 0, &trained()).await;
        let retrain = json!({
            "data": null, "retrainFrom": {"trainingJob": from}, "output": {"uri": format!("file:///data/{name}")},
        });
        yard.train(name, retrain).await;
        let pod = yard.namespace.pods().running(&format!("{name}-t1-0")).await.spec.expect("a spec");
        let mounts = pod.containers[0].volume_mounts.clone().unwrap_or_default().into_iter();
        let mounted: Vec<_> = mounts.map(|mount| mount.mount_path).collect();
        assert!(mounted.contains(&"/volumes/images".to_owned()), "{name}: {mounted:?}");
        let claims = pod.volumes.into_iter().flatten().filter_map(|volume| volume.persistent_volume_claim);
        assert!(claims.into_iter().all(|claim| claim.read_only == Some(true)), "{name} writes to none of them");
    }
}

#[tokio::test]
async fn what_can_never_fit_says_so_with_counts_and_starts_when_the_pool_changes() {
    let yard = Yard::new("fit", &["v100-418", "t4-440"]).await;
    yard.train("a", json!({"infrastructure": {"device": "Gpu"}})).await;
    let status = yard.until("a", |status| status.message.contains("580.65.06")).await;
    assert_eq!(status.phase, Phase::Pending);
    let condition = status.conditions.iter().find(|one| one.type_ == "Schedulable").expect("a condition");
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "NoFittingNode"));
    assert!(yard.pods().await.is_empty());
    yard.namespace.nodes(&["h200-580"]).await;
    let pod = yard.namespace.pods().running("a-t1-0").await;
    assert!(pod.spec.and_then(|spec| spec.node_name).is_some_and(|node| node.starts_with("h200")));
}

#[tokio::test]
async fn what_this_version_cannot_do_fails_before_a_pod_is_made() {
    let yard = Yard::new("spec", &["cpu"]).await;
    yard.train("a", json!({"task": "ObjectDetection"})).await;
    let status = yard.phase("a", Phase::Failed).await;
    assert!(status.message.contains("ObjectDetection") && status.message.contains("spec.task"), "{}", status.message);
    yard.train("b", json!({"infrastructure": {"pod": {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "a", "operator": "Sometimes"}]}]}}}}}})).await;
    let status = yard.phase("b", Phase::Failed).await;
    assert!(status.message.contains("the API server refuses the pods"), "{}", status.message);
    assert!(yard.pods().await.is_empty());
}

#[tokio::test]
async fn a_job_that_is_deleted_takes_its_pods_along_and_another_of_its_name_starts_anew() {
    let yard = Yard::new("delete", &["cpu"]).await;
    let first = yard.train("a", json!({})).await;
    yard.namespace.pods().running("a-t1-0").await;
    yard.namespace.api::<TrainingJob>().delete("a", &DeleteParams::default()).await.unwrap();
    yard.namespace.wait("a", |job: Option<&TrainingJob>| job.is_none()).await;
    let second = yard.train("a", json!({})).await;
    // A garbage collector that has just started takes up to 30 s to learn of a new kind.
    yard.patiently(async || !yard.is_owned_by("a-t1-0", &first).await).await;
    assert_ne!(first.metadata.uid, second.metadata.uid);
    let uid = second.metadata.uid.clone();
    let of_second = move |pod: Option<&Pod>| {
        pod.and_then(|pod| pod.metadata.owner_references.as_ref()?.first())
            .is_some_and(|owner| Some(&owner.uid) == uid.as_ref())
    };
    yard.namespace.wait("a-t1-0", of_second).await;
    yard.namespace.pods().finish("a-t1-0", 0, &trained()).await;
    let status = yard.phase("a", Phase::Succeeded).await;
    assert_eq!((status.attempt, status.restarts), (1, 0));
}

#[tokio::test]
async fn a_finished_job_goes_when_its_time_is_over() {
    let yard = Yard::new("ttl", &["cpu"]).await;
    yard.train("a", json!({"runPolicy": {"ttlSecondsAfterFinished": 1}})).await;
    yard.namespace.pods().finish("a-t1-0", 0, &trained()).await;
    yard.namespace.wait("a", |job: Option<&TrainingJob>| job.is_none()).await;
}

#[tokio::test]
async fn a_job_that_goes_at_its_end_leaves_its_model_to_who_waits_for_it() {
    let yard = Yard::new("ttl-model", &["cpu"]).await;
    yard.train("first", json!({"runPolicy": {"ttlSecondsAfterFinished": 0}})).await;
    let retrain = json!({
        "data": null, "retrainFrom": {"trainingJob": "first"}, "output": {"uri": "file:///data/second"},
    });
    yard.train("second", retrain).await;
    yard.until("second", |status| status.message.contains("the TrainingJob first")).await;
    yard.namespace.pods().finish("first-t1-0", 0, &trained()).await;
    yard.namespace.pods().running("second-t1-0").await;
    yard.namespace.wait("first", |job: Option<&TrainingJob>| job.is_none()).await;
}

#[tokio::test]
async fn a_job_that_takes_too_long_fails_and_its_pods_go() {
    let yard = Yard::new("deadline", &["cpu"]).await;
    yard.train("a", json!({"runPolicy": {"activeDeadlineSeconds": 2}})).await;
    yard.namespace.pods().running("a-t1-0").await;
    let status = yard.phase("a", Phase::Failed).await;
    assert!(status.message.contains("activeDeadlineSeconds"), "{}", status.message);
    yard.namespace.pods().gone("a-t1-0").await;
}
