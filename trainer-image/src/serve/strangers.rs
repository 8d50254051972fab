//! What clients may send, and what an endpoint may be assigned: see [`crate::strangers`].

use std::sync::LazyLock;

use bytes::Bytes;
use clap::Parser;
use crds::contract::{Cause, env};
use serde_json::json;

use super::engine::Picture;
use super::error::ServeError;
use super::grpc::strangers::{asked, message};
use super::protocol::{self, Content, Most, Request, Tensor, Wanted};
use super::settings::Settings;
use crate::serve::Options;
use crate::strangers::Seed;

/// Width and height of the images that are asked about.
const SIDE: usize = 2;
/// Values of one.
const VALUES: usize = 3 * SIDE * SIDE;
/// As many images as an endpoint lets wait that says nothing else.
const MOST: Most = Most { images: 256, size: SIDE };

/// A request over REST: a line with the length of the JSON object, or an empty one where there is no such header, and the body.
pub(crate) fn rest(bytes: &[u8]) -> bool {
    let line = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let header = Some(&bytes[..line]).filter(|header| !header.is_empty());
    let body = Bytes::copy_from_slice(bytes.get(line + 1..).unwrap_or_default());
    let asked = protocol::split(&body, header).and_then(|(json, binary)| {
        assert_eq!(json.len() + binary.len(), body.len());
        protocol::read(&json, binary, MOST)
    });
    match asked {
        Ok(request) => {
            allocation_counter::opt_out(|| same_over_grpc(&request));
            pictures(request.inputs, body.len())
        }
        Err(error) => refused(&error),
    }
}

/// A message over gRPC.
pub(crate) fn grpc(bytes: &[u8]) -> bool {
    match asked(bytes, MOST) {
        Ok(request) => {
            allocation_counter::opt_out(|| same_over_grpc(&request));
            pictures(request.inputs, bytes.len())
        }
        Err(Some(error)) => refused(&error),
        // No message.
        Err(None) => false,
    }
}

/// That the request means the same as a message of gRPC.
fn same_over_grpc(request: &Request) {
    // One that the model refuses anyway may have more inputs than a message can.
    if request.inputs.len() > 1 {
        return;
    }
    let plain = |request: &Request| {
        let inputs =
            request.inputs.iter().map(|tensor| (tensor.name.clone(), tensor.shape.clone(), tensor.content.raw()));
        let outputs = request.outputs.iter().map(|output| (output.name.clone(), output.classification));
        (request.id.clone().unwrap_or_default(), inputs.collect::<Vec<_>>(), outputs.collect::<Vec<_>>())
    };
    for is_raw in [true, false] {
        let again = asked(&message(request, is_raw), MOST);
        let again = again.unwrap_or_else(|error| panic!("what was read is not read again: {error:?}"));
        assert_eq!(plain(&again), plain(request));
    }
}

/// That the images are as many as were announced, and no more than was sent.
fn pictures(inputs: Vec<Tensor>, size: usize) -> bool {
    let shapes: Vec<Vec<i64>> = inputs.iter().map(|tensor| tensor.shape.clone()).collect();
    match protocol::pictures(inputs, SIDE) {
        Ok(pictures) => {
            assert_eq!(shapes.len(), 1);
            assert_eq!(i64::try_from(pictures.len()), Ok(shapes[0][0]));
            let mut sent = 0;
            for picture in pictures {
                match picture {
                    Picture::Encoded(bytes) => sent += bytes.len(),
                    Picture::Values(values) => {
                        assert_eq!(values.len(), VALUES);
                        assert!(values.iter().all(|value| value.is_finite()));
                        // One digit in JSON.
                        sent += values.len();
                    }
                }
            }
            assert!(sent <= size, "{sent} bytes of {size}");
            true
        }
        Err(error) => refused(&error),
    }
}

/// That the error is the client's.
fn refused(error: &ServeError) -> bool {
    let is_told = matches!(error, ServeError::Request(text) | ServeError::TooLarge(text) if !text.is_empty());
    assert!(is_told, "{error:?}");
    false
}

impl Content {
    /// The elements as binary data.
    pub(in crate::serve) fn raw(&self) -> Vec<u8> {
        match self {
            Content::Floats(values) => values.iter().flat_map(|value| value.to_le_bytes()).collect(),
            Content::Bytes(elements) => {
                let element = |bytes: &Bytes| [&(bytes.len() as u32).to_le_bytes(), &bytes[..]].concat();
                elements.iter().flat_map(element).collect()
            }
        }
    }
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    options: Options,
}

/// A command line that says nothing.
static LINE: LazyLock<Line> = LazyLock::new(|| Line::parse_from(["serve"]));

/// What an endpoint is assigned, in place of a command line.
pub(crate) fn endpoint(text: &str) -> bool {
    match Settings::new(&LINE.options, |name| (name == env::ASSIGNMENT).then(|| text.to_owned())) {
        Ok(settings) => {
            assert_eq!(settings.models.len(), 1);
            assert!(settings.limits.max_request_bytes > 0 && settings.batching.max_queue > 0);
            true
        }
        Err(fault) => {
            // A model that is named by its job has not been looked up by the operator: that is its defect.
            assert!(matches!(fault.cause(), Cause::BadSpec | Cause::Bug), "{:?}: {fault}", fault.cause());
            false
        }
    }
}

pub(crate) fn rest_seeds() -> Vec<Seed> {
    let values: Vec<f32> = (0..VALUES).map(|value| value as f32 / 2.0).collect();
    let plain = |body: serde_json::Value| format!("\n{body}");
    let input = json!({"name": "input", "shape": [1, 3, 2, 2], "datatype": "FP32", "data": values});
    let plane = json!([[1, 2], [3, -4e-1]]);
    let nested = json!({"name": "input", "shape": [1, 3, 2, 2], "datatype": "FP32", "data": [[plane, plane, plane]]});
    let image = json!({"name": "image", "shape": [2, 1], "datatype": "BYTES", "data": ["YWI=", "YQ"]});
    let outputs =
        json!([{"name": "label"}, {"name": "logits", "parameters": {"binary_data": true, "classification": 3}}]);
    let sized = |name: &str, datatype: &str, shape: &[i64], binary: &[u8]| {
        let tensor = json!({"name": name, "datatype": datatype, "shape": shape, "parameters": {"binary_data_size": binary.len()}});
        let body = json!({"inputs": [tensor], "parameters": {"binary_data_output": true}}).to_string();
        [format!("{}\n{body}", body.len()).as_bytes(), binary].concat()
    };
    vec![
        Seed::new("numbers", plain(json!({"id": "7", "inputs": [input], "outputs": outputs}))),
        Seed::new("nested numbers", plain(json!({"inputs": [nested]}))),
        Seed::new("images", plain(json!({"inputs": [image]}))),
        Seed::new("binary numbers", sized("input", "FP32", &[1, 3, 2, 2], &Content::Floats(values).raw())),
        Seed::new("binary images", sized("image", "BYTES", &[2], b"\x02\0\0\0ab\0\0\0\0")),
    ]
}

/// Requests whose parts take far more than they are sent as, for each of these targets, with about `size` bytes.
#[cfg(test)]
pub(crate) fn swollen(size: usize) -> Vec<(&'static str, Vec<u8>)> {
    let json = |head: &str, part: &str, tail: &str| {
        ("rest", format!("\n{head}{}{tail}", part.repeat(size / part.len())).into_bytes())
    };
    let tensor = r#"{"inputs":[{"name":"image","datatype":"BYTES","shape":["#;
    let data = format!(r#"{tensor}1],"data":["#);
    let outputs = format!(r#"{data}""]}}],"outputs":["#);
    let binary = |part: &[u8]| {
        let head = format!(r#"{tensor}1],"parameters":{{"binary_data_size":{size}}}}}]}}"#);
        ("rest", [format!("{}\n{head}", head.len()).as_bytes(), &part.repeat(size / part.len())].concat())
    };
    // A field of so many bytes, whose length takes four.
    let field = |tag: u8, content: &[u8]| {
        let length =
            [0, 7, 14, 21].map(|shift| (content.len() >> shift) as u8 & 0x7f | if shift < 21 { 0x80 } else { 0 });
        [&[tag][..], &length, content].concat()
    };
    let input = |content: &[u8]| ("grpc", field(0x2a, content));
    let contents = |tag: u8, content: &[u8]| input(&field(0x2a, &field(tag, content)));
    let (zeros, empty) = (vec![0; size], |tag: u8| [tag, 0].repeat(size / 2));
    vec![
        json(&data, r#""","#, r#"""]}]}"#),
        json(&data, "1,", "1]}]}"),
        json(&data, r#""YQ","#, r#"""]}]}"#),
        json(tensor, "1,", r#"1],"data":[""]}]}"#),
        json(r#"{"inputs":["#, r#"{"name":"","datatype":"","shape":[]},"#, "{}]}"),
        json(&outputs, r#"{"name":""},"#, "{}]}"),
        binary(&[0; 4]),
        ("grpc", empty(0x2a)),
        ("grpc", empty(0x32)),
        ("grpc", empty(0x3a)),
        input(&empty(0x22)),
        input(&field(0x1a, &zeros)),
        input(&field(0x2a, &empty(0x42))),
        contents(0x0a, &zeros),
        contents(0x1a, &zeros),
        contents(0x32, &zeros),
    ]
}

pub(crate) fn grpc_seeds() -> Vec<Seed> {
    let values = Content::Floats((0..VALUES).map(|value| value as f32 / 2.0).collect());
    let images = Content::Bytes(vec![Bytes::from_static(b"ab"), Bytes::new()]);
    let request = |name: &str, datatype: &str, shape: &[i64], content: &Content| Request {
        id: Some("7".to_owned()),
        inputs: vec![Tensor {
            name: name.into(),
            datatype: datatype.into(),
            shape: shape.into(),
            content: content.clone(),
        }],
        outputs: vec![Wanted { name: "logits".into(), binary: None, classification: Some(3) }],
        binary_output: false,
    };
    let requests = [
        ("numbers", request("input", "FP32", &[1, 3, 2, 2], &values)),
        ("images", request("image", "BYTES", &[2], &images)),
    ];
    let seeds = |is_raw: bool| {
        let kind = if is_raw { "raw" } else { "typed" };
        requests.iter().map(move |(name, request)| Seed::new(&format!("{kind} {name}"), message(request, is_raw)))
    };
    seeds(true).chain(seeds(false)).collect()
}
