//! One preprocessing and one network: training's evaluation, scoring and serving give the same bits.

use std::fs;

use serde_json::json;
use tch::{Device, Kind};
use trainer::data::{Scratch, View};
use trainer::input::{Input, logits, probabilities};
use trainer::torch::set_channels_last;
use trainer::zoo::{Blueprint, Model};

use crate::client::{post, request_of};
use crate::model::{launch, trained, uri};
use crate::server::Server;

fn floats(value: &serde_json::Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

#[test]
fn training_scoring_and_serving_say_the_same_of_an_image_bit_for_bit() {
    let path = trained("images").join("left/003.png");
    let image = fs::read(&path).unwrap();

    // As training evaluates.
    let saved = trainer::model::open(&trained("first")).unwrap();
    let card = saved.card;
    let size = i64::from(card.preprocessing.crop_size);
    let blueprint = Blueprint { architecture: card.architecture, classes: 2, image_size: size };
    let mut model = Model::new(blueprint, 0, Device::Cpu).unwrap();
    model.state_mut().restore(&saved.weights).unwrap();
    for entry in model.state().entries() {
        set_channels_last(&entry.tensor).unwrap();
    }
    let mut pixels = vec![0; card.preprocessing.image_bytes()];
    let input = Input::new(&card.preprocessing, Device::Cpu);
    View::evaluation(card.preprocessing).draw(&mut Scratch::default(), &image, 0, 0, &mut pixels).unwrap();
    let images = input.tensor(&pixels).unwrap();
    let own_logits: Vec<f32> = Vec::try_from(logits(&model, &images, Kind::Float).unwrap().view([-1])).unwrap();
    let own = probabilities(&model, &images, Kind::Float).unwrap();

    // As it is served: from the file, and from what a client has preprocessed.
    let server = Server::start(&[trained("first").to_str().unwrap(), "--device", "Cpu"]);
    let values: Vec<f32> = Vec::try_from(images.contiguous().view([-1])).unwrap();
    let preprocessed =
        json!({"inputs": [{"name": "input", "shape": [1, 3, size, size], "datatype": "FP32", "data": values}]});
    for request in [request_of(&[image]), preprocessed] {
        let answer = post(server.rest, "/v2/models/first/infer", &request).json();
        let outputs = answer["outputs"].as_array().unwrap();
        assert_eq!((floats(&outputs[2]["data"]), floats(&outputs[3]["data"])), (own.clone(), own_logits.clone()));
    }

    // As it is scored.
    let folder = tempfile::tempdir().unwrap();
    let spec = json!({
        "model": {"uri": uri(&trained("first"))}, "data": {"uri": uri(&trained("images"))}, "batchSize": 1,
        "infrastructure": {"device": "Cpu"}, "output": {"uri": uri(folder.path()), "format": "JsonLines"},
    });
    launch("ScoringJob", "bits", &spec);
    let is_part = |path: &std::path::Path| path.extension().is_some_and(|end| end == "jsonl");
    let parts = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let rows: String = parts.filter(|path| is_part(path)).map(|part| fs::read_to_string(part).unwrap()).collect();
    let row = rows.lines().find(|row| row.contains("left/003.png")).unwrap_or_else(|| panic!("{rows}"));
    let row: serde_json::Value = serde_json::from_str(row).unwrap();
    let scored = [&row["probabilities"]["left"], &row["probabilities"]["right"]];
    assert_eq!(scored.map(|value| value.as_f64().unwrap() as f32), [own[0], own[1]], "{row}");
}
