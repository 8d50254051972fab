//! What the server computes on, and why: a GPU if there is one that passes every check, otherwise the CPU. Unlike a
//! training, whose ranks must agree, a server goes on without a GPU that is broken, and says so.

use crds::contract::Cause;
use crds::infrastructure::Device as Wanted;
use crds::training::Precision;
use tch::Device;

use crate::fault::{Fault, guard};
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

    /// What is said of a server whose models do not all compute on the same: what was chosen, and who is elsewhere.
    pub(super) fn with_exceptions(self, models: &[(&str, &Chosen)]) -> Chosen {
        let first = models.first().map(|(_, chosen)| (*chosen).clone());
        if let Some(first) = first.filter(|first| models.iter().all(|(_, chosen)| chosen.device == first.device)) {
            return first;
        }
        let others = models.iter().filter(|(_, chosen)| chosen.device != self.device);
        let others = others.map(|(name, chosen)| format!("{name} computes on {}: {}", chosen.name(), chosen.reason));
        let reason = std::iter::once(self.reason).filter(|reason| !reason.is_empty()).chain(others);
        Chosen { device: self.device, reason: reason.collect::<Vec<_>>().join("; ") }
    }

    /// Whether the CPU may take its place after a fault: the device failed, and was not asked for by name.
    pub(super) fn may_fall_back(&self, wanted: Wanted, cause: Cause) -> bool {
        let of_device = matches!(cause, Cause::GpuMemory | Cause::GpuUnsupported | Cause::NodeFault);
        of_device && self.device.is_cuda() && wanted == Wanted::Auto
    }

    /// Does what needs a device: on this one or, if that fails and another may take its place, on the CPU. Many functions of tch
    /// panic with what libtorch throws, such as that memory ran out: that counts as what it is.
    pub(super) fn carry<T>(&self, wanted: Wanted, work: impl Fn(&Chosen) -> Result<T, Fault>) -> Result<T, Fault> {
        match guard(|| work(self)) {
            Err(fault) if self.may_fall_back(wanted, fault.cause()) => guard(|| work(&Chosen::fallback(&fault))),
            done => done,
        }
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
        let device = crate::torch::use_gpu(&preflight::plugin(), 0)?;
        preflight::try_out(device)?;
        Ok(device)
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
    use crds::contract::env;
    use tch::TchError;

    use super::*;
    use crate::serve::settings::tests::read;

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

    /// As tch's functions do it that give no `Result`.
    fn unwrapped(thrown: Result<u8, TchError>) -> Result<u8, Fault> {
        Ok(thrown.unwrap())
    }

    #[test]
    fn a_model_that_a_gpu_has_no_memory_for_is_carried_by_the_cpu_however_libtorch_says_so() {
        let gpu = Chosen { device: Device::Cuda(0), reason: String::new() };
        let too_large = |chosen: &Chosen| match chosen.device {
            Device::Cpu => Ok((7, chosen.reason.clone())),
            _ => unwrapped(Err(TchError::Torch("CUDA out of memory. Tried to allocate 9 GiB".to_owned())))
                .map(|value| (value, String::new())),
        };
        let (value, reason) = gpu.carry(Wanted::Auto, too_large).unwrap();
        assert_eq!(value, 7);
        assert!(reason.starts_with("GPU memory ran out: CUDA out of memory"), "{reason}");
        assert_eq!(gpu.carry(Wanted::Gpu, too_large).unwrap_err().cause(), Cause::GpuMemory, "it was asked for");
        // More than a process can address: the CPU has no other to take its place.
        let cpu = Chosen { device: Device::Cpu, reason: String::new() };
        let none = cpu.carry(Wanted::Auto, |_| Ok(tch::Tensor::zeros([1 << 48], tch::kind::FLOAT_CPU)));
        assert_eq!(none.unwrap_err().cause(), Cause::HostMemory);
        let neither = gpu.carry(Wanted::Auto, |chosen| match chosen.device {
            Device::Cpu => unwrapped(Err(TchError::Torch("DefaultCPUAllocator: can't allocate memory".to_owned()))),
            _ => Err(Fault::new(Cause::NodeFault, "an Xid")),
        });
        assert_eq!(neither.unwrap_err().cause(), Cause::HostMemory);
    }

    #[test]
    fn a_model_that_fell_back_says_nothing_of_the_others() {
        let gpu = Chosen { device: Device::Cuda(0), reason: String::new() };
        let cpu = Chosen { device: Device::Cpu, reason: "GPU memory ran out".to_owned() };
        let told = |models: &[(&str, &Chosen)]| gpu.clone().with_exceptions(models);
        assert_eq!(told(&[]), gpu);
        assert_eq!(told(&[("a", &gpu), ("b", &gpu)]), gpu);
        assert_eq!(told(&[("a", &cpu)]), cpu);
        let reason = "b computes on Cpu: GPU memory ran out".to_owned();
        assert_eq!(told(&[("a", &gpu), ("b", &cpu)]), Chosen { device: Device::Cuda(0), reason });
    }

    /// What the operator assigns to a pod that it has placed on a GPU for an endpoint that asks for none: a test of the
    /// operator compares the same file with what it makes.
    #[test]
    fn a_pod_that_was_placed_on_a_gpu_may_fall_back_unless_the_gpu_was_asked_for() {
        let assigned = include_str!("../../../crds/tests/endpoint-on-a-gpu.json");
        let asked_for = assigned.replace("\"Auto\"", "\"Gpu\"");
        for (assignment, falls_back) in [(assigned, true), (&asked_for, false)] {
            let settings = read(&[], &[(env::ASSIGNMENT, assignment)]).unwrap();
            let chosen = Chosen { device: Device::Cuda(0), reason: String::new() };
            assert_eq!(chosen.may_fall_back(settings.device, Cause::GpuMemory), falls_back, "{assignment}");
        }
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
