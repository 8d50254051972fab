//! What a training does to images and labels, against torchvision and PyTorch: blended batches, weighted and smoothed
//! losses, the operations of the augmentation policies, each for a fixed draw.

use libtest_mimic::{Failed, Trial};
use serde_json::{Value, json};
use tch::{Device, Kind, Tensor};
use trainer::data::Policy;
use trainer::data::operations::{self, Kind as Operation};
use trainer::loss::{Criterion, Mixture, Targets};
use trainer::zoo::write_safetensors;

use crate::optim::read;
use crate::process::script;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test(
            "mixup, CutMix, label smoothing and class weights: losses and gradients of torchvision and torch",
            losses,
        ),
        Trial::test("the operations of RandAugment and TrivialAugment: magnitudes and pixels of torchvision", policies),
    ]
}

/// Images of a batch, classes, and edge of the images in pixels.
const SHAPE: [i64; 3] = [6, 5, 24];

fn losses() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let [count, classes, side] = SHAPE;
    tch::manual_seed(5);
    let images = Tensor::rand([count, 3, side, side], (Kind::Float, Device::Cpu));
    let logits = Tensor::randn([count, classes], (Kind::Float, Device::Cpu)) * 3.0;
    let labels = Tensor::from_slice(&[0_i64, 4, 2, 2, 1, 4]);
    let named = |name: &str, tensor: &Tensor| (name.to_owned(), tensor.shallow_clone());
    let data = [named("images", &images), named("logits", &logits), named("labels", &labels)];
    std::fs::write(folder.path().join("data.safetensors"), write_safetensors(&data)?)?;
    let weights = json!([0.5, 2.0, 1.0, 0.25, 3.0]);
    let cases: Vec<Value> = [
        (Value::Null, 0.0, [0, 0]),
        (json!("Mixup"), 0.625, [0, 0]),
        (json!("Cutmix"), 0.75, [12, 11]),
        (json!("Cutmix"), 0.25, [2, 23]),
    ]
    .iter()
    .flat_map(|(blend, share, middle)| {
        let (given, none) = (weights.clone(), Value::Null);
        [(0.0, none.clone()), (0.1, none), (0.0, given.clone()), (0.1, given)].map(|(smoothing, weights)| {
            json!({"blend": blend, "share": share, "middle": middle, "smoothing": smoothing, "weights": weights})
        })
    })
    .collect();
    std::fs::write(folder.path().join("losses.json"), Value::from(cases.clone()).to_string())?;
    script("recipe.py", folder.path(), &["losses"])?;
    let theirs = read(folder.path(), "losses.safetensors")?;

    for (number, case) in cases.iter().enumerate() {
        let share = case["share"].as_f64().expect("a number");
        let middle: [u64; 2] = serde_json::from_value(case["middle"].clone())?;
        let mixture = match case["blend"].as_str() {
            None => None,
            Some("Mixup") => Some(Mixture::Mixup { share }),
            Some(_) => Some(Mixture::rectangle(share, middle, side as u32)),
        };
        let (blended, targets) = match mixture {
            Some(mixture) => mixture.apply(&images, &labels, classes)?,
            None => (images.shallow_clone(), Targets::Classes(labels.shallow_clone())),
        };
        let smoothing = case["smoothing"].as_f64().expect("a number");
        let weights: Option<Vec<f32>> = serde_json::from_value(case["weights"].clone())?;
        let leaf = logits.copy().set_requires_grad(true);
        let loss = Criterion::new(smoothing, weights, Device::Cpu).mean(&leaf, &targets)?;
        loss.backward();
        for (name, ours) in [("images", blended), ("loss", loss), ("gradient", leaf.grad())] {
            let apart = (ours.detach() - &theirs[&format!("{number}.{name}")]).abs().max().double_value(&[]);
            if apart > 1e-6 {
                return Err(format!("{case}: {name} differs by {apart}").into());
            }
        }
    }
    Ok(())
}

fn policies() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let mut images = Vec::new();
    for side in [32_i64, 57] {
        // Gradients, edges and noise: with noise alone many faults could not be told from others.
        let place =
            |x: i64, y: i64, channel: i64| ((x * (3 + channel) + y * 5) + (x / 7 * 31 + y / 9 * 47) % 60) % 239 + 8;
        let pixel = |index: i64| place(index / 3 % side, index / 3 / side, index % 3) as u8;
        let pixels: Vec<u8> = (0..side * side * 3).map(pixel).collect();
        images.push((side.to_string(), Tensor::from_slice(&pixels).reshape([side, side, 3])));
    }
    std::fs::write(folder.path().join("images.safetensors"), write_safetensors(&images)?)?;
    let mut cases = Vec::new();
    for (policy, side) in [(Policy::RandAugment, 32), (Policy::TrivialAugment, 57)] {
        for kind in Operation::ALL {
            for bin in [0, 1, 9, 14, 15, 22, 30] {
                for negative in [false, true].iter().filter(|negative| !**negative || kind.is_signed()) {
                    cases.push((policy, kind, bin, *negative, side));
                }
            }
        }
    }
    let told: Vec<Value> = cases
        .iter()
        .map(|(policy, kind, bin, negative, side)| {
            json!([format!("{policy:?}"), format!("{kind:?}"), bin, negative, side])
        })
        .collect();
    std::fs::write(folder.path().join("operations.json"), Value::from(told.clone()).to_string())?;
    script("recipe.py", folder.path(), &["operations"])?;
    let theirs = read(folder.path(), "operations.safetensors")?;
    let magnitudes: Vec<(f64, bool)> = serde_json::from_slice(&std::fs::read(folder.path().join("magnitudes.json"))?)?;

    let mut faults = Vec::new();
    for (number, (policy, kind, bin, negative, side)) in cases.into_iter().enumerate() {
        let magnitude = policy.magnitude(kind, bin, side);
        let (expected, signed) = magnitudes[number];
        // torch.linspace adds up steps in as many lanes as the CPU has: the last bit depends on the machine.
        if (magnitude - expected).abs() > 1e-6 * expected.abs() || kind.is_signed() != signed {
            faults.push(format!("{}: magnitude {magnitude}, torchvision {:?}", told[number], magnitudes[number]));
        }
        let image = &images.iter().find(|(name, _)| *name == side.to_string()).expect("an image of each size").1;
        let mut pixels = Vec::<u8>::try_from(&image.reshape([-1]))?;
        // A shift that is a hair less than 16 moves by 15 pixels: the same magnitude for both.
        operations::apply(kind, if negative { -expected } else { expected }, side, &mut pixels, &mut Vec::new());
        let expected = Vec::<u8>::try_from(&theirs[&number.to_string()].reshape([-1]))?;
        let apart =
            |limit: u8| pixels.iter().zip(&expected).filter(|(one, other)| one.abs_diff(**other) > limit).count();
        // A place half-way between two pixels, or a sum next to a whole number, may fall to either side.
        let moves = matches!(kind, Operation::ShearX | Operation::ShearY | Operation::Rotate);
        let (limit, share) = if moves { (0, 0.02) } else { (1, 0.0) };
        let (far, near) = (apart(limit) as f64 / pixels.len() as f64, apart(0) as f64 / pixels.len() as f64);
        if far > share || near > 0.02 {
            faults.push(format!("{}: {:.3} of the values differ, {far:.3} by more than {limit}", told[number], near));
        }
    }
    if faults.is_empty() { Ok(()) } else { Err(faults.join("\n").into()) }
}
