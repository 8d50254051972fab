//! Every network of the zoo is built; stages are frozen; weights come under other names and for other heads.

use std::collections::{BTreeMap, BTreeSet};

use crds::model::Architecture;
use tch::{Device, Kind, Tensor, kind};

use super::*;

fn model(architecture: Architecture, classes: i64, image_size: i64) -> Model {
    Model::new(Blueprint { architecture, classes, image_size }, 1, Device::Cpu).unwrap()
}

/// A copy of a model's tensors that can be changed.
fn weights(model: &Model) -> BTreeMap<String, Tensor> {
    model.state().snapshot().into_iter().collect()
}

/// One network of each family, and its stages with the head.
const FAMILIES: [(Architecture, usize); 5] = [
    (Architecture::Resnet18, 6),
    (Architecture::EfficientnetB0, 10),
    (Architecture::MobilenetV3Small, 7),
    (Architecture::ConvnextTiny, 6),
    (Architecture::VitB16, 14),
];

#[test]
fn every_architecture_is_built_and_its_stages_hold_each_tensor_once() {
    for architecture in Architecture::ALL {
        let model = model(architecture, 3, 32);
        assert_eq!(model.stages(), 1 + architecture.stages() as usize, "{architecture:?}");
        for entry in model.state().entries() {
            let holders = model.stages.iter().filter(|stage| state::is_below(&entry.name, stage)).count();
            assert_eq!(holders, 1, "{} of {architecture:?}", entry.name);
        }
        let weight = weights(&model).remove(&format!("{}.weight", model.head())).unwrap();
        assert_eq!(weight.size()[0], 3, "{architecture:?}");
    }
}

#[test]
fn images_that_an_architecture_cannot_take_are_refused() {
    let build = |architecture, image_size| {
        Model::new(Blueprint { architecture, classes: 2, image_size }, 0, Device::Cpu).err().unwrap().to_string()
    };
    assert_eq!(build(Architecture::VitB16, 100), "vit_b_16 takes images of a multiple of 16 pixels, not of 100");
    assert_eq!(build(Architecture::ConvnextTiny, 16), "convnext_tiny takes images of 32 pixels or more, not of 16");
    assert_eq!(build(Architecture::Resnet18, 0), "resnet18 takes images of 1 pixels or more, not of 0");
}

/// Frozen stages: their parameters get no gradient, their batch norms keep their statistics, and they compute in training
/// what they do in evaluation; those after them learn and count.
#[test]
fn frozen_stages_are_as_in_evaluation_and_the_others_learn() {
    for (architecture, stages) in FAMILIES {
        for trained in [1, 2, 3] {
            let mut model = model(architecture, 4, 32);
            assert_eq!(model.stages(), stages, "{architecture:?}");
            model.train_last_stages(trained);
            let learned: Vec<String> = model.stages[stages - trained..].concat();
            let is_learned = |name: &str| state::is_below(name, &learned);
            let before = weights(&model);
            let images = Tensor::randn([4, 3, 32, 32], kind::FLOAT_CPU);
            let loss = model.forward(&images, true).unwrap().square().sum(Kind::Float);
            crate::torch::backward(&loss).unwrap();
            for entry in model.state().entries() {
                let (name, learns) = (&entry.name, is_learned(&entry.name));
                match entry.role {
                    Role::Parameter => assert!(learns && entry.tensor.grad().defined(), "{architecture:?} {name}"),
                    Role::Frozen => assert!(!learns && !entry.tensor.grad().defined(), "{architecture:?} {name}"),
                    Role::Buffer => assert_eq!(entry.tensor != before[name], learns, "{architecture:?} {name}"),
                }
            }
        }
    }
}

#[test]
fn a_batch_norm_in_training_refuses_one_value_of_each_channel() {
    for (architecture, has_batch_norms) in [
        (Architecture::Resnet18, true),
        (Architecture::EfficientnetB0, true),
        (Architecture::MobilenetV3Small, true),
        (Architecture::ConvnextTiny, false),
        (Architecture::VitB16, false),
    ] {
        let model = model(architecture, 4, 32);
        let image = |count| Tensor::zeros([count, 3, 32, 32], kind::FLOAT_CPU);
        match model.forward(&image(1), true).map_err(crate::torch::TorchError::from) {
            Ok(_) => assert!(!has_batch_norms, "{architecture:?}"),
            Err(error) => {
                assert!(has_batch_norms, "{architecture:?}");
                assert_eq!((error.category(), error.cause()), ("too-few-values", crds::contract::Cause::BadSpec));
                let text = error.to_string();
                assert!(text.starts_with("Expected more than 1 value per channel when training, got input size [1, "));
                assert!(
                    text.ends_with(", 1, 1]; set training.batchSize to 2 or more, or data.imageSize larger"),
                    "{text}"
                );
            }
        }
        let _ = model.forward(&image(1), false).unwrap();
        let _ = model.forward(&image(2), true).unwrap();
        let is_finite = |tensor: &Tensor| tensor.isfinite().all().int64_value(&[]) == 1;
        assert!(weights(&model).values().all(is_finite), "{architecture:?}");
    }
}

#[test]
fn no_block_of_a_frozen_stage_is_left_out_at_random() {
    // Of EfficientNet the last convolution alone is trained, whose batch norm would differ; its head's dropout is off.
    for (architecture, trained) in [(Architecture::ConvnextTiny, 1), (Architecture::VitB16, 1)] {
        let mut model = model(architecture, 4, 32);
        model.train_last_stages(trained);
        let images = Tensor::randn([8, 3, 32, 32], kind::FLOAT_CPU);
        let (train, eval) = (model.forward(&images, true).unwrap(), model.forward(&images, false).unwrap());
        assert_eq!(train, eval, "{architecture:?}");
    }
}

#[test]
fn a_head_for_other_classes_starts_anew_and_the_rest_is_taken() {
    for (architecture, _) in FAMILIES {
        let given = weights(&model(architecture, 7, 32));
        let mut same = model(architecture, 7, 32);
        assert_eq!(same.adopt(copies(&given)).unwrap().to_string(), "taken whole");
        let mut other = model(architecture, 2, 32);
        let head = other.head().to_owned();
        let fresh = weights(&other);
        let adopted = other.adopt(copies(&given)).unwrap();
        assert_eq!(adopted.fresh_head, Some(FreshHead { name: head.clone(), classes: Some(7) }));
        assert!(adopted.to_string().contains("starts anew: theirs is for 7 classes"), "{adopted}");
        for (name, tensor) in weights(&other) {
            let expected = if state::is_below(&name, &[&head]) { &fresh[&name] } else { &given[&name] };
            assert_eq!(&tensor, expected, "{architecture:?} {name}");
        }
        let headless = copies(&given).into_iter().filter(|(name, _)| !state::is_below(name, &[&head])).collect();
        let adopted = other.adopt(headless).unwrap();
        assert!(adopted.to_string().contains("which they lack, starts anew"), "{adopted}");
    }
}

fn copies(weights: &BTreeMap<String, Tensor>) -> BTreeMap<String, Tensor> {
    weights.iter().map(|(name, tensor)| (name.clone(), tensor.shallow_clone())).collect()
}

#[test]
fn tensors_that_are_missing_surplus_or_misshapen_are_named() {
    let mut model = model(Architecture::MobilenetV3Small, 2, 32);
    let mut given = weights(&model);
    given.remove("features.0.1.running_mean");
    // Older state dicts lack the counters.
    given.remove("features.0.1.num_batches_tracked");
    given.insert("features.99.weight".to_owned(), Tensor::zeros([1], kind::FLOAT_CPU));
    given.insert("features.12.0.weight".to_owned(), Tensor::zeros([576, 48, 1, 1], kind::FLOAT_CPU));
    let Err(WeightsError::Mismatch(faults)) = model.adopt(given) else { panic!("taken") };
    let expected = [
        "features.0.1.running_mean is missing",
        "features.12.0.weight has the shape [576, 48, 1, 1] where the model has [576, 96, 1, 1]",
        "features.99.weight is not a tensor of the model",
    ];
    assert_eq!(faults, expected);
}

#[test]
fn a_message_lists_some_faults_and_counts_the_rest() {
    let mut resnet = model(Architecture::Resnet18, 2, 32);
    let text = resnet.adopt(BTreeMap::new()).unwrap_err().to_string();
    assert!(
        text.starts_with("the weights don't fit the model: conv1.weight is missing; bn1.weight is missing"),
        "{text}"
    );
    // 100 without the counters and the head.
    assert!(text.ends_with("; and 80 more like these"), "{text}");
}

#[test]
fn positions_are_interpolated_to_another_image_size() {
    let given = weights(&model(Architecture::VitB16, 2, 64));
    let mut other = model(Architecture::VitB16, 2, 96);
    let adopted = other.adopt(copies(&given)).unwrap();
    assert_eq!(adopted.to_string(), "taken whole; the positions of patches are interpolated to another image size");
    let resized = weights(&other).remove(vit::POSITIONS).unwrap();
    let corners = |positions: &Tensor, edge: i64| {
        Tensor::stack(&[0, 1, edge, edge * (edge - 1) + 1, edge * edge].map(|index| positions.get(0).get(index)), 0)
    };
    // The class token stays, and so do the corners, which align.
    let difference = corners(&resized, 6) - corners(&given[vit::POSITIONS], 4);
    assert!(difference.abs().max().double_value(&[]) < 1e-6);
}

/// timm's names of each network, from `timm.txt`, which lists them by timm's own account.
fn timm_names() -> Vec<(Architecture, usize, BTreeSet<String>)> {
    let mut networks: Vec<(Architecture, usize, BTreeSet<String>)> = Vec::new();
    for line in include_str!("timm.txt").lines().filter(|line| !line.starts_with('#')) {
        let (left, right) = line.split_once(':').unwrap();
        if let Some((_, ours)) = left.split_once(" = ") {
            let architecture = Architecture::ALL.into_iter().find(|one| one.name() == ours).unwrap();
            let count = right.trim().split_once(' ').unwrap().0.parse().unwrap();
            networks.push((architecture, count, BTreeSet::new()));
            continue;
        }
        let names = &mut networks.last_mut().unwrap().2;
        for module in modules(left.trim()) {
            for tensor in right.split_whitespace() {
                let (layer, kinds) = match tensor.rsplit_once('.') {
                    Some((layer, "*")) => {
                        (layer, &["weight", "bias", "running_mean", "running_var", "num_batches_tracked"][..])
                    }
                    Some((layer, "wb")) => (layer, &["weight", "bias"][..]),
                    _ => {
                        names.insert(format!("{module}{tensor}"));
                        continue;
                    }
                };
                names.extend(kinds.iter().map(|kind| format!("{module}{layer}.{kind}")));
            }
        }
    }
    networks
}

/// The modules of a range, each with its dot.
fn modules(range: &str) -> Vec<String> {
    let Some((parent, last)) = range.rsplit_once('.') else { return vec![String::new()] };
    match last.split_once('-') {
        None => vec![format!("{range}.")],
        Some((first, last)) => {
            let (first, last): (usize, usize) = (first.parse().unwrap(), last.parse().unwrap());
            (first..=last).map(|index| format!("{parent}.{index}.")).collect()
        }
    }
}

#[test]
fn each_of_timms_names_becomes_one_of_torchvisions() {
    let networks = timm_names();
    assert_eq!(networks.len(), 13);
    for (architecture, count, theirs) in networks {
        assert_eq!(theirs.len(), count, "{architecture:?}");
        let model = model(architecture, 5, 32);
        let ours = model.state().entries().iter().map(|entry| (entry.name.as_str(), entry.tensor.size())).collect();
        let given = theirs.into_iter().map(|name| (name, Tensor::zeros([1], kind::FLOAT_CPU))).collect();
        let renamed = names::to_torchvision(architecture, &ours, given).unwrap();
        assert!(renamed.from_timm);
        assert!(renamed.tensors.keys().eq(ours.keys()), "{architecture:?}: {:?}", renamed.tensors.keys());
    }
}

#[test]
fn timms_shapes_and_epsilon_become_torchvisions() {
    let mut mobile = model(Architecture::MobilenetV3Small, 2, 32);
    let mut given = weights(&mobile);
    let hidden = given.remove("classifier.0.weight").unwrap();
    given.insert("conv_head.weight".to_owned(), hidden.reshape([1024, 576, 1, 1]) + 1.0);
    let variance = given.remove("features.0.1.running_var").unwrap();
    given.insert("bn1.running_var".to_owned(), variance + 1.0);
    let adopted = mobile.adopt(given).unwrap();
    assert_eq!(adopted.to_string(), "taken whole; they have timm's names");
    let taken = weights(&mobile);
    assert_eq!(taken["classifier.0.weight"], hidden + 1.0);
    let variance = taken["features.0.1.running_var"].double_value(&[0]);
    assert!((variance + 1e-3 - (2.0 + 1e-5)).abs() < 1e-6, "{variance}");
}

#[test]
fn what_wrapped_a_model_and_older_names_are_seen_through() {
    let mut vit = model(Architecture::VitB16, 2, 32);
    let rename = |(name, tensor): (String, Tensor)| {
        let name = name.replace("mlp.0", "mlp.linear_1").replace("mlp.3", "mlp.linear_2");
        (format!("_orig_mod.module.{name}"), tensor)
    };
    let given = weights(&vit).into_iter().map(rename).collect();
    assert_eq!(vit.adopt(given).unwrap().to_string(), "taken whole");
}
