//! Do the GPUs of this pod reach each other? A process for each, as a training has them, which meet and add up a number by
//! NCCL (or, on CPUs, by Gloo).

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crds::contract::{Cause, TerminationMessage, env};
use tch::{Device, Kind, Tensor};

use super::verdict::Outcome;
use crate::ddp::Group;
use crate::fault::Fault;
use crate::launcher::Pod;
use crate::place::Place;

/// How long the processes may take to find each other and to add up a number.
const PATIENCE: Duration = Duration::from_secs(60);
/// What each process is started with.
pub(crate) const COMMAND: &str = "preflight-rank";

/// Starts `program`, the trainer, once for each of so many GPUs or CPU slots, and waits for what they find.
pub fn run(program: &Path, processes: u32, device: Device) -> Outcome {
    let begin = Instant::now();
    match all(program, processes, device) {
        Ok(()) => Outcome::Passed(format!("{processes} added up in {:.1} s", begin.elapsed().as_secs_f64())),
        Err(fault) => Outcome::Failed {
            cause: fault.cause(),
            message: fault.to_string(),
            hint: "NCCL_DEBUG=INFO says more; look at the links between the GPUs (nvidia-smi topo -m, nvidia-smi nvlink -s) and at \
                   the size of /dev/shm"
                .to_owned(),
        },
    }
}

fn all(program: &Path, processes: u32, device: Device) -> Result<(), Fault> {
    let pod = Pod::alone(processes).with_free_port()?;
    let folder = tempfile::tempdir().map_err(|error| Fault::io("make a folder for messages", error))?;
    let message = |rank: u32| folder.path().join(rank.to_string());
    let mut ranks = Ranks(Vec::new());
    for local_rank in 0..processes {
        let mut command = Command::new(program);
        command.arg(COMMAND).envs(pod.process_env(local_rank)).env(env::TERMINATION_LOG, message(local_rank));
        if device.is_cuda() {
            command.arg("--gpu");
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        ranks.0.push(child.map_err(|error| Fault::io("start a process for the collective", error))?);
    }
    let begin = Instant::now();
    for (rank, child) in (0..).zip(&mut ranks.0) {
        let status = loop {
            match child.try_wait().map_err(|error| Fault::io("wait for a process of the collective", error))? {
                Some(status) => break status,
                None if begin.elapsed() > PATIENCE => {
                    let message = format!("process {rank} of {processes} did not end within {} s", PATIENCE.as_secs());
                    return Err(Fault::new(Cause::NodeFault, message));
                }
                None => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        if !status.success() {
            let said = std::fs::read(message(rank)).ok();
            let said = said.and_then(|text| serde_json::from_slice::<TerminationMessage>(&text).ok());
            let said = said.map_or_else(|| "it said nothing".to_owned(), |said| said.message);
            let cause = status.code().map_or(Cause::NodeFault, Cause::from_exit_code);
            return Err(Fault::new(cause, format!("process {rank} of {processes} ended with {status}: {said}")));
        }
    }
    Ok(())
}

/// The processes, which don't outlive the check.
struct Ranks(Vec<Child>);

impl Drop for Ranks {
    fn drop(&mut self) {
        for child in &mut self.0 {
            // It has ended already where all is well.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// What one of the processes does.
///
/// # Errors
/// What libtorch, Gloo or NCCL fail with, and [`Cause::NodeFault`] for a sum that is wrong.
pub(crate) fn rank(gpu: bool) -> Result<i32, Fault> {
    let place = Place::from_env()?;
    let device = match gpu {
        true => crate::torch::use_gpu(&super::plugin(), place.gpu())?,
        false => Device::Cpu,
    };
    let group = Group::join(&place.rendezvous(device, PATIENCE))?;
    // As much as a bucket of gradients has, so that a link is used and not just opened.
    let own = Tensor::f_full([1 << 20], f64::from(place.rank + 1), (Kind::Float, device))?;
    group.all_reduce_sum(&own)?;
    let expected = f64::from(place.world_size * (place.world_size + 1)) / 2.0;
    let (least, most) = (own.f_min()?.double_value(&[]), own.f_max()?.double_value(&[]));
    group.part()?;
    if (least, most) == (expected, expected) {
        return Ok(0);
    }
    let message = format!("the sum over {} processes is {least} to {most}, not {expected}", place.world_size);
    Err(Fault::new(Cause::NodeFault, message))
}
