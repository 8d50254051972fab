//! Every field of a spec: a job that is changed before it starts comes to the same end as one that was made so, and one that
//! has started refuses the change, but for what may change. An endpoint may be changed at any time, and each field of it tells.

use std::collections::BTreeSet;

use crds::contract::env;
use crds::status::{EndpointPhase, ModelEndpointStatus};
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use futures::stream::{self, StreamExt};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::autoscaling::v2::HorizontalPodAutoscaler;
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::{Patch, PatchParams};
use kube::{Api, CustomResourceExt};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::yard::{Yard, merge, trained};

/// Pairs of jobs that live at the same time.
const AT_ONCE: usize = 12;
/// What may change after a job has started.
const MAY_CHANGE: [&str; 2] = ["runPolicy", "parallelism"];
/// What a ScoringJob, and a ModelEndpoint, has in common with a TrainingJob.
const COMMON: [&str; 4] = ["infrastructure", "runPolicy", "scheduling", "managedBy"];

/// Another value for a field, and what else it needs.
#[derive(Clone, Debug, Deserialize)]
struct Field {
    field: String,
    value: Value,
    #[serde(default)]
    with: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Fields {
    training_job: Vec<Field>,
    scoring_job: Vec<Field>,
    model_endpoint: Vec<Field>,
}

fn fields() -> Fields {
    serde_saphyr::from_str(include_str!("fields.yaml")).expect("a table of fields")
}

impl Field {
    /// The part of a spec that sets it.
    fn change(&self) -> Value {
        let mut change = at(&self.field, self.value.clone());
        for (field, value) in &self.with {
            merge(&mut change, at(field, value.clone()));
        }
        if self.field == "model.trainingJob" || self.with.contains_key("model.trainingJob") {
            change["model"]["uri"] = Value::Null;
        }
        change
    }
}

/// `{a: {b: value}}` for `a.b`.
fn at(path: &str, value: Value) -> Value {
    path.rsplit('.').fold(value, |value, name| json!({ name: value }))
}

/// Paths of the fields of a schema that have no fields of their own that Trainyard knows of.
fn leaves(path: &str, schema: &Value, into: &mut BTreeSet<String>) {
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match schema["properties"].as_object() {
        // These are Kubernetes' own.
        Some(fields)
            if !["affinity", "podSecurityContext", "securityContext"].iter().any(|end| path.ends_with(end)) =>
        {
            fields.iter().for_each(|(name, schema)| leaves(&below(name), schema, into));
        }
        _ => drop(into.insert(path.to_owned())),
    }
}

fn schema<K: CustomResourceExt>() -> BTreeSet<String> {
    let definition = serde_json::to_value(K::crd()).expect("JSON");
    let mut paths = BTreeSet::new();
    let spec = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"];
    leaves("", spec, &mut paths);
    paths
}

#[test]
fn the_table_has_every_field() {
    let named = |fields: &[Field]| fields.iter().map(|field| field.field.clone()).collect::<BTreeSet<_>>();
    let fields = fields();
    assert_eq!(named(&fields.training_job), schema::<TrainingJob>());
    let own = |paths: BTreeSet<String>| -> BTreeSet<String> {
        paths.into_iter().filter(|path| !COMMON.contains(&path.split('.').next().unwrap_or_default())).collect()
    };
    assert_eq!(named(&fields.scoring_job), own(schema::<ScoringJob>()));
    assert_eq!(named(&fields.model_endpoint), own(schema::<ModelEndpoint>()));
}

/// What a job came to: the first pod, or why there is none.
async fn end(yard: &Yard, kind: &str, name: &str) -> String {
    let letter = if kind == "TrainingJob" { "t" } else { "s" };
    let pods: Api<Pod> = yard.namespace.api();
    let pod = format!("{name}-{letter}1-0");
    for _ in 0..300 {
        if let Some(pod) = pods.get_opt(&pod).await.expect("an answer") {
            let mut spec = json!({"spec": pod.spec, "labels": pod.metadata.labels, "notes": pod.metadata.annotations});
            for late in ["nodeName", "hostname"] {
                spec["spec"].as_object_mut().expect("a spec").remove(late);
            }
            for variable in spec["spec"]["containers"][0]["env"].as_array_mut().expect("an environment") {
                if variable["name"] == env::ASSIGNMENT {
                    let text = variable["value"].as_str().expect("a text");
                    let mut assignment: Value = serde_json::from_str(text).expect("an assignment");
                    assert!(assignment.as_object_mut().expect("an object").remove("created").is_some());
                    variable["value"] = assignment.to_string().into();
                }
            }
            return anonymous(&spec, name, pod.metadata.owner_references.unwrap_or_default().first().map(|o| &o.uid));
        }
        let status = match kind {
            "TrainingJob" => {
                yard.namespace.api::<TrainingJob>().get(name).await.expect("a job").status.map(|it| it.job)
            }
            _ => yard.namespace.api::<ScoringJob>().get(name).await.expect("a job").status.map(|it| it.job),
        };
        if let Some(status) = status.filter(|status| {
            status.phase.is_terminal()
                || status.conditions.iter().any(|it| it.type_ == "Schedulable" && it.status == "False")
        }) {
            return anonymous(&json!([status.phase, status.message]), name, None);
        }
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    }
    panic!("{name} came to nothing");
}

/// Without what is a job's own.
fn anonymous(value: &Value, name: &str, uid: Option<&String>) -> String {
    let text = value.to_string().replace(name, "NAME");
    uid.map_or(text.clone(), |uid| text.replace(uid, "UID"))
}

async fn make(yard: &Yard, kind: &str, name: &str, change: Value) {
    match kind {
        "TrainingJob" => drop(yard.train(name, change).await),
        _ => drop(yard.score(name, change).await),
    }
}

/// Merges into the spec of a job; or what the API server has against it.
async fn patch(yard: &Yard, kind: &str, name: &str, spec: &Value, parameters: &PatchParams) -> Result<(), String> {
    let patch = Patch::Merge(json!({ "spec": spec }));
    let patched = match kind {
        "TrainingJob" => yard.namespace.api::<TrainingJob>().patch(name, parameters, &patch).await.map(drop),
        _ => yard.namespace.api::<ScoringJob>().patch(name, parameters, &patch).await.map(drop),
    };
    patched.map_err(|error| error.to_string())
}

/// Changes a suspended job, and makes another one so: they come to the same end. Tells whether the change was taken.
async fn changed_is_as_made(yard: &Yard, kind: &str, number: usize, field: &Field) -> bool {
    let (changed, made) = (format!("changed-{number}"), format!("made-{number}"));
    make(yard, kind, &changed, json!({"runPolicy": {"suspend": true}})).await;
    if let Err(error) = patch(yard, kind, &changed, &field.change(), &PatchParams::default()).await {
        assert_eq!(field.field, "managedBy", "{error}");
        return false;
    }
    let go = json!({"runPolicy": {"suspend": false}});
    patch(yard, kind, &changed, &go, &PatchParams::default()).await.expect("it may go on");
    make(yard, kind, &made, field.change()).await;
    let (changed, made) = futures::join!(end(yard, kind, &changed), end(yard, kind, &made));
    assert_eq!(changed, made, "{kind} {}", field.field);
    true
}

async fn sweep(kind: &str, fields: Vec<Field>) {
    let yard = Yard::new("sweep", &["cpu", "h200-580", "a100-mig-mixed"]).await;
    let pairs = stream::iter(fields.iter().enumerate()).map(|(number, field)| {
        let yard = &yard;
        async move { changed_is_as_made(yard, kind, number, field).await }
    });
    let taken = pairs.buffer_unordered(AT_ONCE).filter(|taken| std::future::ready(*taken)).count().await;
    assert!(taken + 1 >= fields.len(), "{taken} of {} changes were taken", fields.len());

    // Of a custom image everything that may change can.
    make(&yard, kind, "started", json!({"infrastructure": {"image": "registry.example.com/started:1"}})).await;
    end(&yard, kind, "started").await;
    let has_started =
        |job: Option<&TrainingJob>| job.and_then(|job| job.status.as_ref()).is_some_and(|it| it.job.attempt > 0);
    let is_scored =
        |job: Option<&ScoringJob>| job.and_then(|job| job.status.as_ref()).is_some_and(|it| it.job.attempt > 0);
    match kind {
        "TrainingJob" => drop(yard.namespace.wait("started", has_started).await),
        _ => drop(yard.namespace.wait("started", is_scored).await),
    }
    let dry = PatchParams { dry_run: true, ..PatchParams::default() };
    for field in &fields {
        let may = MAY_CHANGE.contains(&field.field.split('.').next().unwrap_or_default());
        // Its companions may not change.
        let change = if may { at(&field.field, field.value.clone()) } else { field.change() };
        match patch(&yard, kind, "started", &change, &dry).await {
            Ok(()) => assert!(may, "{} was changed after the start", field.field),
            Err(error) => assert!(!may && error.contains("change"), "{}: {error}", field.field),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_training_job_that_is_changed_is_as_one_that_was_made_so() {
    sweep("TrainingJob", fields().training_job).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_scoring_job_that_is_changed_is_as_one_that_was_made_so() {
    sweep("ScoringJob", fields().scoring_job).await;
}

/// What an endpoint came to: its pods, its Service, its autoscaler.
async fn endpoint_end(yard: &Yard, name: &str) -> String {
    let is_done = |endpoint: Option<&ModelEndpoint>| {
        let Some(endpoint) = endpoint else { return false };
        let status = endpoint.status.clone().unwrap_or_default();
        let least = endpoint.spec.autoscaling.as_ref().map_or(0, |wished| wished.min_replicas);
        // While its pods stop it is in the phase that it was in.
        let stops = endpoint.spec.suspend || endpoint.spec.replicas == 0;
        Some(status.observed_generation) == endpoint.metadata.generation
            && endpoint.spec.replicas >= least
            && status.phase == if stops { EndpointPhase::Suspended } else { EndpointPhase::Ready }
    };
    // The autoscaler takes a quarter of a minute to its first look.
    yard.patiently(async || yard.namespace.api().get_opt(name).await.is_ok_and(|found| is_done(found.as_ref()))).await;
    let endpoint: Option<ModelEndpoint> = yard.namespace.wait(name, is_done).await;
    let is_suspended = |status: &ModelEndpointStatus| status.phase == EndpointPhase::Suspended;
    if endpoint.as_ref().and_then(|endpoint| endpoint.status.as_ref()).is_some_and(is_suspended) {
        // One that was never started has no Deployment.
        return "suspended".to_owned();
    }
    let uid = endpoint.and_then(|endpoint| endpoint.metadata.uid);
    let parts = format!("{name}-m");
    let deployment: Option<Deployment> = yard.namespace.api().get_opt(&parts).await.expect("an answer");
    let service: Option<Service> = yard.namespace.api().get_opt(&parts).await.expect("an answer");
    let autoscaler: Option<HorizontalPodAutoscaler> = yard.namespace.api().get_opt(&parts).await.expect("an answer");
    let (mut deployment, mut service) = (json!(deployment)["spec"].clone(), json!(service));
    // The number of a revision is that of the changes before it.
    let template = &mut deployment["template"];
    for kind in ["labels", "annotations"] {
        if let Some(own) = template["metadata"][kind].as_object_mut() {
            own.retain(|key, _| !["trainyard.dev/attempt", "trainyard.dev/revision"].contains(&key.as_str()));
        }
    }
    for variable in template["spec"]["containers"][0]["env"].as_array_mut().into_iter().flatten() {
        if variable["name"] == "TRAINYARD_ASSIGNMENT" {
            let text = variable["value"].as_str().expect("text");
            let mut told: Value = serde_json::from_str(text).expect("JSON");
            told["attempt"] = Value::Null;
            variable["value"] = told;
        }
    }
    for given in ["clusterIP", "clusterIPs", "healthCheckNodePort"] {
        service["spec"].as_object_mut().expect("a spec").remove(given);
    }
    for port in service["spec"]["ports"].as_array_mut().into_iter().flatten() {
        port.as_object_mut().expect("a port").remove("nodePort");
    }
    let annotations = service["metadata"]["annotations"].get("example.com/dns").cloned();
    let all = json!([deployment, service["spec"], annotations, json!(autoscaler)["spec"]]);
    anonymous(&all, name, uid.as_ref())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endpoint_that_is_changed_is_as_one_that_was_made_so_and_each_field_tells() {
    let yard = Yard::new("sweep-endpoint", &["cpu"]).await;
    yard.claim("models").await;
    yard.train("earlier", json!({"output": {"uri": "pvc://models/earlier"}})).await;
    yard.namespace.pods().finish("earlier-t1-0", 0, &trained()).await;
    yard.serve("base", json!({})).await;
    let base = endpoint_end(&yard, "base").await;
    let fields = fields().model_endpoint;
    let ends = stream::iter(fields.iter().enumerate()).map(|(number, field)| {
        let (yard, base) = (&yard, &base);
        async move {
            let (changed, made) = (format!("changed-{number}"), format!("made-{number}"));
            yard.serve(&changed, json!({})).await;
            yard.serve(&made, field.change()).await;
            assert_eq!(endpoint_end(yard, &changed).await, *base, "{}", field.field);
            yard.change::<ModelEndpoint>(&changed, field.change()).await;
            let (changed, made) = futures::join!(endpoint_end(yard, &changed), endpoint_end(yard, &made));
            assert_eq!(changed, made, "{}", field.field);
            assert_ne!(made, *base, "{} changes nothing", field.field);
        }
    });
    ends.buffer_unordered(AT_ONCE).collect::<Vec<()>>().await;
}
