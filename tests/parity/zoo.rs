//! The zoo against torchvision: names, shapes and first weights of every network, what they compute from the same weights,
//! the weights that Python saves, and ours in Python.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use crds::model::Architecture;
use libtest_mimic::{Failed, Trial};
use serde::{Deserialize, Serialize};
use tch::{Device, Kind, Reduction, Tensor};
use trainer::zoo::{Blueprint, Model, Role, read_safetensors, read_weights, write_safetensors};

use crate::process::script;

pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("zoo: names, shapes and first weights are torchvision's", shapes),
        Trial::test("zoo: weights are read in the ways that PyTorch saves them", files),
        Trial::test(
            "zoo: convolutional networks give torchvision's logits and gradients",
            || compute(&convolutional()),
        ),
        Trial::test("zoo: their larger kin give torchvision's logits and gradients", || compute(&larger())),
        Trial::test("zoo: the largest networks give torchvision's logits", || compute(&largest())),
        Trial::test("zoo: ConvNeXt and ViT give torchvision's logits and gradients", || compute(&others())),
    ]
}

/// Largest difference of a logit.
const LOGITS: f64 = 1e-4;
/// Largest difference of a gradient's values, as a part of the largest of them.
const GRADIENT: f64 = 1e-3;

/// A comparison of one network.
#[derive(Clone, Debug, Serialize)]
struct Case {
    name: &'static str,
    classes: i64,
    image: i64,
    batch: i64,
    /// Whether Python saves the weights by `torch.save`, or as safetensors.
    pth: bool,
    /// Whether gradients are compared too, and what Python makes of our weights.
    gradients: bool,
    #[serde(skip)]
    architecture: Architecture,
}

fn convolutional() -> Vec<Case> {
    use Architecture::{EfficientnetB0, EfficientnetB5, MobilenetV3Large, MobilenetV3Small, Resnet50};
    let architectures = [Resnet50, EfficientnetB0, EfficientnetB5, MobilenetV3Small, MobilenetV3Large];
    architectures.map(|architecture| Case::new(architecture, 64, 4)).to_vec()
}

fn larger() -> Vec<Case> {
    use Architecture as A;
    let architectures =
        [A::Resnet18, A::Resnet34, A::EfficientnetB1, A::EfficientnetB2, A::EfficientnetB3, A::EfficientnetB4];
    architectures.map(|architecture| Case::new(architecture, 64, 2)).to_vec()
}

fn largest() -> Vec<Case> {
    use Architecture::{ConvnextBase, EfficientnetB6, EfficientnetB7, Resnet101, Resnet152};
    let architectures = [Resnet101, Resnet152, EfficientnetB6, EfficientnetB7, ConvnextBase];
    architectures.map(|architecture| Case { gradients: false, ..Case::new(architecture, 64, 2) }).to_vec()
}

fn others() -> Vec<Case> {
    let convnext = Case::new(Architecture::ConvnextTiny, 64, 4);
    vec![Case { pth: false, ..convnext }, Case::new(Architecture::VitB16, 224, 1)]
}

impl Case {
    fn new(architecture: Architecture, image: i64, batch: i64) -> Case {
        Case { name: architecture.name(), classes: 7, image, batch, pth: true, gradients: true, architecture }
    }
}

fn build(architecture: Architecture, classes: i64, image_size: i64) -> Model {
    Model::new(Blueprint { architecture, classes, image_size }, 1, Device::Cpu).unwrap()
}

/// What `zoo.py` says of state dicts.
#[derive(Deserialize)]
struct Shapes {
    /// Name, shape and type of each tensor.
    all: HashMap<String, Vec<(String, Vec<i64>, String)>>,
    /// Mean, standard deviation and kurtosis of each tensor.
    drawn: HashMap<String, HashMap<String, [f64; 3]>>,
}

fn shapes() -> Result<(), Failed> {
    use Architecture as A;
    let drawn = [A::Resnet18, A::Resnet50, A::EfficientnetB0, A::MobilenetV3Small, A::ConvnextTiny, A::VitB16];
    let folder = tempfile::tempdir()?;
    let asked = serde_json::json!({"all": A::ALL.map(A::name), "drawn": drawn.map(A::name)});
    std::fs::write(folder.path().join("asked.json"), asked.to_string())?;
    script("zoo.py", folder.path(), &["shapes"])?;
    let theirs: Shapes = serde_json::from_slice(&std::fs::read(folder.path().join("shapes.json"))?)?;
    for architecture in A::ALL {
        let is_drawn = drawn.contains(&architecture);
        let model = build(architecture, if is_drawn { 1000 } else { 7 }, 224);
        let entries = model.state().entries();
        let expected = &theirs.all[architecture.name()];
        if entries.len() != expected.len() {
            return Err(format!("{architecture:?} has {} tensors, not {}", entries.len(), expected.len()).into());
        }
        for (entry, (name, shape, dtype)) in entries.iter().zip(expected) {
            let mut size = entry.tensor.size();
            if is_drawn && entry.name.starts_with(model.head()) {
                size[0] = 7;
            }
            let kind = if entry.tensor.kind() == Kind::Float { "torch.float32" } else { "torch.int64" };
            if (&entry.name, &size, kind) != (name, shape, dtype) {
                return Err(format!("{architecture:?}: {entry:?} is not {name} {shape:?} {dtype}").into());
            }
        }
        if is_drawn {
            same_distributions(&model, &theirs.drawn[architecture.name()])?;
        }
    }
    Ok(())
}

/// Mean, standard deviation and kurtosis of each tensor differ by what chance explains: six standard deviations of each.
fn same_distributions(model: &Model, theirs: &HashMap<String, [f64; 3]>) -> Result<(), String> {
    for entry in model.state().entries() {
        let values = entry.tensor.detach().to_kind(Kind::Double);
        let mean = values.mean(Kind::Double);
        let centred = values - &mean;
        let variance = centred.square().mean(Kind::Double).double_value(&[]);
        let fourth = centred.pow_tensor_scalar(4).mean(Kind::Double).double_value(&[]);
        let [mean, deviation] = [mean.double_value(&[]), variance.sqrt()];
        let kurtosis = if variance > 0.0 { fourth / (variance * variance) } else { 0.0 };
        let [their_mean, their_deviation, their_kurtosis] = theirs[&entry.name];
        let count = entry.tensor.numel() as f64;
        // Of a difference of two: each contributes its variance. Kurtosis of few values says nothing.
        let chance = 6.0 * (2.0 / count).sqrt();
        let differs = (mean - their_mean).abs() > chance * their_deviation + 1e-12
            || (deviation - their_deviation).abs() > chance * their_deviation + 1e-12
            || (count > 1000.0 && (kurtosis - their_kurtosis).abs() > chance * 24f64.sqrt());
        if differs {
            return Err(format!(
                "{}: {mean} ± {deviation}, kurtosis {kurtosis}; torchvision's: {their_mean} ± {their_deviation}, \
                 {their_kurtosis}",
                entry.name
            ));
        }
    }
    Ok(())
}

fn compute(cases: &[Case]) -> Result<(), Failed> {
    tch::set_num_threads(1);
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    std::fs::write(folder.join("cases.json"), serde_json::to_vec(cases)?)?;
    script("zoo.py", folder, &["compute"])?;
    for case in cases {
        computes(case, folder).map_err(|error| format!("{}: {}", case.name, error.message().unwrap_or_default()))?;
    }
    Ok(script("zoo.py", folder, &["check"])?)
}

fn computes(case: &Case, folder: &Path) -> Result<(), Failed> {
    let file = |ending: &str| folder.join(format!("{}.{ending}", case.name));
    let theirs = read_safetensors(&std::fs::read(file("computed"))?)?;
    let (images, labels) = (&theirs["images"], &theirs["labels"]);
    let mut model = build(case.architecture, case.classes, case.image);
    let adopted = model.adopt(read_weights(&std::fs::read(file("weights"))?)?)?;
    if adopted.to_string() != "taken whole" {
        return Err(format!("the weights were {adopted}").into());
    }
    let logits = tch::no_grad(|| model.forward(images, false))?;
    // Of logits that are small all told, a part.
    let largest = theirs["logits"].abs().max().double_value(&[]);
    within("logits", &logits, &theirs["logits"], LOGITS * largest.min(1.0))?;
    if !case.gradients {
        return Ok(());
    }

    // Dropout and stochastic depth are on: what they leave out is drawn from here on, there as here.
    tch::manual_seed(11);
    let loss = model.forward(images, true)?.cross_entropy_loss::<Tensor>(labels, None, Reduction::Mean, -100, 0.0);
    trainer::torch::backward(&loss)?;
    within("loss", &loss.detach(), &theirs["loss"], LOGITS)?;
    for entry in model.state().entries() {
        let (prefix, ours) = match entry.role {
            Role::Buffer => ("buffer", entry.tensor.shallow_clone()),
            _ => ("gradient", entry.tensor.grad()),
        };
        let theirs = &theirs[&format!("{prefix}.{}", entry.name)];
        let largest = theirs.abs().max().double_value(&[]);
        within(&format!("{prefix} of {}", entry.name), &ours, theirs, GRADIENT * largest + 1e-7)?;
    }

    // Ours in Python: the same weights with the statistics of that pass.
    let logits = tch::no_grad(|| model.forward(images, false))?;
    std::fs::write(file("saved"), write_safetensors(&model.state().snapshot())?)?;
    std::fs::write(file("said"), write_safetensors(&[("logits".to_owned(), logits)])?)?;
    Ok(())
}

fn within(what: &str, ours: &Tensor, theirs: &Tensor, limit: f64) -> Result<(), String> {
    let difference = (ours - theirs).abs().max().double_value(&[]);
    match difference <= limit {
        true => Ok(()),
        false => Err(format!("{what}: differs by {difference}, which is more than {limit}")),
    }
}

fn files() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    script("zoo.py", folder, &["files"])?;
    let read = |name: &str| read_weights(&std::fs::read(folder.join(name)).unwrap());
    let plain = read("plain.safetensors")?;
    for name in ["plain.pth", "legacy.pth", "parameters.pth"] {
        same(name, &plain, &read(name)?, 0.0)?;
    }
    let unwrapped = read("section.pth")?.into_iter().map(|(name, tensor)| (name.replace("module.", ""), tensor));
    same("section.pth", &plain, &unwrapped.collect(), 0.0)?;
    same("views.pth", &plain, &read("views.pth")?, 0.0)?;
    same("half.pth", &plain, &read("half.pth")?, 1e-3)?;
    let refusals = [
        (
            "module.pth",
            "it holds a torchvision.models.mobilenetv3.MobileNetV3, to read which its code would have to be run",
        ),
        ("empty.pth", "it holds no tensors under state_dict, model_state_dict, model, but epoch"),
        ("text.pth", "its extra is no tensor"),
        ("script.pth", "it is a TorchScript program, not a state dict"),
        ("evil.pth", "its classifier.3.weight is no tensor"),
    ];
    for (name, phrase) in refusals {
        let said = read(name).err().map_or_else(|| "nothing".to_owned(), |error| error.to_string());
        if !said.contains(phrase) {
            return Err(format!("{name}: said {said:?} instead of {phrase:?}").into());
        }
    }
    match folder.join("touched").exists() {
        true => Err("code of a file of weights was run".into()),
        false => Ok(damaged(folder)?),
    }
}

/// No cut and no changed byte of the pickles is more than an error.
fn damaged(folder: &Path) -> Result<(), std::io::Error> {
    for name in ["empty.pth", "plain.pth", "legacy.pth"] {
        let bytes = std::fs::read(folder.join(name))?;
        for end in [0, 1, 5, 40, 100, 1000, bytes.len() / 2, bytes.len() - 1] {
            assert!(read_weights(&bytes[..end.min(bytes.len() - 1)]).is_err(), "{name} cut off at {end}");
        }
    }
    let bytes = std::fs::read(folder.join("legacy.pth"))?;
    let mut changed = bytes[..20_000].to_vec();
    for at in (0..changed.len()).step_by(37) {
        changed[at] ^= 0x15;
        // The tensors are cut off, so that it can't succeed.
        assert!(read_weights(&changed).is_err());
        changed[at] = bytes[at];
    }
    Ok(())
}

fn same(
    name: &str,
    plain: &BTreeMap<String, Tensor>,
    other: &BTreeMap<String, Tensor>,
    limit: f64,
) -> Result<(), String> {
    if !plain.keys().eq(other.keys()) {
        return Err(format!("{name}: other names: {:?}", other.keys()));
    }
    plain.iter().try_for_each(|(tensor, values)| {
        if values.size() != other[tensor].size() {
            return Err(format!("{name}: {tensor} has the shape {:?}", other[tensor].size()));
        }
        within(&format!("{name}: {tensor}"), values, &other[tensor], limit)
    })
}
