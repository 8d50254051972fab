//! Heat maps, the page for people, and the document for programs.

use serde_json::{Value, json};

use crate::client::{get, post, post_image, request_of, send};
use crate::model::{copy_of, png, trained};
use crate::server::Server;

const EXPLAIN: &str = "/v2/models/first/explain";

fn server(arguments: &[&str]) -> Server {
    Server::start(&[&[trained("first").to_str().unwrap(), "--device", "Cpu"], arguments].concat())
}

#[test]
fn an_image_is_explained_by_a_picture_or_a_tensor() {
    let server = server(&["--explain"]);
    let picture = post_image(server.rest, EXPLAIN, "image/png", &png(true, 4));
    assert_eq!(picture.headers["content-type"], "image/png");
    let picture = image::load_from_memory(&picture.body).unwrap();
    assert_eq!((picture.width(), picture.height()), (224, 224));

    let stats = get(server.rest, "/v2/models/first/stats").json();
    let figures = &stats["model_stats"][0];
    assert_eq!(
        (&figures["inference_stats"]["success"]["count"], &figures["inference_count"]),
        (&json!(1), &json!(1)),
        "heat maps are counted: {stats}"
    );

    let decided = post(server.rest, EXPLAIN, &request_of(&[png(true, 4)])).json();
    let judged = post_image(server.rest, "/v2/models/first/infer", "image/png", &png(true, 4)).json();
    assert_eq!(decided["label"], judged["label"]);
    // A heat map is of the network as trained, whose last bits the prepared one does not have.
    let probability = |answer: &Value| answer["probability"].as_f64().unwrap();
    assert!((probability(&decided) - probability(&judged)).abs() < 1e-5, "{decided} {judged}");
    let map = &decided["outputs"][0];
    assert_eq!((&map["name"], &map["shape"]), (&json!("heat_map"), &json!([1, 32, 32])));
    let values: Vec<f64> = map["data"].as_array().unwrap().iter().map(|value| value.as_f64().unwrap()).collect();
    assert!(values.len() == 1024 && values.iter().all(|value| (0.0..=1.0).contains(value)));

    let headers = [("Content-Type", "image/png"), ("Accept", "application/json")];
    for class in ["right", "1"] {
        let line = format!("POST {EXPLAIN}?class={class}");
        let other: Value = send(server.rest, &line, &headers, &png(true, 4)).answer().json();
        assert_eq!((&other["label"], &other["class"]), (&json!("right"), &json!(1)));
        assert_eq!(other["outputs"][0]["data"].as_array().unwrap().len(), 1024);
    }
    let refused = post_image(server.rest, &format!("{EXPLAIN}?class=up"), "image/png", &png(true, 4)).refusal();
    assert_eq!(refused, (400, "there is no class \"up\": the model's metadata lists its 2".to_owned()));
    let two = post(server.rest, EXPLAIN, &request_of(&[png(true, 1), png(true, 2)])).refusal();
    assert_eq!(two, (400, "one image is explained at a time, not 2".to_owned()));
}

#[test]
fn the_page_asks_for_a_class_by_its_name_which_may_be_another_one_s_index() {
    let folder = tempfile::tempdir().unwrap();
    let model = folder.path().join("digits");
    copy_of("first", &model);
    let card = std::fs::read_to_string(model.join("model.json")).unwrap();
    let mut card: Value = serde_json::from_str(&card).unwrap();
    card["classes"] = json!(["1", "0"]);
    std::fs::write(model.join("model.json"), card.to_string()).unwrap();
    let server = Server::start(&[model.to_str().unwrap(), "--device", "Cpu", "--explain"]);
    let headers = [("Content-Type", "image/png"), ("Accept", "application/json")];
    for (name, index) in [("1", 0), ("0", 1)] {
        let line = format!("POST /v2/models/digits/explain?class={name}");
        let answer: Value = send(server.rest, &line, &headers, &png(true, 4)).answer().json();
        assert_eq!((&answer["label"], &answer["class"]), (&json!(name), &json!(index)));
    }
    let page = get(server.rest, "/").text();
    assert!(page.contains("\"explain?class=\" + encodeURIComponent(label)"), "{page}");
}

#[test]
fn what_is_not_asked_for_is_not_explained() {
    let server = server(&[]);
    let (status, sentence) = post_image(server.rest, EXPLAIN, "image/png", &png(true, 4)).refusal();
    assert!(status == 404 && sentence.starts_with("heat maps are switched off"), "{status} {sentence}");
    assert!(get(server.rest, "/openapi.json").json()["paths"][EXPLAIN].is_null());
    assert!(!get(server.rest, "/").text().contains("Heat map"));
}

#[test]
fn the_page_needs_nothing_but_this_server() {
    let server = server(&["--explain"]);
    let page = get(server.rest, "/");
    assert!(page.headers["content-security-policy"].contains("connect-src 'self'"));
    let text = page.text();
    assert!(text.contains("<option>first</option>") && text.contains("data-explain=\"true\""), "{text}");
    assert!(!text.contains("http://") && !text.contains("https://") && !text.contains("type=\"password\""), "{text}");
}

#[test]
fn the_document_names_what_there_is() {
    let server = server(&["--explain"]);
    let document = get(server.rest, "/openapi.json").json();
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["components"]["parameters"]["model"]["schema"]["enum"], json!(["first"]));
    for path in document["paths"].as_object().unwrap().keys() {
        let address = path.replace("{model}", "first").replace("{version}", "none");
        assert!([200, 404, 405].contains(&get(server.rest, &address).status), "{path}");
    }
}
