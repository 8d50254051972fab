//! Between gRPC's messages and what all protocols share.

use std::collections::HashMap;

use bytes::Bytes;

use super::proto::infer_parameter::ParameterChoice;
use super::proto::model_infer_request::InferInputTensor;
use super::proto::model_infer_response::InferOutputTensor;
use super::proto::{
    InferParameter, InferTensorContents, ModelInferRequest, ModelInferResponse, ModelStreamInferResponse,
};
use crate::serve::error::ServeError;
use crate::serve::protocol::{self, Content, Data, Most, Output, Request, Tensor, Wanted};

/// What a message asks.
///
/// # Errors
/// A sentence on what can't be read.
pub(super) fn request(message: ModelInferRequest, most: Most) -> Result<Request, ServeError> {
    let (raw, count) = (message.raw_input_contents, message.inputs.len());
    if !raw.is_empty() && raw.len() != count {
        let text = format!("there are {count} inputs and {} raw_input_contents: give one for each", raw.len());
        return Err(ServeError::Request(text));
    }
    let mut raw = raw.into_iter();
    let inputs = message.inputs.into_iter().map(|input| tensor(input, raw.next(), most)).collect::<Result<_, _>>()?;
    let outputs = message.outputs.into_iter().map(|output| Wanted {
        classification: number(&output.parameters, "classification"),
        name: output.name,
        binary: None,
    });
    Ok(Request {
        id: Some(message.id),
        inputs,
        outputs: protocol::wanted(outputs.len(), outputs)?,
        binary_output: false,
    })
}

/// A parameter that is a count; clients differ in the type they send.
fn number(parameters: &HashMap<String, InferParameter>, name: &str) -> Option<usize> {
    match parameters.get(name)?.parameter_choice.as_ref()? {
        ParameterChoice::Int64Param(value) => usize::try_from(*value).ok(),
        ParameterChoice::Uint64Param(value) => usize::try_from(*value).ok(),
        _ => None,
    }
}

fn tensor(input: InferInputTensor, raw: Option<Bytes>, most: Most) -> Result<Tensor, ServeError> {
    let InferInputTensor { name, datatype, shape, contents, .. } = input;
    protocol::check_dimensions(&name, shape.len())?;
    let contents = contents.unwrap_or_default();
    if raw.is_some() && contents != InferTensorContents::default() {
        let text = format!("tensor {name} has both contents and raw_input_contents: give one");
        return Err(ServeError::Request(text));
    }
    let content = match (datatype.as_str(), raw) {
        ("FP32", Some(raw)) => Content::Floats(protocol::floats(&name, &raw)?),
        ("BYTES", Some(raw)) => Content::Bytes(protocol::byte_elements(&name, &raw, most.images)?),
        ("FP32", None) => Content::Floats(contents.fp32_contents),
        ("BYTES", None) => Content::Bytes(contents.bytes_contents),
        _ => {
            let text = format!("tensor {name}: the datatype {datatype} is not taken: give FP32 or BYTES");
            return Err(ServeError::Request(text));
        }
    };
    Ok(Tensor { name, datatype, shape, content })
}

/// An answer, raw if the request was.
pub(super) fn response(model: &str, version: &str, id: String, outputs: Vec<Output>, raw: bool) -> ModelInferResponse {
    let mut response = ModelInferResponse {
        model_name: model.to_owned(),
        model_version: version.to_owned(),
        id,
        ..ModelInferResponse::default()
    };
    for Output { name, shape, data, .. } in outputs {
        let datatype = data.datatype().to_owned();
        let mut tensor = InferOutputTensor { name: name.to_owned(), datatype, shape, ..InferOutputTensor::default() };
        if raw {
            response.raw_output_contents.push(data.to_bytes().into());
        } else {
            tensor.contents = Some(contents(data));
        }
        response.outputs.push(tensor);
    }
    response
}

/// What says in a stream that no more comes of a request, as it does of models that answer it in parts.
const FINAL: &str = "triton_final_response";

/// An answer in a stream, or why there is none: with the request's id, by which a client knows what it is about.
pub(super) fn of_stream(id: String, answer: Result<ModelInferResponse, ServeError>) -> ModelStreamInferResponse {
    let (mut response, error_message) = match answer {
        Ok(response) => (response, String::new()),
        Err(error) => (ModelInferResponse { id, ..ModelInferResponse::default() }, error.to_string()),
    };
    let is_final = InferParameter { parameter_choice: Some(ParameterChoice::BoolParam(true)) };
    response.parameters.insert(FINAL.to_owned(), is_final);
    ModelStreamInferResponse { error_message, infer_response: Some(response) }
}

fn contents(data: Data) -> InferTensorContents {
    let empty = InferTensorContents::default();
    match data {
        Data::Floats(values) => InferTensorContents { fp32_contents: values, ..empty },
        Data::Integers(values) => InferTensorContents { int64_contents: values, ..empty },
        Data::Texts(values) => {
            InferTensorContents { bytes_contents: values.into_iter().map(Bytes::from).collect(), ..empty }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use prost::Message as _;

    use super::*;

    const MOST: Most = Most { images: 8, size: 2 };

    fn input(name: &str, datatype: &str, contents: Option<InferTensorContents>) -> InferInputTensor {
        InferInputTensor {
            name: name.into(),
            datatype: datatype.into(),
            shape: vec![1],
            contents,
            ..InferInputTensor::default()
        }
    }

    #[test]
    fn elements_are_read_from_their_field_or_raw() {
        let contents = InferTensorContents {
            fp32_contents: vec![1.5],
            bytes_contents: vec![Bytes::from_static(b"ab")],
            ..InferTensorContents::default()
        };
        let message = |contents: Option<InferTensorContents>, raw: Vec<Bytes>| ModelInferRequest {
            id: "7".into(),
            inputs: vec![input("a", "FP32", contents.clone()), input("b", "BYTES", contents)],
            raw_input_contents: raw,
            ..ModelInferRequest::default()
        };
        let raw = vec![Bytes::from_static(b"\0\0\xc0\x3f"), Bytes::from_static(b"\x02\0\0\0ab")];
        let expected: Vec<Content> = vec![Content::Floats(vec![1.5]), Content::Bytes(vec![Bytes::from_static(b"ab")])];
        // Clients may send contents that hold nothing.
        let empty = InferTensorContents::default();
        for (contents, raw) in [(Some(contents.clone()), vec![]), (Some(empty), raw.clone()), (None, raw.clone())] {
            let request = request(message(contents, raw), MOST).unwrap();
            assert_eq!(request.inputs.into_iter().map(|tensor| tensor.content).collect::<Vec<_>>(), expected);
            assert_eq!(request.id.as_deref(), Some("7"));
        }
        let both = request(message(Some(contents), raw), MOST).unwrap_err();
        let text = "tensor a has both contents and raw_input_contents: give one";
        assert_eq!(both, ServeError::Request(text.to_owned()));
        let error = request(message(None, vec![Bytes::new()]), MOST).unwrap_err().to_string();
        assert_eq!(error, "there are 2 inputs and 1 raw_input_contents: give one for each");
        let message = ModelInferRequest { inputs: vec![input("a", "INT8", None)], ..ModelInferRequest::default() };
        let error = request(message, MOST).unwrap_err().to_string();
        assert_eq!(error, "tensor a: the datatype INT8 is not taken: give FP32 or BYTES");
    }

    proptest! {
        /// A message as such, and one whose tensors are nonsense.
        #[test]
        fn any_message_is_read_or_refused(
            bytes in prop::collection::vec(any::<u8>(), 0..80),
            raw in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..3),
            shape in prop::collection::vec(any::<i64>(), 0..4),
            (is_image, is_bytes) in any::<(bool, bool)>(),
        ) {
            let read = |message| request(message, MOST).and_then(|request| protocol::pictures(request.inputs, 2));
            if let Ok(message) = ModelInferRequest::decode(&bytes[..]) {
                let _ = read(message);
            }
            let name = if is_image { protocol::IMAGE } else { protocol::INPUT };
            let datatype = if is_bytes { "BYTES" } else { "FP32" };
            let inputs = vec![InferInputTensor { shape, ..input(name, datatype, None) }];
            let raw_input_contents = raw.into_iter().map(Bytes::from).collect();
            let _ = read(ModelInferRequest { inputs, raw_input_contents, ..ModelInferRequest::default() });
        }
    }

    #[test]
    fn an_answer_in_a_stream_says_what_it_is_about() {
        let refused = of_stream("7".into(), Err(ServeError::Timeout(3)));
        let about = refused.infer_response.unwrap();
        assert_eq!((refused.error_message.as_str(), about.id.as_str()), ("there was no answer within 3 seconds", "7"));
        let answer = of_stream("7".into(), Ok(response("m", "v", "8".into(), vec![], false)));
        let response = answer.infer_response.unwrap();
        assert_eq!((answer.error_message.as_str(), response.id.as_str()), ("", "8"));
        assert_eq!(response.parameters[FINAL].parameter_choice, Some(ParameterChoice::BoolParam(true)));
    }

    #[test]
    fn an_answer_is_raw_where_the_request_was() {
        let outputs = || vec![Output { name: "x", shape: vec![1], data: Data::Integers(vec![3]), binary: false }];
        let raw = response("m", "v", "7".into(), outputs(), true);
        assert_eq!(
            (raw.raw_output_contents, raw.outputs[0].contents.clone()),
            (vec![Bytes::from_static(b"\x03\0\0\0\0\0\0\0")], None)
        );
        let typed = response("m", "v", "7".into(), outputs(), false);
        assert_eq!(
            (typed.raw_output_contents.len(), typed.outputs[0].contents.clone().unwrap().int64_contents),
            (0, vec![3])
        );
    }
}
