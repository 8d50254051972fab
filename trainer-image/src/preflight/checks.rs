//! The checks that need no libtorch, in the order in which a failure explains the next: device files, the build, the
//! driver's version, its library, the GPUs' number, architecture and memory, their health.

use crds::contract::Cause;
use crds::cuda::{Architecture, CudaVersion, DriverVersion, minimum_driver};

use super::host::Host;
use super::verdict::{Outcome, Verdict};
use super::{Requirements, health};
use crate::torch::driver::{DriverError, DriverReport, GpuInfo};

/// CUDA's results of cuInit that mean "not with this driver here", not "broken": stub library, driver too old, no device,
/// versions of library and kernel module apart, forward compatibility not for this GPU.
const UNSUPPORTED: [i32; 5] = [34, 35, 100, 803, 804];
/// The part of a GPU's memory that its driver keeps at most: one of so many.
const KEPT: u64 = 16;
/// CUDA's result for a pod that sees none of the machine's GPUs.
const NO_DEVICE: i32 = 100;

/// Looks at the machine. Well under a second without a GPU.
pub fn run(host: &Host, needs: &Requirements) -> Verdict {
    let mut verdict = Verdict::new(needs.device);
    verdict.check("device files", |_| device_files(host));
    verdict.check("build", |_| build(host, needs));
    // Asked once, when the checks so far let it: opening the library is what a machine without a GPU is spared.
    let mut driver = None;
    verdict.check("driver version", |_| driver_version(host.kernel_driver(), driver.insert(host.driver()), needs.cuda));
    let mut gpus = Vec::new();
    verdict.check("driver library", |_| match driver {
        Some(Ok(report)) => {
            let outcome = library(&report);
            gpus = report.devices;
            outcome
        }
        Some(Err(error)) => library_failed(&error),
        None => Outcome::Skipped("it was not asked".to_owned()),
    });
    verdict.gpus = gpus;
    verdict.check("number of GPUs", |gpus| number(gpus, needs.processes));
    verdict.check("architecture", |gpus| architecture(gpus, needs));
    verdict.check("product", |gpus| product(own(gpus, needs), &needs.products));
    verdict.check("memory", |gpus| memory(own(gpus, needs), needs.min_memory));
    health::add(&mut verdict, host);
    verdict
}

fn unsupported(message: String, hint: impl Into<String>) -> Outcome {
    Outcome::Failed { cause: Cause::GpuUnsupported, message, hint: hint.into() }
}

fn device_files(host: &Host) -> Outcome {
    match host.gpu_files() {
        files if !files.is_empty() => Outcome::Passed(files.join(", ")),
        _ if host.has_kernel_driver() => unsupported(
            "the machine has NVIDIA's driver, and no GPU is given to this container".to_owned(),
            "ask for a GPU in resources (nvidia.com/gpu), or start the container with the NVIDIA runtime",
        ),
        _ => unsupported(
            "this machine has no NVIDIA GPU (no /dev/nvidia0, no /dev/dxg)".to_owned(),
            "set infrastructure.device (on a command line --device) to Cpu or Auto, or go to a node with a GPU and its driver",
        ),
    }
}

fn build(host: &Host, needs: &Requirements) -> Outcome {
    if host.has(&needs.plugin) {
        return Outcome::Passed(format!("CUDA {}", needs.cuda));
    }
    unsupported(
        format!("this build of the trainer is for CPUs: {} is not there", needs.plugin.display()),
        "use a trainer image for CUDA (infrastructure.runtime), or set infrastructure.device to Cpu",
    )
}

/// Compares the kernel's driver with the table. A library that is newer than the kernel's driver and works is NVIDIA's
/// forward-compatibility package: what it says counts.
fn driver_version(
    kernel: Option<DriverVersion>,
    library: &Result<DriverReport, DriverError>,
    needed: CudaVersion,
) -> Outcome {
    let Some(minimum) = minimum_driver(needed) else {
        return Outcome::Skipped(format!("the least driver for CUDA {needed} is not known"));
    };
    let offers = match library {
        Ok(report) => report.cuda,
        Err(DriverError::Call { cuda, .. }) => *cuda,
        Err(_) => None,
    };
    let works = library.is_ok();
    let hint = format!("update the node's driver to {minimum} or newer, or use a runtime for an older CUDA");
    match (kernel, offers) {
        (Some(kernel), _) if kernel >= minimum => {
            Outcome::Passed(format!("{kernel}; CUDA {needed} needs {minimum} or newer"))
        }
        (Some(kernel), Some(cuda)) if works && cuda >= needed => {
            Outcome::Passed(format!("{kernel} with a forward-compatibility package for CUDA {cuda}"))
        }
        (Some(kernel), _) => unsupported(
            format!("the driver is {kernel}, and this build's CUDA {needed} needs {minimum} or newer"),
            hint,
        ),
        (None, Some(cuda)) if cuda.runs(needed) => Outcome::Passed(format!("a driver for CUDA {cuda}")),
        (None, Some(cuda)) => unsupported(
            format!("the driver is for CUDA {cuda}, and this build's CUDA {needed} needs driver {minimum} or newer"),
            hint,
        ),
        (None, None) => Outcome::Skipped("the kernel does not tell its driver's version".to_owned()),
    }
}

fn library(report: &DriverReport) -> Outcome {
    match report.cuda {
        Some(cuda) => Outcome::Passed(format!("libcuda for CUDA {cuda}")),
        None => Outcome::Passed("libcuda".to_owned()),
    }
}

fn library_failed(error: &DriverError) -> Outcome {
    let message = error.to_string();
    match error {
        DriverError::Library(_) | DriverError::Function(_) => unsupported(
            message,
            "the NVIDIA container toolkit mounts libcuda.so.1 of the node's driver: check that the pod runs with its \
             runtime class and that NVIDIA_DRIVER_CAPABILITIES has compute",
        ),
        DriverError::Call { code: NO_DEVICE, .. } => unsupported(
            format!("{message}: no GPU is visible to this process"),
            "check NVIDIA_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES",
        ),
        DriverError::Call { code, .. } if UNSUPPORTED.contains(code) => unsupported(
            message,
            "libcuda and the kernel's driver do not go together: update or reinstall the node's driver",
        ),
        DriverError::Call { .. } => Outcome::Failed {
            cause: Cause::NodeFault,
            message,
            hint:
                "the GPU or its driver is in a bad state: look for Xid errors in the node's kernel log, reset the GPU"
                    .to_owned(),
        },
    }
}

fn number(gpus: &[GpuInfo], processes: u32) -> Outcome {
    match gpus.len() {
        0 => unsupported(
            "no GPU is visible to this process".to_owned(),
            "check NVIDIA_VISIBLE_DEVICES and CUDA_VISIBLE_DEVICES",
        ),
        seen if seen >= processes as usize => Outcome::Passed(format!("{seen} for {processes} processes")),
        seen => unsupported(
            format!("{processes} processes need a GPU each, and {seen} are visible"),
            "set infrastructure.gpusPerNode to the number of GPUs that the pod asks for",
        ),
    }
}

fn architecture(gpus: &[GpuInfo], needs: &Requirements) -> Outcome {
    let list = |architectures: &[Architecture]| {
        architectures.iter().map(Architecture::to_string).collect::<Vec<_>>().join(", ")
    };
    match gpus.iter().find(|gpu| !gpu.architecture.runs_any(&needs.architectures)) {
        None => Outcome::Passed(list(&gpus.iter().map(|gpu| gpu.architecture).collect::<Vec<_>>())),
        Some(gpu) => unsupported(
            format!(
                "{} has compute capability {}, and this build has code for {}",
                gpu.name,
                gpu.architecture,
                list(&needs.architectures)
            ),
            "use a runtime that has code for this GPU, or nodes with another GPU (infrastructure.gpu.products)",
        ),
    }
}

/// The GPUs that the processes take, which are the first ones.
fn own<'a>(gpus: &'a [GpuInfo], needs: &Requirements) -> &'a [GpuInfo] {
    &gpus[..gpus.len().min(needs.processes as usize)]
}

fn product(gpus: &[GpuInfo], products: &[String]) -> Outcome {
    match gpus.iter().find(|gpu| !products.is_empty() && !products.iter().any(|product| is_of(gpu, product))) {
        None => Outcome::Passed(gpus.iter().map(|gpu| gpu.name.as_str()).collect::<Vec<_>>().join(", ")),
        Some(gpu) => unsupported(
            format!("the GPU is {}, and {} will do", gpu.name, products.join(" or ")),
            format!(
                "add {} to infrastructure.gpu.products, or place the job on GPUs of those products",
                label(&gpu.name)
            ),
        ),
    }
}

/// Whether a GPU is of the product that NVIDIA's GPU feature discovery names so: a slice is also one of its whole GPU, and
/// GPUs that are shared in turns may have a word for it behind their name.
fn is_of(gpu: &GpuInfo, product: &str) -> bool {
    let name = label(&gpu.name);
    let whole = name.split_once("-MIG-").map_or(name.as_str(), |(whole, _)| whole);
    [product, product.trim_end_matches("-SHARED")].iter().any(|product| [name.as_str(), whole].contains(product))
}

/// A product's name as GPU feature discovery makes a label's value of it.
fn label(name: &str) -> String {
    let words = name.split_whitespace();
    let kept =
        |word: &str| word.chars().filter(|c| c.is_ascii_alphanumeric() || "-_.".contains(*c)).collect::<String>();
    words.map(kept).filter(|word| !word.is_empty()).collect::<Vec<_>>().join("-")
}

/// Compares with what CUDA gives to programs; the label of a node, by which people ask, counts what the driver keeps too.
fn memory(gpus: &[GpuInfo], least: Option<u64>) -> Outcome {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let seen = || gpus.iter().map(|gpu| gib(gpu.memory)).collect::<Vec<_>>().join(", ");
    match (least, gpus.iter().min_by_key(|gpu| gpu.memory)) {
        (Some(least), Some(gpu)) if gpu.memory < least - least / KEPT => unsupported(
            format!("{} has {} of memory, and {} are asked for", gpu.name, gib(gpu.memory), gib(least)),
            "place the job on larger GPUs, or lower infrastructure.gpu.minMemory",
        ),
        _ => Outcome::Passed(seen()),
    }
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
