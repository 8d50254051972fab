//! The CUDA plug-in: the one thing that is opened only where a GPU is to be used.

use std::path::Path;
use std::sync::OnceLock;

use super::TorchError;
use super::ffi::{self, c_string, check};

static LOADED: OnceLock<()> = OnceLock::new();

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
    let name = path.display().to_string();
    let c_name = c_string(&name);
    // SAFETY: the string lives through the call. The plug-in's initialisers are libtorch's own.
    check(unsafe { ffi::ty_cuda_load(c_name.as_ptr()) })
        .map_err(|error| TorchError::NoCuda { path: name, text: error.to_string() })?;
    LOADED.get_or_init(|| ());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_plug_in_says_where_it_was_looked_for() {
        let error = load_cuda(Path::new("/nowhere/plugin.so")).unwrap_err();
        assert_eq!(error.category(), "no-cuda");
        assert!(error.to_string().contains("/nowhere/plugin.so"), "{error}");
    }
}
