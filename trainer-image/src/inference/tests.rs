//! Every network of the zoo is prepared, computes what it did, and the same bits each time.

use std::collections::BTreeMap;

use crds::model::Architecture;
use serde_json::json;
use tch::kind::FLOAT_CPU;

use super::probe::apart;
use super::*;
use crate::data::Preprocessing;
use crate::input::probabilities;
use crate::model::Origin;

const CLASSES: i64 = 5;

/// A model as a training might leave it: batch norms have statistics of their own, and no factor is near 0.
fn made(architecture: Architecture, size: u32) -> Saved {
    let preprocessing = Preprocessing::for_size(size);
    let blueprint = Blueprint { architecture, classes: CLASSES, image_size: i64::from(size) };
    let model = Model::new(blueprint, 7, Device::Cpu).unwrap();
    let _no_grad = tch::no_grad_guard();
    let mut weights: BTreeMap<String, Tensor> = model.state().snapshot().into_iter().collect();
    let norms: Vec<String> =
        weights.keys().filter_map(|name| name.strip_suffix(".running_mean").map(str::to_owned)).collect();
    let mut set = |name: String, least: f64, most: f64| {
        let tensor = weights.get_mut(&name).unwrap();
        *tensor = Tensor::rand(tensor.size(), FLOAT_CPU) * (most - least) + least;
    };
    for norm in norms {
        set(format!("{norm}.running_mean"), -0.2, 0.2);
        set(format!("{norm}.running_var"), 0.5, 1.5);
        set(format!("{norm}.weight"), 0.7, 1.3);
        set(format!("{norm}.bias"), -0.2, 0.2);
    }
    set(format!("{}.weight", model.head()), -0.1, 0.1);
    let scales: Vec<String> = weights.keys().filter(|name| name.ends_with("layer_scale")).cloned().collect();
    for scale in scales {
        *weights.get_mut(&scale).unwrap() = Tensor::rand(weights[&scale].size(), FLOAT_CPU) * 0.2 + 0.1;
    }
    let recipe = json!({
        "task": "ImageClassification", "model": {"architecture": architecture.name()}, "data": {"uri": "file:///data"},
        "training": {},
    });
    let card = Card {
        format: model::format(),
        architecture,
        classes: (0..CLASSES).map(|class| class.to_string()).collect(),
        preprocessing_hash: preprocessing.hash(),
        preprocessing,
        threshold: None,
        accuracy: None,
        recipe: serde_json::from_value(recipe).unwrap(),
        origin: Origin::default(),
        files: BTreeMap::new(),
    };
    Saved { card, digest: "sha256:0".to_owned(), weights }
}

fn settings(precision: Precision) -> Settings {
    Settings { device: Device::Cpu, precision, batch_size: 4, exact: false }
}

/// Pixels of some images, none of them the probe's.
fn pixels(classifier: &Classifier, images: usize) -> Vec<u8> {
    let bytes = images * classifier.card().preprocessing.image_bytes();
    (0..bytes).map(|index| (index * index / 7 % 251) as u8).collect()
}

#[test]
fn every_architecture_is_folded_and_computes_what_it_did() {
    for architecture in Architecture::ALL {
        let saved = made(architecture, 64);
        let classifier = Classifier::prepare(&saved, settings(Precision::Float32)).unwrap();
        assert_eq!(classifier.how(), "folded, packed for oneDNN", "{architecture:?}");
        let images = classifier.tensor(&pixels(&classifier, 3)).unwrap();
        let model = as_trained(&saved, Device::Cpu).unwrap();
        let expected = logits(&model, &images, Kind::Float).unwrap();
        let largest = expected.abs().max().double_value(&[]);
        // A hundred times the distance that is allowed.
        assert!(largest > 0.01, "{architecture:?}: the logits are at most {largest}, which tells nothing");
        let distance = apart(&classifier.logits(&images).unwrap(), &expected).unwrap();
        assert!(distance < 1e-4, "{architecture:?}, packed: {distance:e}");
        let folded = model.fold(Folding { kind: Kind::Float, packed_for: None }).unwrap();
        let distance = apart(&folded.forward(&images).unwrap(), &expected).unwrap();
        assert!(distance < 1e-4, "{architecture:?}, folded: {distance:e}");
    }
}

/// One of each family.
const FAMILIES: [Architecture; 5] = [
    Architecture::Resnet50,
    Architecture::EfficientnetB0,
    Architecture::MobilenetV3Small,
    Architecture::ConvnextTiny,
    Architecture::VitB16,
];

#[test]
fn sixteen_bits_are_true_to_the_network_as_trained_in_the_same_precision() {
    for architecture in FAMILIES {
        for precision in [Precision::BFloat16, Precision::Float16] {
            let saved = made(architecture, 64);
            let classifier = Classifier::prepare(&saved, settings(precision)).unwrap();
            assert!(classifier.how().starts_with("folded"), "{architecture:?} {precision:?}: {}", classifier.how());
            let images = classifier.tensor(&pixels(&classifier, 3)).unwrap();
            let model = as_trained(&saved, Device::Cpu).unwrap();
            let expected = logits(&model, &images, kind(precision)).unwrap();
            let logits = classifier.logits(&images).unwrap();
            assert_eq!(logits.kind(), Kind::Float);
            let distance = apart(&logits, &expected).unwrap();
            assert!(distance < tolerance(precision, Device::Cpu), "{architecture:?} {precision:?}: {distance:e}");
        }
    }
}

#[test]
fn prepared_twice_or_exactly_a_network_gives_the_same_bits() {
    for architecture in FAMILIES {
        let saved = made(architecture, 64);
        let prepare = |exact| Classifier::prepare(&saved, Settings { exact, ..settings(Precision::Float32) }).unwrap();
        let (scoring, serving) = (prepare(false), prepare(false));
        let pixels = pixels(&scoring, 4);
        assert_eq!(
            scoring.probabilities(&pixels).unwrap(),
            serving.probabilities(&pixels).unwrap(),
            "{architecture:?}: two that are prepared alike"
        );
        let exact = prepare(true);
        assert_eq!(exact.how(), "as trained");
        let model = as_trained(&saved, Device::Cpu).unwrap();
        let input = Input::new(&saved.card.preprocessing, Device::Cpu);
        let validated = probabilities(&model, &input.tensor(&pixels).unwrap(), Kind::Float).unwrap();
        assert_eq!(
            exact.probabilities(&pixels).unwrap(),
            validated,
            "{architecture:?}: exact, and training's validation"
        );
    }
}

#[test]
fn a_network_that_is_not_true_to_the_trained_one_is_not_used() {
    let saved = made(Architecture::MobilenetV3Small, 32);
    let classifier = Classifier::prepare_within(&saved, settings(Precision::BFloat16), 0.0).unwrap();
    assert_eq!(classifier.how(), "as trained");
    let row = classifier.probabilities(&pixels(&classifier, 1)).unwrap();
    assert_eq!(row.len(), CLASSES as usize);
    assert!((row.iter().sum::<f32>() - 1.0).abs() < 1e-5);
}

#[test]
fn an_image_is_drawn_as_for_scoring() {
    let classifier = Classifier::prepare(&made(Architecture::Resnet18, 32), settings(Precision::Float32)).unwrap();
    let picture = image::RgbImage::from_fn(48, 40, |x, y| image::Rgb([(x * 5) as u8, (y * 6) as u8, 90]));
    let mut png = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut png, image::ImageFormat::Png).unwrap();
    let mut pixels = vec![0; classifier.card().preprocessing.image_bytes()];
    classifier.draw(&mut Scratch::default(), png.get_ref(), &mut pixels).unwrap();
    let mut expected = vec![0; pixels.len()];
    let view = View::evaluation(classifier.card().preprocessing.clone());
    view.draw(&mut Scratch::default(), png.get_ref(), 3, 9, &mut expected).unwrap();
    assert_eq!(pixels, expected);
    assert!(classifier.draw(&mut Scratch::default(), b"no image", &mut pixels).is_err());
}

#[test]
fn the_class_is_the_most_probable_one_or_the_one_beyond_the_threshold() {
    let table: [(&[f32], Option<f32>, usize); 6] = [
        (&[0.2, 0.5, 0.3], None, 1),
        (&[0.4, 0.4, 0.2], None, 0),
        (&[0.6, 0.4], None, 0),
        (&[0.6, 0.4], Some(0.3), 1),
        (&[0.6, 0.4], Some(0.5), 0),
        (&[0.2, 0.5, 0.3], Some(0.9), 1),
    ];
    for (probabilities, threshold, class) in table {
        assert_eq!(decide(probabilities, threshold), class, "{probabilities:?} {threshold:?}");
    }
}
