//! Messages for [`crate::strangers`].

use std::collections::HashMap;

use bytes::Bytes;
use prost::Message as _;

use super::proto::infer_parameter::ParameterChoice;
use super::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
use super::proto::{InferParameter, InferTensorContents, ModelInferRequest};
use super::{convert, parts};
use crate::serve::error::ServeError;
use crate::serve::protocol::{Content, Most, Request};

/// What the bytes of a message ask; no error where they are no message.
pub(in crate::serve) fn asked(bytes: &[u8], most: Most) -> Result<Request, Option<ServeError>> {
    parts::check(bytes, most.images).map_err(Some)?;
    let message = ModelInferRequest::decode(Bytes::copy_from_slice(bytes)).map_err(|_| None)?;
    convert::request(message, most).map_err(Some)
}

/// The request as a message: with raw contents, or with those of a field for each type.
pub(in crate::serve) fn message(request: &Request, is_raw: bool) -> Vec<u8> {
    let contents = |content: &Content| match content.clone() {
        Content::Floats(values) => InferTensorContents { fp32_contents: values, ..InferTensorContents::default() },
        Content::Bytes(elements) => InferTensorContents { bytes_contents: elements, ..InferTensorContents::default() },
    };
    let input = |tensor: &crate::serve::protocol::Tensor| InferInputTensor {
        name: tensor.name.clone(),
        datatype: tensor.datatype.clone(),
        shape: tensor.shape.clone(),
        contents: (!is_raw).then(|| contents(&tensor.content)),
        parameters: HashMap::new(),
    };
    let outputs = request.outputs.iter().map(|output| {
        let count = |count| InferParameter { parameter_choice: Some(ParameterChoice::Uint64Param(count as u64)) };
        let parameters = output.classification.map(|most| ("classification".to_owned(), count(most)));
        InferRequestedOutputTensor { name: output.name.clone(), parameters: parameters.into_iter().collect() }
    });
    let raw = request.inputs.iter().map(|tensor| Bytes::from(tensor.content.raw()));
    let message = ModelInferRequest {
        id: request.id.clone().unwrap_or_default(),
        inputs: request.inputs.iter().map(input).collect(),
        outputs: outputs.collect(),
        raw_input_contents: if is_raw { raw.collect() } else { Vec::new() },
        ..ModelInferRequest::default()
    };
    message.encode_to_vec()
}
