//! Optimizers with torch.optim's numbers, names and state, by libtorch's fused kernels where it has them; the learning
//! rate's schedule; the weights' moving average; the scale of gradients of 16 bits.

mod device_scale;
mod ema;
pub(crate) mod exact;
mod scaler;
mod schedule;

pub use device_scale::DeviceScale;
pub use ema::Ema;
pub use scaler::GradientScaler;
pub use schedule::{Plateau, Schedule};

use std::collections::BTreeMap;

use crds::optimizer::{Algorithm, OptimizerSettings};
use tch::{Device, Kind, Tensor};

use crate::torch::{self, AdadeltaStep, AdagradStep, AdamStep, OnDevice, RmsPropStep, SgdStep, TorchError};

/// An optimizer over a model's trainable parameters, and its state.
pub struct Optimizer {
    settings: OptimizerSettings,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    state: Vec<Slot>,
    steps: u64,
    /// The learning rate, where the device is to know it: a float scalar.
    rate: Option<Tensor>,
}

/// What an algorithm keeps for each parameter under one name.
struct Slot {
    /// The name that torch.optim has for it.
    name: &'static str,
    /// One for each parameter.
    tensors: Vec<Tensor>,
}

/// What a slot's tensors are like.
#[derive(Clone, Copy)]
enum Like {
    /// Zeros of the shape, kind and memory format of the parameter.
    Parameter,
    /// A count of steps beside the parameter, for a fused kernel.
    Counter,
    /// A count of steps on the host.
    HostCounter,
}

/// The slots of an algorithm, in the order in which [`Optimizer::step`] takes them.
fn slots(algorithm: Algorithm) -> &'static [(&'static str, Like)] {
    use Like::{Counter, HostCounter, Parameter};
    match algorithm {
        Algorithm::Sgd { momentum: 0.0, .. } => &[],
        Algorithm::Sgd { .. } => &[("momentum_buffer", Parameter)],
        Algorithm::Adam { .. } | Algorithm::AdamW { .. } => {
            &[("exp_avg", Parameter), ("exp_avg_sq", Parameter), ("step", Counter)]
        }
        Algorithm::RmsProp { momentum: 0.0, .. } => &[("square_avg", Parameter), ("step", HostCounter)],
        Algorithm::RmsProp { .. } => {
            &[("square_avg", Parameter), ("step", HostCounter), ("momentum_buffer", Parameter)]
        }
        Algorithm::Adamax { .. } => &[("exp_avg", Parameter), ("exp_inf", Parameter), ("step", HostCounter)],
        Algorithm::Adagrad { .. } => &[("sum", Parameter), ("step", Counter)],
        Algorithm::Adadelta { .. } => &[("square_avg", Parameter), ("acc_delta", Parameter), ("step", HostCounter)],
    }
}

/// Whether a device can make the steps of an algorithm by itself, with a learning rate that it keeps: libtorch's fused steps of these
/// also count there.
pub(crate) fn is_told_by_device(algorithm: &Algorithm) -> bool {
    matches!(algorithm, Algorithm::Sgd { .. } | Algorithm::Adam { .. } | Algorithm::AdamW { .. })
}

impl Optimizer {
    /// An optimizer that has done no step. Put the parameters on their device and in their memory format first.
    pub fn new(settings: OptimizerSettings, parameters: Vec<(String, Tensor)>) -> Optimizer {
        let (names, parameters): (Vec<String>, Vec<Tensor>) = parameters.into_iter().unzip();
        let fresh = |parameter: &Tensor, like| match like {
            Like::Parameter => parameter.detach().zeros_like(),
            Like::Counter => Tensor::zeros([0_i64; 0], (Kind::Float, parameter.device())),
            Like::HostCounter => Tensor::zeros([0_i64; 0], (Kind::Float, Device::Cpu)),
        };
        let state = slots(settings.algorithm)
            .iter()
            .map(|&(name, like)| {
                let tensors = parameters.iter().map(|parameter| fresh(parameter, like)).collect();
                Slot { name, tensors }
            })
            .collect();
        Optimizer { settings, names, parameters, state, steps: 0, rate: None }
    }

    /// The learning rate after the warm-up.
    pub fn base_rate(&self) -> f64 {
        self.settings.learning_rate
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// Scales all gradients so that their norm is at most `norm`.
    pub fn clip(&self, norm: f64) -> Result<(), TorchError> {
        torch::clip_gradients(&self.parameters, norm).map(drop)
    }

    /// Multiplies all gradients by `inverse`; tells whether one of them was infinite or not a number.
    pub fn unscale(&self, inverse: f32) -> Result<bool, TorchError> {
        torch::unscale_gradients(&self.parameters, inverse)
    }

    /// Keeps the learning rate on the parameters' device from now on, as a number of 32 bits, so that a step is the same work for
    /// each rate. SGD, Adam and AdamW alone know it from there.
    ///
    /// # Errors
    /// Memory ran out. So below.
    pub fn keep_rate_on_device(&mut self) -> Result<(), TorchError> {
        let Some(parameter) = self.parameters.first() else { return Ok(()) };
        self.rate = Some(Tensor::f_zeros([0_i64; 0], (Kind::Float, parameter.device()))?);
        Ok(())
    }

    /// Whether a device can leave a step out on its own.
    pub(crate) fn may_be_told_by_device(&self) -> bool {
        is_told_by_device(&self.settings.algorithm)
    }

    /// One step at a learning rate.
    pub fn step(&mut self, learning_rate: f64) -> Result<(), TorchError> {
        self.set_rate(learning_rate)?;
        self.apply(learning_rate, None)?;
        self.count();
        Ok(())
    }

    /// The same, which the device leaves out where it finds gradients `overflowed`: the host hears of it [later](Self::set_steps).
    pub(crate) fn step_unless(&self, overflowed: &Tensor, learning_rate: f64) -> Result<(), TorchError> {
        self.set_rate(learning_rate)?;
        self.apply(learning_rate, Some(overflowed))
    }

    /// Takes note of how many steps the device has made.
    pub(crate) fn set_steps(&mut self, steps: u64) {
        self.steps = steps;
    }

    /// What [`unscale`](Self::unscale) does, by a device on its own.
    pub(crate) fn unscale_there(&self, inverse: &Tensor, overflowed: &Tensor) -> Result<(), TorchError> {
        torch::unscale_gradients_there(&self.parameters, inverse, overflowed)
    }

    /// The learning rate of the next steps, for a device that knows it by itself.
    pub(crate) fn set_rate(&self, learning_rate: f64) -> Result<(), TorchError> {
        if let Some(rate) = &self.rate {
            let _ = rate.shallow_clone().f_fill_(learning_rate)?;
        }
        Ok(())
    }

    /// Takes note of a step that the device has made by itself.
    pub(crate) fn count(&mut self) {
        self.steps += 1;
    }

    /// What a step does with the parameters and the state, but for what the host keeps of it.
    pub(crate) fn apply(&self, learning_rate: f64, overflowed: Option<&Tensor>) -> Result<(), TorchError> {
        let on_device = OnDevice { learning_rate: self.rate.as_ref(), overflowed };
        let weight_decay = self.settings.weight_decay;
        let parameters = &self.parameters;
        const NONE: &[Tensor] = &[];
        // The slots lie as in `slots`; what an algorithm doesn't keep is empty.
        let slot = |index: usize| self.state.get(index).map_or(NONE, |slot| slot.tensors.as_slice());
        let (first, second, third) = (slot(0), slot(1), slot(2));
        match self.settings.algorithm {
            Algorithm::Sgd { momentum, nesterov } => {
                // Momentum begins with zeros: where the host does not know whether this is the first step, that is as good.
                let first_step = self.steps == 0 && overflowed.is_none();
                let step = SgdStep { learning_rate, momentum, dampening: 0.0, weight_decay, nesterov, first_step };
                torch::fused_sgd(parameters, first, &step, on_device)?;
            }
            Algorithm::Adam { beta1, beta2, epsilon } | Algorithm::AdamW { beta1, beta2, epsilon } => {
                let decoupled = matches!(self.settings.algorithm, Algorithm::AdamW { .. });
                let step = AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled };
                torch::fused_adam(parameters, first, second, NONE, third, &step, on_device)?;
            }
            Algorithm::RmsProp { alpha, epsilon, momentum } => {
                let step = RmsPropStep { learning_rate, alpha, epsilon, weight_decay, momentum };
                torch::rmsprop(parameters, first, third, second, &step)?;
            }
            Algorithm::Adamax { beta1, beta2, epsilon } => {
                let step = AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled: false };
                torch::adamax(parameters, first, second, third, &step)?;
            }
            Algorithm::Adagrad { learning_rate_decay, epsilon } => {
                let step = AdagradStep { learning_rate, learning_rate_decay, epsilon, weight_decay };
                torch::fused_adagrad(parameters, first, second, &step)?;
            }
            Algorithm::Adadelta { rho, epsilon } => {
                let step = AdadeltaStep { learning_rate, rho, epsilon, weight_decay };
                torch::adadelta(parameters, first, second, third, &step)?;
            }
        }
        Ok(())
    }

    /// The state by name, `<parameter>.<slot>`, where it is.
    pub fn tensors(&self) -> Vec<(String, Tensor)> {
        let named = |slot: &Slot| -> Vec<(String, Tensor)> {
            let named = self.names.iter().zip(&slot.tensors);
            named.map(|(name, tensor)| (format!("{name}.{}", slot.name), tensor.shallow_clone())).collect()
        };
        self.state.iter().flat_map(named).collect()
    }

    /// Goes on from a copy of its [`tensors`](Self::tensors) that was taken after `steps` steps.
    ///
    /// # Errors
    /// The name of a tensor that is missing or has another shape.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>, steps: u64) -> Result<(), String> {
        let _no_grad = tch::no_grad_guard();
        for slot in &self.state {
            for (name, target) in self.names.iter().zip(&slot.tensors) {
                let name = format!("{name}.{}", slot.name);
                match tensors.get(&name) {
                    Some(source) if source.size() == target.size() => target.shallow_clone().copy_(source),
                    _ => return Err(name),
                }
            }
        }
        self.steps = steps;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tch::kind::FLOAT_CPU;

    use super::*;

    #[test]
    fn a_rate_that_the_device_knows_is_that_of_the_step_in_32_bits() {
        for algorithm in [
            Algorithm::Sgd { momentum: 0.9, nesterov: true },
            Algorithm::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
            Algorithm::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
        ] {
            let after = |on_device: bool| {
                let weight = Tensor::arange(8, FLOAT_CPU).set_requires_grad(true);
                let settings = OptimizerSettings { learning_rate: 0.1, weight_decay: 0.01, algorithm };
                let mut optimizer = Optimizer::new(settings, vec![("w".to_owned(), weight.shallow_clone())]);
                if on_device {
                    optimizer.keep_rate_on_device().unwrap();
                }
                for rate in [0.1_f32, 0.07, 0.013] {
                    torch::clear_gradients(&[&weight]).unwrap();
                    torch::backward(&(&weight * &weight).sum(Kind::Float)).unwrap();
                    optimizer.step(f64::from(rate)).unwrap();
                }
                (Vec::<f32>::try_from(weight.detach()).unwrap(), optimizer.tensors(), optimizer.steps())
            };
            assert_eq!(after(true), after(false), "{algorithm:?}");
        }
    }
}
