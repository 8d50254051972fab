//! Where and from what a model was made: what somebody needs who wants to know later why it is as it is.

use std::fs;
use std::path::Path;

use crds::TrainingJobSpec;
use crds::contract::{Assignment, env};
use tch::Device;

use super::setup::Setup;
use crate::folder::digest;
use crate::model::Origin;
use crate::place::Place;
use crate::preflight::{BUILT_FOR, Host};
use crate::torch::driver::{LIBCUDA, probe};

/// Version of libtorch that this trainer is built with.
const LIBTORCH: &str = "2.11.0";

/// Who trained a model, where, with what.
pub(super) fn origin(job: &Assignment<TrainingJobSpec>, setup: &Setup, place: &Place) -> Origin {
    let gpu = match setup.device {
        Device::Cuda(index) => Some(index),
        _ => None,
    };
    Origin {
        job: format!("{} {}/{}", job.kind, job.namespace, job.name),
        uid: job.uid.clone(),
        attempt: job.attempt,
        world_size: place.world_size,
        device: if gpu.is_some() { "gpu" } else { "cpu" }.to_owned(),
        device_name: match gpu {
            Some(index) => gpu_name(index),
            None => cpu_name(Path::new("/proc/cpuinfo")),
        },
        driver: gpu.and_then(|_| Host::this_machine().kernel_driver()).map(|version| version.to_string()),
        cuda: gpu.map(|_| BUILT_FOR.to_string()),
        node: std::env::var(env::NODE_NAME).ok().filter(|name| !name.is_empty()),
        trainer: env!("CARGO_PKG_VERSION").to_owned(),
        libtorch: LIBTORCH.to_owned(),
        spec_digest: Some(digest(&serde_json::to_vec(&job.spec).expect("a spec is plain data"))),
        seed: Some(setup.recipe.training.seed),
        retrained_from: setup.parent.as_ref().map(|parent| parent.digest.clone()),
        finished: jiff::Timestamp::from_second(jiff::Timestamp::now().as_second()).unwrap_or_default().to_string(),
    }
}

/// The product name of a GPU; a driver that doesn't say it is no reason to lose a model.
fn gpu_name(index: usize) -> Option<String> {
    Some(probe(LIBCUDA).ok()?.devices.get(index)?.name.clone())
}

/// The name of the first CPU, as the kernel has it on most architectures.
fn cpu_name(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cpu_is_called_as_the_kernel_calls_it_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cpuinfo");
        assert_eq!(cpu_name(&file), None);
        fs::write(&file, "processor\t: 0\nmodel name\t: Fast CPU @ 3.00GHz\nmodel name\t: Other\n").unwrap();
        assert_eq!(cpu_name(&file).as_deref(), Some("Fast CPU @ 3.00GHz"));
        fs::write(&file, "processor\t: 0\nCPU implementer\t: 0x41\n").unwrap();
        assert_eq!(cpu_name(&file), None);
    }
}
