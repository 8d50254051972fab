//! What first weights are drawn from, as `torch.nn.init` draws them.

use std::f64::consts::SQRT_2;

use tch::{Device, Kind, Tensor};

/// A distribution of first weights.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Init {
    /// One value.
    Constant(f64),
    /// Normal around 0 with this standard deviation.
    Normal(f64),
    /// Uniform from minus to plus this.
    Uniform(f64),
    /// `trunc_normal_`: normal around 0 with this standard deviation, cut off at -2 and 2.
    TruncatedNormal(f64),
}

impl Init {
    /// He et al. 2015 for a square convolution, counted over its outputs, before a ReLU:
    /// standard deviation `sqrt(2 / (outputs * kernel²))`.
    pub(super) fn he(outputs: i64, kernel: i64) -> Init {
        Init::Normal((2.0 / (outputs * kernel * kernel) as f64).sqrt())
    }

    /// Glorot and Bengio 2010 for a matrix: uniform in ±`sqrt(6 / (inputs + outputs))`.
    pub(super) fn xavier(inputs: i64, outputs: i64) -> Init {
        Init::Uniform((6.0 / (inputs + outputs) as f64).sqrt())
    }

    /// A tensor of these values, drawn from the default generator of its device.
    pub(super) fn draw(self, size: &[i64], device: Device) -> Tensor {
        let mut tensor = Tensor::empty(size, (Kind::Float, device));
        match self {
            Init::Constant(value) => tensor.fill_(value),
            Init::Normal(deviation) => tensor.normal_(0.0, deviation),
            Init::Uniform(bound) => tensor.uniform_(-bound, bound),
            Init::TruncatedNormal(deviation) => {
                // The inverse of the cumulative distribution, over the part of it that lies within the bounds. A draw of
                // 1 would be infinite, and after the cut a weight of 2 among those of 0.02: once in 17 million.
                let bound = Tensor::from(2.0 / deviation / SQRT_2).erf().double_value(&[]);
                let bound = bound.min(1.0 - f64::from(f32::EPSILON) / 2.0);
                tensor.uniform_(-bound, bound).erfinv_().g_mul_scalar_(deviation * SQRT_2).clamp_(-2.0, 2.0)
            }
        }
    }
}
