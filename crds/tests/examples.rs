//! The examples are accepted; the least manifest and the defaults come to what the schema says.

mod common;

use std::path::{Path, PathBuf};

use common::{least, with};
use crds::check::{Resource, read};
use crds::manifest::schema;
use crds::training_job::TrainingJobSpec;
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use serde_json::{Value, json};

fn examples() -> Vec<(PathBuf, Value)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    let mut examples: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|ending| ending == "yaml"))
        // Kubernetes' own kinds: held by tests/readme.
        .filter(|path| !path.ends_with("claims.yaml"))
        .map(|path| {
            let text = std::fs::read_to_string(&path).unwrap();
            let value = serde_saphyr::from_str(&text).unwrap_or_else(|fault| panic!("{}: {fault}", path.display()));
            (path, value)
        })
        .collect();
    examples.sort_by(|left, right| left.0.cmp(&right.0));
    examples
}

#[test]
fn the_examples_are_accepted_by_schema_and_rules() {
    let examples = examples();
    assert!(examples.len() >= 7, "an example is missing: {}", examples.len());
    for (path, manifest) in examples {
        if let Err(faults) = read(&manifest) {
            panic!("{}: {faults:#?}", path.display());
        }
    }
}

#[test]
fn the_examples_that_run_here_ask_for_nothing_that_this_version_lacks() {
    for (path, manifest) in examples() {
        let faults = read(&manifest).unwrap().meaning();
        assert!(faults.is_empty(), "{}: {faults:#?}", path.display());
    }
}

#[test]
fn ten_lines_come_to_a_whole_recipe() {
    let Resource::TrainingJob(job) = read(&least("TrainingJob")).unwrap() else { panic!("another kind") };
    let recipe = job.spec.recipe(None).unwrap();
    assert_eq!(
        serde_json::to_value(&recipe).unwrap(),
        json!({
            "task": "ImageClassification",
            "model": {"architecture": "resnet18", "fineTuning": {"strategy": "All"}},
            "data": {
                "uri": "pvc://datasets/digits",
                "format": "Auto",
                "imageColumn": "image",
                "labelColumn": "label",
                "validation": {"fraction": 0.2},
                "imageSize": 224,
                "augmentation": {
                    "crop": "RandomResized",
                    "randomResizedCrop": {"minScale": 0.08, "maxScale": 1.0, "minRatio": 0.75, "maxRatio": 1.3333},
                    "horizontalFlip": 0.5, "verticalFlip": 0.0, "rotationDegrees": 0.0, "translate": 0.0,
                    "policy": "None", "mixup": 0.0, "cutmix": 0.0,
                },
                "normalization": {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]},
                "loaderThreads": 0,
                "unreadableFraction": 0.01,
            },
            "training": {
                "epochs": 30, "batchSize": 32, "optimizer": {"name": "Sgd"}, "schedule": {"name": "Cosine"},
                "warmupSteps": 0, "precision": "Float32", "gradientAccumulation": 1, "labelSmoothing": 0.0,
                "classWeights": {"mode": "None"}, "threshold": {"by": "Youden", "atLeast": 0.5},
                "syncBatchNorm": false, "gradientCompression": "None", "collectiveTimeoutSeconds": 300,
                "seed": 0, "deterministic": false, "cudaGraphs": "Auto",
            },
        })
    );
}

#[test]
fn a_retrained_job_takes_whole_blocks_from_its_parent() {
    let spec = |spec: Value| serde_json::from_value::<TrainingJobSpec>(spec).unwrap();
    let output = json!({"uri": "pvc://models/a"});
    let parent = spec(json!({
        "model": {"architecture": "resnet50"}, "data": {"uri": "pvc://datasets/a", "imageSize": 64},
        "training": {"epochs": 7}, "output": output,
    }))
    .recipe(None)
    .unwrap();
    let child = spec(json!({
        "training": {"batchSize": 8}, "retrainFrom": {"trainingJob": "a"}, "infrastructure": {"nodes": 4}, "output": output,
    }));
    let recipe = child.recipe(Some(&parent)).unwrap();
    assert_eq!((&recipe.model, &recipe.data), (&parent.model, &parent.data));
    assert_eq!((recipe.training.batch_size, recipe.training.epochs), (8, 30));
    assert!(child.recipe(None).is_err(), "data has to come from somewhere");
}

/// The API server fills in the schema's defaults, and the trainer the types': both must come to the same.
#[test]
fn the_defaults_of_the_schema_are_those_of_the_types() {
    let blocks = json!({"spec": {"model": {}, "training": {"earlyStopping": {}}}});
    for (kind, schema) in [
        ("TrainingJob", schema::<TrainingJob>()),
        ("ScoringJob", schema::<ScoringJob>()),
        ("ModelEndpoint", schema::<ModelEndpoint>()),
    ] {
        let manifests = [least(kind), with(least(kind), if kind == "TrainingJob" { &blocks } else { &Value::Null })];
        for manifest in manifests.iter().filter(|manifest| manifest.is_object()) {
            // Once for each level: the API server goes on within what it has filled in.
            let filled = (0..8).fold(manifest.clone(), |value, _| kube::core::cel::apply_defaults(&schema, &value));
            let spec = |value: &Value| match read(value).unwrap() {
                Resource::TrainingJob(job) => serde_json::to_value(job.spec).unwrap(),
                Resource::ScoringJob(job) => serde_json::to_value(job.spec).unwrap(),
                Resource::ModelEndpoint(endpoint) => serde_json::to_value(endpoint.spec).unwrap(),
            };
            assert_eq!(floats(&filled["spec"]), floats(&spec(manifest)), "{kind}");
        }
    }
}

/// Numbers as floats, so that 1 equals 1.0, and without empty blocks, which say nothing.
fn floats(value: &Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(items) => items.iter().map(floats).collect(),
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), floats(value))).collect(),
        other => other.clone(),
    }
}
