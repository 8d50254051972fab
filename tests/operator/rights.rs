//! The operator works with the rights that the chart gives it and no others, and it uses each of them.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use crds::status::EndpointPhase;
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use http::{Method, Request};
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Pod, ServiceAccount};
use k8s_openapi::api::rbac::v1::PolicyRule;
use kube::api::{DeleteParams, Patch, PatchParams};
use kube::client::Body;
use serde_json::json;
use tests::chart;
use tests::cluster::dynamic;

use crate::leading::Rival;
use crate::wire::{self, Fate};
use crate::yard::{Yard, trained};

/// A verb and the resource that it is of, with its API group where it has one, such as `create policy/poddisruptionbudgets`.
type Rights = BTreeSet<String>;

/// What the rules allow.
fn allowed(rules: &[PolicyRule]) -> Rights {
    let mut rights = Rights::new();
    for rule in rules {
        for group in rule.api_groups.iter().flatten() {
            for resource in rule.resources.iter().flatten() {
                rights.extend(rule.verbs.iter().map(|verb| right(verb, group, resource)));
            }
        }
    }
    rights
}

fn right(verb: &str, group: &str, resource: &str) -> String {
    let slash = if group.is_empty() { "" } else { "/" };
    format!("{verb} {group}{slash}{resource}")
}

/// What a request needs, as the API server's authorizer reads it.
fn needed(request: &Request<Body>) -> Rights {
    let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    let (group, rest) = match path.as_slice() {
        ["api", _, rest @ ..] => ("", rest),
        ["apis", group, _, rest @ ..] => (*group, rest),
        other => panic!("{other:?}"),
    };
    let (resource, name, sub) = match rest {
        ["namespaces", _, resource, name, sub] => (*resource, Some(name), Some(*sub)),
        ["namespaces", _, resource, name] => (*resource, Some(name), None),
        ["namespaces", _, resource] | [resource] => (*resource, None, None),
        other => panic!("{other:?}"),
    };
    let resource = sub.map_or(resource.to_owned(), |sub| format!("{resource}/{sub}"));
    let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
    let verb = match (request.method(), name) {
        (&Method::GET, Some(_)) => "get",
        (&Method::GET, None) if is_watch => "watch",
        (&Method::GET, None) => "list",
        (&Method::POST, _) => "create",
        (&Method::PUT, _) => "update",
        (&Method::PATCH, _) => "patch",
        (&Method::DELETE, Some(_)) => "delete",
        other => panic!("{other:?}"),
    };
    let mut rights = Rights::from([right(verb, group, &resource)]);
    let content = request.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    // An apply makes what is not there yet. The status of what is not there can't be made.
    if sub.is_none() && content.is_some_and(|content| content.starts_with("application/apply-patch")) {
        rights.insert(right("create", group, &resource));
    }
    rights
}

#[tokio::test]
async fn the_operator_uses_each_right_of_the_chart_and_needs_no_other() {
    let yard = Yard::idle("rights", &["cpu"]).await;
    let namespace = yard.namespace.name();
    let objects = chart::render("rights", namespace, &["--set", "crds.enabled=false,rbac.aggregate=false"]);
    for object in &objects {
        let kind = object["kind"].as_str().unwrap_or_default();
        if kind == "ServiceAccount" || kind.contains("Role") {
            let (api, name) = dynamic(&yard.namespace.client(), namespace, object);
            api.patch(&name, &PatchParams::apply("tests"), &Patch::Apply(object)).await.expect("applied");
        }
    }
    let rules = [chart::rules(&objects, "ClusterRole"), chart::rules(&objects, "Role")].concat();
    let user = yard.namespace.user_of("rights-trainyard").await;

    let used = Arc::new(Mutex::new(Rights::new()));
    let log = Arc::clone(&used);
    let client = wire::client(user.client().await, move |request| {
        let needed = needed(request);
        let mut log = log.lock().expect("no panic");
        let is_first = !needed.is_subset(&log);
        log.extend(needed);
        // The first status of each kind is not answered: it is read back.
        if is_first && request.uri().path().ends_with("/status") { Fate::Broken } else { Fate::Pass }
    });
    let has_used = |right: &str| used.lock().expect("no panic").contains(right);

    // The name of a pod is taken by somebody else's, which goes at once since no node has it.
    let taken = json!({
        "metadata": {"name": "a-t1-0"},
        "spec": {"containers": [{"name": "a", "image": "none"}], "schedulerName": "nobody"},
    });
    yard.namespace.create::<Pod>(taken).await;
    let operator = Rival::new(&yard, "least", 15, client);
    yard.train("a", json!({"infrastructure": {"nodes": 2}, "runPolicy": {"ttlSecondsAfterFinished": 2}})).await;
    yard.score("b", json!({"runPolicy": {"ttlSecondsAfterFinished": 2}})).await;
    let pods = yard.namespace.pods();
    yard.patiently(async || has_used("get pods")).await;
    pods.delete("a-t1-0").await;
    for attempt in 1..=2 {
        pods.running(&format!("a-t{attempt}-0")).await;
        pods.finish(&format!("a-t{attempt}-1"), 162, "").await;
    }
    pods.finish("b-s1-0", 0, &crate::yard::scored(7)).await;
    pods.finish("a-t3-1", 0, "").await;
    pods.finish("a-t3-0", 0, &trained()).await;
    yard.serve("me", json!({"replicas": 2, "autoscaling": {"minReplicas": 2, "maxReplicas": 3}})).await;
    yard.endpoint_until("me", |status| status.phase == EndpointPhase::Ready).await;
    yard.change::<ModelEndpoint>("me", json!({"autoscaling": null, "suspend": true})).await;
    yard.endpoint_until("me", |status| status.phase == EndpointPhase::Suspended).await;
    yard.namespace.wait("me-m", |autoscaler: Option<&HorizontalPodAutoscaler>| autoscaler.is_none()).await;
    let events = yard.events().await;
    assert!(events.contains("Restarting"), "{events:?}");
    yard.namespace.wait("a", |job: Option<&TrainingJob>| job.is_none()).await;
    yard.namespace.wait("b", |job: Option<&ScoringJob>| job.is_none()).await;
    operator.stop().await.expect("a good end");

    // Who it is may everyone ask, by the role system:basic-user that the API server itself makes.
    let everyones = Rights::from([right("create", "authentication.k8s.io", "selfsubjectreviews")]);
    assert_eq!(*used.lock().expect("no panic"), &allowed(&rules) | &everyones);

    // What is left goes with the account.
    yard.namespace.wait("trainyard-operator", |lease: Option<&Lease>| lease.is_some()).await;
    yard.namespace.api::<ServiceAccount>().delete("rights-trainyard", &DeleteParams::default()).await.expect("deleted");
    yard.namespace.wait("trainyard-operator", |lease: Option<&Lease>| lease.is_none()).await;
}
