//! REST as clients use it.

use image::ImageFormat;
use serde_json::{Value, json};

use crate::client::{get, post, post_image, request_of, send};
use crate::model::{CLASSES, copy_of, encoded, picture, png, trained};
use crate::server::Server;

fn first() -> String {
    trained("first").to_str().unwrap().to_owned()
}

#[test]
fn an_image_is_answered_with_its_class() {
    let server = Server::start(&[&first()]);
    let version = get(server.rest, "/v2/models/first").json()["versions"][0].as_str().unwrap().to_owned();
    for (class, label) in CLASSES.into_iter().enumerate() {
        let picture = picture(class == 0, 77);
        let formats = [
            ("image/png", ImageFormat::Png),
            ("image/bmp", ImageFormat::Bmp),
            ("image/webp", ImageFormat::WebP),
            ("image/gif", ImageFormat::Gif),
            ("image/tiff", ImageFormat::Tiff),
            ("application/octet-stream", ImageFormat::Png),
        ];
        for (media_type, format) in formats {
            let path = format!("/v2/models/first/versions/{version}/infer");
            let answer = post_image(server.rest, &path, media_type, &encoded(&picture, format));
            let answer = answer.json();
            let told = (&answer["label"], &answer["class"], &answer["model_name"], &answer["model_version"]);
            assert_eq!(told, (&json!(label), &json!(class), &json!("first"), &json!(version)), "{answer}");
            assert_eq!(answer["classes"].as_array().unwrap().len(), 2);
            let sum: f64 =
                answer["classes"].as_array().unwrap().iter().map(|one| one["probability"].as_f64().unwrap()).sum();
            assert!((sum - 1.0).abs() < 1e-6, "{answer}");
        }
    }
    let one = post_image(server.rest, "/v2/models/first/infer?top=1", "image/png", &png(true, 1)).json();
    assert_eq!(one["classes"].as_array().unwrap().len(), 1);
}

#[test]
fn server_and_model_describe_themselves() {
    let server = Server::start(&[&first(), &format!("other={}", trained("second").display()), "--device", "Auto"]);
    let about = get(server.rest, "/v2").json();
    assert_eq!((&about["name"], &about["models"]), (&json!("trainyard"), &json!(["first", "other"])));
    let metadata = get(server.rest, "/v2/models/first").json();
    assert_eq!(
        (&metadata["inputs"], &metadata["outputs"]),
        (
            &json!([
                {"name": "image", "datatype": "BYTES", "shape": [-1]},
                {"name": "input", "datatype": "FP32", "shape": [-1, 3, 32, 32]},
            ]),
            &json!([
                {"name": "label", "datatype": "BYTES", "shape": [-1]},
                {"name": "class", "datatype": "INT64", "shape": [-1]},
                {"name": "probabilities", "datatype": "FP32", "shape": [-1, 2]},
                {"name": "logits", "datatype": "FP32", "shape": [-1, 2]},
            ])
        )
    );
    assert_eq!((&metadata["classes"], &metadata["architecture"]), (&json!(CLASSES), &json!("resnet18")));
    let serving = get(server.rest, "/serving").json();
    assert_eq!((&serving["ready"], &serving["digest"]), (&json!(true), &metadata["digest"]));
    // Whatever this machine has, it says why.
    assert!(!serving["deviceReason"].as_str().unwrap().is_empty(), "{serving}");
    for path in ["/v2/health/live", "/v2/health/ready", "/v2/models/other/ready"] {
        assert_eq!(get(server.rest, path).status, 200, "{path}");
    }
    let version = metadata["versions"][0].as_str().unwrap();
    for about in ["config", "stats"] {
        let newest = get(server.rest, &format!("/v2/models/first/{about}"));
        let named = get(server.rest, &format!("/v2/models/first/versions/{version}/{about}"));
        assert_eq!((newest.status, newest.json()), (200, named.json()), "{about}");
    }
    let index = post(server.rest, "/v2/repository/index", &json!({"ready": true})).json();
    let names: Vec<&Value> = index.as_array().unwrap().iter().map(|model| &model["name"]).collect();
    assert_eq!(names, ["first", "other"]);
    let answers = ["first", "other"]
        .map(|model| post_image(server.rest, &format!("/v2/models/{model}/infer"), "image/png", &png(true, 3)).json());
    assert_ne!(answers[0]["probability"], answers[1]["probability"], "each model answers for itself");
}

#[test]
fn tensors_come_and_go_in_json_and_in_binary() {
    let server = Server::start(&[&first()]);
    let images = [png(true, 5), png(false, 6), png(true, 7)];
    let mut request = request_of(&images);
    request["id"] = json!("seven");
    let plain = post(server.rest, "/v2/models/first/infer", &request).json();
    assert_eq!(plain["id"], "seven");
    let output = |answer: &Value, name: &str| {
        let outputs = answer["outputs"].as_array().unwrap();
        outputs.iter().find(|output| output["name"] == name).unwrap_or_else(|| panic!("{answer}")).clone()
    };
    assert_eq!(output(&plain, "label")["data"], json!(["left", "right", "left"]));
    assert_eq!(output(&plain, "class")["data"], json!([0, 1, 0]));
    let logits = output(&plain, "logits");
    assert_eq!((&logits["shape"], logits["data"].as_array().unwrap().len()), (&json!([3, 2]), 6));

    let mut elements = Vec::new();
    for image in &images {
        elements.extend((image.len() as u32).to_le_bytes());
        elements.extend(image);
    }
    let head = json!({
        "inputs": [{"name": "image", "shape": [3, 1], "datatype": "BYTES",
                    "parameters": {"binary_data_size": elements.len()}}],
        "outputs": [{"name": "logits", "parameters": {"binary_data": true}},
                    {"name": "probabilities", "parameters": {"classification": 1}}],
    });
    let mut body = serde_json::to_vec(&head).unwrap();
    let length = body.len().to_string();
    body.extend(elements);
    let headers = [("Inference-Header-Content-Length", length.as_str()), ("Content-Type", "application/octet-stream")];
    let answer = send(server.rest, "POST /v2/models/first/infer", &headers, &body).answer();
    let length: usize = answer.headers["inference-header-content-length"].parse().unwrap();
    let shown: Value = serde_json::from_slice(&answer.body[..length]).unwrap();
    assert_eq!(shown["outputs"][0]["parameters"]["binary_data_size"], 24);
    let binary: Vec<f32> =
        answer.body[length..].chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect();
    let same: Vec<f32> =
        logits["data"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect();
    assert_eq!(binary, same);
    let best = shown["outputs"][1]["data"][1].as_str().unwrap();
    assert!(best.starts_with("0.") && best.ends_with(":1:right") || best.starts_with("1.0"), "{best}");
}

const HUGE: &str =
    "tensor input: its value 0 is 3e38; an image's are of the order of 1, and beyond ±1e3 a network's sums overflow";

#[test]
fn what_can_not_be_answered_is_refused_with_a_sentence() {
    let server = Server::start(&[&first()]);
    let infer = "POST /v2/models/first/infer";
    let json: (&str, &str) = ("Content-Type", "application/json");
    let png_type = ("Content-Type", "image/png");
    let table: [(&str, Vec<(&str, &str)>, &[u8], u16, &str); 15] = [
        ("GET /nowhere", vec![], b"", 404, "there is nothing at /nowhere"),
        ("GET /v2/models/x", vec![], b"", 404, "there is no model \"x\": there is first"),
        ("GET /v2/models/first/infer", vec![], b"", 405, "this address knows no GET"),
        ("GET /v2/models/first/versions/1/ready", vec![], b"", 404, "the model first has the version"),
        ("GET /v2/models/%FF", vec![], b"", 400, "Invalid URL: Invalid UTF-8 in `model`"),
        (infer, vec![png_type], b"", 400, "image 1: the file is empty (0 bytes)"),
        (infer, vec![png_type], b"<html>", 400, "image 1: not a JPEG, PNG, BMP, GIF, TIFF or WebP image"),
        (infer, vec![png_type], b"\x89PNG\r\n\x1a\n", 400, "image 1: the image is cut off: its data ends too early"),
        (infer, vec![("Content-Type", "multipart/form-data; boundary=x")], b"--x", 415, "the content type"),
        (infer, vec![("Content-Encoding", "br"), json], b"x", 415, "Content-Encoding \"br\" is not read"),
        (
            infer,
            vec![("Content-Encoding", "gzip"), json],
            b"{\"inputs\"",
            400,
            "the body is not gzip, as its headers say",
        ),
        (infer, vec![json], b"", 400, "the body is no inference request: EOF while parsing"),
        (infer, vec![json], b"{\"inputs\": []}", 400, "there are 0 inputs: give one, image (BYTES) or input (FP32)"),
        (
            infer,
            vec![json],
            b"{\"inputs\": [{\"name\": \"input\", \"shape\": [1, 3, 32, 31], \"datatype\": \"FP32\", \"data\": [1]}]}",
            400,
            "tensor input has the shape [1, 3, 32, 31], not [n, 3, 32, 32] with n from 1",
        ),
        ("POST /v2/models/first/infer?top=x", vec![png_type], b"", 400, "Failed to deserialize query string"),
    ];
    for (line, headers, body, status, sentence) in table {
        let (found, text) = send(server.rest, line, &headers, body).answer().refusal();
        assert!(found == status && text.starts_with(sentence), "{line} {headers:?}: {found} {text}");
    }
    let mut second_is_broken = request_of(&[png(true, 1), b"x".to_vec()]);
    let (status, text) = post(server.rest, "/v2/models/first/infer", &second_is_broken).refusal();
    assert_eq!((status, text.as_str()), (400, "image 2: not a JPEG, PNG, BMP, GIF, TIFF or WebP image"));
    second_is_broken["outputs"] = serde_json::json!([{"name": "nothing"}]);
    second_is_broken["inputs"][0]["data"][1] = second_is_broken["inputs"][0]["data"][0].clone();
    let (status, text) = post(server.rest, "/v2/models/first/infer", &second_is_broken).refusal();
    assert_eq!(
        (status, text.as_str()),
        (400, "there is no output \"nothing\": there are label, class, probabilities, logits")
    );
    let huge = json!({"inputs": [{"name": "input", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": vec![3e38_f32; 3072]}]});
    let (status, text) = post(server.rest, "/v2/models/first/infer", &huge).refusal();
    assert_eq!((status, text.as_str()), (400, HUGE));
}

#[test]
fn only_those_who_bear_the_token_are_answered() {
    let folder = tempfile::tempdir().unwrap();
    let token = folder.path().join("token");
    std::fs::write(&token, "secret\n").unwrap();
    let server = Server::start(&[&first(), "--token-file", token.to_str().unwrap()]);
    let image = png(true, 1);
    let ask = |token: &str| {
        let headers = [("Content-Type", "image/png"), ("Authorization", token)];
        send(server.rest, "POST /v2/models/first/infer", &headers, &image).answer()
    };
    assert_eq!((ask("Bearer secret").status, ask("Bearer secrets").status), (200, 401));
    let refused = post_image(server.rest, "/v2/models/first/infer", "image/png", &image);
    assert_eq!((refused.status, refused.headers["www-authenticate"].as_str()), (401, "Bearer"));
    for guarded in ["", "/config", "/stats"] {
        assert_eq!(get(server.rest, &format!("/v2/models/first{guarded}")).status, 401, "{guarded}");
    }
    assert_eq!(get(server.rest, "/v2/models/stats").status, 401);
    assert_eq!(post(server.rest, "/v2/repository/index", &json!({})).status, 401);
    for open in ["/v2", "/v2/health/live", "/v2/health/ready", "/v2/models/first/ready", "/metrics", "/serving"] {
        assert_eq!(get(server.rest, open).status, 200, "{open}");
    }
    // As the kubelet replaces it: at once.
    std::fs::write(folder.path().join("new"), "other").unwrap();
    std::fs::rename(folder.path().join("new"), &token).unwrap();
    assert_eq!((ask("Bearer secret").status, ask("Bearer other").status), (401, 200));
}

#[test]
fn a_pod_serves_what_its_assignment_says() {
    let folder = tempfile::tempdir().unwrap();
    copy_of("first", folder.path());
    let assignment = json!({
        "contractVersion": 1, "kind": "ModelEndpoint", "name": "digits", "namespace": "default", "uid": "u",
        "attempt": 4, "member": 0, "members": 1,
        "spec": {
            "model": {"uri": crate::model::uri(folder.path())}, "infrastructure": {"device": "Cpu"},
            "limits": {"maxPixels": 1024},
        },
    });
    let assignment = assignment.to_string();
    let server = Server::start_with(&["--drain-seconds", "0"], &[(crds::contract::env::ASSIGNMENT, &assignment)]);
    let digest = get(server.rest, "/v2/models/digits").json()["digest"].clone();
    let expected = json!({"contractVersion": 1, "revision": 4, "ready": true, "device": "Cpu", "digest": digest});
    assert_eq!(get(server.rest, "/serving").json(), expected);
    let large = encoded(&image::RgbImage::new(33, 32), ImageFormat::Png);
    let refused = post_image(server.rest, "/v2/models/digits/infer", "image/png", &large);
    assert_eq!(refused.refusal(), (413, "33 x 32 pixels are more than the 1024 allowed".to_owned()));
}
