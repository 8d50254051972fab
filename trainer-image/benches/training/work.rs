//! What one of our ranks does: the steps of `tests/bench_training.py`, by the trainer's code.

use std::error::Error;
use std::io::{Write, stdin, stdout};
use std::time::{Duration, Instant};

use crds::model::Architecture;
use nix::sys::resource::{UsageWho, getrusage};
use tch::{Device, Kind, Reduction, Tensor};
use trainer::ddp::{Backend, Ddp, DdpOptions, GradSync, Group, Rendezvous};
use trainer::torch::{self, Autocast, SgdStep, fused_sgd};
use trainer::zoo::{Blueprint, Model};

use crate::ranks::{BATCH, CLASSES, RANKS, SIZE};

/// Makes one step, says `first`, then answers each number on standard input with the cost of so many steps.
pub(crate) fn run(rank: u32, port: u16, bfloat16: bool) -> Result<(), Box<dyn Error>> {
    tch::set_num_threads(1);
    let group = Group::join(&Rendezvous {
        addr: "127.0.0.1".to_owned(),
        port,
        rank,
        world_size: RANKS,
        run_id: "bench".to_owned(),
        is_host: rank == 0,
        join_timeout: Duration::from_secs(60),
        timeout: Duration::from_secs(60),
        backend: Backend::Gloo,
    })?;
    let blueprint = Blueprint { architecture: Architecture::Resnet18, classes: CLASSES, image_size: SIZE };
    let model = Model::new(blueprint, 1, Device::Cpu)?;
    for entry in model.state().entries() {
        torch::set_channels_last(&entry.tensor)?;
    }
    let images = torch::to_channels_last(&Tensor::rand([BATCH, 3, SIZE, SIZE], (Kind::Float, Device::Cpu)))?;
    let labels = Tensor::arange(BATCH, (Kind::Int64, Device::Cpu));
    let trainable = model.state().trainable();
    let mut ddp = Ddp::new(&group, &trainable, &model.state().buffers(), DdpOptions::default())?;
    let parameters: Vec<Tensor> = trainable.into_iter().map(|(_, tensor)| tensor).collect();
    let momentum: Vec<Tensor> = parameters.iter().map(|parameter| parameter.detach().zeros_like()).collect();
    let precision = if bfloat16 { Kind::BFloat16 } else { Kind::Float };
    let mut first_step = true;
    let mut step = || -> Result<f64, Box<dyn Error>> {
        ddp.clear_gradients()?;
        let loss = {
            let _autocast = Autocast::enter(Device::Cpu, precision)?;
            let logits = ddp.forward(GradSync::Average, || model.forward(&images, true))?;
            logits.f_to_kind(Kind::Float)?.f_cross_entropy_loss::<Tensor>(&labels, None, Reduction::Mean, -100, 0.0)?
        };
        ddp.backward(&loss)?;
        let sgd = SgdStep {
            learning_rate: 0.01,
            momentum: 0.9,
            dampening: 0.0,
            weight_decay: 0.0,
            nesterov: false,
            first_step,
        };
        first_step = false;
        fused_sgd(&parameters, &momentum, &sgd)?;
        Ok(loss.double_value(&[]))
    };
    let say = |text: String| writeln!(stdout(), "{text}").and_then(|()| stdout().flush());
    step()?;
    say("first".to_owned())?;
    for line in stdin().lines() {
        let (wall, cpu) = (Instant::now(), cpu_seconds()?);
        for _ in 0..line?.trim().parse()? {
            step()?;
        }
        let peak = getrusage(UsageWho::RUSAGE_SELF)?.max_rss();
        say(format!("{} {} {peak}", wall.elapsed().as_secs_f64(), cpu_seconds()? - cpu))?;
    }
    Ok(())
}

/// CPU time that this process has used.
fn cpu_seconds() -> Result<f64, Box<dyn Error>> {
    let usage = getrusage(UsageWho::RUSAGE_SELF)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}
