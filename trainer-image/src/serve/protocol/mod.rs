//! The Open Inference Protocol, version 2, as far as REST and gRPC share it: what a request asks, what an answer holds,
//! and what a model says of itself. Reading is pure: no sockets, no models.
//!
//! A model takes one of two tensors: `image`, files of images as BYTES of shape `[n]`; or `input`, preprocessed images as FP32
//! of shape `[n, 3, size, size]`.

mod binary;
mod config;
mod elements;
mod few;
mod json;
mod output;
mod tensor;

pub(super) use binary::{HEADER_LENGTH, split};
pub(super) use config::Config;
pub(super) use json::read;
pub(super) use output::{Data, Output, Written, is_large, most_first, outputs};
pub(super) use tensor::{Content, Tensor, byte_elements, check_dimensions, floats, pictures};

use serde_json::{Value, json};

use super::error::ServeError;

/// Name of the tensor of encoded images.
pub(super) const IMAGE: &str = "image";
/// Name of the tensor of preprocessed images.
pub(super) const INPUT: &str = "input";
/// Most outputs that a request may ask for: each may be wanted in several forms. An answer holds one as often as it is asked for,
/// for each image and class.
const MOST_OUTPUTS: usize = few::FEW;
/// What the server calls itself.
pub(super) const SERVER: &str = "trainyard";
/// The platform of its models.
pub(super) const PLATFORM: &str = "trainyard_libtorch";
/// What it knows besides the protocol.
pub(super) const EXTENSIONS: [&str; 4] = ["binary_tensor_data", "classification", "model_configuration", "statistics"];

/// An output by name, datatype and shape, where -1 is the number of images.
pub(super) struct Described {
    pub(super) name: &'static str,
    pub(super) datatype: &'static str,
    pub(super) shape: Vec<i64>,
}

/// The tensors that a model takes: one of them, whichever the client has.
pub(super) fn inputs(size: usize) -> [Described; 2] {
    let size = size as i64;
    [
        Described { name: IMAGE, datatype: "BYTES", shape: vec![-1] },
        Described { name: INPUT, datatype: "FP32", shape: vec![-1, 3, size, size] },
    ]
}

/// The tensors that it gives.
pub(super) fn described_outputs(classes: usize) -> [Described; 4] {
    let classes = classes as i64;
    [
        Described { name: output::LABEL, datatype: "BYTES", shape: vec![-1] },
        Described { name: output::CLASS, datatype: "INT64", shape: vec![-1] },
        Described { name: output::PROBABILITIES, datatype: "FP32", shape: vec![-1, classes] },
        Described { name: output::LOGITS, datatype: "FP32", shape: vec![-1, classes] },
    ]
}

impl Described {
    /// As the protocol's JSON has it.
    pub(super) fn to_json(&self) -> Value {
        json!({"name": self.name, "datatype": self.datatype, "shape": self.shape})
    }
}

/// What a client asks of a model.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Request {
    /// Comes back in the answer.
    pub(super) id: Option<String>,
    pub(super) inputs: Vec<Tensor>,
    /// Which outputs; all of them if it is empty.
    pub(super) outputs: Vec<Wanted>,
    /// Whether outputs come as binary data, unless they say otherwise themselves.
    pub(super) binary_output: bool,
}

/// How much a request may hold. What has more is refused where it is read, before memory is taken for it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Most {
    /// Images that may wait for the network.
    pub(super) images: usize,
    /// Width and height of the network's images, in pixels.
    pub(super) size: usize,
}

impl Most {
    /// Values of preprocessed images.
    fn values(self) -> usize {
        self.images.saturating_mul(3 * self.size * self.size)
    }
}

/// The outputs that a client asks for, if the `count` of them is not too large.
///
/// # Errors
/// A sentence with their number.
pub(super) fn wanted(count: usize, outputs: impl Iterator<Item = Wanted>) -> Result<Vec<Wanted>, ServeError> {
    if count > MOST_OUTPUTS {
        let text = format!("{count} outputs are asked for, and no more than {MOST_OUTPUTS} may be");
        return Err(ServeError::Request(text));
    }
    Ok(outputs.collect())
}

/// An output that a client asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Wanted {
    pub(super) name: String,
    /// Whether it comes as binary data.
    pub(super) binary: Option<bool>,
    /// The most probable classes in place of the tensor: so many.
    pub(super) classification: Option<usize>,
}
