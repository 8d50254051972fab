//! The table of pairs: for each CEL rule one manifest that it accepts and one that it refuses. The rules are judged by it
//! without an API server, and the real one by the same.

use serde_json::{Value, json};

use crate::common::{least, with};

/// A rule, as (kind, path, first words of its message), what it accepts and what it refuses. `old` is what was there before,
/// for rules about changes.
pub(crate) struct Pair {
    pub(crate) rule: (&'static str, String, String),
    pub(crate) old: Option<Value>,
    pub(crate) accepted: Value,
    pub(crate) refused: Value,
}

fn pair(kind: &'static str, path: &str, message: &str, accepted: &Value, refused: &Value) -> Pair {
    let rule = (kind, path.to_owned(), message.to_owned());
    Pair { rule, old: None, accepted: with(least(kind), accepted), refused: with(least(kind), refused) }
}

/// A field that can't change once the job has started: the change is accepted before, and refused afterwards.
fn frozen(kind: &'static str, field: &str, change: &Value) -> [Pair; 2] {
    let rule = || (kind, String::new(), format!("{field} can't change once"));
    let changed = with(least(kind), &json!({"spec": {field: change}}));
    let before = |attempt: u32| with(least(kind), &json!({"status": {"attempt": attempt}}));
    let suspended = with(least(kind), &json!({"spec": {"runPolicy": {"suspend": true}}}));
    [
        Pair { rule: rule(), old: Some(before(1)), accepted: suspended, refused: changed.clone() },
        // The same change before the start; the refused one is refused for its own sake.
        Pair { rule: rule(), old: Some(before(0)), accepted: changed, refused: json!({}) },
    ]
}

/// All pairs.
pub(crate) fn pairs() -> Vec<Pair> {
    let mut pairs = Vec::new();
    let spec = |field: &str, value: Value| json!({"spec": {field: value}});
    for kind in ["TrainingJob", "ScoringJob", "ModelEndpoint"] {
        let pod = "spec.infrastructure.pod";
        let in_pod = |field: &str, value: Value| json!({"spec": {"infrastructure": {"pod": {field: value}}}});
        pairs.extend([
            pair(
                kind,
                "spec.infrastructure",
                "command and args are those",
                &spec("infrastructure", json!({"image": "r.example/a/b:1", "command": ["x"]})),
                &spec("infrastructure", json!({"args": ["x"]})),
            ),
            pair(
                kind,
                "spec.infrastructure",
                "what starts with PET_",
                &spec(
                    "infrastructure",
                    json!({"image": "r.example/a/b:1", "pod": {"env": [{"name": "PET_MAX_RESTARTS"}]}}),
                ),
                &spec("infrastructure", json!({"pod": {"env": [{"name": "PET_NPROC_PER_NODE", "value": "2"}]}})),
            ),
            pair(
                kind,
                pod,
                "labels that start with",
                &in_pod("labels", json!({"team": "a"})),
                &in_pod("labels", json!({"trainyard.dev/job": "other"})),
            ),
            pair(
                kind,
                pod,
                "RANK, WORLD_SIZE",
                &in_pod("env", json!([{"name": "RANKING", "value": "1"}])),
                &in_pod("env", json!([{"name": "A"}, {"name": "RANK", "value": "1"}])),
            ),
        ]);
    }
    for kind in ["TrainingJob", "ScoringJob"] {
        let codes = |infrastructure: Value| json!({"spec": {"runPolicy": {"exitCodes": [{"code": 3, "action": "Fail"}]}, "infrastructure": infrastructure}});
        let fits = codes(json!({"image": "r.example/a/b:1"}));
        pairs.push(pair(kind, "spec", "exitCodes are those of a custom image", &fits, &codes(json!({}))));
    }
    pairs.extend(training_job_pairs());
    pairs.extend(scoring_job_pairs());
    pairs.extend(model_endpoint_pairs());
    pairs
}

fn training_job_pairs() -> Vec<Pair> {
    let kind = "TrainingJob";
    let data = |patch: Value| json!({"spec": {"data": patch}});
    let crop = |patch: Value| json!({"spec": {"data": {"augmentation": {"randomResizedCrop": patch}}}});
    let training = |patch: Value| json!({"spec": {"training": patch}});
    let checkpoint = |patch: Value| json!({"spec": {"output": {"checkpoint": patch}}});
    let from = json!({"spec": {"retrainFrom": {"trainingJob": "a"}}});
    let crop_path = "spec.data.augmentation.randomResizedCrop";
    let mut pairs = vec![
        pair(kind, crop_path, "minScale is larger", &crop(json!({"minScale": 0.5})), &crop(json!({"maxScale": 0.05}))),
        pair(kind, crop_path, "minRatio is larger", &crop(json!({"minRatio": 1})), &crop(json!({"minRatio": 2}))),
        pair(
            kind,
            "spec.output.checkpoint",
            "give everySteps or everySeconds",
            &checkpoint(json!({"everySteps": 10})),
            &checkpoint(json!({"everySteps": 10, "everySeconds": 10})),
        ),
        pair(
            kind,
            "spec.retrainFrom",
            "give either uri",
            &from,
            &json!({"spec": {"retrainFrom": {"trainingJob": "a", "uri": "pvc://models/a"}}}),
        ),
        pair(
            kind,
            "spec.training.optimizer",
            "nesterov needs",
            &training(json!({"optimizer": {"nesterov": true}})),
            &training(json!({"optimizer": {"nesterov": true, "momentum": 0}})),
        ),
        pair(
            kind,
            "spec.training.schedule",
            "schedule MultiStep needs",
            &training(json!({"schedule": {"name": "MultiStep", "milestones": [3, 6]}})),
            &training(json!({"schedule": {"name": "MultiStep"}})),
        ),
        pair(
            kind,
            "spec.training.classWeights",
            "classWeights of mode Given needs",
            &training(json!({"classWeights": {"mode": "Given", "weights": {"rose": 2}}})),
            &training(json!({"classWeights": {"mode": "Given"}})),
        ),
        pair(kind, "spec", "data is missing", &with(from.clone(), &data(Value::Null)), &data(Value::Null)),
        pair(
            kind,
            "spec",
            "retrainFrom and model.initialWeights",
            &with(from.clone(), &json!({"spec": {"model": {"architecture": "resnet34"}}})),
            &with(from, &json!({"spec": {"model": {"initialWeights": {"uri": "pvc://models/a"}}}})),
        ),
        managed_by(kind),
    ];
    for (field, change) in [
        ("task", json!("ObjectDetection")),
        ("model", json!({"architecture": "resnet50"})),
        ("data", json!({"imageSize": 64})),
        ("training", json!({"epochs": 3})),
        ("infrastructure", json!({"nodes": 2})),
        ("scheduling", json!({"gang": "None"})),
        ("output", json!({"uri": "pvc://models/other"})),
        ("retrainFrom", json!({"trainingJob": "other"})),
    ] {
        pairs.extend(frozen(kind, field, &change));
    }
    pairs
}

fn scoring_job_pairs() -> Vec<Pair> {
    let kind = "ScoringJob";
    let spec = |patch: Value| json!({"spec": patch});
    let mut pairs = vec![
        pair(
            kind,
            "spec.model",
            "give either uri",
            &spec(json!({"model": {"trainingJob": null, "uri": "pvc://models/a"}})),
            &spec(json!({"model": {"trainingJob": null}})),
        ),
        pair(
            kind,
            "spec",
            "parallelism is larger",
            &spec(json!({"shards": 4, "parallelism": 4})),
            &spec(json!({"shards": 4, "parallelism": 5})),
        ),
        pair(
            kind,
            "spec",
            "a ScoringJob has one pod for each shard",
            &spec(json!({"infrastructure": {"nodes": 1}})),
            &spec(json!({"infrastructure": {"nodes": 2}})),
        ),
        managed_by(kind),
    ];
    for (field, change) in [
        ("model", json!({"trainingJob": "other"})),
        ("data", json!({"loaderThreads": 3})),
        ("output", json!({"format": "Parquet"})),
        ("shards", json!(2)),
        ("batchSize", json!(2)),
        ("precision", json!("BFloat16")),
        ("topK", json!(1)),
        ("evaluate", json!(true)),
        ("infrastructure", json!({"device": "Cpu"})),
        ("scheduling", json!({"gang": "None"})),
    ] {
        pairs.extend(frozen(kind, field, &change));
    }
    pairs
}

fn model_endpoint_pairs() -> Vec<Pair> {
    let kind = "ModelEndpoint";
    let spec = |patch: Value| json!({"spec": patch});
    vec![
        pair(
            kind,
            "spec.model",
            "give either uri",
            &spec(json!({"model": {"trainingJob": null, "uri": "https://models.example/a"}})),
            &spec(json!({"model": {"uri": "pvc://models/a"}})),
        ),
        pair(
            kind,
            "spec.autoscaling",
            "minReplicas is larger",
            &spec(json!({"autoscaling": {"maxReplicas": 1}})),
            &spec(json!({"autoscaling": {"minReplicas": 2, "maxReplicas": 1}})),
        ),
        pair(
            kind,
            "spec.service",
            "port and grpcPort",
            &spec(json!({"service": {"port": 80}})),
            &spec(json!({"service": {"port": 8081}})),
        ),
        pair(
            kind,
            "spec",
            "followTrainingJob needs",
            &spec(json!({"followTrainingJob": true})),
            &spec(json!({"followTrainingJob": true, "model": {"trainingJob": null, "uri": "pvc://models/a"}})),
        ),
        pair(
            kind,
            "spec",
            "an endpoint has one pod for each replica",
            &spec(json!({"replicas": 0})),
            &spec(json!({"infrastructure": {"nodes": 2}})),
        ),
    ]
}

fn managed_by(kind: &'static str) -> Pair {
    let managed = |by: &str| with(least(kind), &json!({"spec": {"managedBy": by}}));
    Pair {
        rule: (kind, "spec".into(), "managedBy can't change".into()),
        old: Some(managed("kueue.x-k8s.io/multikueue")),
        accepted: managed("kueue.x-k8s.io/multikueue"),
        refused: least(kind),
    }
}
