//! Optimizers by libtorch's fused kernels, with torch.optim's names and state; and the learning rate's schedule.

mod schedule;

pub use schedule::Schedule;

use std::collections::BTreeMap;

use crds::optimizer::{Algorithm, OptimizerSettings};
use tch::{Kind, Tensor};

use crate::torch::{AdamStep, SgdStep, TorchError, clip_gradients, fused_adam, fused_sgd};

/// An algorithm that this version of the trainer doesn't have.
#[derive(Debug, thiserror::Error)]
#[error("the trainer has no optimizer {0:?}")]
pub struct UnknownOptimizer(pub Algorithm);

/// An optimizer over a model's trainable parameters, and its state.
pub struct Optimizer {
    settings: OptimizerSettings,
    names: Vec<String>,
    parameters: Vec<Tensor>,
    state: Slots,
    steps: u64,
}

/// The state that an algorithm keeps for each parameter, under torch.optim's names.
enum Slots {
    Sgd { momentum_buffers: Vec<Tensor> },
    Adam { exp_avgs: Vec<Tensor>, exp_avg_sqs: Vec<Tensor>, steps: Vec<Tensor> },
}

impl Slots {
    fn named(&self) -> Vec<(&'static str, &[Tensor])> {
        match self {
            Slots::Sgd { momentum_buffers } => vec![("momentum_buffer", momentum_buffers)],
            Slots::Adam { exp_avgs, exp_avg_sqs, steps } => {
                vec![("exp_avg", exp_avgs), ("exp_avg_sq", exp_avg_sqs), ("step", steps)]
            }
        }
    }
}

impl Optimizer {
    /// An optimizer that has done no step. Put the parameters on their device and in their memory format first.
    pub fn new(settings: OptimizerSettings, parameters: Vec<(String, Tensor)>) -> Result<Optimizer, UnknownOptimizer> {
        let (names, parameters): (Vec<String>, Vec<Tensor>) = parameters.into_iter().unzip();
        let zeros = || -> Vec<Tensor> { parameters.iter().map(|parameter| parameter.detach().zeros_like()).collect() };
        let state = match settings.algorithm {
            Algorithm::Sgd { momentum: 0.0, .. } => Slots::Sgd { momentum_buffers: Vec::new() },
            Algorithm::Sgd { .. } => Slots::Sgd { momentum_buffers: zeros() },
            Algorithm::Adam { .. } | Algorithm::AdamW { .. } => {
                let counters =
                    parameters.iter().map(|p| Tensor::zeros([0_i64; 0], (Kind::Float, p.device()))).collect();
                Slots::Adam { exp_avgs: zeros(), exp_avg_sqs: zeros(), steps: counters }
            }
            other => return Err(UnknownOptimizer(other)),
        };
        Ok(Optimizer { settings, names, parameters, state, steps: 0 })
    }

    /// The learning rate after the warm-up.
    pub fn base_rate(&self) -> f64 {
        self.settings.learning_rate
    }

    /// Scales all gradients so that their norm is at most `norm`.
    pub fn clip(&self, norm: f64) -> Result<(), TorchError> {
        clip_gradients(&self.parameters, norm).map(drop)
    }

    /// One step at a learning rate.
    pub fn step(&mut self, learning_rate: f64) -> Result<(), TorchError> {
        let weight_decay = self.settings.weight_decay;
        match (&self.state, self.settings.algorithm) {
            (Slots::Sgd { momentum_buffers }, Algorithm::Sgd { momentum, nesterov }) => {
                let first_step = self.steps == 0;
                let step = SgdStep { learning_rate, momentum, dampening: 0.0, weight_decay, nesterov, first_step };
                fused_sgd(&self.parameters, momentum_buffers, &step)?;
            }
            (
                Slots::Adam { exp_avgs, exp_avg_sqs, steps },
                Algorithm::Adam { beta1, beta2, epsilon } | Algorithm::AdamW { beta1, beta2, epsilon },
            ) => {
                let decoupled = matches!(self.settings.algorithm, Algorithm::AdamW { .. });
                let step = AdamStep { learning_rate, beta1, beta2, epsilon, weight_decay, decoupled };
                const NO_AMSGRAD: [Tensor; 0] = [];
                fused_adam(&self.parameters, exp_avgs, exp_avg_sqs, &NO_AMSGRAD, steps, &step)?;
            }
            _ => unreachable!("the state was made for the algorithm"),
        }
        self.steps += 1;
        Ok(())
    }

    /// A copy of the state on the host: `<parameter>.<slot>`.
    pub fn snapshot(&self) -> Vec<(String, Tensor)> {
        let mut tensors = Vec::new();
        for (slot, state) in self.state.named() {
            for (name, tensor) in self.names.iter().zip(state) {
                tensors.push((format!("{name}.{slot}"), crate::zoo::host_copy(tensor)));
            }
        }
        tensors
    }

    /// Goes on from a [`snapshot`](Self::snapshot) that was taken after `steps` steps.
    ///
    /// # Errors
    /// The name of a tensor that is missing or has another shape.
    pub fn restore(&mut self, tensors: &BTreeMap<String, Tensor>, steps: u64) -> Result<(), String> {
        let _no_grad = tch::no_grad_guard();
        for (slot, state) in self.state.named() {
            for (name, target) in self.names.iter().zip(state) {
                let name = format!("{name}.{slot}");
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
