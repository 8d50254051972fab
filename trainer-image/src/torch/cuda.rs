//! The CUDA plug-in: the one thing that is opened only where a GPU is to be used.

use std::path::Path;
use std::sync::OnceLock;

use tch::Device;

use super::TorchError;
use super::ffi::{self, c_string, check};

static LOADED: OnceLock<()> = OnceLock::new();

/// What libtorch's CUDA half and NVIDIA's libraries read from the environment when they are first used. What is set already
/// stays. ProcessGroupNCCL.hpp and FlightRecorder.hpp of libtorch 2.11.0 have the names of NCCL's backend.
const ENVIRONMENT: [(&str, &str); 4] = [
    // A collective that fails or takes too long ends the process (mode 3, libtorch's default, leaves NCCL's connections
    // alone meanwhile), instead of going on with whatever is in its memory. `on_lost_peer` says why it ends.
    ("TORCH_NCCL_ASYNC_ERROR_HANDLING", "3"),
    // Collectives that the flight recorder keeps: a step of a large model has some ten of them.
    ("TORCH_FR_BUFFER_SIZE", "2000"),
    // The recorder is read by the trainer; a file in a pod's /tmp would help nobody.
    ("TORCH_NCCL_DUMP_ON_TIMEOUT", "0"),
    // 32 MiB of memory with which cuBLAS gives the same bits each time, as libtorch demands where only such algorithms are
    // allowed. Whether they are the recipe tells, which is not known yet.
    ("CUBLAS_WORKSPACE_CONFIG", ":4096:8"),
];

/// Opens the plug-in, and with it libtorch's CUDA half and NCCL. Must come before anything else that asks libtorch about
/// CUDA (`tch::Cuda`, a seed, a convolution, a backward): libtorch remembers that there is none. Done once; later calls
/// do nothing.
///
/// # Errors
/// [`TorchError::NoCuda`]: the file or a library that it needs is not there, or it belongs to another build.
pub fn load_cuda(path: &Path) -> Result<(), TorchError> {
    if LOADED.get().is_some() {
        return Ok(());
    }
    for (name, value) in ENVIRONMENT {
        let (name, value) = (c_string(name), c_string(value));
        // SAFETY: the strings live through the call, which copies them. This comes before a process starts any thread that
        // reads the environment by C: see above.
        unsafe { libc::setenv(name.as_ptr(), value.as_ptr(), 0) };
    }
    let name = path.display().to_string();
    let c_name = c_string(&name);
    // SAFETY: the string lives through the call. The plug-in's initialisers are libtorch's own.
    check(unsafe { ffi::ty_cuda_load(c_name.as_ptr()) })
        .map_err(|error| TorchError::NoCuda { path: name, text: error.to_string() })?;
    LOADED.get_or_init(|| ());
    Ok(())
}

/// As [`load_cuda`], for a thread that computes on GPU `index` alone: it opens no other. libtorch leaves each thread with the device
/// that it had before, the first GPU of a thread that has chosen none, and every process that opens it takes of its memory, or
/// fails where a GPU is for one process.
///
/// # Errors
/// As [`load_cuda`]; there is no such GPU, or it is not to be had.
pub fn use_gpu(path: &Path, index: usize) -> Result<Device, TorchError> {
    load_cuda(path)?;
    own(index)
}

fn own(index: usize) -> Result<Device, TorchError> {
    // SAFETY: no pointers.
    check(unsafe { ffi::ty_cuda_use(index as i32) })?;
    Ok(Device::Cuda(index))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_plug_in_says_where_it_was_looked_for() {
        let error = load_cuda(Path::new("/nowhere/plugin.so")).unwrap_err();
        assert_eq!(error.category(), "no-cuda");
        assert!(error.to_string().contains("/nowhere/plugin.so"), "{error}");
        assert_eq!(use_gpu(Path::new("/nowhere/plugin.so"), 0).unwrap_err().to_string(), error.to_string());
    }

    #[test]
    fn a_gpu_that_is_not_there_is_nobodys() {
        // Whether or not there is any other.
        assert!(own(99).is_err());
    }
}
