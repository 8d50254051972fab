//! Mixed precision: within the scope of a guard, libtorch runs the operations that gain from it in a smaller kind.

use std::marker::PhantomData;

use tch::{Device, Kind};

use super::TorchError;
use super::ffi::{self, check};

/// A scope of autocast on this thread, as `torch.autocast`. Wrap the forward pass and the loss in it, not the backward.
/// Scopes may be nested; they end in the reverse order of their begin.
#[must_use = "autocast ends when the guard is dropped"]
pub struct Autocast {
    device_type: i32,
    before: ffi::Autocast,
    // The setting belongs to the thread: the guard must not leave it.
    _not_send: PhantomData<*const ()>,
}

/// `c10::DeviceType`.
fn device_type(device: Device) -> i32 {
    match device {
        Device::Cuda(_) => 1,
        _ => 0,
    }
}

impl Autocast {
    /// Starts a scope in `kind`: [`Kind::BFloat16`] or [`Kind::Half`]. With [`Kind::Float`] autocast is off in it.
    ///
    /// # Errors
    /// Another kind.
    pub fn enter(device: Device, kind: Kind) -> Result<Autocast, TorchError> {
        let device_type = device_type(device);
        // `c10::ScalarType`. A scope without autocast keeps a valid kind, as torch.autocast does.
        let (enabled, dtype) = match kind {
            Kind::BFloat16 => (true, 15),
            Kind::Half => (true, 5),
            Kind::Float => (false, 15),
            other => return Err(TorchError::Other(format!("autocast to {other:?}: use BFloat16, Half or Float"))),
        };
        let mut before = ffi::Autocast::default();
        // SAFETY: the out pointer lives through the call.
        check(unsafe { ffi::ty_autocast_enter(device_type, enabled, dtype, &raw mut before) })?;
        Ok(Autocast { device_type, before, _not_send: PhantomData })
    }
}

impl Drop for Autocast {
    fn drop(&mut self) {
        // SAFETY: gives back what enter received. Restoring thread-local settings does not fail.
        unsafe { ffi::ty_autocast_leave(self.device_type, self.before) };
    }
}

#[cfg(test)]
mod tests {
    use tch::{Tensor, kind};

    use super::*;

    #[test]
    fn scopes_nest_and_end() {
        let matrix = Tensor::ones([2, 2], kind::FLOAT_CPU);
        let kinds = |matrix: &Tensor| matrix.matmul(matrix).kind();
        {
            let _outer = Autocast::enter(Device::Cpu, Kind::BFloat16).unwrap();
            assert_eq!(kinds(&matrix), Kind::BFloat16);
            {
                let _inner = Autocast::enter(Device::Cpu, Kind::Float).unwrap();
                assert_eq!(kinds(&matrix), Kind::Float);
            }
            assert_eq!(kinds(&matrix), Kind::BFloat16);
        }
        assert_eq!(kinds(&matrix), Kind::Float);
    }
}
