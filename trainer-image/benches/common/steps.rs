//! Steps of a training over images that are made once, by the trainer's own code: what the benchmark `training` and the checks
//! on a GPU time. `tests/bench_training.py` does the same by PyTorch, told by the same order.

use std::error::Error;
use std::io::{Write, stdin, stdout};
use std::time::{Duration, Instant};

use crds::model::Architecture;
use nix::sys::resource::{UsageWho, getrusage};
use serde::Deserialize;
use serde_json::json;
use tch::{Device, Kind, Reduction, Tensor};
use trainer::ddp::{Backend, Ddp, DdpOptions, GradSync, Group, Rendezvous, StoreHost};
use trainer::torch::{self, Autocast, Graph, OnDevice, SgdStep, TorchError, fused_sgd};
use trainer::zoo::{Blueprint, Model};

/// What a rank is to train, as JSON.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Order {
    architecture: Architecture,
    /// Images of a step on this rank.
    batch: i64,
    /// Height and width of the images in pixels.
    image: i64,
    classes: i64,
    /// `float32` or `bfloat16`.
    precision: String,
    /// `cpu` or `cuda`: the first GPU, whatever the rank.
    device: String,
    /// `gloo`, `nccl`, or `none`: a training without DDP, which a single rank can do.
    backend: String,
    rank: u32,
    world_size: u32,
    /// Of the store; 0 for a single rank.
    port: u16,
    /// Of libtorch, where the order is to say.
    threads: Option<i32>,
    /// Whether a step is recorded once some have been made, and the others are that one again: on a GPU without DDP.
    #[serde(default)]
    graphs: bool,
}

/// Makes one step, says `first`, then answers each number on standard input with the cost of so many steps, as JSON.
pub(crate) fn serve(order: &Order) -> Result<(), Box<dyn Error>> {
    torch::keep_memory();
    if let Some(threads) = order.threads {
        tch::set_num_threads(threads);
    }
    let device = if order.device == "cuda" { Device::Cuda(0) } else { Device::Cpu };
    if order.graphs {
        torch::compute_beside(device)?;
    }
    let group = if order.backend == "none" { None } else { Some(Group::join(&meeting(order))?) };
    let Order { architecture, batch, image, classes, .. } = *order;
    let model = Model::new(Blueprint { architecture, classes, image_size: image }, 1, device)?;
    for entry in model.state().entries() {
        torch::set_channels_last(&entry.tensor)?;
    }
    let images = torch::to_channels_last(&Tensor::rand([batch, 3, image, image], (Kind::Float, device)))?;
    let labels = Tensor::arange(batch, (Kind::Int64, device)).remainder(classes);
    let trainable = model.state().trainable();
    let ddp = group.as_ref().map(|group| Ddp::new(group, &trainable, &model.state().buffers(), DdpOptions::default()));
    let mut ddp = ddp.transpose()?;
    let parameters: Vec<Tensor> = trainable.into_iter().map(|(_, tensor)| tensor).collect();
    let momentum: Vec<Tensor> = parameters.iter().map(|parameter| parameter.detach().zeros_like()).collect();
    let precision = if order.precision == "bfloat16" { Kind::BFloat16 } else { Kind::Float };
    let mut first_step = true;
    let mut step = || -> Result<Tensor, Box<dyn Error>> {
        torch::clear_gradients(&parameters)?;
        let loss = {
            let _autocast = Autocast::enter(device, precision)?;
            let logits = match &mut ddp {
                Some(ddp) => ddp.forward(GradSync::Average, || model.forward(&images, true))?,
                None => model.forward(&images, true)?,
            };
            logits.f_to_kind(Kind::Float)?.f_cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0)?
        };
        match &ddp {
            Some(ddp) => ddp.backward(&loss)?,
            None => torch::backward(&loss)?,
        }
        let sgd = SgdStep {
            learning_rate: 0.01,
            momentum: 0.9,
            dampening: 0.0,
            weight_decay: 0.0,
            nesterov: false,
            first_step,
        };
        first_step = false;
        fused_sgd(&parameters, &momentum, &sgd, OnDevice::default())?;
        Ok(loss.detach())
    };
    let say = |text: String| writeln!(stdout(), "{text}").and_then(|()| stdout().flush());
    step()?.double_value(&[]);
    let mut recorded = None;
    if order.graphs {
        for _ in 0..2 {
            let _ = step()?;
        }
        recorded = Some(Graph::record(0, &mut step)?);
    }
    let mut step = || match &recorded {
        Some((graph, loss)) => graph.replay().map(|()| loss.shallow_clone()).map_err(Into::into),
        None => step(),
    };
    say("first".to_owned())?;
    for line in stdin().lines() {
        let (wall, cpu) = (Instant::now(), cpu_seconds()?);
        let mut loss = f64::NAN;
        for index in (0..line?.trim().parse::<usize>()?).rev() {
            let made = step()?;
            // Of the last one alone: a GPU is to be waited for once, not in each step.
            if index == 0 {
                loss = made.double_value(&[]);
            }
        }
        let wall = wall.elapsed().as_secs_f64();
        let peak = getrusage(UsageWho::RUSAGE_SELF)?.max_rss();
        let answer = json!({"wall": wall, "cpu": cpu_seconds()? - cpu, "peakKib": peak, "loss": loss,
                            "digest": digest(&parameters)?});
        say(answer.to_string())?;
    }
    Ok(())
}

fn meeting(order: &Order) -> Rendezvous {
    let minute = Duration::from_secs(60);
    Rendezvous {
        addr: "127.0.0.1".to_owned(),
        port: order.port,
        rank: order.rank,
        world_size: order.world_size,
        run_id: "bench".to_owned(),
        host: StoreHost::FirstRank,
        join_timeout: minute,
        timeout: minute,
        backend: if order.backend == "nccl" { Backend::Nccl { device: 0 } } else { Backend::Gloo },
    }
}

/// A sum over all weights, by which ranks can be seen to hold the same.
fn digest(parameters: &[Tensor]) -> Result<f64, TorchError> {
    let sums = parameters.iter().map(|parameter| parameter.detach().f_sum(Kind::Double));
    let sums = sums.collect::<Result<Vec<_>, _>>()?;
    Ok(Tensor::f_stack(&sums, 0)?.f_sum(Kind::Double)?.double_value(&[]))
}

/// CPU time that this process has used.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
