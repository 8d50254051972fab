//! Looks through a request before it is decoded: one of very many parts is refused before memory is taken for them. A part of two
//! bytes, an input without anything in it, takes hundreds.

use prost::encoding::{DecodeContext, WireType, decode_key, decode_varint, skip_field};

use crate::serve::error::ServeError;

/// Most parts of a message: a request has one input, a few outputs and parameters.
const MOST: usize = 256;

/// A message, as far as it has parts that are counted. The numbers are those of `open_inference.proto`.
#[derive(Clone, Copy)]
enum Part {
    Request,
    Input,
    Contents,
    Output,
}

/// What takes memory in a field.
enum Field {
    /// Itself.
    One,
    /// Itself, and the parts of it.
    Message(Part),
    /// Its bytes: each may be a number of eight.
    Numbers,
    /// No more than was sent.
    Floats,
    /// A file.
    File,
}

impl Part {
    fn field(self, tag: u32) -> Field {
        match (self, tag) {
            (Part::Request, 5) => Field::Message(Part::Input),
            (Part::Request, 6) => Field::Message(Part::Output),
            (Part::Input, 5) => Field::Message(Part::Contents),
            (Part::Contents, 6) => Field::Floats,
            (Part::Contents, 8) => Field::File,
            (Part::Input, 3) | (Part::Contents, _) => Field::Numbers,
            _ => Field::One,
        }
    }
}

/// That a request has no more than [`MOST`] parts and so many files of images in fields of their own, as far as it can be read.
///
/// # Errors
/// It has more.
pub(super) fn check(message: &[u8], images: usize) -> Result<(), ServeError> {
    let mut left = Left { parts: MOST, images, most: images };
    left.take(Part::Request, message)
}

/// What may still come.
struct Left {
    parts: usize,
    images: usize,
    most: usize,
}

impl Left {
    fn take(&mut self, part: Part, mut rest: &[u8]) -> Result<(), ServeError> {
        while let Ok((tag, kind)) = decode_key(&mut rest) {
            let from = rest;
            if skip_field(kind, tag, &mut rest, DecodeContext::default()).is_err() {
                // What can't be read is for the decoder to say.
                break;
            }
            let mut content = &from[..from.len() - rest.len()];
            match part.field(tag) {
                Field::One => self.parts(1)?,
                Field::Numbers => self.parts(content.len())?,
                Field::Floats => {}
                Field::File => {
                    self.images = self.images.checked_sub(1).ok_or_else(|| ServeError::too_many(self.most))?;
                }
                Field::Message(inner) => {
                    self.parts(1)?;
                    if kind == WireType::LengthDelimited && decode_varint(&mut content).is_ok() {
                        self.take(inner, content)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn parts(&mut self, count: usize) -> Result<(), ServeError> {
        let too_many = || {
            let text = format!(
                "the message has more than {MOST} parts: give one input, the outputs that are wanted, and the elements as \
                 raw_input_contents, fp32_contents or bytes_contents"
            );
            ServeError::Request(text)
        };
        self.parts = self.parts.checked_sub(count).ok_or_else(too_many)?;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use bytes::Bytes;
    use prost::Message as _;

    use super::super::proto::model_infer_request::{InferInputTensor, InferRequestedOutputTensor};
    use super::super::proto::{InferParameter, InferTensorContents, ModelInferRequest};
    use super::*;

    fn input(contents: InferTensorContents) -> InferInputTensor {
        InferInputTensor {
            name: "image".into(),
            datatype: "BYTES".into(),
            shape: vec![4, 1],
            contents: Some(contents),
            ..InferInputTensor::default()
        }
    }

    fn of(inputs: Vec<InferInputTensor>) -> Vec<u8> {
        ModelInferRequest { inputs, ..ModelInferRequest::default() }.encode_to_vec()
    }

    fn parameters(count: usize) -> HashMap<String, InferParameter> {
        (0..count).map(|index| (index.to_string(), InferParameter::default())).collect()
    }

    #[test]
    fn a_message_of_very_many_parts_is_refused_wherever_they_are() {
        let none = InferTensorContents::default();
        let with = |shape: usize, count: usize| InferInputTensor {
            shape: vec![1; shape],
            parameters: parameters(count),
            ..input(InferTensorContents::default())
        };
        let output = InferRequestedOutputTensor { name: "label".into(), parameters: parameters(300) };
        let table = [
            of(vec![InferInputTensor::default(); MOST + 1]),
            of(vec![with(MOST, 0)]),
            of(vec![with(1, MOST)]),
            of(vec![input(InferTensorContents { int64_contents: vec![0; MOST], ..none.clone() })]),
            of(vec![input(InferTensorContents { bool_contents: vec![true; MOST], ..none.clone() })]),
            ModelInferRequest { outputs: vec![output], ..ModelInferRequest::default() }.encode_to_vec(),
            ModelInferRequest { parameters: parameters(300), ..ModelInferRequest::default() }.encode_to_vec(),
            b"\x3a\0".repeat(MOST + 1),
        ];
        for (index, message) in table.iter().enumerate() {
            let refused = check(message, 4).map_err(|error| error.to_string());
            let starts = |text: &String| text.starts_with("the message has more than 256 parts: ");
            assert!(refused.as_ref().is_err_and(starts), "{index}: {refused:?}");
        }
        let floats = InferTensorContents { fp32_contents: vec![0.5; 100_000], ..none };
        assert_eq!(check(&of(vec![input(floats)]), 4), Ok(()));
        // What can't be read is for the decoder to say.
        assert_eq!(check(b"\x2a\xff", 4), Ok(()));
        assert_eq!(check(b"\x2a\x02\x2a\xff", 4), Ok(()));
    }

    #[test]
    fn more_images_than_may_wait_are_refused() {
        let message = |count: usize| {
            let bytes_contents = vec![Bytes::new(); count];
            of(vec![input(InferTensorContents { bytes_contents, ..InferTensorContents::default() })])
        };
        assert_eq!(check(&message(4), 4), Ok(()));
        assert_eq!(check(&message(5), 4), Err(ServeError::too_many(4)));
        // Also in pieces, which a decoder puts together.
        assert_eq!(check(&message(3).repeat(2), 4), Err(ServeError::too_many(4)));
    }
}
