//! The trainer's side of the checks on a GPU, which `tests/gpu/run` makes: `gpu rank ORDER` makes steps when it is told to,
//! `gpu step FOLDER` makes one step of a given network on given images, `gpu photos FOLDER COUNT` makes images.

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
use trainer::torch::{self, Autocast, SgdStep, fused_sgd};
use trainer::zoo::{Blueprint, Model, Role, host_copy, read_safetensors, write_safetensors};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let words: Vec<&str> = arguments.iter().skip(1).map(String::as_str).collect();
    match words[..] {
        ["rank", order] => {
            load_cuda(order)?;
            steps::serve(&serde_json::from_str(order)?)
        }
        ["step", folder] => step(Path::new(folder)),
        ["photos", folder, count] => {
            photos::folder(Path::new(folder), 500, 375, count.parse()?).map(|path| println!("{}", path.display()))
        }
        _ => Err("gpu rank ORDER | gpu step FOLDER | gpu photos FOLDER COUNT".into()),
    }
}

/// Opens the CUDA plug-in where an order asks for the GPU. It must come before anything else asks libtorch about CUDA.
fn load_cuda(order: &str) -> Result<(), Box<dyn Error>> {
    #[derive(Deserialize)]
    struct On {
        device: String,
    }
    let on: On = serde_json::from_str(order)?;
    if on.device == "cuda" {
        torch::load_cuda(&trainer::preflight::plugin())?;
    }
    Ok(())
}

/// What `peer.py` leaves for `step` in `job.json`, besides the weights and the images.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Job {
    architecture: Architecture,
    classes: i64,
    image: i64,
    precision: String,
    device: String,
}

/// One step of SGD from `init.safetensors` on `data.safetensors`: logits, loss, gradients and weights to `ours.safetensors`.
fn step(folder: &Path) -> Result<(), Box<dyn Error>> {
    let told = std::fs::read_to_string(folder.join("job.json"))?;
    load_cuda(&told)?;
    let job: Job = serde_json::from_str(&told)?;
    let device = if job.device == "cuda" { Device::Cuda(0) } else { Device::Cpu };
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
    fused_sgd(&parameters, &momentum, &sgd)?;
    result.extend(model.state().snapshot().into_iter().map(|(name, tensor)| (format!("after.{name}"), tensor)));
    std::fs::write(folder.join("ours.safetensors"), write_safetensors(&result)?)?;
    Ok(())
}
