//! One preprocessing and one network: training's evaluation, scoring and serving give the same bits.

use std::fs;

use crds::contract::env;
use crds::training::DecisionThreshold;
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use trainer::data::{Scratch, View};
use trainer::inference::as_trained;
use trainer::input::{Input, logits, probabilities};
use trainer::metrics::best_of;

use crate::client::{post, request_of};
use crate::model::{CLASSES, launch_with, png, trained, uri};
use crate::server::Server;

fn floats(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

/// What training's evaluation says of an image: the network's input, probabilities and logits.
fn evaluated(image: &[u8]) -> (Tensor, Vec<f32>, Vec<f32>) {
    let saved = trainer::model::open(&trained("first")).unwrap();
    let model = as_trained(&saved, Device::Cpu).unwrap();
    let preprocessing = saved.card.preprocessing;
    let mut pixels = vec![0; preprocessing.image_bytes()];
    let input = Input::new(&preprocessing, Device::Cpu);
    View::evaluation(preprocessing).draw(&mut Scratch::default(), image, 0, 0, &mut pixels).unwrap();
    let images = input.tensor(&pixels).unwrap();
    let own = Vec::try_from(logits(&model, &images, Kind::Float).unwrap().view([-1])).unwrap();
    (images.shallow_clone(), probabilities(&model, &images, Kind::Float).unwrap(), own)
}

/// What a server says of an image, from its file and from what a client has preprocessed: probabilities and logits.
fn served(image: &[u8], preprocessed: &Tensor, exact: &str) -> (Vec<f32>, Vec<f32>) {
    let server = Server::start_with(
        &[trained("first").to_str().unwrap(), "--device", "Cpu", "--max-batch-size", "1"],
        &[(env::EXACT, exact)],
    );
    let values: Vec<f32> = Vec::try_from(preprocessed.contiguous().view([-1])).unwrap();
    let input = json!({"name": "input", "shape": preprocessed.size(), "datatype": "FP32", "data": values});
    let said = [request_of(&[image.to_vec()]), json!({"inputs": [input]})].map(|request| {
        let answer = post(server.rest, "/v2/models/first/infer", &request).json();
        let outputs = answer["outputs"].as_array().unwrap();
        (floats(&outputs[2]["data"]), floats(&outputs[3]["data"]))
    });
    assert_eq!(said[0], said[1]);
    said[0].clone()
}

/// The probabilities that a scoring writes for an image.
fn scored(image: &str, exact: &str) -> Vec<f32> {
    let folder = tempfile::tempdir().unwrap();
    let spec = json!({
        "model": {"uri": uri(&trained("first"))}, "data": {"uri": uri(&trained("images"))}, "batchSize": 1,
        "infrastructure": {"device": "Cpu"}, "output": {"uri": uri(folder.path()), "format": "JsonLines"},
    });
    launch_with("ScoringJob", "bits", &spec, &[(env::EXACT, exact)]);
    let is_part = |path: &std::path::Path| path.extension().is_some_and(|end| end == "jsonl");
    let parts = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path());
    let rows: String = parts.filter(|path| is_part(path)).map(|part| fs::read_to_string(part).unwrap()).collect();
    let row = rows.lines().find(|row| row.contains(image)).unwrap_or_else(|| panic!("{rows}"));
    let row: Value = serde_json::from_str(row).unwrap();
    ["left", "right"].map(|class| row["probabilities"][class].as_f64().unwrap() as f32).to_vec()
}

#[test]
fn training_scoring_and_serving_say_the_same_of_an_image_bit_for_bit() {
    let image = fs::read(trained("images").join("left/003.png")).unwrap();
    let (input, probabilities, logits) = evaluated(&image);
    assert_eq!(served(&image, &input, "1"), (probabilities.clone(), logits.clone()));
    assert_eq!(scored("left/003.png", "1"), probabilities);

    // Prepared networks are as near as rounding allows to training's, and the same bits as each other.
    let prepared = served(&image, &input, "0");
    assert_eq!(scored("left/003.png", "0"), prepared.0);
    for (prepared, trained) in prepared.1.iter().zip(&logits) {
        assert!((prepared - trained).abs() < 1e-4, "{prepared} {trained}");
    }
}

/// Training says nothing of single images. Its figures of those held out are sums over the bits of all their probabilities, and its
/// threshold is chosen by them.
#[test]
fn the_programs_that_train_score_and_serve_say_the_same_of_images_held_out() {
    const EXACT: [(&str, &str); 1] = [(env::EXACT, "1")];
    const EACH: u32 = 4;
    let root = tempfile::tempdir().unwrap();
    let at = |name: &str| root.path().join(name);
    // In the order of a listing.
    let held_out: Vec<(String, Vec<u8>)> = CLASSES
        .into_iter()
        .flat_map(|class| (0..EACH).map(move |index| (class, index)))
        .map(|(class, index)| (format!("{class}/{index}.png"), png((class == "left") == (index > 0), 40 + index)))
        .collect();
    for (name, image) in &held_out {
        let file = at("held-out").join(name);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(file, image).unwrap();
    }
    let training = json!({
        "data": {"uri": uri(&trained("images")), "imageSize": 32, "validation": {"uri": uri(&at("held-out"))}},
        "training": {"epochs": 1, "batchSize": held_out.len()},
        "infrastructure": {"device": "Cpu"}, "output": {"uri": uri(&at("model"))},
    });
    launch_with("TrainingJob", "held-out", &training, &EXACT);
    let scoring = json!({
        "model": {"uri": uri(&at("model"))}, "data": {"uri": uri(&at("held-out"))}, "evaluate": true,
        "batchSize": held_out.len(), "infrastructure": {"device": "Cpu"},
        "output": {"uri": uri(&at("rows")), "format": "JsonLines"},
    });
    launch_with("ScoringJob", "held-out", &scoring, &EXACT);

    let json = |file: &str| serde_json::from_slice::<Value>(&fs::read(at(file)).unwrap()).unwrap();
    let (training, scoring) = (json("model/metrics.json")["evaluation"].clone(), json("rows/evaluation.json"));
    assert_eq!(training["count"], json!(held_out.len()), "{training}");
    for figure in training.as_object().unwrap().keys().filter(|figure| *figure != "threshold") {
        assert_eq!(unbinned(&training[figure]), unbinned(&scoring[figure]), "{figure}");
    }

    let rows = fs::read_to_string(at("rows/predictions.jsonl")).unwrap();
    let rows: Vec<Value> = rows.lines().map(|row| serde_json::from_str(row).unwrap()).collect();
    let names: Vec<&str> = rows.iter().map(|row| row["path"].as_str().unwrap()).collect();
    assert_eq!(names, held_out.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>());
    let probability = |row: &Value, class: &str| row["probabilities"][class].as_f64().unwrap() as f32;
    let scored: Vec<f32> = rows.iter().flat_map(|row| CLASSES.map(|class| probability(row, class))).collect();
    let of_second: Vec<_> = rows.iter().map(|row| (probability(row, CLASSES[1]), row["label"] == CLASSES[1])).collect();
    let threshold = best_of(&of_second, &DecisionThreshold::default()).unwrap();
    assert_eq!(training["threshold"]["probability"].as_f64().unwrap() as f32, threshold.probability as f32);
    let model = at("model");
    let most = held_out.len().to_string();
    // Patience enough for all images of the request to be one batch.
    let batch = ["--max-batch-size", &most, "--max-delay-milliseconds", "1000"];
    let server = Server::start_with(&[&[model.to_str().unwrap(), "--device", "Cpu"][..], &batch].concat(), &EXACT);
    let images: Vec<Vec<u8>> = held_out.iter().map(|(_, image)| image.clone()).collect();
    let answer = post(server.rest, "/v2/models/model/infer", &request_of(&images)).json();
    assert_eq!(floats(&answer["outputs"][2]["data"]), scored);
}

/// Figures without the thresholds of classes: scoring, whose probabilities may be too many to keep, chooses those by curves in bins.
fn unbinned(figures: &Value) -> Value {
    let mut figures = figures.clone();
    for class in figures.as_array_mut().into_iter().flatten() {
        class.as_object_mut().map(|class| class.remove("threshold"));
    }
    figures
}
