//! Manifests to begin with, and how tests alter them.

use serde_json::{Value, json};

/// The least that is accepted of a kind.
pub(crate) fn least(kind: &str) -> Value {
    let spec = match kind {
        "TrainingJob" => json!({"data": {"uri": "pvc://datasets/digits"}, "output": {"uri": "pvc://models/digits"}}),
        "ScoringJob" => json!({
            "model": {"trainingJob": "digits"},
            "data": {"uri": "pvc://datasets/digits"},
            "output": {"uri": "pvc://models/scores"},
        }),
        _ => json!({"model": {"trainingJob": "digits"}}),
    };
    json!({"apiVersion": "trainyard.dev/v1alpha1", "kind": kind, "metadata": {"name": "digits"}, "spec": spec})
}

/// `value` with `patch` merged in (RFC 7386: null removes a field).
pub(crate) fn with(mut value: Value, patch: &Value) -> Value {
    merge(&mut value, patch);
    value
}

fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = json!({});
    }
    for (name, patch) in patch {
        match patch {
            Value::Null => {
                value.as_object_mut().unwrap().remove(name);
            }
            patch => merge(&mut value[name], patch),
        }
    }
}
