//! The layers of the zoo besides convolutions, as `torch.nn` computes them: batch norm, layer norm, linear; and the
//! squeeze-and-excitation block of `torchvision.ops`.

use tch::{Kind, TchError, Tensor};

use super::Folding;
use super::conv::{Conv2d, Kernel};
use super::init::Init;
use super::state::{State, is_below};
use crate::torch::{Fused, NormRanks, SyncNorm, TorchError};

/// What follows a layer, in place where torchvision does it so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Activation {
    None,
    Relu,
    Silu,
    HardSwish,
}

impl Activation {
    pub(super) fn apply(self, mut input: Tensor) -> Result<Tensor, TchError> {
        match self {
            Activation::None => Ok(input),
            Activation::Relu => input.f_relu_(),
            Activation::Silu => input.f_silu_(),
            Activation::HardSwish => input.f_hardswish_(),
        }
    }

    /// The same within a packed convolution.
    pub(super) fn fused(self) -> Fused {
        match self {
            Activation::None => Fused::Nothing,
            Activation::Relu => Fused::Relu,
            Activation::Silu => Fused::Silu,
            Activation::HardSwish => Fused::HardSwish,
        }
    }
}

/// Constants of a batch norm.
#[derive(Clone, Copy, Debug)]
pub(super) struct NormConstants {
    pub(super) epsilon: f64,
    pub(super) momentum: f64,
}

impl NormConstants {
    /// PyTorch's defaults.
    pub(super) const DEFAULT: NormConstants = NormConstants { epsilon: 1e-5, momentum: 0.1 };
    /// Those of the networks that come from TensorFlow: MobileNetV3, EfficientNet B5 to B7.
    pub(super) const TENSORFLOW: NormConstants = NormConstants { epsilon: 1e-3, momentum: 0.01 };
}

/// `torch.nn.BatchNorm2d`.
pub(super) struct BatchNorm2d {
    name: String,
    weight: Tensor,
    bias: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    batches: Tensor,
    constants: NormConstants,
    frozen: bool,
    /// The ranks over whose batches it takes its statistics; its own alone without.
    ranks: Option<NormRanks>,
}

impl BatchNorm2d {
    pub(super) fn new(state: &mut State, name: &str, features: i64, constants: NormConstants) -> BatchNorm2d {
        let options = (Kind::Float, state.device());
        let counter = (Kind::Int64, state.device());
        BatchNorm2d {
            weight: state.draw(format!("{name}.weight"), &[features], Init::Constant(1.0)),
            bias: state.draw(format!("{name}.bias"), &[features], Init::Constant(0.0)),
            running_mean: state.buffer(format!("{name}.running_mean"), Tensor::zeros([features], options)),
            running_var: state.buffer(format!("{name}.running_var"), Tensor::ones([features], options)),
            batches: state.buffer(format!("{name}.num_batches_tracked"), Tensor::zeros([0_i64; 0], counter)),
            name: name.to_owned(),
            constants,
            frozen: false,
            ranks: None,
        }
    }

    pub(super) fn freeze(&mut self, prefixes: &[String]) {
        self.frozen |= is_below(&self.name, prefixes);
    }

    pub(super) fn synchronise(&mut self, ranks: &NormRanks) {
        self.ranks = Some(ranks.clone());
    }

    /// What each channel is multiplied by in evaluation, and what is added to it then, as doubles.
    pub(super) fn factors(&self) -> Result<(Tensor, Tensor), TchError> {
        let double = |tensor: &Tensor| tensor.f_to_kind(Kind::Double);
        let deviation = double(&self.running_var)?.f_add_scalar(self.constants.epsilon)?.f_sqrt()?;
        let factor = double(&self.weight)?.f_div(&deviation)?;
        let offset = double(&self.bias)?.f_sub(&double(&self.running_mean)?.f_mul(&factor)?)?;
        Ok((factor, offset))
    }

    /// In training, one value of each channel is refused as by `torch.nn`: it has no variance, and would make the running
    /// one not a number.
    pub(super) fn forward(&self, input: &Tensor, train: bool) -> Result<Tensor, TchError> {
        let train = train && !self.frozen;
        if train {
            let shape = input.size();
            if self.ranks.is_none() && shape[0] * shape[2..].iter().product::<i64>() == 1 {
                return Err(TorchError::too_few_values(&shape).into_tch());
            }
            let _no_grad = tch::no_grad_guard();
            let _ = self.batches.shallow_clone().f_add_scalar_(1)?;
        }
        if train && let Some(ranks) = &self.ranks {
            let norm = SyncNorm {
                weight: &self.weight,
                bias: &self.bias,
                running_mean: &self.running_mean,
                running_var: &self.running_var,
                momentum: self.constants.momentum,
                epsilon: self.constants.epsilon,
            };
            return ranks.batch_norm(input, norm).map_err(TorchError::into_tch);
        }
        input.f_batch_norm(
            Some(&self.weight),
            Some(&self.bias),
            Some(&self.running_mean),
            Some(&self.running_var),
            train,
            self.constants.momentum,
            self.constants.epsilon,
            true,
        )
    }
}

/// `torch.nn.LayerNorm` over the last dimension, with the epsilon of torchvision's networks.
pub(super) struct LayerNorm {
    weight: Tensor,
    bias: Tensor,
}

impl LayerNorm {
    const EPSILON: f64 = 1e-6;

    pub(super) fn new(state: &mut State, name: &str, features: i64) -> LayerNorm {
        LayerNorm {
            weight: state.draw(format!("{name}.weight"), &[features], Init::Constant(1.0)),
            bias: state.draw(format!("{name}.bias"), &[features], Init::Constant(0.0)),
        }
    }

    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_layer_norm(self.weight.size(), Some(&self.weight), Some(&self.bias), Self::EPSILON, true)
    }

    /// Over the channels of images of shape `[batch, channels, height, width]`: torchvision's `LayerNorm2d`.
    pub(super) fn forward_channels(&self, input: &Tensor) -> Result<Tensor, TchError> {
        self.forward(&input.f_permute([0, 2, 3, 1])?)?.f_permute([0, 3, 1, 2])
    }
}

/// `torch.nn.Linear` with bias.
pub(super) struct Linear {
    weight: Tensor,
    bias: Tensor,
}

impl Linear {
    pub(super) fn new(state: &mut State, name: &str, size: (i64, i64), weight: Init, bias: Init) -> Linear {
        Linear::named(state, [format!("{name}.weight"), format!("{name}.bias")], size, weight, bias)
    }

    /// With names of its own for weight and bias.
    pub(super) fn named(
        state: &mut State,
        [weight_name, bias_name]: [String; 2],
        (inputs, outputs): (i64, i64),
        weight: Init,
        bias: Init,
    ) -> Linear {
        Linear {
            weight: state.draw(weight_name, &[outputs, inputs], weight),
            bias: state.draw(bias_name, &[outputs], bias),
        }
    }

    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        input.f_linear(&self.weight, Some(&self.bias))
    }

    /// Takes a factor of each output into the weights.
    pub(super) fn fold(&mut self, factors: &Tensor, folding: Folding) -> Result<(), TchError> {
        let factors = factors.f_to_kind(Kind::Double)?.f_flatten(0, -1)?;
        let weight = self.weight.f_to_kind(Kind::Double)?.f_mul(&factors.f_unsqueeze(1)?)?;
        let bias = self.bias.f_to_kind(Kind::Double)?.f_mul(&factors)?;
        (self.weight, self.bias) = (weight.f_to_kind(folding.kind)?, bias.f_to_kind(folding.kind)?);
        Ok(())
    }
}

/// What turns a squeeze-and-excitation block's result into factors.
#[derive(Clone, Copy, Debug)]
pub(super) enum Gate {
    Sigmoid,
    HardSigmoid,
}

/// `torchvision.ops.SqueezeExcitation` (Hu et al. 2017): each channel is scaled by what all channels' means say.
pub(super) struct SqueezeExcitation {
    fc1: Conv2d,
    fc2: Conv2d,
    activation: Activation,
    gate: Gate,
}

impl SqueezeExcitation {
    /// `channels` are squeezed to `squeezed` and back. Initialised by He.
    pub(super) fn new(
        state: &mut State,
        name: &str,
        (channels, squeezed): (i64, i64),
        activation: Activation,
        gate: Gate,
    ) -> SqueezeExcitation {
        let (down, up) = (Kernel::square(channels, squeezed, 1), Kernel::square(squeezed, channels, 1));
        SqueezeExcitation {
            fc1: Conv2d::with_bias(state, &format!("{name}.fc1"), down, down.he()),
            fc2: Conv2d::with_bias(state, &format!("{name}.fc2"), up, up.he()),
            activation,
            gate,
        }
    }

    /// Prepares both convolutions for inference.
    pub(super) fn fold(&mut self, folding: Folding) -> Result<(), TchError> {
        self.fc1.fold(None, folding)?;
        self.fc2.fold(None, folding)
    }

    pub(super) fn forward(&self, input: &Tensor) -> Result<Tensor, TchError> {
        let squeezed = self.fc1.forward_then(&input.f_adaptive_avg_pool2d([1, 1])?, self.activation)?;
        let excited = self.fc2.forward(&squeezed)?;
        let scale = match self.gate {
            Gate::Sigmoid => excited.f_sigmoid()?,
            Gate::HardSigmoid => excited.f_hardsigmoid()?,
        };
        scale.f_mul(input)
    }
}

/// The nearest multiple of 8, at least 8, and not more than a tenth below: `torchvision.models._utils._make_divisible`.
pub(super) fn multiple_of_8(channels: f64) -> i64 {
    let near = ((channels + 4.0) as i64 / 8 * 8).max(8);
    if (near as f64) < 0.9 * channels { near + 8 } else { near }
}
