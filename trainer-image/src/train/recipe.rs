//! The recipe of a training, with what a retrained model brings, checked against the GPUs that are to compute it.

use crds::contract::Cause;
use crds::training_job::{Recipe, TrainingJobSpec};

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

#[cfg(test)]
mod tests {
    use serde_json::json;

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
}
