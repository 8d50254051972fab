//! How a model is served, in the words of the protocol's model configuration extension, which Triton's `model_config.proto`
//! defines.

use crds::model_endpoint::Batching;
use serde_json::{Value, json};

use super::{Described, PLATFORM, described_outputs, inputs};

/// The file that a version is loaded from.
const FILE: &str = "model.safetensors";

/// What a configuration says.
pub(in crate::serve) struct Config<'a> {
    pub(in crate::serve) model: &'a str,
    /// Width and height of the network's images, in pixels.
    pub(in crate::serve) size: usize,
    pub(in crate::serve) classes: usize,
    pub(in crate::serve) batching: &'a Batching,
    pub(in crate::serve) on_gpu: bool,
}

impl Config<'_> {
    /// The tensors that the model takes: one of them, so that each is optional.
    pub(in crate::serve) fn inputs(&self) -> [Described; 2] {
        inputs(self.size)
    }

    /// The tensors that it gives.
    pub(in crate::serve) fn outputs(&self) -> [Described; 4] {
        described_outputs(self.classes)
    }

    pub(in crate::serve) fn max_queue_delay_microseconds(&self) -> u64 {
        1000 * u64::from(self.batching.max_delay_milliseconds)
    }

    pub(in crate::serve) fn file(&self) -> &'static str {
        FILE
    }

    /// As the extension's JSON has it.
    pub(in crate::serve) fn to_json(&self) -> Value {
        let tensor = |described: &Described| json!({"name": described.name, "data_type": described.data_type().0, "dims": described.dims()});
        let input = |described: &Described| {
            let mut input = tensor(described);
            input["format"] = json!("FORMAT_NONE");
            input["optional"] = json!(true);
            input
        };
        json!({
            "name": self.model,
            "platform": PLATFORM,
            "backend": "",
            "version_policy": {"latest": {"num_versions": 1}},
            "max_batch_size": self.batching.max_batch_size,
            "input": self.inputs().each_ref().map(input),
            "output": self.outputs().each_ref().map(tensor),
            "instance_group": [{
                "name": self.model, "kind": if self.on_gpu { "KIND_GPU" } else { "KIND_CPU" }, "count": 1,
                "gpus": if self.on_gpu { vec![0] } else { vec![] },
            }],
            "default_model_filename": self.file(),
            "dynamic_batching": {"max_queue_delay_microseconds": self.max_queue_delay_microseconds()},
        })
    }
}

impl Described {
    /// Name and number of its type there.
    pub(in crate::serve) fn data_type(&self) -> (&'static str, i32) {
        match self.datatype {
            "BYTES" => ("TYPE_STRING", 13),
            "INT64" => ("TYPE_INT64", 9),
            "FP32" => ("TYPE_FP32", 11),
            _ => ("TYPE_INVALID", 0),
        }
    }

    /// Its shape for one image.
    pub(in crate::serve) fn dims(&self) -> &[i64] {
        // A tensor with one element an image may also be a column.
        if self.shape.len() == 1 { &[1] } else { &self.shape[1..] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_says_what_the_metadata_say() {
        let batching = Batching { max_batch_size: 8, max_delay_milliseconds: 3, max_queue: 9 };
        let config = Config { model: "a", size: 32, classes: 2, batching: &batching, on_gpu: true };
        let expected = json!({
            "name": "a", "platform": "trainyard_libtorch", "backend": "",
            "version_policy": {"latest": {"num_versions": 1}}, "max_batch_size": 8,
            "input": [
                {"name": "image", "data_type": "TYPE_STRING", "dims": [1], "format": "FORMAT_NONE", "optional": true},
                {"name": "input", "data_type": "TYPE_FP32", "dims": [3, 32, 32], "format": "FORMAT_NONE", "optional": true},
            ],
            "output": [
                {"name": "label", "data_type": "TYPE_STRING", "dims": [1]},
                {"name": "class", "data_type": "TYPE_INT64", "dims": [1]},
                {"name": "probabilities", "data_type": "TYPE_FP32", "dims": [2]},
                {"name": "logits", "data_type": "TYPE_FP32", "dims": [2]},
            ],
            "instance_group": [{"name": "a", "kind": "KIND_GPU", "count": 1, "gpus": [0]}],
            "default_model_filename": "model.safetensors",
            "dynamic_batching": {"max_queue_delay_microseconds": 3000},
        });
        assert_eq!(config.to_json(), expected);
    }
}
