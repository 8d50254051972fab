//! The first weights of a training.

use std::collections::BTreeMap;
use std::fs;

use crds::contract::Cause;
use serde_json::{Value, json};

use crate::bench::Bench;

#[test]
fn first_weights_are_taken_and_what_does_not_fit_is_named() {
    let bench = Bench::new(8);
    let spec = |output: &str, model: Value| {
        let mut spec = bench.training(output);
        spec["training"]["epochs"] = json!(1);
        spec["infrastructure"]["processesPerNode"] = json!(1);
        spec["model"] = model;
        spec
    };
    let log = |name: &str| fs::read_to_string(bench.path(&format!("{name}-1.log"))).unwrap();
    let network = json!({"architecture": "mobilenet_v3_small"});
    bench.start("TrainingJob", "first", &spec("first", network), 1).succeed();
    let weights = json!({"uri": bench.uri("first/model.safetensors")});

    let frozen = json!({"architecture": "mobilenet_v3_small", "initialWeights": weights,
                        "fineTuning": {"strategy": "HeadOnly"}});
    bench.start("TrainingJob", "second", &spec("second", frozen.clone()), 1).succeed();
    assert!(log("second").contains("initial weights taken whole"), "{}", log("second"));
    let tensors = |output: &str| {
        let bytes = bench.weights(output);
        let file = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        file.iter().map(|(name, view)| (name.to_owned(), view.data().to_vec())).collect::<BTreeMap<_, _>>()
    };
    let (first, second) = (tensors("first"), tensors("second"));
    let changed: Vec<&str> = first.keys().filter(|name| first[*name] != second[*name]).map(String::as_str).collect();
    assert_eq!(changed, ["classifier.3.bias", "classifier.3.weight"]);

    // As many classes, one of another name.
    fs::rename(bench.path("images/left"), bench.path("images/middle")).unwrap();
    let mut renamed = frozen.clone();
    renamed["initialWeights"]["uri"] = json!(bench.uri("first"));
    bench.start("TrainingJob", "renamed", &spec("renamed", renamed), 1).succeed();
    assert!(log("renamed").contains("other names or another order: left is now middle; it"), "{}", log("renamed"));
    assert!(!log("second").contains("is now"), "a file of weights names no classes");
    fs::rename(bench.path("images/middle"), bench.path("images/left")).unwrap();

    // A third class.
    let folder = bench.path("images/neither");
    fs::create_dir_all(&folder).unwrap();
    for index in 0..8 {
        image::RgbImage::from_pixel(16, 16, image::Rgb([index * 30; 3]))
            .save(folder.join(format!("{index}.png")))
            .unwrap();
    }
    bench.start("TrainingJob", "third", &spec("third", frozen), 1).succeed();
    let says = "taken but for the head classifier.3, which starts anew: theirs is for 2 classes";
    assert!(log("third").contains(says), "{}", log("third"));

    let other = json!({"architecture": "resnet18", "initialWeights": weights});
    let (code, message) = bench.start("TrainingJob", "other", &spec("other", other), 1).end();
    assert_eq!(code, Cause::BadSpec.exit_code(), "{message:?}");
    assert!(message.message.contains("conv1.weight is missing; bn1.weight is missing"), "{message:?}");
    assert!(log("other").contains("features.0.0.weight is not a tensor of the model"), "{}", log("other"));
    let folder = json!({"architecture": "resnet18", "initialWeights": {"uri": bench.uri("first")}});
    let (code, message) = bench.start("TrainingJob", "folder", &spec("folder", folder), 1).end();
    assert_eq!(code, Cause::BadSpec.exit_code(), "{message:?}");
    let says = "first is a mobilenet_v3_small, and model.architecture is resnet18";
    assert!(message.message.contains(says) && message.hint.contains("mobilenet_v3_small"), "{message:?}");
    let no_weights = json!({"architecture": "resnet18", "initialWeights": {"uri": bench.uri("images/left/000.png")}});
    let (code, message) = bench.start("TrainingJob", "picture", &spec("picture", no_weights), 1).end();
    assert_eq!(code, Cause::BadData.exit_code(), "{message:?}");
    assert!(message.message.contains("000.png: neither a safetensors file nor a PyTorch state dict"), "{message:?}");
}
