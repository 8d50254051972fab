//! Pods that fail, nodes that go, and an operator that is killed.

use crds::contract::Cause;
use crds::status::Phase;
use serde_json::json;
use tests::cluster::Cluster;

use crate::yard::{Yard, said, trained};

#[tokio::test]
async fn a_gang_restarts_as_a_whole_when_one_of_its_pods_fails() {
    let yard = Yard::new("gang", &["cpu"]).await;
    yard.train("a", json!({"infrastructure": {"nodes": 3}})).await;
    let pods = yard.namespace.pods();
    for name in ["a-t1-0", "a-t1-1", "a-t1-2"] {
        pods.running(name).await;
    }
    yard.phase("a", Phase::Running).await;
    pods.finish("a-t1-1", 161, &said("PeerLost", "rank 2 is gone")).await;
    for name in ["a-t2-0", "a-t2-1", "a-t2-2"] {
        pods.running(name).await;
    }
    let status = yard.until("a", |status| status.attempt == 2 && status.phase == Phase::Running).await;
    assert_eq!((status.restarts, status.failures), (1, 1));
    let first = &status.attempts[0];
    assert_eq!((first.number, first.cause, first.exit_code), (1, Cause::PeerLost, Some(161)));
    assert!(first.message.contains("rank 2 is gone"), "{first:?}");
    pods.gone("a-t1-0").await;
    let old: Vec<String> = yard.pods().await.into_iter().filter(|name| name.starts_with("a-t1-")).collect();
    assert_eq!(old, ["a-t1-1"], "the one that failed stays for its log");
}

#[tokio::test]
async fn a_permanent_cause_ends_the_job_with_what_the_trainer_said() {
    let yard = Yard::new("permanent", &["cpu"]).await;
    yard.train("a", json!({"infrastructure": {"nodes": 2}})).await;
    let pods = yard.namespace.pods();
    pods.running("a-t1-1").await;
    pods.finish("a-t1-0", 65, &said("BadData", "cat/7.jpg is truncated")).await;
    let status = yard.phase("a", Phase::Failed).await;
    assert!(status.message.contains("BadData: cat/7.jpg is truncated"), "{}", status.message);
    let failed = status.conditions.iter().find(|one| one.type_ == "Failed").expect("a condition");
    assert_eq!(failed.reason, "BadData");
    pods.gone("a-t1-1").await;
    assert!(yard.pods().await.contains("a-t1-0"), "the pod that failed stays for its log");
}

#[tokio::test]
async fn causes_that_the_platform_tells_of_are_told_apart() {
    let yard = Yard::new("platform", &["cpu"]).await;
    let pods = yard.namespace.pods();
    yard.train("memory", json!({})).await;
    pods.out_of_memory("memory-t1-0").await;
    let status = yard.phase("memory", Phase::Failed).await;
    assert_eq!(status.attempts[0].cause, Cause::HostMemory);

    yard.train("evicted", json!({"runPolicy": {"backoffLimit": 0}})).await;
    pods.running("evicted-t1-0").await;
    pods.evicted_by_kubelet("evicted-t1-0", "The node was low on resource: memory").await;
    pods.running("evicted-t2-0").await;
    let status = yard.until("evicted", |status| status.attempt == 2).await;
    assert_eq!((status.attempts[0].cause, status.failures), (Cause::Preempted, 0), "costs no restart");

    yard.train("limit", json!({"runPolicy": {"backoffLimit": 1}})).await;
    pods.finish("limit-t1-0", 162, "").await;
    pods.finish("limit-t2-0", 162, "").await;
    let status = yard.phase("limit", Phase::Failed).await;
    assert!(status.message.contains("backoffLimit"), "{}", status.message);
    assert_eq!((status.restarts, status.failures), (1, 2));
}

#[tokio::test]
async fn a_node_whose_driver_does_not_fit_is_left_out() {
    let yard = Yard::new("unfit", &["h200-580", "b200-590"]).await;
    yard.train("a", json!({"infrastructure": {"device": "Gpu"}})).await;
    let pods = yard.namespace.pods();
    let node = |pod: k8s_openapi::api::core::v1::Pod| pod.spec.and_then(|spec| spec.node_name).expect("a node");
    let first = node(pods.running("a-t1-0").await);
    pods.finish("a-t1-0", 69, &said("GpuUnsupported", "driver 999 is too old")).await;
    let second = node(pods.running("a-t2-0").await);
    assert_ne!(first, second);
    let status = yard.until("a", |status| status.attempt == 2).await;
    assert_eq!(status.excluded_nodes, [first]);
    pods.finish("a-t2-0", 69, &said("GpuUnsupported", "driver 999 is too old")).await;
    let status = yard.phase("a", Phase::Failed).await;
    assert!(status.message.contains("no other node"), "{}", status.message);
}

#[tokio::test]
async fn a_node_that_reports_a_gpu_that_fell_off_the_bus_is_at_fault_whatever_the_process_made_of_it() {
    let yard = Yard::new("xid", &["h200-580", "b200-590"]).await;
    yard.train("a", json!({"infrastructure": {"device": "Gpu"}})).await;
    let pods = yard.namespace.pods();
    let node = |pod: k8s_openapi::api::core::v1::Pod| pod.spec.and_then(|spec| spec.node_name).expect("a node");
    let first = node(pods.running("a-t1-0").await);
    let message = "ErrorCode:79 PCI:0002:00:00 GPU has fallen off the bus Recommended Action=RESTART_BM;";
    Cluster::shared().await.node_reports(&first, "SysLogsXIDError", message).await;
    // The operator has seen the node when it would place nothing there.
    yard.train(
        "b",
        json!({"infrastructure": {"device": "Gpu", "pod": {"nodeSelector": {"kubernetes.io/hostname": first}}}}),
    )
    .await;
    yard.until("b", |status| status.placement.as_ref().is_some_and(|it| it.reason.contains("a fault"))).await;
    pods.finish("a-t1-0", 1, "CUDA error: unknown error").await;
    let second = node(pods.running("a-t2-0").await);
    let status = yard.until("a", |status| status.attempt == 2).await;
    let attempt = &status.attempts[0];
    assert_eq!((attempt.cause, attempt.exit_code), (Cause::NodeFault, Some(1)));
    assert!(attempt.message.contains("Xid 79"), "{}", attempt.message);
    assert_ne!(first, second);
    assert_eq!(status.excluded_nodes, [first]);
}

#[tokio::test]
async fn pods_on_a_node_that_is_lost_are_replaced_and_not_waited_for() {
    let yard = Yard::new("lost", &["cpu"]).await;
    yard.train("a", json!({})).await;
    let pods = yard.namespace.pods();
    let node = pods.running("a-t1-0").await.spec.and_then(|spec| spec.node_name).expect("a node");
    yard.phase("a", Phase::Running).await;
    yard.namespace.nodes(&["b200-590"]).await;
    Cluster::shared().await.node_down(&node).await;
    pods.running("a-t2-0").await;
    let status = yard.until("a", |status| status.attempt == 2).await;
    assert_eq!(status.attempts[0].cause, Cause::NodeFault, "{:?}", status.attempts);
    pods.gone("a-t1-0").await;
}

#[tokio::test]
async fn an_operator_that_was_away_counts_each_failure_once() {
    let mut yard = Yard::new("away", &["cpu"]).await;
    yard.train("a", json!({"infrastructure": {"nodes": 2}})).await;
    yard.namespace.pods().running("a-t1-0").await;
    yard.namespace.pods().running("a-t1-1").await;
    yard.phase("a", Phase::Running).await;
    yard.kill_operator().await;
    yard.namespace.pods().finish("a-t1-1", 162, &said("Storage", "the volume is gone")).await;
    yard.start_operator();
    yard.namespace.pods().running("a-t2-0").await;
    yard.namespace.pods().running("a-t2-1").await;
    let status = yard.until("a", |status| status.attempt == 2 && status.phase == Phase::Running).await;
    assert_eq!((status.restarts, status.failures, status.attempts.len()), (1, 1, 1));

    yard.kill_operator().await;
    yard.namespace.pods().finish("a-t2-1", 0, "").await;
    yard.namespace.pods().finish("a-t2-0", 0, &trained()).await;
    yard.start_operator();
    let status = yard.phase("a", Phase::Succeeded).await;
    assert_eq!((status.attempt, status.restarts, status.failures), (2, 1, 1), "what finished meanwhile is finished");
}

#[tokio::test]
async fn what_the_api_server_takes_no_pods_for_is_told_and_tried_again() {
    let yard = Yard::new("refused", &["cpu"]).await;
    yard.train("account", json!({"infrastructure": {"pod": {"serviceAccountName": "trainer"}}})).await;
    let status = yard.until("account", |status| status.message.contains("serviceaccount \"trainer\" not found")).await;
    assert_eq!((status.phase, status.attempt), (Phase::Pending, 0));
    let condition = status.conditions.iter().find(|one| one.type_ == "Schedulable").expect("a condition");
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "PodsRefused"));
    let account = json!({"metadata": {"name": "trainer"}});
    yard.namespace.create::<k8s_openapi::api::core::v1::ServiceAccount>(account).await;
    yard.phase("account", Phase::Running).await;

    let quota = json!({"metadata": {"name": "pods"}, "spec": {"hard": {"pods": "2"}}});
    yard.namespace.create::<k8s_openapi::api::core::v1::ResourceQuota>(quota).await;
    let counted = |quota: Option<&k8s_openapi::api::core::v1::ResourceQuota>| {
        let used = quota.and_then(|quota| quota.status.as_ref()?.used.as_ref()?.get("pods"));
        used.is_some_and(|used| used.0 == "1")
    };
    yard.namespace.wait("pods", counted).await;
    yard.train("quota", json!({"infrastructure": {"nodes": 2}})).await;
    let status = yard.until("quota", |status| status.message.contains("exceeded quota")).await;
    assert!(status.phase == Phase::Starting, "one of its pods is there: {status:?}");
    yard.namespace.pods().finish("account-t1-0", 0, &trained()).await;
    yard.phase("quota", Phase::Running).await;
}
