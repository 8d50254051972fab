//! The scale of gradients of 16 bits where a GPU keeps it: it decides by itself whether a step counts and how the scale goes on, and
//! the host, which would have to wait for the gradients of each step, hears of it with the step's sums.

use tch::{Device, Kind, Tensor};

use super::Optimizer;
use super::scaler::{BACKOFF, GROWTH, GradientScaler};
use crate::torch::{ScaleChange, TorchError, update_scale};

/// A [`GradientScaler`] on a device.
pub struct DeviceScale {
    scale: Tensor,
    good_steps: Tensor,
    overflowed: Tensor,
    /// Steps that changed the weights.
    updates: Tensor,
    interval: u32,
}

impl DeviceScale {
    /// What a tensor of sums has of it: the scale, the good steps in a row, and the steps that changed the weights.
    pub const VALUES: usize = 3;

    /// The same as `scaler` on a device, after so many steps that changed the weights.
    ///
    /// # Errors
    /// Memory ran out. So below.
    pub fn new(scaler: &GradientScaler, updates: u64, device: Device) -> Result<DeviceScale, TorchError> {
        let scalar = |value: f64, kind| Tensor::f_full([0_i64; 0], value, (kind, device));
        Ok(DeviceScale {
            scale: scalar(f64::from(scaler.scale()), Kind::Float)?,
            good_steps: scalar(f64::from(scaler.good_steps()), Kind::Int)?,
            overflowed: scalar(0.0, Kind::Float)?,
            updates: scalar(updates as f64, Kind::Double)?,
            interval: scaler.interval(),
        })
    }

    /// A loss as it is to be given to the backward pass.
    pub fn scaled(&self, loss: &Tensor) -> Result<Tensor, TorchError> {
        Ok(loss.f_mul(&self.scale)?)
    }

    /// The end of a step: takes the scale out of the gradients, lets `change` make of them what it does, has the optimizer use them
    /// unless they overflowed, and goes on with the scale.
    pub fn step(
        &self,
        optimizer: &Optimizer,
        learning_rate: f64,
        change: impl FnOnce(&Optimizer) -> Result<(), TorchError>,
    ) -> Result<(), TorchError> {
        let _no_grad = tch::no_grad_guard();
        let inverse = self.scale.f_to_kind(Kind::Double)?.f_reciprocal()?.f_to_kind(Kind::Float)?;
        optimizer.unscale_there(&inverse, &self.overflowed)?;
        change(optimizer)?;
        optimizer.step_unless(&self.overflowed, learning_rate)?;
        let change = ScaleChange { growth: f64::from(GROWTH), backoff: f64::from(BACKOFF), interval: self.interval };
        update_scale(&self.scale, &self.good_steps, &self.overflowed, change)?;
        let _ = self.updates.shallow_clone().f_add_scalar_(1.0)?.f_sub_(&self.overflowed)?;
        Ok(())
    }

    /// Its [`VALUES`](Self::VALUES), in 64 bits, on the device.
    pub fn told(&self) -> Result<Tensor, TorchError> {
        let double = |tensor: &Tensor| tensor.f_to_kind(Kind::Double);
        Ok(Tensor::f_stack(&[double(&self.scale)?, double(&self.good_steps)?, double(&self.updates)?], 0)?)
    }

    /// The scaler, and the steps that changed the weights, of what was [told](Self::told).
    pub fn read(scaler: &GradientScaler, told: &[f64]) -> (GradientScaler, u64) {
        (scaler.at(told[0] as f32, told[1] as u32), told[2] as u64)
    }
}

#[cfg(test)]
mod tests {
    use crds::optimizer::{Algorithm, OptimizerSettings};

    use super::*;
    use crate::torch::{backward, clear_gradients};

    /// Weights, state, scale and steps that counted after some steps, of which two overflow.
    fn course(algorithm: Algorithm, on_device: bool) -> (Vec<f32>, Vec<(String, Tensor)>, GradientScaler, u64) {
        let weight = Tensor::from_slice(&[1.0_f32, -2.0, 3.0]).set_requires_grad(true);
        let settings = OptimizerSettings { learning_rate: 0.1, weight_decay: 0.01, algorithm };
        let mut optimizer = Optimizer::new(settings, vec![("w".to_owned(), weight.shallow_clone())]);
        let mut scaler = GradientScaler::with_interval(2);
        let there = DeviceScale::new(&scaler, 0, Device::Cpu).unwrap();
        for slope in [f64::INFINITY, 1.5, 2.5, f64::NAN, 0.5, 1.0, 2.0] {
            clear_gradients(&[&weight]).unwrap();
            let loss = (&weight * slope).sum(Kind::Float);
            if on_device {
                backward(&there.scaled(&loss).unwrap()).unwrap();
                there.step(&optimizer, 0.1, |optimizer| optimizer.clip(1.0)).unwrap();
                let told: Vec<f64> = Vec::try_from(there.told().unwrap()).unwrap();
                let (now, updates) = DeviceScale::read(&scaler, &told);
                scaler = now;
                optimizer.set_steps(updates);
            } else {
                backward(&(loss * f64::from(scaler.scale()))).unwrap();
                let overflowed = optimizer.unscale(scaler.inverse()).unwrap();
                if !overflowed {
                    optimizer.clip(1.0).unwrap();
                    optimizer.step(0.1).unwrap();
                }
                scaler.update(overflowed);
            }
        }
        (Vec::try_from(weight.detach()).unwrap(), optimizer.tensors(), scaler, optimizer.steps())
    }

    #[test]
    fn a_device_decides_on_steps_as_the_host_does() {
        for algorithm in [
            Algorithm::Sgd { momentum: 0.9, nesterov: false },
            Algorithm::Sgd { momentum: 0.0, nesterov: false },
            Algorithm::Adam { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
            Algorithm::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8 },
        ] {
            let here = course(algorithm, false);
            assert_eq!(here.3, 5, "two of seven overflowed");
            assert_eq!(course(algorithm, true), here, "{algorithm:?}");
        }
    }
}
