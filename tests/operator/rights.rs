//! The operator works with the rights that the README names, and no others.

use crds::TrainingJob;
use k8s_openapi::api::rbac::v1::PolicyRule;
use serde_json::json;

use crate::leading::Rival;
use crate::yard::{Yard, trained};

/// What the operator may do, as the README names it.
fn rights() -> (Vec<PolicyRule>, Vec<PolicyRule>) {
    let rule = |group: &str, resources: &[&str], verbs: &[&str]| PolicyRule {
        api_groups: Some(vec![group.to_owned()]),
        resources: Some(resources.iter().map(|name| (*name).to_owned()).collect()),
        verbs: verbs.iter().map(|verb| (*verb).to_owned()).collect(),
        ..PolicyRule::default()
    };
    let in_namespace = vec![
        rule("trainyard.dev", &["trainingjobs", "scoringjobs"], &["get", "list", "watch", "delete"]),
        rule("trainyard.dev", &["trainingjobs/status", "scoringjobs/status"], &["patch"]),
        rule("", &["pods"], &["get", "list", "watch", "create", "delete"]),
        rule("", &["services"], &["create", "patch"]),
        rule("policy", &["poddisruptionbudgets"], &["create", "patch"]),
        rule("events.k8s.io", &["events"], &["create", "patch"]),
        rule("coordination.k8s.io", &["leases"], &["get", "create", "update"]),
    ];
    (in_namespace, vec![rule("", &["nodes"], &["get", "list", "watch"])])
}

#[tokio::test]
async fn the_operator_needs_no_more_rights_than_the_readme_names() {
    let yard = Yard::idle("rights", &["cpu"]).await;
    let (in_namespace, everywhere) = rights();
    let user = yard.namespace.user("operator", &in_namespace, &everywhere).await;
    let operator = Rival::new(&yard, "least", 15, user.client().await);
    yard.train("a", json!({"infrastructure": {"nodes": 2}, "runPolicy": {"ttlSecondsAfterFinished": 2}})).await;
    let pods = yard.namespace.pods();
    pods.running("a-t1-0").await;
    pods.finish("a-t1-1", 162, "").await;
    pods.running("a-t2-1").await;
    pods.finish("a-t2-1", 0, "").await;
    pods.finish("a-t2-0", 0, &trained()).await;
    let events = yard.events().await;
    assert!(events.contains("Restarting"), "{events:?}");
    yard.namespace.wait("a", |job: Option<&TrainingJob>| job.is_none()).await;
    operator.stop().await.expect("a good end");
}
