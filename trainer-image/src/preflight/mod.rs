//! Looks at the machine before the work starts: is there a GPU, and can this build use it? Typed checks, a device that is
//! chosen for a reason, and a fault that says what to do.
//!
//! ```text
//!  Host (files, driver and management library) ─► checks, health ─┐
//!  libtorch ─► compute (against the CPU), collective ─────────────┴► in order; the first failure decides ─► Verdict
//!                                                                                            └─► device, or a Fault
//! ```
//!
//! On a machine without a GPU only file names are looked up, and nothing of CUDA is opened.

mod checks;
mod collective;
mod compute;
mod health;
mod host;
mod report;
mod verdict;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use crds::contract::{Cause, env};
use crds::cuda::{Architecture, CudaVersion};
use crds::infrastructure::{Device, Gpu, Infrastructure};
use crds::quantity;
use crds::training::Precision;

use crate::fault::Fault;
use crate::torch::driver::GpuInfo;
use crate::torch::load_cuda;

pub use checks::run;
pub use collective::run as collective;
pub(crate) use collective::{COMMAND as RANK, rank};
pub(crate) use compute::try_out;
pub use host::Host;
pub use report::{table, to_json};
pub use verdict::{Check, Outcome, Verdict};

/// The CUDA version of the libtorch that this trainer is built with: torch 2.11.0 from PyPI.
pub const BUILT_FOR: CudaVersion = CudaVersion { major: 13, minor: 0 };
/// The GPUs that it has code for.
pub const BUILT_ARCHITECTURES: [Architecture; 6] = [sm(7, 5), sm(8, 0), sm(8, 6), sm(9, 0), sm(10, 0), sm(12, 0)];
/// File name of the CUDA plug-in.
const PLUGIN: &str = "libtrainyard_cuda.so";

const fn sm(major: u32, minor: u32) -> Architecture {
    Architecture { major, minor }
}

/// What the work needs of the machine.
#[derive(Clone, Debug)]
pub struct Requirements {
    /// What the manifest asks for.
    pub device: Device,
    /// Processes that take a GPU of their own each, of those that this process sees.
    pub processes: u32,
    /// Products of which each of their GPUs has to be one, as labels of nodes name them; empty for any.
    pub products: Vec<String>,
    /// Least memory of each of their GPUs in bytes, as labels of nodes count it.
    pub min_memory: Option<u64>,
    /// CUDA version of this build.
    pub cuda: CudaVersion,
    /// What this build has code for.
    pub architectures: Vec<Architecture>,
    /// The CUDA plug-in; it is not there in an image for CPUs.
    pub plugin: PathBuf,
}

impl Requirements {
    /// Those of this build for so many processes.
    pub fn of_this_build(device: Device, processes: u32) -> Requirements {
        Requirements {
            device,
            processes,
            products: Vec::new(),
            min_memory: None,
            cuda: BUILT_FOR,
            architectures: BUILT_ARCHITECTURES.to_vec(),
            plugin: plugin(),
        }
    }

    /// Those of a job with so many processes on this machine.
    pub fn of_job(infrastructure: &Infrastructure, processes: u32) -> Requirements {
        let Gpu { products, min_memory, .. } = &infrastructure.gpu;
        // What is no quantity asks for more than there is.
        let bytes =
            |memory: &str| quantity::ceiling(memory).map_or(u64::MAX, |least| least.try_into().unwrap_or(u64::MAX));
        Requirements {
            products: products.clone(),
            min_memory: min_memory.as_ref().map(|memory| bytes(&memory.0)),
            ..Requirements::of_this_build(infrastructure.device, processes)
        }
    }
}

/// Where the CUDA plug-in lies: in `lib` beside the folder of this program, as in an image, or else beside the program.
pub fn plugin() -> PathBuf {
    let program = std::env::current_exe().unwrap_or_default();
    let folder = program.parent().unwrap_or(Path::new("."));
    let installed = folder.join("../lib").join(PLUGIN);
    let beside = folder.join(PLUGIN);
    if !installed.exists() && beside.exists() { beside } else { installed }
}

/// Why GPUs can't work in a precision, if one of them can't: convolutions of bfloat16 need Ampere, compute capability 8.0.
pub(crate) fn precision_fault(precision: Precision, gpus: &[GpuInfo]) -> Option<Fault> {
    let old = gpus.iter().find(|gpu| precision == Precision::BFloat16 && gpu.architecture < sm(8, 0))?;
    let Architecture { major, minor } = old.architecture;
    let message = format!(
        "precision BFloat16 needs a GPU of compute capability 8.0 or newer, and {} has {major}.{minor}",
        old.name
    );
    Some(
        Fault::new(Cause::GpuUnsupported, message)
            .hint("set precision to Float16 or Float32, or name newer GPUs in infrastructure.gpu.products"),
    )
}

/// The GPUs that the work goes on, one for each process; none where it goes on CPUs. Says why in the log, once per pod.
///
/// # Errors
/// [`GpuUnsupported`](crds::contract::Cause::GpuUnsupported) if a GPU is asked for and there is none that can be used, and
/// [`NodeFault`](crds::contract::Cause::NodeFault) if there is one that is broken, also for [`Device::Auto`]; the first of
/// them, too, if a GPU is chosen that doesn't have the precision.
pub fn choose_device(needs: &Requirements, precision: Precision) -> Result<Vec<GpuInfo>, Fault> {
    let mut verdict = run(&Host::this_machine(), needs);
    let first = std::env::var(env::LOCAL_RANK).map_or(true, |rank| rank == "0");
    let chosen = verdict.device()?;
    if first {
        tracing::info!(device = ?chosen, "{}", verdict.reason);
        for (message, hint) in verdict.notes() {
            tracing::warn!("{message}: {hint}");
        }
    }
    if chosen != Device::Gpu {
        return Ok(Vec::new());
    }
    verdict.gpus.truncate(needs.processes as usize);
    precision_fault(precision, &verdict.gpus).map_or(Ok(verdict.gpus), Err)
}

/// What `trainer preflight` does: makes the checks, on GPUs those of computing as well, prints them as a table or as JSON and
/// gives the exit code.
///
/// # Errors
/// A GPU that is there and broken, and a standard output that can't be written.
pub fn print(json: bool) -> Result<i32, Fault> {
    let mut verdict = run(&Host::this_machine(), &Requirements::of_this_build(Device::Auto, 1));
    if let Ok(Device::Gpu) = verdict.device() {
        compute_on_gpus(&mut verdict);
    }
    let text = if json { to_json(&verdict) } else { table(&verdict) };
    match writeln!(io::stdout(), "{text}") {
        // The reader has seen enough.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
        other => other.map_err(|error| Fault::io("write to the standard output", error))?,
    }
    verdict.device().map(|_| 0)
}

/// Adds the checks that need libtorch and its CUDA half.
fn compute_on_gpus(verdict: &mut Verdict) {
    verdict.check("libtorch", |_| match load_cuda(&plugin()) {
        Ok(()) => Outcome::Passed(format!("its half for CUDA {BUILT_FOR} is loaded")),
        Err(error) => Outcome::Failed {
            cause: error.cause(),
            message: error.to_string(),
            hint: "use a trainer image for CUDA, whole: the libraries of NVIDIA that libtorch needs belong to it"
                .to_owned(),
        },
    });
    let devices: Vec<tch::Device> = (0..verdict.gpus.len()).map(tch::Device::Cuda).collect();
    compute::add(verdict, &devices);
    verdict.check("collective", |gpus| match std::env::current_exe() {
        Ok(program) => collective(&program, gpus.len() as u32, tch::Device::Cuda(0)),
        Err(error) => Outcome::Skipped(format!("this program does not find its own file: {error}")),
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gpu_without_bfloat16_is_named() {
        let gpu = |name: &str, architecture| GpuInfo {
            name: name.to_owned(),
            uuid: String::new(),
            memory: 16 << 30,
            architecture,
        };
        let (old, new) = (gpu("Tesla T4", sm(7, 5)), gpu("NVIDIA H200", sm(9, 0)));
        for precision in [Precision::Float32, Precision::Float16] {
            assert!(precision_fault(precision, std::slice::from_ref(&old)).is_none(), "{precision:?}");
        }
        assert!(precision_fault(Precision::BFloat16, std::slice::from_ref(&new)).is_none());
        let fault = precision_fault(Precision::BFloat16, &[new, old]).unwrap().to_string();
        assert!(fault.contains("8.0 or newer, and Tesla T4 has 7.5"), "{fault}");
    }
}
