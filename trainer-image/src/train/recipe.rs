//! The recipe of a training, with what a retrained model brings, checked against the GPUs that are to compute it and the checkpoint
//! that it goes on from.

use std::collections::BTreeSet;

use crds::contract::Cause;
use crds::training_job::{Recipe, TrainingJobSpec};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::fault::Fault;
use crate::preflight::precision_fault;
use crate::torch::driver::GpuInfo;

/// What a spec comes to with the recipe of the model that it retrains, on these GPUs; none on CPUs.
///
/// # Errors
/// [`Cause::BadSpec`] if neither names data; [`Cause::GpuUnsupported`] if a GPU doesn't have the precision: the preflight
/// knew no other than that of the spec.
pub(super) fn resolve(spec: &TrainingJobSpec, parent: Option<&Recipe>, gpus: &[GpuInfo]) -> Result<Recipe, Fault> {
    let recipe = spec.recipe(parent).map_err(|error| Fault::new(Cause::BadSpec, error.to_string()))?;
    precision_fault(recipe.training.precision, gpus).map_or(Ok(recipe), Err)
}

/// What may be another in the recipe by which a training goes on: where the same images lie, how they are read, and how many
/// of them a step has, as it is with another number of processes.
const MAY_CHANGE: [&str; 5] = [
    "data.uri",
    "data.loaderThreads",
    "training.batchSize",
    "training.gradientAccumulation",
    "training.collectiveTimeoutSeconds",
];

/// What a training is made by.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Basis {
    #[serde(flatten)]
    pub(super) recipe: Recipe,
    /// Digest of the model that gave the first weights.
    pub(super) retrain_from: Option<String>,
}

impl Basis {
    /// Refuses to go on from a checkpoint of another basis, which a job of the same name may have left: the model would be that
    /// of neither. An older version's checkpoint does not tell its own.
    ///
    /// # Errors
    /// [`Cause::BadSpec`] with the fields.
    pub(super) fn goes_on(&self, before: Option<&Basis>) -> Result<(), Fault> {
        let Some(before) = before else { return Ok(()) };
        let mut fields = Vec::new();
        differences(String::new(), &json!(before), &json!(self), &mut fields);
        fields.retain(|field| !MAY_CHANGE.contains(&field.as_str()));
        if fields.is_empty() {
            return Ok(());
        }
        let message = format!("the checkpoints in the output were made with another {}", fields.join(", "));
        Err(Fault::new(Cause::BadSpec, message)
            .hint("give another output.uri to begin anew, or the fields as they were to go on from the checkpoints"))
    }
}

/// The paths of what differs.
fn differences(path: String, one: &Value, other: &Value, found: &mut Vec<String>) {
    /// What a checkpoint has been through: numbers as decimal digits.
    const DIGITS: f64 = 1e-12;
    match (one, other) {
        (Value::Object(fields), Value::Object(others)) => {
            let names: BTreeSet<&String> = fields.keys().chain(others.keys()).collect();
            for name in names {
                let below = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                let of = |fields: &Map<String, Value>| fields.get(name).cloned().unwrap_or_default();
                differences(below, &of(fields), &of(others), found);
            }
        }
        (Value::Number(one), Value::Number(other)) => {
            let (one, other) = (one.as_f64().unwrap_or(f64::NAN), other.as_f64().unwrap_or(f64::NAN));
            if one != other && (one - other).abs() > DIGITS * one.abs().max(other.abs()) {
                found.push(path);
            }
        }
        _ if one == other => {}
        _ => found.push(path),
    }
}

#[cfg(test)]
mod tests {

    use super::*;

    #[test]
    fn a_precision_that_a_retrained_model_brings_is_checked_against_the_gpus() {
        let spec: TrainingJobSpec = serde_json::from_value(json!({
            "retrainFrom": {"uri": "file:///parent"}, "output": {"uri": "file:///model"},
        }))
        .unwrap();
        let parent: Recipe = serde_json::from_value(json!({
            "task": "ImageClassification", "model": {}, "data": {"uri": "file:///data"},
            "training": {"precision": "BFloat16"},
        }))
        .unwrap();
        let gpu = |name: &str, architecture: &str| GpuInfo {
            name: name.to_owned(),
            uuid: String::new(),
            memory: 16 << 30,
            architecture: architecture.parse().unwrap(),
        };
        for gpus in [vec![], vec![gpu("NVIDIA H200", "9.0")]] {
            assert_eq!(resolve(&spec, Some(&parent), &gpus).unwrap(), parent);
        }
        let fault = resolve(&spec, Some(&parent), &[gpu("Tesla T4", "7.5")]).unwrap_err();
        assert_eq!(fault.cause(), Cause::GpuUnsupported);
        assert!(fault.to_string().contains("BFloat16 needs a GPU"), "{fault}");
        assert_eq!(resolve(&spec, None, &[]).unwrap_err().cause(), Cause::BadSpec, "no data");
    }

    #[test]
    fn a_training_goes_on_by_what_its_checkpoint_was_made_by() {
        let basis = |training: Value, data: Value, parent: Option<&str>| -> Basis {
            let recipe = json!({"task": "ImageClassification", "model": {}, "data": data, "training": training});
            Basis { recipe: serde_json::from_value(recipe).unwrap(), retrain_from: parent.map(str::to_owned) }
        };
        // A number of many digits.
        let rate = json!({"learningRate": 0.1_f64 + 0.2});
        let data = json!({"uri": "file:///data"});
        let same = || basis(json!({"optimizer": rate}), data.clone(), Some("sha256:0"));
        // As a checkpoint has it.
        let before: Basis = serde_json::from_str(&serde_json::to_string(&same()).unwrap()).unwrap();
        same().goes_on(Some(&before)).unwrap();
        let moved = basis(
            json!({"optimizer": rate, "batchSize": 3, "gradientAccumulation": 2}),
            json!({"uri": "file:///moved", "loaderThreads": 3}),
            Some("sha256:0"),
        );
        moved.goes_on(Some(&before)).unwrap();
        let changed = basis(
            json!({"optimizer": {"learningRate": 0.301}, "epochs": 77, "emaDecay": 0.5}),
            json!({"uri": "file:///data", "imageSize": 64}),
            Some("sha256:1"),
        );
        changed.goes_on(None).unwrap();
        let fault = changed.goes_on(Some(&before)).unwrap_err();
        assert_eq!(fault.cause(), Cause::BadSpec);
        let fields = "data.imageSize, retrainFrom, training.emaDecay, training.epochs, training.optimizer.learningRate";
        assert_eq!(fault.to_string(), format!("the checkpoints in the output were made with another {fields}"));
    }
}
