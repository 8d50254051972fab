//! Each kind of mistake in a manifest is found, named by its field, and answered by what to do.

mod common;

use common::{least, with};
use crds::check::read;
use crds::manifest::schema;
use crds::{ModelEndpoint, ScoringJob, TrainingJob};
use serde_json::{Value, json};

/// The faults of a manifest as a person reads them.
fn faults(manifest: &Value) -> Vec<String> {
    read(manifest).err().unwrap_or_default().iter().map(ToString::to_string).collect()
}

#[test]
fn mistakes_are_named_and_answered() {
    let training = |patch: Value| json!({"spec": {"training": patch}});
    let pod = |patch: Value| json!({"spec": {"infrastructure": {"pod": patch}}});
    let codes =
        |list: Value| json!({"spec": {"infrastructure": {"image": "r.example/a:1"}, "runPolicy": {"exitCodes": list}}});
    let cases = [
        (json!({"apiVersion": "v1"}), "apiVersion: \"v1\" is not ours. Write trainyard.dev/v1alpha1"),
        (json!({"kind": "Job"}), "kind: \"Job\" is not one of ours. There are TrainingJob, ScoringJob, ModelEndpoint"),
        (json!({"metadata": null}), "metadata.name: is missing. Names have a-z, 0-9 and -"),
        (json!({"spec": {"output": null}}), "spec.output: is missing. Where the model goes"),
        (training(json!({"epoch": 3})), "spec.training.epoch: is not a field. Did you mean epochs?"),
        (training(json!({"batch_size": 3})), "spec.training.batch_size: is not a field. Did you mean batchSize?"),
        (training(json!({"epochs": "3"})), "spec.training.epochs: must be a whole number, not the text \"3\""),
        (training(json!({"epochs": 1.5})), "spec.training.epochs: must be a whole number, not 1.5"),
        (training(json!({"epochs": 0})), "spec.training.epochs: must be from 1 to 100000, not 0"),
        (training(json!({"epochs": -1})), "spec.training.epochs: must be from 1 to 100000, not -1"),
        (training(json!({"labelSmoothing": 1})), "spec.training.labelSmoothing: must be from 0 to 0.9, not 1"),
        (
            training(json!([])),
            "spec.training: must be a block of fields, not a list. Write its fields below it, indented",
        ),
        (
            training(json!({"precision": "bfloat16"})),
            "spec.training.precision: \"bfloat16\" is not one of Float32, BFloat16, Float16. Did you mean BFloat16?",
        ),
        (
            training(json!({"schedule": {"name": "MultiStep", "milestones": []}})),
            "spec.training.schedule.milestones: has 0 items; it needs 1 at least",
        ),
        (
            json!({"spec": {"data": {"uri": "datasets/digits"}}}),
            "spec.data.uri: \"datasets/digits\" is not a URI: write file:///path, pvc://claim/path, s3://bucket/path, gs://bucket/path or az://container/path",
        ),
        (
            json!({"spec": {"data": {"uri": "pvc://datasets/../secrets"}}}),
            "spec.data.uri: \"pvc://datasets/../secrets\" has the path segment \"..\": write the path without empty segments, . and .. and control characters",
        ),
        (
            json!({"spec": {"output": {"uri": "https://models.example/a"}}}),
            "spec.output.uri: \"https://models.example/a\" can be read but not written. Outputs go to file://, pvc://, s3://, gs://, az://",
        ),
        (
            json!({"spec": {"infrastructure": {"gpu": {"minMemory": "40 GB"}}}}),
            "spec.infrastructure.gpu.minMemory: \"40 GB\" is not a quantity. Such as 2, 500m or 8Gi",
        ),
        (
            json!({"spec": {"infrastructure": {"image": "Registry/Trainer latest"}}}),
            "spec.infrastructure.image: \"Registry/Trainer latest\" is not an image. Such as registry.example/team/trainer:1.2",
        ),
        (
            pod(json!({"nodeSelector": {"example.com/pool": "a b"}})),
            "spec.infrastructure.pod.nodeSelector[example.com/pool]: \"a b\" is not a label's value. Values have letters, digits, -, _ and ., and begin and end with a letter or digit",
        ),
        (
            pod(json!({"env": [{"name": "A", "value": 1}]})),
            "spec.infrastructure.pod.env[0].value: must be a text, not 1. Put it in quotes: \"1\"",
        ),
        (
            pod(json!({"env": [{"name": "A"}, {"name": "A"}]})),
            "spec.infrastructure.pod.env[1].name: has the same name as an item before it. Each may stand there once",
        ),
        (
            codes(json!([{"code": 3, "action": "Fail"}, {"code": 3, "action": "Ignore"}])),
            "spec.runPolicy.exitCodes[1].code: has the same code as an item before it. Each may stand there once",
        ),
        (
            codes(json!([{"code": 0, "action": "Fail"}])),
            "spec.runPolicy.exitCodes[0].code: must be from 1 to 255, not 0",
        ),
        (
            codes(json!([{"code": 3, "action": "Retry"}])),
            "spec.runPolicy.exitCodes[0].action: \"Retry\" is not one of Fail, Restart, RestartElsewhere, Ignore",
        ),
        (
            pod(json!({"resources": {"limits": {"memory": true}}})),
            "spec.infrastructure.pod.resources.limits.memory: must be a quantity, not true. Such as 2, 500m or 8Gi",
        ),
    ];
    for (patch, expected) in cases {
        assert_eq!(faults(&with(least("TrainingJob"), &patch)), [expected]);
    }
}

#[test]
fn all_mistakes_are_found_at_once() {
    let manifest = with(least("ScoringJob"), &json!({"spec": {"shards": 0, "topK": "all", "outputs": {}}}));
    assert_eq!(faults(&manifest).len(), 3);
}

#[test]
fn quantities_are_numbers_or_texts() {
    let limits = json!({"spec": {"infrastructure": {"pod": {"resources": {"limits": {"cpu": 2, "memory": "8Gi"}}}}}});
    assert_eq!(faults(&with(least("ModelEndpoint"), &limits)), [""; 0]);
}

/// A field of the wrong type is refused, whichever it is, and by its own path.
#[test]
fn every_field_of_every_spec_refuses_what_it_is_not() {
    for (kind, schema) in [
        ("TrainingJob", schema::<TrainingJob>()),
        ("ScoringJob", schema::<ScoringJob>()),
        ("ModelEndpoint", schema::<ModelEndpoint>()),
    ] {
        let mut fields = Vec::new();
        paths(&schema["properties"]["spec"], &mut vec!["spec".to_owned()], &mut fields);
        assert!(fields.len() > 60, "{kind} has {} fields", fields.len());
        for (path, wrong) in fields {
            let patch = path.iter().rev().fold(wrong, |inner, name| json!({name: inner}));
            let found = read(&with(least(kind), &patch)).err().unwrap_or_default();
            let path = path.join(".");
            assert!(found.iter().any(|fault| fault.path == path), "{kind} accepts {patch}: {found:?}");
        }
    }
}

/// Every field with a value that it can't have.
fn paths(schema: &Value, path: &mut Vec<String>, found: &mut Vec<(Vec<String>, Value)>) {
    let wrong = match schema["type"].as_str() {
        Some("string") => json!({"a": 1}),
        Some(_) => json!("a text"),
        None => return,
    };
    found.push((path.clone(), wrong));
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        path.push(name.clone());
        paths(property, path, found);
        path.pop();
    }
}

/// What CEL walks is bounded, or the API server refuses the rule for its cost; and every field says what it is.
#[test]
fn every_list_map_and_text_has_a_bound_and_every_field_a_description() {
    fn walk(schema: &Value, path: &str, missing: &mut Vec<String>) {
        let bound = match schema["type"].as_str() {
            Some("array") => "maxItems",
            Some("object") if schema["additionalProperties"].is_object() => "maxProperties",
            Some("string") if schema["enum"].is_null() && schema["format"].is_null() => "maxLength",
            _ => "type",
        };
        if schema[bound].is_null() && schema["x-kubernetes-int-or-string"].is_null() {
            missing.push(format!("{path}: {bound}"));
        }
        for (name, property) in schema["properties"].as_object().into_iter().flatten() {
            let below = format!("{path}.{name}");
            // Fields of Kubernetes' own types are described by Kubernetes.
            let foreign = [".pod.", ".conditions"].iter().any(|part| path.contains(part));
            if property["description"].is_null() && !foreign {
                missing.push(format!("{below}: description"));
            }
            walk(property, &below, missing);
        }
        for inner in ["items", "additionalProperties"] {
            if schema[inner].is_object() {
                walk(&schema[inner], &format!("{path}[]"), missing);
            }
        }
    }
    let mut missing = Vec::new();
    for schema in [schema::<TrainingJob>(), schema::<ScoringJob>(), schema::<ModelEndpoint>()] {
        walk(&schema["properties"]["spec"], "spec", &mut missing);
        walk(&schema["properties"]["status"], "status", &mut missing);
    }
    assert_eq!(missing, [""; 0]);
}
