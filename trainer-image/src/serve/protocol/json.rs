//! Reads a request in JSON, with or without binary data behind it.

use std::fmt;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, SeqAccess, Visitor};

use super::binary::Remaining;
use super::tensor::{Content, Tensor, byte_elements, floats};
use super::{Request, Wanted, wanted};
use crate::serve::error::ServeError;

/// Base64 with padding or without.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[derive(Deserialize)]
struct Body {
    id: Option<String>,
    #[serde(default)]
    parameters: RequestParameters,
    inputs: Vec<InputTensor>,
    outputs: Option<Vec<OutputTensor>>,
}

#[derive(Default, Deserialize)]
struct RequestParameters {
    binary_data_output: Option<bool>,
}

#[derive(Deserialize)]
struct InputTensor {
    name: String,
    datatype: String,
    shape: Vec<i64>,
    #[serde(default)]
    parameters: InputParameters,
    data: Option<Flat>,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    binary_data_size: Option<usize>,
}

#[derive(Deserialize)]
struct OutputTensor {
    name: String,
    #[serde(default)]
    parameters: OutputParameters,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    binary_data: Option<bool>,
    classification: Option<usize>,
}

/// Reads a request: the JSON object, and the binary data behind it.
///
/// # Errors
/// A sentence on what can't be read.
pub(in crate::serve) fn read(json: &[u8], binary: Bytes) -> Result<Request, ServeError> {
    let body: Body = serde_json::from_slice(json)
        .map_err(|error| ServeError::Request(format!("the body is no inference request: {error}")))?;
    let mut binary = Remaining::new(binary);
    let inputs = body.inputs.into_iter().map(|input| tensor(input, &mut binary)).collect::<Result<_, _>>()?;
    binary.end()?;
    let outputs = body.outputs.unwrap_or_default().into_iter().map(|output| Wanted {
        name: output.name,
        binary: output.parameters.binary_data,
        classification: output.parameters.classification,
    });
    Ok(Request {
        id: body.id,
        inputs,
        outputs: wanted(outputs)?,
        binary_output: body.parameters.binary_data_output.unwrap_or(false),
    })
}

fn tensor(input: InputTensor, binary: &mut Remaining) -> Result<Tensor, ServeError> {
    let InputTensor { name, datatype, shape, parameters, data } = input;
    let request = |text: String| Err(ServeError::Request(text));
    let content = match (datatype.as_str(), parameters.binary_data_size, data) {
        (_, Some(_), Some(_)) => return request(format!("tensor {name} has both data and binary_data_size: give one")),
        (_, None, None) => return request(format!("tensor {name} has no data")),
        ("FP32", Some(size), None) => Content::Floats(floats(&name, &binary.take(&name, size)?)?),
        ("BYTES", Some(size), None) => Content::Bytes(byte_elements(&name, &binary.take(&name, size)?)?),
        ("FP32", None, Some(Flat { numbers, texts })) if texts.is_empty() => Content::Floats(numbers),
        ("BYTES", None, Some(Flat { numbers, texts })) if numbers.is_empty() => {
            let decode = |(place, text): (usize, String)| {
                BASE64.decode(&text).map(Bytes::from).map_err(|error| {
                    ServeError::Request(format!("tensor {name}: its element {place} is not base64: {error}"))
                })
            };
            Content::Bytes(texts.into_iter().enumerate().map(decode).collect::<Result<_, _>>()?)
        }
        ("FP32", ..) => return request(format!("tensor {name} is of datatype FP32: its data are numbers")),
        ("BYTES", ..) => return request(format!("tensor {name} is of datatype BYTES: its data are strings")),
        _ => return request(format!("tensor {name}: the datatype {datatype} is not taken: give FP32 or BYTES")),
    };
    Ok(Tensor { name, datatype, shape, content })
}

/// The elements of an array, nested or not, in their order. Numbers are read as they come: an array of a million of them
/// takes four million bytes.
#[derive(Default)]
struct Flat {
    numbers: Vec<f32>,
    texts: Vec<String>,
}

impl<'de> Deserialize<'de> for Flat {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Flat, D::Error> {
        let mut flat = Flat::default();
        deserializer.deserialize_seq(Collect(&mut flat))?;
        Ok(flat)
    }
}

struct Collect<'a>(&'a mut Flat);

impl<'de> DeserializeSeed<'de> for Collect<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Collect<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number, a string or an array of them")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut elements: A) -> Result<(), A::Error> {
        while elements.next_element_seed(Collect(self.0))?.is_some() {}
        Ok(())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        self.0.numbers.push(value as f32);
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        self.visit_f64(value as f64)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<(), E> {
        self.0.texts.push(value.to_owned());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn from(json: &serde_json::Value, binary: &'static [u8]) -> Result<Request, String> {
        read(&serde_json::to_vec(json).unwrap(), Bytes::from_static(binary)).map_err(|error| error.to_string())
    }

    #[test]
    fn a_request_is_read_in_json_and_in_binary() {
        let request = from(
            &json!({
                "id": "7", "parameters": {"binary_data_output": true, "other": 1},
                "inputs": [
                    {"name": "a", "shape": [2, 2], "datatype": "FP32", "data": [[1, 2.5], [-3, 4e-1]]},
                    {"name": "b", "shape": [2], "datatype": "BYTES", "data": ["YWI=", "YQ"]},
                    {"name": "c", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}},
                    {"name": "d", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 6}},
                ],
                "outputs": [
                    {"name": "x", "parameters": {"binary_data": false}}, {"name": "y", "parameters": {"classification": 3}},
                ],
            }),
            b"\0\0\x80\x3f\x02\0\0\0hi",
        );
        let tensor = |name: &str, datatype: &str, shape: &[i64], content| Tensor {
            name: name.into(),
            datatype: datatype.into(),
            shape: shape.into(),
            content,
        };
        let bytes = |elements: &[&'static [u8]]| {
            Content::Bytes(elements.iter().map(|element| Bytes::from_static(element)).collect())
        };
        let expected = Request {
            id: Some("7".into()),
            inputs: vec![
                tensor("a", "FP32", &[2, 2], Content::Floats(vec![1.0, 2.5, -3.0, 0.4])),
                tensor("b", "BYTES", &[2], bytes(&[b"ab", b"a"])),
                tensor("c", "FP32", &[1], Content::Floats(vec![1.0])),
                tensor("d", "BYTES", &[1], bytes(&[b"hi"])),
            ],
            outputs: vec![
                Wanted { name: "x".into(), binary: Some(false), classification: None },
                Wanted { name: "y".into(), binary: None, classification: Some(3) },
            ],
            binary_output: true,
        };
        assert_eq!(request, Ok(expected));
    }

    #[test]
    fn what_can_not_be_read_is_named() {
        let input = |more: serde_json::Value| {
            let mut tensor = json!({"name": "a", "shape": [1], "datatype": "FP32"});
            tensor.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"inputs": [tensor]})
        };
        let table = [
            (input(json!({})), "tensor a has no data"),
            (input(json!({"data": ["x"]})), "tensor a is of datatype FP32: its data are numbers"),
            (input(json!({"data": [1], "datatype": "BYTES"})), "tensor a is of datatype BYTES: its data are strings"),
            (
                input(json!({"data": ["????"], "datatype": "BYTES"})),
                "tensor a: its element 0 is not base64: Invalid symbol 63, offset 0.",
            ),
            (
                input(json!({"data": [1], "datatype": "FP64"})),
                "tensor a: the datatype FP64 is not taken: give FP32 or BYTES",
            ),
            (
                input(json!({"data": [1], "parameters": {"binary_data_size": 4}})),
                "tensor a has both data and binary_data_size: give one",
            ),
            (
                input(json!({"parameters": {"binary_data_size": 4}})),
                "tensor a has binary_data_size 4, and 0 bytes are left",
            ),
        ];
        for (json, sentence) in table {
            assert_eq!(from(&json, b""), Err(sentence.to_owned()));
        }
        let asking = |count: usize| json!({"inputs": [], "outputs": vec![json!({"name": "label"}); count]});
        assert_eq!(from(&asking(17), b""), Err("17 outputs are asked for, and no more than 16 may be".to_owned()));
        assert_eq!(from(&asking(16), b"").map(|request| request.outputs.len()), Ok(16));
        for text in ["", "[]", "{", "{\"inputs\": 3}", "{\"inputs\": [{}]}"] {
            let error = read(text.as_bytes(), Bytes::new()).unwrap_err().to_string();
            assert!(error.starts_with("the body is no inference request: "), "{text}: {error}");
        }
        let deep = format!(
            "{{\"inputs\":[{{\"name\":\"a\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":{}",
            "[".repeat(100_000)
        );
        assert!(read(deep.as_bytes(), Bytes::new()).unwrap_err().to_string().contains("recursion limit"));
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}", data in "[\\[\\]0-9,.\"e-]{0,40}", binary in prop::collection::vec(any::<u8>(), 0..16), size in 0_usize..20) {
            let _ = read(text.as_bytes(), Bytes::from(binary.clone()));
            let body = format!("{{\"inputs\":[{{\"name\":\"a\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":{data}}}]}}");
            let _ = read(body.as_bytes(), Bytes::new());
            let body = format!("{{\"inputs\":[{{\"name\":\"a\",\"datatype\":\"BYTES\",\"shape\":[1],\"parameters\":{{\"binary_data_size\":{size}}}}}]}}");
            let _ = read(body.as_bytes(), Bytes::from(binary));
        }

        #[test]
        fn numbers_come_back_as_they_were(numbers in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 0..20)) {
            let body = json!({"inputs": [{"name": "a", "shape": [1], "datatype": "FP32", "data": numbers}]});
            let request = from(&body, b"").unwrap();
            prop_assert_eq!(&request.inputs[0].content, &Content::Floats(numbers));
        }
    }
}
