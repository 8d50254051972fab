//! What users do: train, score, serve.

use std::time::Instant;

use crds::infrastructure::Device;
use crds::status::{EndpointPhase, Phase};
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use serde_json::{Value, json};

use crate::yard::Yard;

/// Least accuracy of a model of the digits; one that guesses has 0.1.
const LEARNED: f64 = 0.8;

pub(crate) fn phase(job: &TrainingJob) -> Phase {
    job.status.as_ref().map(|status| status.job.phase).unwrap_or_default()
}

/// Optimizer steps that are done, as the status says.
pub(crate) fn step(job: &TrainingJob) -> i64 {
    let progress = job.status.as_ref().and_then(|status| status.job.progress.as_ref());
    progress.map(|progress| progress.step).unwrap_or_default()
}

/// A job once it meets a condition; it must not fail before.
pub(crate) fn until(yard: &Yard, name: &str, what: &str, mut holds: impl FnMut(&TrainingJob) -> bool) -> TrainingJob {
    yard.until(name, what, |job: &TrainingJob| {
        let holds = holds(job);
        assert!(holds || phase(job) != Phase::Failed, "{name} failed: {:?}", job.status);
        holds
    })
}

/// Waits for a job's good end.
pub(crate) fn succeeds(yard: &Yard, name: &str) -> TrainingJob {
    until(yard, name, "it succeeds", |job| phase(job) == Phase::Succeeded)
}

/// Two pods of one process, each with a CPU of its own: the nodes are on one machine, and share its CPUs.
pub(crate) fn two_pods(device: &str) -> Value {
    let resources = json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}});
    json!({"device": device, "nodes": 2, "processesPerNode": 1, "pod": {"resources": resources}})
}

fn learned(job: &TrainingJob) {
    let model = job.status.as_ref().and_then(|status| status.model.as_ref()).expect("a model");
    let metric = model.metric.expect("a figure");
    assert!(metric > LEARNED, "{model:?}");
}

pub(crate) fn two_pods_train(yard: &mut Yard) {
    let mut job = Yard::example("digits-training.yaml");
    job["spec"]["infrastructure"] = two_pods("Auto");
    job["spec"]["training"]["epochs"] = json!(2);
    let began = Instant::now();
    yard.apply(&job);
    until(yard, "digits", "its first step is done", |job| step(job) > 0);
    yard.figure("kubectl apply of the digits to their first step, as the status tells it", began.elapsed());
    let nodes: Vec<_> = yard
        .labelled::<k8s_openapi::api::core::v1::Pod>(crds::contract::labels::JOB, "digits")
        .into_iter()
        .filter_map(|pod| pod.spec?.node_name)
        .collect();
    assert_eq!(nodes.len(), 2, "two pods: {nodes:?}");

    // What people watch grows, never falls, and comes to its end.
    let mut seen = Vec::new();
    let ended = until(yard, "digits", "it succeeds", |job| {
        seen.push(step(job));
        phase(job) == Phase::Succeeded
    });
    yard.figure("kubectl apply of the digits to their model", began.elapsed());
    assert!(seen.is_sorted(), "{seen:?}");
    learned(&ended);
    let status = ended.status.unwrap_or_default().job;
    let placement = status.placement.expect("a place");
    assert_eq!((placement.device, placement.runtime.as_deref()), (Device::Cpu, Some("cpu")));
    assert_eq!((status.attempt, status.restarts), (1, 0));
    let model = yard.volume("models").join("digits");
    for file in ["model.safetensors", "model.json", "metrics.json", "report.html"] {
        assert!(model.join(file).is_file(), "{file} is missing");
    }
}

pub(crate) fn two_processes_train(yard: &mut Yard) {
    let mut job = Yard::example("digits-training.yaml");
    job["metadata"]["name"] = json!("digits-pod");
    job["spec"]["training"]["epochs"] = json!(1);
    job["spec"]["output"]["uri"] = json!("pvc://models/digits-pod");
    yard.apply(&job);
    let ended = succeeds(yard, "digits-pod");
    assert!(ended.status.is_some_and(|status| status.model.is_some()));
}

pub(crate) fn scores(yard: &mut Yard) {
    let job = Yard::example("digits-scoring.yaml");
    yard.apply(&job);
    let ended = yard.until("digits-held-out", "it ends", |job: &ScoringJob| {
        job.status.as_ref().is_some_and(|status| status.job.phase.is_terminal())
    });
    let status = ended.status.unwrap_or_default();
    assert_eq!(status.job.phase, Phase::Succeeded, "{status:?}");
    let rows = status.rows.expect("rows");
    assert!(rows.found > 300 && rows.written == rows.found && rows.failed == 0, "{rows:?}");
    let output = status.output.expect("an output");
    assert!(output.metric.is_some_and(|metric| metric > LEARNED), "{output:?}");
}

pub(crate) fn serves(yard: &mut Yard) {
    yard.apply(&Yard::example("digits-endpoint.yaml"));
    let began = Instant::now();
    let ready = yard.until("digits", "it answers", |endpoint: &ModelEndpoint| {
        endpoint.status.as_ref().is_some_and(|status| status.phase == EndpointPhase::Ready)
    });
    yard.figure("kubectl apply of an endpoint to the first pod that answers", began.elapsed());
    let status = ready.status.unwrap_or_default();
    assert_eq!((status.ready_replicas, status.placement.map(|placement| placement.device)), (1, Some(Device::Cpu)));

    // The Service, by its address: its name is known to pods alone.
    let service = yard.kubectl([
        "get",
        "service",
        "-n",
        "vision",
        "digits-m",
        "-o",
        "jsonpath={.spec.clusterIP}:{.spec.ports[0].port}",
    ]);
    let folder = yard.volume("datasets").join("digits/test/7");
    let image = std::fs::read_dir(&folder).expect("images").flatten().next().expect("an image").path();
    let bytes = std::fs::read(&image).expect("an image");
    let answer = ureq::post(format!("http://{service}/v2/models/digits/infer"))
        .header("Content-Type", "image/png")
        .send(&bytes)
        .expect("an answer")
        .body_mut()
        .read_to_string()
        .expect("a text");
    let answer: Value = serde_json::from_str(&answer).expect("JSON");
    assert!(answer.to_string().contains('7'), "{answer}");
}
