//! What the server computes on, and why: a GPU if there is one that passes every check, otherwise the CPU. Unlike a
//! training, whose ranks must agree, a server goes on without a GPU that is broken, and says so.

use crds::contract::Cause;
use crds::infrastructure::Device as Wanted;
use crds::training::Precision;
use tch::Device;

use crate::fault::Fault;
use crate::preflight::{self, Host, Requirements};

/// What computes.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Chosen {
    /// Where tensors go.
    pub(super) device: Device,
    /// Why, where the choice was not the caller's: a sentence, or empty.
    pub(super) reason: String,
}

impl Chosen {
    /// The contract's word for it.
    pub(super) fn name(&self) -> &'static str {
        match self.device {
            Device::Cuda(_) => "Gpu",
            _ => "Cpu",
        }
    }

    /// Whether the CPU may take its place after a fault: the device failed, and was not asked for by name.
    pub(super) fn may_fall_back(&self, wanted: Wanted, cause: Cause) -> bool {
        let of_device = matches!(cause, Cause::GpuMemory | Cause::GpuUnsupported | Cause::NodeFault);
        of_device && self.device.is_cuda() && wanted == Wanted::Auto
    }

    /// The CPU, because a GPU that was there can't be used.
    pub(super) fn fallback(fault: &Fault) -> Chosen {
        tracing::warn!("the CPU computes, because the GPU can't: {fault}");
        Chosen { device: Device::Cpu, reason: fault.to_string() }
    }
}

/// Looks at the machine and chooses.
///
/// # Errors
/// A GPU is asked for and can't be used.
pub(super) fn choose(wanted: Wanted, precision: Precision) -> Result<Chosen, Fault> {
    if wanted == Wanted::Cpu {
        return Ok(Chosen { device: Device::Cpu, reason: String::new() });
    }
    let verdict = preflight::run(&Host::this_machine(), &Requirements::of_this_build(wanted, 1));
    let device = verdict.device().and_then(|device| {
        if device != Wanted::Gpu {
            return Ok(Device::Cpu);
        }
        if let Some(fault) = preflight::precision_fault(precision, &verdict.gpus) {
            return Err(fault);
        }
        crate::torch::load_cuda(&preflight::plugin())?;
        preflight::try_out(Device::Cuda(0))?;
        Ok(Device::Cuda(0))
    });
    match device {
        Ok(device) => {
            let reason = if wanted == Wanted::Auto { verdict.reason } else { String::new() };
            Ok(Chosen { device, reason })
        }
        Err(fault) if wanted == Wanted::Auto => Ok(Chosen::fallback(&fault)),
        Err(fault) => Err(fault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_takes_the_place_of_a_gpu_that_fails_and_was_not_asked_for() {
        let on = |device| Chosen { device, reason: String::new() };
        for cause in [Cause::GpuMemory, Cause::GpuUnsupported, Cause::NodeFault] {
            assert!(on(Device::Cuda(0)).may_fall_back(Wanted::Auto, cause), "{cause:?}");
        }
        assert!(!on(Device::Cuda(0)).may_fall_back(Wanted::Gpu, Cause::GpuMemory));
        assert!(!on(Device::Cuda(0)).may_fall_back(Wanted::Auto, Cause::BadData));
        assert!(!on(Device::Cpu).may_fall_back(Wanted::Auto, Cause::GpuMemory));
    }

    #[test]
    fn without_a_gpu_the_cpu_computes_and_the_reason_is_told() {
        let asked_for = Chosen { device: Device::Cpu, reason: String::new() };
        assert_eq!(choose(Wanted::Cpu, Precision::Float32).unwrap(), asked_for);
        let chosen = choose(Wanted::Auto, Precision::Float32).unwrap();
        assert!(!chosen.reason.is_empty());
        if chosen.device.is_cuda() {
            return;
        }
        assert_eq!(choose(Wanted::Gpu, Precision::Float32).unwrap_err().cause(), Cause::GpuUnsupported);
    }
}
