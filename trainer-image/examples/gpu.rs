//! The trainer's side of the checks on a GPU, which `tests/gpu/run` makes: `gpu rank ORDER` makes steps when it is told to,
//! `gpu step FOLDER` makes one step of a given network on given images, `gpu norm ORDER` compares a batch norm over all ranks
//! with libtorch's own, `gpu photos FOLDER COUNT` makes images.

#[allow(dead_code, reason = "the benchmarks need more of it")]
#[path = "../benches/common/photos.rs"]
mod photos;
#[path = "../benches/common/steps.rs"]
mod steps;

use std::error::Error;
use std::path::Path;

use crds::model::Architecture;
use serde::Deserialize;
use tch::{Device, Kind, Reduction, Tensor};
use trainer::ddp::Group;
use trainer::torch::{self, Autocast, NormRanks, OnDevice, SgdStep, SyncNorm, fused_sgd};
use trainer::zoo::{Blueprint, Model, Role, host_copy, read_safetensors, write_safetensors};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words[..] {
        ["rank", order] => {
            device(order)?;
            steps::serve(&serde_json::from_str(order)?)
        }
        ["step", folder] => step(Path::new(folder)),
        ["norm", order] => norm(order),
        ["photos", folder, count] => {
            photos::folder(Path::new(folder), 500, 375, count.parse()?).map(|path| println!("{}", path.display()))
        }
        _ => Err("gpu rank ORDER | gpu step FOLDER | gpu norm ORDER | gpu photos FOLDER COUNT".into()),
    }
}

/// The device of an order. Opens the CUDA plug-in if it is the GPU, which must come before anything else asks libtorch about
/// CUDA.
fn device(order: &str) -> Result<Device, Box<dyn Error>> {
    #[derive(Deserialize)]
    struct On {
        device: String,
    }
    let on: On = serde_json::from_str(order)?;
    if on.device != "cuda" {
        return Ok(Device::Cpu);
    }
    torch::load_cuda(&trainer::preflight::plugin())?;
    Ok(Device::Cuda(0))
}

/// What `peer.py` leaves for `step` in `job.json`, besides the weights and the images.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Job {
    architecture: Architecture,
    classes: i64,
    image: i64,
    precision: String,
}

/// One step of SGD from `init.safetensors` on `data.safetensors`: logits, loss, gradients and weights to `ours.safetensors`.
fn step(folder: &Path) -> Result<(), Box<dyn Error>> {
    let told = std::fs::read_to_string(folder.join("job.json"))?;
    let device = device(&told)?;
    let job: Job = serde_json::from_str(&told)?;
    let read = |name: &str| -> Result<_, Box<dyn Error>> { Ok(read_safetensors(&std::fs::read(folder.join(name))?)?) };
    let blueprint = Blueprint { architecture: job.architecture, classes: job.classes, image_size: job.image };
    let mut model = Model::new(blueprint, 0, device)?;
    model.state_mut().restore(&read("init.safetensors")?)?;
    for entry in model.state().entries() {
        torch::set_channels_last(&entry.tensor)?;
    }
    let data = read("data.safetensors")?;
    let images = torch::to_channels_last(&data["images"].f_to(device)?)?;
    let labels = data["labels"].f_to(device)?;
    let precision = if job.precision == "bfloat16" { Kind::BFloat16 } else { Kind::Float };
    let (logits, loss) = {
        let _autocast = Autocast::enter(device, precision)?;
        let logits = model.forward(&images, true)?.f_to_kind(Kind::Float)?;
        let loss = logits.f_cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0)?;
        (logits, loss)
    };
    torch::backward(&loss)?;
    let mut result = vec![("logits".to_owned(), host_copy(&logits)), ("loss".to_owned(), host_copy(&loss))];
    for entry in model.state().entries() {
        if entry.role != Role::Buffer {
            result.push((format!("gradient.{}", entry.name), host_copy(&entry.tensor.grad())));
        }
    }
    let parameters: Vec<Tensor> = model.state().trainable().into_iter().map(|(_, tensor)| tensor).collect();
    let momentum: Vec<Tensor> = parameters.iter().map(|parameter| parameter.detach().zeros_like()).collect();
    let sgd = SgdStep {
        learning_rate: 0.1,
        momentum: 0.9,
        dampening: 0.0,
        weight_decay: 1e-4,
        nesterov: false,
        first_step: true,
    };
    fused_sgd(&parameters, &momentum, &sgd, OnDevice::default())?;
    result.extend(model.state().snapshot().into_iter().map(|(name, tensor)| (format!("after.{name}"), tensor)));
    std::fs::write(folder.join("ours.safetensors"), write_safetensors(&result)?)?;
    Ok(())
}

/// Prints how far a batch norm over all ranks, of which this one is the only one, is from libtorch's own in both memory formats:
/// the largest difference of outputs, gradients and statistics.
fn norm(order: &str) -> Result<(), Box<dyn Error>> {
    let device = device(order)?;
    let ranks = Group::alone()?.norm_ranks()?;
    let mut apart = 0_f64;
    for channels_last in [false, true] {
        let (ours, theirs) = (normed(Some(&ranks), device, channels_last)?, normed(None, device, channels_last)?);
        for (ours, theirs) in ours.iter().zip(&theirs) {
            apart = apart.max((ours - theirs).f_abs()?.f_max()?.f_double_value(&[])?);
        }
    }
    println!("{apart}");
    Ok(())
}

/// What a batch norm gives and leaves: libtorch's own without ranks.
fn normed(ranks: Option<&NormRanks>, device: Device, channels_last: bool) -> Result<Vec<Tensor>, Box<dyn Error>> {
    const MOMENTUM: f64 = 0.1;
    const EPSILON: f64 = 1e-5;
    tch::manual_seed(6);
    let random = |size: &[i64]| Tensor::f_randn(size, (Kind::Float, Device::Cpu))?.f_to(device);
    let images = random(&[16, 32, 14, 14])?;
    let images = if channels_last { torch::to_channels_last(&images)? } else { images }.set_requires_grad(true);
    let (weight, bias) = (random(&[32])?.set_requires_grad(true), random(&[32])?.set_requires_grad(true));
    let (running_mean, running_var) = (random(&[32])?, random(&[32])?.f_abs()?);
    let output = match ranks {
        Some(ranks) => ranks.batch_norm(
            &images,
            SyncNorm {
                weight: &weight,
                bias: &bias,
                running_mean: &running_mean,
                running_var: &running_var,
                momentum: MOMENTUM,
                epsilon: EPSILON,
            },
        )?,
        None => {
            let (mean, var) = (Some(&running_mean), Some(&running_var));
            images.f_batch_norm(Some(&weight), Some(&bias), mean, var, true, MOMENTUM, EPSILON, true)?
        }
    };
    torch::backward(&output.f_mul(&random(&[16, 32, 14, 14])?)?.f_sum(Kind::Float)?)?;
    let output = output.f_detach()?;
    Ok(vec![output, images.f_grad()?, weight.f_grad()?, bias.f_grad()?, running_mean, running_var])
}
