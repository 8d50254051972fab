//! Reads a request in JSON, with or without binary data behind it.

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;

use bytes::Bytes;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, Visitor};

use super::binary::Remaining;
use super::elements::{Elements, ElementsOf, Limit};
use super::few::{FEW, Few, FewOf};
use super::tensor::{Content, Tensor, byte_elements, check_dimensions, floats, not_one};
use super::{Most, Request, Wanted, wanted};
use crate::serve::error::ServeError;

struct Body {
    id: Option<String>,
    parameters: RequestParameters,
    inputs: Few<InputTensor>,
    outputs: Few<OutputTensor>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum BodyField {
    Id,
    Parameters,
    Inputs,
    Outputs,
    #[serde(other)]
    Other,
}

#[derive(Default, Deserialize)]
struct RequestParameters {
    binary_data_output: Option<bool>,
}

struct InputTensor {
    name: String,
    datatype: String,
    shape: Few<i64>,
    parameters: InputParameters,
    data: Option<Elements>,
}

#[derive(Deserialize)]
#[serde(field_identifier, rename_all = "lowercase")]
enum InputField {
    Name,
    Datatype,
    Shape,
    Parameters,
    Data,
    #[serde(other)]
    Other,
}

#[derive(Default, Deserialize)]
struct InputParameters {
    binary_data_size: Option<usize>,
}

#[derive(Deserialize)]
struct OutputTensor {
    name: String,
    parameters: Option<OutputParameters>,
}

#[derive(Default, Deserialize)]
struct OutputParameters {
    binary_data: Option<bool>,
    classification: Option<usize>,
}

/// Reads the object of a request.
struct BodyOf<'a>(Limit<'a>);

impl<'de> DeserializeSeed<'de> for BodyOf<'_> {
    type Value = Body;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Body, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for BodyOf<'_> {
    type Value = Body;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object with inputs")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Body, A::Error> {
        let (mut id, mut inputs, mut outputs) = (None, None, Few::default());
        let mut parameters: Option<RequestParameters> = None;
        while let Some(field) = map.next_key()? {
            match field {
                BodyField::Id => id = map.next_value()?,
                BodyField::Parameters => parameters = map.next_value()?,
                BodyField::Inputs => inputs = Some(map.next_value_seed(FewOf(InputOf(self.0)))?),
                BodyField::Outputs => outputs = map.next_value_seed(FewOf(PhantomData))?,
                BodyField::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let inputs = inputs.ok_or_else(|| Error::missing_field("inputs"))?;
        Ok(Body { id, parameters: parameters.unwrap_or_default(), inputs, outputs })
    }
}

/// Reads a tensor.
#[derive(Clone, Copy)]
struct InputOf<'a>(Limit<'a>);

impl<'de> DeserializeSeed<'de> for InputOf<'_> {
    type Value = InputTensor;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<InputTensor, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for InputOf<'_> {
    type Value = InputTensor;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a tensor with name, datatype and shape")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<InputTensor, A::Error> {
        let (mut name, mut datatype, mut shape, mut data) = (None, None, None, None);
        let mut parameters: Option<InputParameters> = None;
        while let Some(field) = map.next_key()? {
            match field {
                InputField::Name => name = Some(map.next_value()?),
                InputField::Datatype => datatype = Some(map.next_value()?),
                InputField::Shape => shape = Some(map.next_value_seed(FewOf(PhantomData))?),
                InputField::Parameters => parameters = map.next_value()?,
                InputField::Data => data = map.next_value_seed(ElementsOf(self.0))?,
                InputField::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(InputTensor {
            name: name.ok_or_else(|| Error::missing_field("name"))?,
            datatype: datatype.ok_or_else(|| Error::missing_field("datatype"))?,
            shape: shape.ok_or_else(|| Error::missing_field("shape"))?,
            parameters: parameters.unwrap_or_default(),
            data,
        })
    }
}

/// Reads a request: the JSON object, and the binary data behind it.
///
/// # Errors
/// A sentence on what can't be read, or that there is more of it than `most`.
pub(in crate::serve) fn read(json: &[u8], binary: Bytes, most: Most) -> Result<Request, ServeError> {
    let is_exceeded = Cell::new(false);
    let mut reader = serde_json::Deserializer::from_slice(json);
    let body = BodyOf(Limit { most, is_exceeded: &is_exceeded }).deserialize(&mut reader);
    let body = body.and_then(|body| reader.end().map(|()| body)).map_err(|error| {
        if is_exceeded.get() {
            return ServeError::too_many(most.images);
        }
        ServeError::Request(format!("the body is no inference request: {error}"))
    })?;
    if body.inputs.count > FEW {
        return Err(not_one(body.inputs.count));
    }
    let mut binary = Remaining::new(binary);
    let input = |input| tensor(input, &mut binary, most);
    let inputs = body.inputs.items.into_iter().map(input).collect::<Result<_, _>>()?;
    binary.end()?;
    let outputs = body.outputs.items.into_iter().map(|OutputTensor { name, parameters }| {
        let OutputParameters { binary_data, classification } = parameters.unwrap_or_default();
        Wanted { name, binary: binary_data, classification }
    });
    Ok(Request {
        id: body.id,
        inputs,
        outputs: wanted(body.outputs.count, outputs)?,
        binary_output: body.parameters.binary_data_output.unwrap_or(false),
    })
}

fn tensor(input: InputTensor, binary: &mut Remaining, most: Most) -> Result<Tensor, ServeError> {
    let InputTensor { name, datatype, shape, parameters, data } = input;
    check_dimensions(&name, shape.count)?;
    let request = |text: String| Err(ServeError::Request(text));
    let content = match (datatype.as_str(), parameters.binary_data_size, data) {
        (_, Some(_), Some(_)) => return request(format!("tensor {name} has both data and binary_data_size: give one")),
        (_, None, None) => return request(format!("tensor {name} has no data")),
        ("FP32", Some(size), None) => Content::Floats(floats(&name, &binary.take(&name, size)?)?),
        ("BYTES", Some(size), None) => Content::Bytes(byte_elements(&name, &binary.take(&name, size)?, most.images)?),
        ("FP32", None, Some(Elements { numbers, files, broken: None })) if files.is_empty() => Content::Floats(numbers),
        ("BYTES", None, Some(Elements { numbers, files, broken })) if numbers.is_empty() => match broken {
            None => Content::Bytes(files),
            Some((place, error)) => {
                return request(format!("tensor {name}: its element {place} is not base64: {error}"));
            }
        },
        ("FP32", ..) => return request(format!("tensor {name} is of datatype FP32: its data are numbers")),
        ("BYTES", ..) => return request(format!("tensor {name} is of datatype BYTES: its data are strings")),
        _ => return request(format!("tensor {name}: the datatype {datatype} is not taken: give FP32 or BYTES")),
    };
    Ok(Tensor { name, datatype, shape: shape.items, content })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const MOST: Most = Most { images: 4, size: 2 };

    fn from(json: &serde_json::Value, binary: &'static [u8]) -> Result<Request, String> {
        read(&serde_json::to_vec(json).unwrap(), Bytes::from_static(binary), MOST).map_err(|error| error.to_string())
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
    fn parameters_that_are_null_are_none() {
        let with = |parameters: serde_json::Value| {
            let mut body = json!({
                "inputs": [{"name": "a", "shape": [1], "datatype": "FP32", "data": [1]}], "outputs": [{"name": "x"}],
            });
            for place in ["", "/inputs/0", "/outputs/0"] {
                let object = body.pointer_mut(place).and_then(serde_json::Value::as_object_mut).unwrap();
                object.insert("parameters".to_owned(), parameters.clone());
            }
            from(&body, b"")
        };
        let none = with(json!({}));
        assert!(none.is_ok());
        assert_eq!(with(json!(null)), none);
        assert!(with(json!(3)).unwrap_err().starts_with("the body is no inference request: "));
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
            let error = read(text.as_bytes(), Bytes::new(), MOST).unwrap_err().to_string();
            assert!(error.starts_with("the body is no inference request: "), "{text}: {error}");
        }
        let deep = format!(
            "{{\"inputs\":[{{\"name\":\"a\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":{}",
            "[".repeat(100_000)
        );
        assert!(read(deep.as_bytes(), Bytes::new(), MOST).unwrap_err().to_string().contains("recursion limit"));
    }

    #[test]
    fn more_than_a_request_may_have_is_refused_where_it_is_read() {
        let sentence = "there are more images in the request than the 4 that may wait: send them in parts";
        let input = |datatype: &str, data: serde_json::Value| json!({"inputs": [{"name": "a", "shape": [1], "datatype": datatype, "data": data}]});
        for (datatype, element, most) in [("BYTES", json!(""), 4), ("FP32", json!(1), 48)] {
            let data = |count: usize| json!([vec![element.clone(); count]]);
            assert!(from(&input(datatype, data(most)), b"").is_ok(), "{datatype}");
            // What comes after the element that is too many is not even read.
            let text = input(datatype, data(most + 1)).to_string().replace("]]", ", nonsense");
            let refused = read(text.as_bytes(), Bytes::new(), MOST).unwrap_err();
            assert_eq!(refused, ServeError::TooLarge(sentence.to_owned()), "{datatype}");
        }
        let binary = json!({"inputs": [{"name": "a", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": 20}}]});
        assert_eq!(from(&binary, &[0; 20]), Err(sentence.to_owned()));
        let inputs = vec![json!({"name": "a", "shape": [1], "datatype": "FP32"}); 99];
        let refused = from(&json!({"inputs": inputs}), b"");
        assert_eq!(refused, Err("there are 99 inputs: give one, image (BYTES) or input (FP32)".to_owned()));
        let shape = json!({"inputs": [{"name": "a", "shape": vec![1; 99], "datatype": "FP32", "data": [1]}]});
        assert_eq!(
            from(&shape, b""),
            Err("tensor a has a shape of 99 dimensions: no input of a model has more than 4".to_owned())
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,60}", data in "[\\[\\]0-9,.\"e-]{0,40}", binary in prop::collection::vec(any::<u8>(), 0..16), size in 0_usize..20) {
            let _ = read(text.as_bytes(), Bytes::from(binary.clone()), MOST);
            let body = format!("{{\"inputs\":[{{\"name\":\"a\",\"datatype\":\"FP32\",\"shape\":[1],\"data\":{data}}}]}}");
            let _ = read(body.as_bytes(), Bytes::new(), MOST);
            let body = format!("{{\"inputs\":[{{\"name\":\"a\",\"datatype\":\"BYTES\",\"shape\":[1],\"parameters\":{{\"binary_data_size\":{size}}}}}]}}");
            let _ = read(body.as_bytes(), Bytes::from(binary), MOST);
        }

        #[test]
        fn numbers_come_back_as_they_were(numbers in prop::collection::vec(prop::num::f32::NORMAL | prop::num::f32::ZERO, 0..20)) {
            let body = json!({"inputs": [{"name": "a", "shape": [1], "datatype": "FP32", "data": numbers}]});
            let request = from(&body, b"").unwrap();
            prop_assert_eq!(&request.inputs[0].content, &Content::Floats(numbers));
        }
    }
}
