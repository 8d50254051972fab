//! Small things on tensors: backward with typed errors, channels-last, determinism, the generator's state, libtorch's log.

use tch::Tensor;

use super::TorchError;
use super::ffi::{self, check, pointer};

/// From which severity on libtorch writes to standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Everything.
    Info = 0,
    /// Warnings: among them long traces about each connection that is lost.
    Warning = 1,
    /// Errors.
    Error = 2,
    /// Only what ends the process.
    Fatal = 3,
}

/// Sets from which severity on libtorch writes to standard error. What it throws arrives as errors all the same.
pub fn set_log_level(level: LogLevel) {
    // SAFETY: sets an integer.
    unsafe { ffi::ty_log_level(level as i32) }
}

/// Ends the process at once, with nothing torn down: another thread may wait for a GPU that never answers.
pub(crate) fn end_process(code: i32) -> ! {
    // SAFETY: nothing of this process is used after this.
    unsafe { libc::_exit(code) }
}

/// Accumulates gradients of a scalar into the leaves of its graph, and runs the hooks of a [`Reducer`](super::Reducer).
///
/// # Errors
/// A collective failed, memory ran out, or the loss has no graph.
pub fn backward(loss: &Tensor) -> Result<(), TorchError> {
    // SAFETY: the tensor lives through the call.
    check(unsafe { ffi::ty_backward(pointer(loss)) })
}

/// Lays a 4-dimensional tensor out as NHWC in memory, in place: its shape stays, and who holds it sees it. Others are
/// left alone. Before an optimizer's state or a reducer is made of it.
///
/// # Errors
/// Memory ran out.
pub fn set_channels_last(tensor: &Tensor) -> Result<(), TorchError> {
    // SAFETY: the tensor lives through the call.
    check(unsafe { ffi::ty_set_channels_last(pointer(tensor)) })
}

/// The same 4-dimensional tensor as NHWC in memory; itself if it is laid out so.
///
/// # Errors
/// It has not 4 dimensions, or memory ran out.
pub fn to_channels_last(tensor: &Tensor) -> Result<Tensor, TorchError> {
    // SAFETY: the tensor lives through the call.
    ffi::new_tensor(|out| unsafe { ffi::ty_to_channels_last(pointer(tensor), out) })
}

/// Whether a tensor has 4 dimensions and lies as NHWC in memory.
pub fn is_channels_last(tensor: &Tensor) -> bool {
    // SAFETY: the tensor lives through the call.
    unsafe { ffi::ty_is_channels_last(tensor.as_ptr()) }
}

/// Lets this process use only algorithms that give the same bits each time. An operation that has none fails as
/// [`TorchError::NotDeterministic`]: to go on with another would be to promise what does not hold.
///
/// # Errors
/// None is known.
pub fn allow_only_deterministic() -> Result<(), TorchError> {
    // SAFETY: sets flags.
    check(unsafe { ffi::ty_allow_only_deterministic() })
}

/// Whether this process uses only algorithms that give the same bits each time.
pub fn is_deterministic() -> bool {
    // SAFETY: reads a flag.
    unsafe { ffi::ty_is_deterministic() }
}

/// State of the CPU's default generator, some 5 kB.
///
/// # Errors
/// Memory ran out.
pub fn rng_state() -> Result<Vec<u8>, TorchError> {
    // SAFETY: no argument but the out pointer.
    let state = ffi::new_tensor(|out| unsafe { ffi::ty_rng_state(out) })?;
    Ok(Vec::<u8>::try_from(&state)?)
}

/// Puts the CPU's default generator in a state that [`rng_state`] gave.
///
/// # Errors
/// The bytes are no state of a generator.
pub fn set_rng_state(state: &[u8]) -> Result<(), TorchError> {
    let state = Tensor::from_slice(state);
    // SAFETY: the tensor lives through the call.
    check(unsafe { ffi::ty_set_rng_state(pointer(&state)) })
}

#[cfg(test)]
mod tests {
    use tch::{Kind, kind};

    use super::*;

    #[test]
    fn the_generator_repeats_itself_from_a_state() {
        let state = rng_state().unwrap();
        let first = Tensor::rand([8], kind::FLOAT_CPU);
        set_rng_state(&state).unwrap();
        assert_eq!(first, Tensor::rand([8], kind::FLOAT_CPU));
        assert_eq!(set_rng_state(&[1, 2, 3]).unwrap_err().category(), "other");
    }

    #[test]
    fn channels_last_keeps_shape_and_values() {
        let tensor = Tensor::arange(48, (Kind::Float, tch::Device::Cpu)).reshape([2, 3, 4, 2]);
        let copy = to_channels_last(&tensor).unwrap();
        assert!(!is_channels_last(&tensor) && is_channels_last(&copy));
        let alias = tensor.shallow_clone();
        set_channels_last(&tensor).unwrap();
        assert!(is_channels_last(&tensor));
        assert_eq!((tensor.size(), &tensor), (vec![2, 3, 4, 2], &copy));
        assert!(is_channels_last(&alias), "a second handle sees the same tensor");
        let flat = Tensor::zeros([3], kind::FLOAT_CPU);
        set_channels_last(&flat).unwrap();
        assert!(!is_channels_last(&flat));
    }

    #[test]
    fn backward_without_a_graph_is_an_error() {
        assert_eq!(backward(&Tensor::from(1.0f32)).unwrap_err().category(), "other");
    }
}
