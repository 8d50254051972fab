//! One rank of a comparison, by the trainer's code: what `ddp.py` does.

use std::path::Path;
use std::time::Duration;

use crds::contract::Cause;
use crds::model::Architecture;
use tch::{Device, Kind, Reduction, Tensor};
use trainer::ddp::{Backend, Ddp, DdpError, DdpOptions, GradSync, Group, Rendezvous, StoreHost};
use trainer::torch::{self, AdamStep, Autocast, LogLevel, OnDevice, SgdStep, TorchError};
use trainer::zoo::{Blueprint, Model, host_copy, read_safetensors, write_safetensors};

use crate::job::Job;
use crate::sync_norm;

/// Joins, trains and writes `rust-RANK.safetensors`; says each step on standard output. Gives the exit code.
pub(crate) fn main(folder: &Path, rank: u32, port: u16, run_id: &str) -> i32 {
    torch::set_log_level(LogLevel::Fatal);
    tch::set_num_threads(1);
    let end = match run_id {
        "cuda" => load_cuda(folder),
        LOST => lose_peer(folder, rank, port),
        sync_norm::RUN => sync_norm::rank(folder, &rendezvous(rank, sync_norm::WORLD_SIZE, port, run_id, 60.0)),
        _ => run(folder, rank, port, run_id),
    };
    match end {
        Ok(()) => Cause::Completed.exit_code(),
        Err(error) => {
            println!("error {} {error}", error.category());
            error.cause().exit_code()
        }
    }
}

/// Opens the plug-in and asks for a group by NCCL.
fn load_cuda(folder: &Path) -> Result<(), DdpError> {
    let loading = |source| DdpError::Torch { during: "opening the CUDA plug-in", source };
    torch::load_cuda(&folder.join("plugin.so")).map_err(loading)?;
    let alone = Rendezvous { backend: Backend::Nccl { device: 0 }, ..rendezvous(0, 1, 0, "cuda", 60.0) };
    Group::join(&alone).map(drop)
}

/// Key of the run in which rank 0 is told by NCCL's watchdog that it has lost rank 1.
pub(crate) const LOST: &str = "lost-peer";

/// Meets the other rank by what stands in for NCCL, lets its watchdog throw, and waits for the end.
fn lose_peer(folder: &Path, rank: u32, port: u16) -> Result<(), DdpError> {
    let loading = |source| DdpError::Torch { during: "opening the CUDA plug-in", source };
    torch::load_cuda(&folder.join("plugin.so")).map_err(loading)?;
    let meeting = Rendezvous { backend: Backend::Nccl { device: 0 }, ..rendezvous(rank, 2, port, LOST, 60.0) };
    let group = Group::join(&meeting)?;
    if rank == 0 {
        // As NCCL's part of the store has it: c10d puts a slash of its own behind a prefix.
        group.set("nccl//lost", b"1")?;
    }
    loop {
        std::thread::park();
    }
}

fn rendezvous(rank: u32, world_size: u32, port: u16, run_id: &str, join_seconds: f64) -> Rendezvous {
    Rendezvous {
        addr: "127.0.0.1".to_string(),
        port,
        rank,
        world_size,
        run_id: run_id.to_string(),
        host: StoreHost::FirstRank,
        join_timeout: Duration::from_secs_f64(join_seconds),
        timeout: Duration::from_secs(600),
        backend: Backend::Gloo,
    }
}

/// What the optimizer keeps for each parameter.
enum Optimizer {
    Sgd { momentum: Vec<Tensor> },
    AdamW { means: Vec<Tensor>, squares: Vec<Tensor>, steps: Vec<Tensor> },
}

impl Optimizer {
    fn new(name: &str, parameters: &[Tensor]) -> Optimizer {
        let zeros = || -> Vec<Tensor> { parameters.iter().map(|parameter| parameter.detach().zeros_like()).collect() };
        match name {
            "sgd" => Optimizer::Sgd { momentum: zeros() },
            _ => {
                let steps = parameters.iter().map(|_| Tensor::from(0f32)).collect();
                Optimizer::AdamW { means: zeros(), squares: zeros(), steps }
            }
        }
    }

    fn step(&self, parameters: &[Tensor], first_step: bool) -> Result<(), TorchError> {
        match self {
            Optimizer::Sgd { momentum } => {
                let step = SgdStep {
                    learning_rate: 0.05,
                    momentum: 0.9,
                    dampening: 0.0,
                    weight_decay: 1e-4,
                    nesterov: true,
                    first_step,
                };
                torch::fused_sgd(parameters, momentum, &step, OnDevice::default())
            }
            Optimizer::AdamW { means, squares, steps } => {
                let step = AdamStep {
                    learning_rate: 1e-3,
                    beta1: 0.9,
                    beta2: 0.999,
                    epsilon: 1e-8,
                    weight_decay: 1e-2,
                    decoupled: true,
                };
                torch::fused_adam(parameters, means, squares, &[] as &[Tensor], steps, &step, OnDevice::default())
            }
        }
    }

    /// The state by the names that `ddp.py` gives it.
    fn named(&self) -> Vec<(String, Tensor)> {
        let slots: Vec<(&str, &[Tensor])> = match self {
            Optimizer::Sgd { momentum } => vec![("momentum_buffer", momentum)],
            Optimizer::AdamW { means, squares, steps } => {
                vec![("exp_avg", means), ("exp_avg_sq", squares), ("step", steps)]
            }
        };
        let name = |(slot, tensors): (&str, &[Tensor])| -> Vec<_> {
            tensors.iter().enumerate().map(|(i, tensor)| (format!("optimizer.{i}.{slot}"), host_copy(tensor))).collect()
        };
        slots.into_iter().flat_map(name).collect()
    }
}

fn run(folder: &Path, rank: u32, port: u16, run_id: &str) -> Result<(), DdpError> {
    let torch_error = |source| DdpError::Torch { during: "an optimizer step", source };
    let job = Job::read(folder);
    let timeout = Duration::from_secs_f64(job.collective_seconds);
    let meeting = Rendezvous { timeout, ..rendezvous(rank, job.world_size, port, run_id, job.join_seconds) };
    let group = Group::join(&meeting)?;
    let load = |name: &str| {
        let bytes = std::fs::read(folder.join(format!("{name}-{rank}.safetensors"))).unwrap();
        read_safetensors(&bytes).unwrap()
    };
    let classes = if job.misfit == Some(rank) { 11 } else { 10 };
    let blueprint = Blueprint { architecture: Architecture::Resnet18, classes, image_size: job.image as i64 };
    let mut model = Model::new(blueprint, 0, Device::Cpu).unwrap();
    if job.misfit.is_none() {
        model.state_mut().restore(&load("init")).unwrap();
    }
    if job.channels_last {
        for entry in model.state().entries() {
            torch::set_channels_last(&entry.tensor).map_err(torch_error)?;
        }
    }
    let (trainable, buffers) = (model.state().trainable(), model.state().buffers());
    let compression = job.compression.as_deref().map(|kind| match kind {
        "float16" => Kind::Half,
        _ => Kind::BFloat16,
    });
    let mut options = DdpOptions { find_unused: job.find_unused, compression, ..DdpOptions::default() };
    if let Some(mib) = job.bucket_mib {
        let bytes = (mib * f64::from(1 << 20)) as usize;
        options = DdpOptions { bucket_bytes: bytes, first_bucket_bytes: bytes, ..options };
    }
    let mut ddp = Ddp::new(&group, &trainable, &buffers, options)?;
    let parameters: Vec<Tensor> = trainable.iter().map(|(_, tensor)| tensor.shallow_clone()).collect();
    let optimizer = Optimizer::new(&job.optimizer, &parameters);

    let data = load("data");
    let mut losses = Vec::new();
    for step in 0..job.steps {
        ddp.clear_gradients()?;
        for index in 0..job.passes {
            let at = (step * job.passes + index) as i64;
            let mut images = data["images"].get(at);
            if job.channels_last {
                images = torch::to_channels_last(&images).map_err(torch_error)?;
            }
            let labels = data["labels"].get(at);
            let sync = if index + 1 == job.passes { GradSync::Average } else { GradSync::Accumulate };
            let scope =
                job.bfloat16.then(|| Autocast::enter(Device::Cpu, Kind::BFloat16)).transpose().map_err(torch_error)?;
            let output = ddp.forward(sync, || model.forward(&images, true))?;
            let loss =
                output.cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0) / job.passes as f64;
            drop(scope);
            ddp.backward(&loss)?;
            losses.push(loss.detach());
        }
        if let Some(norm) = job.clip {
            let _norm_before = torch::clip_gradients(&parameters, norm).map_err(torch_error)?;
        }
        optimizer.step(&parameters, step == 0).map_err(torch_error)?;
        println!("step {step}");
    }
    let numbers: usize = parameters.iter().map(Tensor::numel).sum();
    let width = if compression.is_some() { 2 } else { 4 };
    assert_eq!(ddp.gradient_bytes()?, (job.steps * numbers * width) as u64, "bytes of gradients that travelled");
    let mut result = model.state().snapshot();
    result.push(("losses".to_string(), Tensor::stack(&losses, 0).to_kind(Kind::Float)));
    result.extend(optimizer.named());
    std::fs::write(folder.join(format!("rust-{rank}.safetensors")), write_safetensors(&result).unwrap()).unwrap();
    Ok(())
}
